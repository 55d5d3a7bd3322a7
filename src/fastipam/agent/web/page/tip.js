// Show the address under the pointer, its state, and after a moment its owner.

import { addressOf } from "./address.js";
import { $, element } from "./dom.js";
import { draw } from "./picture.js";
import { current, panel, queryOf, shown } from "./state.js";
import { moment, span } from "./text.js";
import { canvas, cellAt, cellIn, place, placeOf, reveal, view } from "./view.js";

const TIP_MS = 120; // the owner of a cell is asked for when the pointer has rested on it this long
const LEAST_POINTED = 6; // pixels of a cell that was chosen
const LEVEL = 3; // a cell is state | level << LEVEL: see picture/cells.py
const FULL = 31;

let tipTimer = 0;

export function hover(event) {
  if (!shown.drawn) return;
  const found = cellAt(place(event));
  if (!found) return hideTip();
  const { cell } = found;
  const under = panel();
  const same = shown.pointed && shown.pointed.cell === cell;
  shown.pointed = found;
  moveTip(event);
  if (same) return;
  showTip(addressOf(under, cell), stateOf(under, cell));
  clearTimeout(tipTimer);
  if (!under.shift) tipTimer = setTimeout(() => tellOwner(addressOf(under, cell), cell), TIP_MS);
  if (view.scale >= 4) draw();
}

// Choose a cell for a search or the keyboard: show it and its tip, and announce it.
export function pointAt(cell) {
  point(placeOf(cell));
}

// Choose the neighbour of the chosen cell, or the first one that is visible.
export function step(columns, rows) {
  if (!shown.drawn) return;
  const before = shown.pointed || cellAt({ x: canvas.width / 2, y: canvas.height / 2 }) || placeOf(0);
  const found = shown.pointed ? cellIn(before.row + rows, before.column + columns) : before;
  if (found) point(found);
}

function point(found) {
  shown.pointed = found;
  reveal(found, LEAST_POINTED);
  draw();
  const under = panel();
  const address = addressOf(under, found.cell);
  const lines = stateOf(under, found.cell);
  showTip(address, lines);
  const box = canvas.getBoundingClientRect();
  const ratio = canvas.width / box.width;
  moveTip({
    clientX: box.left + (view.x + (found.column + 0.5) * view.scale) / ratio,
    clientY: box.top + (view.y + (found.row + 0.5) * view.scale) / ratio,
  });
  say(`${address}, ${lines[0][1]}`);
  clearTimeout(tipTimer);
  if (!under.shift) tipTimer = setTimeout(() => tellOwner(address, found.cell, true), TIP_MS);
}

// Have a screen reader say a text.
export function say(text) {
  $("said").textContent = text;
}

// The lines of the tip, as [state for the colour, text].
function stateOf(panel, cell) {
  const byte = panel.cells[cell];
  const state = shown.drawn.states[byte & 7];
  const words = { excluded: "never assigned", elsewhere: "in no block of this node" };
  if (!panel.shift) return [[state, words[state] || state]];
  if (!["assigned", "cooling", "reserved"].includes(state)) return [[state, state]];
  const percent = Math.max(1, Math.round((100 * (byte >> LEVEL)) / FULL));
  return [[state, `mostly ${state}, about ${percent} % in use`]];
}

async function tellOwner(address, cell, aloud) {
  const one = current();
  if (!one) return;
  try {
    const answer = await fetch(`/api/address?${queryOf(one)}&address=${encodeURIComponent(address)}`);
    if (!answer.ok) return;
    const found = await answer.json();
    if (!shown.pointed || shown.pointed.cell !== cell) return;
    const lines = [[found.state, found.state]];
    const was = found.state === "cooling" ? "was " : "";
    if (found.pod_name) lines.push(["", `${was}${found.pod_namespace ? found.pod_namespace + "/" : ""}${found.pod_name}`]);
    if (found.container_id) lines.push(["", `${found.container_id.slice(0, 20)} ${found.ifname}`]);
    if (found.since) lines.push(["", `assigned ${span(found.age_s)} ago, ${moment(found.since)}`]);
    if (found.free_in_s !== undefined) lines.push(["", freeIn(found)]);
    if (found.owner) lines.push(["", `for ${found.owner}`]);
    if (found.reason) lines.push(["", found.reason]);
    showTip(address, lines);
    if (aloud) say([address, ...lines.map(([, text]) => text)].join(", "));
  } catch {
    // The next status shows the error.
  }
}

// When a cooling address can be assigned again.
function freeIn({ free_in_s: seconds, strict }) {
  if (!seconds) return "free: its cool-down is over";
  return `free in ${span(seconds)}${strict ? "" : ", earlier when no other is free"}`;
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

export function hideTip() {
  clearTimeout(tipTimer);
  shown.pointed = null;
  $("tip").hidden = true;
}
