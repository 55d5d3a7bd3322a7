"""Reserve addresses, for an owner or for nobody, and find and expire reservations.

An operator makes a reservation, or a release makes a sticky one for the pod that had the address.
While its owner has the address, the reservation stays beside the lease, and the address counts as
assigned. The table ``reservations`` has reservations by address. The table ``sticky`` lists them by
owner (keys with "k"), and those that expire also by time (keys with "t").

Everything here works on the records of one network (``accounts``) and commits nothing.
"""

from __future__ import annotations

from itertools import islice

from fastipam import errors
from fastipam.addressing.addresses import BITS, format_ip
from fastipam.addressing.parsing import parse_exclusion
from fastipam.allocation import cooldown
from fastipam.allocation.lookup import owns, read_record
from fastipam.errors import AddressInUse, ConfigError, StoreCorrupt
from fastipam.storage import tables
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_record
from fastipam.storage.records.lease import COOLING
from fastipam.storage.records.reservation import Reservation, due_key, owner_index_key, read_due_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fastipam._ledger import Accounts, PoolState
    from fastipam.addressing.ranges import Pool, RangeSet
    from fastipam.lease import Requester
    from fastipam.storage.records.lease import Record
    from fastipam.storage.transaction import Snapshot, Transaction

    Address = tuple[int, int]  # family, integer

_MOST_AT_ONCE = 1 << 16  # addresses reserved in one transaction, which takes a second or two


def _names(owner: Requester) -> list[tuple[str, str]]:
    """Return each (owner, interface) that a reservation for this owner may name.

    The most specific one comes first.
    """
    named = [(owner.pod, owner.ifname), (owner.pod, "")] if owner.pod else []
    return [*named, (owner.container_id, "")]


def get(txn: Snapshot | Transaction, pool_id: int, family: int, value: int) -> Reservation | None:
    """Return the reservation of an address, or None. O(1)."""
    key = keys.address_key(pool_id, family, value)
    raw = tables.RESERVATIONS.get(txn, key)
    return None if raw is None else Reservation.read(family, value, raw)


def is_for(reservation: Reservation, owner: Requester) -> bool:
    """Return whether ``owner`` may have the reserved address."""
    return bool(reservation.owner) and (reservation.owner, reservation.ifname) in _names(owner)


def find(accounts: Accounts, family: int, value: int) -> Reservation | None:
    """Return the reservation of an address of this ledger's pool, or None."""
    return get(accounts.txn, accounts.state.pool_id, family, value)


# Owners ---------------------------------------------------------------------------------------


def kept_for(accounts: Accounts, owner: Requester) -> list[Address]:
    """Return the addresses that are reserved for this owner, leased or not. O(their number)."""
    found: list[Address] = []
    for name, ifname in _names(owner):
        key = owner_index_key(accounts.state.prefix, name, ifname)
        raw = tables.STICKY.get(accounts.txn, key)
        if raw is not None:
            found += keys.read_addresses(raw)
    return found


def first_inside(accounts: Accounts, range_set: RangeSet, kept: Sequence[Address]) -> int | None:
    """Return the first address of ``kept`` that a range set may assign and that has no lease."""
    for family, value in kept:
        if (
            family == range_set.family
            and (value in range_set or range_set.is_static(value))
            and owns(accounts, range_set, value)
            and not _is_leased(accounts, family, value)
        ):
            return value
    return None


def _is_leased(accounts: Accounts, family: int, value: int) -> bool:
    key = keys.address_key(accounts.state.pool_id, family, value)
    return tables.LEASES.get(accounts.txn, key) is not None


class _Lists:
    """The lists of the addresses that are reserved for owners.

    An owner may have thousands of addresses, and its list is one value. So each list is read once,
    and written once after all changes.
    """

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._lists: dict[bytes, dict[Address, None]] = {}

    def of(self, reservation: Reservation) -> dict[Address, None]:
        """Return the list of a reservation's owner: the addresses that are reserved for it."""
        accounts = self._accounts
        key = owner_index_key(accounts.state.prefix, reservation.owner, reservation.ifname)
        found = self._lists.get(key)
        if found is None:
            raw = tables.STICKY.get(accounts.txn, key) or b""
            found = self._lists[key] = dict.fromkeys(keys.read_addresses(raw))
        return found

    def write(self) -> None:
        """Write the lists that have changed. Call it once, after all changes."""
        txn = self._accounts.txn
        for key, addresses in self._lists.items():
            if addresses:
                tables.STICKY.put(txn, key, keys.pack_addresses(list(addresses)))
            else:
                tables.STICKY.delete(txn, key)


def take(accounts: Accounts, family: int, value: int) -> None:
    """Consume the reservation of an address that is now assigned; delete it if it is sticky."""
    accounts.state.reserved -= 1
    reservation = find(accounts, family, value)
    if reservation is not None and reservation.sticky:
        lists = _Lists(accounts)
        _remove(accounts, reservation, lists)
        lists.write()


# Giving back ----------------------------------------------------------------------------------


def keep(accounts: Accounts, key: bytes) -> bool:
    """Mark a released address as reserved if it has a reservation; return whether it has one."""
    if tables.RESERVATIONS.get(accounts.txn, key) is None:
        return False
    tables.LEASES.delete(accounts.txn, key)
    accounts.state.reserved += 1
    return True


def hold(
    accounts: Accounts, key: bytes, lease: Record, address: Address, together: list[Address]
) -> None:
    """Reserve a released address for its pod, for ``sticky_s`` but at least for the cool-down.

    If another address of the same range set was reserved for the pod before, that reservation ends,
    unless the address is released ``together`` with this one.
    """
    until = accounts.state.clock + max(lease.sticky_s * 10**9, accounts.policy.cooldown_ns)
    pod = f"{lease.pod_namespace}/{lease.pod_name}"
    kept = Reservation(*address, pod, lease.ifname, "sticky", until)
    lists = _Lists(accounts)
    number = accounts.number_of(*address)
    for one in list(lists.of(kept)):
        if one in together:
            continue
        earlier = find(accounts, *one)
        same_set = accounts.number_of(*one) in (number, keys.NO_SET)
        if (earlier is None or earlier.sticky) and same_set:
            _end(accounts, *one, lists)
    tables.LEASES.delete(accounts.txn, key)
    accounts.state.reserved += 1
    _add(accounts, kept, lists)
    lists.write()


def expire(accounts: Accounts, limit: int) -> int:
    """Expire up to ``limit`` sticky reservations and return how many there were. O(limit)."""
    due = list(islice(due_by(accounts.txn, accounts.state, accounts.state.clock), limit))
    lists = _Lists(accounts)
    for family, value in due:
        _end(accounts, family, value, lists)
    lists.write()
    return len(due)


def due_by(txn: Snapshot | Transaction, state: PoolState, clock: int) -> Iterator[Address]:
    """Yield the addresses whose reservation has expired at this time of the pool's clock."""
    start = due_key(state.prefix, 0, 4, 0)[:5]
    for key in tables.STICKY.scan_keys(txn, start):
        until, family, value = read_due_key(key)
        if until > clock:
            return
        yield family, value


def _end(accounts: Accounts, family: int, value: int, lists: _Lists) -> None:
    """End a reservation. An address in use stays with its owner; any other becomes free or cools.

    It cools if the reservation has not expired: the pod had the address, and no record says when it
    released it. After an expired reservation it need not cool, because the reservation has lasted
    at least as long as the cool-down.
    """
    reservation = find(accounts, family, value)
    if reservation is None:
        raise StoreCorrupt(
            f"{format_ip(family, value)} is kept for an owner, but has no reservation",
            path=accounts.store.path,
            hint=errors.CHECK_HINT,
        )
    _remove(accounts, reservation, lists)
    if _is_leased(accounts, family, value):
        return
    accounts.state.reserved -= 1
    if reservation.until > accounts.state.clock and accounts.policy.cooldown_ns:
        _cool(accounts, reservation)
    else:
        accounts.clear(family, value)


def _cool(accounts: Accounts, reservation: Reservation) -> None:
    """Let an address that was reserved for a pod cool down, as if the pod had released a lease."""
    state = accounts.state
    family, value = reservation.family, reservation.value
    its_range = accounts.stored.range_of(family, value)
    namespace, _, name = reservation.owner.partition("/")
    state.generation += 1
    record = lease_record.Record(
        lease_record.ASSIGNED,
        BITS[family] if its_range is None else its_range.length,
        accounts.number_of(family, value),
        accounts.store.boot,
        state.generation,
        accounts.store.clock(),
        released=0,
        inode=0,
        mount_ns=0,
        sticky_s=0,
        born_ns=0,
        network_id=accounts.network_id,
        container_id="",
        ifname=reservation.ifname,
        pod_namespace=namespace,
        pod_name=name,
    )
    key = keys.address_key(state.pool_id, family, value)
    accounts.cool(key, record.pack(), family, value)


# By an operator -------------------------------------------------------------------------------


def assignable(pool: Pool, target: str) -> list[tuple[int, int]]:
    """Return the addresses of ``target`` that the ranges can assign.

    ``target`` is an address, a CIDR or "a-b". Raises ConfigError when it has no such address, or
    too many.
    """
    family, low, high = parse_exclusion(target, field="target")
    inside = [
        (max(low, first), min(high, last))
        for each in pool.sets
        if each.family == family
        for first, last in (*each.intervals, *each.static)
        if first <= high and low <= last
    ]
    count = sum(last - first + 1 for first, last in inside)
    if not count:
        raise ConfigError(
            f"no address of {target} can be assigned: {_why_not(pool, family, low, high)}"
            if low < high
            else f"{target} can never be assigned: {_why_not(pool, family, low, high)}",
            field="target",
            value=target,
            hint=f"the ranges are {'; '.join(map(str, pool.sets))}",
        )
    if count > _MOST_AT_ONCE:
        raise ConfigError(
            f"{target} has {count} addresses, but at most {_MOST_AT_ONCE} can be reserved at once",
            field="target",
            value=target,
            hint="add them to ipam.exclude in the configuration instead",
        )
    return [(family, value) for first, last in inside for value in range(first, last + 1)]


def _why_not(pool: Pool, family: int, low: int, high: int) -> str:
    """Return why no address of low..high can be assigned."""
    for each in pool.sets:
        for one in each.ranges:
            if each.family != family or high < one.start or one.end < low:
                continue
            if one.gateway == (family, max(low, one.start)) == (family, min(high, one.end)):
                return (
                    "the address is the gateway"
                    if low == high
                    else "only the gateway is in a range"
                )
            return (
                "the address is excluded by the configuration"
                if low == high
                else "the addresses are excluded by the configuration"
            )
    return (
        "the address is outside the ranges"
        if low == high
        else "the addresses are outside the ranges"
    )


def reserve(accounts: Accounts, reservations: Iterable[Reservation]) -> None:
    """Make reservations, or change owner and reason of existing ones. O(their number).

    An address in use stays with its owner until it is released.
    """
    lists = _Lists(accounts)
    for one in reservations:
        before = find(accounts, one.family, one.value)
        if before is not None:
            _remove(accounts, before, lists)
        else:
            _set_aside(accounts, one)
        _add(accounts, one, lists)
        accounts.note(event_record.RESERVED, 0, (one.family, one.value), _texts(one))
    lists.write()


def _set_aside(accounts: Accounts, reservation: Reservation) -> None:
    """Make an address that has no reservation reserved, if it is free or cooling."""
    family, value = reservation.family, reservation.value
    if accounts.txn.pages(accounts.state.pool_id, family).acquire(value):
        accounts.state.reserved += 1
        accounts.state.outside += not accounts.stored.holds(family, value)
        return
    record = read_record(accounts.txn, accounts.pool_id, family, value)
    if record is None:
        raise AddressInUse(
            f"{reservation.address} is marked as used, but the store has no lease for it",
            address=reservation.address,
            hint=errors.CHECK_HINT,
        )
    if record.state == COOLING:
        cooldown.leave(accounts, record, family, value)
        key = keys.address_key(accounts.state.pool_id, family, value)
        tables.LEASES.delete(accounts.txn, key)
        accounts.state.reserved += 1


def unreserve(accounts: Accounts, reservations: Iterable[Reservation]) -> None:
    """End reservations. An address in use stays with its owner. O(their number)."""
    lists = _Lists(accounts)
    for one in reservations:
        _end(accounts, one.family, one.value, lists)
        accounts.note(event_record.UNRESERVED, 0, (one.family, one.value), _texts(one))
    lists.write()


def _texts(reservation: Reservation) -> bytes:
    """Return the texts of an event: the reservation's owner is its pod or its container."""
    namespace, is_pod, name = reservation.owner.partition("/")
    container, pod = ("", f"{namespace}\0{name}") if is_pod else (reservation.owner, "\0")
    return keys.encode("owner", f"{container}\0{reservation.ifname}\0\0{pod}\0")


def _add(accounts: Accounts, reservation: Reservation, lists: _Lists) -> None:
    family, value = reservation.family, reservation.value
    state, txn = accounts.state, accounts.txn
    state.kept += 1
    key = keys.address_key(state.pool_id, family, value)
    tables.RESERVATIONS.put(txn, key, reservation.pack())
    if reservation.owner:
        lists.of(reservation)[family, value] = None
    if reservation.until:
        due = due_key(state.prefix, reservation.until, family, value)
        tables.STICKY.put(txn, due, b"")


def _remove(accounts: Accounts, reservation: Reservation, lists: _Lists) -> None:
    """Delete a reservation's records. The caller changes the state of the address."""
    family, value = reservation.family, reservation.value
    state, txn = accounts.state, accounts.txn
    state.kept -= 1
    tables.RESERVATIONS.delete(txn, keys.address_key(state.pool_id, family, value))
    if reservation.owner:
        lists.of(reservation).pop((family, value), None)
    if reservation.until:
        tables.STICKY.delete(txn, due_key(state.prefix, reservation.until, family, value))


def read_all(txn: Snapshot | Transaction, pool_id: int) -> Iterator[Reservation]:
    """Yield a pool's reservations in address order. O(1) memory."""
    return read_items(tables.RESERVATIONS.scan(txn, keys.id_prefix(pool_id)))


def read_items(items: Iterable[tuple[bytes, bytes]]) -> Iterator[Reservation]:
    """Yield the reservations of entries of the table ``reservations``."""
    for key, raw in items:
        yield Reservation.read(*keys.read_address_key(key)[1:], raw)


def read_within(
    txn: Snapshot | Transaction, pool_id: int, bounds: tuple[int, int, int]
) -> list[Reservation]:
    """Return the reservations within ``bounds``: (family, first, last). O(reservations)."""
    family, low, high = bounds
    return [
        one for one in read_all(txn, pool_id) if one.family == family and low <= one.value <= high
    ]
