// Show how the agent serves, what it has refused, and how it reaches the cluster's store.

import { $, element, fill } from "./dom.js";
import { count, latency, moment, span } from "./text.js";

export function showHealth(status) {
  const { health, agent } = status;
  const ago = (at) => `${span(Math.max(0, Date.now() / 1000 - at))} ago`;
  const { sweep, error } = health;
  const cards = [
    ["Requests, last minute", `${Number(health.requests_per_s.toPrecision(3))} /s`],
    ["Requests in all", count(agent.requests)],
    ["Latency, median", latency(health.p50_s)],
    ["Latency, p99", latency(health.p99_s)],
    ["Commit, median", latency(health.commit_p50_s)],
    ["Commit, p99", latency(health.commit_p99_s)],
    ["Running for", span(Math.max(0, Date.now() / 1000 - agent.started))],
    ["Sweeper", sweep
      ? `${ago(sweep.at)}: ${count(sweep.looked)} checked, ${count(sweep.released)} released, ` +
        `${count(sweep.missing)} to be checked again, ${count(sweep.unknown)} skipped`
      : "has not run yet", "long"],
    ["Last error", error ? `${ago(error.at)}: ${error.message || "its text is withheld"}` : "none", "long",
      error ? (error.level === "warning" ? "warn" : "bad") : ""],
  ];
  $("health").replaceChildren(...cards.map(([name, value, size, level]) => {
    const card = element("div", undefined, size);
    card.append(element("dt", name), element("dd", value, level));
    return card;
  }));
}

export function showClusters(clusters) {
  $("clusters").hidden = !clusters.length;
  fill(
    $("clusters").querySelector("table"),
    clusters.map((one) => [
      one.network,
      one.node,
      poolsOf(one),
      element("span", one.connected ? "reachable" : "not reachable", one.connected ? "" : "bad"),
      Object.entries(one.blocks).filter(([, n]) => n).map(([state, n]) => `${n} ${state}`).join(", ") || "none",
      one.reason || (one.refused ? "the cluster does not accept this node's configuration" : ""),
    ]),
    "none",
  );
}

// Return an element with a line for each pool.
function poolsOf(one) {
  const pools = element("span");
  if (!one.pools.length) pools.textContent = "none yet";
  for (const { name, cidr, block_length } of one.pools) {
    pools.append(element("span", `${name} ${cidr} in /${block_length}`.trim(), "message"));
  }
  return pools;
}

export function showRefusals(status) {
  const codes = Object.entries(status.codes).map(([code, n]) => `${count(n)} with code ${code}`);
  $("codes").textContent = codes.length ? `Since the agent began: ${codes.join(", ")}.` : "";
  fill(
    $("refusals"),
    status.refusals.map((one) => {
      const answer = element("span");
      answer.append(element("span", one.message, "message"));
      if (one.hint) answer.append(element("span", one.hint, "hint"));
      return [moment(one.at), count(one.count), one.verb, String(one.code), one.network, one.pod, answer];
    }),
    "none",
  );
}
