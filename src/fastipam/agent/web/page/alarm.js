// Tell which range sets are full or nearly full: in the banner, the title and the icon of the tab.

import { $ } from "./dom.js";

const LOW_PERCENT = 90; // see LOW_PERCENT in index.py

const WORDS = { full: "full", low: "nearly full" };

// Return "full", "low" or "".
export function levelOf(each) {
  if (each.full) return "full";
  return (each.used_percent || 0) >= LOW_PERCENT ? "low" : "";
}

// A network is as full as its fullest range set.
export function levelOfNetwork(one) {
  const levels = one.range_sets.map(levelOf);
  return levels.includes("full") ? "full" : levels.includes("low") ? "low" : "";
}

export const wordsOf = (level) => WORDS[level] || "";

export function showAlarm(networks) {
  const named = (level) =>
    networks.flatMap((one) =>
      one.range_sets.filter((each) => levelOf(each) === level).map((each) => `${one.network} ${each.ranges}`));
  const parts = ["full", "low"].map((level) => [level, named(level)]).filter(([, names]) => names.length);
  const level = parts.length ? parts[0][0] : "";
  const text = parts.map(([each, names]) => `${WORDS[each]}: ${names.join(", ")}`).join("; ");
  const alarm = $("alarm");
  const shown = text && text[0].toUpperCase() + text.slice(1);
  if (alarm.textContent !== shown) alarm.textContent = shown; // a screen reader reads what is new
  alarm.className = level;
  const worst = networks.filter((one) => levelOfNetwork(one) === level && level).map((one) => one.network);
  const prefix = level ? `${WORDS[level].toUpperCase()}: ${worst.join(", ")} · ` : "";
  document.title = `${prefix}fastipam on ${document.body.dataset.host}`;
  document.querySelector("link[rel=icon]").href = `/page/icon${level ? `-${level}` : ""}.svg`;
}
