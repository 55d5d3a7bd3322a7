// Format addresses as the rest of fastipam does. An address is a BigInt, the cell of a panel is a
// number. A cell that stands for several addresses is shown as a CIDR.

export function addressOf(panel, cell) {
  return panel.shift ? cidrOf(panel, cell, 0) : textOf(panel.family, valueOf(panel, cell));
}

// Return the CIDR of 2**cellBits cells that begin with this one.
export function cidrOf(panel, cell, cellBits) {
  const length = (panel.family === 4 ? 32 : 128) - panel.shift - cellBits;
  return `${textOf(panel.family, valueOf(panel, cell))}/${length}`;
}

const valueOf = (panel, cell) => BigInt(panel.first) + (BigInt(cell) << BigInt(panel.shift));
const textOf = (family, value) => (family === 4 ? dotted(value) : groups(value));

function dotted(value) {
  return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 255n).join(".");
}

// RFC 5952: "::" stands for the longest run of at least two zero groups.
export function groups(value) {
  const all = [];
  for (let shift = 112n; shift >= 0n; shift -= 16n) all.push(Number((value >> shift) & 65535n));
  let best = { from: -1, size: 1 };
  for (let from = 0; from < 8; from++) {
    let size = 0;
    while (from + size < 8 && all[from + size] === 0) size++;
    if (size > best.size) best = { from, size };
  }
  const text = (part) => part.map((group) => group.toString(16)).join(":");
  if (best.from < 0) return text(all);
  return `${text(all.slice(0, best.from))}::${text(all.slice(best.from + best.size))}`;
}
