// What is heard of the face here: its sound, or nothing.

// By whether the face speaks with the caller's own voice: the button and the note, muted and not.
const WORDS = {
  own: {
    muted: ["I wear headphones", "The returned voice is muted: from loudspeakers it would run back into your microphone."],
    heard: ["Mute the returned voice", "You hear the voice together with the lips. Without headphones, mute it again."],
  },
  other: {
    muted: ["Hear the face", "You do not hear what the face says. Viewers and recordings do."],
    heard: ["Mute the face", "You hear what the face says."],
  },
};

export class Ear {
  #parts;
  #kind = "own";

  /** `parts`: {video, button, note, subtitles}. */
  constructor(parts) {
    this.#parts = parts;
    parts.button.addEventListener("click", () => this.#mute(!parts.video.muted));
  }

  /** Begin as it suits the mode: one's own voice from a loudspeaker would be an echo. */
  follow(mode) {
    this.#kind = mode === "mirror" ? "own" : "other";
    this.#mute(mode === "mirror");
  }

  #mute(muted) {
    const { video, button, note, subtitles } = this.#parts;
    const [label, text] = WORDS[this.#kind][muted ? "muted" : "heard"];
    video.muted = muted;
    button.querySelector("span").textContent = label;
    if (note.textContent !== text) note.textContent = text;
    // A screen reader would talk over the face; it reads subtitles out where the face is not heard.
    subtitles.setAttribute("aria-live", muted ? "polite" : "off");
  }
}
