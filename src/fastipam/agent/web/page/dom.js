// Find the elements of index.html and fill them, always with text, never with HTML.

export const $ = (id) => document.getElementById(id);

export function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Replace the body of a table by these rows, or by a text when there are none.
export function fill(table, rows, nothing) {
  const width = table.tHead.rows[0].cells.length;
  const body = element("tbody");
  for (const fields of rows) {
    const row = body.insertRow();
    for (const field of fields) row.append(element("td", field));
  }
  if (!rows.length) {
    const cell = body.insertRow().insertCell();
    cell.colSpan = width;
    cell.textContent = nothing;
  }
  table.tBodies[0].replaceWith(body);
}
