// What a call needs of the browser: a microphone, and a connection whose state can be waited for.

import { CallError } from "./ask.js";

const GATHERING = 2000; // ms to wait for network candidates; what is found by then goes into the offer
export const CONNECTING = 12000; // ms until a connection that does not come up, or brings nothing, counts as blocked

/** A stream of the microphone `id`, "" for the system's choice; raises CallError. */
export async function openMicrophone(id) {
  // A page that came over plain HTTP from another machine has no mediaDevices at all.
  if (!navigator.mediaDevices?.getUserMedia) throw new CallError(window.isSecureContext ? "unsupported" : "insecure");
  const wishes = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: id ? { ...wishes, deviceId: { exact: id } } : wishes });
  } catch (error) {
    if (error.name === "NotAllowedError" || error.name === "SecurityError") throw new CallError("denied");
    if (error.name === "OverconstrainedError" && id) return openMicrophone(""); // it was chosen once and is gone
    throw new CallError(error.name === "NotFoundError" ? "no-microphone" : "microphone-busy");
  }
}

export function preferVp8(transceiver) {
  const codecs = RTCRtpReceiver.getCapabilities?.("video")?.codecs;
  if (!codecs || !transceiver.setCodecPreferences) return;
  const vp8 = (codec) => codec.mimeType.toLowerCase() === "video/vp8";
  transceiver.setCodecPreferences([...codecs.filter(vp8), ...codecs.filter((codec) => !vp8(codec))]);
}

/** Resolves when the candidates are found, or most of them. */
export function gathered(peer) {
  return new Promise((resolve) => {
    if (peer.iceGatheringState === "complete") resolve();
    peer.addEventListener("icegatheringstatechange", () => peer.iceGatheringState === "complete" && resolve());
    setTimeout(resolve, GATHERING);
  });
}

/** Resolves when the connection is up; raises CallError, or `signal`'s reason. */
export function connected(peer, signal) {
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

/** Pictures decoded so far. */
export async function picturesDecoded(peer) {
  const entries = [...(await peer.getStats()).values()];
  return entries.find((entry) => entry.type === "inbound-rtp" && entry.kind === "video")?.framesDecoded ?? 0;
}
