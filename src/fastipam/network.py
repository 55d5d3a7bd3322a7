"""A network of a store: assign an address to an owner, give it back, say who has it.

Every public method is one LMDB transaction (nested in the caller's, if the caller has one): it
validates first, changes then, and leaves no trace when it fails. The books are kept in ledger.py.
"""

from __future__ import annotations

from fastipam.addressing.addresses import to_ip
from fastipam.addressing.ranges import Pool
from fastipam.allocation import previous_boot
from fastipam.allocation.ledger import EXPIRE_PER_CALL, Ledger, read_record
from fastipam.errors import ConfigError, DuplicateAllocation, PoolExhausted, StoreFull
from fastipam.lease import Lease, Owner, join
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys
from fastipam.storage.records.lease import ASSIGNED
from fastipam.view import View, parse_wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from fastipam.storage.transaction import Transaction
    from fastipam.view import AnyIP, Wanted

    Stale = tuple[tuple[str, str], int]  # (container id, interface), generation

_SETTLE_BATCH = 256  # addresses freed in one transaction, for which other writers wait


class Network(View):
    """A named scope in which an address has at most one owner.

    Get it from :meth:`Ipam.network`. Safe to use from several threads; holds no state but its
    configuration. ``pool`` are the range sets; None: those that the store remembers. ``policy`` is
    what becomes of addresses that are given back.
    """

    def _enter(self, txn: Transaction) -> tuple[Ledger, Pool]:
        """The network's books, made if it is new, and the ranges to assign from."""
        found = self._find(txn)
        pool = self.pool
        if found is None:
            if pool is not None:
                ledger = self._create(txn, pool)
                ledger.adopt_policy()
                return ledger, pool
        else:
            ledger = self._ledger(txn, *found)
            if pool is None:
                pool = ledger.stored
            elif self._remember:
                ledger.adopt_pool(self._key, pool)
                ledger.adopt_policy()
            if pool.sets:
                if ledger.state.swept != self._store.boot:
                    previous_boot.step(ledger)
                return ledger, pool
        raise ConfigError(
            f"the ranges of network {self.name} are not known and no ranges are given",
            field="ranges",
            value=None,
        )

    def _ledger(self, txn: Transaction, network_id: int, text: str) -> Ledger:
        return Ledger(txn, self._store, self.name, network_id, text, self.pool, self.policy)

    def _create(self, txn: Transaction, pool: Pool) -> Ledger:
        return Ledger.create(txn, self._store, self.name, self._key, pool, self.policy)

    def enter(self, txn: Transaction) -> Ledger:
        """The network's books in a transaction of the caller's, made if the network is new."""
        new = self._find(txn) is None
        ledger = self._enter(txn)[0]
        if new:
            ledger.save()
        return ledger

    def sweep_reboot(self, limit: int = previous_boot.BATCH) -> bool:
        """Look at up to ``limit`` leases, and give back those of an earlier boot; False: all seen.

        One transaction. Raises StoreError.
        """
        with self._store.write() as txn:
            found = self._find(txn)
            ledger = self._ledger(txn, *found) if found else None
            if ledger is None or ledger.state.swept == self._store.boot:
                if self._store.unswept:
                    previous_boot.note_end(txn)
                return False
            previous_boot.step(ledger, limit)
            ledger.save()
            return True

    def settle(self, limit: int = _SETTLE_BATCH) -> bool:
        """Free addresses whose cool-down, or whose time of being kept for a pod, is over.

        Assignments do that as well, a few at a time; who has none to make (the agent, now and then)
        calls this until it is False: nothing is due any longer. One transaction, which frees
        up to ``limit`` of either kind and writes nothing when there is nothing to free. O(limit).
        Raises StoreError.
        """
        with self._store.write() as txn:
            found = self._find(txn)
            if found is None:
                return False
            ledger = self._ledger(txn, *found)
            state = ledger.state
            before = state.cooling, state.kept
            state.tick(self._store.clock())
            ledger.expire(limit)
            if (state.cooling, state.kept) == before:
                return False
            ledger.save()
            return True

    # Assigning ------------------------------------------------------------------------------

    def allocate(
        self,
        container_id: str,
        ifname: str = "eth0",
        *,
        addresses: Iterable[Wanted] = (),
        existing: str = "error",
        netns: str = "",
        inode: int = 0,
        pod_namespace: str = "",
        pod_name: str = "",
        pod_uid: str = "",
        mount_ns: int = 0,
        born_ns: int = 0,
    ) -> Lease:
        """Assign one address of every range set to this owner, all or nothing.

        ``addresses`` are wanted ones, at most one a range set; the sets that none of them lies in
        choose for themselves, round robin. ``existing`` says what happens when the owner
        has addresses already: "error", or "return" them. ``netns``, ``inode`` and
        ``born_ns`` (of the network namespace), ``mount_ns`` (of the mount namespace where that path
        means it) and the pod's names are kept on the lease. An address that is reserved for this
        container or pod, or kept for the pod since it gave it back, comes before any other.

        O(number of range sets and their intervals), whatever the occupancy. Returns after the
        commit is on disk (durable mode). Raises PoolExhausted, AddressInUse,
        AddressNotInRange, DuplicateAllocation, ConfigError, StoreError; then nothing has changed,
        not even where the round robin stands.
        """
        owner = Owner(
            container_id,
            ifname,
            netns,
            inode,
            pod_namespace,
            pod_name,
            pod_uid,
            mount_ns,
            self.policy.sticky_s,
            born_ns,
        )
        wanted = [parse_wanted(one) for one in addresses] if addresses else []
        if existing not in ("error", "return"):
            raise ConfigError(
                f"existing {existing!r} is neither 'error' nor 'return'",
                field="existing",
                value=existing,
            )
        lease: Lease | None = None
        while lease is None:
            try:
                lease = self._allocate(owner, wanted, existing)
            except PoolExhausted:
                if not self._finds_room():
                    raise
        return lease

    def _finds_room(self) -> bool:
        """After a refusal: whether something was given back that was due, so try again.

        A call frees a few of such addresses by itself; but when it fails, it has not.
        """
        if self.sweep_reboot() or self._expire_kept():
            return True
        self.note_clock()
        return False

    def _expire_kept(self) -> bool:
        """Free addresses that are kept no longer, in one transaction; False: there was none."""
        with self._store.write() as txn:
            found = self._find(txn)
            if found is None:
                return False
            ledger = self._ledger(txn, *found)
            ledger.state.tick(self._store.clock())
            if not ledger.expire_kept():
                return False
            ledger.save()
            return True

    def note_clock(self) -> None:
        """Note that the wall clock has stepped.

        A call that fails leaves no trace: if all of them fail until something has cooled, the time
        would be measured from the step again each time, and nothing would ever have cooled.
        """
        with self._store.write() as txn:
            found = self._find(txn)
            if found is None:
                return
            ledger = self._ledger(txn, *found)
            wall_ns = self._store.clock()
            if ledger.state.has_stepped(wall_ns):
                ledger.state.tick(wall_ns)
                ledger.save()

    def _allocate(
        self, owner: Owner, wanted: Sequence[tuple[int, int]], existing: str
    ) -> Lease | None:
        """None: it has looked for what an earlier boot has left, which comes first; try again."""
        with self._store.write() as txn:
            ledger, pool = self._enter(txn)
            if (owner.sticky_s or ledger.state.kept) and ledger.state.swept != self._store.boot:
                # Among it may be what is kept for this owner from now on.
                previous_boot.step(ledger, previous_boot.BATCH)
                ledger.save()
                return None
            held = ledger.held_by(owner.name)
            if held and ledger.state.swept != self._store.boot:
                held = self._still_held(ledger, owner, held)
            if held:
                if existing == "return":
                    network_id = ledger.state.network_id
                    return join([self._lease(txn, network_id, pool, *one) for one in held])
                from fastipam.allocation import refusals

                raise refusals.duplicate(self.name, owner, held)
            requests = pool.match(wanted) if wanted else [None] * len(pool.sets)
            wall_ns = self._store.clock()
            ledger.state.tick(wall_ns)
            ledger.expire()
            kept = ledger.kept_for(owner)
            leases = []
            for index, range_set in enumerate(pool.sets):
                value = requests[index]
                if value is None and kept:
                    from fastipam.allocation import reservations

                    value = reservations.first_inside(ledger, range_set, kept)
                if value is None:
                    value = ledger.choose(index, range_set)
                else:
                    ledger.claim(index, range_set, value, owner)
                leases.append(ledger.assign(owner, index, range_set, value, wall_ns))
            ledger.write_owner(owner.name, [(one.family, one.value) for one in leases])
            ledger.save()
        return join(leases)

    def _still_held(
        self, ledger: Ledger, owner: Owner, held: list[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """What an owner has, once what is left of an earlier boot was given back."""
        record = ledger.record(*held[0])
        if record is None or record.boot == self._store.boot:
            return held
        ledger.release(owner.name, event_record.REBOOTED)
        return []

    def allocate_many(self, owners: Iterable[tuple[str, str]], *, netns: str = "") -> list[Lease]:
        """Assign an address of every range set to each owner, in one transaction, all or nothing.

        ``owners`` are (container id, interface) pairs, all different. The leases come in their
        order; each is that of the first range set and has the others as ``siblings``.
        What is reserved for an owner is not looked for here. O(owners). Returns after the commit
        is on disk (durable mode). Raises as :meth:`allocate`.
        """
        listed = [Owner(container_id, ifname, netns) for container_id, ifname in owners]
        if not listed:
            return []
        while True:
            try:
                return self._allocate_many(listed)
            except (PoolExhausted, DuplicateAllocation):
                if not self._finds_room():
                    raise

    def _allocate_many(self, listed: list[Owner]) -> list[Lease]:
        from fastipam.allocation import bulk

        with self._store.write() as txn:
            ledger, pool = self._enter(txn)
            wall_ns = self._store.clock()
            ledger.state.tick(wall_ns)
            ledger.expire(EXPIRE_PER_CALL * len(listed))
            leases = bulk.assign(ledger, pool, listed, wall_ns)
            ledger.save()
        return leases

    def adopt(self, owner: Owner, family: int, value: int, allocated_ns: int) -> bool:
        """Take over a lease that another plugin has given; False: it is here already.

        The network need not be known, its ranges neither; the address may lie outside them, and the
        owner may have others. Raises AddressInUse (it is somebody else's), StoreError.
        """
        with self._store.write() as txn:
            ledger = self._enter_unknown(txn)
            held = ledger.held_by(owner.name)
            if held and ledger.state.swept != self._store.boot:
                self._still_held(ledger, owner, held)
            ledger.state.tick(self._store.clock())
            held = ledger.held_by(owner.name)
            if held and ledger.state.swept != self._store.boot:
                self._still_held(ledger, owner, held)
            if not ledger.take_over(owner, family, value, allocated_ns):
                return False
            ledger.save()
            return True

    def start_from(self, index: int, family: int, value: int) -> bool:
        """Let the round robin of a range set begin behind an address; False: it has begun."""
        with self._store.write() as txn:
            ledger = self._enter_unknown(txn)
            if ledger.state.cursor(index, family) is not None:
                return False
            ledger.state.move_cursor(index, family, value)
            ledger.save()
            return True

    def _enter_unknown(self, txn: Transaction) -> Ledger:
        """The books of a network whose ranges may be unknown: the first ADD tells them."""
        found = self._find(txn)
        if found is None:
            return self._create(txn, self.pool or Pool([]))
        return self._ledger(txn, *found)

    # Giving back ----------------------------------------------------------------------------

    def release(self, container_id: str, ifname: str = "eth0") -> list[AnyIP]:
        """Give back every address that this owner has in this network, and return them.

        Idempotent: an owner that has none gives an empty list. The ranges do not matter. A
        released address cools down before it is assigned again. O(addresses of the owner).
        Returns after the commit is on disk (durable mode). Raises StoreError, ConfigError.
        """
        return [to_ip(*one) for one in self.release_raw(container_id, ifname)]

    def release_raw(self, container_id: str, ifname: str) -> list[tuple[int, int]]:
        """:meth:`release`, but (family, integer) pairs: the plugin has no use for objects."""
        keys.check_owner(container_id, ifname)
        try:
            return self._release_named(container_id, ifname)
        except StoreFull:
            return self.without_history()._release_named(container_id, ifname)

    def without_history(self) -> Network:
        """The same network, keeping no history of what it does.

        Giving back has to work most of all when there is no room: the history makes way.
        """
        policy = self.policy.without_history()
        return Network(self._store, self.name, self.pool, policy=policy, remember=self._remember)

    def _release_named(self, container_id: str, ifname: str) -> list[tuple[int, int]]:
        # A lease imported from an old host-local tree names no interface: it belongs to the
        # container as a whole, and goes with the first interface that has none of its own.
        with self._store.write() as txn:
            for name in dict.fromkeys((ifname, "")):
                held = self._release(txn, (container_id, name))
                if held:
                    return held
        return []

    def _release(
        self,
        txn: Transaction,
        owner: tuple[str, str],
        kind: int = event_record.RELEASED,
        newest: int | None = None,
    ) -> list[tuple[int, int]]:
        """Give back what exactly this owner has, unless it is newer than ``newest``."""
        found = self._find(txn)
        if found is None:
            return []
        ledger = self._ledger(txn, *found)
        if ledger.state.swept != self._store.boot:
            previous_boot.step(ledger)
            ledger.save()
        return ledger.release(keys.owner_name(*owner), kind, newest)

    def release_address(
        self, address: Wanted, *, generation: int | None = None, kind: int = event_record.OPERATOR
    ) -> Lease | None:
        """Give back all that the owner of this address has; the lease of the address, or None.

        The ``siblings`` of the lease are all that was given back. None: nobody has the address,
        or its lease is not of this ``generation``. ``kind`` (see history.py) is why.
        O(addresses of the owner). Returns after the commit is on disk (durable mode). Raises
        ConfigError, StoreError.
        """
        wanted = parse_wanted(address)
        with self._store.write() as txn:
            found = self._find(txn)
            record = None if found is None else read_record(txn, found[0], *wanted)
            if found is None or record is None or record.state != ASSIGNED:
                return None
            if generation not in (None, record.generation):
                return None
            pool = self._pool_of(found[1])
            owner = (record.container_id, record.ifname)
            name = keys.owner_name(*owner)
            others = [one for one in self._ledger(txn, *found).held_by(name) if one != wanted]
            leases = [self._lease(txn, found[0], pool, *one) for one in (wanted, *others)]
            self._release(txn, owner, kind)
            return join(leases)

    def retain(self, valid: Collection[tuple[str, str]], before_ns: int) -> list[tuple[int, int]]:
        """Give back every lease whose owner is not in ``valid``; CNI's GC. Returns what was freed.

        ``valid`` are (container id, interface) pairs. Leases assigned at ``before_ns`` (wall clock
        nanoseconds) or later are spared: they are newer than the list. What is looked at is one
        moment's leases, what is freed is looked at again: an owner that comes back meanwhile
        keeps its new addresses. O(leases), in transactions of a bounded size. What is damaged
        keeps nothing else from being freed; then StoreCorrupt is raised at the end.
        """
        from fastipam import collect

        return collect.retain(self, valid, before_ns)

    def release_stale(self, stale: Sequence[Stale]) -> list[tuple[int, int]]:
        """Give back what these owners had at these generations, in one transaction.

        An owner who has something newer keeps all. Raises StoreError.
        """
        freed = []
        with self._store.write() as txn:
            for owner, generation in stale:
                freed += self._release(txn, owner, event_record.GC, generation)
        return freed

    # Reserving ------------------------------------------------------------------------------

    def reserve(self, target: str, *, owner: str = "", reason: str = "") -> list[tuple[int, int]]:
        """Keep addresses from every allocation but their owner's; (family, integer) of each.

        ``target`` is an address, a CIDR or "a-b"; of those, the addresses that the ranges can
        assign. ``owner`` is a pod's "namespace/name" or a container id, empty: nobody may have
        them. Who has one of them now keeps it until it is given back. Idempotent: the last owner
        and reason count. O(addresses), in one transaction. Returns after the commit is on disk
        (durable mode). Raises ConfigError (no such address, too many), StoreError.
        """
        from fastipam.allocation import reservations
        from fastipam.storage.records import reservation as reservation_record

        for field, text in (("owner", owner), ("reason", reason)):
            if "\0" in text:
                raise ConfigError(f"{field} contains NUL", field=field, value=text)
        with self._store.write() as txn:
            ledger, pool = self._enter(txn)
            wanted = reservations.assignable(pool, target)
            wall_ns = self._store.clock()
            ledger.state.tick(wall_ns)
            each = (reservation_record.Reservation(*one, owner, "", reason) for one in wanted)
            reservations.reserve(ledger, each, wall_ns)
            ledger.save()
        return wanted

    def unreserve(self, target: str) -> list[tuple[int, int]]:
        """End the reservations of an address, a CIDR or "a-b"; (family, integer) of each.

        Sticky ones, too: such an address cools down. Whoever has an address keeps it.
        O(reservations of the network).
        Returns after the commit is on disk (durable mode). Raises ConfigError, StoreError.
        """
        from fastipam.addressing.parsing import parse_exclusion
        from fastipam.allocation import reservations

        bounds = parse_exclusion(target, field="target")
        with self._store.write() as txn:
            found = self._find(txn)
            if found is None:
                return []
            ledger = self._ledger(txn, *found)
            wall_ns = self._store.clock()
            ended = reservations.read_within(txn, found[0], bounds)
            ledger.state.tick(wall_ns)
            reservations.unreserve(ledger, ended, wall_ns)
            if ended:
                ledger.save()
        return [(one.family, one.value) for one in ended]
