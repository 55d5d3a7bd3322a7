"""The node agent: one process that serves every plugin call of a node, many in one commit."""
