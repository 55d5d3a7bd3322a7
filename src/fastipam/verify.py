"""Does a store agree with itself? Read-only, and without trusting anything that it says.

What is compared, for each network and in one read transaction:

* pages: their length; none is empty; a bit of a page is set if and only if the page below is full
* a bit of level 0 is set if and only if there is a lease (assigned or cooling) or a reservation
* an assigned lease has exactly one owner entry that lists it, and the other way round
* a cooling lease has exactly one place in the cool-down queue, and the other way round
* a reservation with an owner is listed for him, one that ends has its place in time, and the other
  way round
* the network's numbers: assigned, cooling, reserved, kept, outside, generation, clock, events
* no record belongs to a network that does not exist

Keys are big-endian, so pages, leases and reservations all come in address order: they are merged
as they are read. Memory: the numbers of a network's full pages, one for each 4096 addresses.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastipam import holds, records
from fastipam._bitmap import page_bits
from fastipam.addresses import BITS, V4, V6, format_ip
from fastipam.errors import StoreCorrupt
from fastipam.history import Event
from fastipam.ranges import Pool
from fastipam.records import ASSIGNED, SIGHT_BYTES, Record
from fastipam.state import NetworkState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from fastipam.store import Store
    from fastipam.transaction import Snapshot

_PAGE_BITS = 4096
_PAGE_BYTES = _PAGE_BITS // 8
_LEVELS = 11  # as the tree's: 11 * 12 bits cover an IPv6 address
MOST_NETWORKS = (1 << 32) - 1  # the number of the next one has to fit
_DIGEST_KEY_BYTES = 20  # network id and digest


@dataclass(frozen=True, slots=True)
class Finding:
    """One contradiction. ``where`` is an address, or a key in hexadecimal; ``kind`` a short name.

    ``network`` is the network's name, or ``#7`` for an id that has none.
    """

    kind: str
    network: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.network}: {self.where}: {self.text} ({self.kind})"


def verify(store: Store) -> list[Finding]:
    """All findings of a store; empty when it is consistent. O(pages + records). Raises StoreError.

    Inside a write transaction of this thread it sees what that has changed.
    """
    return list(findings(store))


def findings(store: Store) -> Iterator[Finding]:
    """:func:`verify`, one finding at a time; a read transaction is open while it runs."""
    with store.read() as txn:
        yield from _Verifier(store, txn).run()


def _merge(left: Iterable[int], right: Iterable[int]) -> Iterator[tuple[int, bool, bool]]:
    """Two ascending sequences as one, each number with the sequences it is in."""
    lefts, rights = iter(left), iter(right)
    one, other = next(lefts, None), next(rights, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one < other):
            assert one is not None
            yield one, True, False
            one = next(lefts, None)
        elif one is None or other < one:
            yield other, False, True
            other = next(rights, None)
        else:
            yield one, True, True
            one, other = next(lefts, None), next(rights, None)


class _Network:
    """What is found of a network, beside what it says of itself."""

    def __init__(self, network_id: int, name: str) -> None:
        self.network_id = network_id
        self.name = name
        self.pool: Pool | None = None
        self.state: NetworkState | None = None
        self.counts = dict.fromkeys(("assigned", "cooling", "reserved", "kept", "outside"), 0)

    def outside(self, family: int, value: int) -> bool:
        return self.pool is not None and not self.pool.holds(family, value)


class _Verifier:
    def __init__(self, store: Store, txn: Snapshot) -> None:
        self._store = store
        self._txn = txn
        self._ids: dict[int, str] = {}
        # Filled by generators that are being merged, emptied after each step of the merge.
        self._pending: list[Finding] = []

    def run(self) -> Iterator[Finding]:
        networks: list[_Network] = []
        for key, raw in self._items(self._store.db_networks):
            yield from self._network(key, raw, networks)
        last = int.from_bytes(self._txn.get(b"last network", b"", self._store.db_meta), "big")
        if last >= MOST_NETWORKS:
            yield Finding("network-id", "", "last network", f"the last network's id is {last}")
        yield from self._orphans()
        for network in networks:
            yield from self._state(network)
            for family in (V4, V6):
                yield from self._pages(network, family)
            yield from self._other_families(network)
            yield from self._owners(network)
            yield from self._cooldown(network)
            yield from self._kept(network)
            yield from self._events(network)
            yield from self._missing(network)
            yield from self._numbers(network)

    # Reading -------------------------------------------------------------------------------

    def _items(self, db: Any, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with self._txn.txn.cursor(db) as cursor:
            if not cursor.set_range(prefix):
                return
            for key, raw in cursor:
                if not key.startswith(prefix):
                    return
                yield key, raw

    def _address(self, key: bytes) -> str:
        """The address of a lease's or reservation's key as text, for a finding."""
        family = key[4] if len(key) > 4 else 0
        if family in BITS and len(key) == 5 + BITS[family] // 8:
            return format_ip(family, int.from_bytes(key[5:], "big"))
        return key.hex()

    # Networks ------------------------------------------------------------------------------

    def _network(self, key: bytes, raw: bytes, networks: list[_Network]) -> Iterator[Finding]:
        name = key.decode(records.ENCODING, records.ERRORS)
        if len(raw) < 4:
            yield Finding("network-unreadable", name, key.hex(), f"its entry is {raw.hex()!r}")
            return
        network = _Network(int.from_bytes(raw[:4], "big"), name)
        if network.network_id in self._ids:
            other = self._ids[network.network_id]
            yield Finding("network-id", name, key.hex(), f"its id is that of {other}, too")
            return
        last = int.from_bytes(self._txn.get(b"last network", b"", self._store.db_meta), "big")
        if not 1 <= network.network_id <= last:
            yield Finding(
                "network-id", name, key.hex(), f"its id {network.network_id} is not in 1..{last}"
            )
        try:
            network.pool = Pool.read(raw[4:].decode())
        except ValueError:
            yield Finding("ranges-unreadable", name, key.hex(), f"its ranges are {raw[4:]!r}")
        self._ids[network.network_id] = name
        networks.append(network)

    def _orphans(self) -> Iterator[Finding]:
        """Records whose network does not exist: one finding for each database and id."""
        store = self._store
        for what, db in (
            ("state", store.db_states),
            ("page", store.db_pages),
            ("lease", store.db_leases),
            ("owner", store.db_owners),
            ("cooldown", store.db_cooldown),
            ("reservation", store.db_reservations),
            ("sticky", store.db_sticky),
            ("event", store.db_events),
            ("missing", store.db_missing),
        ):
            with self._txn.txn.cursor(db) as cursor:
                more = cursor.first()
                while more:
                    key = cursor.key()
                    network_id = int.from_bytes(key[:4], "big")
                    if len(key) < 4 or network_id not in self._ids:
                        yield Finding(
                            f"{what}-orphan", f"#{network_id}", key.hex(), "no such network exists"
                        )
                    if network_id == 0xFFFFFFFF:
                        break
                    more = cursor.set_range(records.network_prefix(network_id + 1))

    def _state(self, network: _Network) -> Iterator[Finding]:
        prefix = records.network_prefix(network.network_id)
        raw = self._txn.get(prefix, None, self._store.db_states)
        if raw is None:
            yield Finding("state-missing", network.name, prefix.hex(), "it has no state")
            return
        try:
            network.state = NetworkState(network.network_id, raw)
        except StoreCorrupt as error:
            yield Finding("state-unreadable", network.name, prefix.hex(), str(error))

    def _numbers(self, network: _Network) -> Iterator[Finding]:
        """The counters against what was counted; they need the pool to be readable."""
        if network.state is None:
            return
        for what, counted in network.counts.items():
            noted = getattr(network.state, what)
            if noted != counted and (what != "outside" or network.pool is not None):
                yield Finding(
                    "state-count",
                    network.name,
                    what,
                    f"its state counts {noted} addresses, there are {counted}",
                )

    # Pages, against leases and reservations ------------------------------------------------

    def _pages(self, network: _Network, family: int) -> Iterator[Finding]:
        """Every level against the one below it, level 0 against the records."""
        below: Iterable[int] = self._addresses(network, family)
        for level in range(_LEVELS):
            full: list[int] = []
            bits = self._bits(network, family, level, full)
            for number, in_page, in_below in _merge(bits, below):
                yield from self._flush()
                if in_page == in_below:
                    continue
                if level == 0:
                    kind = "bit-without-record" if in_page else "record-without-bit"
                    text = "its bit is set, but it has neither a lease nor a reservation"
                    if in_below:
                        text = "it has a lease or a reservation, but its bit is clear"
                    where = (
                        format_ip(family, number) if number >> BITS[family] == 0 else hex(number)
                    )
                    yield Finding(kind, network.name, where, text)
                else:
                    yield Finding(
                        "page-parent",
                        network.name,
                        self._page(family, level - 1, number),
                        "it is full, but the page above it does not say so"
                        if in_below
                        else "it is not full, but the page above it says that it is",
                    )
            yield from self._flush()
            below = full
        for number in below:
            yield Finding("page-parent", network.name, f"page {number}", "no level is above it")

    def _flush(self) -> Iterator[Finding]:
        if self._pending:
            yield from self._pending
            self._pending.clear()

    @staticmethod
    def _page(family: int, level: int, index: int) -> str:
        return f"page {index:#x} of level {level}, IPv{family}"

    def _bits(self, network: _Network, family: int, level: int, full: list[int]) -> Iterator[int]:
        """The set bits of a level, ascending; the numbers of its full pages go into ``full``."""
        prefix = records.pages_prefix(network.network_id, family) + bytes((level,))
        index_bytes = records.page_index_bytes(family)
        for key, raw in self._items(self._store.db_pages, prefix):
            if len(key) != len(prefix) + index_bytes:
                self._pending.append(
                    Finding("page-key", network.name, key.hex(), "this is no key of a page")
                )
                continue
            index = int.from_bytes(key[len(prefix) :], "big")
            where = self._page(family, level, index)
            if len(raw) != _PAGE_BYTES:
                text = f"it is {len(raw)} bytes long, not {_PAGE_BYTES}"
                self._pending.append(Finding("page-length", network.name, where, text))
                continue
            bits = page_bits(raw, index * _PAGE_BITS)
            if not bits:
                self._pending.append(
                    Finding("page-empty", network.name, where, "it is stored, and has no bit set")
                )
            if len(bits) == _PAGE_BITS:
                full.append(index)
            yield from bits

    def _addresses(self, network: _Network, family: int) -> Iterator[int]:
        """Every address with a lease or a reservation, ascending; judges them on the way."""
        leases = self._keyed(network, family, self._store.db_leases, "lease")
        reservations = self._keyed(network, family, self._store.db_reservations, "reservation")
        for value, leased, reserved in _merge(leases, reservations):
            if leased:
                self._pending += self._lease(network, family, value)
            else:
                network.counts["reserved"] += 1
            if reserved:
                network.counts["kept"] += 1
                self._pending += self._reservation(network, family, value)
            network.counts["outside"] += network.outside(family, value)
            yield value

    def _keyed(self, network: _Network, family: int, db: Any, what: str) -> Iterator[int]:
        prefix = records.network_prefix(network.network_id) + bytes((family,))
        for key, _ in self._items(db, prefix):
            if len(key) == len(prefix) + BITS[family] // 8:
                yield int.from_bytes(key[len(prefix) :], "big")
            else:
                text = f"this is no key of a {what}"
                self._pending.append(Finding(f"{what}-key", network.name, key.hex(), text))

    def _other_families(self, network: _Network) -> Iterator[Finding]:
        """Keys that none of the above has looked at: families, or levels, that there are not."""
        for what, db, levels in (
            ("page", self._store.db_pages, _LEVELS),
            ("lease", self._store.db_leases, 256),
            ("reservation", self._store.db_reservations, 256),
        ):
            start = prefix = records.network_prefix(network.network_id)
            with self._txn.txn.cursor(db) as cursor:
                while cursor.set_range(start) and cursor.key().startswith(prefix):
                    key = cursor.key()
                    known = len(key) > 5 and key[4] in BITS and key[5] < levels
                    if not known:
                        text = f"this is no key of a {what}"
                        yield Finding(f"{what}-key", network.name, key.hex(), text)
                        start = key + b"\0"
                    else:
                        # Skip what was looked at: of a family the rest, of pages its levels.
                        family = key[:5]
                        start = family + bytes((levels,)) if levels < 256 else _behind(family)

    # Leases, owners, the queue -------------------------------------------------------------

    def _lease(self, network: _Network, family: int, value: int) -> list[Finding]:
        key = records.address_key(network.network_id, family, value)
        where = format_ip(family, value)
        try:
            record = Record.read(self._txn.get(key, None, self._store.db_leases) or b"")
        except StoreCorrupt as error:
            return [Finding("lease-unreadable", network.name, where, str(error))]
        found = []

        def add(kind: str, text: str) -> None:
            found.append(Finding(kind, network.name, where, text))

        state = network.state
        if state is not None and not 0 < record.generation <= state.generation:
            add("lease-generation", f"generation {record.generation} is above {state.generation}")
        if record.length > BITS[family]:
            add("lease-length", f"its prefix length is {record.length}")
        if record.boot > self._store.boot:
            add("lease-boot", f"boot {record.boot} has not been yet, this is {self._store.boot}")
        elif record.boot != self._store.boot and record.state == ASSIGNED and self._all_seen(state):
            add("lease-boot", f"it is of boot {record.boot}, whose leases are all given back")
        owner = f"{record.container_id} {record.ifname}"
        if record.state == ASSIGNED:
            network.counts["assigned"] += 1
            if record.released:
                add("lease-released", "it is assigned, and says when it was released")
            if (family, value) not in self._owned(network, record):
                add("lease-without-owner", f"it is assigned to {owner}, who does not list it")
        else:
            network.counts["cooling"] += 1
            if state is not None and record.released > state.clock:
                add("lease-released", "it was released at a time that has not come")
            queued = records.cooldown_key(
                network.network_id, record.set_index, record.released, family, value
            )
            if self._txn.get(queued, None, self._store.db_cooldown) is None:
                add("lease-without-cooldown", "it is cooling, but not in the queue")
        return found

    def _all_seen(self, state: NetworkState | None) -> bool:
        """Whether the search for leases of earlier boots has come to its end."""
        return state is not None and state.swept == self._store.boot

    def _owned(self, network: _Network, record: Record) -> list[tuple[int, int]]:
        raw = self._txn.get(self._owner_key(network, record), b"", self._store.db_owners)
        try:
            return records.read_addresses(raw)
        except StoreCorrupt:
            return []

    @staticmethod
    def _owner_key(network: _Network, record: Record) -> bytes:
        return records.owner_key(
            records.network_prefix(network.network_id),
            records.owner_name(record.container_id, record.ifname),
        )

    def _owners(self, network: _Network) -> Iterator[Finding]:
        prefix = records.network_prefix(network.network_id)
        for key, raw in self._items(self._store.db_owners, prefix):
            try:
                listed = records.read_addresses(raw)
            except StoreCorrupt as error:
                yield Finding("owner-unreadable", network.name, key.hex(), str(error))
                continue
            if len(key) != _DIGEST_KEY_BYTES:
                yield Finding("owner-key", network.name, key.hex(), "this is no key of an owner")
            if not listed or len(set(listed)) < len(listed):
                text = "it lists no address, or one twice"
                yield Finding("owner-addresses", network.name, key.hex(), text)
            for family, value in listed:
                record = self._record(network, family, value)
                if (
                    record is None
                    or record.state != ASSIGNED
                    or self._owner_key(network, record) != key
                ):
                    text = f"owner {key[4:].hex()} lists it, its lease says otherwise"
                    yield Finding(
                        "owner-without-lease", network.name, format_ip(family, value), text
                    )

    def _record(self, network: _Network, family: int, value: int) -> Record | None:
        key = records.address_key(network.network_id, family, value)
        raw = self._txn.get(key, None, self._store.db_leases)
        try:
            return None if raw is None else Record.read(raw)
        except StoreCorrupt:  # reported with the leases
            return None

    def _cooldown(self, network: _Network) -> Iterator[Finding]:
        """Each place in the queue; what it says in its key has to be what the lease says."""
        prefix = records.network_prefix(network.network_id)
        for key, _ in self._items(self._store.db_cooldown, prefix):
            family = key[14] if len(key) > 14 else 0
            if family not in BITS or len(key) != 15 + BITS[family] // 8:
                text = "this is no key of the cool-down queue"
                yield Finding("cooldown-key", network.name, key.hex(), text)
                continue
            _, set_index, released, _, value = records.read_cooldown_key(key)
            record = self._record(network, family, value)
            if (
                record is None
                or record.state == ASSIGNED
                or (record.set_index, record.released) != (set_index, released)
            ):
                yield Finding(
                    "cooldown-without-lease",
                    network.name,
                    format_ip(family, value),
                    "it is in the cool-down queue, its lease says otherwise",
                )

    # Reservations and events ---------------------------------------------------------------

    def _reservation(self, network: _Network, family: int, value: int) -> list[Finding]:
        where = format_ip(family, value)
        try:
            one = holds.get(self._txn, self._store, network.network_id, family, value)
        except StoreCorrupt as error:
            return [Finding("reservation-unreadable", network.name, where, str(error))]
        assert one is not None
        found = []
        prefix = records.network_prefix(network.network_id)
        if one.owner:
            key = holds.owner_index_key(prefix, one.owner, one.ifname)
            if (family, value) not in self._listed(key):
                text = f"it is kept for {one.owner}, for whom it is not listed"
                found.append(Finding("reservation-without-owner", network.name, where, text))
        if one.until:
            key = holds.due_key(prefix, one.until, family, value)
            if self._txn.get(key, None, self._store.db_sticky) is None:
                text = "it is kept for some time, and its end is not noted"
                found.append(Finding("reservation-without-end", network.name, where, text))
        return found

    def _listed(self, key: bytes) -> list[tuple[int, int]]:
        try:
            return records.read_addresses(self._txn.get(key, b"", self._store.db_sticky))
        except StoreCorrupt:  # reported on its own
            return []

    def _kept(self, network: _Network) -> Iterator[Finding]:
        """Each entry of ``sticky`` against the reservations it speaks of."""
        prefix = records.network_prefix(network.network_id)
        for key, raw in self._items(self._store.db_sticky, prefix):
            try:
                if key[4:5] == b"t":
                    until, family, value = holds.read_due_key(key)
                    listed = [(family, value)]
                elif key[4:5] == b"k" and len(key) == _DIGEST_KEY_BYTES + 1:
                    until, listed = 0, records.read_addresses(raw)
                else:
                    raise ValueError(key)
                named = [self._names(network, key, until, *one) for one in listed]
            except (StoreCorrupt, ValueError, KeyError, struct.error):
                text = "this is no entry of what is kept"
                yield Finding("sticky-unreadable", network.name, key.hex(), text)
                continue
            for (family, value), agrees in zip(listed, named, strict=True):
                if not agrees:
                    text = "it is listed as kept, its reservation says otherwise"
                    where = format_ip(family, value)
                    yield Finding("sticky-without-reservation", network.name, where, text)

    def _names(self, network: _Network, key: bytes, until: int, family: int, value: int) -> bool:
        """Whether an address's reservation is the one that an entry of ``sticky`` speaks of."""
        try:
            one = holds.get(self._txn, self._store, network.network_id, family, value)
        except StoreCorrupt:  # reported with the reservations
            return True
        if one is None:
            return False
        if until:
            return one.until == until
        return key == holds.owner_index_key(key[:4], one.owner, one.ifname)

    def _events(self, network: _Network) -> Iterator[Finding]:
        """Each event can be read, and its number is one of those that were given."""
        prefix = records.network_prefix(network.network_id)
        for key, raw in self._items(self._store.db_events, prefix):
            try:
                event = Event(key, raw)
            except StoreCorrupt as error:
                yield Finding("event-unreadable", network.name, key.hex(), str(error))
                continue
            state = network.state
            if state is not None and not state.first_event <= event.sequence < state.events:
                text = f"event {event.sequence} is not one of {state.first_event}..{state.events}"
                yield Finding("event-number", network.name, key.hex(), text)

    def _missing(self, network: _Network) -> Iterator[Finding]:
        """Each note of the sweeper's can be read; that its lease is there is for the next sweep."""
        prefix = records.network_prefix(network.network_id)
        for key, raw in self._items(self._store.db_missing, prefix):
            family = key[4] if len(key) > 4 else 0
            if family not in BITS or len(key) != 5 + BITS[family] // 8 or len(raw) != SIGHT_BYTES:
                text = "this is no note of a lost namespace"
                yield Finding("missing-unreadable", network.name, key.hex(), text)


def _behind(prefix: bytes) -> bytes:
    """The first key that no longer begins with ``prefix``; its last byte is not 255."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))
