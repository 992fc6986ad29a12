// The manner of the face: mood, head, expression, mouth and eyes, told to the server over a call's channel.

const PAUSE = 80; // ms between messages while a slider is being moved
// Label, the server's name, from, to, and where it stands before a call says.
const SLIDES = [
  ["Head", "pose_scale", 0, 2, 1],
  ["Expression", "expression_scale", 0, 1.5, 1],
  ["Mouth", "mouth_scale", 0.5, 1.5, 1],
  ["Mood", "emotion_strength", 0, 1, 0.7],
];

/** The controls inside `fieldset` are inputs whose `name` is the server's; a checkbox is on with its `value`. An input
    without a name is somebody else's. */
export class Manner {
  #inputs;
  #moved = new Set(); // names of what the person set; the rest is the server's choice
  #changed = new Set(); // of those, what the server does not know yet
  #address = null; // of the call that is up
  #channel;
  #timer = 0;

  constructor(fieldset, channel) {
    this.#channel = channel;
    fieldset.querySelector("#slides").append(...SLIDES.map(slide));
    this.#inputs = [...fieldset.querySelectorAll("input[name]")];
    fieldset.addEventListener("input", ({ target }) => target.name && this.#set(target));
    fieldset.querySelector("#reset").addEventListener("click", () => this.#reset());
    this.#inputs.forEach(show);
    channel.addEventListener("state", ({ detail }) => this.#begin(detail));
  }

  /** Follow the call at `address`, or none. What was set before it began, or while it was lost, is told now. */
  attach(address) {
    if (address === this.#address) return;
    this.#address = address;
    this.#changed = new Set(this.#moved);
  }

  #begin({ controls, emotions, gazes, views, backgrounds }) {
    if (!controls) return; // the call's end
    const there = new Set([...emotions, ...gazes, ...views, ...backgrounds, "true"]);
    for (const input of this.#inputs) {
      if (input.type !== "range") input.disabled = !there.has(input.value);
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
    if (!this.#changed.size) return;
    const values = [...this.#changed].map((name) => [name, this.#value(name)]);
    if (this.#channel.send("pose", Object.fromEntries(values))) this.#changed.clear();
  }

  #value(name) {
    const inputs = this.#inputs.filter((input) => input.name === name);
    if (inputs[0].type === "range") return inputs[0].valueAsNumber;
    const value = inputs.find((input) => input.checked)?.value ?? inputs[0].dataset.off;
    return { true: true, false: false }[value] ?? value;
  }
}

const isDefault = (name) => (input) => input.name === name && input.defaultChecked;

/** Let an input stand at a control's value. */
function put(input, value) {
  if (input.type === "range") input.value = value;
  else input.checked = input.value === String(value);
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
