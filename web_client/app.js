// Drives the page: puts the call's state into words, and the person's choices into the call.

import { Avatars } from "./avatars.js";
import { Channel } from "./channel.js";
import { Conversation } from "./conversation.js";
import { takesDrops } from "./drop.js";
import { Ear } from "./ear.js";
import { Figures } from "./figures.js";
import { shine } from "./light.js";
import { Manner } from "./manner.js";
import { Meter } from "./meter.js";
import { Microphone } from "./microphone.js";
import { Modes } from "./modes.js";
import { Booth } from "./photo.js";
import { Presenter } from "./presenter.js";
import { Recorder } from "./recorder.js";
import { Session } from "./session.js";
import { Speaker } from "./speaker.js";
import { Speech } from "./speech.js";
import { View, fills } from "./view.js";
import { Voices } from "./voices.js";
import { words } from "./words.js";

const QUIET = 6000; // ms without an audible sound until the page asks about the microphone

const at = (id) => document.getElementById(id);
const [video, picture, callButton, retryButton, playButton] = ["video", "picture", "call", "retry", "play"].map(at);
const parts = (names) => Object.fromEntries(Object.entries(names).map(([name, id]) => [name, at(id)]));

const session = new Session();
const channel = new Channel();
const view = new View(at("views"));
const modes = new Modes(at("modes"), view, channel);
const meter = new Meter(at("meter"), glow);
const microphone = new Microphone(parts({ select: "microphone", mute: "mute", push: "push", talk: "talk" }), session);
const ear = new Ear(parts({ video: "video", button: "headphones", note: "ear-note", subtitles: "subtitles" }));
const manner = new Manner(at("manner"), channel);
const voices = new Voices(at("voice"), channel);
const conversation = new Conversation(parts({ turn: "turn", subtitles: "subtitles", trouble: "trouble" }), channel);
const speech = new Speech(parts({ form: "say", words: "words", note: "say-note", interrupt: "interrupt" }), session, channel);
const script = parts({ editor: "editor", lines: "lines", list: "prompter", now: "now", next: "next", edit: "edit" });
const presenter = new Presenter(script, speech, channel);
const recorder = new Recorder(at("record"), at("record-note"), at("recorded"));
const speaker = new Speaker(parts({ tile: "speak", file: "sound", stop: "hush", note: "speech-note" }));
const avatars = new Avatars(parts({ list: "faces", template: "face", file: "photo", note: "photo-note" }));
const booth = new Booth(at("shoot"), (photo, signal) => avatars.add(photo, signal), () => at("photo").click());
const panel = parts({ details: "figures", line: "line", list: "list", plot: "plot", note: "plot-note", stages: "stages" });
new Figures(panel, session, (server) => {
  recorder.follow(server.recording);
  speaker.follow(modes.wanted === "mirror" ? server.speech : null); // elsewhere texts are spoken as well
});

/** The voice lights the frame, in few steps: without a graphics card every one is a picture painted by the processor. */
function glow(level) {
  at("halo").style.setProperty("--level", Math.min(1, Math.round(level * 6) / 4));
}

const calling = () => !["idle", "failed"].includes(session.state);

// The call

callButton.addEventListener("click", () => {
  if (calling()) {
    session.stop();
    return;
  }
  meter.wake();
  ear.follow(modes.wanted);
  // Within the tap: phones then let the same element play whatever comes later, sound included.
  video.srcObject = new MediaStream();
  video.play().catch(() => {});
  session.start(avatars.chosen.id, modes.wanted, microphone.chosen);
});

retryButton.addEventListener("click", () => session.retryNow());
addEventListener("online", () => session.retryNow());
addEventListener("pagehide", () => session.stop());

session.addEventListener("state", () => {
  const live = session.state === "live";
  if (!calling()) {
    meter.silence();
    conversation.end();
  }
  if (!live) modes.forget();
  if (session.state === "connecting") {
    conversation.tell("");
    presenter.forget();
  }
  manner.attach(live ? session.address : null);
  channel.follow(live ? session.address : null);
  const call = calling() && session.address ? session : null;
  recorder.attach(call);
  speaker.attach(call);
  speech.attach(live);
  presenter.attach(live, view.name === "presenter");
  microphone.show();
  at("invite").hidden = at("copy").hidden = !session.room;
  at("invite").href = `watch.html#${session.room}`;
  if (live) meter.heardAt = performance.now();
  show();
});

session.addEventListener("microphone", () => {
  if (session.microphone) meter.listen(session.microphone);
  else meter.silence();
  microphone.show();
  microphone.list();
});

session.addEventListener("stream", () => {
  video.srcObject = session.stream;
  play();
});

/** Where a browser does not let it start by itself, a tap has to do it. */
async function play() {
  try {
    await video.play();
    playButton.hidden = true;
  } catch (error) {
    if (error.name === "NotAllowedError") playButton.hidden = false;
  }
}

playButton.addEventListener("click", play);
video.addEventListener("playing", show);

at("copy").addEventListener("click", async () => {
  const said = at("copy").querySelector("span");
  const copied = await navigator.clipboard?.writeText(at("invite").href).then(() => true, () => false);
  say(said, copied ? "Copied" : "Open the page, and copy its address");
  setTimeout(() => say(said, "Copy link"), 3000);
});

// Who speaks

async function follow() {
  document.body.dataset.mode = modes.wanted;
  presenter.attach(session.state === "live", view.name === "presenter");
  if (modes.wanted !== "mirror") voices.load();
  if (!calling()) ear.follow(modes.wanted);
  else if (modes.wanted !== session.mode) {
    const before = session.mode;
    try {
      await session.useMode(modes.wanted, microphone.chosen);
      ear.follow(session.mode);
      modes.agree();
    } catch (error) {
      const [headline, advice] = Object.values(words({ state: "failed", error }));
      conversation.tell(`${headline}. ${advice}`);
      modes.choose(before);
    }
  }
  show();
}

modes.addEventListener("change", follow);
at("captions").addEventListener("change", ({ target }) => at("subtitles").classList.toggle("off", !target.checked));

// State in words

function show() {
  const state = avatars.chosen ? session.state : "waking";
  const heard = session.microphone && !microphone.closed;
  const silent = state === "live" && heard && performance.now() - meter.heardAt > QUIET;
  const call = { ...session, state, mode: modes.wanted, view: view.name };
  const { headline, advice, countdown = "", button } = words(call, performance.now(), silent);
  document.body.dataset.state = state;
  video.classList.toggle("shown", state === "live" && !video.paused && video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA);
  say(at("headline"), headline);
  say(at("advice"), (state === "live" && session.microphone && microphone.closed) || advice);
  say(at("countdown"), countdown);
  say(callButton, button);
  callButton.disabled = state === "waking";
  retryButton.hidden = state !== "waiting";
  if (state !== "live" && state !== "connecting") playButton.hidden = true;
  at("headphones").disabled = state !== "live";
}

/** Screen readers speak what is written anew, so nothing is written twice. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

setInterval(show, 500);

// Faces

avatars.addEventListener("choice", () => {
  picture.src = avatars.chosen.picture;
  picture.alt = `Portrait: ${avatars.chosen.title}`;
  if (calling()) session.useAvatar(avatars.chosen.id);
  show();
});

picture.addEventListener("load", () => {
  picture.hidden = false;
  shine(picture, at("light"));
});

at("camera").addEventListener("click", () => booth.open());
at("photo").addEventListener("change", ({ target }) => {
  const [photo] = target.files;
  if (photo) booth.review(photo);
  target.value = ""; // so that the same file can be chosen again
});
takesDrops((file) => (file.type.startsWith("audio/") ? speaker.add(file) : booth.review(file)));

fills(at("fill"), at("frame"));
follow();
avatars.load();
