// The live part of the page. It asks the agent only while somebody looks, and for a new picture
// only when the store has changed.
"use strict";

const STATUS_MS = 2000;
const SERIES_MS = 10000;
const TIP_MS = 120;
const LARGEST = 64; // pixels of a cell
const SLACK = 5; // pixels that a finger may slip, and still only points
const LEVEL = 3; // a cell is state | level << LEVEL: see picture/cells.py
const FULL = 31;

const $ = (id) => document.getElementById(id);
const canvas = $("map");
const context = canvas.getContext("2d", { alpha: false });
const curves = new Map(); // bits -> hilbertGrid

let status = null; // the last answer of /api/status
let chosen = ""; // the network that is shown: its key
let drawn = null; // its picture: header, panels
let panelAt = 0;
let view = { scale: 1, x: 0, y: 0 }; // device pixels a cell, and where the picture's corner is
let fitted = true;
let tags = {};
let waiting = false;
let again = false;
let seriesAt = 0;
let tipTimer = 0;
let pointer = null;

const keyOf = (one) => `${one.data_dir}\n${one.network}`;
const query = (one) =>
  `data_dir=${encodeURIComponent(one.data_dir)}&network=${encodeURIComponent(one.network)}`;
const current = () => status && status.networks.find((one) => keyOf(one) === chosen);

// Text ----------------------------------------------------------------------------------------

function count(number) {
  return number < 1e11 ? number.toLocaleString("en") : number.toExponential(2);
}

function share(part, whole) {
  if (!part || !whole) return "0 %";
  const percent = (100 * part) / whole;
  if (part === whole) return "100 %";
  return percent < 0.1 ? "< 0.1 %" : `${Math.min(percent, 99.9).toFixed(1)} %`;
}

function span(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

const moment = (seconds) =>
  new Date(seconds * 1000).toISOString().replace("T", " ").replace(/\..*/, " UTC");

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function fill(table, rows, nothing) {
  const width = table.tHead.rows[0].cells.length;
  const body = element("tbody");
  for (const fields of rows) {
    const row = body.insertRow();
    for (const field of fields) row.append(element("td", field));
  }
  if (!rows.length) {
    const cell = body.insertRow().insertCell();
    cell.colSpan = width;
    cell.textContent = nothing;
  }
  table.tBodies[0].replaceWith(body);
}

// The address of a cell: text, and how many addresses it is.
function addressOf(panel, cell) {
  let value = BigInt(panel.first) + (BigInt(cell) << BigInt(panel.shift));
  const length = (panel.family === 4 ? 32 : 128) - panel.shift;
  const suffix = panel.shift ? `/${length}` : "";
  return (panel.family === 4 ? dotted(value) : groups(value)) + suffix;
}

function dotted(value) {
  return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 255n).join(".");
}

// RFC 5952: the longest run of zero groups, of two at least, becomes "::".
function groups(value) {
  const all = [];
  for (let shift = 112n; shift >= 0n; shift -= 16n) all.push(Number((value >> shift) & 65535n));
  let best = { from: -1, size: 1 };
  for (let from = 0; from < 8; from++) {
    let size = 0;
    while (from + size < 8 && all[from + size] === 0) size++;
    if (size > best.size) best = { from, size };
  }
  const text = (part) => part.map((group) => group.toString(16)).join(":");
  if (best.from < 0) return text(all);
  return `${text(all.slice(0, best.from))}::${text(all.slice(best.from + best.size))}`;
}

// Asking the agent ----------------------------------------------------------------------------

// The answer, or null when it is the one that is here already.
async function ask(path, read) {
  const headers = tags[path] ? { "If-None-Match": tags[path] } : {};
  const answer = await fetch(path, { headers, cache: "no-store" });
  if (answer.status === 304) return null;
  if (!answer.ok) throw new Error(`${path.split("?")[0]}: ${(await answer.text()).trim()}`);
  const body = await answer[read]();
  tags[path] = answer.headers.get("ETag") || "";
  return body;
}

async function look() {
  if (document.hidden) return;
  if (waiting) {
    again = true; // another network was chosen while the answers for this one were on their way
    return;
  }
  waiting = true;
  try {
    const found = await ask("/api/status", "json");
    if (found) {
      status = found;
      showStatus();
    }
    const one = current();
    if (one) {
      if (!drawn || drawn.key !== chosen || drawn.change !== one.change) await fetchPicture(one);
      if (Date.now() - seriesAt > SERIES_MS) await fetchSeries(one);
    }
    if (one) await fetchEvents(one);
    $("link").textContent = status && status.agent.private ? "names are withheld" : "live";
    $("link").className = "";
  } catch (error) {
    // fetch() says in each browser's own words that nobody answers.
    const why = error instanceof TypeError ? "the agent does not answer" : error.message;
    $("link").textContent = `not up to date: ${why}`;
    $("link").className = "bad";
  } finally {
    waiting = false;
  }
  if (again) {
    again = false;
    await look();
  }
}

async function fetchPicture(one) {
  const key = keyOf(one);
  const path = `/api/picture?${query(one)}`;
  if (!drawn || drawn.key !== key) tags[path] = "";
  const body = await ask(path, "arrayBuffer");
  if (!body || key !== chosen) return;
  const size = new DataView(body).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, size)));
  let at = 4 + size;
  for (const panel of header.panels) {
    const cells = 2 ** (panel.bits - panel.shift);
    panel.cells = new Uint8Array(body, at, cells);
    at += cells;
  }
  const before = drawn && drawn.key === key ? drawn.panels[panelAt] : null;
  drawn = { ...header, key };
  if (panelAt >= drawn.panels.length) panelAt = 0;
  choosePanels();
  render();
  const after = drawn.panels[panelAt];
  if (fitted || !before || before.cidr !== after.cidr) fit();
  else draw();
}

async function fetchSeries(one) {
  const samples = await ask(`/api/series?${query(one)}`, "json");
  if (keyOf(one) !== chosen) return;
  seriesAt = Date.now();
  if (samples) showSeries(samples);
}

let eventsOf = "";
async function fetchEvents(one) {
  const state = `${keyOf(one)}\n${one.change}`;
  if (eventsOf === state) return; // nothing has happened
  const events = await ask(`/api/events?${query(one)}`, "json");
  if (keyOf(one) !== chosen) return;
  eventsOf = state;
  if (!events) return;
  fill(
    $("events"),
    events.map((one) => [moment(one.at), one.kind, one.network, one.address, one.pod || "", one.container || ""]),
    "none",
  );
}

// Numbers -------------------------------------------------------------------------------------

function showStatus() {
  $("moment").textContent = `as of ${moment(Date.now() / 1000)}`;
  fill(
    $("networks"),
    status.networks.map((one) => [
      one.network,
      ...["size", "assigned", "cooling", "reserved", "free"].map((key) => count(one[key])),
      one.exhaustion_s === null ? "not in sight" : span(one.exhaustion_s),
      one.longest_free_run === null ? "" : count(one.longest_free_run),
      one.cooling ? span(one.oldest_cooling_s) : "",
    ]),
    "No network yet: the first request names one.",
  );
  fill($("codes"), Object.entries(status.codes).map(([code, n]) => [code, count(n)]), "none");
  fill(
    $("refusals"),
    status.refusals.map((one) => [moment(one.at), one.verb, one.code, one.message]),
    "none",
  );
  if (!current() && status.networks.length) {
    const largest = status.networks.reduce((a, b) => (b.assigned > a.assigned ? b : a));
    choose(keyOf(largest));
  }
  $("live").hidden = !status.networks.length;
  const names = status.networks.map((one) => one.network);
  const tabs = status.networks.map((one) => {
    const twice = names.indexOf(one.network) !== names.lastIndexOf(one.network);
    const tab = element("button", twice ? `${one.network} (${one.data_dir})` : one.network);
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-selected", String(keyOf(one) === chosen));
    tab.addEventListener("click", () => {
      choose(keyOf(one));
      showStatus();
      look();
    });
    return tab;
  });
  if (!$("tabs").contains(document.activeElement) || $("tabs").children.length !== tabs.length) {
    $("tabs").replaceChildren(...tabs);
  } else {
    tabs.forEach((tab, at) =>
      $("tabs").children[at].setAttribute("aria-selected", tab.getAttribute("aria-selected")),
    );
  }
  showCounts();
}

function choose(key) {
  if (key === chosen) return;
  chosen = key;
  drawn = null;
  panelAt = 0;
  fitted = true;
  seriesAt = 0;
  // What another network has put on the page has to be asked for again.
  for (const path of Object.keys(tags)) if (path !== "/api/status") tags[path] = "";
  showSeries([]);
  hideTip();
}

function showCounts() {
  const one = current();
  if (!one) return;
  const rows = [];
  for (const state of ["assigned", "cooling", "reserved", "free"]) {
    const name = element("dt");
    name.append(element("span", "", `swatch ${state}`), state);
    rows.push(name, element("dd", count(one[state])), element("dd", share(one[state], one.size), "dim"));
  }
  const never = element("dt");
  never.append(element("span", "", "swatch excluded"), "never assigned");
  rows.push(never, element("dd", ""), element("dd", "", "dim"));
  $("counts").replaceChildren(...rows);
  const facts = [
    ["Size", count(one.size)],
    ["Full in", one.exhaustion_s === null ? "not in sight" : span(one.exhaustion_s)],
    ["Longest free run", one.longest_free_run === null ? "…" : count(one.longest_free_run)],
    ["Longest cooling", one.cooling ? span(one.oldest_cooling_s) : "none"],
    ["Assignments so far", count(one.assignments)],
  ];
  $("facts").replaceChildren(
    ...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]),
  );
  $("blocks").hidden = !one.blocks.length;
  fill($("blocks").querySelector("table"), one.blocks.map((b) => [b.first, b.last, b.state]), "none");
}

// [at, size, assigned, cooling, reserved] from the oldest on, as areas on top of each other.
function showSeries(samples) {
  const [width, height, top] = [320, 130, 18];
  const shapes = [];
  const svg = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  if (samples.length > 1) {
    const first = samples[0][0];
    const last = Math.max(samples[samples.length - 1][0], first + 1);
    const most = Math.max(1, ...samples.map((one) => one[2] + one[3] + one[4]));
    const x = (at) => ((at - first) / (last - first)) * width;
    const y = (value) => height - (value / most) * (height - top);
    let floor = samples.map(() => 0);
    for (const [state, column] of [["assigned", 2], ["reserved", 4], ["cooling", 3]]) {
      const ceiling = samples.map((one, at) => floor[at] + one[column]);
      if (ceiling.some((value, at) => value > floor[at])) {
        const along = samples.map((one, at) => `${x(one[0]).toFixed(1)},${y(ceiling[at]).toFixed(1)}`);
        const back = samples.map((one, at) => `${x(one[0]).toFixed(1)},${y(floor[at]).toFixed(1)}`);
        shapes.push(svg("polygon", { class: state, points: [...along, ...back.reverse()].join(" ") }));
      }
      floor = ceiling;
    }
    shapes.push(svg("line", { x1: 0, x2: width, y1: top, y2: top }));
    shapes.push(svg("text", { x: 6, y: 12 }, `${count(most)} in use at most`));
    $("span").textContent = `the last ${span(last - first)}`;
  } else {
    shapes.push(svg("text", { x: 6, y: 12 }, "the first samples are being taken"));
    $("span").textContent = "";
  }
  $("chart").replaceChildren(...shapes);
}

// The picture ---------------------------------------------------------------------------------

function choosePanels() {
  const list = $("panel");
  const names = drawn.panels.map((panel) => panel.cidr);
  list.hidden = names.length < 2;
  if (names.join() !== [...list.options].map((option) => option.value).join()) {
    list.replaceChildren(...names.map((name) => new Option(name, name)));
  }
  list.selectedIndex = panelAt;
}

function curveOf(panel) {
  const bits = panel.bits - panel.shift;
  if (!curves.has(bits)) curves.set(bits, hilbertGrid(bits));
  return curves.get(bits);
}

// Paint every cell of the panel once, one pixel each, off the screen.
function render() {
  const panel = drawn.panels[panelAt];
  const curve = curveOf(panel);
  if (!panel.image) {
    panel.image = document.createElement("canvas");
    panel.image.width = curve.width;
    panel.image.height = curve.height;
  }
  const colours = new Uint32Array(256);
  const bytes = new Uint8Array(colours.buffer);
  drawn.palette.forEach(([red, green, blue], at) => bytes.set([red, green, blue, 255], 4 * at));
  const target = panel.image.getContext("2d");
  const data = target.createImageData(curve.width, curve.height);
  const pixels = new Uint32Array(data.data.buffer);
  for (let at = 0; at < pixels.length; at++) pixels[at] = colours[panel.cells[curve.order[at]]];
  target.putImageData(data, 0, 0);
}

function resize() {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
}

function draw() {
  if (!drawn) return;
  resize();
  const panel = drawn.panels[panelAt];
  const curve = curveOf(panel);
  context.fillStyle = "#0e1219";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = view.scale < 1;
  context.imageSmoothingQuality = "high";
  context.drawImage(panel.image, view.x, view.y, curve.width * view.scale, curve.height * view.scale);
  if ($("grid").checked) {
    if (view.scale >= 12) drawCells(curve);
    drawCidrs(panel, curve);
    context.strokeStyle = "#3a4657"; // where the picture ends, though nothing be there
    context.lineWidth = 1;
    context.strokeRect(view.x - 0.5, view.y - 0.5, curve.width * view.scale + 1, curve.height * view.scale + 1);
  }
  if (pointer && pointer.cell >= 0 && view.scale >= 4) outline(pointer);
}

// Thin lines between cells that are large enough for them.
function drawCells(curve) {
  const columns = [Math.max(0, Math.floor(-view.x / view.scale)), Math.min(curve.width, Math.ceil((canvas.width - view.x) / view.scale))];
  const rows = [Math.max(0, Math.floor(-view.y / view.scale)), Math.min(curve.height, Math.ceil((canvas.height - view.y) / view.scale))];
  context.fillStyle = "#0e121940";
  for (let column = columns[0]; column <= columns[1]; column++) {
    context.fillRect(view.x + column * view.scale, view.y + rows[0] * view.scale, 1, (rows[1] - rows[0]) * view.scale);
  }
  for (let row = rows[0]; row <= rows[1]; row++) {
    context.fillRect(view.x + columns[0] * view.scale, view.y + row * view.scale, (columns[1] - columns[0]) * view.scale, 1);
  }
}

// Lines between CIDRs that are neither too small nor too large on the screen, and their names.
function drawCidrs(panel, curve) {
  const ratio = window.devicePixelRatio || 1;
  const bits = panel.bits - panel.shift;
  // A square has an even number of bits; it shall be some 150 pixels wide.
  let inside = bits % 2 ? bits - 1 : bits;
  while (inside > 0 && 2 ** (inside / 2) * view.scale > 300 * ratio) inside -= 2;
  const side = 2 ** (inside / 2);
  const size = side * view.scale;
  context.lineWidth = ratio;
  context.strokeStyle = "#0e1219b0";
  context.font = `${12 * ratio}px system-ui, "DejaVu Sans", sans-serif`;
  context.textBaseline = "top";
  for (let row = 0; row < curve.height; row += side) {
    for (let column = 0; column < curve.width; column += side) {
      const x = view.x + column * view.scale, y = view.y + row * view.scale;
      if (x > canvas.width || y > canvas.height || x + size < 0 || y + size < 0) continue;
      context.strokeRect(Math.round(x) + 0.5, Math.round(y) + 0.5, Math.round(size), Math.round(size));
      const first = (curve.order[row * curve.width + column] >> inside) << inside;
      const text = cidrOf(panel, first, inside);
      const wide = context.measureText(text).width + 8 * ratio;
      if (wide > size || size < 40 * ratio) continue;
      context.fillStyle = "#0e1219c8";
      context.fillRect(x + ratio, y + ratio, wide, 18 * ratio);
      context.fillStyle = "#e2e8f0";
      context.fillText(text, x + 5 * ratio, y + 4 * ratio);
    }
  }
}

function cidrOf(panel, cell, cellBits) {
  const value = BigInt(panel.first) + (BigInt(cell) << BigInt(panel.shift));
  const length = (panel.family === 4 ? 32 : 128) - panel.shift - cellBits;
  return `${panel.family === 4 ? dotted(value) : groups(value)}/${length}`;
}

function outline(where) {
  context.strokeStyle = "#ffffff";
  context.lineWidth = 2;
  context.strokeRect(
    view.x + where.column * view.scale, view.y + where.row * view.scale, view.scale, view.scale,
  );
}

// Zoom and pan --------------------------------------------------------------------------------

function fit() {
  if (!drawn) return;
  resize();
  const curve = curveOf(drawn.panels[panelAt]);
  const scale = Math.min(canvas.width / curve.width, canvas.height / curve.height);
  view.scale = scale >= 1 ? Math.floor(scale) : scale;
  centre(curve);
  fitted = true;
  canvas.classList.add("fitted");
  draw();
}

function centre(curve) {
  view.x = Math.floor((canvas.width - curve.width * view.scale) / 2);
  view.y = Math.floor((canvas.height - curve.height * view.scale) / 2);
}

function oneToOne() {
  if (!drawn) return;
  resize();
  const curve = curveOf(drawn.panels[panelAt]);
  view.scale = 1;
  centre(curve);
  notFitted();
  draw();
}

function notFitted() {
  fitted = false;
  canvas.classList.remove("fitted");
}

// Two fingers: any scale, not only whole pixels a cell.
function stretch(factor, x, y) {
  const curve = curveOf(drawn.panels[panelAt]);
  const scale = Math.min(LARGEST, Math.max(least(curve), view.scale * factor));
  view.x = x - ((x - view.x) / view.scale) * scale;
  view.y = y - ((y - view.y) / view.scale) * scale;
  view.scale = scale;
}

const least = (curve) => 0.5 * Math.min(1, canvas.width / curve.width, canvas.height / curve.height);

// Keep the point (x, y) of the canvas where it is.
function zoom(factor, x = canvas.width / 2, y = canvas.height / 2) {
  if (!drawn) return;
  const curve = curveOf(drawn.panels[panelAt]);
  let scale = Math.min(LARGEST, Math.max(least(curve), view.scale * factor));
  // Whole pixels a cell look best: all cells are equally large.
  if (scale >= 1) scale = factor > 1 ? Math.ceil(scale - 1e-9) : Math.floor(scale + 1e-9);
  view.x = Math.round(x - ((x - view.x) / view.scale) * scale);
  view.y = Math.round(y - ((y - view.y) / view.scale) * scale);
  view.scale = scale;
  notFitted();
  draw();
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  const ratio = canvas.width / box.width;
  return { x: (event.clientX - box.left) * ratio, y: (event.clientY - box.top) * ratio };
}

canvas.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    const { x, y } = place(event);
    zoom(event.deltaY < 0 ? 1.25 : 0.8, x, y);
    hover(event);
  },
  { passive: false },
);

// What is down: a mouse button or a finger moves the picture, two fingers zoom it, a finger that
// has not moved asks for the address below it.
const held = new Map(); // pointerId -> where
let moved = false;

const middle = () => {
  const all = [...held.values()];
  const sum = all.reduce((a, b) => ({ x: a.x + b.x, y: a.y + b.y }));
  return { x: sum.x / all.length, y: sum.y / all.length };
};
const apart = () => {
  const [one, other] = [...held.values()];
  return Math.hypot(one.x - other.x, one.y - other.y);
};

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  if (!held.size) moved = false;
  held.set(event.pointerId, place(event));
});
canvas.addEventListener("pointermove", (event) => {
  if (!held.has(event.pointerId)) return hover(event);
  const from = middle();
  const before = held.size === 2 ? apart() : 0;
  const to = place(event);
  const was = held.get(event.pointerId);
  if (!moved && Math.hypot(to.x - was.x, to.y - was.y) < SLACK * (window.devicePixelRatio || 1)) return;
  moved = true;
  held.set(event.pointerId, to);
  const now = middle();
  view.x += Math.round(now.x - from.x);
  view.y += Math.round(now.y - from.y);
  if (before && apart()) stretch(apart() / before, now.x, now.y);
  notFitted();
  canvas.classList.add("moving");
  hideTip();
  draw();
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => {
    held.delete(event.pointerId);
    canvas.classList.remove("moving");
    if (name === "pointerup" && !moved && event.pointerType !== "mouse") hover(event);
  });
}
canvas.addEventListener("pointerleave", (event) => {
  if (event.pointerType === "mouse") hideTip(); // a finger that is lifted has asked
});
canvas.addEventListener("dblclick", (event) => zoom(2, place(event).x, place(event).y));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const step = 60 * (window.devicePixelRatio || 1);
  const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
  if (event.key === "+") zoom(1.25);
  else if (event.key === "-") zoom(0.8);
  else if (event.key === "0") fit();
  else if (event.key === "1") oneToOne();
  else if (event.key === "g") $("grid").click();
  else if (moves[event.key] && event.target === canvas) {
    event.preventDefault();
    view.x += moves[event.key][0];
    view.y += moves[event.key][1];
    notFitted();
    draw();
  }
});

// The tooltip ---------------------------------------------------------------------------------

function hover(event) {
  if (!drawn) return;
  const { x, y } = place(event);
  const panel = drawn.panels[panelAt];
  const curve = curveOf(panel);
  const column = Math.floor((x - view.x) / view.scale);
  const row = Math.floor((y - view.y) / view.scale);
  if (column < 0 || row < 0 || column >= curve.width || row >= curve.height) return hideTip();
  const cell = curve.order[row * curve.width + column];
  const same = pointer && pointer.cell === cell;
  pointer = { cell, row, column };
  moveTip(event);
  if (same) return;
  const byte = panel.cells[cell];
  const state = drawn.states[byte & 7];
  const lines = [];
  if (panel.shift) {
    const used = byte >> LEVEL;
    const inUse = ["assigned", "cooling", "reserved"].includes(state);
    lines.push([state, inUse ? `mostly ${state}, about ${Math.max(1, Math.round((100 * used) / FULL))} % in use` : state]);
  } else {
    lines.push([state, state === "excluded" ? "never assigned" : state]);
  }
  showTip(addressOf(panel, cell), lines);
  clearTimeout(tipTimer);
  if (!panel.shift) tipTimer = setTimeout(() => tellOwner(addressOf(panel, cell), cell), TIP_MS);
  if (view.scale >= 4) draw();
}

async function tellOwner(address, cell) {
  const one = current();
  if (!one) return;
  try {
    const answer = await fetch(`/api/address?${query(one)}&address=${encodeURIComponent(address)}`);
    if (!answer.ok) return;
    const found = await answer.json();
    if (!pointer || pointer.cell !== cell) return;
    const lines = [[found.state, found.state]];
    const was = found.state === "cooling" ? "was " : "";
    if (found.pod_name) lines.push(["", `${was}${found.pod_namespace ? found.pod_namespace + "/" : ""}${found.pod_name}`]);
    if (found.container_id) lines.push(["", `${found.container_id.slice(0, 20)} ${found.ifname}`]);
    if (found.since) lines.push(["", `assigned ${span(found.age_s)} ago, ${moment(found.since)}`]);
    if (found.owner) lines.push(["", `for ${found.owner}`]);
    if (found.reason) lines.push(["", found.reason]);
    showTip(address, lines);
  } catch {
    // The next look says what is wrong.
  }
}

function showTip(title, lines) {
  const tip = $("tip");
  tip.replaceChildren(element("b", title));
  for (const [state, text] of lines) {
    const line = element("p");
    if (state) line.append(element("span", "", `swatch ${state.replace(" ", "-")}`));
    line.append(text);
    tip.append(line);
  }
  tip.hidden = false;
}

function moveTip(event) {
  const tip = $("tip");
  const box = canvas.getBoundingClientRect();
  const x = event.clientX - box.left, y = event.clientY - box.top;
  tip.hidden = false;
  const width = tip.offsetWidth, height = tip.offsetHeight;
  tip.style.left = `${x + 18 + width > box.width ? Math.max(0, x - 18 - width) : x + 18}px`;
  tip.style.top = `${y + 18 + height > box.height ? Math.max(0, y - 18 - height) : y + 18}px`;
}

function hideTip() {
  clearTimeout(tipTimer);
  pointer = null;
  $("tip").hidden = true;
}

// ---------------------------------------------------------------------------------------------

$("in").addEventListener("click", () => zoom(1.25));
$("out").addEventListener("click", () => zoom(0.8));
$("fit").addEventListener("click", fit);
$("one").addEventListener("click", oneToOne);
$("grid").addEventListener("change", draw);
$("panel").addEventListener("change", (event) => {
  panelAt = event.target.selectedIndex;
  render();
  fit();
});
window.addEventListener("resize", () => (fitted ? fit() : draw()));
document.addEventListener("visibilitychange", look);
setInterval(look, STATUS_MS);
look();
