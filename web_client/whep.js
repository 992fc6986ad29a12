// One viewer of a room, by WHEP (draft-ietf-wish-whep): an offer out, sound and picture in, candidates as they are found.

import { CallError, ask } from "./ask.js";

const CONNECTING = 12000; // ms until a connection that does not come up counts as blocked

/** Resolves to a viewer whose picture is about to come; raises CallError. `lost` is called once it is over. */
export async function watch(room, lost) {
  const { iceServers } = await (await ask("/ice-servers")).json();
  const viewer = new Viewer(new RTCPeerConnection({ iceServers }), lost);
  try {
    await viewer.join(`/whep/${encodeURIComponent(room)}`);
  } catch (error) {
    viewer.leave();
    throw error;
  }
  return viewer;
}

class Viewer {
  stream = new MediaStream();

  #peer;
  #lost;
  #url = null; // address of this viewer on the server
  #tag = ""; // of its connection
  #candidates = []; // found and not sent yet; null marks their end

  constructor(peer, lost) {
    this.#peer = peer;
    this.#lost = lost;
    peer.onicecandidate = ({ candidate }) => {
      this.#candidates.push(candidate);
      this.#trickle();
    };
    peer.ontrack = ({ track }) => this.stream.addTrack(track);
    for (const kind of ["audio", "video"]) peer.addTransceiver(kind, { direction: "recvonly" });
  }

  async join(endpoint) {
    await this.#peer.setLocalDescription();
    const answer = await ask(endpoint, {
      method: "POST",
      headers: { "Content-Type": "application/sdp" },
      body: this.#peer.localDescription.sdp,
    });
    this.#url = new URL(answer.headers.get("Location"), answer.url).href;
    this.#tag = answer.headers.get("ETag");
    await this.#peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
    this.#trickle();
    await this.#connected();
    this.#peer.onconnectionstatechange = () => {
      if (["disconnected", "failed", "closed"].includes(this.#peer.connectionState)) {
        this.leave();
        this.#lost();
      }
    };
  }

  /** Works while the page is being left, too. */
  leave() {
    this.#peer.onconnectionstatechange = null;
    this.#peer.close();
    if (this.#url) fetch(this.#url, { method: "DELETE", keepalive: true }).catch(() => {});
    this.#url = null;
  }

  /** Send the candidates that were found since (RFC 8840); one that does not arrive is made up for by others. */
  #trickle() {
    if (!this.#url || !this.#candidates.length) return;
    const found = this.#candidates.splice(0);
    const offer = this.#peer.localDescription.sdp;
    const lines = offer.match(/^a=(ice-ufrag|ice-pwd):.*$/gm).slice(0, 2);
    lines.push("m=audio 9 UDP/TLS/RTP/SAVPF 0", offer.match(/^a=mid:.*$/m)[0]);
    for (const candidate of found) lines.push(candidate?.candidate ? `a=${candidate.candidate}` : "a=end-of-candidates");
    const headers = { "Content-Type": "application/trickle-ice-sdpfrag", "If-Match": this.#tag };
    fetch(this.#url, { method: "PATCH", headers, body: `${lines.join("\r\n")}\r\n` }).catch(() => {});
  }

  #connected() {
    return new Promise((resolve, reject) => {
      const blocked = () => reject(new CallError("blocked"));
      setTimeout(blocked, CONNECTING);
      this.#peer.onconnectionstatechange = () => {
        if (this.#peer.connectionState === "connected") resolve();
        if (this.#peer.connectionState === "failed") blocked();
      };
    });
  }
}
