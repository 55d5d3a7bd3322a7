"""Write notes on the parts of a configuration that have no effect: unknown keys, useless values.

A note begins with the full path of the field. This module is imported only when a configuration has
such parts, or has keys whose content may be one (``exclude``, ``static``, ``runtimeConfig``,
``args``).
"""

from __future__ import annotations

from fastipam.addressing.addresses import BITS, format_cidr, format_ip
from fastipam.configuration import reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.addressing.ranges import Pool, Range

    Hole = tuple[int, int, int]
    Odd = tuple[str, str, str]  # path, folded key or "", what is odd: "" for an unknown key

_MOST = 8
# The capabilities in the CNI conventions: a main plugin reads some, and passes all to its IPAM.
_CAPABILITIES = frozenset(
    (
        "ips",
        "ipranges",
        "portmappings",
        "bandwidth",
        "dns",
        "mac",
        "infinibandguid",
        "deviceid",
        "aliases",
        "cgrouppath",
        "pidfile",
        "io.kubernetes.cri.pod-annotations",
        "cni-args",
    )
)
_ARGS_OF_CNI = frozenset(("ips", "mac", "labels"))
_MISPLACED = ("ip", "ips")  # directly in args, where no plugin reads them


def look_around(odd: list[Odd], document: dict[str, Any], runtime: dict[str, Any]) -> None:
    """Add the unknown keys of ``runtimeConfig`` and ``args`` to ``odd``."""
    odd += [("runtimeConfig", key, "") for key in runtime if key not in _CAPABILITIES]
    args = document.get("args")
    if not isinstance(args, dict):
        return
    odd += [("args", key, "no effect: write args.cni.ips") for key in _MISPLACED if key in args]
    cni = args.get("cni")
    if isinstance(cni, dict):
        odd += [("args.cni", key, "") for key in cni if key not in _ARGS_OF_CNI]


def look_at_holes(odd: list[Odd], holes: list[tuple[str, Hole]], pool: Pool) -> None:
    """Add the exclusions that exclude no address of the pool to ``odd``."""
    if not pool.sets:
        return
    for path, hole in holes:
        if not _touched(hole, pool):
            odd.append((path, "", f"this exclusion has no effect: {_text(hole)} is in no range"))


def look_at_static(odd: list[Odd], areas: list[tuple[str, Hole]], pool: Pool) -> None:
    """Add the static areas of which no address can be assigned to ``odd``, with the reason."""
    if not pool.sets:
        return
    for path, area in areas:
        family, low, high = area
        if any(
            one.family == family and first <= high and low <= last
            for one in pool.sets
            for first, last in one.static
        ):
            continue
        touched = _touched(area, pool)
        if not touched:
            why = f"{_text(area)} is in no range"
        elif low == high and any(each.gateway == (family, low) for each in touched):
            why = f"{_text(area)} is the gateway of its range, which is never assigned"
        else:
            why = f"{_text(area)} is never assigned, because it is excluded or a gateway"
        odd.append((path, "", f"no effect: {why}"))


def _touched(hole: Hole, pool: Pool) -> list[Range]:
    """Return the ranges that contain an address of an exclusion or static area."""
    family, low, high = hole
    return [
        each
        for one in pool.sets
        if one.family == family
        for each in one.ranges
        if each.start <= high and low <= each.end
    ]


def _text(hole: Hole) -> str:
    """Return an area as a user would type it: an address, a CIDR or two addresses."""
    family, low, high = hole
    bits = (high - low).bit_length()
    if low == high:
        return format_ip(family, low)
    if high - low + 1 == 1 << bits and not low & (high - low):
        return format_cidr(family, low, BITS[family] - bits)
    return f"{format_ip(family, low)}-{format_ip(family, high)}"


def lines(odd: list[Odd], raw: bytes) -> list[str]:
    """Return a line for each of the first notes, and a line that counts the rest.

    Keys are spelled as in the document.
    """
    notes = []
    for path, key, what in odd[:_MOST]:
        where = f"{path}{_step(_as_written(raw, key))}" if key else path
        notes.append(f"{where}: {what or 'unknown key, ignored'}")
    if len(odd) > _MOST:
        notes.append(f"more fields of the configuration that have no effect: {len(odd) - _MOST}")
    return notes


def path_in(paths: list[str], field: str) -> str:
    """Return the path in the configuration for the field ``ranges[i][j].key`` of a pool.

    ``paths`` has the path at which each range set was written.

    >>> path_in(["ipam", "ipam.ranges[0]"], "ranges[1][2].gateway")
    'ipam.ranges[0][2].gateway'
    >>> path_in(["ipam"], "ranges[0][0].gateway"), path_in([], "durability")
    ('ipam.gateway', 'ipam.durability')
    """
    head, _, key = field.rpartition(".")
    set_index, _, index = head.removeprefix("ranges[").removesuffix("]").partition("][")
    if not set_index.isdecimal():
        return f"ipam.{field}" if field == "durability" else field
    if int(set_index) >= len(paths):
        return "ipam.cluster.pool"
    path = paths[int(set_index)]
    if path == "ipam" or path.startswith("ipam.ipRanges["):  # one range, not a list of them
        return f"{path}.{key}"
    return f"{path}[{index}].{key}"


def _step(key: str) -> str:
    """Return the part of a path that leads to a key.

    >>> _step("mtu"), _step("a b")
    ('.mtu', "['a b']")
    """
    plain = reader.is_id(key.strip("_")) and key.isprintable()
    return f".{key}" if plain else f"[{key!r:.80}]"


def _as_written(raw: bytes, key: str) -> str:
    """Return a key as the document spells it, or in lower case if it has JSON escapes there."""
    text = raw.decode("utf-8", "replace")
    at = text.casefold().find(f'"{key.casefold()}"')
    found = text[at + 1 : at + 1 + len(key)]
    return found if at >= 0 and found.casefold() == key.casefold() else key
