// The panel of figures, measured once a second while a call runs.

import { Latency } from "./latency.js";
import { line, list, peerFigures } from "./stats.js";

const EVERY = 1000; // ms
const UNHEARD = "The server measures its stages while it hears a microphone.";

export class Figures {
  #parts;
  #latency;

  /** `parts`: {details, line, list, plot, note, stages}; `heard` is told the server's figures every time. */
  constructor(parts, session, heard) {
    this.#parts = parts;
    this.#latency = new Latency(parts.plot, parts.stages);
    session.addEventListener("state", () => session.state === "idle" && this.#latency.clear());
    parts.details.addEventListener("toggle", () => this.#latency.draw());
    setInterval(async () => {
      const figures = await session.figures().catch(() => null);
      if (!figures) return;
      const [peer, server] = [peerFigures(figures[0]), figures[1]];
      this.#show(peer, server);
      heard(server);
    }, EVERY);
  }

  #show(peer, server) {
    const short = line(peer, server);
    if (this.#parts.line.textContent !== short) this.#parts.line.textContent = short;
    this.#latency.add(peer, server);
    if (!this.#parts.details.open) return;
    this.#latency.draw();
    this.#parts.note.textContent = server.stages_ms ? "" : UNHEARD;
    this.#parts.list.replaceChildren(
      ...list(peer, server).flatMap(([name, value]) => [
        Object.assign(document.createElement("dt"), { textContent: name }),
        Object.assign(document.createElement("dd"), { textContent: value }),
      ]),
    );
  }
}
