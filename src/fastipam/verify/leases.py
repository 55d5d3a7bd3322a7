"""Compare leases with owner entries and the cool-down queue; check the sweeper's notes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam.addressing.addresses import BITS, format_ip
from fastipam.errors import StoreCorrupt
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records.lease import ASSIGNED, Record, is_missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam.verify.parts import Finding, NetworkCheck


def judge(network: NetworkCheck, family: int, value: int) -> list[Finding]:
    """Check a lease and return its findings: its numbers, its owner entry, its queue entry."""
    key = keys.address_key(network.pool_id, family, value)
    where = format_ip(family, value)
    try:
        record = Record.read(tables.LEASES.get(network.txn, key) or b"")
    except StoreCorrupt as error:
        return [network.finding("lease-unreadable", where, str(error))]
    found = []

    def add(kind: str, text: str) -> None:
        found.append(network.finding(kind, where, text))

    state = network.state
    if state is not None and not 0 < record.generation <= state.generation:
        add(
            "lease-generation",
            f"the lease's generation {record.generation} is not in 1..{state.generation}",
        )
    if record.length > BITS[family]:
        add("lease-length", f"prefix length {record.length} is not in 0..{BITS[family]}")
    if record.boot > network.boot:
        text = f"the lease is from boot {record.boot}, but the current boot is {network.boot}"
        add("lease-boot", text)
    elif record.boot != network.boot and record.state == ASSIGNED and _all_seen(network):
        text = f"the lease is from boot {record.boot}, whose leases were all released"
        add("lease-boot", text)
    if record.network_id not in network.members:
        whose = ", ".join(map(str, network.members))
        text = f"the lease names network {record.network_id}, but the pool's networks are {whose}"
        add("lease-network", text)
    owner = f"{record.container_id} {record.ifname}"
    if record.state == ASSIGNED:
        network.counts["assigned"] += 1
        if record.released:
            add("lease-released", "the lease is assigned, but has a time of release")
        if (family, value) not in _owned(network, record):
            text = f"the address is assigned to {owner}, but that owner's entry does not list it"
            add("lease-without-owner", text)
    else:
        network.counts["cooling"] += 1
        if state is not None and record.released > state.clock:
            add("lease-released", "the lease's time of release is in the future")
        queued = keys.cooldown_key(
            network.pool_id, record.set_index, record.released, family, value
        )
        if tables.COOLDOWN.get(network.txn, queued) is None:
            text = "the lease is cooling, but is not in the cool-down queue"
            add("lease-without-cooldown", text)
    return found


def _all_seen(network: NetworkCheck) -> bool:
    """Return whether all leases of earlier boots have been released."""
    return network.state is not None and network.state.swept == network.boot


def _owned(network: NetworkCheck, record: Record) -> list[tuple[int, int]]:
    raw = tables.OWNERS.get(network.txn, _owner_key(network, record)) or b""
    try:
        return keys.read_held(raw, network.pool_id)
    except StoreCorrupt:
        return []


def _owner_key(network: NetworkCheck, record: Record) -> bytes:
    """Return the key of a lease's owner entry.

    If the lease names no network of the pool, it is an owner of the pool's first network.
    """
    of = network.members
    network_id = record.network_id if record.network_id in of else of[0]
    name = keys.owner_name(record.container_id, record.ifname)
    return keys.owner_key(keys.id_prefix(network_id), name)


def owners(network: NetworkCheck) -> Iterator[Finding]:
    """Check that each owner entry lists only addresses whose leases name this owner."""
    for key, raw in network.items(tables.OWNERS, network.owners_prefix):
        try:
            entries = keys.read_any_held(raw)
        except StoreCorrupt as error:
            yield network.finding("owner-unreadable", key.hex(), str(error))
            continue
        if len(key) != keys.OWNER_KEY_BYTES:
            yield network.finding("owner-key", key.hex(), "this is not a valid key for an owner")
        if not entries or len(set(entries)) < len(entries):
            text = "the owner's entry lists no address, or the same address twice"
            yield network.finding("owner-addresses", key.hex(), text)
        for pool_id, family, value in entries:
            if pool_id != network.pool_id:
                text = (
                    f"owner {key[4:].hex()} lists this address in pool {pool_id}, "
                    f"not in pool {network.pool_id}"
                )
                yield network.finding("owner-pool", format_ip(family, value), text)
                continue
            record = network.record(family, value)
            if record is None or record.state != ASSIGNED or _owner_key(network, record) != key:
                text = (
                    f"owner {key[4:].hex()} lists this address, but the address has no lease of "
                    "that owner"
                )
                yield network.finding("owner-without-lease", format_ip(family, value), text)


def cooldown(network: NetworkCheck) -> Iterator[Finding]:
    """Check that each entry of the cool-down queue agrees with a lease."""
    prefix = network.prefix
    for key, _ in network.items(tables.COOLDOWN, prefix):
        if not keys.is_cooldown_key(key):
            text = "this is not a valid key for the cool-down queue"
            yield network.finding("cooldown-key", key.hex(), text)
            continue
        _, set_index, released, family, value = keys.read_cooldown_key(key)
        record = network.record(family, value)
        if (
            record is None
            or record.state == ASSIGNED
            or (record.set_index, record.released) != (set_index, released)
        ):
            yield network.finding(
                "cooldown-without-lease",
                format_ip(family, value),
                "the address is in the cool-down queue, but no cooling lease agrees with it",
            )


def missing(network: NetworkCheck) -> Iterator[Finding]:
    """Check that each record of a missing network namespace can be read (table ``missing``).

    An outdated record is no finding, because the next sweep deletes it.
    """
    for key, raw in network.items(tables.MISSING, network.prefix):
        if not keys.is_address_key(key) or not is_missing(raw):
            text = "this record of a missing network namespace cannot be read"
            yield network.finding("missing-unreadable", key.hex(), text)
