// What is shown: the agent's last answers, and which part of them somebody has chosen.

export const shown = {
  status: null, // the last answer of /api/status
  chosen: "", // the network whose picture is shown: its key
  drawn: null, // its picture: header, panels
  panelAt: 0, // which of them
  pointed: null, // what is under the pointer: cell, row, column
};

export const keyOf = (one) => `${one.data_dir}\n${one.network}`;
export const queryOf = (one) =>
  `data_dir=${encodeURIComponent(one.data_dir)}&network=${encodeURIComponent(one.network)}`;
export const current = () =>
  shown.status && shown.status.networks.find((one) => keyOf(one) === shown.chosen);
export const panel = () => shown.drawn.panels[shown.panelAt];
