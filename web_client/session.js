// One call to the avatar server: microphone out, talking face in. Knows HTTP and WebRTC, and nothing of the page.

import { CallError, ask } from "./ask.js";
import { CONNECTING, connected, gathered, openMicrophone, picturesDecoded, preferVp8 } from "./peer.js";

export const HEARING = ["mirror", "agent"]; // modes in which the avatar hears a microphone
const STALLED = 1500; // ms without a picture decoded until the connection counts as lost
const LOOK = 250; // ms between looks at it
const ASLEEP = 1000; // ms between two of them that only a browser which was put to sleep lets pass
const ANSWER = 15000; // ms that the server has to answer a request,
const PROMPT = 5000; // and while a lost connection is made anew, when a request may be lost as well
const PAUSES = [0, 1000, 2000, 4000, 8000]; // ms before each attempt to get a lost connection back

/**
 * `state` is one of idle, asking, connecting, live, reconnecting, waiting, failed.
 * Events: "state" (read `state`, `error`, `attempt`, `retryAt`), "microphone" (read `microphone`),
 * "stream" (read `stream`).
 */
export class Session extends EventTarget {
  state = "idle";
  error = null; // CallError while failed or waiting
  attempt = 0; // of PAUSES.length while reconnecting
  retryAt = 0; // performance.now() of the next try while waiting
  mode = "mirror"; // who speaks: mirror, agent or speak
  microphone = null; // MediaStream, null where the avatar hears none
  stream = null; // MediaStream of the avatar
  room = ""; // where others may watch the call, once there is one

  #avatar = "";
  #url = null; // address of the session on the server
  #token = ""; // the right to give it a new connection
  #peer = null;
  #voice = null; // RTCRtpSender of the microphone
  #stopped = null; // AbortController of the running call
  #wake = () => {}; // ends the current pause early
  #asking = new AbortController(); // of questions about this connection, moot once it ends
  #muted = false;
  #changed = false; // the connection ends because another avatar was chosen
  #server; // where the server is; a page of another one names it
  #key; // a token, or a link's key, where no cookie can say it

  /** A call to this page's own server unless another is named. */
  constructor({ server = location.origin, key = "" } = {}) {
    super();
    [this.#server, this.#key] = [server, key];
  }

  /** Run a call until `stop`, or until something fails for good; the outcome is in `state`. */
  async start(avatar, mode = "mirror", microphone = "") {
    if (this.#stopped) return;
    const { signal } = (this.#stopped = new AbortController());
    [this.#avatar, this.mode] = [avatar, mode];
    try {
      if (!window.RTCPeerConnection) throw new CallError("unsupported");
      if (HEARING.includes(mode)) {
        this.#become("asking");
        await this.useMicrophone(microphone);
      }
      await this.#keepConnected(signal);
    } catch (error) {
      if (!signal.aborted) this.fail(error);
    }
  }

  /** End the call on both sides and release the microphone. Everything that matters happens before the first await. */
  async stop() {
    this.#leave();
    const goodbye = this.#hangUp();
    this.#become("idle");
    await goodbye;
  }

  /** The one way a call ends by itself. */
  fail(error) {
    this.#leave();
    this.#hangUp();
    this.#become("failed", { error: error instanceof CallError ? error : new CallError("unexpected", error.message) });
  }

  /** Do not wait out the pause before the next attempt. */
  retryNow() {
    this.#wake();
  }

  /** Show another face; a running call is connected anew and keeps its microphone. */
  useAvatar(avatar) {
    if (avatar === this.#avatar) return;
    this.#avatar = avatar;
    this.#changed = true;
    this.#wake();
  }

  /** Open a microphone ("" is the system's choice) and, in a running call, send it from now on. */
  async useMicrophone(id) {
    const call = this.#stopped;
    if (!call) return;
    const stream = await openMicrophone(id);
    if (this.#stopped !== call) {
      stream.getTracks().forEach((track) => track.stop());
      return;
    }
    const [track] = stream.getAudioTracks();
    track.enabled = !this.#muted;
    track.onended = () => this.useMicrophone("").catch((error) => this.fail(error)); // it was unplugged
    this.#release();
    this.microphone = stream;
    await this.#voice?.replaceTrack(track);
    this.dispatchEvent(new Event("microphone"));
  }

  /** Let somebody else speak, with the microphone `id` where the avatar is to hear one; raises CallError without it. */
  async useMode(mode, id = "") {
    if (HEARING.includes(mode) && !this.microphone) await this.useMicrophone(id);
    this.mode = mode;
    if (HEARING.includes(mode) || !this.microphone) return;
    this.#release();
    await this.#voice?.replaceTrack(null);
    this.dispatchEvent(new Event("microphone"));
  }

  /** Send silence in place of the microphone, from now on and in calls to come. */
  mute(muted) {
    this.#muted = muted;
    for (const track of this.microphone?.getAudioTracks() ?? []) track.enabled = !muted;
  }

  /** Where the server keeps the call, null while there is none. */
  get address() {
    return this.#url;
  }

  /** Ask something of the running call, with the right to it; raises CallError. */
  async request(path, method, { body, type, signal = AbortSignal.timeout(ANSWER) } = {}) {
    const headers = { "Session-Token": this.#token, ...(type && { "Content-Type": type }) };
    return this.ask(`${this.#url}${path}`, { method, body, headers, signal });
  }

  /** Ask something of the server, with the credentials of this call; raises CallError. */
  ask(path, { headers, ...options } = {}) {
    return ask(new URL(path, this.#server), { headers: { ...headers, ...this.#credentials }, ...options });
  }

  get #credentials() {
    return this.#key && { Authorization: `Bearer ${this.#key}` };
  }

  /** [RTCStatsReport, server's statistics] of a live call, else null. */
  async figures() {
    const [peer, url] = [this.#peer, this.#url];
    if (this.state !== "live" || !peer || !url) return null;
    const { signal } = this.#asking;
    return Promise.all([peer.getStats(), this.ask(`${url}/stats`, { signal }).then((answer) => answer.json())]);
  }

  async #keepConnected(signal) {
    let attempt = 0; // 0: nothing was lost yet
    while (!signal.aborted) {
      try {
        this.#become(attempt ? "reconnecting" : "connecting", { attempt });
        this.#changed = false;
        await this.#connect(signal, attempt ? PROMPT : ANSWER);
        this.#become("live");
        attempt = (await this.#connectionEnds(signal)) ? 1 : 0;
      } catch (error) {
        if (signal.aborted) return;
        if (error.retryAfter) {
          const pause = error.retryAfter * 1000;
          this.#become("waiting", { error, retryAt: performance.now() + pause });
          await this.#pause(pause);
        } else if (attempt === 0 || attempt >= PAUSES.length || error.code === "ended") {
          throw error;
        } else {
          await this.#pause(PAUSES[attempt]);
          attempt += 1;
        }
      }
      if (signal.aborted) return;
      if (this.#changed) await this.#hangUp(); // before the next offer: it frees the place on the server
      else this.#disconnect(); // the session goes on, and takes the next connection
    }
  }

  /** One attempt: offer, answer, connection. */
  async #connect(signal, patience) {
    const { iceServers } = await (await this.ask("/ice-servers", { signal: AbortSignal.timeout(patience) })).json();
    signal.throwIfAborted();
    const peer = (this.#peer = new RTCPeerConnection({ iceServers }));
    peer.ontrack = ({ streams: [stream] }) => {
      if (stream === this.stream) return; // sound and picture share one stream, so that the browser keeps them in sync
      this.stream = stream;
      this.dispatchEvent(new Event("stream"));
    };
    const [voice = "audio"] = this.microphone?.getAudioTracks() ?? []; // one may follow later
    this.#voice = peer.addTransceiver(voice, { direction: "sendrecv" }).sender;
    preferVp8(peer.addTransceiver("video", { direction: "recvonly" }));
    await peer.setLocalDescription();
    await gathered(peer);
    signal.throwIfAborted();

    const answer = await (this.#url ? this.#reconnect(peer, signal, patience) : this.#open(peer, signal));
    signal.throwIfAborted();
    await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
    await connected(peer, signal);
  }

  /** Begin a session; it is discarded where the call was stopped meanwhile. */
  async #open(peer, signal) {
    const answer = await this.ask(`/sessions?avatar=${encodeURIComponent(this.#avatar)}&mode=${this.mode}`, {
      method: "POST",
      headers: { "Content-Type": "application/sdp" },
      body: peer.localDescription.sdp,
    });
    const url = new URL(answer.headers.get("Location"), answer.url).href;
    if (signal.aborted) await this.#discard(url);
    else {
      [this.#url, this.#token] = [url, answer.headers.get("Session-Token")];
      this.room = answer.headers.get("Watch-Location").split("/").pop();
    }
    return answer;
  }

  /** Give the session, which waits for a while, a new connection; where the server that had it is gone, begin another. */
  async #reconnect(peer, signal, patience) {
    const headers = { "Content-Type": "application/sdp", "Session-Token": this.#token };
    try {
      const { sdp: body } = peer.localDescription;
      return await this.ask(this.#url, { method: "POST", headers, body, signal: AbortSignal.timeout(patience) });
    } catch (error) {
      if (error.code !== "unknown") throw error; // "ended": the server meant it
      this.#url = null;
      return this.#open(peer, signal);
    }
  }

  /** True when the connection was lost, false when another avatar was chosen; raises when that is for good. */
  async #connectionEnds(signal) {
    const peer = this.#peer;
    let [shown, newest, looked] = [0, performance.now(), performance.now()];
    while (!this.#changed) {
      await this.#pause(LOOK);
      signal.throwIfAborted();
      const pictures = await picturesDecoded(peer);
      const now = performance.now();
      // A page that nobody sees may get no pictures, or no time to look at them.
      if (pictures !== shown || document.hidden || now - looked > ASLEEP) [shown, newest] = [pictures, now];
      looked = now;
      const broken = peer.connectionState === "failed" || peer.connectionState === "closed";
      if (!shown && now - newest > CONNECTING) throw new CallError("blocked");
      if (broken || (shown && now - newest > STALLED)) {
        this.#become("reconnecting", { attempt: 1 });
        return true;
      }
    }
    return false;
  }

  async #pause(milliseconds) {
    await new Promise((resolve) => {
      this.#wake = resolve;
      setTimeout(resolve, milliseconds);
    });
  }

  #leave() {
    this.#stopped?.abort();
    this.#stopped = null;
    this.#wake();
    this.#release();
  }

  async #hangUp() {
    const url = this.#url;
    this.#url = null;
    this.room = "";
    this.#disconnect();
    if (url) await this.#discard(url);
  }

  #disconnect() {
    this.#peer?.close();
    this.#peer = this.#voice = this.stream = null;
    this.#asking.abort();
    this.#asking = new AbortController();
  }

  /** Tell the server that a session is over; works while the page is being left. Nothing is lost if it does not arrive. */
  async #discard(url) {
    const options = { method: "DELETE", keepalive: true, signal: AbortSignal.timeout(3000) };
    await this.ask(url, options).catch(() => {});
  }

  #release() {
    this.microphone?.getTracks().forEach((track) => {
      track.onended = null;
      track.stop();
    });
    this.microphone = null;
  }

  #become(state, { error = null, attempt = 0, retryAt = 0 } = {}) {
    Object.assign(this, { state, error, attempt, retryAt });
    this.dispatchEvent(new Event("state"));
  }
}
