// Decide what to ask the agent, and when.

import { ask, forget, forgetAllBut } from "./agent.js";
import { showSeries } from "./chart.js";
import { $ } from "./dom.js";
import { showEvents, showPanels, showStatus } from "./numbers.js";
import { draw, render } from "./picture.js";
import { current, keyOf, panel, queryOf, rangeSet, shown } from "./state.js";
import { hideTip, pointAt, say } from "./tip.js";
import { fit, fitNext, isFitted } from "./view.js";

const STATUS = "/api/status";
const SERIES_MS = 10000;

let waiting = false;
let again = false;
let seriesAt = 0;
let eventsOf = "";

export async function look() {
  if (document.hidden) return;
  if (waiting) {
    again = true; // another network was chosen before the answers for this one arrived
    return;
  }
  waiting = true;
  try {
    const found = await ask(STATUS, "json");
    if (found) {
      shown.status = found;
      if (!current() && found.networks.length) {
        choose(keyOf(found.networks.reduce((a, b) => (b.assigned > a.assigned ? b : a))));
      }
      showStatus(pick);
    }
    const one = current();
    if (one) {
      const { drawn } = shown;
      if (!drawn || drawn.key !== shown.chosen || drawn.change !== one.change) await fetchPicture(one);
      if (Date.now() - seriesAt > SERIES_MS) await fetchSeries(one);
      await fetchEvents(one);
    }
    $("link").textContent = shown.status && shown.status.agent.private ? "names are withheld" : "live";
    $("link").className = "";
  } catch (error) {
    // Each browser words fetch()'s error differently, so it is not shown.
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

// Show another network at once.
export function pick(key) {
  choose(key);
  showStatus(pick);
  return look();
}

// Show the numbers of another range set of the network.
export function pickSet(number) {
  shown.setNumber = number;
  seriesAt = 0;
  showSeries([]);
  showStatus(pick);
  return look();
}

// Show an address of a search on the picture of its network.
export async function goTo({ data_dir, network, address, family, value }) {
  shown.wanted = { address, family, value: BigInt(value) };
  const key = keyOf({ data_dir, network });
  if (key === shown.chosen && shown.drawn) showWanted();
  else await pick(key);
}

function showWanted() {
  const { family, value } = shown.wanted;
  shown.wanted = null;
  const at = shown.drawn.panels.findIndex((one) => {
    const first = BigInt(one.first);
    return one.family === family && value >= first && value < first + (1n << BigInt(one.bits));
  });
  if (at < 0) return say("This address is not in the picture.");
  if (at !== shown.panelAt) {
    shown.panelAt = at;
    showPanels();
    render();
  }
  const one = panel();
  pointAt(Number((value - BigInt(one.first)) >> BigInt(one.shift)));
  $("stage").scrollIntoView({ block: "nearest" });
}

function choose(key) {
  if (key === shown.chosen) return;
  shown.chosen = key;
  shown.setNumber = null;
  shown.drawn = null;
  shown.panelAt = 0;
  seriesAt = 0;
  fitNext();
  forgetAllBut(STATUS); // the page still shows the answers for the network before
  showSeries([]);
  hideTip();
}

async function fetchPicture(one) {
  const key = keyOf(one);
  const path = `/api/picture?${queryOf(one)}`;
  if (!shown.drawn || shown.drawn.key !== key) forget(path);
  const body = await ask(path, "arrayBuffer");
  if (!body || key !== shown.chosen) return;
  const before = shown.drawn && shown.drawn.key === key ? panel() : null;
  shown.drawn = { ...readPicture(body), key };
  if (shown.panelAt >= shown.drawn.panels.length) shown.panelAt = 0;
  showPanels();
  render();
  if (isFitted() || !before || before.cidr !== panel().cidr) fit();
  draw();
  if (shown.wanted) showWanted();
}

// Read a picture: 4 bytes with the length of a JSON header, the header, the cells (see api.py).
function readPicture(body) {
  const size = new DataView(body).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, size)));
  let at = 4 + size;
  for (const panel of header.panels) {
    const cells = 2 ** (panel.bits - panel.shift);
    panel.cells = new Uint8Array(body, at, cells);
    at += cells;
  }
  return header;
}

async function fetchSeries(one) {
  const number = rangeSet() ? rangeSet().number : 0;
  const path = `/api/series?${queryOf(one)}&range_set=${number}`;
  if (!seriesAt) forget(path);
  const samples = await ask(path, "json");
  if (keyOf(one) !== shown.chosen || number !== (rangeSet() ? rangeSet().number : 0)) return;
  seriesAt = Date.now();
  if (samples) showSeries(samples);
}

async function fetchEvents(one) {
  const state = `${keyOf(one)}\n${one.change}`;
  if (eventsOf === state) return; // no event since then
  const events = await ask(`/api/events?${queryOf(one)}`, "json");
  if (keyOf(one) !== shown.chosen) return;
  eventsOf = state;
  if (events) showEvents(events);
}
