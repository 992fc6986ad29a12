// The manner of the face: mood, head, expression, mouth and eyes, told to the server over a call's control channel.

const PAUSE = 80; // ms between messages while a slider is being moved
const AGAIN = 1000; // ms until a channel that broke is opened once more
// Label, the server's name, from, to, and where it stands before a call says.
const SLIDES = [
  ["Head", "pose_scale", 0, 2, 1],
  ["Expression", "expression_scale", 0, 1.5, 1],
  ["Mouth", "mouth_scale", 0.5, 1.5, 1],
  ["Mood", "emotion_strength", 0, 1, 0.7],
];

/** The controls inside `fieldset` are inputs whose `name` is the server's; a checkbox is on with its `value`. */
export class Manner {
  #inputs;
  #note;
  #moved = new Set(); // names of what the person set; the rest is the server's choice
  #changed = new Set(); // of those, what the server does not know yet
  #address = null; // of the call that is up
  #channel = null;
  #timer = 0;

  constructor(fieldset, note) {
    fieldset.querySelector("#slides").append(...SLIDES.map(slide));
    this.#inputs = [...fieldset.querySelectorAll("input")];
    this.#note = note;
    fieldset.addEventListener("input", ({ target }) => this.#set(target));
    fieldset.querySelector("button").addEventListener("click", () => this.#reset());
    this.#inputs.forEach(show);
  }

  /** Follow the call at `address`, or none. What was set before it began, or while it was lost, is told now. */
  attach(address) {
    if (address === this.#address) return;
    this.#address = address;
    this.#changed = new Set(this.#moved);
    this.#channel?.close();
    if (address) this.#open();
  }

  #open() {
    const channel = (this.#channel = new WebSocket(`${address(this.#address)}/audio`));
    channel.addEventListener("message", ({ data }) => this.#heard(JSON.parse(data)));
    channel.addEventListener("close", () => {
      if (this.#channel !== channel) return;
      this.#channel = null;
      if (this.#address) setTimeout(() => this.#address && !this.#channel && this.#open(), AGAIN);
    });
  }

  #heard({ type, controls, emotions, gazes, views, backgrounds, detail = "" }) {
    if (!["state", "pose", "error"].includes(type)) return;
    this.#tell(detail);
    if (type !== "state" || !controls) return;
    for (const input of this.#inputs) {
      if (input.type !== "range") input.disabled = ![...emotions, ...gazes, ...views, ...backgrounds].includes(input.value);
      if (!this.#moved.has(input.name)) put(input, controls[input.name]);
    }
    this.#send();
  }

  #set(input) {
    this.#moved.add(input.name);
    this.#changed.add(input.name);
    show(input);
    this.#timer ||= setTimeout(() => this.#send(), PAUSE);
  }

  #reset() {
    for (const input of this.#inputs) {
      put(input, input.type === "range" ? Number(input.defaultValue) : this.#inputs.find(isDefault(input.name))?.value);
      this.#moved.add(input.name);
    }
    this.#changed = new Set(this.#moved);
    this.#send();
  }

  #send() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    if (this.#channel?.readyState !== WebSocket.OPEN || !this.#changed.size) return;
    const values = [...this.#changed].map((name) => [name, this.#value(name)]);
    this.#changed.clear();
    this.#channel.send(JSON.stringify({ type: "pose", ...Object.fromEntries(values) }));
  }

  #value(name) {
    const inputs = this.#inputs.filter((input) => input.name === name);
    if (inputs[0].type === "range") return inputs[0].valueAsNumber;
    return inputs.find((input) => input.checked)?.value ?? inputs[0].dataset.off;
  }

  #tell(text) {
    if (this.#note.textContent !== text) this.#note.textContent = text;
  }
}

const isDefault = (name) => (input) => input.name === name && input.defaultChecked;

/** Let an input stand at a control's value. */
function put(input, value) {
  if (input.type === "range") input.value = value;
  else input.checked = input.value === value;
  show(input);
}

/** A labelled slider out of the page's template. */
function slide([label, name, min, max, value]) {
  const made = document.getElementById("slide").content.cloneNode(true);
  made.querySelector("span").textContent = label;
  const input = made.querySelector("input");
  for (const [key, given] of Object.entries({ name, min, max, value })) input.setAttribute(key, given);
  return made;
}

/** A slider's number, for eyes and for screen readers. */
function show(input) {
  if (input.type !== "range") return;
  const text = `${Math.round(100 * input.valueAsNumber)} %`;
  input.setAttribute("aria-valuetext", text);
  input.style.setProperty("--share", (input.value - input.min) / (input.max - input.min));
  input.parentElement.querySelector("output").value = text;
}

/** http(s)://... -> ws(s)://... */
function address(url) {
  return url.replace(/^http/, "ws");
}
