// Format numbers, shares, durations and times.

const LONGEST = 2 ** 32; // no IPv4 pool has more addresses; digits say little beyond it

// Return a number in digits, or one that only IPv6 has as a power of two; ~ says that it is rounded.
export function count(number) {
  if (number < LONGEST) return number.toLocaleString("en");
  const power = Math.log2(number);
  // JavaScript has rounded a larger number already.
  const exact = Number.isSafeInteger(number) && Number.isInteger(power);
  return `${exact ? "" : "~"}2^${Number(power.toFixed(1))}`;
}

export function share(part, whole) {
  if (!part || !whole) return "0 %";
  const percent = (100 * part) / whole;
  if (part === whole) return "100 %";
  return percent < 0.1 ? "< 0.1 %" : `${Math.min(percent, 99.9).toFixed(1)} %`;
}

export function span(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

// A duration below a second, as of a request; null when there was none.
export function latency(seconds) {
  if (seconds === null) return "–";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${Number((seconds * 1e3).toPrecision(3))} ms`;
  return `${seconds.toFixed(1)} s`;
}

// When a range set will have no address left.
export function fullIn(each) {
  if (each.full) return "full";
  return each.exhaustion_s === null ? "not expected" : span(each.exhaustion_s);
}

// Not computed as size - free: JavaScript has rounded both for an IPv6 set.
export const usedShare = (each) => share(each.assigned + each.cooling + each.reserved, each.size);

export const moment = (seconds) =>
  new Date(seconds * 1000).toISOString().replace("T", " ").replace(/\..*/, " UTC");
