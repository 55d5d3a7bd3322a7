// Draw the addresses in use over time as stacked areas, with an axis and the size of the range set.

import { $ } from "./dom.js";
import { count, share, span } from "./text.js";

const [WIDTH, HEIGHT] = [320, 160];
const [TOP, BOTTOM, LEFT, RIGHT] = [22, 138, 62, 312]; // the axis has its labels left of the areas
const TICKS = 3;
const VISIBLE = 0.2; // below this share of the size the scale ends at what is used

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Return the next number of the form 1, 2 or 5 times a power of ten.
function nice(number) {
  const power = 10 ** Math.floor(Math.log10(number));
  return power * [1, 2, 5, 10].find((one) => one * power >= number);
}

// Samples are [at, size, assigned, cooling, reserved], oldest first.
export function showSeries(samples) {
  const chart = $("chart");
  if (samples.length < 2) {
    chart.replaceChildren(svg("text", { x: 6, y: 16, class: "dim" }, "the first samples are being taken"));
    chart.setAttribute("aria-label", "Used addresses over time: the first samples are being taken");
    return;
  }
  const first = samples[0][0];
  const newest = samples[samples.length - 1];
  const last = Math.max(newest[0], first + 1);
  const used = (one) => one[2] + one[3] + one[4];
  const most = Math.max(1, ...samples.map(used));
  const size = newest[1];
  const whole = most >= VISIBLE * size; // the size is on the scale
  const top = whole ? Math.max(size, most) : Math.max(TICKS, most * 1.05);
  const x = (at) => LEFT + ((at - first) / (last - first)) * (RIGHT - LEFT);
  const y = (value) => BOTTOM - (value / top) * (BOTTOM - TOP);
  const shapes = areas(samples, x, y);
  const step = Math.max(1, nice(top / (TICKS + 1)));
  for (let value = step; value < top * 0.95; value += step) {
    shapes.push(svg("line", { x1: LEFT, x2: RIGHT, y1: y(value), y2: y(value) }));
    shapes.push(svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end", class: "dim tick" }, count(value)));
  }
  shapes.push(svg("line", { x1: LEFT, x2: RIGHT, y1: BOTTOM, y2: BOTTOM }));
  shapes.push(svg("text", { x: LEFT - 6, y: BOTTOM + 4, "text-anchor": "end", class: "dim tick" }, "0"));
  if (whole) shapes.push(svg("line", { class: "size", x1: LEFT, x2: RIGHT, y1: y(size), y2: y(size) }));
  const note = whole ? `size ${count(size)}` : `size ${count(size)}, above this scale`;
  shapes.push(svg("text", { x: 6, y: 14, class: "size" }, note));
  shapes.push(svg("text", { x: LEFT, y: HEIGHT - 8, class: "dim" }, `${span(last - first)} ago`));
  shapes.push(svg("text", { x: RIGHT, y: HEIGHT - 8, "text-anchor": "end", class: "dim" }, "now"));
  chart.replaceChildren(...shapes);
  chart.setAttribute(
    "aria-label",
    `Used addresses over the last ${span(last - first)}: now ${count(used(newest))} of ${count(size)}, ` +
      `${share(used(newest), size)}; ${count(most)} at most`,
  );
}

function areas(samples, x, y) {
  const shapes = [];
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
  return shapes;
}
