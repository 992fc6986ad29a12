// The button that records a call, and the link to what was recorded.

import { ask } from "./ask.js";

const WHY = {
  "disk full": "The server's disk is full, so the recording ended. The call goes on.",
  "time limit": "The recording is as long as the server lets it be, and ended.",
  "size limit": "The recording is as large as the server lets it be, and ended.",
  "machine too slow": "The server was too busy to go on recording. The call goes on.",
  failed: "The server could not go on recording. The call goes on.",
};
const KEPT = "Only you can fetch it, until the server deletes it.";
const EMPTY = "Nothing was recorded yet.";

export class Recorder {
  #button;
  #note;
  #link;
  #call = null; // the Session while its call is up
  #place = null; // address of the latest recording
  #running = false;

  /** `note` says what happens, `link` leads to the file. */
  constructor(button, note, link) {
    [this.#button, this.#note, this.#link] = [button, note, link];
    button.addEventListener("click", () => (this.#running ? this.#stop() : this.#begin()));
  }

  /** Follow a call that is up, or none; one that is over has ended its recording. */
  attach(session) {
    if (!session && this.#call && this.#running) this.#over({ seconds: 1 });
    this.#call = session;
    this.#button.disabled = !session;
  }

  /** What the server's figures say about the recording. */
  follow(figures) {
    if (!this.#running || !figures) return;
    if (figures.state === "ended") this.#over(figures);
    else this.#tell(`Recording, ${clock(figures.seconds)}`);
  }

  async #begin() {
    this.#button.disabled = true;
    this.#link.hidden = true;
    try {
      const answer = await this.#call.request("/recording", "POST");
      this.#place = new URL(answer.headers.get("Location"), answer.url).href;
      this.#show(true);
      this.#tell("Recording");
    } catch (error) {
      this.#tell(error.detail || "The recording could not begin.", true);
    }
    this.#button.disabled = !this.#call;
  }

  async #stop() {
    this.#button.disabled = true;
    const figures = await this.#call
      .request("/recording", "DELETE")
      .then((answer) => answer.json())
      .catch(() => ({ seconds: 1 }));
    this.#over(figures);
    this.#button.disabled = !this.#call;
  }

  #over({ seconds, reason }) {
    this.#show(false);
    this.#tell([WHY[reason], seconds ? KEPT : EMPTY].filter(Boolean).join(" "), reason in WHY);
    this.#link.href = this.#place;
    this.#link.hidden = !seconds;
  }

  #show(running) {
    this.#running = running;
    this.#button.setAttribute("aria-pressed", running);
    this.#button.querySelector("span").textContent = running ? "Stop recording" : "Record";
  }

  #tell(text, refused = false) {
    if (this.#note.textContent !== text) this.#note.textContent = text;
    this.#note.classList.toggle("refused", refused);
  }
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
