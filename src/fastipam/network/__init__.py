"""A network of a store: assign an address to an owner, release it, say who has it.

Every public method is one LMDB transaction, nested in the caller's if there is one. It validates
first, then changes, and changes nothing when it fails. ``books`` has the way into the network's
records and frees what is due, ``reading`` has the read-only methods. ``fastipam.allocation`` keeps
the records in step.
"""

from __future__ import annotations

from fastipam.addressing.addresses import format_ip, to_ip
from fastipam.addressing.ranges import CUT, Pool
from fastipam.allocation import previous_boot
from fastipam.allocation.ledger import EXPIRE_PER_CALL, Ledger
from fastipam.errors import (
    CHECK_HINT,
    ConfigError,
    DuplicateAllocation,
    PoolExhausted,
    StoreCorrupt,
    StoreFull,
)
from fastipam.lease import NO_NETNS, Lease, Owner, join
from fastipam.network.reading import Reading, parse_wanted
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys
from fastipam.storage.records.lease import ASSIGNED, Netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from fastipam.network.gc import Before
    from fastipam.network.promise import Promise
    from fastipam.network.reading import AnyIP, Wanted
    from fastipam.storage.records.lease import Record
    from fastipam.storage.transaction import Transaction

    Stale = tuple[tuple[str, str], int]  # (container id, interface), generation

_RELEASED_AT_ONCE = 256  # owners in one transaction, for which other writers wait


class Network(Reading):
    """A named scope in which an address has at most one owner.

    :meth:`Ipam.network` returns one. Several threads may use it; it holds only its configuration.
    ``pool`` has the range sets, or is None for those that the store remembers. ``policy`` says what
    happens to released addresses.
    """

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

        ``addresses`` are requested ones, at most one a range set; the other sets choose, round
        robin. ``existing`` says what to do when the owner already has addresses: "error", or
        "return" them; their leases then get the time of this call, and what it says of namespace
        and pod. It is an error if other addresses are requested. The lease records ``netns``,
        ``inode`` and ``born_ns`` of the network namespace, ``mount_ns`` of the mount namespace in
        which that path is valid, and the pod's names. An address that is reserved for this
        container or pod comes before any other.

        O(range sets and their intervals), whatever the occupancy. Returns after the commit is on
        disk (durable mode). Raises PoolExhausted, AddressInUse, AddressNotInRange,
        DuplicateAllocation, ConfigError, StoreError; then nothing was changed, and the round robin
        has not moved.
        """
        known = NO_NETNS
        if netns or inode or mount_ns or born_ns:
            known = Netns(netns, inode, mount_ns, born_ns)
        owner = Owner(container_id, ifname, known, (pod_namespace, pod_name, pod_uid))
        wanted = [parse_wanted(one) for one in addresses] if addresses else []
        return self.assign(owner, wanted, existing)

    def assign(
        self,
        owner: Owner,
        wanted: Sequence[tuple[int, int]] = (),
        existing: str = "error",
        promises: list[Promise] | None = None,
    ) -> Lease:
        """Do the same as :meth:`allocate` for an Owner; ``wanted`` has (family, integer) pairs.

        With ``promises`` the caller settles what is added to it, as the last step before its
        answer. Without, the end of the outermost transaction does, and raises TryLater.
        """
        if existing not in ("error", "return"):
            raise ConfigError(
                f"existing {existing!r} is neither 'error' nor 'return'",
                field="existing",
                value=existing,
            )
        lease: Lease | None = None
        while lease is None:
            try:
                lease = self._assign(owner, wanted, existing, promises)
            except PoolExhausted:
                if not self._finds_room():
                    raise
        return lease

    def _assign(
        self,
        owner: Owner,
        wanted: Sequence[tuple[int, int]],
        existing: str,
        promises: list[Promise] | None,
    ) -> Lease | None:
        """Make one try. Returns None when leases of an earlier boot have to be released first."""
        with self._store.write() as txn:
            ledger = self.enter(txn)
            if not ledger.state.generation and self._before_first is not None:
                self._before_first()
            pool, boot = self.pool or ledger.stored, self._store.boot
            sticky = self.policy.sticky_s and owner.pod
            if (sticky or ledger.state.kept) and ledger.state.swept != boot:
                # One of them may be reserved for this owner from now on.
                self._end_boots(txn, ledger, previous_boot.BATCH)
                return None
            held = ledger.held_by(owner.name)
            if held and ledger.state.swept != boot:
                held = self._still_held(ledger, owner, held)
            if held:
                if existing != "return" or not set(held).issuperset(wanted):
                    from fastipam.allocation import refusals

                    raise refusals.duplicate(self.name, owner, held, wanted)
                from fastipam.allocation import renewal

                renewal.renew(ledger, owner, held)
                ledger.save()
                leases = [self._lease(ledger, pool, one) for one in held]
                if pool.sets[0].block_length:
                    from fastipam.network import promise

                    promise.give_again(ledger, self, leases, promises)
                return join(leases)
            requests = pool.match(wanted) if wanted else [None] * len(pool.sets)
            ledger.tick()
            ledger.expire()
            kept = ledger.kept_for(owner)
            leases = []
            for index, range_set in enumerate(pool.sets):
                value = requests[index]
                if value is None and kept:
                    from fastipam.allocation import reservations

                    value = reservations.first_inside(ledger, range_set, kept)
                if value is None:
                    value = ledger.choose(index, range_set)[0]
                else:
                    ledger.acquire(index, range_set, value, owner)
                leases.append(ledger.assign(owner, index, range_set, value))
            ledger.write_owner(owner.name, [(one.family, one.value) for one in leases])
            ledger.save()
            if pool.sets[0].block_length:
                from fastipam.network import promise

                promise.give(ledger, self, leases, promises)
        return join(leases)

    def _still_held(
        self, ledger: Ledger, owner: Owner, held: list[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """Release the addresses of an owner if they are of an earlier boot; return the others."""
        record = ledger.record(*held[0])
        if record is None or record.boot == self._store.boot:
            return held
        ledger.release(owner.name, event_record.REBOOTED)
        return []

    def _lease(self, ledger: Ledger, pool: Pool, address: tuple[int, int]) -> Lease:
        record = ledger.record(*address)
        if record is None:
            raise StoreCorrupt(
                f"{format_ip(*address)} has an owner and no lease",
                path=self._store.path,
                hint=CHECK_HINT,
            )
        return self._view(pool, *address, record)

    def allocate_many(self, owners: Iterable[tuple[str, str]], *, netns: str = "") -> list[Lease]:
        """Assign an address of every range set to each owner, in one transaction, all or nothing.

        ``owners`` are (container id, interface) pairs, all different. The leases come in their
        order; each is that of the first range set and has the others as ``siblings``. Addresses
        reserved for an owner are not considered. O(owners). Returns after the commit is on disk
        (durable mode). Raises the errors of :meth:`allocate`.
        """
        known = Netns(netns) if netns else NO_NETNS
        listed = [Owner(container_id, ifname, known) for container_id, ifname in owners]
        if not listed:
            return []
        while True:
            try:
                return self._assign_many(listed)
            except (PoolExhausted, DuplicateAllocation):
                if not self._finds_room():
                    raise

    def _assign_many(self, listed: list[Owner]) -> list[Lease]:
        from fastipam.allocation import bulk

        with self._store.write() as txn:
            ledger = self.enter(txn)
            ledger.tick()
            ledger.expire(EXPIRE_PER_CALL * len(listed))
            pool = self.pool or ledger.stored
            leases = bulk.assign(ledger, pool, listed)
            ledger.save()
            if pool.sets[0].block_length:
                from fastipam.network import promise

                promise.give(ledger, self, leases, None)
        return leases

    def adopt(self, owner: Owner, family: int, value: int, allocated_ns: int) -> bool:
        """Take over a lease that another plugin has made; return False if it is here already.

        The network and its ranges need not be known, the address may be outside them, and the owner
        may have other addresses. Raises AddressInUse (another owner has the address),
        AddressNotInRange (another node of the cluster assigns it), StoreError.
        """
        with self._store.write() as txn:
            ledger = self._books(txn) or self._create(txn)
            if CUT in ledger.text:
                from fastipam.allocation import cluster_ranges

                cluster_ranges.require_own(ledger, family, value)
            held = ledger.held_by(owner.name)
            if held and ledger.state.swept != self._store.boot:
                self._still_held(ledger, owner, held)
            ledger.tick()
            if not ledger.take_over(owner, family, value, allocated_ns):
                return False
            ledger.save()
            return True

    def start_from(self, index: int, family: int, value: int) -> bool:
        """Start the round robin of a range set after an address; return False if it had started."""
        with self._store.write() as txn:
            ledger = self._books(txn) or self._create(txn)
            if ledger.state.cursor(index, family) is not None:
                return False
            ledger.state.move_cursor(index, family, value)
            ledger.save()
            return True

    def _create(self, txn: Transaction) -> Ledger:
        """Enter a network whose ranges may be unknown until the first ADD."""
        return Ledger.create(txn, self, self._key, self.pool or Pool([]))

    # Releasing ------------------------------------------------------------------------------

    def release(self, container_id: str, ifname: str = "eth0") -> list[AnyIP]:
        """Release every address of this owner in this network, and return the addresses.

        Idempotent: an owner without addresses gets an empty list. The ranges do not matter. A
        released address cools down before it is assigned again. O(addresses of the owner). Returns
        after the commit is on disk (durable mode). Raises StoreError, ConfigError.
        """
        return [to_ip(*one) for one in self.release_raw(container_id, ifname)]

    def release_raw(self, container_id: str, ifname: str) -> list[tuple[int, int]]:
        """Do what :meth:`release` does, but return (family, integer) pairs, for the plugin."""
        keys.check_owner(container_id, ifname)
        try:
            return self._release_named(container_id, ifname)
        except StoreFull:
            return self.without_history()._release_named(container_id, ifname)

    def without_history(self) -> Network:
        """Return the same network, which writes no events.

        A release has to work on a full store, so it does without its event.
        """
        policy = self.policy.without_history()
        return Network(self._store, self.name, self.pool, policy=policy, remember=self._remember)

    def _release_named(self, container_id: str, ifname: str) -> list[tuple[int, int]]:
        # A lease imported from an old host-local tree has no interface: it belongs to the whole
        # container, and is released with the first interface that has no lease.
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
        """Release what exactly this owner has, unless it is newer than ``newest``."""
        ledger = self._books(txn)
        if ledger is None:
            return []
        if ledger.state.swept != self._store.boot:
            previous_boot.step(ledger)
            ledger.save()
        return ledger.release(keys.owner_name(*owner), kind, newest)

    def release_address(
        self, address: Wanted, *, generation: int | None = None, kind: int = event_record.OPERATOR
    ) -> Lease | None:
        """Release everything of the owner of this address; return the address's lease, or None.

        The ``siblings`` of the lease are all that was released. The result is None when nobody has
        the address, or when its lease has another ``generation``. ``kind`` is the kind of the
        event. O(addresses of the owner). Returns after the commit is on disk (durable mode). Raises
        ConfigError, StoreError.
        """
        wanted = parse_wanted(address)
        with self._store.write() as txn:
            ledger = self._books(txn)
            record = None if ledger is None else ledger.record(*wanted)
            if ledger is None or record is None or record.state != ASSIGNED:
                return None
            if generation not in (None, record.generation):
                return None
            owner = (record.container_id, record.ifname)
            others = [one for one in ledger.held_by(keys.owner_name(*owner)) if one != wanted]
            leases = [self._lease(ledger, ledger.stored, one) for one in (wanted, *others)]
            self._release(txn, owner, kind)
            return join(leases)

    def release_leases(self, leases: Sequence[Lease], *, kind: int = event_record.OPERATOR) -> bool:
        """Release leases of one owner if they are still all that it has; return whether they were.

        ``leases`` were read before. When the owner has other addresses by now, or has them by
        another assignment, nothing is released. O(addresses of the owner). Returns after the commit
        is on disk (durable mode). Raises StoreError.
        """
        owner = (leases[0].container_id, leases[0].ifname)
        try:
            with self._store.write() as txn:
                ledger = self._books(txn)
                if ledger is None:
                    return False
                held = set(ledger.held_by(keys.owner_name(*owner)))
                records = {one: ledger.record(*one) for one in held}
                found = {(at, record.generation) for at, record in records.items() if record}
                if found != {((one.family, one.value), one.generation) for one in leases}:
                    return False
                return bool(self._release(txn, owner, kind))
        except StoreFull:
            if not self.policy.history:
                raise
            return self.without_history().release_leases(leases, kind=kind)

    def retain(
        self, valid: Collection[tuple[str, str]], before_ns: Before
    ) -> list[tuple[int, int]]:
        """Release every lease whose owner is not in ``valid`` (CNI's GC), and return the addresses.

        ``valid`` has (container id, interface) pairs. Leases assigned at ``before_ns`` (wall clock
        nanoseconds; or a pair, ``network.gc.Age``) or later are kept, because they are newer than
        the list. So take that time before the list is made, not after it. A lease whose time is in
        the future is from before a step of the clock, and counts as old. The leases are read first,
        and each is checked again before its release, so an owner that comes back meanwhile keeps
        its new addresses. O(leases); a transaction releases up to 256 owners. A damaged lease does
        not stop the release of others; StoreCorrupt is raised at the end.
        """
        newest: dict[tuple[str, str], int] = {}
        damage = None
        try:
            for _, record in self.unlisted(valid, before_ns):
                owner = (record.container_id, record.ifname)
                newest[owner] = max(record.generation, newest.get(owner, 0))
        except StoreCorrupt as error:
            damage = error
        stale, freed = list(newest.items()), []
        for at in range(0, len(stale), _RELEASED_AT_ONCE):
            batch = stale[at : at + _RELEASED_AT_ONCE]
            try:
                freed += self._release_stale(batch)
            except (StoreFull, StoreCorrupt):
                for one in batch:
                    try:
                        freed += self._release_one(one)
                    except StoreCorrupt as error:
                        damage = damage or error
        if damage is not None:
            raise damage
        return freed

    def unlisted(
        self, valid: Collection[tuple[str, str]], before_ns: Before
    ) -> Iterator[tuple[bytes, Record]]:
        """Yield key and record of every lease that :meth:`retain` would release.

        In address order, read as :meth:`leases` does. Raises StoreCorrupt at the end if one is
        damaged.
        """
        from fastipam.network import gc

        return gc.unlisted(self.raw_leases(), valid, gc.Age(before_ns, self._store.clock))

    def _release_stale(self, stale: Sequence[Stale]) -> list[tuple[int, int]]:
        """Release the leases that these owners had at these generations, in one transaction."""
        # An owner with a newer lease keeps all of its leases. Raises StoreError.
        freed = []
        with self._store.write() as txn:
            for owner, generation in stale:
                freed += self._release(txn, owner, event_record.GC, generation)
        return freed

    def _release_one(self, stale: Stale) -> list[tuple[int, int]]:
        """Release the leases of one owner, in a full store without history: it makes room."""
        try:
            return self._release_stale([stale])
        except StoreFull:
            return self.without_history()._release_stale([stale])

    # Reserving ------------------------------------------------------------------------------

    def reserve(self, target: str, *, owner: str = "", reason: str = "") -> list[tuple[int, int]]:
        """Reserve addresses, for an owner or for nobody; return their (family, integer) pairs.

        ``target`` is an address, a CIDR or "a-b"; the addresses that the ranges can assign are
        reserved. ``owner`` is a pod's "namespace/name" or a container id, or empty for nobody. An
        address in use stays with its owner until it is released. Idempotent: the last owner and
        reason count. O(addresses), in one transaction. Returns after the commit is on disk (durable
        mode). Raises ConfigError (no such address, too many), StoreError.
        """
        from fastipam.allocation import reservations
        from fastipam.storage.records.reservation import Reservation

        for field, text in (("owner", owner), ("reason", reason)):
            if "\0" in text:
                raise ConfigError(f"{field} contains NUL", field=field, value=text)
        with self._store.write() as txn:
            ledger = self.enter(txn)
            wanted = reservations.assignable(self.pool or ledger.stored, target)
            ledger.tick()
            each = (Reservation(*one, owner, "", reason) for one in wanted)
            reservations.reserve(ledger, each)
            ledger.save()
        return wanted

    def unreserve(self, target: str) -> list[tuple[int, int]]:
        """End the reservations in an address, CIDR or "a-b"; return the (family, integer) pairs.

        Sticky ones end too, and their addresses cool down. An address in use stays with its owner.
        O(reservations of the network). Returns after the commit is on disk (durable mode). Raises
        ConfigError, StoreError.
        """
        from fastipam.addressing.parsing import parse_exclusion
        from fastipam.allocation import reservations

        bounds = parse_exclusion(target, field="target")
        with self._store.write() as txn:
            ledger = self._books(txn)
            if ledger is None:
                return []
            ended = reservations.read_within(txn, ledger.state.network_id, bounds)
            ledger.tick()
            reservations.unreserve(ledger, ended)
            if ended:
                ledger.save()
        return [(one.family, one.value) for one in ended]
