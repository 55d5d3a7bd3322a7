"""Read the counters of every network of the stores that this process has open.

Reading a network with one range set costs one record and one entry of the cool-down queue, however
many leases there are. With several sets it costs what :mod:`fastipam.allocation.counts` says. The
longest free runs need a read of every page; samples.py decides when to compute them.
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

# The pages of 268 million addresses: with more pages the longest free run is not computed.
MOST_PAGES = 65536


class Reading(NamedTuple):
    """The counters of a network at one moment.

    ``assignments`` counts every assignment since the pool was made. ``change`` is the number of
    the store's last transaction.

    When several configurations of a network are used in turn, ``sets`` has the range sets of all of
    them, numbered in an order that does not depend on which one was used last.
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
    blocks: list[blocks.Owned]  # this node's, in cluster mode

    @property
    def key(self) -> tuple[str, str]:
        """The key of the network in this process: data directory and name."""
        return self.data_dir, self.network

    @property
    def outside(self) -> int:
        """The number of addresses in use that no range contains, for example after a change."""
        within = sum(one.used for one in self.sets)
        within += sum(one.static["size"] - one.static[FREE] for one in self.sets if one.static)
        # Not below 0: ranges of two configurations may overlap, and ``within`` counts them twice.
        return max(0, self.counts["size"] - self.counts[FREE] - within)


def watch_directories(data_dirs: Iterable[str]) -> None:
    """Open the existing stores of these directories, except those that are open already."""
    for data_dir in data_dirs:
        # An open store is left alone: only the thread that serves requests may reopen it.
        if not open_stores.is_open(data_dir):
            # The store may be missing or damaged: its requests report that.
            with suppress(FastipamError, OSError):
                open_stores.get(data_dir, None, create=False)


def read_all() -> list[Reading]:
    """Return a reading of each network of each open store. O(networks + range sets)."""
    found = []
    for store in open_stores.all_open():
        names: list[str] = []
        with suppress(FastipamError, OSError):  # the store was closed meanwhile
            names = _names(store)
        for name in names:
            # One transaction for each network, because LMDB reuses no page that an open reader may
            # see. If one network is damaged, the numbers of the others, on which alerts depend,
            # must not vanish.
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
    """Return the ranges of a network's pool as text, and the pool's name."""
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
    """Return the release time of the address that has cooled longest, or None. O(range sets).

    The time is on the pool's clock.
    """
    # The cool-down queue is ordered by range set, then by time: read the first entry of each set.
    prefix = seek = keys.id_prefix(pool_id)
    heads = []
    with Walk(txn, tables.COOLDOWN) as walk:
        while walk.seek(seek):
            key = walk.key()
            if not key.startswith(prefix):
                break
            _, index, released, _, _ = keys.read_cooldown_key(key)
            heads.append(released)
            if index == keys.NO_SET:  # the last entries: addresses in no set
                break
            seek = keys.cooldown_prefix(pool_id, index + 1)
    return min(heads, default=None)


def longest_free_runs(txn: Snapshot, name: str) -> dict[str, int] | None:
    """Return the longest run of free addresses for each range set. O(pages).

    The keys are the sets' ranges as text. A run lies within one interval: a range, or, when the set
    is cut into blocks, an active block of this node. Return None when the network is not known, or
    has more than ``MOST_PAGES`` pages.
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
    """Return the stored pages of level 0 by index, ascending, or None if there are too many."""
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
            run += start - position  # all addresses of a page that is not stored are free
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
