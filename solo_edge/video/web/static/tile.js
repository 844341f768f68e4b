// One source: its picture, what is drawn over it, and what is said about it.

import { drawOverlay, instanceAt } from "./overlay.js";

const SMALL_SIDE = 640; // longest side of the quality "small"
const MOST_PIXELS_PER_UNIT = 2; // finer screens would cost time that nobody sees

export class Tile {
  header = null; // of the picture that is shown
  highlight = null; // an instance of it
  ratio = 16 / 9; // of its width to its height
  #actions;
  #next = null;
  #busy = false;
  #pointer = null; // [x, y] in the window
  #chosen = null; // an instance that was chosen in the list
  #pinned = null; // one that was clicked
  #picture;
  #overlay;

  // actions: {settings, isPaused(), acknowledge(source), nameOf(instance), shown(), reshaped(), pointed(), opened(tile)}
  constructor(source, actions) {
    this.source = source;
    this.#actions = actions;
    this.element = document.createElement("article");
    this.element.className = "tile";
    this.element.innerHTML = `
      <canvas class="picture" role="img"></canvas><canvas class="overlay" aria-hidden="true"></canvas>
      <button class="open" type="button"></button>
      <div class="caption"><span class="dot"></span><span class="name"></span><span class="rate"></span></div>
      <div class="lost" role="status" hidden><strong></strong><span></span></div>`;
    this.#picture = this.element.querySelector(".picture");
    this.#overlay = this.element.querySelector(".overlay");
    this.element.addEventListener("pointermove", (event) => this.#point(event));
    this.element.addEventListener("pointerleave", () => this.#point(null));
    this.element.addEventListener("click", () => actions.opened(this));
    new ResizeObserver(() => this.redraw()).observe(this.element);
  }

  // How large the pictures should be that the device sends.
  get quality() {
    const { width, height } = this.element.getBoundingClientRect();
    return Math.max(width, height) * devicePixelRatio > 1.1 * SMALL_SIDE ? "full" : "small";
  }

  // A picture came. It waits until the one before is on the screen, and for the end of a pause.
  take(header, jpeg) {
    this.#next = { header, jpeg };
    this.advance();
  }

  async advance() {
    if (this.#busy || !this.#next || this.#actions.isPaused()) return;
    this.#busy = true;
    const picture = this.#next;
    this.#next = null;
    this.#actions.acknowledge(this.source); // the device makes the next one while this one is decoded
    try {
      const bitmap = await createImageBitmap(new Blob([picture.jpeg], { type: "image/jpeg" }));
      await new Promise(requestAnimationFrame); // never in a hidden tab: there it stops here
      if (this.#actions.isPaused() && this.header) this.#next ??= picture;
      else this.#show(bitmap, picture.header);
      bitmap.close();
    } finally {
      this.#busy = false;
    }
    this.advance();
  }

  // What was sent and acknowledged before the connection was lost means nothing any more.
  reset() {
    this.#next = null;
  }

  redraw() {
    if (!this.header) return;
    const { width, height } = this.element.getBoundingClientRect();
    const unit = Math.min(devicePixelRatio, MOST_PIXELS_PER_UNIT);
    const size = [Math.round(width * unit), Math.round(height * unit)];
    if (size[0] < 1 || size[1] < 1) return;
    if (this.#overlay.width !== size[0] || this.#overlay.height !== size[1]) {
      [this.#overlay.width, this.#overlay.height] = size;
    }
    this.#drawOn(this.#overlay.getContext("2d"), size[0], unit);
  }

  // Highlight this instance and what it becomes, until null is chosen.
  choose(instance) {
    this.#chosen = instance;
    this.#highlight();
    this.redraw();
  }

  // The same, until it is pinned again.
  pin(instance) {
    const again = this.#pinned && instance && match([instance], this.#pinned);
    this.#pinned = again ? null : instance;
    this.#chosen = null;
    this.#highlight();
    this.redraw();
  }

  // The picture at the size of the camera, with everything drawn into it.
  compose() {
    const canvas = document.createElement("canvas");
    [canvas.height, canvas.width] = this.header.size;
    const context = canvas.getContext("2d");
    const layer = document.createElement("canvas");
    [layer.width, layer.height] = [canvas.width, canvas.height];
    this.#drawOn(layer.getContext("2d"), layer.width, Math.max(1, Math.min(canvas.width, canvas.height) / 720));
    context.drawImage(this.#picture, 0, 0, canvas.width, canvas.height);
    context.drawImage(layer, 0, 0);
    return canvas;
  }

  describe(text) {
    this.#picture.setAttribute("aria-label", text);
  }

  #drawOn(context, width, unit) {
    const { settings, nameOf } = this.#actions;
    const scale = width / this.header.size[1];
    drawOverlay(context, this.header, settings, { scale, unit, highlight: this.highlight, nameOf });
  }

  #show(bitmap, header) {
    if (this.#picture.width !== bitmap.width || this.#picture.height !== bitmap.height) {
      [this.#picture.width, this.#picture.height] = [bitmap.width, bitmap.height];
    }
    this.#picture.getContext("2d", { alpha: false }).drawImage(bitmap, 0, 0);
    this.header = header;
    this.element.classList.add("has-picture");
    if (this.ratio !== header.size[1] / header.size[0]) {
      this.ratio = header.size[1] / header.size[0];
      this.element.style.setProperty("--ratio", this.ratio);
      this.#actions.reshaped();
    }
    this.#highlight();
    this.redraw();
    this.#actions.shown();
  }

  #point(event) {
    this.#pointer = event && [event.clientX, event.clientY];
    this.#highlight();
    this.redraw();
    this.#actions.pointed();
  }

  // Finds again what is chosen, pinned or pointed at.
  #highlight() {
    if (!this.header) return;
    const { instances } = this.header;
    this.#chosen &&= match(instances, this.#chosen) ?? this.#chosen;
    this.#pinned &&= match(instances, this.#pinned) ?? this.#pinned;
    const wanted = this.#chosen ?? this.#pinned;
    this.highlight = this.#pointedAt() ?? (instances.includes(wanted) ? wanted : null);
  }

  #pointedAt() {
    if (!this.#pointer) return null;
    const { left, top, width } = this.element.getBoundingClientRect();
    const scale = this.header.size[1] / width;
    const [x, y] = [(this.#pointer[0] - left) * scale, (this.#pointer[1] - top) * scale];
    return instanceAt(this.header.instances, x, y, this.#actions.settings) ?? null;
  }
}

// The instance that is the same thing as `old` in an earlier picture: by track, or by place.
function match(instances, old) {
  if (instances.includes(old)) return old;
  if (old.track) return instances.find((instance) => instance.track === old.track) ?? null;
  let [best, bestOverlap] = [null, 0.3];
  for (const instance of instances) {
    const overlap = instance.label === old.label ? overlapOf(instance.box, old.box) : 0;
    if (overlap > bestOverlap) [best, bestOverlap] = [instance, overlap];
  }
  return best;
}

// Intersection over union of two boxes.
function overlapOf(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}
