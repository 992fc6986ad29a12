// A WHIP endpoint (RFC 9725) with WHEP for those who watch, on werift's WebRTC: packets are passed on as they came.
//
// node whip_endpoint.cjs PORT TOKEN   (NODE_PATH names the folder that werift is installed in)
const { createServer } = require("node:http");
const { RTCPeerConnection, useOPUS, useVP8, usePLI, useNACK } = require("werift");

const [port, token] = process.argv.slice(2);
let publisher = null;
const viewers = new Set();

function connection() {
  const video = useVP8({ rtcpFeedback: [useNACK(), usePLI()] });
  return new RTCPeerConnection({ codecs: { audio: [useOPUS()], video: [video] }, iceServers: [] });
}

async function answered(peer, offer) {
  await peer.setRemoteDescription({ type: "offer", sdp: offer });
  await peer.setLocalDescription(await peer.createAnswer());
  return peer.localDescription.sdp;
}

function passOn(track) {
  track.onReceiveRtp.subscribe((packet) => {
    for (const viewer of viewers) viewer.senders[track.kind]?.sendRtp(packet.clone());
  });
}

async function publish(offer) {
  const peer = connection();
  publisher = { peer, receivers: {} };
  peer.onTrack.subscribe((track) => passOn(track));
  peer.onTransceiverAdded.subscribe((transceiver) => {
    publisher.receivers[transceiver.kind] = transceiver.receiver;
  });
  return answered(peer, offer);
}

async function watch(offer) {
  const peer = connection();
  const viewer = { peer, senders: {} };
  viewers.add(viewer);
  peer.onTransceiverAdded.subscribe((transceiver) => {
    transceiver.setDirection("sendonly");
    viewer.senders[transceiver.kind] = transceiver.sender;
  });
  const answer = await answered(peer, offer);
  peer.connectionStateChange.subscribe((state) => {
    if (state === "connected") askForPicture();
  });
  return answer;
}

function askForPicture() {
  const video = publisher?.receivers.video;
  for (const track of video?.tracks ?? []) video.sendRtcpPLI(track.ssrc);
}

createServer(async (request, response) => {
  const say = (status, headers = {}, body = "") => response.writeHead(status, headers).end(body);
  if (request.url === "/moved") return say(307, { Location: "/whip" });
  if (request.url.startsWith("/whip") && request.headers.authorization !== `Bearer ${token}`) return say(401);
  let body = "";
  for await (const part of request) body += part;
  try {
    if (request.method === "POST" && request.url === "/whip") {
      if (request.headers["content-type"] !== "application/sdp") return say(415);
      if (publisher) return say(409, {}, "somebody publishes already");
      return say(201, { "Content-Type": "application/sdp", Location: "/whip/1" }, await publish(body));
    }
    if (request.method === "POST" && request.url === "/whep") {
      const headers = { "Content-Type": "application/sdp", Location: "/whep/1", ETag: '"1"' };
      return say(201, headers, await watch(body));
    }
    if (request.method === "DELETE" && request.url === "/whip/1" && publisher) {
      await publisher.peer.close();
      publisher = null;
      return say(200);
    }
    say(404);
  } catch (error) {
    console.error(error);
    say(500, {}, String(error));
  }
}).listen(Number(port), "127.0.0.1", () => console.log("ready"));
