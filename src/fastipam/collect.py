"""CNI's GC: give back what a runtime does not list, and go on where something is damaged."""

from __future__ import annotations

from fastipam.errors import StoreCorrupt, StoreFull
from fastipam.storage.records.lease import ASSIGNED, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from fastipam.network import Network, Stale

_BATCH = 256  # owners freed in one transaction: other writers wait for it


class Listed:
    """The attachments that a runtime lists, as (container id, interface), and since when.

    Leases assigned at ``before_ns`` (wall clock nanoseconds) or later are newer than the list.
    """

    def __init__(self, valid: Collection[tuple[str, str]], before_ns: int) -> None:
        self._valid = valid
        self._containers = {container_id for container_id, _ in valid}
        self._before_ns = before_ns

    def keeps(self, record: Record) -> bool:
        """Return whether GC leaves this record as it is.

        A lease that names no interface belongs to its container, whatever interface is listed.
        """
        if record.state != ASSIGNED or record.allocated_ns >= self._before_ns:
            return True
        if record.ifname:
            return (record.container_id, record.ifname) in self._valid
        return record.container_id in self._containers


def retain(
    network: Network, valid: Collection[tuple[str, str]], before_ns: int
) -> list[tuple[int, int]]:
    """Give back every lease whose owner is not in ``valid``: see :meth:`Network.retain`."""
    stale, damage = _strangers(network, Listed(valid, before_ns))
    freed = []
    for at in range(0, len(stale), _BATCH):
        batch = stale[at : at + _BATCH]
        try:
            freed += network.release_stale(batch)
        except (StoreFull, StoreCorrupt):
            for one in batch:
                try:
                    freed += _release_one(network, one)
                except StoreCorrupt as error:
                    damage = damage or error
    if damage is not None:
        raise damage
    return freed


def _strangers(network: Network, listed: Listed) -> tuple[list[Stale], StoreCorrupt | None]:
    """Return the owners to release, each with the newest generation that it has.

    And the error of a lease that cannot be read, or None.
    """
    stale: dict[tuple[str, str], int] = {}
    damage = None
    for raw in network.raw_records():
        try:
            record = Record.read(raw)
        except StoreCorrupt as error:
            damage = damage or error
            continue
        owner = (record.container_id, record.ifname)
        if not listed.keeps(record):
            stale[owner] = max(record.generation, stale.get(owner, 0))
    return list(stale.items()), damage


def _release_one(network: Network, stale: Stale) -> list[tuple[int, int]]:
    """Give back what one owner had, in a full store, too: that makes room for the next."""
    try:
        return network.release_stale([stale])
    except StoreFull:
        return network.without_history().release_stale([stale])
