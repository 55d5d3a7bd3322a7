// Format numbers, shares, durations and times.

export function count(number) {
  return number < 1e11 ? number.toLocaleString("en") : number.toExponential(2);
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

// When a range set will have no address left.
export function fullIn(each) {
  if (each.full) return "full";
  return each.exhaustion_s === null ? "not in sight" : span(each.exhaustion_s);
}

export const usedShare = (each) => share(each.size - each.free, each.size);

export const moment = (seconds) =>
  new Date(seconds * 1000).toISOString().replace("T", " ").replace(/\..*/, " UTC");
