"""Choose addresses of a network, assign and release them, inside one write transaction.

``fastipam.network`` decides what a call does and owns the transaction. This module finds the
address, and keeps bits, leases, owners, cool-down queue and counters in step. Nothing here commits.
What few calls need is imported by those that do: blocks, reservations, refusals, change.
"""

from __future__ import annotations

from fastipam.addressing.addresses import BITS, format_ip
from fastipam.allocation import cooldown
from fastipam.allocation.accounts import Accounts
from fastipam.errors import CHECK_HINT, StoreCorrupt
from fastipam.lease import Lease
from fastipam.storage import tables
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_record
from fastipam.storage.records import policy as policy_record
from fastipam.storage.records.lease import ASSIGNED, COOLING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.addressing.ranges import Pool, Range, RangeSet
    from fastipam.allocation.accounts import Configured
    from fastipam.lease import Requester
    from fastipam.storage.transaction import Transaction

# A release adds one address to the cool-down queue, and an assignment frees up to this many whose
# cool-down has ended. So the queue shrinks, and no single call has to free a burst.
EXPIRE_PER_CALL = 4
MOST_EXPIRED = 1024  # in one transaction, when no address is free otherwise; other writers wait


class Ledger(Accounts):
    """The records of one network, and what assigns and releases; :meth:`save` before the end."""

    __slots__ = ()

    @classmethod
    def create(cls, txn: Transaction, network: Configured, key: bytes, pool: Pool) -> Ledger:
        """Enter a network that the store does not know, and its pool, under its encoded name."""
        txn.store.require_schema(txn)
        network_id = _count(txn, tables.LAST_NETWORK_KEY)
        pool_id = _count(txn, tables.LAST_POOL_KEY)
        ledger = cls(txn, network, network_id, pool_id, pool.text)
        ledger.state.swept = txn.store.boot
        # Its pool has its name.
        tables.NETWORKS.put(txn, key, keys.pack_network(tables.SCHEMA, network_id, pool_id, key))
        ledger._write_pool(key, pool)
        ledger.save()
        return ledger

    def adopt_pool(self, key: bytes, pool: Pool) -> None:
        """Remember these ranges from now on. O(pages + cooling addresses) when they differ."""
        if pool.text == self.text:
            return
        from fastipam.allocation import change, turns

        turns.note(self, self.text, pool.text)
        self._write_pool(key, pool)
        self.text = pool.text
        self._stored = pool
        self.is_foreign = False
        change.recount(self, pool)
        change.regroup(self, pool)
        change.relist(self, pool)
        self.save()  # some callers do not save when they find nothing else to do

    def adopt_policy(self) -> None:
        """Remember the policy, for those who release without a configuration."""
        key = keys.policy_key(self.network_id)
        packed = policy_record.pack(self.policy)
        if tables.META.get(self.txn, key) != packed:
            tables.META.put(self.txn, key, packed)

    def _write_pool(self, key: bytes, pool: Pool) -> None:
        tables.POOLS.put(self.txn, key, keys.pack_pool(self.state.pool_id, pool.text))

    # Which address --------------------------------------------------------------------------

    def choose(self, index: int, range_set: RangeSet, wanted: int = 1) -> list[int]:
        """Take ``wanted`` addresses of a range set, in the order in which single calls take them.

        Free addresses come first, then those whose sticky reservation is over, then those that
        have cooled longest. ``index`` is the set's number in the caller's ranges. Amortized
        O(wanted). Raises PoolExhausted, also when the store's word on its blocks is in doubt.
        """
        if range_set.block_length:
            from fastipam.allocation import blocks

            doubt = blocks.doubt(self.txn, self.state.pool_id)
            if doubt:
                from fastipam.allocation import refusals

                raise refusals.doubtful(self, range_set, wanted, doubt)
        family = range_set.family
        values = self._take_free(index, range_set, wanted)
        if len(values) < wanted:
            if values:
                self.state.move_cursor(index, family, values[-1])
            if self.expire_kept():
                values += self._take_free(index, range_set, wanted - len(values))
            if len(values) < wanted:
                values += cooldown.take_early(self, index, range_set, wanted - len(values))
            if len(values) < wanted:
                from fastipam.allocation import refusals

                raise refusals.exhausted(self, index, range_set, wanted)
        self.state.move_cursor(index, family, values[-1])
        return values

    def _take_free(self, index: int, range_set: RangeSet, wanted: int) -> list[int]:
        """Take up to ``wanted`` free addresses of a range set, behind its cursor first."""
        state, family = self.state, range_set.family
        pages = self.txn.pages(state.pool_id, family)
        cursor = state.cursor(index, family)
        if range_set.block_length:
            from fastipam.allocation import blocks

            intervals = blocks.after(self.txn, state.pool_id, range_set, cursor)
        else:
            intervals = range_set.after(cursor)
        values: list[int] = []
        for low, high in intervals:
            if wanted == 1:
                found = pages.take_first(low, high)
                if found is not None:
                    values = [found]
                    break
            else:
                values += pages.take(low, high, wanted - len(values))
                if len(values) == wanted:
                    break
        self.count_outside(family, values)
        return values

    def expire_kept(self, limit: int = MOST_EXPIRED) -> int:
        """Expire up to ``limit`` sticky reservations and return how many there were."""
        if not self.state.kept:
            return 0
        from fastipam.allocation import reservations

        return reservations.expire(self, limit)

    def acquire(self, index: int, range_set: RangeSet, value: int, owner: Requester) -> None:
        """Take a requested address: a free or cooling one, or one reserved for this owner.

        Only who requests a cooling address gets it: a container that is restarted with its
        address. Raises AddressInUse, AddressNotInRange (another node's block), PoolExhausted when
        the store's word on its blocks is in doubt.
        """
        family = range_set.family
        go_on = True
        if range_set.block_length:
            from fastipam.allocation import blocks

            if not self.owns(range_set, value):
                from fastipam.allocation import refusals

                doubt = blocks.doubt(self.txn, self.state.pool_id)
                if doubt:
                    raise refusals.doubtful(self, range_set, 1, doubt)
                raise refusals.of_another_node(range_set, value)
            # The round robin moves only within the block that serves, which is filled first.
            cursor, base = self.state.cursor(index, family), blocks.base_of(range_set, value)
            go_on = cursor is not None and blocks.base_of(range_set, cursor) == base
        if self._take(family, value, owner):
            self.count_outside(family, (value,))
        if go_on:
            self.state.move_cursor(index, family, value)

    def _take(self, family: int, value: int, owner: Requester) -> bool:
        """Take an address; return whether it was free, and so is not counted as used yet.

        Raises AddressInUse.
        """
        if self.txn.pages(self.state.pool_id, family).acquire(value):
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

    def kept_for(self, owner: Requester) -> list[tuple[int, int]]:
        """Return (family, address) of what is reserved for this owner, leased or not."""
        if not self.state.reserved:
            return []
        from fastipam.allocation import reservations

        return reservations.kept_for(self, owner)

    def set_of(self, index: int, family: int, value: int) -> int:
        """Return the number of the network's set that has an address, for its lease.

        ``index`` is the number of the set in the caller's ranges.
        """
        if not self.is_foreign:
            return index
        return self.number_of(family, value)

    # Leases ---------------------------------------------------------------------------------

    def assign(self, owner: Requester, index: int, range_set: RangeSet, value: int) -> Lease:
        """Write the lease of an address that was chosen or acquired."""
        family = range_set.family
        index = self.set_of(index, family, value)
        return self._write(owner, (family, value), index, range_set.range_of(value))

    def _write(
        self,
        owner: Requester,
        address: tuple[int, int],
        index: int,
        its_range: Range | None,
        kind: int = event_record.ASSIGNED,
    ) -> Lease:
        state = self.state
        state.generation += 1
        state.assigned += 1
        length = BITS[address[0]] if its_range is None else its_range.length
        stamp = self.store.boot, state.generation, self.wall_ns
        sticky_s = self.policy.sticky_s if owner.pod else 0
        raw = lease_record.pack_assigned(self.network_id, owner, length, index, stamp, sticky_s)
        key = keys.address_key(state.pool_id, address[0], address[1])
        if not tables.LEASES.add(self.txn, key, raw):
            cooldown.take_place(self, key, raw, *address)
        self.note(kind, state.generation, address, owner.texts)
        router = None if its_range is None else its_range.gateway
        return Lease(self.name, address[0], address[1], router, raw)

    def take_over(self, owner: Requester, family: int, value: int, allocated_ns: int) -> bool:
        """Enter a lease of another plugin; return False if the owner has it already.

        The address may lie outside all ranges, and the owner may have others. Raises AddressInUse.
        """
        held = self.held_by(owner.name)
        if (family, value) in held:
            return False
        if self._take(family, value, owner):
            self.state.outside += not self.stored.holds(family, value)
        its_range = self.stored.range_of(family, value)
        number = self.number_of(family, value)
        self.wall_ns = allocated_ns
        self._write(owner, (family, value), number, its_range, event_record.IMPORTED)
        self.write_owner(owner.name, [*held, (family, value)])
        return True

    # Owners ---------------------------------------------------------------------------------

    def owner_key(self, name: bytes) -> bytes:
        """Return the key of an owner's entry; the last digest is cached."""
        if self._owner[0] != name:
            self._owner = name, keys.owner_key(keys.id_prefix(self.network_id), name)
        return self._owner[1]

    def held_by(self, name: bytes) -> list[tuple[int, int]]:
        """Return (family, address) of an owner's leases, in the order of the range sets."""
        raw = tables.OWNERS.get(self.txn, self.owner_key(name))
        return [] if raw is None else keys.read_held(raw, self.state.pool_id)

    def write_owner(self, name: bytes, addresses: Sequence[tuple[int, int]]) -> None:
        """Write the owner's entry: its addresses."""
        value = keys.pack_held(self.state.pool_id, addresses)
        tables.OWNERS.put(self.txn, self.owner_key(name), value)

    # Giving back ----------------------------------------------------------------------------

    def release(
        self, name: bytes, kind: int = event_record.RELEASED, newest: int | None = None
    ) -> list[tuple[int, int]]:
        """Release the addresses of an owner and return them; none if one is newer than ``newest``.

        ``kind`` is the reason, for the history. A reserved or sticky address stays reserved for its
        owner, every other cools down. Raises StoreCorrupt when a lease names another owner.
        """
        held = self.held_by(name)
        if not held:
            return []
        found = self.leases_of(name, held)
        if newest is not None and any(lease_record.generation_of(one[1]) > newest for one in found):
            return []
        self.tick()
        for key, raw, address in found:
            self._give_back(key, raw, address, held)
            texts = lease_record.texts_of(raw)
            self.note(kind, lease_record.generation_of(raw), address, texts)
        tables.OWNERS.delete(self.txn, self.owner_key(name))
        self.save()
        return held

    def leases_of(
        self, name: bytes, held: Sequence[tuple[int, int]]
    ) -> list[tuple[bytes, bytes, tuple[int, int]]]:
        """Return (key, packed lease, address) of an owner's addresses. Raises StoreCorrupt."""
        found = []
        for address in held:
            key = keys.address_key(self.state.pool_id, *address)
            raw = tables.LEASES.get(self.txn, key)
            if raw is None or not lease_record.is_assigned_to(raw, name):
                owner = name.decode(keys.ENCODING, keys.ERRORS).replace("\0", " ")
                raise StoreCorrupt(
                    f"{format_ip(*address)} is entered for {owner}, but its lease says otherwise",
                    path=self.store.path,
                    hint=CHECK_HINT,
                )
            found.append((key, raw, address))
        return found

    def _give_back(
        self, key: bytes, raw: bytes, address: tuple[int, int], together: list[tuple[int, int]]
    ) -> None:
        """Move an assigned address to its reservation or into cool-down."""
        # ``together`` are the addresses that the owner releases now.
        state = self.state
        state.assigned -= 1
        if state.kept or lease_record.sticky_of(raw):
            from fastipam.allocation import reservations

            if reservations.keep(self, key):
                return
            if lease_record.sticky_of(raw):
                reservations.hold(self, key, raw, address, together)
                return
        if self.policy.cooldown_ns:
            cooldown.enter(self, key, raw, *address)
        else:
            tables.LEASES.delete(self.txn, key)
            self.clear(*address)

    def expire(self, limit: int = EXPIRE_PER_CALL) -> int:
        """Free up to ``limit`` cooled addresses, and as many whose sticky reservation is over.

        Return how many were due. O(limit + number of sets).
        """
        due = self.expire_kept(limit) if self.state.kept else 0
        return due + cooldown.expire(self, limit) if self.state.cooling else due


def _count(txn: Transaction, key: bytes) -> int:
    """Return the next id of a counter in ``meta``."""
    number = keys.id_of(tables.META.get(txn, key)) + 1
    tables.META.put(txn, key, keys.id_prefix(number))
    return number
