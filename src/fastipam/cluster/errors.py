"""What can go wrong between a node and its cluster, beside what an engine raises.

::

    FastipamError
    ├── ClusterError
    │   ├── ClusterRefused   the operator: settings, name or epoch are not the cluster's
    │   └── ClusterCorrupt   the operator: a key or value of the shared store is not fastipam's
    └── TryLater
        └── NoBlock          no block could be had, and why
"""

from __future__ import annotations

from fastipam.errors import ClusterError, TryLater


class ClusterRefused(ClusterError):
    """This node may not take part as it is configured, or not any more."""


class ClusterCorrupt(ClusterError):
    """The shared store holds something under our keys that fastipam did not write."""


class NoBlock(TryLater):
    """This node's blocks have no free address, and no further block could be had in time."""
