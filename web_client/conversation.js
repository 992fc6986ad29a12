// What goes on in a call, as its channel tells it: whose turn it is, what is said, and what went wrong.

const TURNS = { idle: "Idle", listening: "Listening", thinking: "Thinking", speaking: "Speaking" };
const STAYS = 6000; // ms that a finished sentence can be read
const TOLD = 20000; // ms that a trouble is shown

export class Conversation {
  #turn;
  #subtitles;
  #trouble;
  #lines = new Map(); // by who says it: {line, timer}
  #timer = 0;

  /** `turn` is a badge, `subtitles` lies over the picture, `trouble` is an alert; `channel` tells all of it. */
  constructor({ turn, subtitles, trouble }, channel) {
    [this.#turn, this.#subtitles, this.#trouble] = [turn, subtitles, trouble];
    channel.addEventListener("turn", ({ detail }) => this.#show(detail.state));
    channel.addEventListener("subtitle", ({ detail }) => this.#write(detail));
    channel.addEventListener("spoken", ({ detail }) => detail.interrupted && this.#clear("avatar"));
    for (const kind of ["trouble", "error"]) channel.addEventListener(kind, ({ detail }) => this.tell(detail.detail));
  }

  /** Nobody is in the call any more. */
  end() {
    this.#show(null);
    for (const who of [...this.#lines.keys()]) this.#clear(who);
  }

  /** Say in words what is wrong; "" takes it back. */
  tell(text) {
    clearTimeout(this.#timer);
    this.#trouble.textContent = text;
    if (text) this.#timer = setTimeout(() => this.tell(""), TOLD);
  }

  #show(state) {
    this.#turn.hidden = !TURNS[state];
    this.#turn.textContent = TURNS[state] ?? "";
    this.#turn.dataset.turn = state ?? "";
  }

  #write({ who, text, final }) {
    if (!this.#lines.has(who)) this.#add(who);
    const said = this.#lines.get(who);
    clearTimeout(said.timer);
    if (said.line.lastChild.textContent !== text) said.line.lastChild.textContent = text;
    if (final) said.timer = setTimeout(() => this.#clear(who), STAYS);
  }

  #add(who) {
    const line = document.createElement("p");
    const name = Object.assign(document.createElement("span"), { textContent: who === "user" ? "You: " : "" });
    line.className = who;
    line.append(name, document.createElement("span"));
    // the avatar's line stays below the user's
    if (who === "user") this.#subtitles.prepend(line);
    else this.#subtitles.append(line);
    this.#lines.set(who, { line, timer: 0 });
  }

  #clear(who) {
    const said = this.#lines.get(who);
    if (!said) return;
    clearTimeout(said.timer);
    said.line.remove();
    this.#lines.delete(who);
  }
}
