// The booth: takes a photo with the camera, or shows one that was chosen, asks whether the person agreed, and sends it.

const BLOCKED = "The camera is blocked. Open the site settings beside the address bar, allow the camera, then try again.";
const TROUBLES = {
  NotAllowedError: BLOCKED,
  SecurityError: BLOCKED,
  NotFoundError: "No camera was found. Connect one, or choose a photo.",
  NotReadableError: "Another program holds the camera. Close it, then try again.",
};
const INSECURE = "Browsers give the camera to pages over https:// only. Choose a photo instead.";
const TITLES = { camera: "Take a photo", review: "Use this photo?", sending: "Looking at the photo", refused: "This photo does not suit" };
const HINTS = {
  camera: "Look straight at the camera, face in the oval, mouth closed and free, light from the front.",
  review: "The server keeps it in memory only, shows it to nobody else and deletes it after a while.",
  sending: "Looking for a face …",
};

export class Booth {
  #at;
  #dialog;
  #send;
  #choose;
  #phase = "camera";
  #photo = null; // Blob that is reviewed
  #shot = false; // it came from the camera
  #stream = null; // of the camera
  #camera = ""; // its deviceId
  #sending = new AbortController();

  /** `send(photo, signal)` raises an error whose `detail` is the reason why it does not suit; `choose()` asks for a file. */
  constructor(dialog, send, choose) {
    [this.#dialog, this.#send, this.#choose] = [dialog, send, choose];
    this.#at = (id) => dialog.querySelector(`#${id}`);
    this.#at("shutter").addEventListener("click", () => this.#shoot());
    this.#at("again").addEventListener("click", () => this.#again());
    this.#at("flip").addEventListener("click", () => this.#flip());
    this.#at("use").addEventListener("click", () => this.#use());
    this.#consent.addEventListener("change", () => this.#show());
    dialog.addEventListener("close", () => this.#leave());
    // While the camera's picture is still on its way there is nothing to take.
    this.#at("finder").addEventListener("loadeddata", () => this.#show());
  }

  /** Ask about a photo that was chosen or dropped. */
  review(photo) {
    [this.#photo, this.#shot] = [photo, false];
    this.#become("review");
  }

  /** Take one with the camera. */
  async open() {
    this.#become("camera");
    await this.#wake();
  }

  get #consent() {
    return this.#at("consent").querySelector("input");
  }

  async #wake() {
    try {
      if (!navigator.mediaDevices?.getUserMedia) throw new Error();
      const size = { width: { ideal: 1280 }, height: { ideal: 960 } };
      const which = this.#camera ? { deviceId: { exact: this.#camera } } : { facingMode: "user" };
      const stream = await navigator.mediaDevices.getUserMedia({ video: { ...size, ...which } });
      if (!this.#dialog.open || this.#phase !== "camera") {
        stop(stream); // it was closed meanwhile
        return;
      }
      this.#stream = this.#at("finder").srcObject = stream;
      this.#camera = stream.getVideoTracks()[0].getSettings().deviceId ?? "";
      this.#at("finder").classList.toggle("mirrored", stream.getVideoTracks()[0].getSettings().facingMode !== "environment");
      this.#at("flip").hidden = (await cameras()).length < 2;
      this.#at("shutter").focus();
    } catch (error) {
      this.#become("camera", TROUBLES[error.name] ?? (window.isSecureContext ? TROUBLES.NotReadableError : INSECURE));
    }
  }

  async #flip() {
    const all = await cameras();
    const next = all[(all.findIndex((camera) => camera.deviceId === this.#camera) + 1) % all.length];
    this.#camera = next?.deviceId ?? "";
    this.#sleep();
    this.#show();
    await this.#wake();
  }

  async #shoot() {
    const finder = this.#at("finder");
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [finder.videoWidth, finder.videoHeight];
    canvas.getContext("2d").drawImage(finder, 0, 0);
    this.#photo = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    this.#shot = true;
    this.#become("review");
  }

  #again() {
    if (this.#shot) this.open();
    else {
      this.#dialog.close();
      this.#choose();
    }
  }

  async #use() {
    const { signal } = (this.#sending = new AbortController());
    this.#become("sending");
    try {
      await this.#send(this.#photo, signal);
      this.#dialog.close();
    } catch (error) {
      if (signal.aborted) return;
      const why = error.detail || "The photo could not be sent. See whether you are online, then try again.";
      this.#become("refused", why);
    }
  }

  #become(phase, why = "") {
    this.#phase = phase;
    if (phase !== "camera") this.#sleep();
    if (phase === "review") {
      URL.revokeObjectURL(this.#at("shot").src);
      this.#at("shot").src = URL.createObjectURL(this.#photo);
    }
    if (["camera", "review"].includes(phase)) this.#consent.checked = false; // another photo may be of somebody else
    const note = this.#at("shoot-note");
    note.textContent = why || HINTS[phase];
    note.classList.toggle("refused", Boolean(why));
    this.#show();
    if (!this.#dialog.open) this.#dialog.showModal();
    const first = { review: this.#consent, refused: this.#at("again") }[phase];
    (first ?? this.#at("shoot-title")).focus();
  }

  #show() {
    const phase = this.#phase;
    this.#dialog.dataset.phase = phase;
    this.#at("shoot-title").textContent = TITLES[phase];
    this.#at("finder").hidden = phase !== "camera";
    this.#at("shot").hidden = phase === "camera";
    this.#at("shutter").hidden = phase !== "camera";
    this.#at("shutter").disabled = !this.#stream || !this.#at("finder").videoWidth;
    this.#at("flip").hidden ||= phase !== "camera";
    this.#at("again").hidden = !["review", "refused"].includes(phase);
    this.#at("again").textContent = this.#shot ? "Retake" : "Another photo";
    this.#at("consent").hidden = phase !== "review";
    this.#at("use").hidden = !["review", "sending"].includes(phase);
    this.#at("use").disabled = phase === "sending" || !this.#consent.checked;
    this.#at("cancel").textContent = phase === "refused" ? "Close" : "Cancel";
  }

  #sleep() {
    stop(this.#stream);
    this.#stream = this.#at("finder").srcObject = null;
  }

  #leave() {
    this.#sending.abort();
    this.#sleep();
    this.#photo = null;
  }
}

async function cameras() {
  return (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "videoinput");
}

function stop(stream) {
  stream?.getTracks().forEach((track) => track.stop());
}
