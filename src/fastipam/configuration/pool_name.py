"""Find the name of the pool in a configuration: from ``pool``, or from whereabouts' keys.

With whereabouts all ranges that have the same ``network_name`` share a pool, and so do all ranges
that have none: no address of a pool is assigned twice. If ``enable_overlapping_ranges`` is false,
each range is a pool of its own. This module is imported only when a configuration has one of these
keys or one of whereabouts' ranges.
"""

from __future__ import annotations

from fastipam.addressing.addresses import format_cidr
from fastipam.configuration import reader
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.addressing.ranges import Range
    from fastipam.configuration.cluster import Settings
    from fastipam.configuration.notes import Odd

_THEIRS = ("network_name", "enable_overlapping_ranges")
KUBERNETES = "kubernetes"  # the same as in cluster.py, which is not imported here
# The pool's name for all whereabouts ranges on a node that have no ``network_name``. Other names
# begin with this one and "/", which the key "pool" does not allow.
SHARED = "whereabouts"


def read(
    ipam: dict[str, Any], theirs: list[list[Range]], odd: list[Odd]
) -> tuple[str | None, bool]:
    """Return the name of the pool, and whether the configuration has chosen it.

    The name is None when the pool has the network's name. ``theirs`` are the range sets of
    whereabouts' keys. Raises ConfigError.
    """
    pool = reader.text(ipam, "pool", "ipam")
    network = reader.text(ipam, "network_name", "ipam")
    apart = False
    if "enable_overlapping_ranges" in ipam:
        apart = not reader.flag(ipam, "enable_overlapping_ranges", "ipam")
    for key, name in (("pool", pool), ("network_name", network)):
        if name and not reader.is_id(name):
            raise ConfigError(
                f"{name!r} is not a valid pool name",
                field=f"ipam.{key}",
                value=name,
                hint="begin with a letter or digit, then use letters, digits, '_', '.' and '-'",
            )
    if pool or not theirs:
        why = (
            "no effect beside ipam.pool"
            if pool
            else "no effect without ipam.range or ipam.ipRanges"
        )
        odd += [("ipam", key, why) for key in _THEIRS if key in ipam]
        return pool or None, bool(pool)
    parts = [SHARED, network]
    if apart:
        parts.append(",".join(_cidr(each[0]) for each in theirs).replace("/", "_"))
    return "/".join(filter(None, parts)), apart or bool(network)


_MOST_POOLS = 64
_LONGEST = 63  # characters of an AddressPool's name (deploy/chart/files/crds.yaml)
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")


def check_beside_cluster(ipam: dict[str, Any]) -> None:
    """Raise ConfigError for ``pool`` beside a cluster whose engine is not ``kubernetes``.

    When the settings are in a file, :func:`of_cluster` checks this later.
    """
    cluster = ipam["cluster"]
    if isinstance(cluster, dict) and cluster.get("engine") != KUBERNETES:
        raise _beside_cluster(ipam["pool"])


def _beside_cluster(value: object) -> ConfigError:
    return ConfigError(
        "the pool of a cluster has the network's name",
        field="ipam.pool",
        value=value,
        hint='remove "pool" or "cluster"; with "engine": "kubernetes", "pool" names AddressPools',
    )


def of_cluster(value: object, settings: Settings | None) -> tuple[str, ...]:
    """Return the AddressPools that ``ipam.pool``, a name or a list, names. Raises ConfigError."""
    if settings is None or not settings.is_founded_by_agent:
        raise _beside_cluster(value)
    listed = value if isinstance(value, list) else [value]
    for at, one in enumerate(listed):
        field = "ipam.pool" if listed is not value else f"ipam.pool[{at}]"
        if not isinstance(one, str):
            raise reader.wrong(field, one, "the name of an AddressPool, as a string")
        check_name(one, field)
    if not 0 < len(listed) <= _MOST_POOLS:
        raise ConfigError(
            f"{len(listed)} pools are listed, but 1 to {_MOST_POOLS} are allowed",
            field="ipam.pool",
            value=len(listed),
        )
    return tuple(dict.fromkeys(listed))


def check_name(name: str, field: str) -> None:
    """Raise ConfigError unless an AddressPool can have this name."""
    ends = name[:1] + name[-1:]
    if len(name) > _LONGEST or not _LETTERS.issuperset(name) or not ends.isalnum():
        raise ConfigError(
            f"{reader.show(name)} is not a valid AddressPool name",
            field=field,
            value=name,
            hint="kubectl get addresspools shows their names",
        )


def _cidr(one: Range) -> str:
    return format_cidr(one.family, one.network, one.length)
