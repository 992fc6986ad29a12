// The microphone's level: a line of bars that runs with the voice, and a number for whoever asks.

const BARS = 28;
const STEP = 60; // ms a bar
const FLOOR = -60; // dBFS shown as nothing; -12 and above fills the line
const CEILING = -12;
const AUDIBLE = 0.15; // of the line: surely more than a quiet room

export class Meter {
  level = 0; // 0..1, smoothed
  heardAt = 0; // performance.now() of the last audible sound

  #canvas;
  #levels = new Array(BARS).fill(0); // oldest first
  #context = null;
  #source = null;
  #analyser;
  #samples = new Float32Array(1024);
  #timer = 0;

  /** The bars are drawn on `canvas`, in its text colour; `onlevel` is called with every new level. */
  constructor(canvas, onlevel) {
    this.#canvas = canvas;
    this.onlevel = onlevel;
    this.#draw();
    // The page may change between light and dark while nothing is heard.
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  /** Call it from a click: some browsers keep sound asleep otherwise. */
  wake() {
    this.#context ??= new AudioContext();
    this.#context.resume();
  }

  listen(stream) {
    this.silence();
    this.wake();
    this.#analyser = new AnalyserNode(this.#context, { fftSize: this.#samples.length });
    this.#source = new MediaStreamAudioSourceNode(this.#context, { mediaStream: stream });
    this.#source.connect(this.#analyser);
    this.heardAt = performance.now();
    this.#timer = setInterval(() => this.#measure(), STEP);
  }

  silence() {
    clearInterval(this.#timer);
    this.#source?.disconnect();
    this.#source = null;
    this.#levels.fill(0);
    this.level = 0;
    this.#show(0);
  }

  #measure() {
    this.#analyser.getFloatTimeDomainData(this.#samples);
    const power = this.#samples.reduce((sum, sample) => sum + sample * sample, 0) / this.#samples.length;
    const decibels = 10 * Math.log10(power + 1e-12);
    const level = Math.min(1, Math.max(0, (decibels - FLOOR) / (CEILING - FLOOR)));
    if (level > AUDIBLE) this.heardAt = performance.now();
    this.#show(level);
  }

  #show(level) {
    this.level = level > this.level ? level : 0.7 * this.level + 0.3 * level; // up at once, down softly
    this.#levels.push(level);
    this.#levels.shift();
    this.#draw();
    this.#canvas.setAttribute("aria-valuenow", Math.round(100 * this.level));
    this.onlevel(this.level);
  }

  #draw() {
    const { width, height } = this.#canvas;
    const line = this.#canvas.getContext("2d");
    const step = width / BARS;
    line.clearRect(0, 0, width, height);
    line.fillStyle = getComputedStyle(this.#canvas).color;
    this.#levels.forEach((level, bar) => {
      const tall = Math.max(0.08, level) * height;
      line.beginPath();
      line.roundRect(bar * step, (height - tall) / 2, 0.6 * step, tall, 0.3 * step);
      line.fill();
    });
  }
}
