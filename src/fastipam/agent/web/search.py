"""Find the owner of an address, or the addresses of a pod or container, for the page's search.

An address, and a container with a usual interface, are found by an index. There is no index for a
pod or for the beginning of a container's id: for these the packed leases are searched in slices,
between which other threads run, and only leases that may match are unpacked.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastipam.addressing.addresses import format_ip, parse_ip
from fastipam.allocation import reservations, states
from fastipam.allocation.lookup import look_up, read_record
from fastipam.errors import ConfigError, FastipamError
from fastipam.storage import open_stores, tables
from fastipam.storage.records import keys
from fastipam.storage.records.lease import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam.storage.store import Store

MOST = 50  # results
_INTERFACES = ("eth0", "net1", "net2", "net3")
_LONGEST = 512  # characters of a query
_PAUSE_S = 0.001  # between two slices, so that the thread that serves requests can run
_CONTAINER = 24  # characters of a container id that are shown


def find(query: str) -> dict[str, Any]:
    """Return at most MOST results of a query, and whether there are more.

    O(networks) for an address or a whole container id, O(leases) for a pod or the beginning of an
    id. Raises ConfigError for a query that is empty or too long.
    """
    query = query.strip()
    if not query or len(query) > _LONGEST:
        raise ConfigError(
            f"type an address, a pod (namespace/name) or a container id of up to {_LONGEST} "
            "characters",
            field="q",
            value=query[:_LONGEST],
        )
    found: list[dict[str, Any]] = []
    for one in _results(query):
        if len(found) == MOST:
            return {"results": found, "more": True}
        found.append(one)
    return {"results": found, "more": False}


def _results(query: str) -> Iterator[dict[str, Any]]:
    address = None
    with suppress(ValueError):
        address = parse_ip(query)
    for store in open_stores.all_open():
        with suppress(FastipamError, OSError):  # it was closed meanwhile
            with store.read() as txn:
                found = tables.NETWORKS.scan_keys(txn)
                names = [one.decode(keys.ENCODING, keys.ERRORS) for one in found]
            for name in names:
                if address is not None:
                    yield from _of_address(store, name, address)
                else:
                    yield from _of_owner(store, name, query)


def _of_address(store: Store, name: str, address: tuple[int, int]) -> Iterator[dict[str, Any]]:
    with store.read() as txn:
        found = look_up(txn, name)
        if found is None:
            return
        network_id, pool_id, pool = found
        record = read_record(txn, pool_id, *address)
        reservation = reservations.get(txn, pool_id, *address)
    if record is not None and record.network_id != network_id:
        return  # another network of the pool has it
    state = states.of_address(pool, address, record, reservation)
    if state or record is not None or pool.range_of(*address) is not None:
        yield _row(store, name, address, record, state or "never assigned")


def _of_owner(store: Store, name: str, query: str) -> Iterator[dict[str, Any]]:
    """Yield the leases whose pod is ``query``, or whose container id begins with ``query``."""
    seen: set[tuple[int, int]] = set()
    with store.read() as txn:
        found = look_up(txn, name)
        if found is None:
            return
        network_id, pool_id, _ = found
        for ifname in _INTERFACES:
            owner = keys.owner_key(keys.id_prefix(network_id), keys.owner_name(query, ifname))
            raw = tables.OWNERS.get(txn, owner)
            seen.update(keys.read_held(raw, pool_id) if raw is not None else ())
        held = [(one, read_record(txn, pool_id, *one)) for one in sorted(seen)]
    for address, record in held:
        if record is not None:
            yield _row(store, name, address, record, states.of_record(record))
    if not held:
        yield from _searched(store, name, query, (network_id, pool_id))


def _searched(
    store: Store, name: str, query: str, ids: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    network_id, pool_id = ids
    namespace, slash, pod = query.partition("/")
    needle = query.encode(keys.ENCODING, keys.ERRORS)
    if slash:
        needle = f"\0{namespace}\0{pod}\0".encode(keys.ENCODING, keys.ERRORS)
    prefix = keys.id_prefix(pool_id)
    start: bytes | None = prefix
    while start is not None:
        with store.read() as txn:
            items, start = tables.LEASES.page(txn, prefix, start)
        for key, raw in items:
            if needle in raw:
                record = Record.read(raw)
                names = (record.pod_name, f"{record.pod_namespace}/{record.pod_name}")
                fits = query in names or record.container_id.startswith(query)
                if fits and record.network_id == network_id:
                    address = keys.read_address_key(key)[1:]
                    yield _row(store, name, address, record, states.of_record(record))
        time.sleep(_PAUSE_S)


def _row(
    store: Store, name: str, address: tuple[int, int], record: Record | None, state: str
) -> dict[str, Any]:
    row = {
        "data_dir": store.path,
        "network": name,
        "address": format_ip(*address),
        "family": address[0],
        "value": str(address[1]),  # as text: JavaScript would round it
        "state": state,
        "pod": "",
        "container": "",
        "ifname": "",
        "since": None,
    }
    if record is not None:
        row |= {
            "pod": "/".join(filter(None, (record.pod_namespace, record.pod_name))),
            "container": record.container_id[:_CONTAINER],
            "ifname": record.ifname,
            "since": record.allocated_ns / 1e9,
        }
    return row
