"""The rarely used operations on a network's records: reservations, blocks, refusals, imports.

``fastipam._ledger`` has the operations that every call needs: it finds the owner, chooses, assigns,
releases, and keeps bits, leases, owners, cool-down queue and counters consistent.
``fastipam.network`` decides what a call does and owns the transaction. Nothing here commits.
Modules that are rarely needed are imported late.
"""

from __future__ import annotations

from fastipam import late_errors as errors
from fastipam._ledger import ASSIGNED, IMPORTED, REBOOTED, Accounts, owner_name
from fastipam.addressing.addresses import format_ip
from fastipam.addressing.ranges import CUT
from fastipam.allocation.lookup import owns, read_record
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records import policy as policy_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from fastipam._ledger import Requester
    from fastipam.addressing.ranges import Interval, Pool, RangeSet
    from fastipam.configuration.policy import Policy
    from fastipam.lease import Lease
    from fastipam.storage.records.lease import Record
    from fastipam.storage.transaction import Transaction

    Address = tuple[int, int]  # family, integer

    class Configured(Protocol):
        """A network as a caller describes it; ``pool`` is None when the caller gives no ranges."""

        name: str
        pool: Pool | None
        pool_key: bytes | None  # the encoded name of its pool, or None for the one in the store
        names_pool: bool  # whether its configuration names the pool
        policy: Policy
        lease_type: type[Lease]

        def _ranges_of(self, text: str) -> Pool:
            """Return the ranges that a text in the store describes. Raises StoreCorrupt."""


# Sticky reservations to expire in one transaction when no address is free. Other writers wait.
MOST_EXPIRED = 1024


class Ledger(Accounts):
    """The records of one network and its pool in a write transaction.

    Call ``save`` before the transaction ends.
    """

    __slots__ = ()

    @classmethod
    def create(cls, txn: Transaction, network: Configured, key: bytes, pool: Pool) -> Ledger:
        """Enter a new network, whose encoded name is ``key``, and its pool into the store.

        The pool may exist already, for another network. Raises ConfigError when they cannot share
        it.
        """
        txn.store.require_schema(txn)
        return cls.enter_pool(txn, network, key, _count(txn, tables.LAST_NETWORK_KEY), pool)

    @classmethod
    def enter_pool(
        cls, txn: Transaction, network: Configured, key: bytes, network_id: int, pool: Pool
    ) -> Ledger:
        """Enter a network with this id, in the pool that it names or in a pool of its own name."""
        name, pool_id, text = network.pool_key or key, 0, ""
        if tables.POOLS.get(txn, name) is not None:
            from fastipam.allocation import pools

            pool_id, text = pools.join(txn, network, key, name)
        is_new = not pool_id
        if is_new:
            pool_id, text = _count(txn, tables.LAST_POOL_KEY), pool.text
        tables.NETWORKS.put(txn, key, keys.pack_network(tables.SCHEMA, network_id, pool_id, name))
        ledger = cls(txn, network, network_id, pool_id, text)
        if is_new:
            ledger.state.swept = txn.store.boot
            ledger._write_pool(name, pool)
            if network.names_pool:
                from fastipam.allocation import pools

                pools.whole(ledger, pool)
        txn.forget_found()
        ledger.adopt_pool(key, pool)
        ledger.save()
        return ledger

    def adopt_pool(self, key: bytes, pool: Pool) -> None:
        """Store ranges for the network. O(pages + cooling addresses) when they have changed."""
        if pool.text == self.text:
            return
        from fastipam.allocation import pools, turns

        whole = pools.whole(self, pool)
        if whole is None:
            return
        if whole is pool:
            turns.note(self, self.text, pool.text)
        found = self.txn.find(key)
        assert isinstance(found, tuple)
        self.replace_ranges(found[3], whole)

    def replace_ranges(self, pool_key: bytes, pool: Pool) -> None:
        """Replace the ranges of the pool. O(pages + cooling addresses) when they have changed."""
        if pool.text == self.text:
            return
        from fastipam.allocation import change

        self._write_pool(pool_key, pool)
        self.remember(pool.text, pool)
        change.recount(self, pool)
        change.regroup(self, pool)
        change.relist(self, pool)
        self.save()  # some callers do not save when they find nothing else to do

    def adopt_policy(self) -> None:
        """Store the policy, for releases that come without a configuration."""
        key = keys.policy_key(self.network_id)
        packed = policy_record.pack(self.policy)
        if tables.META.get(self.txn, key) != packed:
            tables.META.put(self.txn, key, packed)
            self.txn.forget_found()

    def _write_pool(self, key: bytes, pool: Pool) -> None:
        tables.POOLS.put(self.txn, key, keys.pack_pool(self.pool_id, pool.text))
        self.txn.forget_found()

    def settle_boot(self) -> None:
        """Decide whether this is a new boot, if that is in doubt."""
        from fastipam.storage import boot_change

        boot_change.settle(self.txn)

    # Which address --------------------------------------------------------------------------

    def search_order(self, index: int, range_set: RangeSet) -> Iterable[Interval]:
        """Return the intervals of a range set in the order in which they are searched."""
        cursor = self.state.cursor(index, range_set.family)
        if not range_set.block_length:
            return range_set.after(cursor)
        from fastipam.allocation import blocks

        return blocks.after(self.txn, self.pool_id, range_set, cursor)

    def require_certain(self, range_set: RangeSet, wanted: int) -> None:
        """Raise PoolExhausted when it is not certain that this node owns its blocks."""
        from fastipam.allocation import blocks

        doubt = blocks.doubt(self.txn, self.pool_id)
        if doubt:
            from fastipam.allocation import refusals

            raise refusals.doubtful(self, range_set, wanted, doubt)

    def choose_more(
        self, index: int, range_set: RangeSet, values: list[int], wanted: int
    ) -> list[int]:
        """Add addresses that are not free to ``values`` until there are ``wanted``; return them.

        Addresses whose sticky reservation has expired are taken first, then those that have cooled
        longest. Raises PoolExhausted.
        """
        from fastipam.allocation import cooldown

        if self.expire_kept():
            values += self.take_many(index, range_set, wanted - len(values))
        if len(values) < wanted:
            values += cooldown.take_early(self, index, range_set, wanted - len(values))
        if len(values) < wanted:
            from fastipam.allocation import refusals

            raise refusals.exhausted(self, index, range_set, wanted)
        return values

    def expire_kept(self, limit: int = MOST_EXPIRED) -> int:
        """Expire up to ``limit`` sticky reservations and return how many there were."""
        if not self.state.kept:
            return 0
        from fastipam.allocation import reservations

        return reservations.expire(self, limit)

    def acquire(self, index: int, range_set: RangeSet, value: int, owner: Requester) -> None:
        """Take a requested address: a free or cooling one, or one reserved for this owner.

        A cooling address may be requested, because a restarted container asks for its old address.
        Raises AddressInUse, AddressNotInRange (another node's block), PoolExhausted when it is not
        certain that this node owns its blocks.
        """
        family = range_set.family
        go_on = True
        if range_set.block_length:
            from fastipam.allocation import blocks

            if not owns(self, range_set, value):
                from fastipam.allocation import refusals

                doubt = blocks.doubt(self.txn, self.pool_id)
                if doubt:
                    raise refusals.doubtful(self, range_set, 1, doubt)
                raise refusals.of_another_node(range_set, value)
            # The cursor moves only within the block that serves now, which is filled first.
            cursor, base = self.state.cursor(index, family), blocks.base_of(range_set, value)
            go_on = cursor is not None and blocks.base_of(range_set, cursor) == base
        is_static = range_set.is_static(value)
        if self._take(family, value, owner) and (self.is_foreign or is_static):
            self.state.outside += not self.stored.holds(family, value)
        if go_on and not is_static:
            self.state.move_cursor(index, family, value)

    def _take(self, family: int, value: int, owner: Requester) -> bool:
        """Take an address; return whether it was free. Raises AddressInUse.

        If it was free and lies outside the ranges, the caller has to count it in ``state.outside``.
        """
        if self.txn.pages(self.pool_id, family).acquire(value):
            return True
        record = self.record(family, value)
        if record is not None and record.state == ASSIGNED and record.boot != self.store.boot:
            name = owner_name(record.container_id, record.ifname)
            whose: Accounts = self
            if record.network_id != self.network_id:
                from fastipam.allocation import siblings

                whose = siblings.ledger_of(self, record.network_id)
            if (family, value) in whose.release(name, REBOOTED):
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
        elif record.state != ASSIGNED:
            from fastipam.allocation import cooldown

            cooldown.leave(self, record, family, value)
        else:
            from fastipam.allocation import refusals

            raise refusals.in_use(self, family, value, record)
        return False

    def kept_for(self, owner: Requester) -> list[Address]:
        """Return (family, address) of each address reserved for this owner, leased or not."""
        from fastipam.allocation import reservations

        return reservations.kept_for(self, owner)

    def first_kept(self, range_set: RangeSet, kept: list[Address]) -> int | None:
        """Return the first of these addresses that a range set may assign now, or None."""
        from fastipam.allocation import reservations

        return reservations.first_inside(self, range_set, kept)

    # Leases ---------------------------------------------------------------------------------

    def record(self, family: int, value: int) -> Record | None:
        """Return the lease record of an address, or None when it is free or reserved."""
        return read_record(self.txn, self.pool_id, family, value)

    def take_place(self, key: bytes, raw: bytes, family: int, value: int) -> None:
        """Replace the record of a cooling address by a lease. Raises StoreCorrupt."""
        from fastipam.allocation import cooldown

        cooldown.take_place(self, key, raw, family, value)

    def take_over(self, owner: Requester, family: int, value: int, allocated_ns: int) -> bool:
        """Import a lease of another plugin; return False if the owner has it already.

        The address may lie outside all ranges, and the owner may have others. Raises AddressInUse.
        """
        held = self.held_by(owner.name)
        if (family, value) in held:
            return False
        if self._take(family, value, owner):
            self.state.outside += not self.stored.holds(family, value)
        its_range = self.stored.range_of(family, value)
        self.wall_ns = allocated_ns
        self.enter(owner, (family, value), self.number_of(family, value), its_range, IMPORTED)
        self.write_owner(owner.name, [*held, (family, value)])
        return True

    def damaged_owner(self, name: bytes, address: Address) -> errors.StoreCorrupt:
        """Return the error for a lease that names another owner than the entry that lists it."""
        owner = name.decode(keys.ENCODING, keys.ERRORS).replace("\0", " ")
        return errors.StoreCorrupt(
            f"{format_ip(*address)} is recorded for {owner}, but its lease names another owner",
            path=self.store.path,
            hint=errors.CHECK_HINT,
        )

    # Giving back ----------------------------------------------------------------------------

    def keep_or_hold(
        self, key: bytes, raw: bytes, address: Address, together: list[Address]
    ) -> bool:
        """Keep a released address reserved if it has a reservation or its lease is sticky.

        Return whether it is kept. ``together`` are the addresses that the owner releases now.
        """
        from fastipam.allocation import reservations

        if reservations.keep(self, key):
            return True
        from fastipam.storage.records.lease import Record

        lease = Record.read(raw)
        if not lease.sticky_s or self._follows(*address):
            return False
        reservations.hold(self, key, lease, address, together)
        return True

    def _follows(self, family: int, value: int) -> bool:
        """Return whether an address is a fixed address: a block of its own that follows its pod.

        No node keeps a reservation for it, because the pod may start on another node.
        """
        if CUT not in self.text:
            return False
        from fastipam.allocation import blocks

        its_set = blocks.set_of(self.stored.sets, family, value)
        return its_set is not None and not blocks.host_bits(its_set, value)

    def note_cleared(self, family: int, value: int) -> None:
        """Update the open list and the count of addresses outside the ranges.

        Called after an address has become free.
        """
        if self.state.outside:
            self.state.outside -= not self.stored.holds(family, value)
        if CUT in self.text:
            from fastipam.allocation import blocks

            for index, each in enumerate(self.stored.sets):
                if each.family == family and each.block_length:
                    cursor = self.state.cursor(index, family)
                    blocks.freed(self.txn, self.pool_id, each, value, cursor)


def _count(txn: Transaction, key: bytes) -> int:
    """Increment a counter in ``meta``, and return the new id."""
    number = keys.id_of(tables.META.get(txn, key)) + 1
    tables.META.put(txn, key, keys.id_prefix(number))
    return number
