"""Repair one pool of a store with its networks.

Each step makes one table agree with the tables that were repaired before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastipam._ledger import EventLog, PoolState
from fastipam.addressing.addresses import BITS, V4, V6, format_ip
from fastipam.addressing.ranges import Pool
from fastipam.addressing.union import is_within
from fastipam.allocation import blocks
from fastipam.allocation.lookup import find
from fastipam.errors import StoreCorrupt
from fastipam.storage import tables
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys, own_ranges
from fastipam.storage.records import lease as lease_record
from fastipam.storage.records import policy as policy_record
from fastipam.storage.records import reservation as reservation_record
from fastipam.storage.records.lease import ASSIGNED, Record
from fastipam.storage.records.reservation import Reservation
from fastipam.verify.blocks import fault

if TYPE_CHECKING:
    from fastipam.storage.tables import Table
    from fastipam.storage.transaction import Transaction

    Address = tuple[int, int]  # family, integer

LOST = "repair: an owner's entry lists it, its lease is lost"
UNREADABLE = "repair: its record could not be read"
_NUMBERS = ("generation", "clock")
_EVENT_NUMBERS = ("first", "next")


@dataclass(frozen=True, slots=True)
class Action:
    """One change of a repair. ``kind`` is a short name, ``where`` an address or a key."""

    kind: str
    network: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.network}: {self.where}: {self.text} ({self.kind})"


class PoolRepair:
    """The repair of a pool: it reads leases and reservations, and derives the other records.

    ``members`` are the encoded names and the ids of its networks.
    """

    def __init__(
        self,
        txn: Transaction,
        pool_id: int,
        members: list[tuple[bytes, int]],
        actions: list[Action],
    ) -> None:
        self._store = txn.store
        self._txn = txn
        name = members[0][0]
        self._name = name.decode(keys.ENCODING, keys.ERRORS)
        self._members = [network_id for _, network_id in members]
        self._prefix = keys.id_prefix(pool_id)
        self._pool_id = pool_id
        self._actions = actions
        found = find(txn, name)
        assert found is not None, name
        self._pool = Pool.read(found[2])
        self._leases: dict[Address, Record] = {}
        self._owners: dict[bytes, list[Address]] = {}
        self._reservations: dict[Address, Reservation] = {}
        self._anew = False  # whether the state was lost and begins at zero

    def run(self) -> None:
        """Repair the pool, and append what was done to the actions. Call it once."""
        self._state = self._read_state()
        state = self._state
        self._logs = [self._read_log(one) for one in self._members]
        before = [
            (one, what, getattr(one, what))
            for one, names in ((state, _NUMBERS), *((log, _EVENT_NUMBERS) for log in self._logs))
            for what in names
        ]
        self._read_reservations()
        self._read_leases()
        self._repair_owners()
        self._repair_queue()
        self._repair_sticky()
        for log in self._logs:
            self._repair_events(log)
        self._repair_notes()
        self._repair_pages()
        self._repair_blocks()
        self._repair_counts()
        for network_id in self._members:
            self._repair_policy(network_id)
        for one, what, noted in before:
            if getattr(one, what) != noted:
                self._did("number", what, f"is {getattr(one, what)}, was {noted}")
        self._put(tables.MAIN, state.key, state.pack())
        for log in self._logs:
            self._put(tables.MAIN, log.key, log.pack())

    def _did(self, kind: str, where: str | Address, text: str) -> None:
        where = where if isinstance(where, str) else format_ip(*where)
        self._actions.append(Action(kind, self._name, where, text))

    def _of(self, table: Table) -> list[tuple[bytes, bytes]]:
        return list(table.scan(self._txn, self._prefix))

    def _of_network(self, table: Table, network_id: int) -> list[tuple[bytes, bytes]]:
        return list(table.scan(self._txn, keys.id_prefix(network_id)))

    def _put(self, table: Table, key: bytes, value: bytes) -> None:
        table.put(self._txn, key, value)

    def _remove(self, table: Table, key: bytes, kind: str, text: str) -> None:
        table.delete(self._txn, key)
        self._did(kind, key.hex(), text)

    def _key(self, address: Address) -> bytes:
        return keys.address_key(self._pool_id, *address)

    def _read_state(self) -> PoolState:
        key = keys.state_key(self._pool_id)
        self._remove_longer(key, "state", "removed: it is not a key of a pool's numbers")
        raw = tables.MAIN.get(self._txn, key)
        try:
            if raw is not None:
                return PoolState(self._pool_id, raw)
        except StoreCorrupt:
            pass
        self._anew = True
        self._did("state", key.hex(), "reset its counters, clock and cursors")
        return PoolState(self._pool_id, None)

    def _read_log(self, network_id: int) -> EventLog:
        key = keys.log_key(network_id)
        self._remove_longer(key, "history", "removed: it is not a key of a history")
        try:
            return EventLog(network_id, tables.MAIN.get(self._txn, key))
        except StoreCorrupt:
            self._did("history", key.hex(), "removed the last events: they could not be read")
            return EventLog(network_id, None)

    def _remove_longer(self, key: bytes, kind: str, text: str) -> None:
        for one in list(tables.MAIN.scan_keys(self._txn, key, key + b"\0")):
            self._remove(tables.MAIN, one, kind, text)

    # Reading the records that are trusted ----------------------------------------------------

    def _read_reservations(self) -> None:
        table = tables.RESERVATIONS
        for key, raw in self._of(table):
            address = keys.address_of(key)
            if address is None:
                self._remove(table, key, "reservation", "removed: its key names no address")
                continue
            try:
                self._reservations[address] = Reservation.read(*address, raw)
            except StoreCorrupt:
                self._reserve(address, UNREADABLE)

    def _reserve(self, address: Address, reason: str) -> None:
        one = Reservation(*address, "", "", reason)
        self._reservations[address] = one
        self._put(tables.RESERVATIONS, self._key(address), one.pack())
        self._did("reservation", address, f"reserved for no owner; {reason}")

    def _read_leases(self) -> None:
        table, state = tables.LEASES, self._state
        for key, raw in self._of(table):
            address = keys.address_of(key)
            if address is None:
                self._remove(table, key, "lease", "removed: its key names no address")
                continue
            try:
                record = Record.read(raw)
            except StoreCorrupt:
                table.delete(self._txn, key)
                self._did("lease", address, "removed a record that could not be read")
                if address not in self._reservations:
                    self._reserve(address, UNREADABLE)
                continue
            if record.generation >> keys.MOST_BITS:
                record.generation = 0  # _repair_lease assigns a new one
            state.generation = max(state.generation, record.generation)
            if record.state != ASSIGNED:
                state.clock = max(state.clock, min(record.released, self._believable_clock()))
            self._leases[address] = record
        for address, record in self._leases.items():
            if self._repair_lease(address, record):
                self._put(table, self._key(address), record.pack())

    def _believable_clock(self) -> int:
        """Return the pool's clock now: no release can be later."""
        return self._store.clock() + self._state.offset

    def _repair_lease(self, address: Address, record: Record) -> bool:
        if record.length > BITS[address[0]]:
            its_range = self._pool.range_of(*address)
            record.length = BITS[address[0]] if its_range is None else its_range.length
        if record.network_id not in self._members:
            record.network_id = self._members[0]
        record.boot = min(record.boot, self._store.boot)
        if record.state == ASSIGNED and self._state.swept == self._store.boot:
            record.boot = self._store.boot  # its container may still run; the sweeper decides
        if record.state == ASSIGNED:
            record.released = 0
        elif record.released > self._state.clock:
            record.released = self._state.clock
        if record.generation == 0:
            self._state.generation += 1
            record.generation = self._state.generation
        if record.pack() == tables.LEASES.get(self._txn, self._key(address)):
            return False
        self._did("lease", address, "repaired its numbers")
        return True

    # Deriving the rest -----------------------------------------------------------------------

    def _repair_owners(self) -> None:
        """Make owner entries list the leases; reserve listed addresses without a lease."""
        table = tables.OWNERS
        for address, record in self._leases.items():
            if record.state == ASSIGNED:
                name = keys.owner_name(record.container_id, record.ifname)
                key = keys.owner_key(keys.id_prefix(record.network_id), name)
                self._owners.setdefault(key, []).append(address)
        for key, raw in [one for each in self._members for one in self._of_network(table, each)]:
            try:
                # An entry may list addresses of other pools. These are not repaired here.
                found = keys.read_any_held(raw)
            except StoreCorrupt:
                found = []
            listed = [one[1:] for one in found if one[0] == self._pool_id]
            for address in listed:
                if address not in self._leases and address not in self._reservations:
                    self._reserve(address, LOST)
            wanted = self._owners.pop(key, [])
            # An owner's addresses are in the order of the range sets: keep that order.
            kept = [one for one in dict.fromkeys(listed) if one in wanted]
            self._write_owner(key, kept + [one for one in wanted if one not in kept], raw)
        for key, wanted in self._owners.items():
            self._write_owner(key, wanted, b"")

    def _write_owner(self, key: bytes, addresses: list[Address], before: bytes) -> None:
        raw = keys.pack_held(self._pool_id, addresses)
        if raw == before and raw:
            return
        table = tables.OWNERS
        if not addresses:
            self._remove(table, key, "owner", "removed an entry for which there is no lease")
            return
        self._put(table, key, raw)
        texts = " ".join(format_ip(*one) for one in addresses)
        self._did("owner", key.hex(), f"listed {texts} for its owner, as the leases say")

    def _repair_queue(self) -> None:
        table = tables.COOLDOWN
        wanted = {
            keys.cooldown_key(self._pool_id, record.set_index, record.released, *address): address
            for address, record in self._leases.items()
            if record.state != ASSIGNED
        }
        for key, _ in self._of(table):
            if wanted.pop(key, None) is None:
                self._remove(
                    table,
                    key,
                    "cooldown",
                    "removed from the cool-down queue: the address has no cooling lease",
                )
        for key, address in wanted.items():
            self._put(table, key, b"")
            self._did("cooldown", address, "queued: its lease is cooling")

    def _repair_sticky(self) -> None:
        table = tables.STICKY
        owners: dict[bytes, list[Address]] = {}
        wanted: dict[bytes, bytes] = {}
        for address, one in self._reservations.items():
            if one.owner:
                key = reservation_record.owner_index_key(self._prefix, one.owner, one.ifname)
                owners.setdefault(key, []).append(address)
            if one.until:
                wanted[reservation_record.due_key(self._prefix, one.until, *address)] = b""
        present = dict(self._of(table))
        for key, addresses in owners.items():
            try:
                listed = keys.read_addresses(present.get(key, b""))
            except StoreCorrupt:
                listed = []
            # The existing order stays, as in owner entries.
            kept = [one for one in listed if one in addresses]
            kept += [one for one in addresses if one not in kept]
            wanted[key] = keys.pack_addresses(kept)
        for key in present.keys() - wanted.keys():
            self._remove(table, key, "sticky", "removed: it has no reservation")
        for key, value in wanted.items():
            if present.get(key) != value:
                self._put(table, key, value)
                self._did("sticky", key.hex(), "listed what the reservations say")

    def _repair_events(self, log: EventLog) -> None:
        table = tables.EVENTS
        waiting = log.items()
        log.waiting = [raw for key, raw in waiting if self._has_event(key, raw)]
        if len(log.waiting) < len(waiting):
            gone = len(waiting) - len(log.waiting)
            self._did("history", log.key.hex(), f"removed {gone} events that could not be read")
        numbers = []
        for key, raw in self._of_network(table, log.network_id):
            if self._has_event(key, raw):
                numbers.append(event_record.sequence_of(key))
            else:
                self._remove(table, key, "event", "removed: it could not be read")
        # The waiting events are the newest: their numbers follow those of the table.
        if numbers:
            log.next = max(log.next, numbers[-1] + 1 + len(log.waiting))
        end = log.next - len(log.waiting)
        log.first = min([log.first, end, *numbers[:1]])

    def _has_event(self, key: bytes, raw: bytes) -> bool:
        """Return whether an event can be read.

        If the pool's numbers were lost, make its generation at least that of the event.
        """
        try:
            event = event_record.Event(key, raw)
        except StoreCorrupt:
            return False
        if event.sequence >> keys.MOST_BITS:
            return False
        if self._anew and not event.generation >> keys.MOST_BITS:
            self._state.generation = max(self._state.generation, event.generation)
        return True

    def _repair_notes(self) -> None:
        table = tables.MISSING
        for key, raw in self._of(table):
            # The time in a note of an older version is of the pool's clock, which the state had.
            if self._anew or keys.address_of(key) is None or not lease_record.is_missing(raw):
                self._remove(
                    table,
                    key,
                    "missing",
                    "removed the note of a first check: the next sweep checks again",
                )

    def _repair_blocks(self) -> None:
        """Delete damaged records of a cluster, and repair the open list.

        A node that lacks a record reads it from its cluster again.
        """
        for key, raw in self._of(tables.BLOCKS):
            text = fault(self._pool, key, raw)
            if text:
                self._remove(tables.BLOCKS, key, "block", f"removed: {text}")
        txn, pool_id = self._txn, self._pool_id
        for index, each in enumerate(self._pool.sets):
            cursor = self._state.cursor(index, each.family)
            if each.block_length and blocks.unlisted(txn, pool_id, each, cursor):
                count = blocks.reindex(txn, pool_id, each, cursor)
                self._did(
                    "block", str(each), f"listed the blocks that have free addresses: {count}"
                )

    def _repair_pages(self) -> None:
        """Build the bitmap from leases and reservations, and report it if it has changed."""
        table = tables.PAGES
        before = dict(self._of(table))
        for key in before:
            table.delete(self._txn, key)
        self._txn.forget_pages(self._pool_id)
        for family in (V4, V6):
            pages = self._txn.pages(self._pool_id, family)
            for its_family, value in self._leases.keys() | self._reservations.keys():
                if its_family == family:
                    pages.acquire(value)
        self._txn.flush()
        after = dict(self._of(table))
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        if changed:
            self._did(
                "pages",
                f"{len(changed)} {'page' if len(changed) == 1 else 'pages'}",
                "set the bits of the addresses in use, and cleared the others",
            )

    def _repair_counts(self) -> None:
        state = self._state
        used = self._leases.keys() | self._reservations.keys()
        counts = {
            "assigned": sum(one.state == ASSIGNED for one in self._leases.values()),
            "cooling": sum(one.state != ASSIGNED for one in self._leases.values()),
            "reserved": len(self._reservations.keys() - self._leases.keys()),
            "kept": len(self._reservations),
            "outside": sum(not self._pool.holds(*one) for one in used),
        }
        for what, counted in counts.items():
            if getattr(state, what) != counted:
                self._did("count", what, f"counted {counted}, was {getattr(state, what)}")
                setattr(state, what, counted)

    def _repair_policy(self, network_id: int) -> None:
        key, table = keys.policy_key(network_id), tables.META
        raw = table.get(self._txn, key)
        if raw is not None and not policy_record.is_valid(raw):
            table.delete(self._txn, key)
            self._did("policy", "policy", "removed an invalid policy: the next ADD writes it")
        key = own_ranges.key(network_id)
        raw = table.get(self._txn, key)
        if raw is not None and not self._has_ranges(raw):
            table.delete(self._txn, key)
            self._did(
                "ranges",
                "own ranges",
                "removed: they could not be read, or its pool does not contain them",
            )

    def _has_ranges(self, raw: bytes) -> bool:
        """Return whether a network's own ranges can be read, and its pool contains them."""
        own = own_ranges.read(raw)
        try:
            return own is not None and is_within(Pool.read(own[1]), self._pool)
        except ValueError:
            return False
