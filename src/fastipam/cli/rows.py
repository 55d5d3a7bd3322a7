"""Yield the rows of ``list`` and ``stats``, in address order, one at a time.

A filter uses an index if there is one: ``leases`` for an address or CIDR, ``owners`` for a
container and interface, the cool-down queue for COOLING, the reservations for RESERVED, the history
for a time. Without an index the packed records are searched, and only those that may match are
unpacked.
"""

from __future__ import annotations

from bisect import bisect_left
from contextlib import suppress
from heapq import merge as merge_sorted
from typing import TYPE_CHECKING, Any

from fastipam.addressing.addresses import V4, V6, format_ip
from fastipam.addressing.ranges import Pool, merge
from fastipam.allocation import counts, history, pools, reservations, states
from fastipam.allocation.lookup import find, look_up
from fastipam.cli.filters import COOLING, EVERYTHING, FREE, RESERVED, Filter, pod_of
from fastipam.cli.times import Stamps
from fastipam.errors import ConfigError, StoreCorrupt
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_records
from fastipam.storage.records.event import Event
from fastipam.storage.records.lease import ASSIGNED, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from fastipam.ipam import Ipam
    from fastipam.storage.records.reservation import Reservation
    from fastipam.storage.store import Store
    from fastipam.storage.tables import Item
    from fastipam.storage.transaction import Snapshot

    When = Callable[[int], str]  # a time, in wall clock nanoseconds, as text
    Address = tuple[int, int]  # family, integer

STATIC = "static"
OUTSIDE = "outside"  # one word, like every cell in a pipe
# The clock may have been set back by this much, so events that are older by this are read too.
_MARGIN_NS = 60 * 10**9
# The most rows of a listing with free addresses; nobody reads more, and an IPv6 /64 has far more.
LARGEST_FREE_LISTING = 1 << 24
_EMPTY = {
    "pod": "",
    "container_id": "",
    "ifname": "",
    "pod_namespace": "",
    "pod_name": "",
    "pod_uid": "",
    "netns": "",
    "allocated_at": "",
    "reserved_for": "",
    "reason": "",
}


def names(ipam: Ipam, only: str | None) -> list[str]:
    """Return the networks of the store, or only the network ``only``. Raises ConfigError."""
    known = ipam.networks()
    if only is None:
        return known
    if only not in known:
        raise ConfigError(
            f"the store {ipam.path} has no network {only!r}",
            field="--network",
            value=only,
            hint=f"the networks of the store: {', '.join(known) or 'none'}",
        )
    return [only]


def are_several(ipam: Ipam, only: str | None) -> bool:
    """Return whether a table may have rows of several networks. Raises ConfigError."""
    return len(names(ipam, only)) > 1


def earlier_boots(ipam: Ipam, only: str | None = None) -> int:
    """Return how many leases are of an earlier boot. O(leases), then O(1) once all are swept."""
    if not ipam.store.unswept:
        return 0
    count = 0
    for name in names(ipam, only):
        for _, raw in ipam.network(name)._raw_leases():
            with suppress(StoreCorrupt):  # `fastipam check` reports a damaged lease
                if lease_records.boot_of(raw) != ipam.store.boot:
                    count += Record.read(raw).state == ASSIGNED
    return count


def lease_row(network: str, address: Address, record: Record) -> dict[str, Any]:
    """Return the fields of a lease that every command prints."""
    return {
        "network": network,
        "address": format_ip(*address),
        "pod": pod_of(record),
        "container_id": record.container_id,
        "ifname": record.ifname,
    }


def rows(
    ipam: Ipam,
    only: str | None = None,
    wanted: Filter = EVERYTHING,
    *,
    with_free: bool = False,
    when: When = Stamps(local=False),  # noqa: B008  # it caches one second, which is harmless
) -> Iterator[dict[str, Any]]:
    """Yield one row per address: network by network, each in address order.

    Up to 4096 used addresses of a network are read at one moment; more are read in pages, each at
    one moment. No read transaction is open while a row is printed, because a pager may stop
    reading.

    O(1) memory, unless the filter has a time, COOLING alone or an owner: then the addresses from
    the index are sorted first. ``when`` returns the text of a time. Raises ConfigError, StoreError.
    """
    listed: set[int] = set()  # the ids of pools
    for name in names(ipam, only):
        listing = _Listing(ipam.store, name, wanted, when, listed, alone=only is not None)
        yield from listing.run(with_free=with_free)


class _Listing:
    """Reads the rows of one network, a page at a time.

    Free and reserved addresses belong to a pool, so they are listed only with the first network of
    the pool. ``listed`` has the ids of the pools of earlier networks. With ``alone`` only this
    network is listed, with the free addresses of its own ranges.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        wanted: Filter,
        when: When,
        listed: set[int],
        *,
        alone: bool,
    ) -> None:
        self._listed = listed
        self._alone = alone
        self._network_id = 0
        self._pool_name = ""
        self._is_first = True
        self._store = store
        self._name = name
        self._wanted = wanted
        self._when = when
        self._key = keys.encode("network", name)
        self._pool = Pool([])

    def run(self, *, with_free: bool) -> Iterator[dict[str, Any]]:
        with self._store.read() as txn:
            found = look_up(txn, self._name)
            if found is None:
                return
            network_id, pool_id, self._pool = found
            self._network_id, self._pool_name = network_id, pools.pool_of(txn, self._name)
            self._is_first = pool_id not in self._listed
            self._listed.add(pool_id)
            entry = None if self._alone else find(txn, self._key)
            if entry is not None:
                self._pool = Pool.read(entry[2])  # with the ranges of the pool's other networks
            indexed = self._indexed(txn, network_id, pool_id)
        used = self._used(None if indexed is None else sorted(set(indexed)))
        if with_free and self._wanted.wants_free and self._is_first:
            yield from self._with_free(used)
        else:
            yield from (row for _, row in used if row)

    def _used(self, indexed: list[bytes] | None) -> Iterator[tuple[Address, dict[str, Any] | None]]:
        """Yield (address, row) for each used address; the row is None if the filter excludes it."""
        needles = self._wanted.needles()
        for leases, kept in self._pages(indexed):
            held: Iterator[tuple[Address, Record | Reservation]] = (
                (keys.read_address_key(key)[1:], Record.read(raw))
                for key, raw in leases
                if all(needle in raw for needle in needles)
            )
            reserved = (((one.family, one.value), one) for one in reservations.read_items(kept))
            last: Address | None = None
            for address, one in merge_sorted(held, reserved, key=lambda each: each[0]):
                if address == last:
                    continue  # the reservation of an address that is in use
                last = address
                if isinstance(one, Record):
                    fits = one.network_id == self._network_id and self._wanted.fits(one)
                    yield address, self._row(address, one) if fits else None
                else:
                    fits = self._is_first and self._wanted.fits_reservation(one)
                    yield address, self._reserved_row(address, one) if fits else None

    # Which leases ----------------------------------------------------------------------------

    def _pages(self, indexed: list[bytes] | None) -> Iterator[tuple[list[Item], list[Item]]]:
        """Yield pages of leases, each with the reservations of the same address interval.

        Each page is read in one transaction, which has ended when the page is yielded.
        """
        low, high = self._bounds()
        start: bytes | None = low
        while start is not None and start <= high:
            with self._store.read() as txn:
                found = find(txn, self._key)  # again: a restore may have changed the pool's id
                if found is None:
                    return
                prefix = keys.id_prefix(found[1])
                leases, end = self._leases(txn, prefix, start, indexed)
                kept, kept_end = tables.RESERVATIONS.page(txn, prefix, prefix + start)
            ends = [one for one in (end, kept_end) if one is not None]
            following = min(ends, default=None)
            limit = min([prefix + high + b"\0", *ends])
            yield (
                [item for item in leases if item[0] < limit],
                [item for item in kept if item[0] < limit],
            )
            start = following and following[len(prefix) :]

    def _leases(
        self, txn: Snapshot, prefix: bytes, start: bytes, indexed: list[bytes] | None
    ) -> tuple[list[Item], bytes | None]:
        """Return a page of leases, and the first key of the next page, or None."""
        if self._wanted.states == {RESERVED}:
            return [], None
        if indexed is None:
            return tables.LEASES.page(txn, prefix, prefix + start)
        at = bisect_left(indexed, start)
        end = at + tables.PAGE
        found = ((prefix + one, tables.LEASES.get(txn, prefix + one)) for one in indexed[at:end])
        items = [(key, raw) for key, raw in found if raw is not None]
        return items, prefix + indexed[end] if end < len(indexed) else None

    def _bounds(self) -> tuple[bytes, bytes]:
        """Return the first and the last key that can match, without the pool's id."""
        if self._wanted.interval is None:
            return b"", b"\xff" * 17
        family, low, high = self._wanted.interval
        return _place(family, low), _place(family, high)

    def _indexed(self, txn: Snapshot, network_id: int, pool_id: int) -> Iterable[bytes] | None:
        """Return the keys that an index gives, or None when no index can be used."""
        wanted = self._wanted
        if wanted.container and wanted.ifname:
            name = keys.owner_name(wanted.container, wanted.ifname)
            raw = tables.OWNERS.get(txn, keys.owner_key(keys.id_prefix(network_id), name))
            # If the owner has no entry, no index helps: ``container`` may be only the beginning of
            # an id, or the address is cooling, and a cooling address has no owner entry.
            if raw is not None:
                return (_place(*one) for one in keys.read_held(raw, pool_id))
        if wanted.states == {COOLING}:
            queue = tables.COOLDOWN.scan_keys(txn, keys.id_prefix(pool_id))
            return [_place(*keys.read_cooldown_key(key)[3:]) for key in queue]
        if wanted.since_ns:
            return self._since(txn, network_id, pool_id)
        return None

    def _since(self, txn: Snapshot, network_id: int, pool_id: int) -> list[bytes] | None:
        """Return the keys of addresses assigned since a time, or None if the history is too short.

        O(events since then).
        """
        # Read the history from its end to the first event that is a minute older than the time,
        # because the clock may have been set back.
        state = txn.pool_state(pool_id)
        found: list[bytes] = []
        assignments = 0
        for key, raw in history.scan_back(txn, network_id):
            event = Event(key, raw)
            if event.wall_ns < self._wanted.since_ns - _MARGIN_NS:
                return found
            if event.generation:
                found.append(_place(event.family, event.value))
                assignments += event.kind in history.BEGINNINGS
        # The history has no older event. The list is complete if it has every assignment ever made.
        return found if assignments == state.generation else None

    # The content of a row ---------------------------------------------------------------------

    def _row(self, address: Address, record: Record) -> dict[str, Any]:
        return {
            "network": self._name,
            "pool": self._pool_name,
            "address": format_ip(*address),
            "status": states.of_record(record).upper(),
            "pod": pod_of(record),
            "container_id": record.container_id,
            "ifname": record.ifname,
            "pod_namespace": record.pod_namespace,
            "pod_name": record.pod_name,
            "pod_uid": record.pod_uid,
            "netns": record.netns,
            "allocated_at": self._when(record.allocated_ns),
            "reserved_for": "",
            "reason": "",
        }

    def _reserved_row(self, address: Address, one: Reservation) -> dict[str, Any]:
        namespace, slash, name = one.owner.partition("/")
        return {
            "network": self._name,
            "pool": self._pool_name,
            "address": format_ip(*address),
            "status": RESERVED,
            **_EMPTY,
            "pod": one.owner if slash else "",
            "container_id": "" if slash else one.owner,
            "pod_namespace": namespace if slash else "",
            "pod_name": name,
            "ifname": one.ifname,
            "reserved_for": one.owner,
            "reason": one.reason or ("sticky" if one.sticky else ""),
        }

    def _with_free(
        self, used: Iterator[tuple[Address, dict[str, Any] | None]]
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of the used addresses, and of the free addresses between them."""
        intervals = list(self._free_intervals())
        count = sum(high - low + 1 for _, low, high in intervals)
        if count > LARGEST_FREE_LISTING:
            raise ConfigError(
                f"network {self._name} has {count} addresses: too many to list the free ones",
                field="--all",
                value=self._name,
                hint="type a part of it, for example --address 10.32.0.0/24",
            )
        taken = next(used, None)
        for family, low, high in intervals:
            value = low
            while value <= high:
                if taken is not None and taken[0] <= (family, value):
                    if taken[1]:
                        yield taken[1]
                    value += taken[0] == (family, value)
                    taken = next(used, None)
                else:
                    address = format_ip(family, value)
                    yield {
                        "network": self._name, "pool": self._pool_name, "address": address,
                        "status": FREE, **_EMPTY,
                    }  # fmt: skip
                    value += 1
        while taken is not None:
            if taken[1]:
                yield taken[1]
            taken = next(used, None)

    def _free_intervals(self) -> Iterator[tuple[int, int, int]]:
        wanted = self._wanted.interval
        for family in (V4, V6):
            sets = (each for each in self._pool.sets if each.family == family)
            for low, high in merge(interval for each in sets for interval in each.intervals):
                if wanted is None:
                    yield family, low, high
                elif wanted[0] == family and low <= wanted[2] and wanted[1] <= high:
                    yield family, max(low, wanted[1]), min(high, wanted[2])


def _place(family: int, value: int) -> bytes:
    """Return the key of an address without the pool's id."""
    return keys.address_key(0, family, value)[4:]


def stats(ipam: Ipam, only: str | None) -> Iterator[dict[str, Any]]:
    """Yield one document per network: its counts, its range sets' counts, and how full it is.

    A network is as full as its fullest set.
    """
    for name in names(ipam, only):
        yield ipam.network(name).stats().to_dict()


def stats_table(documents: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield one row for each range set in the documents of :func:`stats`.

    Addresses in use that are in no range any more have a row of their own, unless another
    configuration of this network has them in its ranges.
    """
    for one in documents:
        outside = {state: one[state] for state in states.STATES}
        sets = [*one["range_sets"], *one["other_range_sets"]]
        several = len(sets) > 1
        for each in sets:
            yield {
                "network": one["network"],
                **each,
                "ranges": ",".join(map(counts.text_of, each["ranges"])),
                "used": percent_text(each["used_percent"]),
                "several": several,
            }
            outside = {state: count - each[state] for state, count in outside.items()}
            if "static" in each:
                area = each["static"]
                yield {
                    "network": one["network"], "ranges": STATIC, **area, "used": "-",
                    "several": True,
                }  # fmt: skip
                for state in ("assigned", "cooling", "reserved"):
                    outside[state] -= area[state]
        if min(outside.values()) >= 0 < max(outside.values()):  # negative if two sets overlap
            size = sum(outside.values())
            yield {
                "network": one["network"], "ranges": OUTSIDE, "size": size, **outside,
                "used": "-", "several": True,
            }  # fmt: skip


def pool_table(documents: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield up to three rows for each pool: its assignable, static, and outside addresses.

    In each row the counts by state add up to the size.
    """
    for one in documents:
        names_ = ",".join(one["networks"])
        yield {**one, "names": names_, "used": percent_text(one["used_percent"])}
        for key, text in (("static", STATIC), ("outside", OUTSIDE)):
            if key in one:
                yield {"pool": one["pool"], "names": text, **one[key], "used": "-"}


def percent_text(percent: float | None) -> str:
    """Return a percentage as text."""
    if percent is None:
        return "-"
    return f"{percent:.2f}%" if percent >= 0.01 or not percent else "<0.01%"
