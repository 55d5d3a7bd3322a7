"""The history of a network: one event for every assignment and release, in the same commit.

Numbers of events ascend and are never reused. The oldest events are deleted a few at a time, when
there are more than the policy keeps, or when they are older: O(1) amortized.
"""

from __future__ import annotations

from itertools import islice

from fastipam.storage import tables
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys
from fastipam.storage.records.event import Event, event_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fastipam.configuration.policy import Policy
    from fastipam.storage.records.network_state import NetworkState
    from fastipam.storage.transaction import Snapshot, Transaction

# The kinds of events from which on an address has an owner.
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

_TRIM = 64  # how many of the oldest events are deleted at a time


def write(txn: Transaction, state: NetworkState, policy: Policy, events: Sequence[bytes]) -> None:
    """Append events to a network's history, and delete what is too old. O(events) amortized.

    ``state`` counts the events; the caller saves it.
    """
    kept = events if len(events) <= policy.history else events[len(events) - policy.history :]
    state.events += len(events) - len(kept)  # more events at once than the history keeps
    for raw in kept:
        tables.EVENTS.put(txn, event_key(state.network_id, state.events), raw)
        state.events += 1
    if state.events - state.first_event >= policy.history + _TRIM or state.events % _TRIM == 0:
        _trim(txn, state, policy, len(kept) + _TRIM)


def _trim(txn: Transaction, state: NetworkState, policy: Policy, most: int) -> None:
    """Delete up to ``most`` of the oldest events that the policy does not keep."""
    oldest_number = state.events - policy.history
    oldest_ns = txn.store.clock() - policy.history_age_ns
    with tables.EVENTS.walk(txn) as walk:
        more = walk.seek(event_key(state.network_id, state.first_event))
        while more and most:
            key = walk.key()
            if key[:4] != state.prefix:
                break
            sequence = event_record.sequence_of(key)
            wall_ns = event_record.wall_ns_of(walk.value())
            # A damaged event counts as one that is too old.
            if sequence >= oldest_number and wall_ns is not None and wall_ns >= oldest_ns:
                state.first_event = sequence
                return
            more = walk.delete()
            most -= 1
            state.first_event = sequence + 1


def select(
    events: Iterable[tuple[bytes, bytes]],
    address: tuple[int, int] | None,
    pod: str,
    between: tuple[int, int],
) -> Iterator[Event]:
    """Yield those of a network's packed events that fit, in their order.

    Only those that fit are unpacked. The times are wall clock, so events may be out of order after
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
    """Return the last ``most`` events of a network, newest first. O(most)."""
    for key, raw in islice(tables.EVENTS.scan_back(txn, keys.network_prefix(network_id)), most):
        yield Event(key, raw)


def holder_at(events: Iterator[Event], wall_ns: int) -> Event | None:
    """Return the event that says who had the address at this time, or None, from its events."""
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
