// The avatar in any page: <kdtalker-avatar server="https://avatar.example.org" avatar="iris"></kdtalker-avatar>
// docs/client.md has the attributes and methods. Pages of other servers need KDTALKER_CORS_ORIGINS to name them.

import { CallError } from "./ask.js";
import { Session } from "./session.js";
import { words } from "./words.js";

const HOME = new URL(import.meta.url).origin; // the server that this file came from
const ENDED = ["idle", "failed"];

const STYLE = new CSSStyleSheet(); // unlike a <style>, it needs no leave of the page's content policy
STYLE.replaceSync(`
  :host { display: block; aspect-ratio: 1; max-width: 512px; position: relative; overflow: hidden; border-radius: 16px;
    background: #221d29; color: #fff; font: 400 1rem/1.4 system-ui, sans-serif; color-scheme: dark; }
  :host([hidden]), [hidden] { display: none !important; }
  img, video { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: cover; }
  video { opacity: 0; transition: opacity 0.3s; }
  video.shown { opacity: 1; }
  button { font: inherit; color: inherit; border: 0; border-radius: 99px; cursor: pointer; min-height: 44px;
    padding: 0 18px; background: rgb(20 17 26 / 72%); }
  button:hover { background: rgb(20 17 26 / 90%); }
  button:focus-visible { outline: 3px solid #fff; outline-offset: 2px; }
  #start { position: absolute; inset: auto 0 8%; margin: auto; width: max-content; height: 56px; padding: 0 30px;
    font-weight: 600; background: var(--kdtalker-accent, #f2603c); color: var(--kdtalker-on-accent, #2a0b04); }
  #start:hover { filter: brightness(1.08); }
  #bar { position: absolute; inset: auto 10px 10px; display: flex; gap: 8px; justify-content: flex-end; }
  #told { position: absolute; inset: 10px 10px auto; margin: 0 auto; width: fit-content; padding: 6px 12px;
    border-radius: 12px; background: rgb(20 17 26 / 78%); }
  #told:empty { display: none; }
  @media (prefers-reduced-motion: reduce) { video { transition: none; } }
`);
const PARTS = `
  <img part="picture" alt="" hidden>
  <video part="video" playsinline aria-label="The talking face"></video>
  <p id="told" part="status" role="status"></p>
  <div id="bar"><button id="sound" part="button" type="button" hidden></button><button id="stop" part="button" type="button" hidden>Stop</button></div>
  <button id="start" part="start" type="button">Start</button>`;

/**
 * Events: "state" (read `state`: idle, asking, connecting, live, reconnecting, waiting or failed).
 * start(), stop(), speak(text, {voice}) and interrupt() are there for the page; those that ask the server for something
 * raise a CallError with its words.
 */
export class KDTalkerAvatar extends HTMLElement {
  static observedAttributes = ["avatar"];

  #session = null;
  #picture = ""; // object URL of the still picture
  #wanted = 0; // counts requests for one
  #at;
  #leave = () => this.stop();

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [STYLE];
    root.innerHTML = PARTS;
    this.#at = (name) => root.querySelector(name);
    this.#at("#start").addEventListener("click", () => this.start());
    this.#at("#stop").addEventListener("click", () => this.stop());
    this.#at("#sound").addEventListener("click", () => this.#mute(!this.#at("video").muted));
  }

  connectedCallback() {
    addEventListener("pagehide", this.#leave);
    this.#showStill();
  }

  disconnectedCallback() {
    removeEventListener("pagehide", this.#leave);
    this.stop();
    this.#forgetStill();
  }

  attributeChangedCallback() {
    if (!this.isConnected) return;
    this.#session?.useAvatar(this.getAttribute("avatar") ?? "");
    this.#showStill();
  }

  /** Of the call; see above. */
  get state() {
    return this.#session?.state ?? "idle";
  }

  /** Begin a call. Call it from a tap or a click: that is what lets a browser play sound. */
  start() {
    if (!ENDED.includes(this.state)) return;
    const video = this.#at("video");
    // The avatar's echo of one's own voice would go from the loudspeaker into the microphone.
    this.#mute(this.#mode === "mirror");
    video.srcObject = new MediaStream();
    video.play().catch(() => {}); // within the tap: Safari then plays what comes later, too
    const session = (this.#session = this.#newSession());
    session.addEventListener("stream", () => this.#play(session.stream));
    session.addEventListener("state", () => this.#show());
    session.start(this.getAttribute("avatar") ?? "", this.#mode);
  }

  /** End the call; resolves when the server knows. */
  async stop() {
    await this.#session?.stop();
  }

  /** Let the avatar say a text, when all before it is said; resolves to what the server answers, as `{id}`. */
  async speak(text, { voice } = {}) {
    const body = JSON.stringify({ text, voice });
    return (await this.#call().request("/speech", "POST", { body, type: "application/json" })).json();
  }

  /** Let the avatar be silent. */
  async interrupt() {
    await this.#call().request("/speech", "DELETE");
  }

  get #mode() {
    return this.getAttribute("mode") ?? "speak";
  }

  #newSession() {
    const server = new URL(this.getAttribute("server") ?? HOME, document.baseURI).href;
    return new Session({ server, key: this.getAttribute("key") ?? "" });
  }

  /** The call that is up; raises CallError. */
  #call() {
    if (this.state !== "live") throw new CallError("ended", "There is no call; start one first.");
    return this.#session;
  }

  async #play(stream) {
    const video = this.#at("video");
    video.srcObject = stream;
    try {
      await video.play();
    } catch (error) {
      if (error.name !== "NotAllowedError") return; // another stream took this one's place
      this.#mute(true); // no tap came before: silent pictures are allowed, and the button asks for the rest
      await video.play().catch(() => {});
    }
  }

  #mute(muted) {
    this.#at("video").muted = muted;
    this.#at("#sound").textContent = muted ? "Sound on" : "Sound off";
  }

  #show() {
    const { state } = this;
    const { headline, advice } = words(this.#session, performance.now());
    const told = { idle: "", live: "", failed: `${headline}. ${advice}`, waiting: advice }[state] ?? headline;
    this.#at("#told").textContent = told;
    this.#at("video").classList.toggle("shown", state === "live" || state === "reconnecting");
    this.#at("#start").hidden = !ENDED.includes(state);
    this.#at("#stop").hidden = ENDED.includes(state);
    this.#at("#sound").hidden = state !== "live";
    this.dispatchEvent(new Event("state"));
  }

  /** The face before the call. An <img> could not say who asks, so the picture is fetched. */
  async #showStill() {
    const turn = ++this.#wanted;
    const session = this.#newSession();
    try {
      const chosen = this.getAttribute("avatar") || (await (await session.ask("/avatars")).json()).default;
      const picture = await (await session.ask(`/avatars/${encodeURIComponent(chosen)}/picture`)).blob();
      if (turn !== this.#wanted || !this.isConnected) return;
      this.#forgetStill();
      this.#picture = URL.createObjectURL(picture);
      this.#at("img").src = this.#picture;
      this.#at("img").hidden = false;
    } catch (error) {
      if (turn === this.#wanted) this.#at("#told").textContent = error.detail || "The avatar's server does not answer.";
    }
  }

  #forgetStill() {
    URL.revokeObjectURL(this.#picture);
    this.#at("img").hidden = true;
  }
}

customElements.define("kdtalker-avatar", KDTalkerAvatar);
