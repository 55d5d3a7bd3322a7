"""CNI's GC: find the leases that a runtime does not list."""

from __future__ import annotations

from fastipam.errors import StoreCorrupt
from fastipam.storage.records.lease import ASSIGNED, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator


def unlisted(
    leases: Iterable[tuple[bytes, bytes]], valid: Collection[tuple[str, str]], before_ns: int
) -> Iterator[tuple[bytes, Record]]:
    """Yield key and record of every lease from before ``before_ns`` whose owner is not ``valid``.

    ``leases`` are packed. A lease without an interface belongs to its whole container. Raises
    StoreCorrupt at the end if a lease cannot be read.
    """
    containers = {container_id for container_id, _ in valid}
    damage = None
    for key, raw in leases:
        try:
            record = Record.read(raw)
        except StoreCorrupt as error:
            damage = damage or error
            continue
        owner = (record.container_id, record.ifname)
        listed = owner in valid if record.ifname else record.container_id in containers
        if record.state == ASSIGNED and not listed and record.allocated_ns < before_ns:
            yield key, record
    if damage is not None:
        raise damage
