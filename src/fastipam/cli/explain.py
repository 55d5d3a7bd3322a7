"""What the store knows of one address: its state, and why it is in that state."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fastipam.addressing.addresses import BITS, format_cidr, format_ip
from fastipam.allocation import reservations
from fastipam.allocation.ledger import find, read_pool, read_record, read_state
from fastipam.cli import filters
from fastipam.cli.times import duration, stamp
from fastipam.storage.records import keys
from fastipam.storage.records.lease import COOLING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.addressing.ranges import Pool
    from fastipam.ipam import Ipam
    from fastipam.storage.records.lease import Record
    from fastipam.storage.records.network_state import NetworkState
    from fastipam.storage.records.policy import Policy
    from fastipam.storage.records.reservation import Reservation

_LAST_EVENTS = 10


def explain(
    ipam: Ipam, name: str, family: int, value: int, *, local: bool
) -> dict[str, Any] | None:
    """All about an address in one network; None when the network has nothing to do with it.

    O(1), and O(events that are kept) for the history.
    """
    store = ipam.store
    with store.read() as txn:
        found = find(txn, keys.encode("name", name))
        if found is None:
            return None
        pool = read_pool(found[1], None, store, name)
        record = read_record(txn, found[0], family, value)
        reservation = reservations.get(txn, found[0], family, value)
        state = read_state(txn, found[0])
    its_range = pool.range_of(family, value)
    if record is None and reservation is None and not _is_near(pool, family, value):
        return None
    now = store.clock()
    answer: dict[str, Any] = {
        "network": name,
        "address": format_ip(family, value),
        "status": _status(pool, family, value, record, reservation),
    }
    if its_range is not None:
        answer["cidr"] = format_cidr(family, value, its_range.length)
        answer["gateway"] = format_ip(*its_range.gateway) if its_range.gateway else ""
        answer["range"] = str(its_range)
    if record is not None:
        answer |= _lease(record, state, now, local)
    if reservation is not None:
        answer |= _reservation(reservation, state, now, local)
    network = ipam.network(name)
    policy = network.remembered_policy()
    answer["why"] = _why(answer, pool, record, reservation, state, now, store.boot, policy)
    events = list(network.history((family, value)))
    answer["history"] = [
        {
            "time": stamp(event.wall_ns, local=local),
            "event": event.kind,
            "pod": filters.pod_of(event),
            "container_id": event.container_id,
            "ifname": event.ifname,
        }
        for event in events[-_LAST_EVENTS:]
    ]
    return answer


def statuses(ipam: Ipam, name: str, addresses: Sequence[tuple[int, int]]) -> list[str]:
    """The status of each address in one network, all of one moment. O(addresses)."""
    store = ipam.store
    with store.read() as txn:
        found = find(txn, keys.encode("name", name))
        if found is None:
            return ["UNUSABLE"] * len(addresses)
        pool = read_pool(found[1], None, store, name)
        return [
            _status(
                pool,
                *one,
                read_record(txn, found[0], *one),
                reservations.get(txn, found[0], *one),
            )
            for one in addresses
        ]


def _is_near(pool: Pool, family: int, value: int) -> bool:
    """Whether it lies in the subnet of a range: its gateway, say, or an exclusion."""
    for each in pool.sets:
        for one in each.ranges:
            bits = BITS[family] - one.length
            if one.family == family and value >> bits == one.network >> bits:
                return True
    return False


def _status(
    pool: Pool, family: int, value: int, record: Record | None, reservation: Reservation | None
) -> str:
    if record is not None:
        return "COOLING" if record.state == COOLING else "ASSIGNED"
    if reservation is not None:
        return "RESERVED"
    return "FREE" if pool.holds(family, value) else "UNUSABLE"


def _lease(record: Record, state: NetworkState, now_ns: int, local: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "pod": filters.pod_of(record),
        "container_id": record.container_id,
        "ifname": record.ifname,
        "pod_uid": record.pod_uid,
        "netns": record.netns,
        "netns_state": netns_state(record),
        "allocated_at": stamp(record.allocated_ns, local=local),
        "age": duration((now_ns - record.allocated_ns) / 1e9),
        "generation": record.generation,
    }
    if record.state == COOLING:
        released_ns = record.released - state.offset
        answer["released_at"] = stamp(released_ns, local=local)
        answer["released_ago_s"] = max(0, (now_ns - released_ns) // 10**9)
    return answer


def netns_state(record: Record) -> str:
    """Whether the network namespace that a lease names is there, seen from this process."""
    if not record.netns:
        return "not noted"
    try:
        inode = os.stat(record.netns).st_ino
    except OSError as error:
        return f"not there: {error.strerror}"
    if record.inode and record.inode != inode:
        return "another one has its name now"
    return "there"


def _reservation(one: Reservation, state: NetworkState, now_ns: int, local: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"reserved_for": one.owner, "reason": one.reason}
    if one.sticky:
        answer["reserved_until"] = stamp(one.until - state.offset, local=local)
        answer["reserved_for_s"] = max(0, (one.until - state.offset - now_ns) // 10**9)
    return answer


def _why(
    answer: dict[str, Any],
    pool: Pool,
    record: Record | None,
    reservation: Reservation | None,
    state: NetworkState,
    now_ns: int,
    boot: int,
    policy: Policy,
) -> str:
    """The state in a sentence, and what ends it."""
    if answer["status"] == "ASSIGNED" and record is not None:
        whose = answer["pod"] or f"container {record.container_id}"
        if record.boot != boot:
            return f"{whose} had it before the last reboot; `fastipam sweep` gives it back"
        return f"{whose} has had it for {answer['age']}"
    if answer["status"] == "COOLING":
        ago = duration(answer["released_ago_s"])
        cooldown_s = policy.cooldown_ns / 1e9
        left = cooldown_s - answer["released_ago_s"]
        if left <= 0:
            return f"given back {ago} ago; its cool-down of {cooldown_s:g} s is over"
        when = "not earlier" if policy.strict else "earlier when nothing else is free"
        return f"given back {ago} ago; assigned again in {duration(left)}, {when}"
    if reservation is not None:
        whom = f"for {reservation.owner}" if reservation.owner else "for nobody"
        if reservation.sticky:
            left = duration((reservation.until - state.offset - now_ns) / 1e9)
            return f"kept {whom}, which had it, for another {left}"
        return f"reserved {whom} until `fastipam unreserve {answer['address']}`"
    if answer["status"] == "FREE":
        return "nobody has it; any allocation may get it"
    gateways = {format_ip(*one.gateway) for each in pool.sets for one in each.ranges if one.gateway}
    if answer["address"] in gateways:
        return "it is the gateway of its range, which is never assigned"
    return "it is no address that the ranges can assign (excluded, or an end of the subnet)"
