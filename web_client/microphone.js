// The microphone's part of the page: which one, whether it is heard, and push-to-talk.

const typing = (element) => element.closest?.("input:not([type=radio], [type=checkbox]), textarea, select, dialog");
const pressing = (element) => element.closest?.("button, a, input, summary");

export class Microphone {
  #session;
  #select;
  #mute;
  #push;
  #talk;
  #muted = false;
  #held = false; // while push-to-talk is pressed

  /** `select` lists the microphones, `mute` is a button, `push` the switch of push-to-talk and `talk` its button. */
  constructor({ select, mute, push, talk }, session) {
    [this.#session, this.#select, this.#mute, this.#push, this.#talk] = [session, select, mute, push, talk];
    select.addEventListener("change", () => {
      if (session.microphone) session.useMicrophone(select.value).catch((error) => session.fail(error));
    });
    mute.addEventListener("click", () => {
      this.#muted = !this.#muted;
      this.show();
    });
    push.addEventListener("change", () => this.#hold(false));
    talk.addEventListener("pointerdown", (event) => {
      talk.setPointerCapture(event.pointerId);
      this.#hold(true);
    });
    for (const end of ["pointerup", "pointercancel", "blur"]) talk.addEventListener(end, () => this.#hold(false));
    talk.addEventListener("contextmenu", (event) => event.preventDefault()); // what a long press is on a phone
    addEventListener("keydown", (event) => this.#key(event, true));
    addEventListener("keyup", (event) => this.#key(event, false));
    addEventListener("blur", () => this.#hold(false));
    navigator.mediaDevices?.addEventListener("devicechange", () => this.list());
    if (navigator.mediaDevices) this.list();
  }

  /** The one that is chosen; "" is the system's choice. */
  get chosen() {
    return this.#select.value;
  }

  /** Why nothing can be heard, where the person has seen to that. */
  get closed() {
    if (this.#push.checked) return this.#held ? "" : "Hold the button, or the space bar, while you talk.";
    return this.#muted ? "Your microphone is muted." : "";
  }

  async list() {
    const devices = await navigator.mediaDevices.enumerateDevices();
    const named = devices.filter((device) => device.kind === "audioinput" && device.label);
    if (!named.length) return; // no permission yet: the list would be anonymous
    const current = this.#session.microphone?.getAudioTracks()[0].getSettings().deviceId ?? this.#select.value;
    this.#select.replaceChildren(...named.map((device) => new Option(device.label, device.deviceId)));
    this.#select.value = named.some((device) => device.deviceId === current) ? current : named[0].deviceId;
    this.#select.disabled = false;
  }

  /** Bring buttons and session to what holds now. */
  show() {
    const { microphone } = this.#session;
    this.#session.mute(this.#push.checked ? !this.#held : this.#muted);
    this.#mute.disabled = !microphone || this.#push.checked;
    this.#mute.setAttribute("aria-pressed", this.#muted);
    this.#talk.hidden = !microphone || !this.#push.checked;
    this.#talk.classList.toggle("held", this.#held);
  }

  #hold(held) {
    this.#held = held && this.#push.checked;
    this.show();
  }

  /** The space bar, wherever it has nothing else to do. */
  #key(event, down) {
    if (event.key !== " " || !this.#push.checked || this.#talk.hidden) return;
    const own = event.target === this.#talk;
    if (!own && (typing(event.target) || pressing(event.target))) return;
    event.preventDefault(); // it would scroll the page
    if (!event.repeat) this.#hold(down);
  }
}
