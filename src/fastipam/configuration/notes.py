"""Note what a configuration says without effect: unknown keys, values that change nothing.

Imported only when there is something to note, or parts in which it may be. A note begins with the
full path of the field.
"""

from __future__ import annotations

from fastipam.addressing.addresses import format_ip
from fastipam.configuration import reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.addressing.ranges import Pool

    Hole = tuple[int, int, int]
    Odd = tuple[str, str, str]  # path, folded key or "", what is odd: "" for an unknown key

_MOST = 8
# The capabilities of the CNI conventions: a main plugin reads them and hands all to its IPAM.
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
_MISPLACED = ("ip", "ips")  # directly in args, where nothing looks


def look_around(odd: list[Odd], document: dict[str, Any], runtime: dict[str, Any]) -> None:
    """Note the unknown keys of ``runtimeConfig`` and ``args``."""
    odd += [("runtimeConfig", key, "") for key in runtime if key not in _CAPABILITIES]
    args = document.get("args")
    if not isinstance(args, dict):
        return
    odd += [("args", key, "no effect: write args.cni.ips") for key in _MISPLACED if key in args]
    cni = args.get("cni")
    if isinstance(cni, dict):
        odd += [("args.cni", key, "") for key in cni if key not in _ARGS_OF_CNI]


def look_at_holes(odd: list[Odd], holes: list[tuple[str, Hole]], pool: Pool) -> None:
    """Note the exclusions that exclude no address of the pool."""
    if not pool.sets:
        return
    for path, (family, low, high) in holes:
        if not any(
            each.start <= high and low <= each.end
            for one in pool.sets
            if one.family == family
            for each in one.ranges
        ):
            text = format_ip(family, low)
            if high > low:
                text += f"-{format_ip(family, high)}"
            odd.append((path, "", f"it excludes nothing: no range has an address of {text}"))


def lines(odd: list[Odd], raw: bytes) -> list[str]:
    """Return a line for each note, with keys as the document spells them, and one for the rest."""
    notes = []
    for path, key, what in odd[:_MOST]:
        where = f"{path}{_step(_as_written(raw, key))}" if key else path
        notes.append(f"{where}: {what or 'unknown key, ignored'}")
    if len(odd) > _MOST:
        notes.append(f"{len(odd) - _MOST} more fields of the configuration have no effect")
    return notes


def path_in(paths: list[str], field: str) -> str:
    """Return where the user wrote the range that ``field``, ``ranges[i][j].key``, names.

    ``paths`` are those of the range sets.

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
    """Return a key as the document spells it; in lower case if it spells it with escapes."""
    text = raw.decode("utf-8", "replace")
    at = text.casefold().find(f'"{key.casefold()}"')
    found = text[at + 1 : at + 1 + len(key)]
    return found if at >= 0 and found.casefold() == key.casefold() else key
