"""A network's records inside one write transaction: which address next, and the books kept.

network.py decides what a call does and owns the transaction; this module finds the address, and
keeps bits, leases, owners, cool-down queue and counters in step. Nothing here commits. What not
every call needs is in modules of its own, imported by those that do: bulk.py, refusals.py,
holds.py, blockwise.py, change.py.
"""

from __future__ import annotations

from fastipam.addressing.addresses import BITS, format_ip
from fastipam.addressing.ranges import CUT, Pool
from fastipam.allocation import cooldown, history
from fastipam.errors import CHECK_HINT, StoreCorrupt
from fastipam.lease import Lease
from fastipam.storage import tables
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_record
from fastipam.storage.records import policy as policy_record
from fastipam.storage.records.lease import ASSIGNED, COOLING, Record
from fastipam.storage.records.network_state import NetworkState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.addressing.ranges import RangeSet
    from fastipam.configuration.policy import Policy
    from fastipam.lease import Owner
    from fastipam.storage.environment import Environment
    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Snapshot, Transaction

# A release adds one address to the cool-down queue, an assignment takes up to this many whose
# time is over out of it: the queue shrinks whenever it can, and no call pays for a burst.
EXPIRE_PER_CALL = 4
MOST_EXPIRED = 1024  # at once, where none is free otherwise; other writers wait


def find(txn: Transaction | Snapshot, key: bytes) -> tuple[int, str] | None:
    """(network id, text of its pool) of a network's name, or None when there is no such one."""
    raw = tables.NETWORKS.get(txn, key)
    if raw is None:
        return None
    try:
        return int.from_bytes(raw[:4], "big"), raw[4:].decode()
    except UnicodeDecodeError as error:
        raise _unreadable(txn.store, key.decode("ascii", "replace"), raw[4:]) from error


def read_pool(text: str, known: Pool | None, store: Environment, name: str) -> Pool:
    """The pool of a network's stored text; ``known`` if that is it. Raises StoreCorrupt."""
    if known is not None and known.text == text:
        return known
    try:
        return Pool.read(text)
    except ValueError as error:
        raise _unreadable(store, name, text) from error


def _unreadable(store: Environment, name: str, ranges: bytes | str) -> StoreCorrupt:
    return StoreCorrupt(
        f"the ranges of network {name} cannot be read: {ranges!r}",
        path=store.path,
        hint=CHECK_HINT,
    )


def read_state(txn: Transaction | Snapshot, network_id: int) -> NetworkState:
    """The counters and cursors of a network."""
    raw = tables.STATES.get(txn, keys.network_prefix(network_id))
    return NetworkState(network_id, raw)


def read_record(
    txn: Transaction | Snapshot, network_id: int, family: int, value: int
) -> Record | None:
    """What the store holds of an address, None when it is free."""
    raw = tables.LEASES.get(txn, keys.address_key(network_id, family, value))
    return None if raw is None else Record.read(raw)


class Ledger:
    """One network in one write transaction; :meth:`save` before the transaction ends."""

    __slots__ = (
        "_events",
        "_known",
        "_owner",
        "_stored",
        "_text",
        "name",
        "policy",
        "state",
        "store",
        "txn",
    )

    def __init__(
        self,
        txn: Transaction,
        store: Store,
        name: str,
        network_id: int,
        text: str,
        known: Pool | None,
        policy: Policy,
    ) -> None:
        self.txn = txn
        self.store = store
        self.name = name
        self.policy = policy
        self.state = txn.state(network_id)
        self._text = text
        self._known = known
        self._owner = (b"", b"")
        self._stored: Pool | None = None
        self._events: list[bytes] = []

    @classmethod
    def create(
        cls, txn: Transaction, store: Store, name: str, key: bytes, pool: Pool, policy: Policy
    ) -> Ledger:
        """A network that the store has not known."""
        network_id = int.from_bytes(tables.META.get(txn, tables.LAST_NETWORK_KEY) or b"", "big") + 1
        tables.META.put(txn, tables.LAST_NETWORK_KEY, network_id.to_bytes(4, "big"))
        ledger = cls(txn, store, name, network_id, pool.text, pool, policy)
        ledger.state.swept = store.boot
        ledger._write_pool(key, pool)
        return ledger

    @property
    def stored(self) -> Pool:
        """The ranges that the store remembers: what is outside is counted by them."""
        if self._stored is None:
            self._stored = read_pool(self._text, self._known, self.store, self.name)
        return self._stored

    @property
    def text(self) -> str:
        """The ranges that the store remembers, as it has them."""
        return self._text

    def save(self) -> None:
        """Write the counters, the cursors and what happened."""
        state = self.state
        if self._events:
            history.write(self.txn, state, self.policy, self._events)
            self._events = []
        self.txn.save(state)

    def note(
        self, kind: int, generation: int, family: int, value: int, texts: bytes, wall_ns: int
    ) -> None:
        """Enter an event in the network's history, if it keeps one."""
        if self.policy.history:
            raw = event_record.pack_event(wall_ns, kind, generation, family, value, texts)
            self._events.append(raw)

    def adopt_pool(self, key: bytes, pool: Pool) -> None:
        """Remember these ranges from now on. O(used addresses) when they differ."""
        if pool.text == self._text:
            return
        from fastipam.allocation import change

        self._write_pool(key, pool)
        self._text = pool.text
        self._stored = pool
        change.recount(self, pool)
        change.regroup(self, pool)
        self.save()  # a caller that finds nothing to do does not write it

    def adopt_policy(self) -> None:
        """Remember the policy, for those who give back without a configuration."""
        key = keys.policy_key(self.state.network_id)
        packed = policy_record.pack(self.policy)
        if tables.META.get(self.txn, key) != packed:
            tables.META.put(self.txn, key, packed)

    def _write_pool(self, key: bytes, pool: Pool) -> None:
        value = self.state.prefix + pool.text.encode()
        tables.NETWORKS.put(self.txn, key, value)

    def record(self, family: int, value: int) -> Record | None:
        """What the store holds of an address, None when it is free or reserved."""
        return read_record(self.txn, self.state.network_id, family, value)

    # Which address --------------------------------------------------------------------------

    def choose(self, index: int, range_set: RangeSet) -> int:
        """Take the next free address of a range set; if none is, the one that cools longest."""
        family = range_set.family
        if range_set.block_length:
            from fastipam.allocation import blockwise

            return blockwise.choose(self, index, range_set, 1)[0]
        found = self._take_next(index, range_set)
        # Before one is taken early: some may be free now that are kept no longer.
        if found is None and self.expire_kept():
            found = self._take_next(index, range_set)
        if found is None:
            early = cooldown.take_early(self, index, range_set, 1)
            if not early:
                from fastipam.allocation import refusals

                raise refusals.exhausted(self, index, range_set, 1)
            found = early[0]
        self.state.move_cursor(index, family, found)
        return found

    def _take_next(self, index: int, range_set: RangeSet) -> int | None:
        """Take the next free address of a range set, if there is one."""
        family = range_set.family
        pages = self.txn.pages(self.state.network_id, family)
        for low, high in range_set.after(self.state.cursor(index, family)):
            found = pages.take_first(low, high)
            if found is not None:
                self.count_outside(family, (found,))
                return found
        return None

    def expire_kept(self) -> bool:
        """Free addresses that are kept no longer, up to MOST_EXPIRED; False: there was none."""
        if not self.state.kept:
            return False
        from fastipam.allocation import reservations

        return reservations.expire(self, MOST_EXPIRED)

    def claim(self, index: int, range_set: RangeSet, value: int, owner: Owner) -> None:
        """Take a requested address: a free one, one that is only cooling, or one kept for it.

        A cooling address is kept from those who did not ask for it; a container that is
        restarted with its address asks for it.
        """
        family = range_set.family
        go_on = True
        if range_set.block_length:
            from fastipam.allocation import blockwise

            go_on = blockwise.refuse_foreign(self, index, range_set, value)
        if self._take(family, value, owner):
            self.count_outside(family, (value,))
        if go_on:
            self.state.move_cursor(index, family, value)

    def owns(self, range_set: RangeSet, value: int) -> bool:
        """Whether this node may assign an address of a set: not another one of its cluster."""
        if not range_set.block_length:
            return True
        from fastipam.allocation import blockwise

        return blockwise.owns(self, range_set, value)

    def _take(self, family: int, value: int, owner: Owner) -> bool:
        """Take this address; False: it was in use, and counted already. Raises AddressInUse."""
        if self.txn.pages(self.state.network_id, family).acquire(value):
            return True
        record = self.record(family, value)
        if record is not None and record.state == ASSIGNED and record.boot != self.store.boot:
            name = keys.owner_name(record.container_id, record.ifname)
            if (family, value) in self.release(name, event_record.REBOOTED):
                return self._take(family, value, owner)
        if record is None:
            from fastipam.allocation import reservations

            reservation = reservations.find(self, family, value)
            may = reservation is not None and (
                reservations.is_for(reservation, owner) or reservation.is_over(self.state.clock)
            )
            if not may:
                from fastipam.allocation import refusals

                raise refusals.reserved(family, value, reservation)
            reservations.take(self, family, value)
        elif record.state == COOLING:
            cooldown.leave(self, record, family, value)
        else:
            from fastipam.allocation import refusals

            raise refusals.in_use(family, value, record)
        return False

    def kept_for(self, owner: Owner) -> list[tuple[int, int]]:
        """The (family, address) pairs that are kept for this owner; somebody may have some."""
        if not self.state.reserved:
            return []
        from fastipam.allocation import reservations

        return reservations.kept_for(self, owner)

    @property
    def is_foreign(self) -> bool:
        """Whether the caller's ranges are not the network's: partly a container's own."""
        return self._known is not None and self._known.text != self._text

    def set_of(self, index: int, family: int, value: int) -> int:
        """The set under which a lease is noted: of the network's sets the one that holds it.

        ``index`` is its set's number in the caller's ranges.
        """
        if not self.is_foreign:
            return index
        own = self.stored.index_of(family, value)
        return keys.NO_SET if own is None else own

    def count_outside(self, family: int, values: Sequence[int]) -> None:
        """Free addresses were taken; of ranges that are not the network's they may be outside."""
        if self.is_foreign:
            self.state.outside += sum(not self.stored.holds(family, value) for value in values)

    # Leases ---------------------------------------------------------------------------------

    def assign(
        self, owner: Owner, index: int, range_set: RangeSet, value: int, wall_ns: int
    ) -> Lease:
        """Write the lease of an address that was chosen or claimed."""
        its_range = range_set.range_of(value)
        router = None if its_range is None else its_range.gateway
        length = BITS[range_set.family] if its_range is None else its_range.length
        index = self.set_of(index, range_set.family, value)
        return self._write(owner, index, range_set.family, value, length, router, wall_ns)

    def _write(
        self,
        owner: Owner,
        index: int,
        family: int,
        value: int,
        length: int,
        router: tuple[int, int] | None,
        wall_ns: int,
        kind: int = event_record.ASSIGNED,
    ) -> Lease:
        state = self.state
        state.generation += 1
        state.assigned += 1
        raw = lease_record.pack_assigned(
            length,
            index,
            self.store.boot,
            state.generation,
            wall_ns,
            owner.inode,
            owner.mount_ns,
            owner.sticky_s,
            owner.born_ns,
            owner.texts,
        )
        key = keys.address_key(state.network_id, family, value)
        if not tables.LEASES.add(self.txn, key, raw):
            cooldown.take_place(self, key, raw, family, value)
        self.note(kind, state.generation, family, value, owner.texts, wall_ns)
        return Lease(self.name, family, value, router, raw)

    def take_over(self, owner: Owner, family: int, value: int, wall_ns: int) -> bool:
        """Enter a lease that another plugin has given; False: it is this owner's already.

        The address may lie outside all ranges, and the owner may have others. Raises AddressInUse.
        """
        held = self.held_by(owner.name)
        if (family, value) in held:
            return False
        index = self.stored.index_of(family, value)
        if self._take(family, value, owner):
            self.state.outside += not self.stored.holds(family, value)
        its_range = self.stored.range_of(family, value)
        length = BITS[family] if its_range is None else its_range.length
        number = keys.NO_SET if index is None else index
        self._write(owner, number, family, value, length, None, wall_ns, event_record.IMPORTED)
        self.write_owner(owner.name, [*held, (family, value)])
        return True

    # Owners ---------------------------------------------------------------------------------

    def owner_key(self, name: bytes) -> bytes:
        """The key of an owner's entry; the digest of the owner asked for last is kept."""
        if self._owner[0] != name:
            self._owner = name, keys.owner_key(self.state.prefix, name)
        return self._owner[1]

    def held_by(self, name: bytes) -> list[tuple[int, int]]:
        """The (family, address) pairs of an owner, in the order of the range sets."""
        raw = tables.OWNERS.get(self.txn, self.owner_key(name))
        return [] if raw is None else keys.read_addresses(raw)

    def write_owner(self, name: bytes, addresses: Sequence[tuple[int, int]]) -> None:
        """Enter what an owner has."""
        value = keys.pack_addresses(addresses)
        tables.OWNERS.put(self.txn, self.owner_key(name), value)

    # Giving back ----------------------------------------------------------------------------

    def release(
        self, name: bytes, kind: int = event_record.RELEASED, newest: int | None = None
    ) -> list[tuple[int, int]]:
        """Give back what an owner has, and return it; nothing if it is newer than ``newest``.

        ``kind`` is why, for the history. What is given back is kept for its owner if it is
        reserved or sticky, else it cools. Raises StoreCorrupt when a lease says that the address is
        somebody else's.
        """
        held = self.held_by(name)
        if not held:
            return []
        found = self.leases_of(name, held)
        if newest is not None and any(lease_record.generation_of(one[1]) > newest for one in found):
            return []
        wall_ns = self.store.clock()
        now = self.state.tick(wall_ns)
        for key, raw, family, value in found:
            self._give_back(key, raw, (family, value), now, held)
            texts = lease_record.texts_of(raw)
            self.note(kind, lease_record.generation_of(raw), family, value, texts, wall_ns)
        tables.OWNERS.delete(self.txn, self.owner_key(name))
        self.save()
        return held

    def leases_of(
        self, name: bytes, held: Sequence[tuple[int, int]]
    ) -> list[tuple[bytes, bytes, int, int]]:
        """(key, packed lease, family, address) of what an owner has. Raises StoreCorrupt."""
        found = []
        for family, value in held:
            key = keys.address_key(self.state.network_id, family, value)
            raw = tables.LEASES.get(self.txn, key)
            if raw is None or not lease_record.is_assigned_to(raw, name):
                owner = name.decode(keys.ENCODING, keys.ERRORS).replace("\0", " ")
                raise StoreCorrupt(
                    f"{format_ip(family, value)} is entered for {owner}, "
                    "but its lease says otherwise",
                    path=self.store.path,
                    hint=CHECK_HINT,
                )
            found.append((key, raw, family, value))
        return found

    def _give_back(
        self,
        key: bytes,
        raw: bytes,
        address: tuple[int, int],
        now: int,
        together: list[tuple[int, int]],
    ) -> None:
        """An assigned address has no owner any longer; it is one of those given back together."""
        state = self.state
        state.assigned -= 1
        if state.kept or lease_record.sticky_of(raw):
            from fastipam.allocation import reservations

            if reservations.keep(self, key):
                return
            if lease_record.sticky_of(raw):
                reservations.hold(self, key, raw, address, now, together)
                return
        if self.policy.cooldown_ns:
            cooldown.enter(self, key, raw, *address, now)
        else:
            tables.LEASES.delete(self.txn, key)
            self.clear(*address)

    def clear(self, family: int, value: int) -> None:
        """Clear the bit of an address that has no record any longer."""
        self.txn.pages(self.state.network_id, family).release(value)
        if self.state.outside:
            self.state.outside -= not self.stored.holds(family, value)
        if CUT in self._text:
            from fastipam.allocation import blockwise

            blockwise.freed(self, family, value)

    def expire(self, limit: int = EXPIRE_PER_CALL) -> None:
        """Free up to ``limit`` addresses whose cool-down is over, and as many kept too long.

        O(limit + number of sets).
        """
        if self.state.kept:
            from fastipam.allocation import reservations

            reservations.expire(self, limit)
        if self.state.cooling:
            cooldown.expire(self, limit)
