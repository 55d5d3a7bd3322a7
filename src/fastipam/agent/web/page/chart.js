// Draw the addresses in use over time as stacked areas.

import { $ } from "./dom.js";
import { count, span } from "./text.js";

// Samples are [at, size, assigned, cooling, reserved], oldest first.
export function showSeries(samples) {
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
