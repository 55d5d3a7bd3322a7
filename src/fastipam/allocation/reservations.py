"""Reserved addresses: kept from allocation by an operator, or kept for a pod that had them.

A reservation is a record with or without a lease beside it: while its owner has the address, both
are there, and the address counts as assigned. ``reservations`` holds it by address; ``sticky``
finds it by its owner ("k"), and those that end, by the time at which they do ("t").

Everything here works on a network's :class:`~fastipam.allocation.ledger.Ledger`; nothing commits.
"""

from __future__ import annotations

from itertools import islice

from fastipam import errors
from fastipam.addressing.addresses import BITS, format_ip
from fastipam.addressing.parsing import parse_exclusion
from fastipam.allocation import cooldown
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

    from fastipam.addressing.ranges import Pool, RangeSet
    from fastipam.allocation.ledger import Ledger
    from fastipam.lease import Owner
    from fastipam.storage.records.network_state import NetworkState
    from fastipam.storage.transaction import Snapshot, Transaction

    Address = tuple[int, int]  # family, integer

_MOST_AT_ONCE = 1 << 16  # addresses to reserve: other writers wait for a second or two


def _names(owner: Owner) -> list[tuple[str, str]]:
    """What a reservation for this owner may be called, the most special first."""
    named = [(owner.pod, owner.ifname), (owner.pod, "")] if owner.pod else []
    return [*named, (owner.container_id, "")]


def get(
    txn: Snapshot | Transaction, network_id: int, family: int, value: int
) -> Reservation | None:
    """The reservation of an address, or None. O(1)."""
    key = keys.address_key(network_id, family, value)
    raw = tables.RESERVATIONS.get(txn, key)
    return None if raw is None else Reservation.read(family, value, raw)


def is_for(reservation: Reservation, owner: Owner) -> bool:
    """Return whether ``owner`` may have the reserved address."""
    return bool(reservation.owner) and (reservation.owner, reservation.ifname) in _names(owner)


def find(ledger: Ledger, family: int, value: int) -> Reservation | None:
    """The same inside a write transaction."""
    return get(ledger.txn, ledger.state.network_id, family, value)


# Owners ---------------------------------------------------------------------------------------


def kept_for(ledger: Ledger, owner: Owner) -> list[Address]:
    """The addresses that are kept for this owner; somebody may have them. O(their number)."""
    found: list[Address] = []
    for name, ifname in _names(owner):
        key = owner_index_key(ledger.state.prefix, name, ifname)
        raw = tables.STICKY.get(ledger.txn, key)
        if raw is not None:
            found += keys.read_addresses(raw)
    return found


def first_inside(ledger: Ledger, range_set: RangeSet, kept: Sequence[Address]) -> int | None:
    """The first of these that a range set may assign, and that nobody has."""
    for family, value in kept:
        if (
            family == range_set.family
            and value in range_set
            and ledger.owns(range_set, value)
            and not _is_leased(ledger, family, value)
        ):
            return value
    return None


def _is_leased(ledger: Ledger, family: int, value: int) -> bool:
    key = keys.address_key(ledger.state.network_id, family, value)
    return tables.LEASES.get(ledger.txn, key) is not None


class _Lists:
    """What is kept for owners, changed any number of times: each list is read and written once.

    An owner may have thousands of addresses, and its list is one value.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lists: dict[bytes, dict[Address, None]] = {}

    def of(self, reservation: Reservation) -> dict[Address, None]:
        """The addresses that are kept for the owner of a reservation, in their order."""
        ledger = self._ledger
        key = owner_index_key(ledger.state.prefix, reservation.owner, reservation.ifname)
        found = self._lists.get(key)
        if found is None:
            raw = tables.STICKY.get(ledger.txn, key) or b""
            found = self._lists[key] = dict.fromkeys(keys.read_addresses(raw))
        return found

    def write(self) -> None:
        """Enter what has changed; once, when all has."""
        txn = self._ledger.txn
        for key, addresses in self._lists.items():
            if addresses:
                tables.STICKY.put(txn, key, keys.pack_addresses(list(addresses)))
            else:
                tables.STICKY.delete(txn, key)


def take(ledger: Ledger, family: int, value: int) -> None:
    """The owner of a reservation has its address again; a sticky one has done its duty."""
    ledger.state.reserved -= 1
    reservation = find(ledger, family, value)
    if reservation is not None and reservation.sticky:
        lists = _Lists(ledger)
        _remove(ledger, reservation, lists)
        lists.write()


# Giving back ----------------------------------------------------------------------------------


def keep(ledger: Ledger, key: bytes) -> bool:
    """A leased address is given back that has a reservation; False: it has none."""
    if tables.RESERVATIONS.get(ledger.txn, key) is None:
        return False
    tables.LEASES.delete(ledger.txn, key)
    ledger.state.reserved += 1
    return True


def hold(
    ledger: Ledger, key: bytes, raw: bytes, address: Address, now: int, together: list[Address]
) -> None:
    """Keep an address that is given back for its pod, as long as it would cool at the least.

    What was kept of the same range set for the pod before is given back; not what is given back
    ``together`` with this address.
    """
    lease = lease_record.Record.read(raw)
    until = now + max(lease.sticky_s * 10**9, ledger.policy.cooldown_ns)
    pod = f"{lease.pod_namespace}/{lease.pod_name}"
    kept = Reservation(*address, pod, lease.ifname, "sticky", until)
    lists = _Lists(ledger)
    for one in list(lists.of(kept)):
        if one in together:
            continue
        earlier = find(ledger, *one)
        its_set = ledger.stored.index_of(*one)
        if (earlier is None or earlier.sticky) and its_set in (lease.set_index, None):
            _end(ledger, *one, lists)
    tables.LEASES.delete(ledger.txn, key)
    ledger.state.reserved += 1
    _add(ledger, kept, lists)
    lists.write()


def expire(ledger: Ledger, limit: int) -> bool:
    """Free up to ``limit`` addresses that are kept no longer; whether there were any. O(limit)."""
    due = list(islice(due_by(ledger.txn, ledger.state, ledger.state.clock), limit))
    lists = _Lists(ledger)
    for family, value in due:
        _end(ledger, family, value, lists)
    lists.write()
    return bool(due)


def due_by(txn: Snapshot | Transaction, state: NetworkState, clock: int) -> Iterator[Address]:
    """The addresses that are kept no longer at a time of the network's clock."""
    start = due_key(state.prefix, 0, 4, 0)[:5]
    for key in tables.STICKY.scan_keys(txn, start):
        until, family, value = read_due_key(key)
        if until > clock:
            return
        yield family, value


def _end(ledger: Ledger, family: int, value: int, lists: _Lists) -> None:
    """End a reservation; who has the address keeps it.

    Else it is free. But what is still kept for a pod was the pod's, how long ago nothing says: it
    cools from now on. What is due has been kept for longer than it would have cooled.
    """
    reservation = find(ledger, family, value)
    if reservation is None:
        raise StoreCorrupt(
            f"{format_ip(family, value)} is kept for an owner, and has no reservation",
            path=ledger.store.path,
            hint=errors.CHECK_HINT,
        )
    _remove(ledger, reservation, lists)
    if _is_leased(ledger, family, value):
        return
    ledger.state.reserved -= 1
    if reservation.until > ledger.state.clock and ledger.policy.cooldown_ns:
        _cool(ledger, reservation)
    else:
        ledger.clear(family, value)


def _cool(ledger: Ledger, reservation: Reservation) -> None:
    """Give an address that was kept for a pod back as its lease would have been."""
    state = ledger.state
    family, value = reservation.family, reservation.value
    its_range = ledger.stored.range_of(family, value)
    index = ledger.stored.index_of(family, value)
    namespace, _, name = reservation.owner.partition("/")
    state.generation += 1
    record = lease_record.Record(
        lease_record.ASSIGNED,
        BITS[family] if its_range is None else its_range.length,
        keys.NO_SET if index is None else index,
        ledger.store.boot,
        state.generation,
        ledger.store.clock(),
        released=0,
        inode=0,
        mount_ns=0,
        sticky_s=0,
        born_ns=0,
        container_id="",
        ifname=reservation.ifname,
        pod_namespace=namespace,
        pod_name=name,
    )
    key = keys.address_key(state.network_id, family, value)
    cooldown.enter(ledger, key, record.pack(), family, value, state.clock)


# By hand --------------------------------------------------------------------------------------


def assignable(pool: Pool, target: str) -> list[tuple[int, int]]:
    """The addresses of an address, a CIDR or "a-b" that the ranges can assign.

    Raises ConfigError: there is none, or too many.
    """
    family, low, high = parse_exclusion(target, field="target")
    inside = [
        (max(low, first), min(high, last))
        for each in pool.sets
        if each.family == family
        for first, last in each.intervals
        if first <= high and low <= last
    ]
    count = sum(last - first + 1 for first, last in inside)
    if not count:
        raise ConfigError(
            f"{target} has no address that the ranges can assign",
            field="target",
            value=target,
            hint=f"the ranges are {'; '.join(map(str, pool.sets))}",
        )
    if count > _MOST_AT_ONCE:
        raise ConfigError(
            f"{target} has {count} addresses, more than {_MOST_AT_ONCE}",
            field="target",
            value=target,
            hint="exclude them in the configuration instead",
        )
    return [(family, value) for first, last in inside for value in range(first, last + 1)]


def reserve(ledger: Ledger, reservations: Iterable[Reservation], wall_ns: int) -> None:
    """Make reservations, or give those that are there their owner and reason. O(their number).

    An address that somebody has stays his until he gives it back.
    """
    lists = _Lists(ledger)
    for one in reservations:
        before = find(ledger, one.family, one.value)
        if before is not None:
            _remove(ledger, before, lists)
        else:
            _set_aside(ledger, one)
        _add(ledger, one, lists)
        ledger.note(event_record.RESERVED, 0, one.family, one.value, _texts(one), wall_ns)
    lists.write()


def _set_aside(ledger: Ledger, reservation: Reservation) -> None:
    """Take an address that has no reservation yet from those that are free, or that cool."""
    family, value = reservation.family, reservation.value
    if ledger.txn.pages(ledger.state.network_id, family).acquire(value):
        ledger.state.reserved += 1
        return
    record = ledger.record(family, value)
    if record is None:
        raise AddressInUse(
            f"{reservation.address} is taken, and the store does not say by whom",
            address=reservation.address,
            hint=errors.CHECK_HINT,
        )
    if record.state == COOLING:
        cooldown.leave(ledger, record, family, value)
        key = keys.address_key(ledger.state.network_id, family, value)
        tables.LEASES.delete(ledger.txn, key)
        ledger.state.reserved += 1


def unreserve(ledger: Ledger, reservations: Iterable[Reservation], wall_ns: int) -> None:
    """End reservations; whoever has such an address keeps it. O(their number)."""
    lists = _Lists(ledger)
    for one in reservations:
        _end(ledger, one.family, one.value, lists)
        ledger.note(event_record.UNRESERVED, 0, one.family, one.value, _texts(one), wall_ns)
    lists.write()


def _texts(reservation: Reservation) -> bytes:
    """The texts of an event: the owner stands where a lease has its container."""
    return keys.encode("owner", f"{reservation.owner}\0{reservation.ifname}\0\0\0\0")


def _add(ledger: Ledger, reservation: Reservation, lists: _Lists) -> None:
    family, value = reservation.family, reservation.value
    state, txn = ledger.state, ledger.txn
    state.kept += 1
    key = keys.address_key(state.network_id, family, value)
    tables.RESERVATIONS.put(txn, key, reservation.pack())
    if reservation.owner:
        lists.of(reservation)[family, value] = None
    if reservation.until:
        due = due_key(state.prefix, reservation.until, family, value)
        tables.STICKY.put(txn, due, b"")


def _remove(ledger: Ledger, reservation: Reservation, lists: _Lists) -> None:
    """Take a reservation's records away; what the address is from now on is the caller's to say."""
    family, value = reservation.family, reservation.value
    state, txn = ledger.state, ledger.txn
    state.kept -= 1
    tables.RESERVATIONS.delete(txn, keys.address_key(state.network_id, family, value))
    if reservation.owner:
        lists.of(reservation).pop((family, value), None)
    if reservation.until:
        tables.STICKY.delete(txn, due_key(state.prefix, reservation.until, family, value))


def read_all(txn: Snapshot | Transaction, network_id: int) -> Iterator[Reservation]:
    """A network's reservations in address order. O(1) memory."""
    prefix = keys.network_prefix(network_id)
    for key, raw in tables.RESERVATIONS.scan(txn, prefix):
        yield Reservation.read(*keys.read_address_key(key)[1:], raw)


def read_within(
    txn: Snapshot | Transaction, network_id: int, bounds: tuple[int, int, int]
) -> list[Reservation]:
    """Those of the addresses (family, first, last). O(reservations of the network)."""
    family, low, high = bounds
    return [
        one
        for one in read_all(txn, network_id)
        if one.family == family and low <= one.value <= high
    ]
