// What the page says in every state: a headline, what to do, and the label of the one big button.

const STATES = {
  waking: ["Waking up", "The server is getting its faces ready."],
  asking: ["Asking for the microphone", "Choose “Allow” in the question that your browser shows."],
  connecting: ["Connecting", "The face is on its way."],
};

// Before a call and in it, by who speaks.
const MODES = {
  mirror: {
    idle: ["Lend this face your voice.", "Press Start, allow the microphone and speak. The face talks along with you."],
    live: ["It speaks with you.", "Say anything, in any language. The lips follow your voice."],
  },
  agent: {
    idle: ["Talk with this face.", "Press Start, allow the microphone and ask something. The assistant answers."],
    live: ["It hears you.", "Speak, and pause: it answers. Speak again to interrupt it."],
  },
  speak: {
    idle: ["Give this face words.", "Press Start, then type what it is to say."],
    live: ["It says what you type.", "Write below, and press Enter."],
  },
  presenter: {
    idle: ["Put this face on stage.", "Write a script, press Go on stage, and give viewers the link. No microphone is needed."],
    live: ["You are on stage.", "Everybody with the link sees and hears the face."],
  },
};

const ERRORS = {
  denied: [
    "The microphone is blocked",
    "Open the site settings beside the address bar, allow the microphone, then press Start again.",
  ],
  "no-microphone": ["No microphone found", "Connect a microphone or a headset, then press Start again."],
  "microphone-busy": [
    "The microphone is in use",
    "Another program holds it, or the system does not let the browser have it. Close that program, then press Start again.",
  ],
  insecure: [
    "This page needs HTTPS",
    "Browsers give the microphone to secure pages only. Open this page over https://, or on the server's own machine as http://localhost.",
  ],
  unsupported: ["This browser cannot make calls", "Open the page in a current Chrome, Edge, Firefox or Safari."],
  gone: ["The server does not answer", "See whether it still runs and whether you are online, then press Start again."],
  ended: [
    "The call is over",
    "The server ended it: nobody spoke for a long time, or its time was up. Press Start to go on.",
  ],
  blocked: [
    "No way through the network",
    "The server answers, but sound and picture do not get through. A firewall or a VPN may block UDP; try another network, or ask for a TURN server.",
  ],
  unknown: ["This face is gone", "The server does not know it any more. Choose another one, then press Start again."],
  mode: ["That is not set up here", "Choose another way to speak, then press Start."],
  refused: ["The server said no", "Press Start to try again."],
  unavailable: ["The server takes no calls", "Press Start to try again."],
  unexpected: ["Something went wrong", "Press Start to try again."],
};

const SILENT = "I hear nothing yet. Is the right microphone chosen, and is it switched on?";

/**
 * `call`: `{state, error, attempt, retryAt, mode}` of a Session, and the page's `view`; `silent`: nothing was heard for
 * a while.
 */
export function words(call, now, silent = false) {
  const onStage = call.view === "presenter";
  const start = onStage ? "Go on stage" : "Start";
  const button = { idle: start, failed: start, waking: start, waiting: "Stop waiting" }[call.state] ?? "Stop";
  if (call.state === "failed") {
    const [headline, advice] = ERRORS[call.error.code] ?? ERRORS.unexpected;
    const told = call.error.code === "unknown" ? "" : call.error.detail;
    return { headline, advice: [told, advice].filter(Boolean).join(" "), button };
  }
  if (call.state === "reconnecting") {
    return { headline: "Connection lost", advice: `Getting it back, attempt ${call.attempt}.`, button };
  }
  if (call.state === "waiting") {
    const seconds = Math.max(0, Math.ceil((call.retryAt - now) / 1000));
    return { headline: "Full house", advice: call.error.detail, countdown: `Next try in ${seconds} s.`, button };
  }
  const [headline, advice] = STATES[call.state] ?? MODES[onStage ? "presenter" : (call.mode ?? "mirror")][call.state];
  return { headline, advice: silent ? SILENT : advice, button };
}
