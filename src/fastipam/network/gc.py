"""CNI's GC: find the leases that a runtime does not list."""

from __future__ import annotations

from fastipam.errors import StoreCorrupt
from fastipam.storage.records.lease import ASSIGNED, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

LISTED = "listed"
YOUNG = "young"  # not listed, but younger than the list
STALE = "stale"


def judge(
    leases: Iterable[tuple[bytes, bytes]], valid: Collection[tuple[str, str]], before_ns: int
) -> Iterator[tuple[bytes, Record, str]]:
    """Yield key, record and verdict (LISTED, YOUNG or STALE) of every assigned lease.

    ``leases`` are packed. A lease is LISTED when its owner is in ``valid``, and YOUNG when it was
    assigned at ``before_ns`` or later. A lease without an interface belongs to its whole container.
    Raises StoreCorrupt at the end if a lease cannot be read.
    """
    containers = {container_id for container_id, _ in valid}
    damage = None
    for key, raw in leases:
        try:
            record = Record.read(raw)
        except StoreCorrupt as error:
            damage = damage or error
            continue
        if record.state != ASSIGNED:
            continue
        owner = (record.container_id, record.ifname)
        if owner in valid if record.ifname else record.container_id in containers:
            yield key, record, LISTED
        else:
            yield key, record, STALE if record.allocated_ns < before_ns else YOUNG
    if damage is not None:
        raise damage


def unlisted(
    leases: Iterable[tuple[bytes, bytes]], valid: Collection[tuple[str, str]], before_ns: int
) -> Iterator[tuple[bytes, Record]]:
    """Yield key and record of every lease that :func:`judge` finds STALE."""
    for key, record, verdict in judge(leases, valid, before_ns):
        if verdict == STALE:
            yield key, record
