"""The history of a network: one event for every assignment and release, in the same commit.

The numbers of events ascend and are never reused. The last few events wait in the network's record
in the main database, the others are in the table ``events``; here both are read together, in order.
The oldest events are deleted a few at a time, when there are more than the policy keeps or when
they are older than it says: O(1) amortized.
"""

from __future__ import annotations

from itertools import islice

from fastipam._ledger import EventLog
from fastipam.errors import StoreCorrupt
from fastipam.storage import tables
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys
from fastipam.storage.records.event import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fastipam.storage.transaction import Snapshot, Transaction

# The kinds of events that give an address an owner.
BEGINNINGS = frozenset(
    event_record.KINDS[kind] for kind in (event_record.ASSIGNED, event_record.IMPORTED)
)
_END_WORDS = frozenset(
    event_record.KINDS[kind]
    for kind in (
        event_record.RELEASED,
        event_record.GC,
        event_record.SWEPT,
        event_record.REBOOTED,
        event_record.OPERATOR,
    )
)


def scan(txn: Snapshot | Transaction, network_id: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (key, value) pairs of a network's events, oldest first. O(1) memory."""
    yield from tables.EVENTS.scan(txn, keys.id_prefix(network_id))
    yield from txn.event_log(network_id).items()


def scan_back(txn: Snapshot | Transaction, network_id: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (key, value) pairs of a network's events, newest first. O(1) memory."""
    yield from reversed(txn.event_log(network_id).items())
    yield from tables.EVENTS.scan_back(txn, keys.id_prefix(network_id))


def page(
    txn: Snapshot, network_id: int, start: bytes
) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
    """Return one page of a network's events, and the key at which the next page starts, or None.

    A page has up to a few thousand of the pairs that :func:`scan` yields, from the key ``start``
    on. An event that moves to the table ``events`` between two pages is in the second page.
    """
    items, following = tables.EVENTS.page(txn, keys.id_prefix(network_id), start)
    if following is None:
        items += [one for one in txn.event_log(network_id).items() if one[0] >= start]
    return items, following


def count(txn: Snapshot) -> int:
    """Return the number of events of all networks. O(networks)."""
    total = tables.EVENTS.count(txn)
    for key, raw in tables.MAIN.scan(txn, keys.LOG_MARK):
        try:
            total += len(EventLog(keys.id_of(key[1:]), raw).waiting)
        except StoreCorrupt:  # `fastipam check` reports it
            continue
    return total


def select(
    events: Iterable[tuple[bytes, bytes]],
    address: tuple[int, int] | None,
    pod: str,
    between: tuple[int, int],
) -> Iterator[Event]:
    """Yield the events that match an address, a pod and a span of time, in their order.

    Only matching events are unpacked. The times are wall clock, so they may be out of order after
    the clock was set back.
    """
    since_ns, until_ns = between
    packed = event_record.pack_address(*address) if address else b""
    namespace, _, name = pod.partition("/")
    needle = b"\0" + keys.encode("pod", f"{namespace}\0{name}") + b"\0" if pod else b""
    for key, raw in events:
        wall_ns = event_record.wall_ns_of(raw)
        if wall_ns is None:
            yield Event(key, raw)  # raises StoreCorrupt
            continue
        if packed and not event_record.is_of(raw, packed):
            continue
        if needle and needle not in raw:
            continue
        if since_ns <= wall_ns <= until_ns:
            yield Event(key, raw)


def last(txn: Snapshot, network_id: int, most: int) -> Iterator[Event]:
    """Yield the last ``most`` events of a network, newest first. O(most)."""
    for key, raw in islice(scan_back(txn, network_id), most):
        yield Event(key, raw)


def holder_at(events: Iterator[Event], wall_ns: int) -> Event | None:
    """Return the event that names the owner of an address at a time, or None without an owner.

    ``events`` are the address's events, oldest first.
    """
    holder: Event | None = None
    known = False
    for event in events:
        if event.wall_ns > wall_ns:
            # The assignment is older than the history; the release says who had the address.
            return event if not known and event.kind in _END_WORDS else holder
        if event.kind in BEGINNINGS:
            holder, known = event, True
        elif event.kind in _END_WORDS:
            holder, known = None, True
    return holder
