// Draw the picture: its cells as pixels, then lines and captions.

import { cidrOf } from "./address.js";
import { $ } from "./dom.js";
import { panel, shown } from "./state.js";
import { canvas, curveOf, resize, view } from "./view.js";

const context = canvas.getContext("2d", { alpha: false });

const light = matchMedia("(prefers-color-scheme: light)");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--map${name}`).trim();

// Paint each cell of the panel as one pixel of an image that is not on the screen.
export function render() {
  const drawing = panel();
  const curve = curveOf(drawing);
  if (!drawing.image) {
    drawing.image = document.createElement("canvas");
    drawing.image.width = curve.width;
    drawing.image.height = curve.height;
  }
  const colours = new Uint32Array(256);
  const bytes = new Uint8Array(colours.buffer);
  (light.matches ? shown.drawn.palette_light : shown.drawn.palette).forEach(([red, green, blue], at) => bytes.set([red, green, blue, 255], 4 * at));
  const target = drawing.image.getContext("2d");
  const data = target.createImageData(curve.width, curve.height);
  const pixels = new Uint32Array(data.data.buffer);
  for (let at = 0; at < pixels.length; at++) pixels[at] = colours[drawing.cells[curve.order[at]]];
  target.putImageData(data, 0, 0);
}

// Draw the picture again, because the colour scheme has changed.
export function redraw() {
  if (!shown.drawn) return;
  render();
  draw();
}

export function draw() {
  if (!shown.drawn) return;
  resize();
  const drawing = panel();
  const curve = curveOf(drawing);
  context.fillStyle = colour("");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = view.scale < 1;
  context.imageSmoothingQuality = "high";
  context.drawImage(drawing.image, view.x, view.y, curve.width * view.scale, curve.height * view.scale);
  if ($("grid").checked) {
    if (view.scale >= 12) drawCells(curve);
    drawCidrs(drawing, curve);
    context.strokeStyle = colour("-edge"); // the picture's edge, visible where its cells are empty too
    context.lineWidth = 1;
    context.strokeRect(view.x - 0.5, view.y - 0.5, curve.width * view.scale + 1, curve.height * view.scale + 1);
  }
  if (shown.pointed && view.scale >= 4) outline(shown.pointed);
}

// Draw thin lines between cells that are large enough.
function drawCells(curve) {
  const columns = [Math.max(0, Math.floor(-view.x / view.scale)), Math.min(curve.width, Math.ceil((canvas.width - view.x) / view.scale))];
  const rows = [Math.max(0, Math.floor(-view.y / view.scale)), Math.min(curve.height, Math.ceil((canvas.height - view.y) / view.scale))];
  context.fillStyle = colour("-cells");
  for (let column = columns[0]; column <= columns[1]; column++) {
    context.fillRect(view.x + column * view.scale, view.y + rows[0] * view.scale, 1, (rows[1] - rows[0]) * view.scale);
  }
  for (let row = rows[0]; row <= rows[1]; row++) {
    context.fillRect(view.x + columns[0] * view.scale, view.y + row * view.scale, (columns[1] - columns[0]) * view.scale, 1);
  }
}

// Draw lines between CIDRs of a readable size, and their names.
function drawCidrs(panel, curve) {
  const ratio = window.devicePixelRatio || 1;
  const bits = panel.bits - panel.shift;
  // A square has an even number of bits. Choose the largest of at most 300 pixels a side.
  let inside = bits % 2 ? bits - 1 : bits;
  while (inside > 0 && 2 ** (inside / 2) * view.scale > 300 * ratio) inside -= 2;
  const side = 2 ** (inside / 2);
  const size = side * view.scale;
  context.lineWidth = ratio;
  context.strokeStyle = colour("-line");
  const [caption, words] = [colour("-caption"), colour("-text")];
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
      context.fillStyle = caption;
      context.fillRect(x + ratio, y + ratio, wide, 18 * ratio);
      context.fillStyle = words;
      context.fillText(text, x + 5 * ratio, y + 4 * ratio);
    }
  }
}

function outline(where) {
  context.strokeStyle = colour("-mark");
  context.lineWidth = 2;
  context.strokeRect(
    view.x + where.column * view.scale, view.y + where.row * view.scale, view.scale, view.scale,
  );
}
