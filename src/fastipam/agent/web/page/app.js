// Keep the page up to date. The agent is asked only while the page is visible, and for a new picture
// only when the store has changed.

import "./controls.js";
import { look } from "./live.js";
import { redraw } from "./picture.js";
import "./search.js";

const STATUS_MS = 2000;

document.addEventListener("visibilitychange", look);
matchMedia("(prefers-color-scheme: light)").addEventListener("change", redraw);
setInterval(look, STATUS_MS);
look();
