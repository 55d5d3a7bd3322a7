"""The read-only half of a network: an address's owner and earlier owners, and what is free."""

from __future__ import annotations

from fastipam import late_errors as errors
from fastipam._ledger import ASSIGNED, network_of
from fastipam.addressing.addresses import BITS, format_ip, parse_cidr, parse_ip, prefix_bounds
from fastipam.allocation.lookup import read_record
from fastipam.configuration.policy import Policy
from fastipam.lease import Lease, join
from fastipam.network.books import Books
from fastipam.storage import tables
from fastipam.storage.records import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from ipaddress import (
        IPv4Address,
        IPv4Interface,
        IPv4Network,
        IPv6Address,
        IPv6Interface,
        IPv6Network,
    )
    from typing import Protocol, TypeVar

    from fastipam.addressing.ranges import Pool, RangeSet
    from fastipam.network.stats import NetworkStats
    from fastipam.storage.records.event import Event
    from fastipam.storage.records.lease import Record
    from fastipam.storage.records.reservation import Reservation
    from fastipam.storage.tables import Item
    from fastipam.storage.transaction import Snapshot

    AnyIP = IPv4Address | IPv6Address
    Address = str | AnyIP | IPv4Interface | IPv6Interface
    Target = Address | IPv4Network | IPv6Network

    Found = tuple[int, int, str, bytes]  # network id, pool id, its ranges as text, its name
    Paged = tuple[list[Item], bytes | None]  # and the key at which the next page starts
    Page = Callable[[Snapshot, Found, bytes], Paged]

    Item_co = TypeVar("Item_co", covariant=True)

    class ListOf(Protocol[Item_co]):
        """A list, a tuple or a set, but not a string, whose items would be its characters.

        A type checker refuses a string, because its ``__contains__`` takes only a string.
        """

        def __contains__(self, item: object, /) -> bool: ...
        def __iter__(self) -> Iterator[Item_co]: ...
        def __len__(self) -> int: ...


_EVER_NS = 1 << 64  # wall clock nanoseconds: after every event


class Reading(Books):
    """The read-only methods of a network.

    A lease of an earlier boot has no owner any more: it is not returned as a lease, but its address
    counts as assigned until it is released.
    """

    def _view(self, pool: Pool, family: int, value: int, record: Record) -> Lease:
        """Return a lease with the gateway that the network's ranges have now.

        The lease keeps the prefix length of its assignment, which its container uses, even if the
        ranges have another length now. If the ranges were not known at the assignment, the record
        has the length of a single address, and the lease gets the length of the ranges.
        """
        its_range = pool.range_of(family, value)
        if its_range is None:
            return Lease(self.name, family, value, None, record)
        if record.length == BITS[family]:
            record.length = its_range.length
        return Lease(self.name, family, value, its_range.gateway, record)

    def _is_held(self, record: Record) -> bool:
        return record.state == ASSIGNED and record.boot == self._store.boot

    @property
    def ranges(self) -> tuple[RangeSet, ...]:
        """The range sets in their order: those given to this object, else those in the store.

        They can be printed, and passed to :meth:`Ipam.network` with their exclusions. O(1).
        """
        pool = self._current_pool()
        return () if pool is None else pool.sets

    def lookup(self, address: Address) -> Lease | None:
        """Return the lease of this address, or None when the address is free, cooling or reserved.

        O(1); does not wait for a writer. Raises StoreError, and ConfigError for an invalid address.
        """
        return self._lookup(parse_wanted(address))

    def _lookup(self, address: tuple[int, int], *, of_pool: bool = False) -> Lease | None:
        """Implement :meth:`lookup`; with ``of_pool`` for a lease of any network of the pool."""
        family, value = address
        self._end_earlier_boots()
        with self._store.read() as txn:
            found = self._find(txn)
            if found is None:
                return None
            record = read_record(txn, found[1], family, value)
            if record is None or not self._is_held(record):
                return None
            if record.network_id != found[0] and not of_pool:
                return None
            return self._view(self._own_ranges(txn, found), family, value, record)

    def leases(self) -> Iterator[Lease]:
        """Yield every lease in address order, IPv4 first.

        O(1) memory. Up to 4096 leases are as of one moment. If there are more, they are read in
        pages, and each page is as of one moment: a later change is seen only if its address is
        behind the page. No read transaction is open while the caller handles a lease.
        """
        self._end_earlier_boots()
        for family, value, record, pool in self._records():
            if self._is_held(record):
                yield self._view(pool, family, value, record)

    def _records(self) -> Iterator[tuple[int, int, Record, Pool]]:
        """Yield (family, address, record, ranges) of every assigned or cooling address, in order.

        They are read in pages, as in :meth:`leases`.
        """
        from fastipam.storage.records.lease import Record

        for pool, items in self._pages(_leases_page):
            for key, raw in items:
                yield *keys.read_address_key(key)[1:], Record.read(raw), pool

    def _raw_leases(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and packed record of the addresses of :meth:`_records`; one may be damaged."""
        for _, items in self._pages(_leases_page):
            yield from items

    def _pages(self, page: Page) -> Iterator[tuple[Pool, list[Item]]]:
        """Yield the network's ranges and its entries in a table, a page at a time.

        The read transaction of a page has ended when the page is yielded: while one is open, the
        file cannot reuse space, and the caller may write to a pipe that nobody reads.
        """
        start: bytes | None = b""
        while start is not None:
            with self._store.read() as txn:
                found = self._find(txn)
                if found is None:
                    return
                # The name is looked up for each page: a restore may have given it another id.
                items, following = page(txn, found, start)
                pool = self._own_ranges(txn, found)
            yield pool, items
            start = following and following[len(keys.id_prefix(0)) :]

    def get(self, container_id: str, ifname: str = "eth0") -> Lease | None:
        """Return the lease of this owner with its ``siblings``, or None when it has none.

        It is the lease in the first range set; the siblings are in the order of the sets.
        O(addresses of the owner); does not wait for a writer. Raises ConfigError, StoreError.
        """
        from fastipam.owners import check_ifname

        if ifname:  # an imported lease may have an empty one
            check_ifname(ifname)
        return self._get(container_id, ifname)

    def _get(self, container_id: str, ifname: str) -> Lease | None:
        """Implement :meth:`get`; an imported lease may have any text as its interface."""
        keys.check_owner(container_id, ifname)
        self._end_earlier_boots()
        with self._store.read() as txn:
            found = self._find(txn)
            held = self._held(txn, found, container_id, ifname) if found else []
            if found is None or not held:
                return None
            records = [read_record(txn, found[1], *one) for one in held]
            pool, leases = self._own_ranges(txn, found), []
        for address, record in zip(held, records, strict=True):
            if record is None:
                raise self._without_lease(address)
            leases.append(self._view(pool, *address, record))
        return join(leases)

    def owned_by(self, container_id: str) -> list[Lease]:
        """Return every lease of a container, of all of its interfaces.

        The leases of one interface are ``siblings``, in the order of the range sets. O(leases of
        the network), read in pages, as in :meth:`leases`. Raises ConfigError, StoreError.
        """
        keys.check_owner(container_id, "")
        names = [one.ifname for one in self.leases() if one.container_id == container_id]
        found = [self._get(container_id, ifname) for ifname in dict.fromkeys(names)]
        return [lease for each in found if each is not None for lease in each.siblings]

    def __contains__(self, address: Address) -> bool:
        """Return whether the address is assigned now. O(1)."""
        return self.lookup(address) is not None

    def _owned(self, container_id: str, ifname: str) -> list[tuple[int, int]]:
        """Return this owner's (family, address) pairs, in the order of the range sets. O(1)."""
        keys.check_owner(container_id, ifname)
        self._end_earlier_boots()
        with self._store.read() as txn:
            found = self._find(txn)
            return self._held(txn, found, container_id, ifname) if found else []

    def _held(
        self, txn: Snapshot, found: Found, container_id: str, ifname: str
    ) -> list[tuple[int, int]]:
        network_id, pool_id = found[:2]
        prefix = keys.id_prefix(network_id)
        for name in dict.fromkeys((ifname, "")):
            owner_key = keys.owner_key(prefix, keys.owner_name(container_id, name))
            raw = tables.OWNERS.get(txn, owner_key)
            if raw is None:
                continue
            held = keys.read_held(raw, pool_id)
            record = read_record(txn, pool_id, *held[0]) if held else None
            if record is None or record.boot == self._store.boot:
                return held
        return []

    def _without_lease(self, address: tuple[int, int]) -> errors.StoreCorrupt:
        return errors.StoreCorrupt(
            f"{format_ip(*address)} has an owner, but no lease",
            path=self._store.path,
            hint=errors.CHECK_HINT,
        )

    def _check(self, container_id: str, ifname: str, wanted: Iterable[tuple[int, int]]) -> None:
        """Implement :meth:`check`, with (family, integer) pairs."""
        owner = (container_id, ifname)
        held = self._owned(*owner)
        if not held:
            raise errors.LeaseMissing(
                f"no address of network {self.name} is assigned to {container_id} {ifname}",
                owner=owner,
            )
        pool = self._current_pool()
        for one in wanted:
            if one not in held and pool is not None and pool.range_of(*one) is not None:
                text = format_ip(*one)
                raise errors.LeaseMissing(
                    f"{text} is not assigned to {container_id} {ifname} in network {self.name}",
                    address=text,
                    owner=owner,
                )

    def _require_start(self) -> None:
        """Call ``before_first``, as an allocation would, if no address was ever assigned. O(1)."""
        if self._before_first is None:
            return
        with self._store.read() as txn:
            found = self._find(txn)
            untouched = found is None or not txn.pool_state(found[1]).generation
        if untouched:
            self._before_first()

    def _is_known(self) -> bool:
        """Return whether the store has this network. O(1)."""
        with self._store.read() as txn:
            return self._pool_in(txn) is not None

    def _require_pool(self) -> None:
        """Raise ConfigError when the network cannot change to the pool that it names. Read-only."""
        if self.pool_key is None or not self.names_pool:
            return
        with self._store.read() as txn:
            found = self._find(txn)
            if found is not None and found[3] != self.pool_key:
                from fastipam.allocation import removal

                removal.require_move(txn, self.name, found, self.pool_key)

    def _require_free_gateways(self) -> None:
        """Raise ConfigError when a gateway of the ranges is assigned. O(ranges)."""
        with self._store.read() as txn:
            pool_id = self._pool_in(txn)
            if pool_id is not None and self.pool is not None:
                from fastipam.allocation import gateways

                gateways.require_free(txn, pool_id, self.pool)

    def _exhausted(self) -> RangeSet | None:
        """Return the first range set that could not serve an ADD now, or None. O(1). Read-only."""
        from fastipam.network import room

        return room.exhausted(self)

    def _current_pool(self) -> Pool | None:
        """Return the ranges of the configuration, else those in the store, else None."""
        if self.pool is not None:
            return self.pool
        with self._store.read() as txn:
            found = self._find(txn)
            return None if found is None else self._own_ranges(txn, found)

    def _remembered_policy(self) -> Policy:
        """Return the policy of the last assignment, else the default."""
        with self._store.read() as txn:
            found = self._find(txn)
            raw = tables.META.get(txn, keys.policy_key(found[0])) if found else None
        from fastipam.storage.records import policy as policy_record

        return policy_record.read(raw)

    def _cursors(self) -> list[tuple[int, int] | None]:
        """Return for each range set the (family, address) of its cursor, or None."""
        with self._store.read() as txn:
            found = self._find(txn)
            if found is None:
                return []
            return txn.pool_state(found[1]).all_cursors()

    def reservations(self) -> Iterator[Reservation]:
        """Yield the reservations in address order, sticky ones too. O(1) memory.

        It reads in pages as :meth:`leases` does.
        """
        from fastipam.allocation import reservations

        for _, items in self._pages(_reservations_page):
            yield from reservations.read_items(items)

    def reservation(self, address: Address) -> Reservation | None:
        """Return the reservation of this address, or None. O(1)."""
        from fastipam.allocation import reservations

        with self._store.read() as txn:
            pool_id = self._pool_in(txn)
            if pool_id is None:
                return None
            return reservations.get(txn, pool_id, *parse_wanted(address))

    def history(
        self,
        address: Address | None = None,
        *,
        pod: str = "",
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> Iterator[Event]:
        """Yield the events of this address, or of this pod ("namespace/name"), oldest first.

        Times are wall clock nanoseconds, inclusive. O(events that are kept), O(1) memory. It reads
        in pages as :meth:`leases` does. Raises ConfigError, StoreError.
        """
        wanted = None if address is None else parse_wanted(address)
        given: object = pod
        if not isinstance(given, str) or (pod and not all(pod.partition("/"))):
            raise errors.ConfigError(
                f"pod must be a string namespace/name, not {errors.shown(pod)}",
                field="pod",
                value=pod,
                hint="write namespace/name",
            )
        for field, time_ns in (("since_ns", since_ns), ("until_ns", until_ns)):
            if time_ns is not None:
                check_time(time_ns, field)
        return self._history(wanted, pod, since_ns, until_ns)

    def _history(
        self,
        wanted: tuple[int, int] | None,
        pod: str = "",
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> Iterator[Event]:
        """Implement :meth:`history`; ``wanted`` is (family, integer)."""
        from fastipam.allocation import history

        between = (since_ns or 0, _EVER_NS if until_ns is None else until_ns)
        for _, items in self._pages(_events_page):
            yield from history.select(items, wanted, pod, between)

    def holder_at(self, address: Address, wall_ns: int) -> Event | None:
        """Return the event that shows the owner of this address at a time, or None.

        It is the assignment, or the release if the history no longer has the assignment. None means
        that the address had no owner, or that the history does not reach back so far. O(events that
        are kept). Raises ConfigError, StoreError.
        """
        from fastipam.allocation import history

        check_time(wall_ns, "wall_ns")
        return history.holder_at(self._history(parse_wanted(address)), wall_ns)

    def _pool_name(self) -> str:
        """Return the name of the pool that a new network will have."""
        key = self._key if self.pool_key is None else self.pool_key
        return key.decode(keys.ENCODING, keys.ERRORS)

    def stats(self) -> NetworkStats:
        """Return how many addresses are in each state, in the network and in each range set.

        If another network of the same pool has an address in this network's ranges, it counts too.

        An assignment takes an address of every range set: ``can_serve`` says whether the next one
        finds them, ``used_percent`` is the percentage of the fullest set. O(1) if the network has
        one range set that is all of its pool; else O(pages of the bitmap + cooling + reserved
        addresses). Does not wait for a writer. Raises StoreError.
        """
        from fastipam.allocation import counts, states
        from fastipam.network import stats

        self._end_earlier_boots()
        with self._store.read() as txn:
            found = self._find_pool(txn)
            if found is None:
                pool_name = self._pool_name()
                size = self.pool.size if self.pool else 0
                total = {"size": size} | dict.fromkeys(states.STATES, 0) | {states.FREE: size}
                sets = counts.unused(self.pool) if self.pool else []
                others: list[counts.SetCounts] = []
            else:
                state = txn.pool_state(found[1])
                pool = self._assignable(txn, *found[:2], self._own_ranges(txn, found), found[2])
                total, sets, others = counts.of_all(txn, found[0], state, pool, found[2])
                pool_name = found[3].decode(keys.ENCODING, keys.ERRORS)
            return stats.make(self.name, pool_name, total, sets, others)


def _leases_page(txn: Snapshot, found: Found, start: bytes) -> Paged:
    prefix = keys.id_prefix(found[1])
    items, following = tables.LEASES.page(txn, prefix, prefix + start)
    return [item for item in items if is_of_network(item[1], found[0])], following


def is_of_network(raw: bytes, network_id: int) -> bool:
    """Return whether a packed lease is of this network; a damaged one counts for every network."""
    try:
        return network_of(raw) == network_id
    except errors.StoreCorrupt:
        return True


def _reservations_page(txn: Snapshot, found: Found, start: bytes) -> Paged:
    prefix = keys.id_prefix(found[1])
    return tables.RESERVATIONS.page(txn, prefix, prefix + start)


def _events_page(txn: Snapshot, found: Found, start: bytes) -> Paged:
    from fastipam.allocation import history

    return history.page(txn, found[0], keys.id_prefix(found[0]) + start)


def parse_wanted(address: Address, field: str = "address") -> tuple[int, int]:
    """Return an address as (family, integer).

    It may be a text, whose /length is ignored, or an address or interface of ``ipaddress``. Raises
    ConfigError with the field, also for a network (a text with a /length and no host bits).
    """
    text = address if isinstance(address, str) else text_of(address, field)
    try:
        if "/" not in text:
            return parse_ip(text)
        family, value, length = parse_cidr(text)
    except ValueError as error:
        raise errors.ConfigError(str(error), field=field, value=text) from None
    if BITS[family] - length > 1 and value == prefix_bounds(family, value, length)[0]:
        raise errors.ConfigError(
            f"{field} is not an address, but a network: {text!r}",
            field=field,
            value=text,
            hint=f"write {format_ip(family, value)!r} for its first address",
        )
    return family, value


def text_of(address: object, field: str) -> str:
    """Return the text of an address or interface of ``ipaddress``."""
    import ipaddress

    if isinstance(address, (ipaddress.IPv4Interface, ipaddress.IPv6Interface)):
        return str(address.ip)
    if isinstance(address, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        return str(address)
    raise errors.ConfigError(
        f"{field} is not an address: {errors.shown(address)}",
        field=field,
        value=address,
        hint="give a string, or an object of ipaddress",
    )


def check_time(time_ns: object, field: str) -> None:
    """Raise ConfigError unless this is a time in nanoseconds."""
    if type(time_ns) is not int or not 0 <= time_ns <= _EVER_NS:
        raise errors.ConfigError(
            f"{field} must be a whole number of nanoseconds since the epoch, "
            f"not {errors.shown(time_ns)}",
            field=field,
            value=time_ns,
            hint="time.time_ns() returns one",
        )
