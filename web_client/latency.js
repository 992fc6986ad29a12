// The latency panel: where a picture's time goes, stage by stage, drawn over the last minute.

const SPAN = 60; // seconds
const NAMES = {
  cut: "Collecting a tick of sound",
  feature: "Listening ahead",
  sampled: "Motion",
  rendered: "Picture",
  encoded: "Encoding",
  released: "Waiting for its moment",
  sent: "Sending",
  network: "Network",
  held: "Held by the browser",
};
const STAGES = Object.keys(NAMES);
const NICE = [100, 200, 300, 400, 500, 750, 1000, 1500, 2000, 3000, 5000, 10000]; // ms at the top of the plot

export class Latency {
  #canvas;
  #rows; // by stage: {swatch, value}
  #points = []; // {at: seconds, values: ms by stage}, the oldest first
  #jitter = null; // the browser's counters when it was last asked

  /** The plot is drawn on `canvas`; `list` is its legend, with the figures of now. */
  constructor(canvas, list) {
    this.#canvas = canvas;
    this.#rows = Object.fromEntries(STAGES.map((stage, number) => [stage, legend(list, NAMES[stage], number)]));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Figures of the browser and the server, once a second; `peer` as `peerFigures` gives them. */
  add(peer, server) {
    const stages = Object.entries(server.stages_ms ?? {}).map(([stage, points]) => [stage, points.p50]);
    const values = Object.fromEntries(stages.filter(([stage]) => stage in NAMES));
    if (peer.roundTrip !== null) values.network = peer.roundTrip / 2;
    if (peer.jitter && this.#jitter && peer.jitter.emitted > this.#jitter.emitted) {
      const { held, emitted } = this.#jitter;
      values.held = (1000 * (peer.jitter.held - held)) / (peer.jitter.emitted - emitted);
    }
    this.#jitter = peer.jitter;
    const now = performance.now() / 1000;
    this.#points.push({ at: now, values });
    while (now - this.#points[0].at > SPAN) this.#points.shift();
  }

  /** Forget what belongs to a call that is over. */
  clear() {
    [this.#points, this.#jitter] = [[], null];
  }

  draw() {
    const { values = {} } = this.#points.at(-1) ?? {};
    for (const stage of STAGES) {
      const text = values[stage] === undefined ? "–" : `${values[stage].toFixed(1)} ms`;
      if (this.#rows[stage].value.textContent !== text) this.#rows[stage].value.textContent = text;
    }
    const box = this.#canvas.getBoundingClientRect();
    if (!box.width) return;
    const scale = devicePixelRatio;
    const [width, height] = [Math.round(box.width * scale), Math.round(box.height * scale)];
    if (this.#canvas.width !== width) this.#canvas.width = width;
    if (this.#canvas.height !== height) this.#canvas.height = height;
    const plot = this.#canvas.getContext("2d");
    plot.setTransform(scale, 0, 0, scale, 0, 0);
    plot.clearRect(0, 0, box.width, box.height);
    this.#plot(plot, box.width, box.height - 18);
  }

  #plot(plot, width, height) {
    const most = Math.max(...this.#points.map(({ values }) => total(values)), 1);
    const top = NICE.find((value) => value > most) ?? 10000;
    const now = this.#points.at(-1)?.at ?? 0;
    const x = (at) => width * (1 - (now - at) / SPAN);
    const y = (value) => height * (1 - value / top);
    const sums = this.#points.map(() => 0);
    for (const stage of STAGES) {
      const before = [...sums];
      this.#points.forEach(({ values }, index) => (sums[index] += values[stage] ?? 0));
      plot.fillStyle = getComputedStyle(this.#rows[stage].swatch).backgroundColor;
      plot.beginPath();
      this.#points.forEach(({ at }, index) => plot.lineTo(x(at), y(sums[index])));
      for (let index = sums.length - 1; index >= 0; index -= 1) plot.lineTo(x(this.#points[index].at), y(before[index]));
      plot.fill();
    }
    const style = getComputedStyle(this.#canvas);
    [plot.fillStyle, plot.strokeStyle] = [style.color, style.borderBottomColor];
    [plot.font, plot.lineWidth] = [`11px ${style.fontFamily}`, 1];
    for (const part of [0.5, 1]) {
      plot.beginPath();
      plot.moveTo(0, Math.round(y(part * top)) + 0.5);
      plot.lineTo(width, Math.round(y(part * top)) + 0.5);
      plot.stroke();
      plot.textBaseline = "top";
      plot.fillText(`${Math.round(part * top)} ms`, 4, y(part * top) + 3);
    }
    plot.textBaseline = "alphabetic";
    for (const [text, at, align] of [["60 s ago", 0, "left"], ["30 s", width / 2, "center"], ["now", width, "right"]]) {
      plot.textAlign = align;
      plot.fillText(text, at, height + 15);
    }
    plot.textAlign = "left";
  }
}

const total = (values) => Object.values(values).reduce((sum, value) => sum + value, 0);

/** A row of the legend, whose swatch has the colour that the stage is drawn in. */
function legend(list, text, number) {
  const [name, value, swatch] = ["dt", "dd", "span"].map((tag) => document.createElement(tag));
  swatch.style.setProperty("--number", number);
  name.append(swatch, text);
  list.append(name, value);
  return { swatch, value };
}
