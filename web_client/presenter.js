// The presenter's script: lines that the face speaks one by one, and how far it has come.

const KEPT = "script"; // in the browser, until its tab is closed
const STATES = { queued: "waits", speaking: "now", spoken: "spoken", interrupted: "interrupted" };
const elsewhere = (element) => element.closest?.("input, textarea, select, dialog, summary");

export class Presenter {
  #parts;
  #speech;
  #lines = []; // {text, state, id}; `state` is "" or one of STATES
  #early = new Map(); // states by number, told before the answer that gives a line its number
  #next = 0;
  #editing = true;
  #live = false;
  #shown = false; // the page shows this view

  /** `parts`: {editor, lines, list, now, next, edit}; `speech` says texts, `channel` tells what became of them. */
  constructor(parts, speech, channel) {
    [this.#parts, this.#speech] = [parts, speech];
    parts.lines.value = sessionStorage.getItem(KEPT) ?? "";
    parts.lines.addEventListener("input", () => {
      sessionStorage.setItem(KEPT, parts.lines.value);
      this.#show();
    });
    parts.edit.addEventListener("click", () => this.#edit(!this.#editing));
    parts.next.addEventListener("click", () => this.#speak());
    channel.addEventListener("speech", ({ detail }) => detail.state === "begun" && this.#mark(detail.id, "speaking"));
    channel.addEventListener("subtitle", ({ detail }) => detail.who === "avatar" && this.#say(detail.text));
    channel.addEventListener("spoken", ({ detail }) => this.#spoken(detail));
    addEventListener("keydown", (event) => this.#key(event));
    this.#show();
  }

  /** Whether there is a call, and whether this view is shown. */
  attach(live, shown) {
    if (live && !this.#live && shown && this.#parts.lines.value.trim()) this.#edit(false);
    if (!live) this.#parts.now.textContent = "";
    [this.#live, this.#shown] = [live, shown];
    this.#show();
  }

  /** A new call counts from one again. */
  forget() {
    for (const line of this.#lines) line.id = null;
    this.#early.clear();
  }

  #edit(editing) {
    this.#editing = editing;
    if (!editing) {
      const texts = this.#parts.lines.value.split("\n").map((line) => line.trim());
      const before = this.#lines;
      this.#lines = texts.filter(Boolean).map((text, at) => (before[at]?.text === text ? before[at] : { text, state: "" }));
      this.#next = Math.min(this.#next, this.#lines.length);
    }
    this.#show();
    if (editing) this.#parts.lines.focus();
  }

  async #speak() {
    if (!this.#live) return;
    if (this.#editing) this.#edit(false);
    const line = this.#lines[this.#next];
    if (!line) return;
    this.#next += 1;
    Object.assign(line, { state: "queued", id: null });
    this.#show();
    line.id = await this.#speech.say(line.text);
    if (line.id === null) {
      line.state = "";
      this.#next = this.#lines.indexOf(line);
    }
    line.state = this.#early.get(line.id) ?? line.state;
    this.#show();
  }

  #mark(id, state) {
    const line = this.#lines.find((each) => each.id === id);
    if (line) line.state = state;
    else this.#early.set(id, state);
    this.#show();
  }

  #say(text) {
    this.#parts.now.textContent = `Now: ${text}`;
  }

  #spoken({ id, said, interrupted }) {
    // Lines that only waited are interrupted too, after the one that was heard.
    if (said || !interrupted) this.#parts.now.textContent = interrupted ? `Interrupted after: ${said}` : "";
    this.#mark(id, interrupted ? "interrupted" : "spoken");
  }

  #choose(at) {
    this.#next = Math.max(0, Math.min(at, this.#lines.length));
    this.#show();
  }

  /** What a presenter's clicker sends, and the arrows. */
  #key(event) {
    if (!this.#shown || !this.#live || event.ctrlKey || event.altKey || event.metaKey || elsewhere(event.target)) return;
    const act = {
      PageDown: () => this.#speak(),
      ArrowRight: () => this.#speak(),
      PageUp: () => this.#choose(this.#next - 1),
      ArrowLeft: () => this.#choose(this.#next - 1),
      Escape: () => this.#speech.stop(),
    }[event.key];
    if (!act || event.repeat) return;
    event.preventDefault();
    act();
  }

  #show() {
    const { editor, lines, list, next, edit } = this.#parts;
    editor.hidden = !this.#editing;
    list.hidden = this.#editing;
    edit.textContent = this.#editing ? "Show the lines" : "Edit the script";
    edit.disabled = this.#editing && !lines.value.trim();
    const over = !this.#editing && this.#next >= this.#lines.length;
    next.disabled = !this.#live || over || (this.#editing && !lines.value.trim());
    next.textContent = over && this.#lines.length ? "That was the last line" : "Speak the next line";
    while (list.children.length > this.#lines.length) list.lastChild.remove();
    this.#lines.forEach((line, at) => {
      const item = list.children[at] ?? list.appendChild(this.#item(at));
      const button = item.firstChild;
      button.dataset.state = line.state;
      const [text, state] = button.children;
      if (text.textContent !== line.text) text.textContent = line.text;
      const waits = at === this.#next ? "next" : (STATES[line.state] ?? "");
      if (state.textContent !== waits) state.textContent = waits;
      if (at === this.#next) button.setAttribute("aria-current", "step");
      else button.removeAttribute("aria-current");
    });
    const current = list.children[Math.min(this.#next, this.#lines.length - 1)];
    if (current && !this.#editing) list.scrollTop = current.offsetTop - list.clientHeight / 2;
  }

  /** A line; pressed, it becomes the next one. */
  #item(at) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.append(document.createElement("span"), document.createElement("em"));
    button.addEventListener("click", () => this.#choose(at));
    item.append(button);
    return item;
  }
}
