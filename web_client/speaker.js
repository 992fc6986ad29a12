// Sound files that the face speaks in a call, in place of the microphone.

const SENDING = 60000; // ms that a file may take on its way

export class Speaker {
  #tile;
  #file;
  #stop;
  #note;
  #call = null; // the Session while its call is up
  #busy = false; // sending a file, or speaking one

  /** `tile` holds `file`, an input; `stop` is the button that takes its place while a file is spoken. */
  constructor({ tile, file, stop, note }) {
    [this.#tile, this.#file, this.#stop, this.#note] = [tile, file, stop, note];
    file.addEventListener("change", () => this.add(file.files[0]));
    stop.addEventListener("click", () => this.#call?.request("/speech", "DELETE").catch(() => {}));
  }

  /** Follow a call that is up, or none. */
  attach(session) {
    if (session === this.#call) return;
    this.#call = session;
    this.#file.disabled = !session;
    this.#show(false);
    this.#tell("");
  }

  /** What the server's figures say about the files. */
  follow(figures) {
    if (figures) {
      this.#show(true);
      const more = figures.waiting > 1 ? `, ${figures.waiting - 1} more to come` : "";
      this.#tell(`Speaking in place of the microphone, ${Math.ceil(figures.seconds_left)} s left${more}`);
    } else if (!this.#stop.hidden) {
      this.#show(false);
      this.#tell("");
    }
  }

  /** Send a sound file; it is spoken after those sent before it, or the server says why not. */
  async add(file) {
    if (!file) return;
    if (!this.#call) {
      this.#tell("Start a call first; then the face can speak the file.", true);
      return;
    }
    if (this.#busy) return;
    this.#busy = true;
    this.#tell("Sending the file …");
    try {
      const type = file.type.startsWith("audio/") ? file.type : "application/octet-stream";
      await this.#call.request("/speech", "POST", { body: file, type, signal: AbortSignal.timeout(SENDING) });
      this.#show(true);
      this.#tell("Speaking in place of the microphone");
    } catch (error) {
      this.#tell(error.detail || "The file could not be sent.", true);
    }
    this.#busy = false;
    this.#file.value = ""; // so that the same file can be chosen again
  }

  #show(speaking) {
    this.#tile.hidden = speaking;
    this.#stop.hidden = !speaking;
  }

  #tell(text, refused = false) {
    if (this.#note.textContent !== text) this.#note.textContent = text;
    this.#note.classList.toggle("refused", refused);
  }
}
