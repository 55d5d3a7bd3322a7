// One question to the agent, which answers it once as long as the answer is the same.

const tags = {}; // path -> the tag of the answer that is here already

// The answer, or null when it is the one that is here already.
export async function ask(path, read) {
  const headers = tags[path] ? { "If-None-Match": tags[path] } : {};
  const answer = await fetch(path, { headers, cache: "no-store" });
  if (answer.status === 304) return null;
  if (!answer.ok) throw new Error(`${path.split("?")[0]}: ${(await answer.text()).trim()}`);
  const body = await answer[read]();
  tags[path] = answer.headers.get("ETag") || "";
  return body;
}

// Ask again for what is on this path, whatever is here.
export function forget(path) {
  delete tags[path];
}

// Ask again for everything but what is on this path.
export function forgetAllBut(path) {
  for (const one of Object.keys(tags)) if (one !== path) delete tags[one];
}
