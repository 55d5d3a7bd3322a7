// Show the numbers of all networks, and those of the network whose picture is shown.

import { $, element, fill } from "./dom.js";
import { current, keyOf, shown } from "./state.js";
import { count, moment, share, span } from "./text.js";

// A click on a tab calls `choose` with the key of its network.
export function showStatus(choose) {
  $("moment").textContent = `as of ${moment(Date.now() / 1000)}`;
  fill(
    $("networks"),
    shown.status.networks.map((one) => [
      one.network,
      ...["size", "assigned", "cooling", "reserved", "free"].map((key) => count(one[key])),
      one.exhaustion_s === null ? "not in sight" : span(one.exhaustion_s),
      one.longest_free_run === null ? "" : count(one.longest_free_run),
      one.cooling ? span(one.oldest_cooling_s) : "",
    ]),
    "No network yet: the first request names one.",
  );
  fill($("codes"), Object.entries(shown.status.codes).map(([code, n]) => [code, count(n)]), "none");
  fill(
    $("refusals"),
    shown.status.refusals.map((one) => [moment(one.at), one.verb, one.code, one.message]),
    "none",
  );
  $("live").hidden = !shown.status.networks.length;
  showTabs(choose);
  showCounts();
}

function showTabs(choose) {
  const names = shown.status.networks.map((one) => one.network);
  const tabs = shown.status.networks.map((one) => {
    const twice = names.indexOf(one.network) !== names.lastIndexOf(one.network);
    const tab = element("button", twice ? `${one.network} (${one.data_dir})` : one.network);
    tab.dataset.key = keyOf(one);
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-selected", String(keyOf(one) === shown.chosen));
    tab.addEventListener("click", () => choose(keyOf(one)));
    return tab;
  });
  // A tab with the focus is updated in place while the networks are the same, so that it keeps the focus.
  const before = [...$("tabs").children];
  const same = before.length === tabs.length && tabs.every((tab, at) => tab.dataset.key === before[at].dataset.key);
  if (same && $("tabs").contains(document.activeElement)) {
    tabs.forEach((tab, at) => before[at].setAttribute("aria-selected", tab.getAttribute("aria-selected")));
  } else {
    $("tabs").replaceChildren(...tabs);
  }
}

function showCounts() {
  const one = current();
  if (!one) return;
  const rows = [];
  for (const state of ["assigned", "cooling", "reserved", "free"]) {
    const name = element("dt");
    name.append(element("span", "", `swatch ${state}`), state);
    rows.push(name, element("dd", count(one[state])), element("dd", share(one[state], one.size), "dim"));
  }
  const never = element("dt");
  never.append(element("span", "", "swatch excluded"), "never assigned");
  rows.push(never, element("dd", ""), element("dd", "", "dim"));
  $("counts").replaceChildren(...rows);
  showFacts(one);
  $("blocks").hidden = !one.blocks.length;
  fill($("blocks").querySelector("table"), one.blocks.map((b) => [b.first, b.last, b.state]), "none");
}

function showFacts(one) {
  const facts = [
    ["Size", count(one.size)],
    ["Full in", one.exhaustion_s === null ? "not in sight" : span(one.exhaustion_s)],
    ["Longest free run", one.longest_free_run === null ? "…" : count(one.longest_free_run)],
    ["Longest cooling", one.cooling ? span(one.oldest_cooling_s) : "none"],
    ["Assignments so far", count(one.assignments)],
  ];
  $("facts").replaceChildren(
    ...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]),
  );
}

// Show the last events of the network.
export function showEvents(events) {
  fill(
    $("events"),
    events.map((one) => [moment(one.at), one.kind, one.network, one.address, one.pod || "", one.container || ""]),
    "none",
  );
}

// Offer the subnets of the network for selection.
export function showPanels() {
  const list = $("panel");
  const names = shown.drawn.panels.map((panel) => panel.cidr);
  list.hidden = names.length < 2;
  if (names.join() !== [...list.options].map((option) => option.value).join()) {
    list.replaceChildren(...names.map((name) => new Option(name, name)));
  }
  list.selectedIndex = shown.panelAt;
}
