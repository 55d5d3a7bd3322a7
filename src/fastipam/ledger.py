"""A network's records inside one write transaction: which address next, and the books kept.

network.py decides what a call does and owns the transaction; this module finds the address, and
keeps bits, leases, owners, cool-down queue and counters in step. Nothing here commits.
"""

from __future__ import annotations

from fastipam import history, records
from fastipam.addresses import BITS, format_ip
from fastipam.errors import AddressInUse, PoolExhausted, StoreCorrupt
from fastipam.lease import Lease
from fastipam.ranges import Pool
from fastipam.records import ASSIGNED, CHECK_HINT, COOLING, Record
from fastipam.state import NetworkState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import Any

    from fastipam.holds import Reservation
    from fastipam.lease import Owner
    from fastipam.policy import Policy
    from fastipam.ranges import RangeSet
    from fastipam.store import Store
    from fastipam.transaction import Snapshot, Transaction

# A release adds one address to the cool-down queue, an assignment takes up to this many whose
# time is over out of it: the queue shrinks whenever it can, and no call pays for a burst.
EXPIRE_PER_CALL = 4


def find(txn: Transaction | Snapshot, store: Store, key: bytes) -> tuple[int, str] | None:
    """(network id, text of its pool) of a network's name, or None when there is no such one."""
    raw = txn.get(key, None, store.db_networks)
    if raw is None:
        return None
    return int.from_bytes(raw[:4], "big"), raw[4:].decode()


def policy_key(network_id: int) -> bytes:
    """The key in ``meta`` of what a network's policy was when an address was last assigned."""
    return b"policy " + records.network_prefix(network_id)


def read_pool(text: str, known: Pool | None, store: Store, name: str) -> Pool:
    """The pool of a network's stored text; ``known`` if that is it. Raises StoreCorrupt."""
    if known is not None and known.text == text:
        return known
    try:
        return Pool.read(text)
    except ValueError as error:
        raise StoreCorrupt(
            f"the ranges of network {name} cannot be read: {text!r}",
            path=store.path,
            hint=CHECK_HINT,
        ) from error


def read_state(txn: Transaction | Snapshot, store: Store, network_id: int) -> NetworkState:
    """The counters and cursors of a network."""
    raw = txn.get(records.network_prefix(network_id), None, store.db_states)
    return NetworkState(network_id, raw)


def read_record(
    txn: Transaction | Snapshot, store: Store, network_id: int, family: int, value: int
) -> Record | None:
    """What the store holds of an address, None when it is free."""
    raw = txn.get(records.address_key(network_id, family, value), None, store.db_leases)
    return None if raw is None else Record.read(raw)


def cooling_of(
    txn: Any, store: Store, network_id: int, index: int, range_set: RangeSet
) -> Generator[tuple[bytes, int]]:
    """(queue key, address) of what a range set may take early, longest idle first.

    The queue is kept by range set: looked at and left are only the addresses that a change of the
    configuration has put outside.
    """
    prefix = records.cooldown_prefix(network_id, index)
    with txn.cursor(store.db_cooldown) as cursor:
        if not cursor.set_range(prefix):
            return
        for key in cursor.iternext(keys=True, values=False):
            if key[:6] != prefix:
                return
            _, _, _, family, value = records.read_cooldown_key(key)
            if family == range_set.family and value in range_set:
                yield key, value


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
        db = store.db_meta
        network_id = int.from_bytes(txn.get(b"last network", b"", db), "big") + 1
        txn.put(b"last network", network_id.to_bytes(4, "big"), True, True, False, db)
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
            history.write(self.txn, self.store, state, self.policy, self._events)
            self._events = []
        self.txn.save(state)

    def note(
        self, kind: int, generation: int, family: int, value: int, texts: bytes, wall_ns: int
    ) -> None:
        """Enter an event in the network's history, if it keeps one."""
        if self.policy.history:
            raw = history.pack_event(wall_ns, kind, generation, family, value, texts)
            self._events.append(raw)

    def adopt_pool(self, key: bytes, pool: Pool) -> None:
        """Remember these ranges from now on. O(used addresses) when they differ."""
        if pool.text == self._text:
            return
        from fastipam import change

        self._write_pool(key, pool)
        self._text = pool.text
        self._stored = pool
        change.recount(self, pool)
        change.regroup(self, pool)
        self.save()  # a caller that finds nothing to do does not write it

    def adopt_policy(self) -> None:
        """Remember the policy, for those who give back without a configuration."""
        key, db = policy_key(self.state.network_id), self.store.db_meta
        if self.txn.get(key, None, db) != self.policy.packed:
            self.txn.put(key, self.policy.packed, True, True, False, db)

    def _write_pool(self, key: bytes, pool: Pool) -> None:
        value = self.state.prefix + pool.text.encode()
        self.txn.put(key, value, True, True, False, self.store.db_networks)

    def record(self, family: int, value: int) -> Record | None:
        """What the store holds of an address, None when it is free or reserved."""
        return read_record(self.txn, self.store, self.state.network_id, family, value)

    # Which address --------------------------------------------------------------------------

    def choose(self, index: int, range_set: RangeSet) -> int:
        """Take the next free address of a range set; if none is, the one that cools longest."""
        family = range_set.family
        if range_set.block_length:
            return self._choose_in_blocks(index, range_set, 1)[0]
        pages = self.txn.pages(self.state.network_id, family)
        for low, high in range_set.after(self.state.cursor(index, family)):
            found = pages.take_first(low, high)
            if found is not None:
                self._count_outside(family, (found,))
                break
        else:
            early = self._longest_cooling(index, range_set, 1)
            if not early:
                raise self._exhausted(index, range_set, 1)
            found = early[0]
        self.state.move_cursor(index, family, found)
        return found

    def choose_many(self, index: int, range_set: RangeSet, wanted: int) -> list[int]:
        """Take ``wanted`` addresses in the order in which single calls give them."""
        family = range_set.family
        if range_set.block_length:
            return self._choose_in_blocks(index, range_set, wanted)
        pages = self.txn.pages(self.state.network_id, family)
        values: list[int] = []
        for low, high in range_set.after(self.state.cursor(index, family)):
            values += pages.take(low, high, wanted - len(values))
            if len(values) == wanted:
                break
        self._count_outside(family, values)
        if len(values) < wanted:
            values += self._longest_cooling(index, range_set, wanted - len(values))
            if len(values) < wanted:
                raise self._exhausted(index, range_set, wanted)
        self.state.move_cursor(index, family, values[-1])
        return values

    def _choose_in_blocks(self, index: int, range_set: RangeSet, wanted: int) -> list[int]:
        from fastipam import blockwise

        values = blockwise.choose(self, index, range_set, wanted)
        self._count_outside(range_set.family, values)
        if len(values) < wanted:
            values += self._longest_cooling(index, range_set, wanted - len(values))
            if len(values) < wanted:
                raise self._exhausted(index, range_set, wanted)
        self.state.move_cursor(index, range_set.family, values[-1])
        return values

    def claim(self, index: int, range_set: RangeSet, value: int, owner: Owner) -> None:
        """Take a requested address: a free one, one that is only cooling, or one kept for it.

        A cooling address is kept from those who did not ask for it; a container that is
        restarted with its address asks for it.
        """
        family = range_set.family
        go_on = True
        if range_set.block_length:
            from fastipam import blockwise

            go_on = blockwise.refuse_foreign(self, index, range_set, value)
        if self._take(family, value, owner):
            self._count_outside(family, (value,))
        if go_on:
            self.state.move_cursor(index, family, value)

    def owns(self, range_set: RangeSet, value: int) -> bool:
        """Whether this node may assign an address of a set: not another one of its cluster."""
        if not range_set.block_length:
            return True
        from fastipam import blockwise

        return blockwise.owns(self, range_set, value)

    def _take(self, family: int, value: int, owner: Owner) -> bool:
        """Take this address; False: it was in use, and counted already. Raises AddressInUse."""
        if self.txn.pages(self.state.network_id, family).acquire(value):
            return True
        record = self.record(family, value)
        if record is not None and record.state == ASSIGNED and record.boot != self.store.boot:
            name = records.owner_name(record.container_id, record.ifname)
            self.release(name, history.REBOOTED)
            return self._take(family, value, owner)
        if record is None:
            from fastipam import holds

            reservation = holds.find(self, family, value)
            if reservation is None or not reservation.is_for(owner):
                raise _reserved(family, value, reservation)
            holds.take(self, family, value)
        elif record.state == COOLING:
            self.leave_queue(record, family, value)
        else:
            raise _in_use(family, value, record)
        return False

    def kept_for(self, owner: Owner) -> list[tuple[int, int]]:
        """The (family, address) pairs that are kept for this owner. O(their number)."""
        if not self.state.reserved:
            return []
        from fastipam import holds

        return holds.kept_for(self, owner)

    def _count_outside(self, family: int, values: Sequence[int]) -> None:
        """Free addresses were taken; of ranges that are not the network's they may be outside."""
        if self._known is not None and self._known.text != self._text:
            self.state.outside += sum(not self.stored.holds(family, value) for value in values)

    def _exhausted(self, index: int, range_set: RangeSet, wanted: int) -> PoolExhausted:
        many = f" ({wanted} were wanted)" if wanted > 1 else ""
        wait_s = self._next_due_s(index, range_set) if self.policy.strict else None
        due = "" if wait_s is None else f"; one that is cooling down is free in {wait_s} s"
        return PoolExhausted(
            f"no address is free in range set {range_set} of network {self.name}{many}{due}",
            network=self.name,
            ranges=str(range_set),
            wanted=wanted,
            retry_after_s=wait_s,
            hint="look for leases that nobody uses, or give the network more ranges",
        )

    def _next_due_s(self, index: int, range_set: RangeSet) -> int | None:
        """In how many seconds, rounded up, the first cooling address has cooled; None: none is."""
        queue = cooling_of(self.txn.txn, self.store, self.state.network_id, index, range_set)
        first = next(queue, None)
        queue.close()
        if first is None:
            return None
        left = records.read_cooldown_key(first[0])[2] + self.policy.cooldown_ns - self.state.clock
        return max(1, -(-left // 10**9))

    # Leases ---------------------------------------------------------------------------------

    def assign(
        self, owner: Owner, index: int, range_set: RangeSet, value: int, wall_ns: int
    ) -> Lease:
        """Write the lease of an address that was chosen or claimed."""
        its_range = range_set.range_of(value)
        router = None if its_range is None else its_range.gateway
        length = BITS[range_set.family] if its_range is None else its_range.length
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
        kind: int = history.ASSIGNED,
    ) -> Lease:
        state = self.state
        state.generation += 1
        state.assigned += 1
        raw = records.pack_assigned(
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
        key = records.address_key(state.network_id, family, value)
        self.txn.put(key, raw, True, True, False, self.store.db_leases)
        self.note(kind, state.generation, family, value, owner.texts, wall_ns)
        return Lease(self.name, family, value, router, raw)

    def assign_many(
        self,
        owners: Sequence[Owner],
        index: int,
        range_set: RangeSet,
        values: Sequence[int],
        wall_ns: int,
    ) -> tuple[list[Lease], list[bytes]]:
        """The same in bulk; also the addresses as an owner's entry holds them."""
        family = range_set.family
        state = self.state
        boot, generation, network_id = self.store.boot, state.generation, state.network_id
        its_range = range_set.ranges[0]
        items = []
        leases = []
        packed = []
        for owner, value in zip(owners, values, strict=True):
            if not its_range.start <= value <= its_range.end:
                its_range = range_set.range_of(value) or its_range
            generation += 1
            raw = records.pack_assigned(
                its_range.length, index, boot, generation, wall_ns, 0, 0, 0, 0, owner.texts
            )
            key = records.address_key(network_id, family, value)
            items.append((key, raw))
            packed.append(key[4:])  # what pack_addresses() makes of it
            leases.append(Lease(self.name, family, value, its_range.gateway, raw))
        state.generation = generation
        state.assigned += len(items)
        with self.txn.txn.cursor(self.store.db_leases) as cursor:
            cursor.putmulti(items)
        self._note_many(owners, leases, wall_ns)
        return leases, packed

    def _note_many(self, owners: Sequence[Owner], leases: Sequence[Lease], wall_ns: int) -> None:
        """Enter as many of the assignments as the history has room for, the last ones."""
        first = max(0, len(leases) - self.policy.history)
        generation = self.state.generation - len(leases) + 1
        for at in range(first, len(leases)):
            lease = leases[at]
            self.note(
                history.ASSIGNED,
                generation + at,
                lease.family,
                lease.value,
                owners[at].texts,
                wall_ns,
            )

    def take_over(self, owner: Owner, family: int, value: int, wall_ns: int) -> bool:
        """Enter a lease that another plugin has given; False: it is this owner's already.

        The address may lie outside all ranges, and the owner may have others. Raises AddressInUse.
        """
        held = self.held_by(owner.name)
        if (family, value) in held:
            return False
        index = self.stored.index_of(family, value) or 0
        if self._take(family, value, owner):
            self.state.outside += not self.stored.holds(family, value)
        its_range = self.stored.range_of(family, value)
        length = BITS[family] if its_range is None else its_range.length
        self._write(owner, index, family, value, length, None, wall_ns, history.IMPORTED)
        self.write_owner(owner.name, [*held, (family, value)])
        return True

    # Owners ---------------------------------------------------------------------------------

    def owner_key(self, name: bytes) -> bytes:
        """The key of an owner's entry; the digest of the owner asked for last is kept."""
        if self._owner[0] != name:
            self._owner = name, records.owner_key(self.state.prefix, name)
        return self._owner[1]

    def held_by(self, name: bytes) -> list[tuple[int, int]]:
        """The (family, address) pairs of an owner, in the order of the range sets."""
        raw = self.txn.get(self.owner_key(name), None, self.store.db_owners)
        return [] if raw is None else records.read_addresses(raw)

    def write_owner(self, name: bytes, addresses: Sequence[tuple[int, int]]) -> None:
        """Enter what an owner has."""
        value = records.pack_addresses(addresses)
        self.txn.put(self.owner_key(name), value, True, True, False, self.store.db_owners)

    # Giving back ----------------------------------------------------------------------------

    def release(
        self, name: bytes, kind: int = history.RELEASED, newest: int | None = None
    ) -> list[tuple[int, int]]:
        """Give back what an owner has, and return it; nothing if it is newer than ``newest``.

        ``kind`` is why, for the history. What is given back is kept for its owner if it is
        reserved or sticky, else it cools. Raises StoreCorrupt when a lease says that the address is
        somebody else's.
        """
        held = self.held_by(name)
        if not held:
            return []
        found = []
        for family, value in held:
            key = records.address_key(self.state.network_id, family, value)
            raw = self.txn.get(key, None, self.store.db_leases)
            if raw is None or not records.is_assigned_to(raw, name):
                owner = name.decode(records.ENCODING, records.ERRORS).replace("\0", " ")
                raise StoreCorrupt(
                    f"{format_ip(family, value)} is entered for {owner}, "
                    "but its lease says otherwise",
                    path=self.store.path,
                    hint=CHECK_HINT,
                )
            if newest is not None and records.generation_of(raw) > newest:
                return []
            found.append((key, raw, family, value))
        wall_ns = self.store.clock()
        now = self.state.tick(wall_ns)
        for key, raw, family, value in found:
            self._give_back(key, raw, family, value, now)
            texts = records.texts_of(raw)
            self.note(kind, records.generation_of(raw), family, value, texts, wall_ns)
        self.txn.delete(self.owner_key(name), b"", self.store.db_owners)
        self.save()
        return held

    def _give_back(self, key: bytes, raw: bytes, family: int, value: int, now: int) -> None:
        """An assigned address has no owner any longer."""
        state = self.state
        state.assigned -= 1
        if state.kept or records.sticky_of(raw):
            from fastipam import holds

            if holds.keep(self, key):
                return
            if records.sticky_of(raw):
                holds.hold(self, key, raw, family, value, now)
                return
        if self.policy.cooldown_ns:
            self._enter_queue(key, raw, family, value, now)
        else:
            self.txn.delete(key, b"", self.store.db_leases)
            self.clear(family, value)

    def _enter_queue(self, key: bytes, raw: bytes, family: int, value: int, now: int) -> None:
        """An address begins to cool."""
        self.state.cooling += 1
        cooling = records.cool(raw, now)
        self.txn.put(key, cooling, True, True, False, self.store.db_leases)
        index = records.set_index_of(raw)
        queued = records.cooldown_key(self.state.network_id, index, now, family, value)
        self.txn.put(queued, b"", True, True, False, self.store.db_cooldown)

    def leave_queue(self, record: Record, family: int, value: int) -> None:
        """An address cools no longer; its bit stays set."""
        self.state.cooling -= 1
        key = records.cooldown_key(
            self.state.network_id, record.set_index, record.released, family, value
        )
        self.txn.delete(key, b"", self.store.db_cooldown)

    def clear(self, family: int, value: int) -> None:
        """Clear the bit of an address that has no record any longer."""
        self.txn.pages(self.state.network_id, family).release(value)
        if self.state.outside:
            self.state.outside -= not self.stored.holds(family, value)
        if "@" in self._text:  # a set is cut into blocks
            from fastipam import blockwise

            blockwise.freed(self, family, value)

    def expire(self, limit: int = EXPIRE_PER_CALL) -> None:
        """Free up to ``limit`` addresses whose cool-down is over, and as many kept too long.

        O(limit + number of sets).
        """
        if self.state.kept:
            from fastipam import holds

            holds.expire(self, limit)
        if not self.state.cooling:
            return
        due = self.state.clock - self.policy.cooldown_ns
        prefix = self.state.prefix
        seek = prefix
        with self.txn.txn.cursor(self.store.db_cooldown) as cursor:
            while limit and cursor.set_range(seek):
                key = cursor.key()
                if key[:4] != prefix:
                    return
                _, index, released, family, value = records.read_cooldown_key(key)
                if released > due:
                    if index == records.LAST_SET:
                        return
                    seek = records.cooldown_prefix(self.state.network_id, index + 1)
                    continue
                cursor.delete()
                limit -= 1
                self.state.cooling -= 1
                key = records.address_key(self.state.network_id, family, value)
                self.txn.delete(key, b"", self.store.db_leases)
                self.clear(family, value)

    def _longest_cooling(self, index: int, range_set: RangeSet, wanted: int) -> list[int]:
        """Take up to ``wanted`` cooling addresses of a range set, early if that is the policy."""
        if not self.state.cooling:
            return []
        early = []
        due = self.state.clock - self.policy.cooldown_ns
        queue = cooling_of(self.txn.txn, self.store, self.state.network_id, index, range_set)
        for item in queue:
            if self.policy.strict and records.read_cooldown_key(item[0])[2] > due:
                break
            if not self.owns(range_set, item[1]):
                continue
            early.append(item)
            if len(early) == wanted:
                break
        queue.close()
        for key, _ in early:
            self.txn.delete(key, b"", self.store.db_cooldown)
        self.state.cooling -= len(early)
        return [value for _, value in early]


def _in_use(family: int, value: int, record: Record) -> AddressInUse:
    text = format_ip(family, value)
    owner = record.container_id, record.ifname
    return AddressInUse(
        f"the requested address {text} is assigned to {' '.join(owner).rstrip()}",
        address=text,
        owner=owner,
    )


def _reserved(family: int, value: int, reservation: Reservation | None) -> AddressInUse:
    text = format_ip(family, value)
    whom = f" for {reservation.owner}" if reservation and reservation.owner else ""
    why = f": {reservation.reason}" if reservation and reservation.reason else ""
    return AddressInUse(f"the requested address {text} is reserved{whom}{why}", address=text)
