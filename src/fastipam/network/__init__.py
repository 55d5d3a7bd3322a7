"""A network of a store: assign addresses to owners, release them, and return their owners.

Every public method is one LMDB transaction, or a part of the caller's transaction. It validates
first, then changes, and changes nothing when it fails. ``books`` finds the network's records and
frees expired addresses, ``reading`` has the read-only methods. ``fastipam.allocation`` keeps the
records consistent.
"""

from __future__ import annotations

from fastipam import late_errors as errors
from fastipam._ledger import (
    ASSIGNED,
    GC,
    OPERATOR,
    REBOOTED,
    RELEASED,
    Assignment,
    Release,
)
from fastipam.addressing.addresses import to_ip
from fastipam.addressing.ranges import CUT, Pool
from fastipam.allocation.ledger import Ledger
from fastipam.configuration.reader import LONGEST_IFNAME
from fastipam.lease import Lease, Requester, join
from fastipam.network.reading import Reading, check_time, parse_wanted
from fastipam.storage.records import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from typing import Literal, TypeVar

    from fastipam.namespaces import Netns
    from fastipam.network.gc import Before
    from fastipam.network.promise import Promise
    from fastipam.network.reading import Address, AnyIP, ListOf, Target
    from fastipam.owners import Owner, Pod
    from fastipam.storage.records.lease import Record
    from fastipam.storage.transaction import Transaction

    Result = TypeVar("Result")
    Stale = tuple[tuple[str, str], int]  # (container id, interface), generation

_RELEASED_AT_ONCE = 256  # owners in one transaction; other writers wait for it


class Network(Reading):
    """A named scope in which an address has at most one owner.

    :meth:`Ipam.network` returns one. Several threads may use it at once, because the object holds
    only its configuration.
    """

    # Assigning ------------------------------------------------------------------------------

    def allocate(
        self,
        container_id: str,
        ifname: str = "eth0",
        *,
        addresses: ListOf[Address] = (),
        existing: Literal["error", "return"] = "error",
        netns: Netns | None = None,
        pod: Pod | tuple[str, str] | None = None,
    ) -> Lease:
        """Assign one address of every range set to this owner, all or nothing.

        ``addresses`` are the requested addresses, at most one per range set; in each other set an
        address is chosen, round robin. ``existing`` says what to do when the owner already has
        addresses: raise an error ("error"), or return them ("return"). Their leases then get the
        time, namespace and pod of this call, and their ``created`` is False. If other addresses are
        requested, it is an error in both cases. ``netns`` is the container's network namespace
        (``Netns.of(path)``): a sweep releases the lease when that namespace has ended. ``pod`` is a
        ``Pod``, or its namespace and name. An address that is reserved for this container or pod is
        assigned before any other.

        O(range sets and their intervals), whatever the occupancy. Returns after the commit is on
        disk (durable mode). Raises PoolExhausted, AddressInUse, AddressNotInRange,
        DuplicateAllocation, ConfigError, StoreError; then nothing was changed, and the round robin
        has not moved.
        """
        if netns is not None or pod is not None or addresses != ():
            from fastipam.network import arguments

            wanted = arguments.read_addresses(addresses)
            owner = Requester(
                container_id, ifname, arguments.read_netns(netns), arguments.read_pod(pod)
            )
        else:
            wanted, owner = [], Requester(container_id, ifname)
        if not ifname.isalnum() or len(ifname) > LONGEST_IFNAME:
            from fastipam.owners import check_ifname

            check_ifname(ifname)
        return self._assign(owner, wanted, existing)

    def _assign(
        self,
        owner: Requester,
        wanted: Sequence[tuple[int, int]] = (),
        existing: str = "error",
        promises: list[Promise] | None = None,
    ) -> Lease:
        """Implement :meth:`allocate`; ``wanted`` has (family, integer) pairs.

        If ``promises`` is a list, a promise may be added to it, which the caller settles as the
        last step before its answer. If it is None, the end of the outermost transaction settles the
        promise, and raises TryLater.
        """
        if existing not in ("error", "return"):
            raise errors.ConfigError(
                f"existing {errors.shown(existing)} is neither 'error' nor 'return'",
                field="existing",
                value=existing,
            )
        lease: Lease | None = None
        while lease is None:
            try:
                lease = self._store.perform(Assignment(self, owner, wanted, existing, promises))
            except errors.PoolExhausted:
                if not self._finds_room():
                    raise
        return lease

    def _try_assign(
        self,
        txn: Transaction,
        owner: Requester,
        wanted: Sequence[tuple[int, int]],
        existing: str,
        promises: list[Promise] | None,
    ) -> Lease | None:
        """Try once to assign, when native code cannot serve the call.

        Return None when leases of an earlier boot have to be released before the next try.
        """
        if promises:
            promises.clear()  # they are from a try that was not committed
        ledger = self._enter(txn)
        if not ledger.state.generation and self._before_first is not None:
            self._before_first()
        pool, boot = self._to_assign(ledger), self._store.boot
        sticky = self.policy.sticky_s and owner.pod
        if (sticky or ledger.state.kept) and ledger.state.swept != boot:
            # Their release may make a reservation for this owner.
            self._end_boots(txn, ledger)
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
        leases = self._give(ledger, owner, pool, wanted)
        if pool.sets[0].block_length:
            from fastipam.network import promise

            promise.give(ledger, self, leases, promises)
        return join(leases)

    def _give(
        self, ledger: Ledger, owner: Requester, pool: Pool, wanted: Sequence[tuple[int, int]]
    ) -> list[Lease]:
        """Assign an address of every range set to an owner without addresses; return the leases."""
        return ledger.give(owner, pool, pool.match(wanted) if wanted else None)

    def _still_held(
        self, ledger: Ledger, owner: Requester, held: list[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """Return the addresses of an owner, or release them if they are of an earlier boot."""
        record = ledger.record(*held[0])
        if record is None or record.boot == self._store.boot:
            return held
        ledger.release(owner.name, REBOOTED)
        return []

    def _lease(self, ledger: Ledger, pool: Pool, address: tuple[int, int]) -> Lease:
        record = ledger.record(*address)
        if record is None:
            raise self._without_lease(address)
        return self._view(pool, *address, record)

    def allocate_many(
        self,
        owners: Iterable[Owner | tuple[str, str]],
        *,
        pods: Sequence[Pod | tuple[str, str] | None] | None = None,
        netns: Netns | None = None,
    ) -> list[Lease]:
        """Assign an address of every range set to each owner, in one transaction, all or nothing.

        ``owners`` are ``Owner`` objects, or (container id, interface) pairs, all different.
        ``pods`` has one entry for each owner, in their order; ``netns`` is the same for all. The
        leases come in the order of the owners. Each is the lease in the first range set; it has the
        leases in the other sets as ``siblings``. Reservations are not considered: no owner gets an
        address that is reserved for it. O(owners). Returns after the commit is on disk (durable
        mode). Raises the errors of :meth:`allocate`.
        """
        from fastipam.network import arguments

        listed = arguments.read_requesters(owners, pods, netns)
        if not listed:
            return []
        while True:
            try:
                return self._assign_many(listed)
            except (errors.PoolExhausted, errors.DuplicateAllocation):
                if not self._finds_room():
                    raise

    def _assign_many(self, listed: list[Requester]) -> list[Lease]:
        from fastipam.allocation import bulk

        with self._store.write() as txn:
            ledger = self._enter(txn)
            pool = self._to_assign(ledger)
            leases = bulk.assign(ledger, pool, listed)
            if pool.sets[0].block_length:
                from fastipam.network import promise

                promise.give(ledger, self, leases, None)
        return leases

    def _adopt(self, owner: Requester, family: int, value: int, allocated_ns: int) -> bool:
        """Take over a lease that another plugin has made; return False if the store has it already.

        The store need not know the network or its ranges, the address may be outside the ranges,
        and the owner may have other addresses. Raises AddressInUse (another owner has the address),
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
            from fastipam.allocation import adoption

            if not adoption.name_found(
                ledger, owner.container_id, owner.ifname, family, value, allocated_ns
            ):
                ledger.tick()
                if not ledger.take_over(owner, family, value, allocated_ns):
                    return False
            ledger.save()
            return True

    def _start_from(self, index: int, family: int, value: int) -> bool:
        """Set the cursor of a range set to an address; return False if it was set before."""
        with self._store.write() as txn:
            ledger = self._books(txn) or self._create(txn)
            if ledger.state.cursor(index, family) is not None:
                return False
            ledger.state.move_cursor(index, family, value)
            ledger.save()
            return True

    def _create(self, txn: Transaction) -> Ledger:
        """Enter a network into the store. Its ranges may be unknown until the first ADD."""
        return Ledger.create(txn, self, self._key, self.pool or Pool([]))

    # Releasing ------------------------------------------------------------------------------

    def release(self, container_id: str, ifname: str = "eth0") -> list[AnyIP]:
        """Release every address of this owner in this network, and return the addresses.

        Idempotent: for an owner without addresses the list is empty. Addresses outside the ranges
        are released, too. A released address cools down before it is assigned again. O(addresses of
        the owner). Returns after the commit is on disk (durable mode). Raises StoreError,
        ConfigError.
        """
        if ifname and (
            type(ifname) is not str or not ifname.isalnum() or len(ifname) > LONGEST_IFNAME
        ):
            from fastipam.owners import check_ifname

            check_ifname(ifname)
        return [to_ip(*one) for one in self._release_raw(container_id, ifname)]

    def release_many(self, owners: Iterable[Owner | tuple[str, str]]) -> int:
        """Release every address of each of these owners, and return how many were released.

        ``owners`` is as for :meth:`allocate_many`. One transaction, all or nothing. Idempotent.
        O(addresses of the owners). Returns after the commit is on disk (durable mode). Raises
        StoreError, and ConfigError before anything is released.
        """
        from fastipam.network import arguments

        listed = arguments.read_owners(owners, "owners")
        if not listed:
            return 0
        try:
            return self._release_listed(listed)
        except errors.StoreFull:
            return self._make_room(lambda network: network._release_listed(listed))

    def _release_listed(self, listed: Sequence[Owner]) -> int:
        names = [keys.owner_name(*owner) for owner in listed]
        with self._store.write() as txn:
            ledger = self._books(txn)
            if ledger is None:
                return 0
            self._step_boot(ledger)
            released, missing = ledger.release_many(names)
            if missing:
                # Leases without an interface: see Release in _ledger.pyx.
                whole = {name[: name.index(b"\0") + 1] for name in missing}
                released += ledger.release_many(list(whole.difference(names)))[0]
            return released

    def _release_raw(self, container_id: str, ifname: str) -> list[tuple[int, int]]:
        """Implement :meth:`release`, and return (family, integer) pairs, for the plugin."""
        try:
            return self._store.perform(Release(self, container_id, ifname))
        except errors.StoreFull:
            return self._make_room(
                lambda network: self._store.perform(Release(network, container_id, ifname))
            )

    def _make_room(self, release: Callable[[Network], Result]) -> Result:
        """Make a release in a full store: without an event, in the space kept for releases."""
        from fastipam.storage.reserve import Reserve

        policy = self.policy.without_history()
        quiet = Network(self._store, self.name, self.pool, policy=policy, remember=self._remember)
        quiet.pool_key, quiet.names_pool = self.pool_key, self.names_pool
        with Reserve(self._store):
            return release(quiet)

    def _release(
        self,
        txn: Transaction,
        owner: tuple[str, str],
        kind: int = RELEASED,
        newest: int | None = None,
    ) -> list[tuple[int, int]]:
        """Release the addresses of exactly this owner, unless a lease is newer than ``newest``."""
        ledger = self._books(txn)
        if ledger is None:
            return []
        self._step_boot(ledger)
        return ledger.release(keys.owner_name(*owner), kind, newest)

    def _step_boot(self, ledger: Ledger) -> None:
        """Release some leases of an earlier boot, if there may be any."""
        if ledger.state.swept != self._store.boot:
            from fastipam.allocation import previous_boot

            previous_boot.step(ledger)
            ledger.save()

    def release_address(self, address: Address, *, generation: int | None = None) -> Lease | None:
        """Release all addresses of the owner of this address; return the address's lease, or None.

        The ``siblings`` of the lease are all leases that were released. The result is None when the
        address is not assigned, or when its lease has another ``generation``. O(addresses of the
        owner). Returns after the commit is on disk (durable mode). Raises ConfigError, StoreError.
        """
        if generation is not None:
            from fastipam.network import arguments

            arguments.check_generation(generation)
        wanted = parse_wanted(address)
        try:
            return self._release_at(wanted, generation)
        except errors.StoreFull:
            return self._make_room(lambda network: network._release_at(wanted, generation))

    def _release_at(
        self,
        wanted: tuple[int, int],
        generation: int | None = None,
        kind: int = OPERATOR,
    ) -> Lease | None:
        """Implement :meth:`release_address`. ``kind`` is the kind of the event."""
        with self._store.write() as txn:
            ledger = self._books(txn)
            record = None if ledger is None else ledger.record(*wanted)
            if ledger is None or record is None or record.state != ASSIGNED:
                return None
            if record.network_id != ledger.network_id:
                return None  # another network of the pool has it
            if generation not in (None, record.generation):
                return None
            owner = (record.container_id, record.ifname)
            others = [one for one in ledger.held_by(keys.owner_name(*owner)) if one != wanted]
            pool = self._ranges_in(ledger)
            leases = [self._lease(ledger, pool, one) for one in (wanted, *others)]
            self._release(txn, owner, kind)
            return join(leases)

    def _release_leases(self, leases: Sequence[Lease]) -> bool:
        """Release leases of one owner if it still has exactly these; return whether it had them.

        ``leases`` were read before. If the owner has other addresses by now, or the same addresses
        by another assignment, nothing is released. O(addresses of the owner). Returns after the
        commit is on disk (durable mode). Raises StoreError.
        """
        try:
            return self._release_unchanged(leases)
        except errors.StoreFull:
            return self._make_room(lambda network: network._release_unchanged(leases))

    def _release_unchanged(self, leases: Sequence[Lease]) -> bool:
        owner = (leases[0].container_id, leases[0].ifname)
        with self._store.write() as txn:
            ledger = self._books(txn)
            if ledger is None:
                return False
            held = set(ledger.held_by(keys.owner_name(*owner)))
            records = {one: ledger.record(*one) for one in held}
            found = {(at, record.generation) for at, record in records.items() if record}
            if found != {((one.family, one.value), one.generation) for one in leases}:
                return False
            return bool(self._release(txn, owner, OPERATOR))

    def retain(self, valid: Iterable[Owner | tuple[str, str]], before_ns: int) -> list[AnyIP]:
        """Release every lease whose owner is not in ``valid`` (CNI's GC), and return the addresses.

        ``valid`` lists ``Owner`` objects, or (container id, interface) pairs; it is read and
        checked before the first release. Leases assigned at ``before_ns`` (wall clock nanoseconds,
        as of ``time.time_ns()``) or later are kept, because they are newer than the list. So take
        that time before the list is made, not after it. A lease whose time is more than a minute in
        the future was assigned before the clock was set back, and counts as old. The leases are
        read first, and each is checked again before its release, so an owner that comes back
        meanwhile keeps its new addresses. O(leases); a transaction releases the leases of up to 256
        owners. A damaged lease does not stop the release of others; StoreCorrupt is raised at the
        end. Raises ConfigError, StoreError.
        """
        from fastipam.network import arguments

        listed = frozenset(arguments.read_owners(valid, "valid"))
        check_time(before_ns, "before_ns")
        return [to_ip(*one) for one in self._retain(listed, before_ns)]

    def _retain(
        self, valid: Collection[tuple[str, str]], before_ns: Before
    ) -> list[tuple[int, int]]:
        """Implement :meth:`retain`; ``before_ns`` may be a pair (``network.gc.Age``)."""
        newest: dict[tuple[str, str], int] = {}
        damage = None
        try:
            for _, record in self._unlisted(valid, before_ns):
                owner = (record.container_id, record.ifname)
                newest[owner] = max(record.generation, newest.get(owner, 0))
        except errors.StoreCorrupt as error:
            damage = error
        stale, freed = list(newest.items()), []
        for at in range(0, len(stale), _RELEASED_AT_ONCE):
            batch = stale[at : at + _RELEASED_AT_ONCE]
            try:
                freed += self._release_stale(batch)
            except (errors.StoreFull, errors.StoreCorrupt):
                for one in batch:
                    try:
                        freed += self._release_one(one)
                    except errors.StoreCorrupt as error:
                        damage = damage or error
        if damage is not None:
            raise damage
        return freed

    def _unlisted(
        self, valid: Collection[tuple[str, str]], before_ns: Before
    ) -> Iterator[tuple[bytes, Record]]:
        """Yield key and record of every lease that :meth:`retain` would release.

        They come in address order, and are read in pages, as in :meth:`leases`. Raises
        StoreCorrupt at the end if a lease is damaged.
        """
        from fastipam.network import gc

        return gc.unlisted(self._raw_leases(), valid, gc.Age(before_ns, self._store.clock))

    def _release_stale(self, stale: Sequence[Stale]) -> list[tuple[int, int]]:
        """Release the leases of these owners, up to their generations, in one transaction.

        An owner with a newer lease keeps all of its leases. Raises StoreError.
        """
        freed = []
        with self._store.write() as txn:
            for owner, generation in stale:
                freed += self._release(txn, owner, GC, generation)
        return freed

    def _release_one(self, stale: Stale) -> list[tuple[int, int]]:
        """Release the leases of one owner; in a full store without an event, to make room."""
        try:
            return self._release_stale([stale])
        except errors.StoreFull:
            return self._make_room(lambda network: network._release_stale([stale]))

    # Checking ------------------------------------------------------------------------------

    def check(self, container_id: str, ifname: str, addresses: ListOf[Address] = ()) -> None:
        """Check that this owner has a lease, and has each of ``addresses`` that is in the ranges.

        O(addresses). Raises LeaseMissing, ConfigError, StoreError.
        """
        from fastipam.network import arguments
        from fastipam.owners import check_ifname

        if ifname:
            check_ifname(ifname)
        self._check(container_id, ifname, arguments.read_addresses(addresses))

    # Reserving ------------------------------------------------------------------------------

    def reserve(self, target: Target, *, owner: str = "", reason: str = "") -> list[AnyIP]:
        """Reserve addresses, for an owner or for nobody, and return them.

        ``target`` is an address or a network of ``ipaddress``, or the text of an address, a CIDR
        without host bits, or "a-b"; its addresses that the ranges can assign are reserved.
        ``owner`` is a pod's "namespace/name" or a container id, or empty for nobody. An address in
        use stays with its owner until it is released. Idempotent: a later call replaces owner and
        reason. O(addresses), in one transaction. Returns after the commit is on disk (durable
        mode). Raises ConfigError (no such address, too many), StoreError.
        """
        from fastipam.allocation import reservations
        from fastipam.network import arguments
        from fastipam.storage.records.reservation import Reservation

        owner, reason = arguments.read_text(owner, "owner"), arguments.read_text(reason, "reason")
        text = arguments.read_target(target)
        with self._store.write() as txn:
            ledger = self._enter(txn)
            wanted = reservations.assignable(self._to_assign(ledger), text)
            ledger.tick()
            each = (Reservation(*one, owner, "", reason) for one in wanted)
            reservations.reserve(ledger, each)
            ledger.save()
        return [to_ip(*one) for one in wanted]

    def unreserve(self, target: Target) -> list[AnyIP]:
        """End the reservations in a target (as of :meth:`reserve`); return their addresses.

        Sticky reservations end too, and their addresses cool down. An address in use stays with its
        owner. O(reservations of the network). Returns after the commit is on disk (durable mode).
        Raises ConfigError, StoreError.
        """
        from fastipam.addressing.parsing import parse_exclusion
        from fastipam.allocation import reservations
        from fastipam.network import arguments

        bounds = parse_exclusion(arguments.read_target(target), field="target")
        with self._store.write() as txn:
            ledger = self._books(txn)
            if ledger is None:
                return []
            ended = reservations.read_within(txn, ledger.state.pool_id, bounds)
            ledger.tick()
            reservations.unreserve(ledger, ended)
            if ended:
                ledger.save()
        return [to_ip(one.family, one.value) for one in ended]
