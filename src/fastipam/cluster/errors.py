"""The errors of a node in its cluster; ``engine`` has the errors of the shared store."""

from __future__ import annotations

from fastipam.errors import ClusterError, FastipamError, TryLater


class ClusterRefused(ClusterError):
    """The cluster does not accept this node as it is configured, or has removed it."""


class ClusterCorrupt(ClusterError):
    """The shared store has a key or value below the prefix that fastipam did not write."""


class NoBlock(TryLater):
    """This node's blocks have no free address, and no further block could be claimed in time."""


def not_written(what: str, done: str = "written") -> NoBlock:
    """Return the error for an object that could not be changed, however often it was tried."""
    return NoBlock(f"{what} could not be {done}: each attempt found it changed or got no answer")


def entry_changed(name: str) -> ClusterRefused:
    """Return the error for a node whose entry in the shared store is not the one that it wrote."""
    return ClusterRefused(
        f"the entry of node {name} was changed: this node was removed meanwhile, "
        "or another node has its name"
    )


def store_restored() -> NoBlock:
    """Return the error for a claim while the nodes of a restored shared store claim again."""
    return NoBlock(
        "the cluster's store was restored to an older state: every node claims its blocks again "
        "before any node claims another block"
    )


def in_words(error: FastipamError) -> str:
    """Return the message of an error, with its hint."""
    return f"{error.message}; {error.hint}" if error.hint else error.message
