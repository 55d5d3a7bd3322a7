"""The blocks of a cluster's pool that this node owns, and which of them can serve.

A block bounds a search for addresses. Its record says whether it may be searched. Everything here
works on a transaction; ``ledger.py`` chooses addresses, and ``fastipam.cluster`` decides who may
own a block. Imported when a set is cut into blocks.

The *open list* has the blocks with free addresses, those with the fewest first, so that the fullest
block is filled first. A set's *cursor* is the address that it assigned last. The block that
contains the cursor serves now and is not listed. The list is a hint: an entry is checked before it
is used, and :func:`reindex` adds missing entries.
"""

from __future__ import annotations

from fastipam.addressing.addresses import BITS
from fastipam.storage import tables
from fastipam.storage.boot import boottime_ns, read_machine
from fastipam.storage.records import block as block_record
from fastipam.storage.records.block import (
    ACTIVE,
    COPIED,
    RESTORED,
    Block,
    Founding,
    Heard,
    Member,
    block_key,
)  # fmt: skip
from fastipam.storage.records.keys import id_prefix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from fastipam._bitmap import StoredPages
    from fastipam.addressing.ranges import RangeSet
    from fastipam.storage.environment import Environment
    from fastipam.storage.transaction import Snapshot, Transaction

    Interval = tuple[int, int]


# Geometry -------------------------------------------------------------------------------------


def length_of(range_set: RangeSet, value: int) -> int:
    """Return the prefix length of the block that contains an address. O(ranges) if they differ."""
    if range_set.block_lengths:
        bits = BITS[range_set.family]
        for one, length in zip(range_set.ranges, range_set.block_lengths, strict=True):
            if (value ^ one.network) >> (bits - one.length) == 0:
                return length
    return range_set.block_length


def host_bits(range_set: RangeSet, value: int) -> int:
    """Return n, where 2**n is the size of the block that contains an address."""
    return BITS[range_set.family] - length_of(range_set, value)


def base_of(range_set: RangeSet, value: int) -> int:
    """Return the first address of the block that contains an address."""
    bits = host_bits(range_set, value)
    return value >> bits << bits


def last_of(range_set: RangeSet, base: int) -> int:
    """Return the last address of a block."""
    return base + (1 << host_bits(range_set, base)) - 1


def parts(range_set: RangeSet, base: int) -> list[Interval]:
    """Return the intervals of a block that the set can assign: no gateways, no exclusions."""
    return _in_block(range_set, base, range_set.intervals)


def on_request(range_set: RangeSet, base: int) -> list[Interval]:
    """Return the intervals of a block that the set assigns on request only."""
    return _in_block(range_set, base, range_set.static)


def _in_block(range_set: RangeSet, base: int, intervals: Sequence[Interval]) -> list[Interval]:
    """Return the parts of the intervals that lie in a block."""
    last = last_of(range_set, base)
    return [
        (max(low, base), min(high, last)) for low, high in intervals if low <= last and high >= base
    ]


def capacity(range_set: RangeSet, base: int) -> int:
    """Return how many addresses of a block the set can assign, including those on request only."""
    listed = (*parts(range_set, base), *on_request(range_set, base))
    return sum(high - low + 1 for low, high in listed)


def used_in(pages: StoredPages, range_set: RangeSet, base: int) -> int:
    """Return how many addresses of a block are assigned, cooling or reserved.

    An address that was excluded after its assignment counts, too, because a pod has it.
    """
    return pages.count(base, last_of(range_set, base))


def free_in(pages: StoredPages, range_set: RangeSet, base: int) -> int:
    """Return how many addresses of a block are free."""
    return sum(high - low + 1 - pages.count(low, high) for low, high in parts(range_set, base))


# Records --------------------------------------------------------------------------------------


def get(txn: Transaction | Snapshot, pool_id: int, family: int, base: int) -> Block | None:
    """Return this node's record of a block, or None when it has none. O(1)."""
    raw = tables.BLOCKS.get(txn, block_key(pool_id, family, base))
    return None if raw is None else Block.read(family, base, raw)


def is_active(txn: Transaction | Snapshot, pool_id: int, family: int, base: int) -> bool:
    """Return whether addresses may be assigned from a block. O(1)."""
    return block_record.is_active(tables.BLOCKS.get(txn, block_key(pool_id, family, base)))


def put(txn: Transaction, pool_id: int, block: Block) -> None:
    """Write the record of a block."""
    tables.BLOCKS.put(txn, block_key(pool_id, block.family, block.base), block.pack())


def delete(txn: Transaction, pool_id: int, family: int, base: int) -> None:
    """Delete the record of a block."""
    tables.BLOCKS.delete(txn, block_key(pool_id, family, base))


def delete_all(txn: Transaction, pool_id: int) -> int:
    """Delete the records of a network's blocks, its open list, and this node's identity.

    Return the number of blocks.
    """
    count = len(read_all(txn, pool_id))
    for key in list(tables.BLOCKS.scan_keys(txn, id_prefix(pool_id))):
        tables.BLOCKS.delete(txn, key)
    return count


def read_all(txn: Transaction | Snapshot, pool_id: int) -> list[Block]:
    """Return every block of a network in address order, IPv4 first. O(blocks)."""
    found = tables.BLOCKS.scan(txn, block_record.blocks_prefix(pool_id))
    return [Block.read(*block_record.read_block_key(key), raw) for key, raw in found]


def walk(
    txn: Transaction | Snapshot, pool_id: int, sets: Iterable[RangeSet]
) -> Iterator[tuple[Block, RangeSet | None]]:
    """Yield every block of a network in address order, with the set that it is cut from.

    The set is None for a block that lies in none of ``sets``. O(blocks).
    """
    sets = tuple(sets)
    for block in read_all(txn, pool_id):
        yield block, set_of(sets, block.family, block.base)


def set_of(sets: Iterable[RangeSet], family: int, base: int) -> RangeSet | None:
    """Return the set that is cut into blocks and has this block in one of its subnets, or None.

    The block may have no address that can be assigned.
    """
    bits = BITS[family]
    for each in sets:
        if each.block_length and each.family == family:
            for one in each.ranges:
                if (base ^ one.network) >> (bits - one.length) == 0:
                    return each
    return None


def share(txn: Transaction | Snapshot, pool_id: int, range_set: RangeSet) -> tuple[int, int, int]:
    """Return the numbers of a set's active blocks, and of their free and excluded addresses.

    O(blocks).
    """
    pages = txn.pages(pool_id, range_set.family)
    number = free = excluded = 0
    for block, its_set in walk(txn, pool_id, (range_set,)):
        if its_set is not None and block.state == ACTIVE:
            number += 1
            free += free_in(pages, range_set, block.base)
            excluded += (1 << host_bits(range_set, block.base)) - capacity(range_set, block.base)
    return number, free, excluded


def static_size(txn: Transaction | Snapshot, pool_id: int, range_set: RangeSet) -> int:
    """Return how many addresses of a set's active blocks can be assigned on request only."""
    return sum(
        high - low + 1
        for block, its_set in walk(txn, pool_id, (range_set,))
        if its_set is not None and block.state == ACTIVE
        for low, high in on_request(range_set, block.base)
    )


def get_member(txn: Transaction | Snapshot, pool_id: int) -> Member | None:
    """Return this node's identity in the network's cluster, or None when it never registered."""
    raw = tables.BLOCKS.get(txn, block_record.member_key(pool_id))
    return None if raw is None else Member.read(raw)


def put_member(txn: Transaction, pool_id: int, member: Member) -> None:
    """Write this node's identity in its cluster."""
    tables.BLOCKS.put(txn, block_record.member_key(pool_id), member.pack())


def file_of(store: Environment) -> int:
    """Return a number that identifies the data file of a store among the files of this boot."""
    device, inode = store.identity[:2]
    return (device << 32 ^ inode) & 0xFFFF_FFFF_FFFF_FFFF


def incarnations(txn: Transaction) -> set[str]:
    """Return this node's incarnations that were confirmed with this data file in this boot.

    A node has one for each cluster's network of the store.
    """
    members = [
        Member.read(raw) for key, raw in tables.BLOCKS.scan(txn) if block_record.is_member_key(key)
    ]
    file, boot = file_of(txn.store), txn.store.boot
    return {each.incarnation for each in members if (each.file, each.boot) == (file, boot)}


def distrust(txn: Transaction, own: Collection[str] = ()) -> None:
    """Require that every block is confirmed before it serves, because a backup was restored.

    ``own`` is the result of :func:`incarnations` before the restore: if the backup has one of them,
    it is a backup of this same store, and not one of another node.
    """
    for key, raw in list(tables.BLOCKS.scan(txn)):
        if block_record.is_member_key(key):
            member = Member.read(raw)
            member.file = COPIED if member.incarnation in own else RESTORED
            member.boot = txn.store.boot
            tables.BLOCKS.put(txn, key, member.pack())


def get_heard(txn: Transaction | Snapshot, pool_id: int) -> Heard:
    """Return the last known state of the cluster's store."""
    raw = tables.BLOCKS.get(txn, block_record.heard_key(pool_id))
    return Heard() if raw is None else Heard.read(raw)


def put_heard(txn: Transaction, pool_id: int, heard: Heard) -> None:
    """Write the last known state of the cluster's store."""
    tables.BLOCKS.put(txn, block_record.heard_key(pool_id), heard.pack())


def get_founding(txn: Transaction | Snapshot, pool_id: int) -> Founding | None:
    """Return the founding record, or None if the configuration names the shared store."""
    raw = tables.BLOCKS.get(txn, block_record.founding_key(pool_id))
    return None if raw is None else Founding.read(raw)


def put_founding(txn: Transaction, pool_id: int, founding: Founding) -> None:
    """Write the founding record: which shared store the blocks come from."""
    tables.BLOCKS.put(txn, block_record.founding_key(pool_id), founding.pack())


# Proof of ownership ---------------------------------------------------------------------------


def prove(txn: Transaction, pool_id: int, until_ns: int) -> None:
    """Record that ownership of the active blocks is proven until a time of :func:`boottime_ns`."""
    proof = block_record.pack_proof(txn.store.boot, until_ns)
    tables.BLOCKS.put(txn, block_record.proof_key(pool_id), proof)


def proven_until(txn: Transaction | Snapshot, pool_id: int) -> int:
    """Return until when ownership is proven, or 0 when it was not proven in this boot."""
    raw = tables.BLOCKS.get(txn, block_record.proof_key(pool_id))
    boot, until_ns = (raw and block_record.read_proof(raw)) or (0, 0)
    return until_ns if boot == txn.store.boot else 0


def doubt(txn: Transaction | Snapshot, pool_id: int, now_ns: int | None = None) -> str:
    """Return why this node may not assign addresses of its blocks now, or an empty text."""
    raw = tables.BLOCKS.get(txn, block_record.member_key(pool_id))
    if raw is None:
        return "this node is not registered in its cluster"
    revision, file, fencing, boot = block_record.read_standing(raw)
    if not revision and file != block_record.COPIED:
        return "this node is not registered in its cluster"
    if boot != txn.store.boot and not _is_steady(raw):
        return "this node has rebooted, and the cluster has not confirmed its blocks yet"
    if file != file_of(txn.store):
        return "the store was restored or copied, and the cluster has not confirmed its blocks yet"
    if fencing:
        now_ns = boottime_ns() if now_ns is None else now_ns
        if now_ns >= proven_until(txn, pool_id):
            return "fencing: this node could not prove in time that it still owns its blocks"
    return ""


def _is_steady(raw: bytes) -> bool:
    """Return whether a node's blocks may serve after a reboot, before they are confirmed again.

    The machine has to be the same one, because another machine may run from a copy of its disk.
    """
    member = Member.read(raw)
    return member.steady and bool(member.machine) and member.machine == read_machine()


def is_fenced(txn: Transaction | Snapshot, pool_id: int) -> bool:
    """Return whether fencing is on: this node has to prove regularly that it owns its blocks."""
    raw = tables.BLOCKS.get(txn, block_record.member_key(pool_id))
    return raw is not None and block_record.read_standing(raw)[2]


# Where to search ------------------------------------------------------------------------------


def after(
    txn: Transaction, pool_id: int, range_set: RangeSet, cursor: int | None
) -> Iterator[Interval]:
    """Yield the intervals to search: those of the cursor's block, then of the fullest blocks.

    A block leaves the open list when its intervals are yielded, because the caller moves the cursor
    into it when it takes an address there. Amortized O(1) for each address, however many blocks
    there are. If ``range_set`` is only a part of the network's set, the search takes one step more
    for each listed block of the other parts.
    """
    family = range_set.family
    if cursor is not None:
        base = base_of(range_set, cursor)
        if is_active(txn, pool_id, family, base):
            inside = parts(range_set, base)
            yield from [(max(low, cursor + 1), high) for low, high in inside if high > cursor]
            yield from [(low, min(high, cursor)) for low, high in inside if low <= cursor]
    prefix = block_record.open_prefix(pool_id, family)
    while True:
        key = _fullest(txn, prefix, range_set)
        if key is None:
            return
        tables.BLOCKS.delete(txn, key)
        base = block_record.read_open_key(key)
        if is_active(txn, pool_id, family, base):
            yield from parts(range_set, base)


def _fullest(txn: Transaction, prefix: bytes, range_set: RangeSet) -> bytes | None:
    """Return the first key of the open list whose block is in a set."""
    first = tables.BLOCKS.first(txn, prefix)
    if first is None or _has_block(range_set, block_record.read_open_key(first[0])):
        return None if first is None else first[0]
    for key in tables.BLOCKS.scan_keys(txn, prefix):
        if _has_block(range_set, block_record.read_open_key(key)):
            return key
    return None


def _has_block(range_set: RangeSet, base: int) -> bool:
    return set_of((range_set,), range_set.family, base) is not None


def leave_open(
    txn: Transaction, pool_id: int, whole: RangeSet, part: RangeSet, cursor: int
) -> None:
    """Enter the cursor's block into the open list if the search will leave this block.

    That is the case when ``part``, which is searched now, does not contain the block: the search
    moves the cursor to another block. ``whole`` is the set of the network.
    """
    base = base_of(whole, cursor)
    if not _has_block(part, base) and is_active(txn, pool_id, whole.family, base):
        list_open(txn, pool_id, whole, base)


def can_serve(txn: Snapshot, pool_id: int, range_set: RangeSet, cursor: int | None) -> bool:
    """Return whether a search would find a free address. Cooling addresses do not count.

    O(1), and one step more for each entry of the open list that is out of date.
    """
    if doubt(txn, pool_id):
        return False
    family = range_set.family
    pages = txn.pages(pool_id, family)

    def has_free(base: int) -> bool:
        if not is_active(txn, pool_id, family, base):
            return False
        return any(pages.next_free(*one) is not None for one in parts(range_set, base))

    if cursor is not None and has_free(base_of(range_set, cursor)):
        return True
    listed = tables.BLOCKS.scan_keys(txn, block_record.open_prefix(pool_id, family))
    return any(has_free(block_record.read_open_key(key)) for key in listed)


# The open list --------------------------------------------------------------------------------


def freed(
    txn: Transaction, pool_id: int, range_set: RangeSet, value: int, cursor: int | None
) -> None:
    """Move a block to its new place in the open list, after an address of it became free. O(1)."""
    family = range_set.family
    base = base_of(range_set, value)
    if cursor is not None and base_of(range_set, cursor) == base:
        return
    if not is_active(txn, pool_id, family, base):
        return
    if not any(low <= value <= high for low, high in parts(range_set, base)):
        return
    free = free_in(txn.pages(pool_id, family), range_set, base)
    if free > 1:
        tables.BLOCKS.delete(txn, block_record.open_key(pool_id, family, free - 1, base))
    tables.BLOCKS.put(txn, block_record.open_key(pool_id, family, free, base), b"")


def list_open(txn: Transaction, pool_id: int, range_set: RangeSet, base: int) -> None:
    """Enter a block into the open list if it has free addresses."""
    free = free_in(txn.pages(pool_id, range_set.family), range_set, base)
    if free:
        key = block_record.open_key(pool_id, range_set.family, free, base)
        tables.BLOCKS.put(txn, key, b"")


def reindex(txn: Transaction, pool_id: int, range_set: RangeSet, cursor: int | None) -> int:
    """Rebuild the open list of a set; return how many blocks it has. O(blocks).

    Writes only what differs.
    """
    wanted, listed = _open_keys(txn, pool_id, range_set, cursor)
    for key in listed - wanted:
        tables.BLOCKS.delete(txn, key)
    for key in wanted - listed:
        tables.BLOCKS.put(txn, key, b"")
    return len(wanted)


def is_indexed(txn: Snapshot, pool_id: int, range_set: RangeSet, cursor: int | None) -> bool:
    """Return whether the open list has every block that can serve. O(blocks)."""
    wanted, listed = _open_keys(txn, pool_id, range_set, cursor)
    return wanted <= listed


def unlisted(
    txn: Transaction | Snapshot, pool_id: int, range_set: RangeSet, cursor: int | None
) -> list[int]:
    """Return the blocks that could serve but are not in the open list. O(blocks)."""
    wanted, listed = (
        {block_record.read_open_key(key) for key in some}
        for some in _open_keys(txn, pool_id, range_set, cursor)
    )
    return sorted(wanted - listed)


def _open_keys(
    txn: Transaction | Snapshot, pool_id: int, range_set: RangeSet, cursor: int | None
) -> tuple[set[bytes], set[bytes]]:
    """Return (the keys that a set's open list should have, the keys that it has). O(blocks)."""
    family = range_set.family
    pages = txn.pages(pool_id, family)
    serving = None if cursor is None else base_of(range_set, cursor)
    wanted = set()
    for block, its_set in walk(txn, pool_id, (range_set,)):
        if its_set is not None and block.state == ACTIVE and block.base != serving:
            free = free_in(pages, range_set, block.base)
            if free:
                wanted.add(block_record.open_key(pool_id, family, free, block.base))
    prefix = block_record.open_prefix(pool_id, family)
    return wanted, set(tables.BLOCKS.scan_keys(txn, prefix))
