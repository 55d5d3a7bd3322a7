"""Explain one address: its state, and why it is in that state."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from fastipam import namespaces, processes
from fastipam.addressing.addresses import BITS, format_cidr, format_ip
from fastipam.allocation import pools, reservations, states
from fastipam.allocation.lookup import look_up, read_record
from fastipam.cli import filters
from fastipam.cli.times import duration, stamp
from fastipam.storage.records.lease import COOLING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam._ledger import PoolState
    from fastipam.addressing.ranges import Pool
    from fastipam.configuration.policy import Policy
    from fastipam.ipam import Ipam
    from fastipam.storage.records.lease import Record
    from fastipam.storage.records.reservation import Reservation
    from fastipam.storage.store import Store

_LAST_EVENTS = 10
EXCLUDED = "EXCLUDED"  # in a subnet and never assigned; `map` counts such addresses too


class _Known(NamedTuple):
    """The records of one address in the store at one moment."""

    family: int
    value: int
    pool: Pool
    pool_name: str
    record: Record | None
    reservation: Reservation | None
    counters: PoolState
    now_ns: int
    local: bool
    is_gateway: bool

    @property
    def status(self) -> str:
        state = states.of_address(
            self.pool, (self.family, self.value), self.record, self.reservation
        )
        return state.upper() or EXCLUDED


def explain(
    ipam: Ipam, name: str, address: tuple[int, int], *, local: bool
) -> dict[str, Any] | None:
    """Return everything about an address in one network, or None if the network does not have it.

    O(1), and O(kept events) for the history.
    """
    known = _read(ipam, name, address, local)
    if known is None or (
        known.record is None and known.reservation is None and not _is_near(known.pool, *address)
    ):
        return None
    its_range = known.pool.range_of(*address)
    answer: dict[str, Any] = {
        "network": name,
        "pool": known.pool_name,
        "address": format_ip(*address),
        "status": known.status,
    }
    if its_range is not None:
        answer["cidr"] = format_cidr(*address, its_range.length)
        answer["gateway"] = format_ip(*its_range.gateway) if its_range.gateway else ""
        answer["range"] = str(its_range)
    answer |= _lease(known, ipam.store) | _reservation(known)
    network = ipam.network(name)
    answer["why"] = _why(answer, known, ipam.store.boot, network._remembered_policy())
    events = list(network._history(address))
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


def _read(ipam: Ipam, name: str, address: tuple[int, int], local: bool) -> _Known | None:
    store = ipam.store
    with store.read() as txn:
        found = look_up(txn, name)
        if found is None:
            return None
        network_id, pool_id, pool = found
        record = read_record(txn, pool_id, *address)
        if record is not None and record.network_id != network_id:
            return None  # another network of the pool has the address, or had it last
        pool = pools.as_assigned(txn, name, pool)
        return _Known(
            *address,
            pool,
            pools.pool_of(txn, name),
            record,
            reservations.get(txn, pool_id, *address),
            txn.pool_state(pool_id),
            store.clock(),
            local,
            pools.is_gateway(txn, name, *address),
        )


def statuses(ipam: Ipam, name: str, addresses: Sequence[tuple[int, int]]) -> list[str]:
    """Return the status of each address in one network, all as of one moment. O(addresses)."""
    with ipam.store.read() as txn:
        found = look_up(txn, name)
        if found is None:
            return [EXCLUDED] * len(addresses)
        _, pool_id, own = found
        pool = pools.as_assigned(txn, name, own)
        return [
            states.of_address(
                pool,
                one,
                read_record(txn, pool_id, *one),
                reservations.get(txn, pool_id, *one),
            ).upper()
            or EXCLUDED
            for one in addresses
        ]


def _is_near(pool: Pool, family: int, value: int) -> bool:
    """Return whether an address is in the subnet of a range; it may be a gateway or excluded."""
    for each in pool.sets:
        for one in each.ranges:
            bits = BITS[family] - one.length
            if one.family == family and value >> bits == one.network >> bits:
                return True
    return False


def _lease(known: _Known, store: Store) -> dict[str, Any]:
    record, local = known.record, known.local
    if record is None:
        return {}
    answer: dict[str, Any] = {
        "pod": filters.pod_of(record),
        "container_id": record.container_id,
        "ifname": record.ifname,
        "pod_uid": record.pod_uid,
        "netns": record.netns,
        "netns_state": netns_state(record, store),
        "allocated_at": stamp(record.allocated_ns, local=local),
        "age_s": max(0, known.now_ns - record.allocated_ns) // 10**9,
        "generation": record.generation,
    }
    if record.state == COOLING:
        released_ns = record.released - known.counters.offset
        answer["released_at"] = stamp(released_ns, local=local)
        answer["released_ago_s"] = max(0, (known.now_ns - released_ns) // 10**9)
    return answer


def netns_state(record: Record, store: Store) -> str:
    """Return a text that says whether this process can find the network namespace of a lease.

    If the path of the namespace does not lead to it, all processes and mounts of the node are
    searched.
    """
    if not record.netns:
        return "not recorded"
    try:
        inode = os.stat(record.netns).st_ino
    except OSError as error:
        state = f"not there: {error.strerror}"
    else:
        if record.inode in (0, inode):
            return "there"
        state = "another namespace has its path now"
    if not namespaces.is_inode(record.inode):
        return state
    found = processes.look({record.inode}, record.allocated_ns, store.runtime_pid_ns())
    if found.where(record.inode) and not found.is_another(record.inode, record.born_ns):
        return f"there, but not at its path: {found.where(record.inode)}"
    if found.blind:
        return f"not at its path; it may exist elsewhere: {found.blind}"
    return state


def _reservation(known: _Known) -> dict[str, Any]:
    one = known.reservation
    if one is None:
        return {}
    answer: dict[str, Any] = {"reserved_for": one.owner, "reason": one.reason}
    if one.sticky:
        until_ns = one.until - known.counters.offset
        answer["reserved_until"] = stamp(until_ns, local=known.local)
        answer["reserved_for_s"] = max(0, (until_ns - known.now_ns) // 10**9)
    return answer


def _whom(reservation: Reservation) -> str:
    return f"for {reservation.owner}" if reservation.owner else "for no owner"


def _why(answer: dict[str, Any], known: _Known, boot: int, policy: Policy) -> str:
    """Return a sentence that explains the state, and what ends it."""
    record, reservation = known.record, known.reservation
    if answer["status"] == filters.ASSIGNED and record is not None:
        whose = answer["pod"] or f"container {record.container_id}"
        if record.boot != boot:
            return f"{whose} had it before the last reboot; `fastipam sweep` releases it"
        then = f"; reserved {_whom(reservation)} from then on" if reservation else ""
        return f"{whose} has had it for {duration(answer['age_s'])}{then}"
    if answer["status"] == filters.COOLING:
        ago = duration(answer["released_ago_s"])
        cooldown_s = policy.cooldown_ns / 1e9
        left = cooldown_s - answer["released_ago_s"]
        if left <= 0:
            return f"released {ago} ago; its cool-down of {cooldown_s:g} s is over"
        when = "not earlier" if policy.strict else "earlier when nothing else is free"
        return f"released {ago} ago; can be assigned again in {duration(left)}, {when}"
    if reservation is not None:
        whom = _whom(reservation)
        if reservation.sticky:
            left_ns = reservation.until - known.counters.offset - known.now_ns
            return f"kept {whom}, which had it, for another {duration(left_ns / 1e9)}"
        return f"reserved {whom} until `fastipam unreserve {answer['address']}`"
    if answer["status"] == filters.FREE:
        if not known.pool.holds(known.family, known.value):
            return "free; assigned only on request (static)"
        return "free; any allocation may get it"
    ranges = [one for each in known.pool.sets for one in each.ranges]
    if (known.family, known.value) in [one.gateway for one in ranges]:
        return "the address is the gateway of its range, which is never assigned"
    if known.is_gateway:
        return "the address is the gateway of another network of its pool, which is never assigned"
    if known.pool.range_of(known.family, known.value) is not None:
        return "the address is excluded by the configuration"
    return "the address is in the subnet of a range, but not between rangeStart and rangeEnd"
