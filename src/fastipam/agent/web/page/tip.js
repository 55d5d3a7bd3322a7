// Show the address under the pointer, its state, and after a moment its owner.

import { addressOf } from "./address.js";
import { $, element } from "./dom.js";
import { draw } from "./picture.js";
import { current, panel, queryOf, shown } from "./state.js";
import { moment, span } from "./text.js";
import { canvas, cellAt, place, view } from "./view.js";

const TIP_MS = 120; // the owner of a cell is asked for when the pointer has rested on it this long
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

// The lines of the tip, as [state for the colour, text].
function stateOf(panel, cell) {
  const byte = panel.cells[cell];
  const state = shown.drawn.states[byte & 7];
  const words = { excluded: "never assigned", elsewhere: "not of this node's blocks" };
  if (!panel.shift) return [[state, words[state] || state]];
  if (!["assigned", "cooling", "reserved"].includes(state)) return [[state, state]];
  const percent = Math.max(1, Math.round((100 * (byte >> LEVEL)) / FULL));
  return [[state, `mostly ${state}, about ${percent} % in use`]];
}

async function tellOwner(address, cell) {
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
    if (found.owner) lines.push(["", `for ${found.owner}`]);
    if (found.reason) lines.push(["", found.reason]);
    showTip(address, lines);
  } catch {
    // The next status shows the error.
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

export function hideTip() {
  clearTimeout(tipTimer);
  shown.pointed = null;
  $("tip").hidden = true;
}
