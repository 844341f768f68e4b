// The WebSocket to the device: comes back by itself, and says what is wrong while it is away.

const FIRST_WAIT_S = 0.25;
const LONGEST_WAIT_S = 4;
const SILENCE_S = 6; // the device says something every two seconds

export class Connection {
  #socket = null;
  #watched = {};
  #wait = FIRST_WAIT_S;
  #retryAt = 0;
  #silence = 0;
  #on;

  // on: {text(message), picture(header, jpeg), state(why, secondsToRetry)}; why is "" while all is well.
  constructor(on) {
    this.#on = on;
    this.#connect();
  }

  // Which sources to get, and how large: {0: "full", 2: "small"}.
  watch(watched) {
    this.#watched = watched;
    this.#send({ watch: watched });
  }

  // The last picture of this source is taken; the next one may come.
  acknowledge(source) {
    this.#send({ ack: source });
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #connect() {
    const address = new URL("/ws", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    socket.onopen = () => this.watch(this.#watched);
    socket.onmessage = ({ data }) => {
      this.#listen();
      if (typeof data !== "string") return this.#on.picture(...parts(data));
      this.#wait = FIRST_WAIT_S;
      const message = JSON.parse(data);
      if (message.type === "hello") this.#on.state("");
      this.#on.text(message);
    };
    socket.onclose = () => this.#lost();
    this.#listen();
  }

  #listen() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => {
      // A device that lost its power says no goodbye, and closing would wait for one.
      this.#socket.onclose = this.#socket.onmessage = null;
      this.#socket.close();
      this.#lost();
    }, 1000 * SILENCE_S);
  }

  async #lost() {
    clearTimeout(this.#silence);
    this.#retryAt = performance.now() + 1000 * this.#wait;
    setTimeout(() => this.#connect(), 1000 * this.#wait);
    this.#wait = Math.min(2 * this.#wait, LONGEST_WAIT_S);
    this.#on.state("away", this.secondsToRetry);
    this.#on.state(await reason(), this.secondsToRetry);
  }

  get secondsToRetry() {
    return Math.max(0, (this.#retryAt - performance.now()) / 1000);
  }
}

// A picture's header and its JPEG.
function parts(data) {
  const length = new DataView(data).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  return [header, new Uint8Array(data, 4 + length)];
}

// A browser does not tell why a WebSocket failed; a plain request does.
async function reason() {
  try {
    const response = await fetch("/status.json", { cache: "no-store", signal: AbortSignal.timeout(3000) });
    if (response.status === 401) return "token";
    const status = await response.json();
    return status.viewers >= status.most_viewers ? "full" : "away";
  } catch {
    return "away";
  }
}
