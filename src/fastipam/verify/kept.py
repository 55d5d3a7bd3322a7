"""Check reservations against the table ``sticky``, which lists them, and each event by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam.addressing.addresses import format_ip
from fastipam.allocation import reservations
from fastipam.errors import StoreCorrupt
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records import reservation as reservation_record
from fastipam.storage.records.event import Event, event_key

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from fastipam.verify.parts import Finding, NetworkCheck


def judge(network: NetworkCheck, family: int, value: int) -> list[Finding]:
    """Check a reservation and return its findings: can it be read, and is it in the lists?"""
    where = format_ip(family, value)
    try:
        one = reservations.get(network.txn, network.pool_id, family, value)
    except StoreCorrupt as error:
        return [network.finding("reservation-unreadable", where, str(error))]
    assert one is not None
    found = []
    prefix = network.prefix
    if one.owner:
        key = reservation_record.owner_index_key(prefix, one.owner, one.ifname)
        if (family, value) not in _listed(network, key):
            text = f"the address is reserved for {one.owner}, but that owner's list lacks it"
            found.append(network.finding("reservation-without-owner", where, text))
    if one.until:
        key = reservation_record.due_key(prefix, one.until, family, value)
        if tables.STICKY.get(network.txn, key) is None:
            text = "the reservation expires, but the table sticky does not list it"
            found.append(network.finding("reservation-without-end", where, text))
    return found


def _listed(network: NetworkCheck, key: bytes) -> frozenset[tuple[int, int]]:
    # Each list is read once: an owner of a /16 has 65,536 reservations, and they are in one list.
    if key not in network.listed:
        try:
            found = keys.read_addresses(tables.STICKY.get(network.txn, key) or b"")
        except StoreCorrupt:  # it has a finding of its own
            found = []
        network.listed[key] = frozenset(found)
    return network.listed[key]


def entries(network: NetworkCheck) -> Iterator[Finding]:
    """Compare each entry of ``sticky`` with the reservations that it lists."""
    prefix = network.prefix
    for key, raw in network.items(tables.STICKY, prefix):
        try:
            if reservation_record.is_due_key(key):
                until, family, value = reservation_record.read_due_key(key)
                listed = [(family, value)]
            elif reservation_record.is_owner_index_key(key):
                until, listed = 0, keys.read_addresses(raw)
            else:
                raise ValueError(key)
            named = [_names(network, key, until, *one) for one in listed]
        except (StoreCorrupt, ValueError, KeyError):
            text = "this entry of the table sticky cannot be read"
            yield network.finding("sticky-unreadable", key.hex(), text)
            continue
        for (family, value), agrees in zip(listed, named, strict=True):
            if not agrees:
                text = "the table sticky lists this address, but no reservation agrees with it"
                where = format_ip(family, value)
                yield network.finding("sticky-without-reservation", where, text)


def _names(network: NetworkCheck, key: bytes, until: int, family: int, value: int) -> bool:
    """Return whether the reservation of an address agrees with an entry of ``sticky``."""
    try:
        one = reservations.get(network.txn, network.pool_id, family, value)
    except StoreCorrupt:  # ``judge`` has a finding for it
        return True
    if one is None:
        return False
    if until:
        return one.until == until
    return key == reservation_record.owner_index_key(network.prefix, one.owner, one.ifname)


def events(network: NetworkCheck) -> Iterator[Finding]:
    """Check that each event can be read, and has a number that was assigned."""
    log = network.log
    waiting = [] if log is None else log.items()
    # The waiting events have the last numbers, and the table has the numbers before them.
    first, end = (0, 0) if log is None else (log.first, log.next - len(waiting))
    for key, raw in network.items(tables.EVENTS, network.owners_prefix):
        sequence = yield from _event(network, key, raw)
        if log is not None and sequence is not None and not first <= sequence < end:
            text = f"event number {sequence} is not in {first}..{end - 1}"
            if first >= end:
                text = f"event number {sequence} is stored, but the history has no stored event"
            yield network.finding("event-number", key.hex(), text)
    for key, raw in waiting:
        yield from _event(network, key, raw)
    if log is not None and first > end:
        text = f"event {end} is kept, but the history record names {first} as the oldest"
        where = event_key(network.network_id, end).hex()
        yield network.finding("event-number", where, text)


def _event(network: NetworkCheck, key: bytes, raw: bytes) -> Generator[Finding, None, int | None]:
    """Return the number of an event, or yield a finding and return None when it is unreadable."""
    try:
        return Event(key, raw).sequence
    except StoreCorrupt as error:
        yield network.finding("event-unreadable", key.hex(), str(error))
    return None
