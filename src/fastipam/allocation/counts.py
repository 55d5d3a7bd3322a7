"""Count the addresses of a network, and of each of its range sets, by state.

The counts of a network are stored, those of its range sets are not. A set's addresses in use are
counted in the pages of the bitmap, its cooling addresses in its queue, its reserved addresses in
the reservations. So assignments and releases do no work for a set's counts, and these are always
right. If a set is cut into the blocks of a cluster, only this node's blocks are counted.
"""

from __future__ import annotations

from fastipam.addressing.addresses import (
    BITS,
    V4,
    format_cidr,
    format_ip,
    parse_cidr,
    prefix_bounds,
)
from fastipam.addressing.ranges import Pool, merge, touching
from fastipam.allocation.cooldown import cooling_of
from fastipam.allocation.states import ASSIGNED, COOLING, FREE, RESERVED, STATES
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records import policy as policy_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fastipam._ledger import PoolState
    from fastipam.addressing.ranges import Range, RangeSet
    from fastipam.storage.transaction import Snapshot, Transaction

    Interval = tuple[int, int]

# The ranges that a set's name lists. The name is a label of metrics and a line on the page, so it
# has to stay short.
_MOST_NAMED = 8


class SetCounts:
    """The counts of one range set: ``size``, and how many addresses are in each state.

    ``number`` is the set's index in its network, from 0. The four states add up to ``size``.
    ``full`` says that the next ADD finds no address in the set. ``excluded`` is the number of
    addresses in the set's subnets that are never assigned; they are not part of ``size``.
    ``blocks`` is the number of active blocks that this node has in a cluster's set, and None for
    any other set. ``static`` are the counts of the addresses that are assigned on request only, or
    None when there are none; they are not part of ``size``.
    """

    __slots__ = ("blocks", "counts", "excluded", "full", "number", "range_set", "static")

    def __init__(
        self,
        number: int,
        range_set: RangeSet,
        counts: dict[str, int],
        *,
        full: bool,
        excluded: int,
        blocks: int | None = None,
        static: dict[str, int] | None = None,
    ) -> None:
        self.static = static
        self.number = number
        self.range_set = range_set
        self.counts = counts
        self.full = full
        self.excluded = excluded
        self.blocks = blocks

    @property
    def used(self) -> int:
        """The addresses of the set that are not free."""
        return self.counts["size"] - self.counts[FREE]

    @property
    def used_percent(self) -> float | None:
        """The percentage of the set that is in use, or None when this node has no address of it."""
        return used_percent(self.counts)

    @property
    def ranges_text(self) -> str:
        """The ranges in a form for people; of many ranges only the first eight."""
        ranges = self.range_set.ranges
        text = ",".join(text_of(_document(one)) for one in ranges[:_MOST_NAMED])
        more = len(ranges) - _MOST_NAMED
        return f"{text} and {more} more" if more > 0 else text

    @property
    def elsewhere(self) -> int:
        """The addresses of a cluster's set that are neither in this node's blocks nor used here."""
        return 0 if self.blocks is None else self.range_set.size - self.counts["size"]

    @property
    def ranges(self) -> list[dict[str, str | None]]:
        """The ranges as ``stats`` shows them, with the keys of a configuration."""
        return [_document(one) for one in self.range_set.ranges]


def used_percent(counts: dict[str, int]) -> float | None:
    """Return how much of ``size`` is not free, in percent, or None when the size is 0.

    The result has two decimal places. It is 100 only when nothing is free, and 0 only when nothing
    is used.
    """
    size, free = counts["size"], counts[FREE]
    if not size:
        return None
    percent = 100 * (size - free) / size
    return min(round(percent, 2) or percent, 99.99 if free else 100.0)


def fullest_percent(percents: Iterable[float | None]) -> float | None:
    """Return how full a network's fullest range set is, or None when no set has an address."""
    return max((one for one in percents if one is not None), default=None)


def text_of(one: Mapping[str, str | None]) -> str:
    """Return a range of :attr:`SetCounts.ranges` in a form for people.

    This is the subnet, or the first and the last address if the range is only a part of the subnet.
    """
    family, network, length = parse_cidr(one["subnet"] or "")
    first, last = prefix_bounds(family, network, length)
    if last - first > 1:  # a /31 or /127 has no network and no broadcast address
        first += 1
        last -= family == V4
    start, end = one["rangeStart"], one["rangeEnd"]
    if (start, end) == (format_ip(family, first), format_ip(family, last)):
        return str(one["subnet"])
    return f"{start}-{end}"


def _document(one: Range) -> dict[str, str | None]:
    return {
        "subnet": format_cidr(one.family, one.network, one.length),
        "rangeStart": format_ip(one.family, one.start),
        "rangeEnd": format_ip(one.family, one.end),
        "gateway": format_ip(*one.gateway) if one.gateway else None,
    }


def _excluded(pool: Pool, range_set: RangeSet) -> int:
    """Return how many addresses of a set's subnets are in no range set of its network.

    These are gateways, network and broadcast addresses, exclusions, and the addresses outside of
    ``rangeStart`` and ``rangeEnd``. O(ranges log ranges).
    """
    return _never_assigned(pool, range_set.family, range_set.ranges)


def excluded_of(pool: Pool) -> int:
    """Return how many addresses in a pool's subnets are excluded; 0 for a cluster's pool."""
    if any(each.block_length for each in pool.sets):
        return 0
    return sum(
        _never_assigned(pool, family, [one for each in sets for one in each.ranges])
        for family in BITS
        if (sets := [each for each in pool.sets if each.family == family])
    )


def _never_assigned(pool: Pool, family: int, ranges: Iterable[Range]) -> int:
    subnets = merge(prefix_bounds(family, one.network, one.length) for one in ranges)
    assigned = merge(
        pair
        for each in pool.sets
        if each.family == family
        for pair in (*each.intervals, *each.static)
    )
    total = 0
    for low, high in subnets:
        total += high - low + 1
        for first, last in touching(assigned, low, high):
            total -= min(high, last) - max(low, first) + 1
    return total


# Counting -------------------------------------------------------------------------------------


def of_network(txn: Snapshot, state: PoolState, pool: Pool) -> dict[str, int]:
    """Return ``size`` and how many addresses are in each state; the four add up to ``size``.

    O(1). For a cluster's pool these are the addresses of this node's blocks, and the addresses in
    use outside of its blocks: O(blocks).
    """
    if any(each.block_length for each in pool.sets):
        free = sum(free_of(txn, state.pool_id, each) for each in pool.sets)
    else:
        free = pool.size + state.outside - state.used
    return {
        "size": free + state.used,
        ASSIGNED: state.assigned,
        COOLING: state.cooling,
        RESERVED: state.reserved,
        FREE: free,
    }


def of_sets(txn: Snapshot, network_id: int, state: PoolState, pool: Pool) -> list[SetCounts]:
    """Return the counts of each range set, in the order of the sets.

    O(1) for a network with one set, if no address outside of the set is in use; otherwise O(pages +
    cooling + reservations + blocks), where only a node of a cluster has blocks.
    """
    sets = pool.sets
    if len(sets) == 1 and not state.outside and not sets[0].block_length:
        total = of_network(txn, state, pool)
        full = _is_full(txn, network_id, state, 0, sets[0], total)
        return [
            SetCounts(
                0,
                sets[0],
                total,
                full=full,
                excluded=_excluded(pool, sets[0]),
                static=_static(txn, state, sets[0]),
            )
        ]
    cooling, reserved = _cooling(txn, state, len(sets)), _reserved(txn, state, sets)
    return [
        _count(txn, network_id, state, pool, index, cooling[index], reserved[index])
        for index in range(len(sets))
    ]


def of_all(
    txn: Snapshot, network_id: int, state: PoolState, pool: Pool, text: str
) -> tuple[dict[str, int], list[SetCounts], list[SetCounts]]:
    """Return the counts of a network, its range sets, and the range sets of other configurations.

    ``pool`` are the network's own ranges, and ``text`` the ranges of its pool, which may be more.
    """
    if pool.text == text:
        others = of_others(txn, network_id, state, pool)
        return of_network(txn, state, pool), of_sets(txn, network_id, state, pool), others
    reserved = _reserved(txn, state, pool.sets)
    sets = [
        _count_other(txn, network_id, state, pool, each, number)
        for each, number in zip(pool.sets, reserved, strict=True)
    ]
    total = {name: sum(one.counts[name] for one in sets) for name in ("size", *STATES)}
    return total, sets, []


def of_others(txn: Snapshot, network_id: int, state: PoolState, pool: Pool) -> list[SetCounts]:
    """Return the counts of range sets that a network had before, if its ranges alternate.

    Ranges alternate when two configurations have the same network name; the list is usually empty.
    A set that the network also has now is left out. O(pages + cooling + reservations).
    """
    from fastipam.allocation import turns

    texts = turns.others(txn, state.pool_id)
    if not texts:
        return []
    own = {Pool([each]).text for each in pool.sets}
    found: list[SetCounts] = []
    for text in texts:
        try:
            other = Pool.read(text)
        except ValueError:
            continue  # a damaged text is ignored
        sets = [one for one in other.sets if Pool([one]).text not in own and not one.block_length]
        for each, reserved in zip(sets, _reserved(txn, state, sets), strict=True):
            found.append(_count_other(txn, network_id, state, other, each, reserved))
            own.add(Pool([each]).text)
    return found


def _count_other(
    txn: Snapshot,
    network_id: int,
    state: PoolState,
    pool: Pool,
    range_set: RangeSet,
    reserved: int,
) -> SetCounts:
    pool_id = state.pool_id
    used = used_within(txn, pool_id, range_set.family, range_set.intervals)
    cooling = sum(1 for _ in cooling_of(txn, pool_id, None, range_set)) if state.cooling else 0
    counts = {
        "size": range_set.size,
        ASSIGNED: used - cooling - reserved,
        COOLING: cooling,
        RESERVED: reserved,
        FREE: range_set.size - used,
    }
    full = _is_full(txn, network_id, state, None, range_set, counts)
    return SetCounts(
        pool.sets.index(range_set),
        range_set,
        counts,
        full=full,
        excluded=_excluded(pool, range_set),
        static=_static(txn, state, range_set),
    )


def unused(pool: Pool) -> list[SetCounts]:
    """Return the counts of range sets that the store does not have yet: all addresses are free."""
    found = []
    for index, each in enumerate(pool.sets):
        size, blocks = each.size, None
        if each.block_length:
            size = blocks = 0
        total = {"size": size} | dict.fromkeys(STATES, 0) | {FREE: size}
        excluded = 0 if each.block_length else _excluded(pool, each)
        static = None if each.block_length else _none_used(each)
        found.append(
            SetCounts(
                index, each, total, full=not size, excluded=excluded, blocks=blocks, static=static
            )
        )
    return found


def _count(
    txn: Snapshot,
    network_id: int,
    state: PoolState,
    pool: Pool,
    index: int,
    cooling: int,
    reserved: int,
) -> SetCounts:
    pool_id, range_set = state.pool_id, pool.sets[index]
    used = used_within(txn, pool_id, range_set.family, range_set.intervals)
    number: int | None = None
    if range_set.block_length:
        from fastipam.allocation import blocks

        number, free, excluded = blocks.share(txn, pool_id, range_set)
    else:
        free, excluded = range_set.size - used, _excluded(pool, range_set)
    counts = {
        "size": free + used,
        ASSIGNED: used - cooling - reserved,
        COOLING: cooling,
        RESERVED: reserved,
        FREE: free,
    }
    full = _is_full(txn, network_id, state, index, range_set, counts)
    static = _static(txn, state, range_set)
    return SetCounts(
        index, range_set, counts, full=full, excluded=excluded, blocks=number, static=static
    )


def _none_used(range_set: RangeSet) -> dict[str, int] | None:
    """Return the counts of a set's static addresses as if none was used, or None if it has none."""
    size = sum(high - low + 1 for low, high in range_set.static)
    return {"size": size} | dict.fromkeys(STATES, 0) | {FREE: size} if size else None


def _static(txn: Snapshot, state: PoolState, range_set: RangeSet) -> dict[str, int] | None:
    """Return the counts of a set's static addresses, or None if it has no static address.

    O(1) if none is used, else O(pages + cooling + reservations).
    """
    found = _none_used(range_set)
    if found is not None and range_set.block_length:
        from fastipam.allocation import blocks

        size = blocks.static_size(txn, state.pool_id, range_set)
        found = {**found, "size": size, FREE: size} if size else None
    if found is None or not state.outside:
        return found
    family = range_set.family
    used = used_within(txn, state.pool_id, family, range_set.static)
    cooling = reserved = 0
    for key in tables.COOLDOWN.scan_keys(txn, state.prefix) if state.cooling else ():
        _, _, _, its_family, value = keys.read_cooldown_key(key)
        cooling += its_family == family and range_set.is_static(value)
    for key in tables.RESERVATIONS.scan_keys(txn, state.prefix) if state.reserved else ():
        _, its_family, value = keys.read_address_key(key)
        if its_family == family and range_set.is_static(value):
            reserved += tables.LEASES.get(txn, key) is None
    return {
        "size": found["size"],
        ASSIGNED: used - cooling - reserved,
        COOLING: cooling,
        RESERVED: reserved,
        FREE: found["size"] - used,
    }


def free_of(txn: Snapshot, pool_id: int, range_set: RangeSet) -> int:
    """Return the number of free addresses of a set, or of this node's blocks of the set."""
    if range_set.block_length:
        from fastipam.allocation import blocks

        return blocks.share(txn, pool_id, range_set)[1]
    return range_set.size - used_within(txn, pool_id, range_set.family, range_set.intervals)


def used_within(
    txn: Snapshot | Transaction, pool_id: int, family: int, intervals: Sequence[Interval]
) -> int:
    """Return how many addresses of these intervals are not free. O(pages that exist there)."""
    prefix = keys.page_key_prefix(pool_id, family, 0)
    total = 0
    for low, high in intervals:
        start = keys.page_key(pool_id, family, 0, low // keys.PAGE_BITS)
        for key, page in tables.PAGES.scan(txn, prefix, start):
            base = keys.page_index_of(key) * keys.PAGE_BITS
            if base > high:
                break
            bits = keys.read_page(page)
            if low > base:
                bits >>= low - base
                base = low
            if high < base + keys.PAGE_BITS - 1:
                bits &= (1 << high - base + 1) - 1
            total += bits.bit_count()
    return total


def _cooling(txn: Snapshot, state: PoolState, sets: int) -> list[int]:
    """Return how many addresses are cooling in each set. ``sets`` is their number. O(cooling)."""
    found: list[int] = []
    # Addresses in no set have a queue of their own. If no such address is in use, the last set has
    # all cooling addresses that the other sets do not have, so its queue need not be counted.
    counted = sets if state.outside else sets - 1
    for index in range(sets):
        left = state.cooling - sum(found)
        if left and index < counted:
            prefix = keys.cooldown_prefix(state.pool_id, index)
            left = tables.COOLDOWN.count_from(txn, prefix)
        found.append(left)
    return found


def _reserved(txn: Snapshot, state: PoolState, sets: Sequence[RangeSet]) -> list[int]:
    """Return how many addresses of each set are reserved. O(reservations)."""
    found = [0] * len(sets)
    if not state.reserved:
        return found
    # A reservation whose owner has the address stays beside the lease, and does not count here.
    beside = state.kept != state.reserved
    for key in tables.RESERVATIONS.scan_keys(txn, state.prefix):
        _, family, value = keys.read_address_key(key)
        if beside and tables.LEASES.get(txn, key) is not None:
            continue
        for index, each in enumerate(sets):
            if each.family == family and value in each:
                found[index] += 1
                break
    return found


def _is_full(
    txn: Snapshot,
    network_id: int,
    state: PoolState,
    index: int | None,
    range_set: RangeSet,
    counts: dict[str, int],
) -> bool:
    """Return whether an ADD finds no address: none is free, and no cooling one may be taken."""
    if counts[FREE]:
        return False
    clock = state.at(txn.store.clock())
    if counts[COOLING] and _finds_cooled(txn, network_id, state, index, range_set, clock):
        return False
    if counts[RESERVED]:
        from fastipam.allocation import reservations

        due_now = reservations.due_by(txn, state, clock)
        if any(family == range_set.family and value in range_set for family, value in due_now):
            return False
    return True


def _finds_cooled(
    txn: Snapshot,
    network_id: int,
    state: PoolState,
    index: int | None,
    range_set: RangeSet,
    clock: int,
) -> bool:
    """Return whether an ADD may take a cooling address of the set, by the network's policy."""
    pool_id = state.pool_id
    policy = policy_record.read(tables.META.get(txn, keys.policy_key(network_id)))
    queue = cooling_of(txn, pool_id, index, range_set)
    try:
        for key, value in queue:
            if policy.strict and keys.read_cooldown_key(key)[2] > clock - policy.cooldown_ns:
                return False
            if _owns(txn, pool_id, range_set, value):
                return True
    finally:
        queue.close()
    return False


def _owns(txn: Snapshot, pool_id: int, range_set: RangeSet, value: int) -> bool:
    """Return whether this node may assign an address of the set."""
    if not range_set.block_length:
        return True
    from fastipam.allocation import blocks

    return blocks.is_active(txn, pool_id, range_set.family, blocks.base_of(range_set, value))
