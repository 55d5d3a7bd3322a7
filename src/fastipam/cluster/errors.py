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


def in_words(error: FastipamError) -> str:
    """Return the message of an error, with its hint."""
    return f"{error.message}; {error.hint}" if error.hint else error.message
