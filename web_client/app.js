// Drives the page: puts the call's state into words, and the person's choices into the call.

import { Avatars } from "./avatars.js";
import { shine } from "./light.js";
import { Manner } from "./manner.js";
import { Meter } from "./meter.js";
import { Recorder } from "./recorder.js";
import { Session } from "./session.js";
import { Speaker } from "./speaker.js";
import { line, list, peerFigures } from "./stats.js";
import { words } from "./words.js";

const QUIET = 6000; // ms without an audible sound until the page asks about the microphone
const MUTED = "The returned voice is muted: from loudspeakers it would run back into your microphone.";
const HEARD = "You hear the voice together with the lips. Without headphones, mute it again.";

const at = (id) => document.getElementById(id);
const [video, picture] = [at("video"), at("picture")];
const [callButton, retryButton, playButton, earButton] = ["call", "retry", "play", "headphones"].map(at);

const session = new Session();
const meter = new Meter(at("meter"), glow);
const manner = new Manner(at("manner"), at("manner-note"));
const recorder = new Recorder(at("record"), at("record-note"), at("recorded"));
const speaker = new Speaker({ tile: at("speak"), file: at("sound"), stop: at("hush"), note: at("speech-note") });
const avatars = new Avatars({ list: at("faces"), template: at("face"), file: at("photo"), note: at("photo-note") });

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
  session.start(avatars.chosen.id, "mirror", at("microphone").value);
});

retryButton.addEventListener("click", () => session.retryNow());
addEventListener("pagehide", () => session.stop());

session.addEventListener("state", () => {
  if (!calling()) {
    meter.silence();
    mute(true);
  }
  manner.attach(session.state === "live" ? session.address : null);
  const call = calling() && session.address ? session : null;
  recorder.attach(call);
  speaker.attach(call);
  at("invite").hidden = !session.room;
  at("invite").href = `watch.html#${session.room}`;
  if (session.state === "live") meter.heardAt = performance.now();
  show();
});

session.addEventListener("microphone", () => {
  meter.listen(session.microphone);
  listMicrophones();
});

session.addEventListener("stream", () => {
  video.srcObject = session.stream;
  play();
});

/** Muted video may start by itself, except where a phone saves power: then a tap has to do it. */
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

// State in words

function show() {
  const state = avatars.chosen ? session.state : "waking";
  const silent = state === "live" && performance.now() - meter.heardAt > QUIET;
  const call = { ...session, state };
  const { headline, advice, countdown = "", button } = words(call, performance.now(), silent);
  document.body.dataset.state = state;
  video.classList.toggle("shown", state === "live" && !video.paused && video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA);
  say(at("headline"), headline);
  say(at("advice"), advice);
  say(at("countdown"), countdown);
  say(callButton, button);
  callButton.disabled = state === "waking";
  retryButton.hidden = state !== "waiting";
  if (state !== "live" && state !== "connecting") playButton.hidden = true;
  earButton.disabled = state !== "live" && video.muted;
}

/** Screen readers speak what is written anew, so nothing is written twice. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

setInterval(show, 500);

// Returned voice

function mute(muted) {
  video.muted = muted;
  say(earButton.querySelector("span"), muted ? "I wear headphones" : "Mute the returned voice");
  say(at("ear-note"), muted ? MUTED : HEARD);
}

earButton.addEventListener("click", () => mute(!video.muted));

// Microphones

async function listMicrophones() {
  const devices = await navigator.mediaDevices.enumerateDevices();
  const named = devices.filter((device) => device.kind === "audioinput" && device.label);
  if (!named.length) return; // no permission yet: the list would be anonymous
  const select = at("microphone");
  const current = session.microphone?.getAudioTracks()[0].getSettings().deviceId ?? select.value;
  select.replaceChildren(...named.map((device) => new Option(device.label, device.deviceId)));
  select.value = named.some((device) => device.deviceId === current) ? current : named[0].deviceId;
  select.disabled = false;
}

at("microphone").addEventListener("change", () => {
  if (session.microphone) session.useMicrophone(at("microphone").value).catch((error) => session.fail(error));
});
navigator.mediaDevices?.addEventListener("devicechange", listMicrophones);
if (navigator.mediaDevices) listMicrophones();

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

const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
const dropping = (over) => document.body.classList.toggle("dropping", over);

addEventListener("dragover", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault(); // else the browser opens the photo in place of the page
  dropping(true);
});

addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) dropping(false);
});

addEventListener("drop", (event) => {
  dropping(false);
  if (!carriesFile(event)) return;
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file?.type.startsWith("audio/")) speaker.add(file);
  else avatars.add(file);
});

// Figures

async function measure() {
  const figures = await session.figures().catch(() => null);
  if (!figures) return;
  const [peer, server] = [peerFigures(figures[0]), figures[1]];
  say(at("line"), line(peer, server));
  recorder.follow(server.recording);
  speaker.follow(server.speech);
  if (!at("figures").open) return;
  at("list").replaceChildren(
    ...list(peer, server).flatMap(([name, value]) => [
      Object.assign(document.createElement("dt"), { textContent: name }),
      Object.assign(document.createElement("dd"), { textContent: value }),
    ]),
  );
}

setInterval(measure, 1000);
avatars.load();
