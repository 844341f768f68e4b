// Draws what was found onto a canvas. Coordinates are pixels of the camera's picture.

const NARROW = 300; // of the page's pixels: in a smaller picture names would hide what they name
const CROWD = 12; // with more instances, only those have names in which the name fits
const FONT = "600 12px system-ui, sans-serif";
const PLATE = { height: 19, padding: 6, radius: 4 };
const tint = document.createElement("canvas");

export function isVisible(instance, settings) {
  return instance.score >= settings.minScore && !settings.hidden.has(instance.label);
}

// The best visible instance at a point, if there is one.
export function instanceAt(instances, x, y, settings) {
  const context = tint.getContext("2d");
  context.resetTransform();
  return instances.find(
    (instance) => isVisible(instance, settings) && context.isPointInPath(pathOf(instance), x, y, "evenodd"),
  );
}

// scale: pixels of the canvas for each of the picture; unit: pixels of the canvas for each of the page.
export function drawOverlay(context, header, settings, { scale, unit, highlight, nameOf }) {
  const { canvas } = context;
  context.resetTransform();
  context.clearRect(0, 0, canvas.width, canvas.height);
  const visible = header.instances.filter((instance) => isVisible(instance, settings));
  drawMasks(context, visible, settings.opacity, scale, highlight);
  drawOutlines(context, visible, scale, unit, highlight);
  for (const shape of header.shapes) drawShape(context, shape, scale, unit);
  const withNames = settings.labels && canvas.width / unit >= NARROW;
  const named = withNames ? visible : visible.filter((instance) => instance === highlight);
  drawNames(context, named, scale, unit, highlight, nameOf);
}

export function rgb([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}

function pathOf(instance) {
  if (!instance.path) {
    instance.path = new Path2D();
    for (const line of instance.outlines) instance.path.addPath(pathAlong(line, true));
  }
  return instance.path;
}

function pathAlong(points, closed) {
  const path = new Path2D();
  path.moveTo(points[0], points[1]);
  for (let i = 2; i < points.length; i += 2) path.lineTo(points[i], points[i + 1]);
  if (closed) path.closePath();
  return path;
}

// A pixel's centre is half a pixel from its corner, where the canvas has its origin.
function inPicture(context, scale) {
  context.setTransform(scale, 0, 0, scale, 0.5 * scale, 0.5 * scale);
}

function drawMasks(context, instances, opacity, scale, highlight) {
  const { width, height } = context.canvas;
  if (tint.width !== width || tint.height !== height) [tint.width, tint.height] = [width, height];
  const colors = tint.getContext("2d");
  colors.resetTransform();
  colors.clearRect(0, 0, width, height);
  inPicture(colors, scale);
  // Full colours first and the opacity afterwards: where masks overlap, the best one is seen.
  for (const instance of instances.toReversed()) {
    colors.globalAlpha = highlight && instance !== highlight ? 0.4 : 1;
    colors.fillStyle = rgb(instance.color);
    colors.fill(pathOf(instance), "evenodd");
  }
  colors.globalAlpha = 1;
  context.globalAlpha = opacity;
  context.drawImage(tint, 0, 0);
  context.globalAlpha = 1;
}

function drawOutlines(context, instances, scale, unit, highlight) {
  inPicture(context, scale);
  context.lineJoin = "round";
  for (const instance of instances.toReversed()) {
    const chosen = instance === highlight;
    if (chosen) {
      context.strokeStyle = "#fff";
      context.lineWidth = (5.5 * unit) / scale;
      context.stroke(pathOf(instance));
    }
    context.strokeStyle = rgb(instance.color);
    context.lineWidth = ((chosen ? 3 : 2) * unit) / scale;
    context.globalAlpha = highlight && !chosen ? 0.5 : 1;
    context.stroke(pathOf(instance));
  }
  context.globalAlpha = 1;
}

function drawShape(context, shape, scale, unit) {
  inPicture(context, scale);
  const path = pathAlong(shape.points, shape.closed);
  context.setLineDash([]);
  for (const [color, width] of [["rgb(20 20 20 / .7)", 4], ["#fff", 2]]) {
    context.strokeStyle = color;
    context.lineWidth = (width * unit) / scale;
    context.stroke(path);
  }
  const text = [shape.name, shape.text].filter(Boolean).join(" · ");
  if (!text) return;
  context.setTransform(unit, 0, 0, unit, 0, 0);
  context.font = FONT;
  const [x, y] = [(shape.points[0] * scale) / unit, (shape.points[1] * scale) / unit];
  drawPlate(context, text, placed(context, text, x + 6, y + 6), [32, 32, 32]);
}

function drawNames(context, instances, scale, unit, highlight, nameOf) {
  context.setTransform(unit, 0, 0, unit, 0, 0);
  context.font = FONT;
  const taken = [];
  const plates = [];
  const order = instances.toSorted((a, b) => (b === highlight) - (a === highlight));
  for (const instance of order) {
    const box = instance.box.map((edge) => (edge * scale) / unit);
    const text = nameOf(instance);
    const [left, top, right, bottom] = box;
    const spots = [top - PLATE.height, top, bottom - PLATE.height, bottom].map((y) => placed(context, text, left, y));
    const crowded = instances.length > CROWD && spots[0].width > right - left;
    if (right === left || (crowded && instance !== highlight)) continue;
    const spot = spots.find((candidate) => !taken.some((other) => overlap(candidate, other)));
    if (!spot) continue;
    taken.push(spot);
    plates.push([text, spot, instance.color]);
  }
  for (const [text, spot, color] of plates.toReversed()) drawPlate(context, text, spot, color);
}

// A plate at this place, moved so that it stays inside the canvas.
function placed(context, text, x, y) {
  const width = Math.ceil(context.measureText(text).width) + 2 * PLATE.padding;
  const unit = context.getTransform().a;
  const inside = (value, size, room) => Math.max(0, Math.min(value, room / unit - size));
  return {
    x: inside(x, width, context.canvas.width),
    y: inside(y, PLATE.height, context.canvas.height),
    width,
    height: PLATE.height,
  };
}

function overlap(a, b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

function drawPlate(context, text, { x, y, width, height }, color) {
  context.fillStyle = rgb(color);
  context.beginPath();
  context.roundRect(x, y, width, height, PLATE.radius);
  context.fill();
  context.fillStyle = inkOn(color);
  context.textBaseline = "middle";
  context.fillText(text, x + PLATE.padding, y + height / 2 + 0.5);
}

// Black or white, whichever reads better: at least 4.5 to 1 (WCAG 2).
export function inkOn(color) {
  const [red, green, blue] = color.map((value) => {
    const channel = value / 255;
    return channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
}
