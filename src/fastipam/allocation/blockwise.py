"""A range set that is cut into blocks: only those that this node owns serve.

What ledger.py and view.py do with a whole set, for a set of a cluster's pool. Imported when there
is one.
"""

from __future__ import annotations

from fastipam.addressing.addresses import format_cidr, format_ip
from fastipam.allocation import blocks, cooldown, openblocks
from fastipam.errors import AddressNotInRange, PoolExhausted
from fastipam.storage.records.block import ACTIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam._bitmap import StoredPages
    from fastipam.addressing.ranges import Pool, RangeSet
    from fastipam.allocation.ledger import Ledger
    from fastipam.storage.records.network_state import NetworkState
    from fastipam.storage.transaction import Snapshot, Transaction


def choose(ledger: Ledger, index: int, range_set: RangeSet, wanted: int) -> list[int]:
    """Take addresses of the node's blocks: first of the one that serves, then of the fullest.

    Then those that cool, longest idle first. Amortized O(wanted), however many blocks there are.
    Raises PoolExhausted, also when the store may not say what is this node's.
    """
    network_id = ledger.state.network_id
    doubt = blocks.doubt(ledger.txn, network_id)
    if doubt:
        raise PoolExhausted(
            f"no address of network {ledger.name} may be assigned: {doubt}",
            network=ledger.name,
            ranges=str(range_set),
            wanted=wanted,
        )
    cursor = ledger.state.cursor(index, range_set.family)
    values = _take(ledger.txn, network_id, range_set, cursor, wanted)
    ledger.count_outside(range_set.family, values)
    if len(values) < wanted:
        values += cooldown.take_early(ledger, index, range_set, wanted - len(values))
        if len(values) < wanted:
            from fastipam.allocation import refusals

            raise refusals.exhausted(ledger, index, range_set, wanted)
    ledger.state.move_cursor(index, range_set.family, values[-1])
    return values


def _take(
    txn: Transaction,
    network_id: int,
    range_set: RangeSet,
    cursor: int | None,
    wanted: int = 1,
) -> list[int]:
    """Take up to ``wanted`` addresses: from the block of the cursor on, then from the fullest.

    Amortized O(wanted), however many blocks there are: a block that is full is left once.
    """
    family = range_set.family
    pages = txn.pages(network_id, family)
    found: list[int] = []
    if cursor is not None:
        base = blocks.base_of(range_set, cursor)
        if blocks.is_active(txn, network_id, family, base):
            found += _take_round(pages, range_set, base, cursor, wanted)
    while len(found) < wanted:
        fullest = openblocks.pop_fullest(txn, network_id, family)
        if fullest is None:
            break
        if blocks.is_active(txn, network_id, family, fullest):
            found += _take_round(pages, range_set, fullest, fullest - 1, wanted - len(found))
    return found


def _take_round(
    pages: StoredPages, range_set: RangeSet, base: int, cursor: int, wanted: int
) -> list[int]:
    """Addresses of one block from behind the cursor on, round."""
    inside = blocks.parts(range_set, base)
    behind = [(max(low, cursor + 1), high) for low, high in inside if high > cursor]
    before = [(low, min(high, cursor)) for low, high in inside if low <= cursor]
    found: list[int] = []
    for low, high in (*behind, *before):
        if wanted == 1:
            first = pages.take_first(low, high)
            if first is not None:
                return [first]
        else:
            found += pages.take(low, high, wanted - len(found))
            if len(found) == wanted:
                break
    return found


def owns(ledger: Ledger, range_set: RangeSet, value: int) -> bool:
    """Whether addresses of the block that this one lies in may be assigned here. O(1)."""
    base = blocks.base_of(range_set, value)
    network_id = ledger.state.network_id
    return blocks.is_active(ledger.txn, network_id, range_set.family, base) and not blocks.doubt(
        ledger.txn, network_id
    )


def refuse_foreign(ledger: Ledger, index: int, range_set: RangeSet, value: int) -> bool:
    """Raise AddressNotInRange when a wanted address lies in a block that is not this node's.

    Returns whether the round robin may go on from there: a block that serves is filled first.
    """
    family = range_set.family
    if not owns(ledger, range_set, value):
        text = format_ip(family, value)
        block = format_cidr(family, blocks.base_of(range_set, value), range_set.block_length)
        raise AddressNotInRange(
            f"the requested address {text} lies in block {block} of the cluster's pool, "
            "which this node does not own",
            addresses=(text,),
            hint="the node whose it is can assign it: see `fastipam cluster blocks`",
        )
    cursor = ledger.state.cursor(index, family)
    base = blocks.base_of(range_set, value)
    return cursor is not None and blocks.base_of(range_set, cursor) == base


def freed(ledger: Ledger, family: int, value: int) -> None:
    """The block of an address that is free now has one more to serve. O(1)."""
    for index, each in enumerate(_pool(ledger).sets):
        if each.family == family and each.block_length:
            cursor = ledger.state.cursor(index, family)
            network_id = ledger.state.network_id
            openblocks.freed(ledger.txn, network_id, each, value, cursor)


# A pool is what its text says, whoever wrote it: reading it anew for every DEL would cost a third
# of the DEL. One entry, for the network that is being worked on.
_last: tuple[str, Pool] | None = None


def _pool(ledger: Ledger) -> Pool:
    global _last  # noqa: PLW0603  # one for the process
    last = _last
    if last is None or last[0] != ledger.text:
        last = _last = ledger.text, ledger.stored
    return last[1]


def can_serve(
    txn: Snapshot,
    state: NetworkState,
    index: int,
    range_set: RangeSet,
    pages: StoredPages,
) -> bool:
    """Whether :func:`choose` would find an address that does not cool.

    O(1) but for entries that are out of date.
    """
    network_id, family = state.network_id, range_set.family
    if blocks.doubt(txn, network_id):
        return False

    def has_free(base: int) -> bool:
        if not blocks.is_active(txn, network_id, family, base):
            return False
        inside = blocks.parts(range_set, base)
        return any(pages.next_free(low, high) is not None for low, high in inside)

    cursor = state.cursor(index, family)
    if cursor is not None and has_free(blocks.base_of(range_set, cursor)):
        return True
    return any(map(has_free, openblocks.listed_open(txn, network_id, family)))


def free(txn: Snapshot, network_id: int, pool: Pool) -> int:
    """The free addresses of the node's blocks, and of the sets that are not cut. O(blocks)."""
    owned = blocks.read_all(txn, network_id)
    total = 0
    for each in pool.sets:
        pages = txn.pages(network_id, each.family)
        if not each.block_length:
            total += sum(high - low + 1 - pages.count(low, high) for low, high in each.intervals)
            continue
        for block in owned:
            if block.family == each.family and block.state == ACTIVE:
                total += blocks.free_in(pages, each, block.base)
    return total
