"""A network of a store: assign an address to an owner, give it back, say who has it.

Every public method is one LMDB transaction (nested in the caller's, if the caller has one): it
validates first, changes then, and leaves no trace when it fails. The books are kept in ledger.py.
"""

from __future__ import annotations

from fastipam import records
from fastipam._bitmap import StoredPages
from fastipam.addresses import format_ip, parse_cidr, parse_ip
from fastipam.errors import ConfigError, DuplicateAllocation, LeaseMissing, StoreCorrupt
from fastipam.lease import Lease, Owner, to_ip
from fastipam.ledger import (
    EXPIRE_PER_CALL,
    Ledger,
    cooling_of,
    find,
    read_pool,
    read_record,
    read_state,
)
from fastipam.ranges import Pool
from fastipam.records import ASSIGNED, CHECK_HINT, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from ipaddress import IPv4Address, IPv6Address

    from fastipam.ranges import RangeSet
    from fastipam.store import Snapshot, Store, Transaction

    AnyIP = IPv4Address | IPv6Address
    Wanted = str | AnyIP | tuple[int, int]

DEFAULT_COOLDOWN_S = 30.0
_RETAIN_BATCH = 256  # owners freed in one transaction of GC: other writers wait for it
_NAME_BYTES = 255  # host-local's limit (the name is a directory there), and far below LMDB's 511


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
        encoded = records.encode("name", name)
        if not 0 < len(encoded) <= _NAME_BYTES:
            raise ConfigError(
                f"the network name {name[:32]!r} is not 1 to {_NAME_BYTES} bytes long",
                field="name",
                value=name,
            )
        if not 0 <= cooldown_s < 1e9:
            raise ConfigError(
                f"cooldown {cooldown_s!r} is not a number of seconds",
                field="cooldown",
                value=cooldown_s,
            )
        self.name = name
        self.pool = pool
        self.cooldown_ns = int(cooldown_s * 1e9)
        self._store = store
        self._key = encoded
        self._remember = remember

    def __repr__(self) -> str:
        return f"<Network {self.name!r} in {self._store.path}>"

    def _find(self, txn: Transaction | Snapshot) -> tuple[int, str] | None:
        return find(txn, self._store, self._key)

    def _enter(self, txn: Transaction) -> tuple[Ledger, Pool]:
        """The network's books, made if it is new, and the ranges to assign from."""
        found = self._find(txn)
        pool = self.pool
        if found is None:
            if pool is not None:
                return Ledger.create(txn, self._store, self.name, self._key, pool), pool
        else:
            ledger = Ledger(txn, self._store, self.name, *found, pool)
            if pool is None:
                pool = ledger.stored
            elif self._remember:
                ledger.adopt_pool(self._key, pool)
            if pool.sets:
                return ledger, pool
        raise ConfigError(
            f"the ranges of network {self.name} are not known and no ranges are given",
            field="ranges",
            value=None,
        )

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
            ledger, pool = self._enter(txn)
            held = ledger.held_by(owner.name)
            if held:
                if existing == "return":
                    network_id = ledger.state.network_id
                    return _join([self._lease(txn, network_id, pool, *one) for one in held])
                raise self._duplicate(owner, held)
            requests = pool.match(wanted) if wanted else [None] * len(pool.sets)
            wall_ns = self._store.clock()
            ledger.state.tick(wall_ns)
            ledger.expire(self.cooldown_ns)
            leases = []
            for index, range_set in enumerate(pool.sets):
                value = requests[index]
                if value is None:
                    value = ledger.choose(index, range_set)
                else:
                    ledger.claim(index, range_set.family, value)
                leases.append(ledger.assign(owner, index, range_set, value, wall_ns))
            ledger.write_owner(owner.name, [(one.family, one.value) for one in leases])
            ledger.save()
        return _join(leases)

    def _duplicate(self, owner: Owner, held: Sequence[tuple[int, int]]) -> DuplicateAllocation:
        texts = tuple(format_ip(*one) for one in held)
        return DuplicateAllocation(
            f"{', '.join(texts)} is assigned to {owner.container_id} {owner.ifname} "
            f"in network {self.name} already",
            addresses=texts,
            owner=(owner.container_id, owner.ifname),
            hint='DEL comes before a second ADD; or set "repeatAdd": "return"',
        )

    def allocate_many(self, owners: Iterable[tuple[str, str]], *, netns: str = "") -> list[Lease]:
        """Assign an address of every range set to each owner, in one transaction, all or nothing.

        ``owners`` are (container id, interface) pairs, all different. The leases come in their
        order; each is that of the first range set and has the others as ``siblings``.
        O(owners). Returns after the commit is on disk (durable mode). Raises as :meth:`allocate`.
        """
        listed = [Owner(container_id, ifname, netns) for container_id, ifname in owners]
        if not listed:
            return []
        with self._store.write() as txn:
            ledger, pool = self._enter(txn)
            wall_ns = self._store.clock()
            ledger.state.tick(wall_ns)
            ledger.expire(self.cooldown_ns, EXPIRE_PER_CALL * len(listed))
            columns = []
            held = [b""] * len(listed)
            for index, range_set in enumerate(pool.sets):
                values = ledger.choose_many(index, range_set, len(listed))
                leases, packed = ledger.assign_many(listed, index, range_set, values, wall_ns)
                columns.append(leases)
                held = [before + new for before, new in zip(held, packed, strict=True)]
            keys = [ledger.owner_key(owner.name) for owner in listed]
            self._put_owners(txn, listed, list(zip(keys, held, strict=True)))
            ledger.save()
        return [_join(row) for row in zip(*columns, strict=True)]

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

    def adopt(self, owner: Owner, family: int, value: int, allocated_ns: int) -> bool:
        """Take over a lease that another plugin has given; False: it is here already.

        The network need not be known, its ranges neither; the address may lie outside them, and the
        owner may have others. Raises AddressInUse (it is somebody else's), StoreError.
        """
        with self._store.write() as txn:
            ledger = self._enter_unknown(txn)
            ledger.state.tick(self._store.clock())
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
            return Ledger.create(txn, self._store, self.name, self._key, self.pool or Pool([]))
        return Ledger(txn, self._store, self.name, *found, self.pool)

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
        # A lease imported from an old host-local tree names no interface: it belongs to the
        # container as a whole, and goes with the first interface that has none of its own.
        with self._store.write() as txn:
            for name in dict.fromkeys((ifname, "")):
                held = self._release(txn, (container_id, name))
                if held:
                    return held
        return []

    def _release(
        self, txn: Transaction, owner: tuple[str, str], newest: int | None = None
    ) -> list[tuple[int, int]]:
        """Give back what exactly this owner has, unless it is newer than ``newest``."""
        found = self._find(txn)
        if found is None:
            return []
        ledger = Ledger(txn, self._store, self.name, *found, self.pool)
        return ledger.release(records.owner_name(*owner), self.cooldown_ns, newest)

    def retain(self, valid: Collection[tuple[str, str]], before_ns: int) -> list[tuple[int, int]]:
        """Give back every lease whose owner is not in ``valid``; CNI's GC. Returns what was freed.

        ``valid`` are (container id, interface) pairs. Leases assigned at ``before_ns`` (wall clock
        nanoseconds) or later are spared: they are newer than the list. What is looked at is one
        moment's leases, what is freed is looked at again: an owner that comes back meanwhile
        keeps its new addresses. O(leases), in transactions of a bounded size.
        """
        containers = {container_id for container_id, _ in valid}
        stale: dict[tuple[str, str], int] = {}
        for _, _, record, _ in self.records():
            owner = (record.container_id, record.ifname)
            listed = owner in valid if record.ifname else record.container_id in containers
            if record.state == ASSIGNED and not listed and record.allocated_ns < before_ns:
                stale[owner] = max(record.generation, stale.get(owner, 0))
        freed = []
        owners = list(stale.items())
        for at in range(0, len(owners), _RETAIN_BATCH):
            with self._store.write() as txn:
                for owner, generation in owners[at : at + _RETAIN_BATCH]:
                    freed += self._release(txn, owner, generation)
        return freed

    # Looking --------------------------------------------------------------------------------

    def _lease(
        self, txn: Transaction | Snapshot, network_id: int, pool: Pool, family: int, value: int
    ) -> Lease:
        record = read_record(txn, self._store, network_id, family, value)
        if record is None:
            raise StoreCorrupt(
                f"{format_ip(family, value)} has an owner and no lease",
                path=self._store.path,
                hint=CHECK_HINT,
            )
        return self._view(pool, family, value, record)

    def _view(self, pool: Pool, family: int, value: int, record: Record) -> Lease:
        """A lease as its network's ranges show it: they know the prefix length and the gateway."""
        its_range = pool.range_of(family, value)
        if its_range is None:
            return Lease(self.name, family, value, None, record)
        record.length = its_range.length
        return Lease(self.name, family, value, its_range.gateway, record)

    def _pool_of(self, text: str) -> Pool:
        return read_pool(text, self.pool, self._store, self.name)

    def lookup(self, address: str | AnyIP) -> Lease | None:
        """The lease of this address, or None when it has no owner (free, cooling, reserved).

        O(1), waits for no writer. Raises ConfigError when it is no address, StoreError.
        """
        family, value = _parse_wanted(address)
        with self._store.read() as txn:
            found = self._find(txn)
            if found is None:
                return None
            record = read_record(txn, self._store, found[0], family, value)
            if record is None or record.state != ASSIGNED:
                return None
            return self._view(self._pool_of(found[1]), family, value, record)

    def leases(self) -> Iterator[Lease]:
        """Every lease in address order, IPv4 first, as of one moment.

        O(1) memory. The iterator keeps a read transaction open: exhaust or close it, the file
        cannot reuse space that is freed meanwhile.
        """
        for family, value, record, pool in self.records():
            if record.state == ASSIGNED:
                yield self._view(pool, family, value, record)

    def records(self) -> Iterator[tuple[int, int, Record, Pool]]:
        """Every used address with its record, cooling ones too, in address order, with the pool."""
        with self._store.read() as txn:
            found = self._find(txn)
            if found is None:
                return
            pool = self._pool_of(found[1])
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
                owner_key = records.owner_key(prefix, records.owner_name(container_id, name))
                raw = txn.get(owner_key, None, self._store.db_owners)
                if raw is not None:
                    return records.read_addresses(raw)
            return []

    def check(self, container_id: str, ifname: str, addresses: Iterable[Wanted] = ()) -> None:
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

    def exhausted(self) -> RangeSet | None:
        """The first range set that could not serve an ADD now, or None. O(1); changes nothing.

        A set whose addresses are all taken, but one of them only cooling, can serve.
        """
        with self._store.read() as txn:
            found = self._find(txn)
            pool = self.pool or (self._pool_of(found[1]) if found else None)
            if found is None or pool is None:
                return None
            for index, range_set in enumerate(pool.sets):
                pages = StoredPages(
                    txn.get,
                    None,
                    None,
                    self._store.db_pages,
                    records.pages_prefix(found[0], range_set.family),
                    records.page_index_bytes(range_set.family),
                )
                full = all(pages.next_free(*one) is None for one in range_set.intervals)
                early = cooling_of(txn.txn, self._store, found[0], index, range_set)
                if full and next(early, None) is None:
                    return range_set
        return None

    def current_pool(self) -> Pool | None:
        """The ranges: those given, else those the store remembers, else None."""
        if self.pool is not None:
            return self.pool
        with self._store.read() as txn:
            found = self._find(txn)
            return None if found is None else self._pool_of(found[1])

    def cursors(self) -> list[tuple[int, int] | None]:
        """Where the round robin of each range set stands: (family, address), or None."""
        with self._store.read() as txn:
            found = self._find(txn)
            if found is None:
                return []
            return read_state(txn, self._store, found[0]).all_cursors()

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
            state = read_state(txn, self._store, found[0])
            size = self._pool_of(found[1]).size + state.outside
        return {
            "size": size,
            "assigned": state.assigned,
            "cooling": state.cooling,
            "reserved": state.reserved,
            "free": size - state.used,
        }


def _parse_wanted(address: Wanted) -> tuple[int, int]:
    """An address: text (a /length is ignored), an ``ipaddress`` object or (family, integer)."""
    if isinstance(address, tuple):
        return address
    text = str(address)
    try:
        if "/" in text:
            return parse_cidr(text)[:2]
        return parse_ip(text)
    except ValueError as error:
        raise ConfigError(str(error), field="address", value=text) from None


def _join(leases: Sequence[Lease]) -> Lease:
    """The first of the leases of one owner, each knowing the others."""
    if len(leases) > 1:
        together = tuple(leases)
        for lease in together:
            lease.siblings = together
    return leases[0]
