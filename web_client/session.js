// One call to the avatar server: microphone out, talking face in. Knows HTTP and WebRTC, and nothing of the page.

const GATHERING = 2000; // ms to wait for network candidates; what is found by then goes into the offer
const CONNECTING = 12000; // ms until a connection that does not come up, or brings nothing, counts as blocked
const STALLED = 2000; // ms without any sound or picture arriving until the connection counts as lost
const ANSWER = 15000; // ms that the server has to answer a request
export const HEARING = ["mirror", "agent"]; // modes in which the microphone is heard
const PAUSES = [0, 1000, 2000, 4000, 8000]; // ms before each attempt to get a lost connection back

/** An error with a stable `code` that the page has words for, and the server's own words where it gave any. */
export class CallError extends Error {
  constructor(code, detail = "", retryAfter = 0) {
    super(detail || code);
    this.code = code;
    this.detail = detail;
    this.retryAfter = retryAfter;
  }
}

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
  mode = "mirror"; // whose voice the avatar has
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
    track.onended = () => this.useMicrophone("").catch((error) => this.fail(error)); // it was unplugged
    this.#release();
    this.microphone = stream;
    await this.#voice?.replaceTrack(track);
    this.dispatchEvent(new Event("microphone"));
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
        await this.#connect(signal);
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
  async #connect(signal) {
    const { iceServers } = await (await this.ask("/ice-servers")).json();
    signal.throwIfAborted();
    const peer = (this.#peer = new RTCPeerConnection({ iceServers }));
    peer.ontrack = ({ streams: [stream] }) => {
      if (stream === this.stream) return; // sound and picture share one stream, so that the browser keeps them in sync
      this.stream = stream;
      this.dispatchEvent(new Event("stream"));
    };
    const track = this.microphone?.getAudioTracks()[0];
    this.#voice = peer.addTransceiver(track ?? "audio", { direction: track ? "sendrecv" : "recvonly" }).sender;
    preferVp8(peer.addTransceiver("video", { direction: "recvonly" }));
    await peer.setLocalDescription();
    await gathered(peer);
    signal.throwIfAborted();

    const answer = await (this.#url ? this.#reconnect(peer) : this.#open(peer, signal));
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

  /** Give the session, which waits for a while, a new connection. */
  async #reconnect(peer) {
    const headers = { "Content-Type": "application/sdp", "Session-Token": this.#token };
    try {
      return await this.ask(this.#url, { method: "POST", headers, body: peer.localDescription.sdp });
    } catch (error) {
      throw error.code === "unknown" ? new CallError("ended") : error;
    }
  }

  /** True when the connection was lost, false when another avatar was chosen; raises when that is for good. */
  async #connectionEnds(signal) {
    const peer = this.#peer;
    let [received, newest] = [0, performance.now()];
    while (!this.#changed) {
      await this.#pause(500);
      signal.throwIfAborted();
      const packets = await packetsReceived(peer);
      const now = performance.now();
      // Phones may put the network to sleep for a page that nobody sees.
      if (packets !== received || document.hidden) [received, newest] = [packets, now];
      const broken = peer.connectionState === "failed" || peer.connectionState === "closed";
      if (!received && now - newest > CONNECTING) throw new CallError("blocked");
      if (broken || (received && now - newest > STALLED)) {
        this.#become("reconnecting", { attempt: 1 });
        await this.#stillKnown();
        return true;
      }
    }
    return false;
  }

  /** Tell a network that went away from a server that hung up. */
  async #stillKnown() {
    try {
      await this.ask(`${this.#url}/stats`);
    } catch (error) {
      if (error.code === "unknown") throw new CallError("ended");
    }
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

/** Fetch from the server; raises CallError with the problem's own words (RFC 9457). */
export async function ask(url, options) {
  let answer;
  try {
    answer = await fetch(url, { signal: AbortSignal.timeout(ANSWER), ...options });
  } catch {
    throw new CallError("gone");
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  const code = { 404: "unknown", 503: "unavailable" }[answer.status] ?? "refused";
  throw new CallError(code, problem.detail, Number(answer.headers.get("Retry-After")) || 0);
}

async function openMicrophone(id) {
  // A page that came over plain HTTP from another machine has no mediaDevices at all.
  if (!navigator.mediaDevices?.getUserMedia) throw new CallError(window.isSecureContext ? "unsupported" : "insecure");
  if (!window.RTCPeerConnection) throw new CallError("unsupported");
  const wishes = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: id ? { ...wishes, deviceId: { exact: id } } : wishes });
  } catch (error) {
    if (error.name === "NotAllowedError" || error.name === "SecurityError") throw new CallError("denied");
    if (error.name === "OverconstrainedError" && id) return openMicrophone(""); // it was chosen once and is gone
    throw new CallError(error.name === "NotFoundError" ? "no-microphone" : "microphone-busy");
  }
}

function preferVp8(transceiver) {
  const codecs = RTCRtpReceiver.getCapabilities?.("video")?.codecs;
  if (!codecs || !transceiver.setCodecPreferences) return;
  const vp8 = (codec) => codec.mimeType.toLowerCase() === "video/vp8";
  transceiver.setCodecPreferences([...codecs.filter(vp8), ...codecs.filter((codec) => !vp8(codec))]);
}

function gathered(peer) {
  return new Promise((resolve) => {
    if (peer.iceGatheringState === "complete") resolve();
    peer.addEventListener("icegatheringstatechange", () => peer.iceGatheringState === "complete" && resolve());
    setTimeout(resolve, GATHERING);
  });
}

function connected(peer, signal) {
  return new Promise((resolve, reject) => {
    const blocked = () => reject(new CallError("blocked"));
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    setTimeout(blocked, CONNECTING);
    const look = () => {
      if (peer.connectionState === "connected") resolve();
      if (peer.connectionState === "failed") blocked();
    };
    peer.addEventListener("connectionstatechange", look);
    look();
  });
}

async function packetsReceived(peer) {
  const entries = [...(await peer.getStats()).values()].filter((entry) => entry.type === "inbound-rtp");
  return entries.reduce((sum, entry) => sum + entry.packetsReceived, 0);
}
