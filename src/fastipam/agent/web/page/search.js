// Search for an address, a pod or a container, and show a result on the picture.

import { $, element, fill, stateOf } from "./dom.js";
import { goTo } from "./live.js";
import { moment } from "./text.js";

let asked = 0; // the number of the last search: answers of earlier ones are ignored

async function search(query) {
  const number = ++asked;
  const note = $("found-note");
  $("found").hidden = false;
  note.className = "";
  note.textContent = "Searching …";
  fill($("results"), [], "");
  try {
    const answer = await fetch(`/api/search?q=${encodeURIComponent(query)}`);
    if (number !== asked) return;
    if (!answer.ok) throw new Error((await answer.text()).trim().replace(/^q: /, ""));
    showResults(query, await answer.json());
  } catch (error) {
    note.className = "bad";
    note.textContent = error instanceof TypeError ? "The agent does not answer." : error.message;
  }
}

function showResults(query, { results, more }) {
  const many = results.length === 1 ? "1 address" : `${results.length} addresses`;
  $("found-note").textContent = results.length
    ? `${more ? "The first " : ""}${many} for “${query}”`
    : `Nothing has “${query}”: use an address, a pod as namespace/name, or the beginning of a container id.`;
  fill(
    $("results"),
    results.map((one) => {
      const address = element("button", one.address, "plain");
      address.type = "button";
      address.addEventListener("click", () => goTo(one));
      return [
        address, stateOf(one.state), one.network, one.pod,
        [one.container, one.ifname].filter(Boolean).join(" "), one.since ? moment(one.since) : "",
      ];
    }),
    "",
  );
}

$("search").hidden = false;
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = $("query").value.trim();
  if (query) search(query);
});
$("close-found").addEventListener("click", () => {
  asked++;
  $("found").hidden = true;
  $("query").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  event.preventDefault();
  $("query").focus();
});
