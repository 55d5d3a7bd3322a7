// Show the numbers of all range sets, and those of one range set of the network that is shown.

import { levelOf, levelOfNetwork, showAlarm, wordsOf } from "./alarm.js";
import { $, element, fill } from "./dom.js";
import { showClusters, showHealth, showRefusals } from "./health.js";
import { current, keyOf, rangeSet, shown } from "./state.js";
import { count, fullIn, moment, share, span, usedShare } from "./text.js";

// A click on a tab calls `choose` with the key of its network.
export function showStatus(choose) {
  $("moment").textContent = `as of ${moment(Date.now() / 1000)}`;
  fill(
    $("networks"),
    shown.status.networks.flatMap((one) => one.range_sets.map((each) => [
      one.network,
      each.ranges,
      ...["size", "assigned", "cooling", "reserved", "free"].map((key) => count(each[key])),
      usedShare(each),
      fullIn(each),
      each.longest_free_run === null ? "" : count(each.longest_free_run),
    ])),
    "No network yet: the first ADD creates one.",
    shown.status.networks.flatMap((one) => one.range_sets.map(levelOf)),
  );
  showAlarm(shown.status.networks);
  showHealth(shown.status);
  showClusters(shown.status.clusters);
  showRefusals(shown.status);
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
    tab.type = "button";
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-selected", String(keyOf(one) === shown.chosen));
    tab.setAttribute("aria-controls", "stage");
    tab.tabIndex = keyOf(one) === shown.chosen ? 0 : -1; // the arrow keys go to the others
    const level = levelOfNetwork(one);
    if (level) tab.append(" ", element("span", wordsOf(level), `mark ${level}`));
    tab.addEventListener("click", () => choose(keyOf(one)));
    return tab;
  });
  // A tab with the focus is updated in place while the networks are the same, so that it keeps the focus.
  const before = [...$("tabs").children];
  const same = before.length === tabs.length && tabs.every((tab, at) => tab.dataset.key === before[at].dataset.key);
  if (same && $("tabs").contains(document.activeElement)) {
    tabs.forEach((tab, at) => {
      before[at].setAttribute("aria-selected", tab.getAttribute("aria-selected"));
      before[at].tabIndex = tab.tabIndex;
      before[at].replaceChildren(...tab.childNodes);
    });
  } else {
    $("tabs").replaceChildren(...tabs);
  }
}

function showCounts() {
  const one = current();
  const each = rangeSet();
  if (!one || !each) return;
  shown.setNumber = each.number;
  showSets(one);
  const rows = [];
  for (const state of ["assigned", "cooling", "reserved", "free"]) {
    const name = element("dt");
    name.append(element("span", "", `swatch ${state}`), state);
    rows.push(name, element("dd", count(each[state])), element("dd", share(each[state], each.size), "dim"));
  }
  const never = element("dt");
  never.append(element("span", "", "swatch excluded"), "never assigned");
  rows.push(never, element("dd", count(each.excluded)), element("dd", "", "dim"));
  if (one.blocks.length) {
    const elsewhere = element("dt");
    elsewhere.append(element("span", "", "swatch elsewhere"), "in no block of this node");
    rows.push(elsewhere, element("dd", ""), element("dd", "", "dim"));
  }
  $("counts").replaceChildren(...rows);
  showFacts(one, each);
  $("blocks").hidden = !one.blocks.length;
  fill($("blocks").querySelector("table"), one.blocks.map((b) => [b.first, b.last, b.state]), "none");
}

// Offer the range sets of the network for selection.
function showSets(one) {
  const list = $("set");
  const names = one.range_sets.map((each) => each.ranges);
  list.hidden = names.length < 2;
  if (names.join("\n") !== [...list.options].map((option) => option.text).join("\n")) {
    list.replaceChildren(...one.range_sets.map((each) => new Option(each.ranges, each.number)));
  }
  list.value = String(shown.setNumber);
}

function showFacts(one, each) {
  const facts = [
    ["Size", count(each.size)],
    ["Full in", fullIn(each)],
    ["Longest free run", each.longest_free_run === null ? "…" : count(each.longest_free_run)],
    ["Longest cooling of the network", one.cooling ? span(one.oldest_cooling_s) : "none"],
    ["Assignments of the network", count(one.assignments)],
  ];
  if (one.outside) facts.push(["In use outside of the ranges", count(one.outside)]);
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
