"""Rows for ``list`` and ``stats``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastipam.addresses import V4, V6, format_ip
from fastipam.cli.output import Column
from fastipam.errors import ConfigError
from fastipam.ranges import merge
from fastipam.records import COOLING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam.ipam import Ipam
    from fastipam.network import Network
    from fastipam.ranges import Pool
    from fastipam.records import Record

COLUMNS = (
    Column("IP", "address", 15),
    Column("STATUS", "status", 8),
    Column("POD", "pod", least=16),
    Column("CONTAINER", "container_id", least=10),
    Column("INTERFACE", "ifname"),
    Column("SINCE", "allocated_at", 20),
    Column("NETWORK", "network", least=7),
)
STATS_COLUMNS = (
    Column("NETWORK", "network"),
    Column("SIZE", "size", 8, number=True),
    Column("ASSIGNED", "assigned", number=True),
    Column("COOLING", "cooling", number=True),
    Column("RESERVED", "reserved", number=True),
    Column("FREE", "free", 8, number=True),
)
# An IPv6 /64 has more free addresses than anybody can read.
LARGEST_FREE_LISTING = 1 << 24


def _names(ipam: Ipam, only: str | None) -> list[str]:
    names = ipam.networks()
    if only is None:
        return names
    if only not in names:
        raise ConfigError(
            f"the store {ipam.path} has no network {only!r}",
            field="--network",
            value=only,
            hint=f"it has {', '.join(names) or 'none'}",
        )
    return [only]


def rows(ipam: Ipam, only: str | None, *, with_free: bool = False) -> Iterator[dict[str, Any]]:
    """A row an address, in address order, network by network. O(1) memory."""
    for name in _names(ipam, only):
        network = ipam.network(name)
        used = network.records()
        if with_free:
            yield from _with_free(network, used)
        else:
            for family, value, record, _ in used:
                yield _row(name, family, value, record)


def _row(network: str, family: int, value: int, record: Record) -> dict[str, Any]:
    pod = f"{record.pod_namespace}/{record.pod_name}" if record.pod_namespace else record.pod_name
    return {
        "network": network,
        "address": format_ip(family, value),
        "status": "COOLING" if record.state == COOLING else "ASSIGNED",
        "pod": pod,
        "container_id": record.container_id,
        "ifname": record.ifname,
        "pod_namespace": record.pod_namespace,
        "pod_name": record.pod_name,
        "pod_uid": record.pod_uid,
        "netns": record.netns,
        "allocated_at": _timestamp(record.allocated_ns),
    }


def _free_row(network: str, family: int, value: int) -> dict[str, Any]:
    empty = dict.fromkeys(
        (
            "pod",
            "container_id",
            "ifname",
            "pod_namespace",
            "pod_name",
            "pod_uid",
            "netns",
            "allocated_at",
        ),
        "",
    )
    return {
        "network": network,
        "address": format_ip(family, value),
        "status": "FREE",
        **empty,
    }


def _timestamp(wall_ns: int) -> str:
    moment = datetime.fromtimestamp(wall_ns // 10**9, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _with_free(
    network: Network, used: Iterator[tuple[int, int, Record, Pool]]
) -> Iterator[dict[str, Any]]:
    """The used addresses, and the free ones between them."""
    pool = network.current_pool()
    if pool is None:
        return
    if pool.size > LARGEST_FREE_LISTING:
        raise ConfigError(
            f"network {network.name} has {pool.size} addresses: too many to list the free ones",
            field="--all",
            value=network.name,
        )
    taken = next(used, None)
    for family in (V4, V6):
        intervals = merge(
            interval for each in pool.sets if each.family == family for interval in each.intervals
        )
        for low, high in intervals:
            value = low
            while value <= high:
                if taken is not None and (taken[0], taken[1]) <= (family, value):
                    yield _row(network.name, *taken[:3])
                    value += (taken[0], taken[1]) == (family, value)
                    taken = next(used, None)
                else:
                    yield _free_row(network.name, family, value)
                    value += 1
    while taken is not None:
        yield _row(network.name, *taken[:3])
        taken = next(used, None)


def stats(ipam: Ipam, only: str | None) -> Iterator[dict[str, Any]]:
    """A row a network."""
    for name in _names(ipam, only):
        yield {"network": name, **ipam.network(name).stats()}
