// The part of the picture that the canvas shows, and its scale: fit, zoom, move.

import { hilbertGrid } from "./hilbert.js";
import { $ } from "./dom.js";
import { panel, shown } from "./state.js";

const LARGEST = 64; // pixels a cell

export const canvas = $("map");
export const view = { scale: 1, x: 0, y: 0 }; // device pixels a cell, and the picture's corner

let fitted = true;
const curves = new Map(); // bits -> hilbertGrid

export const isFitted = () => fitted;

export function curveOf(panel) {
  const bits = panel.bits - panel.shift;
  if (!curves.has(bits)) curves.set(bits, hilbertGrid(bits));
  return curves.get(bits);
}

// Give the canvas one pixel for each pixel of the screen.
export function resize() {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
}

function setFitted(on) {
  fitted = on;
  canvas.classList.toggle("fitted", on);
}

function centre(curve) {
  view.x = Math.floor((canvas.width - curve.width * view.scale) / 2);
  view.y = Math.floor((canvas.height - curve.height * view.scale) / 2);
}

export function fit() {
  if (!shown.drawn) return;
  resize();
  const curve = curveOf(panel());
  const scale = Math.min(canvas.width / curve.width, canvas.height / curve.height);
  view.scale = scale >= 1 ? Math.floor(scale) : scale;
  centre(curve);
  setFitted(true);
}

// Show the next network whole.
export function fitNext() {
  fitted = true;
}

export function oneToOne() {
  if (!shown.drawn) return;
  resize();
  view.scale = 1;
  centre(curveOf(panel()));
  setFitted(false);
}

export function move(x, y) {
  view.x += x;
  view.y += y;
  setFitted(false);
}

// Set the scale and keep the point (x, y) of the canvas in place.
function scaleTo(scale, x, y) {
  view.x = x - ((x - view.x) / view.scale) * scale;
  view.y = y - ((y - view.y) / view.scale) * scale;
  view.scale = scale;
  setFitted(false);
}

function within(scale) {
  const curve = curveOf(panel());
  const least = 0.5 * Math.min(1, canvas.width / curve.width, canvas.height / curve.height);
  return Math.min(LARGEST, Math.max(least, scale));
}

// Set any scale, as two fingers do; cells need not be whole pixels.
export function stretch(factor, x, y) {
  scaleTo(within(view.scale * factor), x, y);
}

export function zoom(factor, x = canvas.width / 2, y = canvas.height / 2) {
  if (!shown.drawn) return;
  let scale = within(view.scale * factor);
  // Only with whole pixels are all cells of the same size.
  if (scale >= 1) scale = factor > 1 ? Math.ceil(scale - 1e-9) : Math.floor(scale + 1e-9);
  scaleTo(scale, x, y);
  view.x = Math.round(view.x);
  view.y = Math.round(view.y);
}

// Return the position of an event on the canvas.
export function place(event) {
  const box = canvas.getBoundingClientRect();
  const ratio = canvas.width / box.width;
  return { x: (event.clientX - box.left) * ratio, y: (event.clientY - box.top) * ratio };
}

// Return the place of a cell in the picture.
export function placeOf(cell) {
  const curve = curveOf(panel());
  const at = curve.order.indexOf(cell);
  return { cell, row: Math.floor(at / curve.width), column: at % curve.width };
}

// Return the cell at a row and a column, or null outside of the picture.
export function cellIn(row, column) {
  const curve = curveOf(panel());
  if (column < 0 || row < 0 || column >= curve.width || row >= curve.height) return null;
  return { cell: curve.order[row * curve.width + column], row, column };
}

// Bring a cell onto the screen, at least `least` pixels large.
export function reveal({ row, column }, least) {
  resize();
  if (view.scale < least) scaleTo(within(least), canvas.width / 2, canvas.height / 2);
  const [x, y] = [view.x + (column + 0.5) * view.scale, view.y + (row + 0.5) * view.scale];
  const inside = x > 0 && y > 0 && x < canvas.width && y < canvas.height;
  if (!inside) move(Math.round(canvas.width / 2 - x), Math.round(canvas.height / 2 - y));
}

// Return the cell at a position of the canvas, or null outside of the picture.
export function cellAt({ x, y }) {
  return cellIn(Math.floor((y - view.y) / view.scale), Math.floor((x - view.x) / view.scale));
}
