"""A network of a store: assign an address to an owner, give it back, say who has it.

Every public method is one LMDB transaction (nested in the caller's, if the caller has one): it
validates first, changes then, and leaves no trace when it fails.
"""

from __future__ import annotations

from fastipam import records
from fastipam.addresses import BITS, format_ip, parse_cidr, parse_ip
from fastipam.errors import (
    AddressInUse,
    AddressNotInRange,
    ConfigError,
    DuplicateAllocation,
    LeaseMissing,
    PoolExhausted,
    StoreCorrupt,
)
from fastipam.lease import Lease, to_ip
from fastipam.ranges import Pool
from fastipam.records import ASSIGNED, COOLING, CHECK_HINT, NetworkState, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from ipaddress import IPv4Address, IPv6Address
    from typing import Any

    from fastipam._bitmap import StoredPages
    from fastipam.ranges import RangeSet
    from fastipam.store import Snapshot, Store, Transaction

    AnyIP = IPv4Address | IPv6Address

DEFAULT_COOLDOWN_S = 30.0
# A release adds one address to the cool-down queue, an assignment takes up to this many whose
# time is over out of it: the queue shrinks whenever it can, and no call pays for a burst.
_EXPIRE_PER_CALL = 4
_NAME_BYTES = 255  # host-local's limit (the name is a directory there), and far below LMDB's 511


class Owner:
    """Who asks for an address, and what the lease shall remember of it."""

    __slots__ = (
        "container_id",
        "ifname",
        "inode",
        "netns",
        "pod_name",
        "pod_namespace",
        "pod_uid",
    )

    def __init__(
        self,
        container_id: str,
        ifname: str,
        netns: str = "",
        inode: int = 0,
        pod_namespace: str = "",
        pod_name: str = "",
        pod_uid: str = "",
    ) -> None:
        records.check_owner(container_id, ifname)
        self.container_id = container_id
        self.ifname = ifname
        self.netns = netns
        self.inode = inode
        self.pod_namespace = pod_namespace
        self.pod_name = pod_name
        self.pod_uid = pod_uid
        for name in ("netns", "pod_namespace", "pod_name", "pod_uid"):
            if "\0" in getattr(self, name):
                raise ConfigError(
                    f"{name} contains NUL", field=name, value=getattr(self, name)
                )


class Network:
    """A named scope in which an address has at most one owner.

    Get it from :meth:`Ipam.network`. Safe to use from several threads; holds no state but its
    configuration. ``pool`` are the range sets; None: those that the store remembers.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        pool: Pool | None,
        *,
        cooldown_s: float = DEFAULT_COOLDOWN_S,
        remember: bool = True,
    ) -> None:
        encoded = name.encode(records.ENCODING, records.ERRORS)
        if not 0 < len(encoded) <= _NAME_BYTES:
            raise ConfigError(
                f"the network name {name[:32]!r} is not 1 to {_NAME_BYTES} bytes long",
                field="name",
                value=name,
            )
        if not 0 <= cooldown_s < 1e9:
            raise ConfigError(
                f"cooldown {cooldown_s!r} is not a number of seconds", field="cooldown", value=cooldown_s
            )
        self.name = name
        self.pool = pool
        self.cooldown_ns = int(cooldown_s * 1e9)
        self._store = store
        self._key = encoded
        self._remember = remember

    def __repr__(self) -> str:
        return f"<Network {self.name!r} in {self._store.path}>"

    # Reading the network's own records ------------------------------------------------------

    def _find(self, txn: Transaction | Snapshot) -> tuple[int, str] | None:
        """(network id, text of its pool), or None when the store does not know this name."""
        raw = txn.get(self._key, None, self._store.db_networks)
        if raw is None:
            return None
        return int.from_bytes(raw[:4], "big"), raw[4:].decode()

    def _stored_pool(self, text: str) -> Pool:
        pool = self.pool
        if pool is not None and pool.text == text:
            return pool
        try:
            return Pool.read(text)
        except ValueError as error:
            raise StoreCorrupt(
                f"the ranges of network {self.name} cannot be read: {text!r}",
                path=self._store.path,
                hint=CHECK_HINT,
            ) from error

    def _state(self, txn: Transaction | Snapshot, network_id: int) -> NetworkState:
        prefix = records.network_prefix(network_id)
        return NetworkState(network_id, txn.get(prefix, None, self._store.db_states))

    def _begin(self, txn: Transaction) -> tuple[NetworkState, Pool]:
        """The network's state and stored pool inside a write transaction; made if it is new."""
        found = self._find(txn)
        pool = self.pool
        if found is None:
            if pool is None:
                raise ConfigError(
                    f"network {self.name} is not known and no ranges are given",
                    field="ranges",
                    value=None,
                )
            return self._create(txn, pool), pool
        network_id, text = found
        state = self._state(txn, network_id)
        if pool is None or pool.text == text:
            return state, pool or self._stored_pool(text)
        if not self._remember:
            return state, self._stored_pool(text)
        self._write_pool(txn, network_id, pool)
        self._recount(txn, state, pool)
        return state, pool

    def _create(self, txn: Transaction, pool: Pool) -> NetworkState:
        db = self._store.db_meta
        network_id = int.from_bytes(txn.get(b"last network", b"", db), "big") + 1
        txn.put(b"last network", network_id.to_bytes(4, "big"), db=db)
        self._write_pool(txn, network_id, pool)
        return NetworkState(network_id, None)

    def _write_pool(self, txn: Transaction, network_id: int, pool: Pool) -> None:
        prefix = records.network_prefix(network_id)
        txn.put(self._key, prefix + pool.text.encode(), db=self._store.db_networks)

    def _recount(self, txn: Transaction, state: NetworkState, pool: Pool) -> None:
        """The ranges have changed: count anew which used addresses lie outside. O(addresses)."""
        state.outside = sum(
            not pool.holds(family, value)
            for db in (self._store.db_leases, self._store.db_reservations)
            for family, value in self._addresses(txn.txn, db, state.network_id)
        )

    @staticmethod
    def _addresses(txn: Any, db: Any, network_id: int) -> Iterator[tuple[int, int]]:
        prefix = records.network_prefix(network_id)
        with txn.cursor(db) as cursor:
            if not cursor.set_range(prefix):
                return
            for key in cursor.iternext(keys=True, values=False):
                if key[:4] != prefix:
                    return
                yield key[4], int.from_bytes(key[5:], "big")

    def _end(self, txn: Transaction, state: NetworkState) -> None:
        prefix = records.network_prefix(state.network_id)
        txn.put(prefix, state.pack(), True, True, False, self._store.db_states)

    def _record(self, txn: Transaction | Snapshot, key: bytes) -> Record | None:
        raw = txn.get(key, None, self._store.db_leases)
        return None if raw is None else Record.read(raw)

    # Assigning ------------------------------------------------------------------------------

    def allocate(
        self,
        container_id: str,
        ifname: str = "eth0",
        *,
        addresses: Iterable[str | AnyIP] = (),
        existing: str = "error",
        netns: str = "",
        inode: int = 0,
        pod_namespace: str = "",
        pod_name: str = "",
        pod_uid: str = "",
    ) -> Lease:
        """Assign one address of every range set to this owner, all or nothing.

        ``addresses`` are wanted ones, at most one a range set; the sets that none of them lies in
        choose for themselves, round robin. ``existing`` says what happens when the owner
        has addresses already: "error", or "return" them. ``netns`` and ``inode`` (of the network
        namespace) and the pod's names are kept on the lease.

        O(number of range sets and their intervals), whatever the occupancy. Returns after the
        commit is on disk (durable mode). Raises PoolExhausted, AddressInUse,
        AddressNotInRange, DuplicateAllocation, ConfigError, StoreError; then nothing has changed,
        not even where the round robin stands.
        """
        owner = Owner(container_id, ifname, netns, inode, pod_namespace, pod_name, pod_uid)
        wanted = [_parse_wanted(one) for one in addresses] if addresses else []
        if existing not in ("error", "return"):
            raise ConfigError(
                f"existing {existing!r} is neither 'error' nor 'return'",
                field="existing",
                value=existing,
            )
        with self._store.write() as txn:
            state, stored = self._begin(txn)
            pool = self.pool or stored
            owner_key = records.owner_key(
                records.network_prefix(state.network_id), container_id, ifname
            )
            raw = txn.get(owner_key, None, self._store.db_owners)
            if raw is not None:
                held = records.read_addresses(raw)
                if existing == "return":
                    return _join([self._lease(txn, state, pool, *one) for one in held])
                raise self._duplicate(owner, held)
            requests = self._match(pool, wanted)
            wall_ns = self._store.clock()
            state.tick(wall_ns)
            if state.cooling:
                self._expire(txn, state, stored)
            leases = []
            for index, range_set in enumerate(pool.sets):
                pages = txn.pages(state.network_id, range_set.family)
                request = requests[index]
                if request is None:
                    value = self._choose(txn, state, stored, pages, index, range_set)
                else:
                    value = request
                    self._claim(txn, state, stored, pages, range_set.family, value)
                state.move_cursor(index, range_set.family, value)
                leases.append(
                    self._assign(txn, state, stored, owner, index, range_set, value, wall_ns)
                )
            txn.put(
                owner_key,
                records.pack_addresses([(lease.family, lease.value) for lease in leases]),
                True,
                True,
                False,
                self._store.db_owners,
            )
            self._end(txn, state)
        return _join(leases)

    def _duplicate(self, owner: Owner, held: list[tuple[int, int]]) -> DuplicateAllocation:
        texts = tuple(format_ip(*one) for one in held)
        return DuplicateAllocation(
            f"{', '.join(texts)} is assigned to {owner.container_id} {owner.ifname} "
            f"in network {self.name} already",
            addresses=texts,
            owner=(owner.container_id, owner.ifname),
            hint='DEL comes before a second ADD; or set "repeatAdd": "return"',
        )

    def _match(self, pool: Pool, wanted: list[tuple[int, int]]) -> list[int | None]:
        """For each range set the address that is wanted of it, or None."""
        requests: list[int | None] = [None] * len(pool.sets)
        left = list(dict.fromkeys(wanted))
        for index, range_set in enumerate(pool.sets):
            for one in left:
                found = range_set.range_of(one[1]) if one[0] == range_set.family else None
                if found is None:
                    continue
                if one[1] not in range_set:
                    why = (
                        "the gateway of its range"
                        if one == found.gateway
                        else "excluded by the configuration"
                    )
                    raise AddressNotInRange(
                        f"the requested address {format_ip(*one)} is {why}",
                        addresses=(format_ip(*one),),
                    )
                requests[index] = one[1]
                left.remove(one)
                break
        if left:
            texts = tuple(format_ip(*one) for one in left)
            raise AddressNotInRange(
                f"no range set of network {self.name} can serve the requested "
                f"{' '.join(texts)}: it is outside, or its set serves another request already",
                addresses=texts,
                hint=f"the ranges are {'; '.join(map(str, pool.sets))}",
            )
        return requests

    def _choose(
        self,
        txn: Transaction,
        state: NetworkState,
        stored: Pool,
        pages: StoredPages,
        index: int,
        range_set: RangeSet,
    ) -> int:
        """The next free address of a range set; if there is none, the one that cools longest."""
        for low, high in range_set.after(state.cursor(index, range_set.family)):
            found = pages.next_free(low, high)
            if found is not None:
                pages.acquire(found)
                if not self._remember:
                    state.outside += not stored.holds(range_set.family, found)
                return found
        for value in self._longest_cooling(txn, state, index, range_set, 1):
            return value
        raise self._exhausted(range_set, 1)

    def _exhausted(self, range_set: RangeSet, wanted: int) -> PoolExhausted:
        many = f" ({wanted} were wanted)" if wanted > 1 else ""
        return PoolExhausted(
            f"no address is free in range set {range_set} of network {self.name}{many}",
            network=self.name,
            ranges=str(range_set),
            wanted=wanted,
            hint="look for leases that nobody uses, or give the network more ranges",
        )

    def _claim(
        self,
        txn: Transaction,
        state: NetworkState,
        stored: Pool,
        pages: StoredPages,
        family: int,
        value: int,
    ) -> None:
        """Take a requested address: a free one, or one that is only cooling."""
        if pages.acquire(value):
            if not self._remember:
                state.outside += not stored.holds(family, value)
            return
        record = self._record(txn, records.address_key(state.network_id, family, value))
        if record is not None and record.state == COOLING:
            self._warm_up(txn, state, record, family, value)
            return
        owner = (record.container_id, record.ifname) if record else None
        text = format_ip(family, value)
        raise AddressInUse(
            f"the requested address {text} is "
            + (f"assigned to {owner[0]} {owner[1]}" if owner else "reserved"),
            address=text,
            owner=owner,
        )

    def _assign(
        self,
        txn: Transaction,
        state: NetworkState,
        stored: Pool,
        owner: Owner,
        index: int,
        range_set: RangeSet,
        value: int,
        wall_ns: int,
    ) -> Lease:
        """Write the lease of an address whose bit is set."""
        family = range_set.family
        its_range = range_set.range_of(value)
        length = its_range.length if its_range else BITS[family]
        state.generation += 1
        state.assigned += 1
        record = Record(
            ASSIGNED,
            length,
            index,
            self._store.boot,
            state.generation,
            wall_ns,
            0,
            owner.inode,
            owner.container_id,
            owner.ifname,
            owner.netns,
            owner.pod_namespace,
            owner.pod_name,
            owner.pod_uid,
        )
        key = records.address_key(state.network_id, family, value)
        txn.put(key, record.pack(), True, True, False, self._store.db_leases)
        return Lease(
            self.name, family, value, its_range.gateway if its_range else None, record
        )

    def allocate_many(
        self, owners: Iterable[tuple[str, str]], *, netns: str = ""
    ) -> list[Lease]:
        """Assign an address of every range set to each owner, in one transaction, all or nothing.

        ``owners`` are (container id, interface) pairs, all different. The leases come in their
        order; each is that of the first range set and has the others as ``siblings``.
        O(owners). Returns after the commit is on disk (durable mode). Raises as :meth:`allocate`.
        """
        listed = [Owner(container_id, ifname, netns) for container_id, ifname in owners]
        if not listed:
            return []
        with self._store.write() as txn:
            state, stored = self._begin(txn)
            pool = self.pool or stored
            wall_ns = self._store.clock()
            state.tick(wall_ns)
            if state.cooling:
                self._expire(txn, state, stored, _EXPIRE_PER_CALL * len(listed))
            columns = []
            for index, range_set in enumerate(pool.sets):
                values = self._choose_many(txn, state, stored, index, range_set, len(listed))
                columns.append(self._assign_many(txn, state, listed, index, range_set, values, wall_ns))
            prefix = records.network_prefix(state.network_id)
            rows = list(zip(*columns, strict=True))
            items = [
                (
                    records.owner_key(prefix, owner.container_id, owner.ifname),
                    records.pack_addresses([(lease.family, lease.value) for lease in row]),
                )
                for owner, row in zip(listed, rows, strict=True)
            ]
            self._put_owners(txn, listed, items)
            self._end(txn, state)
        return [_join(list(row)) for row in rows] if len(columns) > 1 else list(columns[0])

    def _put_owners(
        self, txn: Transaction, listed: list[Owner], items: list[tuple[bytes, bytes]]
    ) -> None:
        """Enter new owners in key order; DuplicateAllocation when one is not new."""
        db = self._store.db_owners
        with txn.txn.cursor(db) as cursor:
            consumed, added = cursor.putmulti(sorted(items), dupdata=False, overwrite=False)
        if consumed == added:
            return
        seen = set()
        for owner, (key, value) in zip(listed, items, strict=True):
            held = txn.get(key, b"", db)
            if key in seen or held != value:
                raise self._duplicate(owner, records.read_addresses(held))
            seen.add(key)
        raise AssertionError("an owner was refused, and none is there twice")

    def _choose_many(
        self,
        txn: Transaction,
        state: NetworkState,
        stored: Pool,
        index: int,
        range_set: RangeSet,
        wanted: int,
    ) -> list[int]:
        """``wanted`` addresses of a range set in the order in which single calls would give them."""
        family = range_set.family
        pages = txn.pages(state.network_id, family)
        values: list[int] = []
        for low, high in range_set.after(state.cursor(index, family)):
            values += pages.take(low, high, wanted - len(values))
            if len(values) == wanted:
                break
        if not self._remember:
            state.outside += sum(not stored.holds(family, value) for value in values)
        if len(values) < wanted:
            missing = wanted - len(values)
            values += self._longest_cooling(txn, state, index, range_set, missing)
            if len(values) < wanted:
                raise self._exhausted(range_set, wanted)
        state.move_cursor(index, family, values[-1])
        return values

    def _assign_many(
        self,
        txn: Transaction,
        state: NetworkState,
        owners: list[Owner],
        index: int,
        range_set: RangeSet,
        values: list[int],
        wall_ns: int,
    ) -> list[Lease]:
        """Write the leases of addresses whose bits are set, in bulk."""
        family = range_set.family
        boot, generation, network_id = self._store.boot, state.generation, state.network_id
        its_range = range_set.ranges[0]
        items = []
        leases = []
        for owner, value in zip(owners, values, strict=True):
            if not its_range.start <= value <= its_range.end:
                its_range = range_set.range_of(value) or its_range
            generation += 1
            record = Record(
                ASSIGNED,
                its_range.length,
                index,
                boot,
                generation,
                wall_ns,
                0,
                0,
                owner.container_id,
                owner.ifname,
                owner.netns,
            )
            items.append((records.address_key(network_id, family, value), record.pack()))
            leases.append(Lease(self.name, family, value, its_range.gateway, record))
        state.generation = generation
        state.assigned += len(items)
        with txn.txn.cursor(self._store.db_leases) as cursor:
            cursor.putmulti(items)
        return leases

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
        records.check_owner(container_id, ifname)
        store = self._store
        with store.write() as txn:
            found = self._find(txn)
            if found is None:
                return []
            network_id, text = found
            prefix = records.network_prefix(network_id)
            owner_key = records.owner_key(prefix, container_id, ifname)
            raw = txn.get(owner_key, None, store.db_owners)
            if raw is None and ifname:
                # A lease imported from an old host-local tree names no interface: it belongs to
                # the container as a whole, and goes with the first interface that has none.
                ifname = ""
                owner_key = records.owner_key(prefix, container_id, ifname)
                raw = txn.get(owner_key, None, store.db_owners)
            if raw is None:
                return []
            held = records.read_addresses(raw)
            state = self._state(txn, network_id)
            now = state.tick(store.clock())
            for family, value in held:
                key = records.address_key(network_id, family, value)
                record = self._record(txn, key)
                if record is None or not record.is_owned_by(container_id, ifname):
                    raise StoreCorrupt(
                        f"{format_ip(family, value)} is entered for {container_id} {ifname}, "
                        "but its lease says otherwise",
                        path=store.path,
                        hint=CHECK_HINT,
                    )
                self._cool(txn, state, text, key, record, family, value, now)
            txn.delete(owner_key, b"", store.db_owners)
            self._end(txn, state)
        return held

    def _cool(
        self,
        txn: Transaction,
        state: NetworkState,
        text: str,
        key: bytes,
        record: Record,
        family: int,
        value: int,
        now: int,
    ) -> None:
        """An assigned address begins to cool, or is free at once when there is no cool-down."""
        state.assigned -= 1
        if not self.cooldown_ns:
            txn.delete(key, b"", self._store.db_leases)
            self._free(txn, state, self._stored_pool(text), family, value)
            return
        state.cooling += 1
        record.state = COOLING
        record.released = now
        txn.put(key, record.pack(), True, True, False, self._store.db_leases)
        queued = records.cooldown_key(state.network_id, record.set_index, now, family, value)
        txn.put(queued, b"", True, True, False, self._store.db_cooldown)

    def _free(
        self, txn: Transaction, state: NetworkState, stored: Pool, family: int, value: int
    ) -> None:
        """Clear the bit of an address whose records are gone."""
        txn.pages(state.network_id, family).release(value)
        if state.outside:
            state.outside -= not stored.holds(family, value)

    def _warm_up(
        self, txn: Transaction, state: NetworkState, record: Record, family: int, value: int
    ) -> None:
        """Take a cooling address out of the queue; its bit stays set."""
        key = records.cooldown_key(
            state.network_id, record.set_index, record.released, family, value
        )
        txn.delete(key, b"", self._store.db_cooldown)
        state.cooling -= 1

    def _expire(
        self, txn: Transaction, state: NetworkState, stored: Pool, limit: int = _EXPIRE_PER_CALL
    ) -> None:
        """Free up to ``limit`` addresses whose cool-down is over. O(limit + number of sets)."""
        due = state.clock - self.cooldown_ns
        prefix = records.network_prefix(state.network_id)
        seek = prefix
        with txn.txn.cursor(self._store.db_cooldown) as cursor:
            while limit and cursor.set_range(seek):
                key = cursor.key()
                if key[:4] != prefix:
                    return
                _, index, released, family, value = records.read_cooldown_key(key)
                if released > due:
                    seek = records.cooldown_prefix(state.network_id, index + 1)
                    continue
                cursor.delete()
                limit -= 1
                state.cooling -= 1
                lease_key = records.address_key(state.network_id, family, value)
                txn.delete(lease_key, b"", self._store.db_leases)
                self._free(txn, state, stored, family, value)

    def _longest_cooling(
        self, txn: Transaction, state: NetworkState, index: int, range_set: RangeSet, wanted: int
    ) -> list[int]:
        """Take up to ``wanted`` cooling addresses of a range set early, longest idle first.

        The queue is kept by range set, so those that are looked at and not taken are only the
        ones that a change of the configuration has put outside.
        """
        found: list[int] = []
        if not state.cooling:
            return found
        prefix = records.cooldown_prefix(state.network_id, index)
        with txn.txn.cursor(self._store.db_cooldown) as cursor:
            more = cursor.set_range(prefix)
            while more and len(found) < wanted:
                key = cursor.key()
                if key[:6] != prefix:
                    break
                _, _, _, family, value = records.read_cooldown_key(key)
                if family == range_set.family and value in range_set:
                    found.append(value)
                    state.cooling -= 1
                    more = cursor.delete() and bool(cursor.key())
                else:
                    more = cursor.next()
        return found

    # Looking --------------------------------------------------------------------------------

    def _lease(
        self, txn: Transaction | Snapshot, state: NetworkState, pool: Pool, family: int, value: int
    ) -> Lease:
        record = self._record(txn, records.address_key(state.network_id, family, value))
        if record is None:
            raise StoreCorrupt(
                f"{format_ip(family, value)} has an owner and no lease",
                path=self._store.path,
                hint=CHECK_HINT,
            )
        its_range = pool.range_of(family, value)
        return Lease(self.name, family, value, its_range.gateway if its_range else None, record)

    def lookup(self, address: str | AnyIP) -> Lease | None:
        """The lease of this address, or None when it has no owner (free, cooling, reserved).

        O(1), waits for no writer. Raises ConfigError when it is no address, StoreError.
        """
        family, value = _parse_wanted(address)
        with self._store.read() as txn:
            found = self._find(txn)
            if found is None:
                return None
            record = self._record(txn, records.address_key(found[0], family, value))
            if record is None or record.state != ASSIGNED:
                return None
            its_range = self._stored_pool(found[1]).range_of(family, value)
            return Lease(
                self.name, family, value, its_range.gateway if its_range else None, record
            )

    def leases(self) -> Iterator[Lease]:
        """Every lease in address order, IPv4 first, as of one moment.

        O(1) memory. The iterator keeps a read transaction open: exhaust or close it, the file
        cannot reuse space that is freed meanwhile.
        """
        for family, value, record, pool in self.records():
            if record.state == ASSIGNED:
                its_range = pool.range_of(family, value)
                router = its_range.gateway if its_range else None
                yield Lease(self.name, family, value, router, record)

    def records(self) -> Iterator[tuple[int, int, Record, Pool]]:
        """Every used address with its record, cooling ones too, in address order, with the pool."""
        with self._store.read() as txn:
            found = self._find(txn)
            if found is None:
                return
            pool = self._stored_pool(found[1])
            prefix = records.network_prefix(found[0])
            with txn.txn.cursor(self._store.db_leases) as cursor:
                if not cursor.set_range(prefix):
                    return
                for key, raw in cursor:
                    if key[:4] != prefix:
                        return
                    yield key[4], int.from_bytes(key[5:], "big"), Record.read(raw), pool

    def owned(self, container_id: str, ifname: str) -> list[tuple[int, int]]:
        """The (family, address) pairs of this owner, in the order of the range sets. O(1)."""
        records.check_owner(container_id, ifname)
        with self._store.read() as txn:
            found = self._find(txn)
            if found is None:
                return []
            prefix = records.network_prefix(found[0])
            for name in dict.fromkeys((ifname, "")):
                raw = txn.get(
                    records.owner_key(prefix, container_id, name), None, self._store.db_owners
                )
                if raw is not None:
                    return records.read_addresses(raw)
            return []

    def check(
        self, container_id: str, ifname: str, addresses: Iterable[str | AnyIP] = ()
    ) -> None:
        """Assert that this owner holds a lease, and each of ``addresses`` that lies in the ranges.

        Raises LeaseMissing, ConfigError, StoreError. O(addresses).
        """
        wanted = [_parse_wanted(one) for one in addresses]
        owner = (container_id, ifname)
        held = self.owned(*owner)
        if not held:
            raise LeaseMissing(
                f"no address of network {self.name} is assigned to {container_id} {ifname}",
                owner=owner,
            )
        pool = self.current_pool()
        for one in wanted:
            if one not in held and pool is not None and pool.range_of(*one) is not None:
                text = format_ip(*one)
                raise LeaseMissing(
                    f"{text} is not assigned to {container_id} {ifname} in network {self.name}",
                    address=text,
                    owner=owner,
                )

    def current_pool(self) -> Pool | None:
        """The ranges: those given, else those the store remembers, else None."""
        if self.pool is not None:
            return self.pool
        with self._store.read() as txn:
            found = self._find(txn)
            return None if found is None else self._stored_pool(found[1])

    def stats(self) -> dict[str, int]:
        """``size`` and its parts ``assigned``, ``cooling``, ``reserved`` and ``free``. O(1).

        ``size`` are the addresses that the ranges can hand out, and those still in use that a
        change of the ranges has put outside: the four states always add up to it. An address
        whose cool-down is over counts as cooling until an assignment takes it out of the queue.
        """
        with self._store.read() as txn:
            found = self._find(txn)
            if found is None:
                size = self.pool.size if self.pool else 0
                return {"size": size, "assigned": 0, "cooling": 0, "reserved": 0, "free": size}
            state = self._state(txn, found[0])
            size = self._stored_pool(found[1]).size + state.outside
        return {
            "size": size,
            "assigned": state.assigned,
            "cooling": state.cooling,
            "reserved": state.reserved,
            "free": size - state.used,
        }


def _parse_wanted(address: str | AnyIP) -> tuple[int, int]:
    """An address, as text (a /length behind it is ignored) or as an ``ipaddress`` object."""
    text = str(address)
    try:
        if "/" in text:
            return parse_cidr(text)[:2]
        return parse_ip(text)
    except ValueError as error:
        raise ConfigError(str(error), field="address", value=text) from None


def _join(leases: Sequence[Lease]) -> Lease:
    """The first of the leases of one owner, each knowing the others."""
    together = tuple(leases)
    for lease in together:
        lease.siblings = together
    return together[0]


def is_listed(record: Record, valid: Collection[tuple[str, str]]) -> bool:
    """Whether a runtime's list of valid attachments names the record's owner.

    An owner without an interface (imported from an old host-local tree) is matched by its container
    alone.
    """
    if record.ifname:
        return (record.container_id, record.ifname) in valid
    return any(container_id == record.container_id for container_id, _ in valid)
