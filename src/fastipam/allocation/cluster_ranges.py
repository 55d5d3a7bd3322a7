"""Refuse ranges of a cluster's network that contain addresses of other nodes.

Imported when a configuration has other ranges than the store remembers for a cluster's network.
"""

from __future__ import annotations

from fastipam.addressing.addresses import BITS
from fastipam.allocation import blocks
from fastipam.allocation.lookup import owns, read_pool
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fastipam._ledger import Accounts
    from fastipam.addressing.ranges import Pool, Range, RangeSet
    from fastipam.storage.transaction import Snapshot, Transaction

    BlockId = tuple[int, int]  # family, first address


def require_blocks(
    txn: Transaction | Snapshot, name: str, pool_id: int, text: str, pool: Pool
) -> None:
    """Raise ConfigError when ``pool`` is not cut into the blocks that this node may own.

    ``text`` is the pool that the store remembers. A node that has registered in a cluster owns
    blocks; other ranges, or blocks of another length, contain addresses that other nodes assign.
    The length may change only in ranges in which this node owns no block. A node that has never
    registered, or has left its cluster, may have any ranges. Raises StoreCorrupt when the text
    cannot be read.
    """
    member = blocks.get_member(txn, pool_id)
    if member is None or not member.epoch:
        return
    stored = read_pool(text, txn.store, name)
    owned = [(one.family, one.base) for one in blocks.read_all(txn, pool_id)]
    if all(each.block_length and _is_cut_alike(each, stored, owned) for each in pool.sets):
        return
    raise ConfigError(
        f"in the store, network {name} is part of a cluster and has {_words(stored)}, but the "
        f"configuration gives it {_words(pool)}: other nodes may assign those addresses",
        field="ipam.ranges",
        value=[str(each) for each in pool.sets],
        hint='use the configuration that has the key "cluster"; or, to take this node out of the '
        "cluster, stop the agent and run `fastipam cluster leave`",
    )


def require_own(accounts: Accounts, family: int, value: int) -> None:
    """Raise AddressNotInRange when an address is in a block that this node does not own."""
    for each in accounts.stored.sets:
        if each.family != family or not (value in each or each.is_static(value)):
            continue
        if not owns(accounts, each, value):
            from fastipam.allocation import refusals

            raise refusals.of_another_node(each, value)


def _is_cut_alike(one: RangeSet, stored: Pool, owned: Sequence[BlockId]) -> bool:
    """Return whether the blocks of each range have the length that is stored for the range.

    A stored range in which this node owns no block is ignored.
    """
    bits = BITS[one.family]
    there = [
        (each.network, each.length, length)
        for its_set in stored.sets
        if its_set.family == one.family and its_set.block_length
        for each, length in _cut(its_set)
        if any(
            family == one.family and (base ^ each.network) >> (bits - each.length) == 0
            for family, base in owned
        )
    ]
    for mine, length in _cut(one):
        for network, its_length, theirs in there:
            shared = bits - min(mine.length, its_length)
            if (mine.network ^ network) >> shared == 0 and length != theirs:
                return False
    return True


def _cut(one: RangeSet) -> Iterable[tuple[Range, int]]:
    """Return each range of a set with the prefix length of its blocks."""
    return zip(one.ranges, one.lengths, strict=True)


def _words(pool: Pool) -> str:
    return "; ".join(map(_set_words, pool.sets)) or "no ranges"


def _set_words(one: RangeSet) -> str:
    if not one.block_length:
        return f"plain ranges {one}"
    return ", ".join(f"{each} in blocks of /{length}" for each, length in _cut(one))
