// Find the elements of index.html and fill them, always with text, never with HTML.

export const $ = (id) => document.getElementById(id);

export function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Replace the body of a table by these rows, or by a text when there are none. A field is a text or
// an element. `classes` are those of the rows. Each cell has its heading, for narrow screens.
export function fill(table, rows, nothing, classes = []) {
  const headings = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  const body = element("tbody");
  rows.forEach((fields, at) => {
    const row = body.insertRow();
    if (classes[at]) row.className = classes[at];
    fields.forEach((field, column) => {
      const cell = row.insertCell();
      cell.dataset.label = headings[column];
      cell.append(field);
    });
  });
  if (!rows.length) {
    const cell = body.insertRow().insertCell();
    cell.colSpan = headings.length;
    cell.textContent = nothing;
  }
  table.tBodies[0].replaceWith(body);
}

// Show a state with its colour.
export function stateOf(state) {
  const made = element("span", undefined, "state");
  made.append(element("span", "", `swatch ${state.replace(" ", "-")}`), state);
  return made;
}
