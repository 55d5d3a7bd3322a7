"""One node's side of the protocol between its own store and the shared one."""
