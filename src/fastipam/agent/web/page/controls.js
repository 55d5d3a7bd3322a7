// Move and zoom the picture with mouse, fingers, keys and buttons.

import { $ } from "./dom.js";
import { pickSet } from "./live.js";
import { draw, render } from "./picture.js";
import { shown } from "./state.js";
import { hideTip, hover, step as stepTo } from "./tip.js";
import { canvas, fit, isFitted, move, oneToOne, place, stretch, zoom } from "./view.js";

const SLACK = 5; // pixels that a finger may move in a tap
const STEP = 60; // pixels by which an arrow key moves the picture
const IN = 1.25;
const OUT = 0.8;

function then(change, ...values) {
  change(...values);
  draw();
}

// The mouse and fingers ---------------------------------------------------------------------------

canvas.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    const { x, y } = place(event);
    then(zoom, event.deltaY < 0 ? IN : OUT, x, y);
    hover(event);
  },
  { passive: false },
);

// The mouse button or fingers that are down. One moves the picture, two fingers zoom it, and a tap
// shows the address below the finger.
const held = new Map(); // pointerId -> its position
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
  if (!shown.drawn) return;
  const from = middle();
  const before = held.size === 2 ? apart() : 0;
  const to = place(event);
  const was = held.get(event.pointerId);
  if (!moved && Math.hypot(to.x - was.x, to.y - was.y) < SLACK * (window.devicePixelRatio || 1)) return;
  moved = true;
  held.set(event.pointerId, to);
  const now = middle();
  move(Math.round(now.x - from.x), Math.round(now.y - from.y));
  if (before && apart()) stretch(apart() / before, now.x, now.y);
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
  if (event.pointerType === "mouse") hideTip(); // the tip of a tap stays
});
canvas.addEventListener("dblclick", (event) => then(zoom, 2, place(event).x, place(event).y));

// Keys and buttons --------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const step = STEP * (window.devicePixelRatio || 1);
  const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.target === canvas && event.shiftKey && arrows[event.key]) {
    event.preventDefault();
    stepTo(...arrows[event.key]);
  } else if (event.key === "Escape" && shown.pointed) {
    hideTip();
    draw();
  } else if (event.key === "+") then(zoom, IN);
  else if (event.key === "-") then(zoom, OUT);
  else if (event.key === "0") then(fit);
  else if (event.key === "1") then(oneToOne);
  else if (event.key === "g") $("grid").click();
  else if (moves[event.key] && event.target === canvas) {
    event.preventDefault();
    then(move, ...moves[event.key]);
  }
});

// The arrow keys go from one network to the next, as in any list of tabs.
$("tabs").addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const all = [...$("tabs").children];
  const next = all[(all.indexOf(document.activeElement) + by + all.length) % all.length];
  next.focus();
  next.click();
});

$("in").addEventListener("click", () => then(zoom, IN));
$("out").addEventListener("click", () => then(zoom, OUT));
$("fit").addEventListener("click", () => then(fit));
$("one").addEventListener("click", () => then(oneToOne));
$("grid").addEventListener("change", draw);
$("panel").addEventListener("change", (event) => {
  shown.panelAt = event.target.selectedIndex;
  render();
  then(fit);
});
$("set").addEventListener("change", (event) => pickSet(Number(event.target.value)));
window.addEventListener("resize", () => {
  if (isFitted()) fit();
  draw();
});
