// Figures of a running call, from the browser's getStats() and the server's statistics, in words a person can report.

/** What is read of an RTCStatsReport; milliseconds where a time, null where the browser does not say. */
export function peerFigures(report) {
  const entries = [...report.values()];
  const inbound = (kind) => entries.find((entry) => entry.type === "inbound-rtp" && entry.kind === kind) ?? {};
  const [audio, video] = [inbound("audio"), inbound("video")];
  const pair = entries.find((entry) => entry.type === "candidate-pair" && entry.nominated) ?? {};
  const both = audio.estimatedPlayoutTimestamp && video.estimatedPlayoutTimestamp;
  return {
    fps: video.framesPerSecond ?? null,
    decoded: video.framesDecoded ?? 0,
    dropped: video.framesDropped ?? 0,
    lost: (audio.packetsLost ?? 0) + (video.packetsLost ?? 0),
    size: video.frameWidth ? `${video.frameWidth} x ${video.frameHeight}` : null,
    codec: report.get(video.codecId)?.mimeType?.split("/")[1] ?? null,
    roundTrip: pair.currentRoundTripTime == null ? null : 1000 * pair.currentRoundTripTime,
    soundHeld: held(audio),
    pictureHeld: held(video),
    jitter: video.jitterBufferEmittedCount ? { held: video.jitterBufferDelay, emitted: video.jitterBufferEmittedCount } : null,
    // Both are the sender's time of what plays now, so their difference is what an eye and an ear notice.
    skew: both ? video.estimatedPlayoutTimestamp - audio.estimatedPlayoutTimestamp : null,
  };
}

/** The short line: frames a second, delay that the server adds, sound against picture. */
export function line(peer, server) {
  const skew = peer.skew ?? server.skew_ms?.p50 ?? null;
  return [
    `${Math.round(peer.fps ?? server.fps)} fps`,
    server.added_latency_ms && `${Math.round(server.added_latency_ms.p50)} ms delay`,
    skew !== null && `skew ${Math.round(Math.abs(skew))} ms`,
  ]
    .filter(Boolean)
    .join("  ·  ");
}

/** The long list behind the line: [name, value] pairs. */
export function list(peer, server) {
  const milliseconds = (value) => (value == null ? "not known" : `${value.toFixed(1)} ms`);
  const middle = (figure) => milliseconds(figure?.p50);
  const drops = Object.entries(server.drops ?? {}).map(([cause, count]) => `${cause.replaceAll("_", " ")} ${count}`);
  return [
    ["Pictures shown, a second", peer.fps ?? "not known"],
    ["Pictures sent, a second", server.fps],
    ["Delay added by the server", middle(server.added_latency_ms)],
    ["Network round trip", milliseconds(peer.roundTrip)],
    ["Held by the browser: sound", milliseconds(peer.soundHeld)],
    ["Held by the browser: pictures", milliseconds(peer.pictureHeld)],
    ["Sound after picture, here", milliseconds(peer.skew)],
    ["Skew of the server's clock", middle(server.skew_ms)],
    ["Sent late: sound", middle(server.lateness_ms?.audio)],
    ["Sent late: pictures", middle(server.lateness_ms?.video)],
    ["Left out by the server", drops.join(", ") || "nothing"],
    ["Dropped here", `${peer.dropped} of ${peer.decoded + peer.dropped} pictures`],
    ["Packets lost", peer.lost],
    ["Picture", [peer.codec, peer.size].filter(Boolean).join(", ") || "not known"],
    ["Server says", server.state],
  ];
}

function held(inbound) {
  if (!inbound.jitterBufferEmittedCount) return null;
  return (1000 * inbound.jitterBufferDelay) / inbound.jitterBufferEmittedCount;
}
