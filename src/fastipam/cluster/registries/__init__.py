"""The shared stores of a cluster; each implements the interface :class:`Registry`."""
