"""Which pool a configuration names: ``pool``, or what whereabouts' keys say of overlapping ranges.

whereabouts assigns no address twice in all ranges of one ``network_name``, or of none, unless
``enable_overlapping_ranges`` is false: then each range is by itself. Imported when a configuration
has one of these keys, or one of whereabouts' ranges.
"""

from __future__ import annotations

from fastipam.addressing.addresses import format_cidr
from fastipam.configuration import reader
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.addressing.ranges import Range
    from fastipam.configuration.notes import Odd

_THEIRS = ("network_name", "enable_overlapping_ranges")
# The pool of all ranges of whereabouts' keys on a node. A name with "/" is none that "pool" can be.
SHARED = "whereabouts"


def read(
    ipam: dict[str, Any], theirs: list[list[Range]], odd: list[Odd]
) -> tuple[str | None, bool]:
    """Return the name of the pool, or None: the network's; and whether it was chosen.

    ``theirs`` are the sets of whereabouts' keys. Raises ConfigError.
    """
    pool = reader.text(ipam, "pool", "ipam")
    network = reader.text(ipam, "network_name", "ipam")
    apart = False
    if "enable_overlapping_ranges" in ipam:
        apart = not reader.flag(ipam, "enable_overlapping_ranges", "ipam")
    for key, name in (("pool", pool), ("network_name", network)):
        if name and not reader.is_id(name):
            raise ConfigError(
                f"{name!r} has characters that a name may not have",
                field=f"ipam.{key}",
                value=name,
                hint="a letter or digit, then letters, digits, '_', '.' and '-'",
            )
    if pool and "cluster" in ipam:
        raise ConfigError(
            "the pool of a cluster has the network's name",
            field="ipam.pool",
            value=pool,
            hint="leave one of pool and cluster out",
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


def _cidr(one: Range) -> str:
    return format_cidr(one.family, one.network, one.length)
