// The picker of faces: the ones the server lists, and a photo of one's own.

import { ask } from "./ask.js";

const ENROLMENT = 60000; // ms that the server has to look at a photo, which may wait behind others
const AGAIN = 1000; // ms until a server that has no face yet is asked once more

/** Events: "choice" (read `chosen`: {id, title, picture}, or null before there is any). */
export class Avatars extends EventTarget {
  chosen = null;

  #list;
  #template;
  #file;
  #note;
  #hint; // what the note says when there is nothing to tell

  /** `list` takes the choices, made from `template`, ahead of the tile of `file`, an input; `note` tells about photos. */
  constructor({ list, template, file, note }) {
    super();
    this.#list = list;
    this.#template = template;
    this.#file = file;
    this.#note = note;
    this.#hint = note.textContent;
  }

  /** Show what the server has; one that still starts has nothing yet. */
  async load() {
    while (!this.chosen) {
      const { avatars, default: favourite } = await ask("/avatars")
        .then((answer) => answer.json())
        .catch(() => ({ avatars: [] }));
      avatars.forEach((avatar) => this.#offer(avatar));
      const first = avatars.find((avatar) => avatar.id === favourite) ?? avatars[0];
      if (first) this.#choose(first);
      else await new Promise((resolve) => setTimeout(resolve, AGAIN));
    }
  }

  /** Send a photo, which becomes the choice; raises CallError with the server's reason where it does not suit. */
  async add(photo, signal) {
    const form = new FormData();
    form.append("photo", photo);
    const either = AbortSignal.any([signal, AbortSignal.timeout(ENROLMENT)]);
    const answer = await ask("/avatars", { method: "POST", body: form, signal: either });
    const avatar = await answer.json();
    this.#offer(avatar);
    this.#choose(avatar);
    this.#tell("Your photo suits. The server keeps it in memory only, and shows it to nobody else.");
  }

  #offer(avatar) {
    const tile = this.#template.content.cloneNode(true);
    const [input, picture] = [tile.querySelector("input"), tile.querySelector("img")];
    input.value = avatar.id;
    input.addEventListener("change", () => this.#choose(avatar));
    picture.src = avatar.picture;
    picture.alt = avatar.title;
    this.#list.insertBefore(tile, this.#file.closest("label"));
  }

  #choose(avatar) {
    this.chosen = avatar;
    for (const input of this.#list.querySelectorAll("input[type=radio]")) input.checked = input.value === avatar.id;
    this.#tell(this.#hint);
    this.dispatchEvent(new Event("choice"));
  }

  #tell(text) {
    if (this.#note.textContent !== text) this.#note.textContent = text;
  }
}
