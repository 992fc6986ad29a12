// Who speaks: the choice of it, and its agreement with the server in the middle of a call.

export class Modes extends EventTarget {
  #radios;
  #channel;
  #view;
  #held = ""; // what the server is known to hold, "" where there is no call

  /** `group` holds the radio buttons; in the presenter's view the choice is made. Event: "change" (read `wanted`). */
  constructor(group, view, channel) {
    super();
    this.#radios = [...group.querySelectorAll("input")];
    [this.#view, this.#channel] = [view, channel];
    group.addEventListener("change", () => this.#changed());
    view.addEventListener("change", () => this.#changed());
    channel.addEventListener("state", ({ detail }) => {
      this.#held = detail.mode ?? "";
      if (this.#held) this.agree();
    });
    channel.addEventListener("mode", ({ detail }) => (this.#held = detail.mode));
    channel.addEventListener("error", () => this.#held && this.wanted !== this.#held && this.choose(this.#held));
  }

  get wanted() {
    return this.#view.name === "presenter" ? "speak" : this.#radios.find((radio) => radio.checked).value;
  }

  /** Bring the server to what is wanted; it says no by an error. */
  agree() {
    if (this.#held && this.wanted !== this.#held) this.#channel.send("mode", { mode: this.wanted });
  }

  /** The call is over, or lost. */
  forget() {
    this.#held = "";
  }

  /** Go back to what holds. */
  choose(mode) {
    for (const radio of this.#radios) radio.checked = radio.value === mode;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
