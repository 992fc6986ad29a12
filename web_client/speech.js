// Texts that the face speaks: typed ones here, lines of a script by the presenter's part.

export class Speech extends EventTarget {
  #form;
  #words;
  #note;
  #interrupt;
  #session;
  #channel;
  #live = false;

  constructor({ form, words, note, interrupt }, session, channel) {
    super();
    [this.#form, this.#words, this.#note, this.#interrupt] = [form, words, note, interrupt];
    [this.#session, this.#channel] = [session, channel];
    interrupt.addEventListener("click", () => this.stop());
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const text = words.value.trim();
      if (!text || !this.#live) return;
      words.value = "";
      if (!(await this.say(text))) words.value ||= text; // nothing typed is lost
    });
  }

  /** Whether there is a call that can be told something. */
  attach(live) {
    this.#live = live;
    for (const part of [...this.#form.elements, this.#interrupt]) part.disabled = !live;
    if (!live) this.#tell("");
  }

  /** Let the face say a text when all before it is said: its number, or null where the server says no. */
  async say(text) {
    try {
      const body = JSON.stringify({ text });
      const answer = await this.#session.request("/speech", "POST", { body, type: "application/json" });
      this.#tell("");
      return (await answer.json()).id;
    } catch (error) {
      this.#tell(error.detail || "The text did not reach the server. See whether you are online, then try again.");
      return null;
    }
  }

  /** Let the face be silent, and forget what waits. */
  stop() {
    if (this.#live && !this.#channel.send("interrupt")) this.#session.request("/speech", "DELETE").catch(() => {});
  }

  #tell(text) {
    if (this.#note.textContent !== text) this.#note.textContent = text;
  }
}
