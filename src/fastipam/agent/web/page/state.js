// What the page shows: the agent's last answers, and what the user has selected.

export const shown = {
  status: null, // the last answer of /api/status
  setNumber: null, // the number of the range set whose numbers are shown; null: the fullest one
  chosen: "", // the key of the network whose picture is shown
  drawn: null, // the picture of that network: header, panels
  panelAt: 0, // the number of the panel that is shown
  pointed: null, // the cell under the pointer: cell, row, column
  wanted: null, // the address of a search that is to be shown: address, family, value
};

export const keyOf = (one) => `${one.data_dir}\n${one.network}`;
export const queryOf = (one) =>
  `data_dir=${encodeURIComponent(one.data_dir)}&network=${encodeURIComponent(one.network)}`;
export const current = () =>
  shown.status && shown.status.networks.find((one) => keyOf(one) === shown.chosen);
// The range set whose numbers are shown. A network is as full as its fullest range set.
export const rangeSet = () => {
  const sets = current() ? current().range_sets : [];
  const chosen = sets.find((one) => one.number === shown.setNumber);
  return chosen || sets.reduce((a, b) => (!a || (b.used_percent || 0) > (a.used_percent || 0) ? b : a), null);
};
export const panel = () => shown.drawn.panels[shown.panelAt];
