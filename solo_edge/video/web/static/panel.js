// The lists beside the picture: classes, instances, stages, events. Elements are kept and filled anew.

import { isVisible, rgb } from "./overlay.js";

const MOST_ROWS = 60;
const MOST_EVENTS = 100;

const element = (id) => document.getElementById(id);

// Exactly `count` children of `parent`, made by `make` where they are missing.
function children(parent, count, make) {
  while (parent.children.length > count) parent.lastElementChild.remove();
  while (parent.children.length < count) parent.append(make(parent.children.length));
  return parent.children;
}

function fill(parent, selector, text) {
  const target = parent.querySelector(selector);
  if (target.textContent !== text) target.textContent = text;
}

// Chips of all classes seen so far. seen: label -> {count, color}; changed is called after a click.
export function showClasses(seen, classes, settings, changed) {
  const labels = [...seen.keys()].sort((a, b) => a - b);
  const chips = children(element("chips"), labels.length, () => {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.className = "chip";
    chip.innerHTML = `<span class="swatch"></span><span class="name"></span><span class="count"></span>`;
    chip.addEventListener("click", () => {
      const label = Number(chip.dataset.label);
      if (!settings.hidden.delete(label)) settings.hidden.add(label);
      changed();
    });
    return chip;
  });
  labels.forEach((label, i) => {
    const chip = chips[i];
    const { count, color } = seen.get(label);
    chip.dataset.label = label;
    chip.setAttribute("aria-pressed", String(!settings.hidden.has(label)));
    chip.classList.toggle("absent", count === 0);
    const swatch = chip.querySelector(".swatch");
    swatch.hidden = !color;
    if (color) swatch.style.setProperty("--color", rgb(color));
    fill(chip, ".name", classes[label] ?? `class ${label}`);
    fill(chip, ".count", String(count));
  });
}

// Rows of the visible instances of these tiles. on: {enter(tile, instance), leave(tile), pick(tile, instance)}
export function showInstances(tiles, classes, settings, on) {
  const rows = tiles.flatMap((tile) =>
    (tile.header?.instances ?? [])
      .filter((instance) => isVisible(instance, settings))
      .sort(inSteadyOrder)
      .map((instance) => ({ tile, instance })),
  );
  element("count").textContent = rows.length;
  element("none").hidden = rows.length > 0;
  const items = children(element("list"), Math.min(rows.length, MOST_ROWS), () => makeRow(on));
  rows.slice(0, MOST_ROWS).forEach(({ tile, instance }, i) => {
    const row = items[i].firstElementChild;
    row.shows = { tile, instance };
    row.classList.toggle("highlight", tile.highlight === instance);
    row.style.setProperty("--color", rgb(instance.color));
    row.style.setProperty("--score", instance.score);
    fill(row, ".name", classes[instance.label] ?? `class ${instance.label}`);
    fill(row, ".track", instance.track ? `#${instance.track}` : "");
    fill(row, ".camera", tiles.length > 1 ? `${tile.source + 1}` : "");
    fill(row, ".score", instance.score.toFixed(2));
  });
}

// By class, then track, then place: scores would make the rows jump.
function inSteadyOrder(a, b) {
  return a.label - b.label || (a.track || 1e9) - (b.track || 1e9) || a.box[0] - b.box[0];
}

function makeRow(on) {
  const item = document.createElement("li");
  item.innerHTML = `<button type="button" class="row"><span class="swatch"></span>
    <span class="what"><span class="name"></span> <span class="track"></span></span>
    <span class="camera"></span><span class="meter" aria-hidden="true"></span><span class="score"></span></button>`;
  const row = item.firstElementChild;
  const enter = () => on.enter(row.shows.tile, row.shows.instance);
  const leave = () => on.leave(row.shows.tile);
  row.addEventListener("pointerenter", enter);
  row.addEventListener("pointerleave", leave);
  row.addEventListener("focus", enter);
  row.addEventListener("blur", leave);
  row.addEventListener("click", () => on.pick(row.shows.tile, row.shows.instance));
  return item;
}

export function showLegend(stages, latest, colors) {
  const items = children(element("legend"), stages.length, () => {
    const item = document.createElement("li");
    item.innerHTML = `<span class="swatch"></span><span class="name"></span> <b></b>`;
    return item;
  });
  stages.forEach((stage, i) => {
    items[i].querySelector(".swatch").style.setProperty("--color", colors.stages[i % colors.stages.length]);
    fill(items[i], ".name", stage);
    fill(items[i], "b", (latest[stage] ?? 0).toFixed(1));
  });
}

// The newest events first. sources: their names.
export function addEvents(events, sources) {
  if (!events.length) return;
  element("events-card").hidden = false;
  const list = element("events");
  for (const event of events) {
    const item = document.createElement("li");
    const time = document.createElement("time");
    time.textContent = clockOf(event.timestamp_s);
    const where = sources.length > 1 ? `camera ${event.source_index + 1}: ` : "";
    item.append(time, ` ${where}${sentence(event)}`);
    list.prepend(item);
  }
  while (list.children.length > MOST_EVENTS) list.lastElementChild.remove();
}

function clockOf(seconds) {
  if (typeof seconds !== "number") return "";
  const [minutes, rest] = [Math.floor(seconds / 60), Math.floor(seconds % 60)];
  return `${minutes}:${String(rest).padStart(2, "0")}`;
}

// What a zone or a line saw, as `solo_edge.zones` tells it.
function sentence({ type, zone, line, track_id, direction, seconds, class: name }) {
  const who = `${name} #${track_id}`;
  const time = `${Math.round(seconds)} s`;
  switch (type) {
    case "enter":
      return `${who} entered ${zone}`;
    case "leave":
      return `${who} left ${zone} after ${time}`;
    case "dwell":
      return `${who} has been in ${zone} for ${time}`;
    case "cross":
      return `${who} crossed ${line}, ${direction}`;
    default:
      return [who, type, zone ?? line].join(" ");
  }
}
