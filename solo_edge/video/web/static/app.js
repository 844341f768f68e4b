// The page: puts connection, pictures and panel together.

import { Connection } from "./connection.js";
import { drawRates, drawStages, readColors } from "./graphs.js";
import { addEvents, showClasses, showInstances, showLegend } from "./panel.js";
import { Tile } from "./tile.js";

const PANEL_MS = 200; // numbers that change faster cannot be read
const HISTORY = 60;
const REASONS = {
  auth: "wrong user or password",
  not_found: "not found",
  timeout: "no answer",
  stalled: "stalled",
  decode: "no video comes",
  gone: "disconnected",
};
const AWAY = {
  away: "Connection lost",
  full: "All places for viewers are taken",
  token: "A token is needed: open the address that was printed at the start",
};

const element = (id) => document.getElementById(id);
const settings = { minScore: 0.3, opacity: 0.5, labels: true, hidden: new Set() };
const seen = new Map(); // label -> {count, color}: classes that were seen, and how many are in view
let classes = [];
let sources = []; // the latest status of each
let statusAt = 0;
let history = [];
let tiles = [];
let focused = null; // the tile that fills the stage; null for the grid
let paused = false;
let away = "starting";
let panelTimer = 0;
let colors = readColors();

const actions = {
  settings,
  isPaused: () => paused,
  acknowledge: (source) => connection.acknowledge(source),
  nameOf: ({ label, track, score }) =>
    [classes[label] ?? `class ${label}`, track && `#${track}`, score.toFixed(2)].filter(Boolean).join(" "),
  shown: () => refreshSoon(),
  reshaped: () => arrange(),
  pointed: () => refreshSoon(),
  opened: (tile) => (focused || tiles.length === 1 ? tile.pin(tile.highlight) : focus(tile)),
};
const rowActions = {
  enter: (tile, instance) => tile.choose(instance),
  leave: (tile) => tile.choose(null),
  pick: (tile, instance) => tile.pin(instance),
};

const connection = new Connection({
  picture: (header, jpeg) => tiles[header.source]?.take(header, jpeg),
  text: (message) => ({ hello, status, events })[message.type](message),
  state: (why) => {
    away = why;
    document.body.classList.toggle("away", Boolean(why));
    if (why) tiles.forEach((tile) => tile.reset());
    showState();
  },
});

function hello(message) {
  classes = message.classes;
  history = message.history;
  element("events").replaceChildren();
  if (tiles.length !== message.sources.length) {
    settings.minScore = message.min_score;
    element("score").value = message.min_score;
    tiles = message.sources.map((_, i) => new Tile(i, actions));
    element("tiles").replaceChildren(...tiles.map((tile) => tile.element));
    focus(null);
    showSettings();
  }
  status(message, { isNew: false });
  addEvents(message.events, sources);
  watch();
}

function status(message, { isNew = true } = {}) {
  classes = message.classes;
  sources = message.sources;
  statusAt = performance.now();
  if (isNew && message.point) history = [...history, message.point].slice(-HISTORY);
  showState();
  showSpeed();
}

function events(message) {
  addEvents(message.events, sources);
}

// Ask for the pictures that can be seen, as large as they are shown.
function watch() {
  const visible = focused ? [focused] : tiles;
  connection.watch(Object.fromEntries(visible.map((tile) => [tile.source, tile.quality])));
}

function focus(tile) {
  focused = tile;
  element("stage").classList.toggle("single", tile !== null || tiles.length < 2);
  for (const other of tiles) other.element.hidden = tile !== null && other !== tile;
  element("back").hidden = tiles.length < 2 || tile === null;
  arrange();
  showState();
  showSpeed();
  refresh();
  watch();
}

// The stage gets the shape of what is on it.
function arrange() {
  const visible = focused ? [focused] : tiles;
  const columns = Math.ceil(Math.sqrt(visible.length));
  const rows = Math.ceil(visible.length / columns);
  element("tiles").style.setProperty("--columns", columns);
  element("tiles").style.setProperty("--rows", rows);
  element("stage").style.setProperty("--stage-ratio", (visible[0].ratio * columns) / rows);
}

function refreshSoon() {
  panelTimer ||= setTimeout(refresh, PANEL_MS);
}

// The lists, from the pictures that are shown.
function refresh() {
  clearTimeout(panelTimer);
  panelTimer = 0;
  const visible = focused ? [focused] : tiles;
  for (const entry of seen.values()) entry.count = 0;
  for (const { label, color, track } of visible.flatMap((tile) => tile.header?.instances ?? [])) {
    const entry = seen.get(label) ?? { count: 0, color: null };
    seen.set(label, { count: entry.count + 1, color: track === null ? color : null });
  }
  showClasses(seen, classes, settings, changed);
  showInstances(visible, classes, settings, rowActions);
}

function changed() {
  showSettings();
  for (const tile of tiles) tile.redraw();
  refresh();
}

function showSettings() {
  element("score-value").value = settings.minScore.toFixed(2);
  element("opacity").value = settings.opacity;
  element("opacity-value").value = `${Math.round(100 * settings.opacity)} %`;
}

function showState() {
  const shown = focused ?? (tiles.length === 1 ? tiles[0] : null);
  const source = shown && sources[shown.source];
  const lost = sources.filter((other) => other.lost).length;
  const name = source?.source ?? (sources.length ? `${sources.length} cameras` : "solo-edge");
  element("title").textContent = name;
  document.title = `${name} · solo-edge`;
  let [kind, word] = source ? stateOf(source) : lost ? ["waiting", `${lost} lost`] : ["playing", "live"];
  if (paused) [kind, word] = ["paused", "paused"];
  if (away) [kind, word] = away === "starting" ? ["opening", "connecting"] : ["waiting", "offline"];
  element("state").dataset.state = kind;
  element("state").textContent = word;
  const speeds = (source ? [source] : sources).map((other) => other.fps).filter((fps) => fps != null);
  const delays = (source ? [source] : sources).map((other) => other.latency_ms).filter((ms) => ms != null);
  const plays = !away && (source ? source.state === "playing" : true);
  element("fps").textContent = plays && speeds.length ? Math.min(...speeds).toFixed(1) : "–";
  element("latency").textContent = plays && delays.length ? `${Math.round(Math.max(...delays))} ms` : "–";
  showConnection();
  for (const tile of tiles) if (sources[tile.source]) showTileState(tile, sources[tile.source]);
}

function stateOf(source) {
  if (source.lost) return ["waiting", "lost"];
  return [source.state, { opening: "opening", playing: "live", ended: "ended" }[source.state] ?? source.state];
}

function showConnection() {
  const banner = element("connection");
  banner.hidden = !away || away === "starting";
  const seconds = Math.ceil(connection?.secondsToRetry ?? 0);
  if (!banner.hidden) banner.textContent = `${AWAY[away]} · trying again${seconds ? ` in ${seconds} s` : " …"}`;
}

function showTileState(tile, source) {
  const find = (selector) => tile.element.querySelector(selector);
  const [kind] = stateOf(source);
  tile.element.dataset.state = kind;
  find(".caption .name").textContent = source.source;
  find(".rate").textContent = kind === "playing" && source.fps != null ? `${source.fps.toFixed(1)} FPS` : "";
  find(".open").setAttribute("aria-label", `Enlarge ${source.source}`);
  tile.describe(`${source.source}: ${tile.header?.instances.length ?? 0} instances`);
  const [title, detail] = troubleOf(source, Boolean(tile.header));
  find(".lost").hidden = !title || Boolean(away);
  find(".lost strong").textContent = title;
  find(".lost span").textContent = detail;
}

function troubleOf(source, hasPicture) {
  if (source.lost) {
    const seconds = Math.round(source.lost.for_s + (performance.now() - statusAt) / 1000);
    const reason = REASONS[source.lost.code] ?? "failed";
    return [`Camera lost: ${reason}, retrying for ${duration(seconds)}`, source.lost.message];
  }
  if (source.state === "ended") return ["The source has ended", source.message];
  return hasPicture ? ["", ""] : ["Waiting for the first picture", source.source];
}

function duration(seconds) {
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

function showSpeed() {
  const shown = focused ? [focused.source] : tiles.map((tile) => tile.source);
  if (!shown.length) return;
  drawRates(element("fps-graph"), history, shown, colors);
  // The slowest source is the one to look at.
  const latency = (source) => sources[source]?.latency_ms ?? 0;
  const slowest = shown.reduce((a, b) => (latency(b) > latency(a) ? b : a));
  const stages = [...new Set(history.flatMap((point) => Object.keys(point[slowest]?.stage_ms ?? {})))];
  drawStages(element("latency-graph"), history, slowest, stages, colors);
  const latest = sources[slowest]?.stage_ms ?? {};
  showLegend(stages, latest, colors);
  const sum = (key) => shown.reduce((total, source) => total + (sources[source]?.[key] ?? 0), 0).toLocaleString("en");
  element("counts").textContent = `${sum("processed")} processed · ${sum("dropped")} dropped`;
}

function setPaused(value) {
  paused = value;
  element("pause").setAttribute("aria-pressed", String(paused));
  element("pause").querySelector("span").textContent = paused ? "Resume" : "Pause";
  document.body.classList.toggle("paused", paused);
  showState();
  for (const tile of tiles) tile.advance();
}

// What is shown, at the size of the camera; of several cameras side by side.
function compose() {
  const pictures = (focused ? [focused] : tiles).filter((tile) => tile.header).map((tile) => tile.compose());
  if (pictures.length < 2) return pictures[0];
  const columns = Math.ceil(Math.sqrt(pictures.length));
  const [width, height] = ["width", "height"].map((side) => Math.max(...pictures.map((picture) => picture[side])));
  const sheet = document.createElement("canvas");
  [sheet.width, sheet.height] = [columns * width, Math.ceil(pictures.length / columns) * height];
  const context = sheet.getContext("2d");
  context.fillRect(0, 0, sheet.width, sheet.height);
  pictures.forEach((picture, i) => context.drawImage(picture, (i % columns) * width, Math.floor(i / columns) * height));
  return sheet;
}

async function snapshot() {
  const picture = compose();
  if (!picture) return;
  const blob = await new Promise((resolve) => picture.toBlob(resolve, "image/png"));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `solo-edge-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function toggleFullscreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else element("stage").requestFullscreen?.();
}

const keys = {
  p: () => setPaused(!paused),
  s: snapshot,
  f: toggleFullscreen,
  escape: () => focused && focus(null),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const number = Number(event.key) - 1;
  if (tiles.length > 1 && tiles[number]) focus(tiles[number]);
  else keys[event.key.toLowerCase()]?.();
});
document.addEventListener("fullscreenchange", () => {
  element("fullscreen").setAttribute("aria-pressed", String(Boolean(document.fullscreenElement)));
});
element("pause").addEventListener("click", () => setPaused(!paused));
element("snapshot").addEventListener("click", snapshot);
element("fullscreen").addEventListener("click", toggleFullscreen);
element("fullscreen").hidden = !document.fullscreenEnabled;
element("back").addEventListener("click", () => focus(null));
element("score").addEventListener("input", ({ target }) => {
  settings.minScore = Number(target.value);
  changed();
});
element("opacity").addEventListener("input", ({ target }) => {
  settings.opacity = Number(target.value);
  changed();
});
element("labels").addEventListener("change", ({ target }) => {
  settings.labels = target.checked;
  changed();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  colors = readColors();
  showSpeed();
});
addEventListener("resize", () => {
  showSpeed();
  watch();
});
setInterval(showState, 1000); // how long something has been away
