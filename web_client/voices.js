// The picker of the voice that speaks texts.

import { ask } from "./ask.js";

export class Voices {
  #select;
  #channel;
  #asked = false;

  constructor(select, channel) {
    [this.#select, this.#channel] = [select, channel];
    select.addEventListener("change", () => this.#tell());
    channel.addEventListener("state", ({ detail }) => detail.controls && this.#tell());
  }

  /** List what the server has, once. */
  async load() {
    if (this.#asked) return;
    this.#asked = true;
    try {
      const { voices, default: usual } = await (await ask("/voices")).json();
      const names = new Intl.DisplayNames(["en"], { type: "language", fallback: "code" });
      const groups = Map.groupBy ? Map.groupBy(voices, nameOf(names)) : new Map([["", voices]]);
      const sorted = [...groups].sort(([a], [b]) => a.localeCompare(b));
      this.#select.append(...sorted.map(([language, members]) => group(language, members)));
      const first = voices.find((voice) => voice.name === usual);
      if (first) this.#select.options[0].textContent = `The server's choice: ${label(first)}`;
      this.#select.disabled = false;
    } catch {
      this.#asked = false; // it may be asked again
    }
  }

  /** A choice is told to every call; without one the server's stands. */
  #tell() {
    if (this.#select.value) this.#channel.send("voice", { voice: this.#select.value });
  }
}

const nameOf = (names) => (voice) => {
  try {
    return names.of(voice.language);
  } catch {
    return voice.language; // what no standard knows
  }
};

const label = (voice) => voice.description || voice.name;

function group(language, voices) {
  const made = Object.assign(document.createElement("optgroup"), { label: language });
  made.append(...voices.map((voice) => new Option(label(voice), voice.name)));
  return made;
}
