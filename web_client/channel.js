// The channel of a call: messages beside its sound and pictures, on a WebSocket that is opened anew when it breaks.

const AGAIN = 1000; // ms until a channel that broke is opened once more

/** Events have the name of the server's message, and the message as `detail`; "state" is the first on every channel. */
export class Channel extends EventTarget {
  #address = null; // of the call that is up
  #socket = null;

  /** Follow the call at `address`, or none. */
  follow(address) {
    if (address === this.#address) return;
    this.#address = address;
    this.#socket?.close();
    this.#socket = null;
    if (address) this.#open();
  }

  /** Whether the message was on its way; what a closed channel is told is lost. */
  send(type, members = {}) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify({ type, ...members }));
    return true;
  }

  #open() {
    const socket = (this.#socket = new WebSocket(`${this.#address.replace(/^http/, "ws")}/audio`));
    socket.addEventListener("message", ({ data }) => {
      if (this.#socket !== socket) return;
      const message = JSON.parse(data);
      this.dispatchEvent(new CustomEvent(message.type, { detail: message }));
    });
    socket.addEventListener("close", () => {
      if (this.#socket !== socket) return;
      this.#socket = null;
      setTimeout(() => this.#address && !this.#socket && this.#open(), AGAIN);
    });
  }
}
