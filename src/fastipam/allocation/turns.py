"""Detect that a network's ranges alternate, because two configurations have the same name."""

from __future__ import annotations

from fastipam.storage import tables
from fastipam.storage.records import earlier_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam._ledger import Accounts
    from fastipam.storage.transaction import Snapshot

# After earlier ranges have come back, the other ranges are shown, too, for this long. If a node
# starts no pod of one configuration for an hour, only the ranges of the other one are shown.
IN_TURN_NS = 3600 * 10**9


def note(accounts: Accounts, before: str, now: str) -> None:
    """Record the replaced ranges; record also the time if the network had the new ranges before."""
    if not before:  # a network that was imported had no ranges
        return
    key = earlier_ranges.key(accounts.state.pool_id)
    returned_ns, texts = earlier_ranges.read(tables.META.get(accounts.txn, key))
    if now in texts:
        returned_ns = accounts.store.clock()
    texts = [before, *(one for one in texts if one not in (before, now))]
    tables.META.put(accounts.txn, key, earlier_ranges.pack(returned_ns, texts))


def others(txn: Snapshot, pool_id: int) -> list[str]:
    """Return as texts the ranges with which a network's present ranges alternate; usually none."""
    raw = tables.META.get(txn, earlier_ranges.key(pool_id))
    returned_ns, texts = earlier_ranges.read(raw)
    in_turn = returned_ns and txn.store.clock() - returned_ns < IN_TURN_NS
    return texts if in_turn else []
