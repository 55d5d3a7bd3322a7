"""Find a range set of a network that could serve no ADD now. Imported for STATUS."""

from __future__ import annotations

from fastipam.addressing.ranges import CUT
from fastipam.storage.records import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.addressing.ranges import RangeSet
    from fastipam.network.books import Books
    from fastipam.storage.transaction import Snapshot

    Found = tuple[int, int, str, bytes]  # network id, pool id, its ranges as text, its name


def exhausted(network: Books) -> RangeSet | None:
    """Return the first range set that could not serve an ADD now, or None. O(1). Read-only.

    A set whose addresses are all taken can still serve when one of them is cooling, unless the
    policy is strict and the cool-down is not over. After a reboot or a restore, leases of an
    earlier boot are released before a set counts as exhausted.
    """
    network._end_earlier_boots()
    while True:
        with network.store.read() as txn:
            found = network._find_pool(txn)
            full = _full_set(network, txn, found)
            if full is None or found is None:
                return full
            swept = txn.pool_state(found[1]).swept
        if swept == network.store.boot or not network._sweep_reboot():
            return full


def _full_set(network: Books, txn: Snapshot, found: Found | None) -> RangeSet | None:
    pool = network.pool or (network._own_ranges(txn, found) if found else None)
    if found is None or pool is None:
        # A network that was never used has all its addresses, but no blocks of a cluster.
        sets = pool.sets if pool is not None else ()
        return next((each for each in sets if each.block_length), None)
    network_id, pool_id, text, _ = found
    pool = network._assignable(txn, network_id, pool_id, pool, text)
    if CUT in text and pool.text != text:
        from fastipam.allocation import cluster_ranges

        cluster_ranges.require_blocks(txn, network.name, pool_id, text, pool)
    for index, range_set in enumerate(pool.sets):
        if range_set.block_length:
            from fastipam.allocation import blocks

            if can_serve(network, txn, index, range_set):
                continue
            if blocks.doubt(txn, pool_id):
                return range_set
        else:
            pages = txn.pages(pool_id, range_set.family)
            if any(pages.next_free(*one) is not None for one in range_set.intervals):
                continue
        number = index if pool.text == text else None
        if _may_reuse(network, txn, pool_id, number, range_set):
            continue
        if not _is_any_due(network, txn, pool_id, range_set):
            return range_set
    return None


def _may_reuse(
    network: Books, txn: Snapshot, pool_id: int, number: int | None, range_set: RangeSet
) -> bool:
    """Return whether a cooling address of a full set can be assigned now.

    O(1), but for a set in blocks O(cooling addresses in blocks that this node has lost).
    """
    from fastipam.allocation.cooldown import cooling_of

    queue = cooling_of(txn, pool_id, number, range_set)
    for key, value in queue:
        if range_set.block_length:
            from fastipam.allocation import blocks

            base = blocks.base_of(range_set, value)
            if not blocks.is_active(txn, pool_id, range_set.family, base):
                continue
        queue.close()
        return _may_take(network, txn, pool_id, key)
    return False


def _is_any_due(network: Books, txn: Snapshot, pool_id: int, range_set: RangeSet) -> bool:
    """Return whether a sticky reservation of this set has expired. O(expired reservations)."""
    state = txn.pool_state(pool_id)
    if not state.kept:
        return False
    from fastipam.allocation import reservations

    due = reservations.due_by(txn, state, state.tick(network.store.clock()))
    return any(family == range_set.family and value in range_set for family, value in due)


def can_serve(network: Books, txn: Snapshot, index: int, range_set: RangeSet) -> bool:
    """Return whether this node's blocks of a set have a free address. O(1).

    Cooling addresses do not count, because the node can claim another block.
    """
    from fastipam.allocation import blocks

    pool_id = network._pool_in(txn)
    if pool_id is None:
        return False
    cursor = txn.pool_state(pool_id).cursor(index, range_set.family)
    return blocks.can_serve(txn, pool_id, range_set, cursor)


def _may_take(network: Books, txn: Snapshot, pool_id: int, queued: bytes) -> bool:
    """Return whether a cooling address can be assigned now; ``queued`` is its key in the queue."""
    if not network.policy.strict:
        return True
    state = txn.pool_state(pool_id)
    now = state.tick(network.store.clock())
    return keys.read_cooldown_key(queued)[2] <= now - network.policy.cooldown_ns
