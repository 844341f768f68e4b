// The last minute as curves: frames per second of each source, and milliseconds by stage.

const SECONDS = 60; // one point for each status, which comes about once a second
const STAGE_COLORS = 6;

export function drawRates(canvas, points, sources, colors) {
  const rates = sources.map((source) => points.map((point) => point[source]?.fps ?? 0));
  const top = topOf(rates.flat());
  const frame = begin(canvas, top, points.length === 0, colors);
  rates.forEach((values, i) => {
    if (rates.length === 1) fillBetween(frame, values, values.map(() => 0), colors.accent, 0.16);
    line(frame, values, colors.accent, rates.length === 1 ? 2 : 1.5, 1 - (0.6 * i) / rates.length);
  });
}

// Stages of one point on top of each other; the line is the whole way, with all waiting.
export function drawStages(canvas, points, source, stages, colors) {
  const series = points.map((point) => point[source] ?? {});
  const total = series.map((point) => point.latency_ms ?? 0);
  const sums = series.map(() => 0);
  const layers = stages.map((stage) => series.map((point, i) => (sums[i] += point.stage_ms?.[stage] ?? 0)));
  const top = topOf([...total, ...sums]);
  const frame = begin(canvas, top, points.length === 0, colors);
  layers.forEach((layer, i) => {
    const below = i ? layers[i - 1] : layer.map(() => 0);
    fillBetween(frame, layer, below, colors.stages[i % STAGE_COLORS], 0.9);
  });
  line(frame, total, colors.text, 1.25, 0.75);
}

export function readColors() {
  const style = getComputedStyle(document.documentElement);
  const get = (name) => style.getPropertyValue(name).trim();
  return {
    accent: get("--accent"),
    text: get("--text"),
    quiet: get("--quiet"),
    line: get("--line"),
    stages: Array.from({ length: STAGE_COLORS }, (_, i) => get(`--stage-${i + 1}`)),
  };
}

// The top of the scale, round like its half. A few values may be higher: a hiccup at the start must not
// make everything after it flat.
function topOf(values) {
  const sorted = [1, ...values].sort((a, b) => a - b);
  const usual = sorted[Math.floor(0.95 * (sorted.length - 1))];
  const highest = Math.min(sorted.at(-1), 2 * Math.max(usual, 1));
  const step = 10 ** Math.floor(Math.log10(highest));
  return [1, 2, 4, 6, 8, 10].map((factor) => factor * step).find((round) => round >= highest);
}

// Clears the canvas and draws the scale: the top and half of it.
function begin(canvas, top, empty, colors) {
  const { width, height } = canvas.getBoundingClientRect();
  const unit = devicePixelRatio;
  const size = [Math.round(width * unit), Math.round(height * unit)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  const context = canvas.getContext("2d");
  context.setTransform(unit, 0, 0, unit, 0, 0);
  context.clearRect(0, 0, width, height);
  const plot = { left: 36, right: width - 2, top: 6, bottom: height - 4 };
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.textAlign = "right";
  context.lineWidth = 1;
  for (const value of [0, top / 2, top]) {
    const y = Math.round(plot.bottom - ((plot.bottom - plot.top) * value) / top) + 0.5;
    context.strokeStyle = colors.line;
    context.beginPath();
    context.moveTo(plot.left, y);
    context.lineTo(plot.right, y);
    context.stroke();
    context.fillStyle = colors.quiet;
    if (value && !empty) context.fillText(String(+value.toPrecision(3)), plot.left - 6, y);
  }
  const x = (i, count) => plot.right - ((count - 1 - i) * (plot.right - plot.left)) / (SECONDS - 1);
  const y = (value) => plot.bottom - ((plot.bottom - plot.top) * Math.min(value, top)) / top;
  return { context, x, y };
}

function line({ context, x, y }, values, color, width, alpha) {
  context.beginPath();
  values.forEach((value, i) => context.lineTo(x(i, values.length), y(value)));
  context.globalAlpha = alpha;
  context.strokeStyle = color;
  context.lineWidth = width;
  context.lineJoin = "round";
  context.stroke();
  context.globalAlpha = 1;
}

function fillBetween({ context, x, y }, upper, lower, color, alpha) {
  context.beginPath();
  upper.forEach((value, i) => context.lineTo(x(i, upper.length), y(value)));
  for (let i = lower.length - 1; i >= 0; i--) context.lineTo(x(i, lower.length), y(lower[i]));
  context.closePath();
  context.globalAlpha = alpha;
  context.fillStyle = color;
  context.fill();
  context.globalAlpha = 1;
}
