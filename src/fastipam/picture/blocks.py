"""Which blocks of the cluster's pool a network's store knows, and what they are to this node."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fastipam.store import Snapshot, Store


class Owned(NamedTuple):
    """A block, first to last address, and its state, in a word ("active")."""

    family: int
    first: int
    last: int
    state: str


def owned(store: Store, txn: Snapshot, network_id: int) -> list[Owned]:  # noqa: ARG001
    """The blocks of a network, in address order; none outside of a cluster."""
    return []
