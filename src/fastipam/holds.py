"""Reserved addresses: kept from allocation by an operator, or kept for a pod that had them.

A reservation is a record with or without a lease beside it: while its owner has the address, both
are there, and the address counts as assigned. ``reservations`` holds it by address; ``sticky``
finds it by its owner ("k"), and those that end, by the time at which they do ("t").

Everything here works on a network's :class:`~fastipam.ledger.Ledger`; nothing commits.
"""

from __future__ import annotations

from struct import Struct

from fastipam import cooldown, history, records
from fastipam.addresses import BITS, format_ip
from fastipam.errors import AddressInUse, ConfigError, StoreCorrupt
from fastipam.rangespec import parse_exclusion
from fastipam.records import COOLING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam.lease import Owner
    from fastipam.ledger import Ledger
    from fastipam.ranges import Pool
    from fastipam.store import Store
    from fastipam.transaction import Snapshot, Transaction

    Address = tuple[int, int]  # family, integer

_MOST_AT_ONCE = 1 << 16  # addresses to reserve: other writers wait for half a second
_VALUE = Struct("<Q")
_DUE = Struct(">4scQB")


class Reservation:
    """An address that only its owner may have, or nobody; a value.

    ``owner`` is "namespace/name" of a pod or a container id, empty: nobody. ``ifname`` limits it to
    one interface, empty: any. ``until`` is when it ends, in nanoseconds of the network's
    clock, 0: when somebody ends it. One that ends is *sticky*: it was made by a release.
    """

    __slots__ = ("family", "ifname", "owner", "reason", "until", "value")

    def __init__(
        self,
        family: int,
        value: int,
        owner: str,
        ifname: str = "",
        reason: str = "",
        until: int = 0,
    ) -> None:
        self.family = family
        self.value = value
        self.owner = owner
        self.ifname = ifname
        self.reason = reason
        self.until = until

    @property
    def sticky(self) -> bool:
        """Whether it keeps an address for a pod that had it."""
        return self.until != 0

    @property
    def address(self) -> str:
        """The address as text."""
        return format_ip(self.family, self.value)

    def pack(self) -> bytes:
        """The value that :meth:`read` reads."""
        texts = "\0".join((self.owner, self.ifname, self.reason))
        return _VALUE.pack(self.until) + records.encode("owner or reason", texts)

    @classmethod
    def read(cls, family: int, value: int, raw: bytes) -> Reservation:
        """The reservation of a value. StoreCorrupt when it is none."""
        try:
            texts = raw[_VALUE.size :].decode(records.ENCODING, records.ERRORS).split("\0")
            owner, ifname, reason = texts
            return cls(family, value, owner, ifname, reason, _VALUE.unpack_from(raw)[0])
        except Exception as error:
            raise StoreCorrupt(
                f"the reservation of {format_ip(family, value)} cannot be read: {raw.hex()}",
                hint=records.CHECK_HINT,
            ) from error

    def is_for(self, owner: Owner) -> bool:
        """Whether this owner may have the address."""
        return bool(self.owner) and (self.owner, self.ifname) in _names(owner)

    def __repr__(self) -> str:
        return f"<Reservation {self.address} for {self.owner or 'nobody'!r}>"


def _names(owner: Owner) -> list[tuple[str, str]]:
    """What a reservation for this owner may be called, the most special first."""
    named = [(owner.pod, owner.ifname), (owner.pod, "")] if owner.pod else []
    return [*named, (owner.container_id, "")]


def owner_index_key(prefix: bytes, owner: str, ifname: str) -> bytes:
    """The key under which ``sticky`` lists what is kept for an owner."""
    return prefix + b"k" + records.owner_key(b"", records.owner_name(owner, ifname))


def due_key(prefix: bytes, until: int, family: int, value: int) -> bytes:
    """The key under which ``sticky`` has an address by the time at which it is kept no longer."""
    return _DUE.pack(prefix, b"t", until, family) + value.to_bytes(BITS[family] // 8, "big")


def read_due_key(key: bytes) -> tuple[int, int, int]:
    """(until, family, address) of a :func:`due_key`."""
    _, _, until, family = _DUE.unpack_from(key)
    return until, family, int.from_bytes(key[_DUE.size :], "big")


def get(
    txn: Snapshot | Transaction, store: Store, network_id: int, family: int, value: int
) -> Reservation | None:
    """The reservation of an address, or None. O(1)."""
    key = records.address_key(network_id, family, value)
    raw = txn.get(key, None, store.db_reservations)
    return None if raw is None else Reservation.read(family, value, raw)


def find(ledger: Ledger, family: int, value: int) -> Reservation | None:
    """The same inside a write transaction."""
    return get(ledger.txn, ledger.store, ledger.state.network_id, family, value)


# Owners ---------------------------------------------------------------------------------------


def kept_for(ledger: Ledger, owner: Owner) -> list[Address]:
    """The addresses that are kept for this owner and that nobody has. O(their number)."""
    found: list[Address] = []
    for name, ifname in _names(owner):
        key = owner_index_key(ledger.state.prefix, name, ifname)
        raw = ledger.txn.get(key, None, ledger.store.db_sticky)
        if raw is not None:
            found += [one for one in records.read_addresses(raw) if not _is_leased(ledger, *one)]
    return found


def _is_leased(ledger: Ledger, family: int, value: int) -> bool:
    key = records.address_key(ledger.state.network_id, family, value)
    return ledger.txn.get(key, None, ledger.store.db_leases) is not None


def take(ledger: Ledger, family: int, value: int) -> None:
    """The owner of a reservation has its address again; a sticky one has done its duty."""
    ledger.state.reserved -= 1
    reservation = find(ledger, family, value)
    if reservation is not None and reservation.sticky:
        _remove(ledger, reservation)


# Giving back ----------------------------------------------------------------------------------


def keep(ledger: Ledger, key: bytes) -> bool:
    """A leased address is given back that has a reservation; False: it has none."""
    if ledger.txn.get(key, None, ledger.store.db_reservations) is None:
        return False
    ledger.txn.delete(key, b"", ledger.store.db_leases)
    ledger.state.reserved += 1
    return True


def hold(ledger: Ledger, key: bytes, raw: bytes, family: int, value: int, now: int) -> None:
    """Keep an address that is given back for its pod. What was kept for it before is freed."""
    _, ifname, _, namespace, name, _ = (
        records.texts_of(raw).decode(records.ENCODING, records.ERRORS).split("\0")
    )
    owner = f"{namespace}/{name}"
    until = now + records.sticky_of(raw) * 10**9
    index_key = owner_index_key(ledger.state.prefix, owner, ifname)
    index = records.set_index_of(raw)
    listed = ledger.txn.get(index_key, b"", ledger.store.db_sticky)
    for one in records.read_addresses(listed):
        earlier = find(ledger, *one)
        if (earlier is None or earlier.sticky) and ledger.stored.index_of(*one) in (index, None):
            _free(ledger, *one)
    ledger.txn.delete(key, b"", ledger.store.db_leases)
    ledger.state.reserved += 1
    _add(ledger, Reservation(family, value, owner, ifname, "sticky", until))


def expire(ledger: Ledger, limit: int) -> None:
    """Free up to ``limit`` addresses that are kept no longer. O(limit)."""
    start = due_key(ledger.state.prefix, 0, 4, 0)[:5]
    due: list[Address] = []
    with ledger.txn.txn.cursor(ledger.store.db_sticky) as cursor:
        more = cursor.set_range(start)
        while more and len(due) < limit:
            key = cursor.key()
            if key[:5] != start:
                break
            until, family, value = read_due_key(key)
            if until > ledger.state.clock:
                break
            due.append((family, value))
            more = cursor.next()
    for family, value in due:
        _free(ledger, family, value)


def _free(ledger: Ledger, family: int, value: int) -> None:
    """End a reservation of an address that nobody has."""
    reservation = find(ledger, family, value)
    if reservation is None:
        raise StoreCorrupt(
            f"{format_ip(family, value)} is kept for an owner, and has no reservation",
            path=ledger.store.path,
            hint=records.CHECK_HINT,
        )
    _remove(ledger, reservation)
    if not _is_leased(ledger, family, value):
        ledger.state.reserved -= 1
        ledger.clear(family, value)


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


def reserve(ledger: Ledger, reservation: Reservation, wall_ns: int) -> None:
    """Make a reservation, or give one that is there this owner and reason.

    An address that somebody has stays his until he gives it back.
    """
    family, value = reservation.family, reservation.value
    before = find(ledger, family, value)
    if before is not None:
        _remove(ledger, before)
    elif not ledger.txn.pages(ledger.state.network_id, family).acquire(value):
        record = ledger.record(family, value)
        if record is None:
            raise AddressInUse(
                f"{reservation.address} is taken, and the store does not say by whom",
                address=reservation.address,
                hint=records.CHECK_HINT,
            )
        if record.state == COOLING:
            cooldown.leave(ledger, record, family, value)
            key = records.address_key(ledger.state.network_id, family, value)
            ledger.txn.delete(key, b"", ledger.store.db_leases)
            ledger.state.reserved += 1
    else:
        ledger.state.reserved += 1
    _add(ledger, reservation)
    ledger.note(history.RESERVED, 0, family, value, _texts(reservation), wall_ns)


def unreserve(ledger: Ledger, reservation: Reservation, wall_ns: int) -> None:
    """End a reservation; whoever has the address keeps it."""
    _free(ledger, reservation.family, reservation.value)
    ledger.note(
        history.UNRESERVED, 0, reservation.family, reservation.value, _texts(reservation), wall_ns
    )


def _texts(reservation: Reservation) -> bytes:
    """The texts of an event: the owner stands where a lease has its container."""
    return records.encode("owner", f"{reservation.owner}\0{reservation.ifname}\0\0\0\0")


def _add(ledger: Ledger, reservation: Reservation) -> None:
    family, value = reservation.family, reservation.value
    state, txn, store = ledger.state, ledger.txn, ledger.store
    state.kept += 1
    key = records.address_key(state.network_id, family, value)
    txn.put(key, reservation.pack(), True, True, False, store.db_reservations)
    if reservation.owner:
        index = owner_index_key(state.prefix, reservation.owner, reservation.ifname)
        listed = records.read_addresses(txn.get(index, b"", store.db_sticky))
        packed = records.pack_addresses([*listed, (family, value)])
        txn.put(index, packed, True, True, False, store.db_sticky)
    if reservation.until:
        due = due_key(state.prefix, reservation.until, family, value)
        txn.put(due, b"", True, True, False, store.db_sticky)


def _remove(ledger: Ledger, reservation: Reservation) -> None:
    """Take a reservation's records away; what the address is from now on is the caller's to say."""
    family, value = reservation.family, reservation.value
    state, txn, store = ledger.state, ledger.txn, ledger.store
    state.kept -= 1
    txn.delete(records.address_key(state.network_id, family, value), b"", store.db_reservations)
    if reservation.owner:
        index = owner_index_key(state.prefix, reservation.owner, reservation.ifname)
        listed = records.read_addresses(txn.get(index, b"", store.db_sticky))
        left = [one for one in listed if one != (family, value)]
        if left:
            txn.put(index, records.pack_addresses(left), True, True, False, store.db_sticky)
        else:
            txn.delete(index, b"", store.db_sticky)
    if reservation.until:
        txn.delete(due_key(state.prefix, reservation.until, family, value), b"", store.db_sticky)


def read_all(txn: Snapshot | Transaction, store: Store, network_id: int) -> Iterator[Reservation]:
    """A network's reservations in address order. O(1) memory."""
    prefix = records.network_prefix(network_id)
    with txn.txn.cursor(store.db_reservations) as cursor:
        if not cursor.set_range(prefix):
            return
        for key, raw in cursor:
            if key[:4] != prefix:
                return
            yield Reservation.read(key[4], int.from_bytes(key[5:], "big"), raw)


def read_within(
    txn: Snapshot | Transaction, store: Store, network_id: int, bounds: tuple[int, int, int]
) -> list[Reservation]:
    """Those of the addresses (family, first, last). O(reservations of the network)."""
    family, low, high = bounds
    return [
        one
        for one in read_all(txn, store, network_id)
        if one.family == family and low <= one.value <= high
    ]
