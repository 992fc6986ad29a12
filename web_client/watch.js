// The page of a viewer: /watch.html#ROOM. It comes in by itself, waits where nobody is on, and comes back when it was lost.

import { shine } from "./light.js";
import { watch } from "./whep.js";

const AGAIN = 3000; // ms between attempts, where the server does not name a time
const GLOW = 2000; // ms between looks at the colours of the picture

const WORDS = {
  connecting: ["Coming in", "The face is on its way."],
  live: ["You are watching live.", "Sound and lips belong together: turn the sound on."],
  heard: ["You are watching live.", "Close the page to leave."],
  nobody: ["Nobody is on.", "This page goes on by itself as soon as somebody speaks here."],
  full: ["Every seat is taken.", "This page comes in by itself as soon as there is one."],
  blocked: ["No way through the network", "A firewall or a VPN may block UDP. This page keeps trying."],
  gone: ["The server does not answer", "This page keeps trying."],
  nowhere: ["Which room?", "The address of this page ends with the name of a room: open the link that you were sent."],
};
const PROBLEMS = { unknown: "nobody", unavailable: "full", blocked: "blocked", gone: "gone" };

const at = (id) => document.getElementById(id);
const video = at("video");
let viewer = null;

async function stay() {
  const room = decodeURIComponent(location.hash.slice(1));
  if (!room) {
    show("failed", "nowhere");
    return;
  }
  show("connecting", "connecting");
  try {
    viewer = await watch(room, come);
    video.srcObject = viewer.stream;
    await video.play();
    show("live", video.muted ? "live" : "heard");
  } catch (error) {
    const known = PROBLEMS[error.code];
    show("waiting", known ?? "gone", known ? "" : error.detail);
    setTimeout(stay, error.retryAfter * 1000 || AGAIN);
  }
}

/** The connection is over: the call ended, or the network did. */
function come() {
  viewer = null;
  stay();
}

function show(state, words, detail = "") {
  const [headline, advice] = WORDS[words];
  document.body.dataset.state = state;
  video.classList.toggle("shown", state === "live");
  at("headline").textContent = headline;
  at("advice").textContent = detail || advice;
  at("sound").hidden = state !== "live";
}

at("sound").addEventListener("click", () => {
  video.muted = !video.muted;
  at("sound").textContent = video.muted ? "Sound on" : "Sound off";
  show("live", video.muted ? "live" : "heard");
});

setInterval(() => {
  if (viewer && video.videoWidth && !document.hidden) shine(video, at("light"));
}, GLOW);

addEventListener("hashchange", () => location.reload());
addEventListener("pagehide", () => viewer?.leave());
stay();
