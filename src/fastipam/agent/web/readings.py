"""Read the counters of every network of the stores that this process has open.

A reading of a network of one range set costs one record and one entry of the queue, however many
leases there are; one of several sets costs what :mod:`fastipam.allocation.counts` says. The longest
free runs cost a read of every page; samples.py decides when to compute them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from fastipam.allocation import counts
from fastipam.allocation.lookup import find, look_up
from fastipam.allocation.states import FREE
from fastipam.errors import FastipamError
from fastipam.picture import blocks
from fastipam.storage import open_stores, tables
from fastipam.storage.records import keys
from fastipam.storage.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Snapshot

# Pages of 268 million addresses: with more of them the longest free run is not computed.
MOST_PAGES = 65536


class Reading(NamedTuple):
    """A network at one moment. ``assignments`` counts all since the network exists.

    ``sets`` has the range sets of the other configurations, too, when a network is used with
    several in turn. They are numbered in an order that does not depend on whose turn it is.

    ``change`` is the number of the store's last transaction.
    """

    data_dir: str
    network: str
    pool: str
    change: int
    wall_ns: int
    counts: dict[str, int]  # "size", and addresses by state
    sets: list[counts.SetCounts]
    assignments: int
    oldest_cooling_s: float
    blocks: list[blocks.Owned]  # of the cluster's pool

    @property
    def key(self) -> tuple[str, str]:
        """Return what identifies the network in this process."""
        return self.data_dir, self.network

    @property
    def outside(self) -> int:
        """The addresses in use that the ranges do not contain (any longer)."""
        within = sum(one.used for one in self.sets)
        within += sum(one.static["size"] - one.static[FREE] for one in self.sets if one.static)
        return max(0, self.counts["size"] - self.counts[FREE] - within)  # ranges of two may overlap


def watch_directories(data_dirs: Iterable[str]) -> None:
    """Open the stores of these directories that are there and not open yet."""
    for data_dir in data_dirs:
        # Only the thread that serves requests may close and reopen a store that is open.
        if not open_stores.is_open(data_dir):
            # There may be none, or a damaged one: its requests report that.
            with suppress(FastipamError, OSError):
                open_stores.get(data_dir, None, create=False)


def read_all() -> list[Reading]:
    """Return a reading of each network of each open store. O(networks + range sets)."""
    found = []
    for store in open_stores.all_open():
        names: list[str] = []
        with suppress(FastipamError, OSError):  # closed meanwhile: its requests report that
            names = _names(store)
        for name in names:
            # One network at a time: LMDB reuses no page that a reader may see. The numbers of the
            # other networks must not vanish, and their alerts with them, when one is damaged.
            with suppress(FastipamError, OSError), store.read() as txn:
                reading = read(txn, name)
                if reading is not None:
                    found.append(reading)
    return found


def _names(store: Store) -> list[str]:
    with store.read() as txn:
        found = tables.NETWORKS.scan_keys(txn)
        return [key.decode(keys.ENCODING, keys.ERRORS) for key in found]


def read(txn: Snapshot, name: str) -> Reading | None:
    """Return the reading of a network, or None when the store has no such network.

    O(range sets).
    """
    found = look_up(txn, name)
    if found is None:
        return None
    network_id, pool_id, pool = found
    text, pool_name = _of_pool(txn, name)
    state = txn.pool_state(pool_id)
    total, own, others = counts.of_all(txn, network_id, state, pool, text)
    wall_ns = txn.store.clock()
    oldest = _oldest(txn, pool_id) if state.cooling else None
    now = max(state.clock, wall_ns + state.offset)  # the pool's own clock
    age_ns = 0 if oldest is None else max(0, now - oldest)
    return Reading(
        txn.store.path,
        name,
        pool_name,
        txn.number,
        wall_ns,
        total,
        _sets(own, others),
        state.generation,
        age_ns / 1e9,
        blocks.owned(txn, pool_id, pool),
    )


def _of_pool(txn: Snapshot, name: str) -> tuple[str, str]:
    """Return the ranges of a network's pool as text, and its name."""
    found = find(txn, keys.encode("network", name))
    return ("", "") if found is None else (found[2], found[3].decode(keys.ENCODING, keys.ERRORS))


def _sets(own: list[counts.SetCounts], others: list[counts.SetCounts]) -> list[counts.SetCounts]:
    if not others:
        return own
    found = sorted((*own, *others), key=lambda one: str(one.range_set))
    for number, one in enumerate(found):
        one.number = number
    return found


def _oldest(txn: Snapshot, pool_id: int) -> int | None:
    """Return when the address that has cooled longest was released, or None. O(range sets)."""
    # The time is on the pool's clock. The queue is in the order of time within each range set,
    # so the first entry of each set is read.
    prefix = seek = keys.id_prefix(pool_id)
    heads = []
    with Walk(txn, tables.COOLDOWN) as walk:
        while walk.seek(seek):
            key = walk.key()
            if not key.startswith(prefix):
                break
            _, index, released, _, _ = keys.read_cooldown_key(key)
            heads.append(released)
            if index == keys.NO_SET:  # the last queue: of addresses in no set
                break
            seek = keys.cooldown_prefix(pool_id, index + 1)
    return min(heads, default=None)


def longest_free_runs(txn: Snapshot, name: str) -> dict[str, int] | None:
    """Return for each range set the most free addresses in a row within one interval. O(pages).

    The keys are the sets' ranges as text. Of a set that is cut into blocks the intervals are those
    of this node's active blocks. Return None when the network is not known, or has more than
    ``MOST_PAGES`` pages.
    """
    found = look_up(txn, name)
    if found is None:
        return None
    network_id, pool_id, pool = found
    state, text = txn.pool_state(pool_id), _of_pool(txn, name)[0]
    _, own, others = counts.of_all(txn, network_id, state, pool, text)
    sets = [one.range_set for one in _sets(own, others)]
    pages: dict[int, dict[int, bytes]] = {}
    for family in {each.family for each in sets}:
        its_pages = _pages(txn, pool_id, family)
        if its_pages is None:
            return None
        pages[family] = its_pages
    return {
        str(each): _longest(blocks.intervals(txn, pool_id, each), pages[each.family])
        for each in sets
    }


def _pages(txn: Snapshot, pool_id: int, family: int) -> dict[int, bytes] | None:
    """Return the existing pages of level 0, ascending, or None when there are too many."""
    prefix = keys.page_key_prefix(pool_id, family, 0)
    found: dict[int, bytes] = {}
    for key, page in tables.PAGES.scan(txn, prefix):
        if len(found) == MOST_PAGES:
            return None
        found[keys.page_index_of(key)] = page
    return found


def _longest(intervals: Iterable[tuple[int, int]], pages: dict[int, bytes]) -> int:
    longest = 0
    numbers = list(pages)
    for low, high in intervals:
        run = 0
        position = low
        begin = bisect_left(numbers, low // keys.PAGE_BITS)
        behind = bisect_right(numbers, high // keys.PAGE_BITS)
        for number in numbers[begin:behind]:
            page = pages[number]
            base = number * keys.PAGE_BITS
            start, end = max(low, base), min(high, base + keys.PAGE_BITS - 1)
            run += start - position  # a page that does not exist is all free
            position = end + 1
            count = end - start + 1
            bits = keys.read_page(page) >> (start - base) & (1 << count) - 1
            if not bits:
                run += count
                continue
            longest = max(longest, run + (bits & -bits).bit_length() - 1)
            run = count - bits.bit_length()
            if bits & bits + 1:  # there are zeros between the ones
                holes = f"{bits:b}".split("1")
                longest = max(longest, *map(len, holes[1:]))
        longest = max(longest, run + high + 1 - position)
    return longest
