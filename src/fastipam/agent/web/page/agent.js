// Ask the agent for a path. An answer that has not changed since the last one is not sent again.

const tags = {}; // path -> the tag (ETag) of its last answer

// Return the answer, or null when it has not changed since the last one.
export async function ask(path, read) {
  const headers = tags[path] ? { "If-None-Match": tags[path] } : {};
  const answer = await fetch(path, { headers, cache: "no-store" });
  if (answer.status === 304) return null;
  if (!answer.ok) throw new Error(`${path.split("?")[0]}: ${(await answer.text()).trim()}`);
  const body = await answer[read]();
  tags[path] = answer.headers.get("ETag") || "";
  return body;
}

// Forget the last answer of this path, so that the next one is sent whole.
export function forget(path) {
  delete tags[path];
}

// Forget the last answers of all other paths.
export function forgetAllBut(path) {
  for (const one of Object.keys(tags)) if (one !== path) delete tags[one];
}
