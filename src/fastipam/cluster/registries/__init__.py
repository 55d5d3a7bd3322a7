"""The shared stores of a cluster, each behind the interface :class:`Registry`."""
