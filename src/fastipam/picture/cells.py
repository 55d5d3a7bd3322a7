"""Read a pool into arrays of cells, from the bitmap's pages in one transaction.

The cost depends on the number of pages (256 for a /12) and on the number of cooling and reserved
addresses. The leases of assigned addresses are not read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastipam import errors
from fastipam.addressing.addresses import BITS
from fastipam.allocation import states as address_states
from fastipam.allocation.counts import of_network, of_sets
from fastipam.allocation.lookup import look_up
from fastipam.errors import StoreCorrupt
from fastipam.picture import blocks
from fastipam.picture.frames import Frame, frames
from fastipam.storage import tables
from fastipam.storage.records import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fastipam.addressing.ranges import Pool
    from fastipam.allocation.counts import SetCounts
    from fastipam.storage.tables import Table
    from fastipam.storage.transaction import Snapshot

    Bytes = npt.NDArray[np.uint8]
    Counts = npt.NDArray[np.int64]
    Interval = tuple[int, int]
    Area = tuple[int, int, int, int]

# The states of a cell. The first four are the states of an address. EXCLUDED addresses are in a
# subnet of the pool and never assigned (gateway, network, broadcast, exclusions). OUTSIDE addresses
# are in no subnet. ELSEWHERE addresses are in a cluster's pool, and in no active block of the node.
FREE, ASSIGNED, COOLING, RESERVED, EXCLUDED, OUTSIDE, ELSEWHERE = range(7)
STATES = (address_states.FREE, *address_states.STATES[:3], "excluded", "outside", "elsewhere")
# A cell is state | level << 3. When a cell stands for several addresses, its level says how many of
# them are used, from 1 (hardly any) to 31 (all). The level of a single address is 31.
LEVEL_SHIFT = 3
FULL_LEVEL = 31
PICTURE_BITS = 20  # cells of one frame: 1024 x 1024

_PAGE_SHIFT = 12
_AT_ONCE = 4096  # entries read by one call into LMDB; other threads can run between two calls
# The number of set bits in each byte.
_POPCOUNT = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Panel:
    """The cells of one frame, one byte per cell, in address order.

    ``counts`` is the number of addresses of each cell in each state, an array of shape (states,
    cells), or None when a cell is one address.
    """

    frame: Frame
    cells: Bytes
    counts: Counts | None = field(repr=False, default=None)

    @property
    def states(self) -> Bytes:
        """The state of each cell: of several addresses, the most common state that is not free."""
        return self.cells & np.uint8((1 << LEVEL_SHIFT) - 1)

    def tally(self, parts_bits: int) -> Counts:
        """Count the addresses by state in ``2**parts_bits`` equal parts: shape (parts, states)."""
        parts = 1 << parts_bits
        if self.counts is not None:
            summed: Counts = self.counts.reshape(len(STATES), parts, -1).sum(2).T
            return summed
        states = self.states.reshape(parts, -1)
        return np.stack([(states == one).sum(1) for one in range(len(STATES))], axis=1)


@dataclass(frozen=True, slots=True)
class Picture:
    """A network at one moment. Every change of the store increases ``change``.

    ``stats`` counts the addresses of the network by state; ``sets`` does so for each range set.
    """

    network: str
    pool_id: int
    change: int
    moment_ns: int
    stats: dict[str, int]
    sets: list[SetCounts]
    panels: list[Panel]
    left_out: int  # used parts of a large subnet that are not shown


def change_of(txn: Snapshot) -> int:
    """Return a number that increases with every change of the store."""
    return txn.number


def read(txn: Snapshot, name: str, max_bits: int = PICTURE_BITS) -> Picture | None:
    """Return the picture of a network in a snapshot, or None if the network does not exist.

    O(cells + pages + cooling + reserved). Raises StoreError.
    """
    found = look_up(txn, name)
    if found is None:
        return None
    network_id, pool_id, pool = found
    state = txn.pool_state(pool_id)
    pages = {
        family: _stored_pages(txn, pool_id, family)
        for family in {each.family for each in pool.sets}
    }
    shown, left_out = frames(pool, {family: each[0] for family, each in pages.items()}, max_bits)
    cooling = _cooling(txn, pool_id)
    reserved = _reserved(txn, pool_id)
    own = [blocks.intervals(txn, pool_id, each) for each in pool.sets]
    panels = [
        _panel(
            _areas(pool, own, frame),
            frame,
            pages[frame.family],
            cooling[frame.family],
            reserved[frame.family],
        )
        for frame in shown
    ]
    stats, sets = of_network(txn, state, pool), of_sets(txn, network_id, state, pool)
    moment_ns = txn.store.clock()
    return Picture(name, pool_id, change_of(txn), moment_ns, stats, sets, panels, left_out)


def _panel(
    areas: Iterable[Area],
    frame: Frame,
    pages: tuple[list[int], Bytes],
    cooling: Bytes,
    reserved: Bytes,
) -> Panel:
    cooling_at = places(frame, cooling)
    reserved_at = places(frame, reserved)
    if not frame.shift:
        cells = np.full(1 << frame.bits, OUTSIDE | FULL_LEVEL << LEVEL_SHIFT, dtype=np.uint8)
        for low, high, code, _ in areas:
            cells[low : high + 1] = code | FULL_LEVEL << LEVEL_SHIFT
        np.putmask(cells, _used_bits(frame, *pages), ASSIGNED | FULL_LEVEL << LEVEL_SHIFT)
        cells[cooling_at] = COOLING | FULL_LEVEL << LEVEL_SHIFT
        cells[reserved_at] = RESERVED | FULL_LEVEL << LEVEL_SHIFT
        return Panel(frame, cells)
    counts = np.zeros((len(STATES), 1 << frame.cell_bits), dtype=np.int64)
    counts[OUTSIDE] = 1 << frame.shift
    for low, high, code, taken_from in areas:
        covered = _coverage(frame, low, high)
        counts[code] += covered
        counts[taken_from] -= covered
    used = _used_counts(frame, *pages)
    counts[COOLING] = np.bincount(cooling_at >> frame.shift, minlength=1 << frame.cell_bits)
    counts[RESERVED] = np.bincount(reserved_at >> frame.shift, minlength=1 << frame.cell_bits)
    counts[ASSIGNED] = used - counts[COOLING] - counts[RESERVED]
    # Subtract the used addresses from the unused states: they may lie outside the ranges too.
    for code in (FREE, ELSEWHERE, EXCLUDED, OUTSIDE):
        taken = np.minimum(used, counts[code])
        counts[code] -= taken
        used = used - taken
    return Panel(frame, _summary(counts), counts)


def _areas(pool: Pool, own: Sequence[Sequence[Interval]], frame: Frame) -> Iterator[Area]:
    """Yield the areas of a frame as (first, last, state, state that it replaces).

    First come the subnets (EXCLUDED), then the intervals of sets that are cut into blocks
    (ELSEWHERE), then ``own``, the intervals from which this node may assign (FREE). Each area lies
    within an area of an earlier kind.
    """
    sets = [(at, each) for at, each in enumerate(pool.sets) if each.family == frame.family]
    subnets = {
        (one.network, one.network + (1 << BITS[frame.family] - one.length) - 1)
        for _, each in sets
        for one in each.ranges
    }
    within: list[Interval] = []
    for low, high in sorted(subnets, key=lambda one: (one[0], -one[1])):
        if not within or low > within[-1][1]:  # two ranges may be in one subnet
            within.append((low, high))
    cut = [pair for _, each in sets if each.block_length for pair in each.intervals]
    parts: list[tuple[Iterable[Interval], int, int]] = [
        (within, EXCLUDED, OUTSIDE),
        (cut, ELSEWHERE, EXCLUDED),
    ]
    parts += [(own[at], FREE, ELSEWHERE if each.block_length else EXCLUDED) for at, each in sets]
    for areas, code, before in parts:
        for low, high in areas:
            start, end = max(low, frame.first), min(high, frame.last)
            if start <= end:
                yield start - frame.first, end - frame.first, code, before


def _coverage(frame: Frame, low: int, high: int) -> Counts:
    """Return, for each cell, how many of its addresses are from ``low`` to ``high``."""
    covered = np.zeros(1 << frame.cell_bits, dtype=np.int64)
    size = 1 << frame.shift
    begin, end = low >> frame.shift, high >> frame.shift
    covered[begin : end + 1] = size
    covered[begin] -= low - (begin << frame.shift)
    covered[end] -= (end + 1 << frame.shift) - 1 - high
    return covered


def _summary(counts: Counts) -> Bytes:
    """Return the cells: the most common state that is not free, and the share of used addresses."""
    used = counts[ASSIGNED] + counts[COOLING] + counts[RESERVED]
    usable = used + counts[FREE]
    states = ASSIGNED + np.argmax(counts[ASSIGNED : RESERVED + 1], axis=0)
    unused = np.where(counts[EXCLUDED] > counts[OUTSIDE], EXCLUDED, OUTSIDE)
    unused = np.where(counts[ELSEWHERE] > 0, ELSEWHERE, unused)
    unused = np.where(counts[FREE] > 0, FREE, unused)
    levels = -(-used * FULL_LEVEL // np.maximum(usable, 1))
    codes = np.where(used > 0, states, unused)
    levels = np.where(used > 0, levels, FULL_LEVEL)
    summary: Bytes = (codes | levels << LEVEL_SHIFT).astype(np.uint8)
    return summary


# Reading the store --------------------------------------------------------------------------


def _stored_pages(txn: Snapshot, pool_id: int, family: int) -> tuple[list[int], Bytes]:
    """Return the indices of the stored level 0 pages, ascending, and their bytes."""
    prefix = keys.page_key_prefix(pool_id, family, 0)
    numbers = []
    pages = []
    for key, page in tables.PAGES.scan(txn, prefix):
        if len(page) != keys.PAGE_BYTES:
            raise StoreCorrupt(
                f"a page is not {keys.PAGE_BYTES} bytes long", hint=errors.CHECK_HINT
            )
        numbers.append(keys.page_index_of(key))
        pages.append(page)
    return numbers, np.frombuffer(b"".join(pages), dtype=np.uint8).reshape(-1, keys.PAGE_BYTES)


def _within(frame: Frame, numbers: list[int], pages: Bytes) -> tuple[Counts, Bytes]:
    """Return the pages that a frame shows, with their numbers counted from its first page."""
    first, last = frame.first >> _PAGE_SHIFT, frame.last >> _PAGE_SHIFT
    chosen = [at for at, number in enumerate(numbers) if first <= number <= last]
    return np.array([numbers[at] - first for at in chosen], dtype=np.int64), pages[chosen]


def _used_bits(frame: Frame, numbers: list[int], pages: Bytes) -> npt.NDArray[np.bool_]:
    """Return whether the bit of each address in a frame is set."""
    at, chosen = _within(frame, numbers, pages)
    count = max(1, 1 << frame.bits >> _PAGE_SHIFT)
    used = np.zeros((count, keys.PAGE_BITS), dtype=np.uint8)
    used[at] = np.unpackbits(chosen, axis=1, bitorder="little")
    begin = frame.first & (keys.PAGE_BITS - 1)
    return used.reshape(-1)[begin : begin + (1 << frame.bits)].view(np.bool_)


def _used_counts(frame: Frame, numbers: list[int], pages: Bytes) -> Counts:
    """Return the number of set bits in each cell. A cell may be smaller or larger than a page."""
    at, chosen = _within(frame, numbers, pages)
    cells = 1 << frame.cell_bits
    if frame.shift >= _PAGE_SHIFT:
        set_bits = _POPCOUNT[chosen].sum(1)
        summed = np.bincount(at >> frame.shift - _PAGE_SHIFT, weights=set_bits, minlength=cells)
        return summed.astype(np.int64)
    if frame.bits < _PAGE_SHIFT:
        within: Counts = _used_bits(frame, numbers, pages).reshape(cells, -1).sum(1)
        return within
    used = np.zeros((1 << frame.bits >> _PAGE_SHIFT, keys.PAGE_BITS >> frame.shift), dtype=np.int64)
    bits = np.unpackbits(chosen, axis=1, bitorder="little")
    used[at] = bits.reshape(len(at), used.shape[1], 1 << frame.shift).sum(2)
    return used.reshape(-1)


def _cooling(txn: Snapshot, pool_id: int) -> dict[int, Bytes]:
    """Return the cooling addresses by family, as arrays of shape (addresses, bytes)."""
    return _queued(txn, tables.COOLDOWN, pool_id, keys.COOLDOWN_HEAD)


def _reserved(txn: Snapshot, pool_id: int) -> dict[int, Bytes]:
    """Return the reserved addresses that have no lease, by family."""
    found = _queued(txn, tables.RESERVATIONS, pool_id, keys.ADDRESS_HEAD)
    for family, addresses in found.items():
        prefix = keys.family_prefix(pool_id, family)
        unused = [tables.LEASES.get(txn, prefix + one.tobytes()) is None for one in addresses]
        found[family] = addresses[np.array(unused, dtype=np.bool_)]
    return found


def _queued(txn: Snapshot, table: Table, pool_id: int, head: int) -> dict[int, Bytes]:
    """Return the addresses with which a pool's keys in a table end, by family. O(entries)."""
    prefix = keys.id_prefix(pool_id)
    found: dict[int, list[bytes]] = {family: [] for family in BITS}
    for chunk in table.chunks(txn, prefix, most=_AT_ONCE):
        for family, its_bits in BITS.items():
            size = head + its_bits // 8
            joined = b"".join([key for key, _ in chunk if len(key) == size])
            if joined:
                found[family].append(joined)
    arrays = {}
    for family, its_bits in BITS.items():
        size = head + its_bits // 8
        keys_of = np.frombuffer(b"".join(found[family]), dtype=np.uint8).reshape(-1, size)
        arrays[family] = np.ascontiguousarray(keys_of[:, head:])
    return arrays


def places(frame: Frame, addresses: Bytes) -> Counts:
    """Return the places of addresses within a frame, leaving out those outside of it.

    The addresses are rows of big-endian bytes.
    """
    if not len(addresses):
        return np.zeros(0, dtype=np.int64)
    if addresses.shape[1] == 4:
        at = addresses.view(">u4")[:, 0].astype(np.int64) - frame.first
        return at[(at >= 0) & (at < 1 << frame.bits)]
    halves = addresses.view(">u8").astype(np.uint64)
    inside = halves[:, 0] == np.uint64(frame.first >> 64)
    # Modulo 2**64 an address before the frame is far after it, so one comparison is enough.
    rest = halves[inside, 1] - np.uint64(frame.first & (1 << 64) - 1)
    found: Counts = rest[rest < np.uint64(1 << min(frame.bits, 63))].astype(np.int64)
    return found
