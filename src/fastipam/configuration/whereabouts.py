"""Read the ranges of a configuration for whereabouts, and whereabouts' keys inside other ranges.

This module is imported only when a configuration has one of whereabouts' keys, or ``exclude``
inside a range.
"""

from __future__ import annotations

from fastipam.addressing.addresses import (
    BITS,
    V4,
    format_cidr,
    format_ip,
    parse_cidr,
    prefix_bounds,
)
from fastipam.addressing.ranges import Range
from fastipam.configuration import reader
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.configuration.notes import Odd

    Hole = tuple[int, int, int]  # family, first, last address of an exclusion

_KNOWN = frozenset(
    ("range", "range_start", "range_end", "rangestart", "rangeend", "exclude", "gateway")
)
# The same keys by whereabouts' and by host-local's name.
_NAMES = (("range_start", "rangeStart"), ("range_end", "rangeEnd"))


def range_sets(
    ipam: dict[str, Any], paths: list[str], odd: list[Odd], holes: list[tuple[str, Hole]]
) -> list[list[Range]]:
    """Return the range sets of ``range`` and ``ipRanges``.

    This adds the sets' paths to ``paths``, keys without effect to ``odd``, and the exclusions
    inside ``ipRanges`` to ``holes``. Raises ConfigError.
    """
    sets = []
    if "range" in ipam:
        sets.append([_range(ipam, "ipam")])
        paths.append("ipam")
    elif "subnet" not in ipam:
        for key in ("range_start", "range_end"):
            if key in ipam:
                raise ConfigError(
                    "no effect without ipam.range", field=f"ipam.{key}", value=ipam[key]
                )
    for at, one in enumerate(reader.listed(ipam, "ipRanges", "ipam", reader.MOST_SETS)):
        here = f"ipam.ipRanges[{at}]"
        if not isinstance(one, dict):
            raise reader.wrong(here, one, "an object with a range")
        odd += [(here, key, "") for key in one if key not in _KNOWN]
        found = _range(one, here)
        sets.append([found])
        paths.append(here)
        holes += holes_of(one, here, found, odd)
    return sets


def holes_of(
    holder: dict[str, Any], path: str, found: Range, odd: list[Odd]
) -> list[tuple[str, Hole]]:
    """Return the exclusions written inside a range, with their paths. Raises ConfigError.

    They apply to this range alone, so they are cut to its bounds.
    """
    holes = []
    for at, one in enumerate(reader.listed(holder, "exclude", path)):
        field = f"{path}.exclude[{at}]"
        family, low, high = reader.exclusion(one, field)
        low, high = max(low, found.start), min(high, found.end)
        if family == found.family and low <= high:
            holes.append((field, (family, low, high)))
        else:
            odd.append(
                (field, "", f"this exclusion has no effect: no address of {one} is in {found}")
            )
    return holes


def with_aliases(holder: dict[str, Any], path: str) -> Range:
    """Return the range of an object: its ``subnet``, and start and end under either name.

    ``range_start`` and ``range_end`` are whereabouts' names.
    """
    start, end = (_either(holder, *names, path) for names in _NAMES)
    subnet, gateway = (reader.text(holder, key, path) for key in ("subnet", "gateway"))
    try:
        found = Range.parse(subnet, start, end, gateway, field=path)
    except ConfigError as error:
        raise _at_the_name(error, holder, path) from None
    return _without_edges(found, path, *(theirs in holder for theirs, _ in _NAMES))


def _at_the_name(error: ConfigError, holder: dict[str, Any], path: str) -> ConfigError:
    """Return an error about a bound, with the field in which the user wrote it."""
    key = error.field.rpartition(".")[2]
    for theirs, ours in _NAMES:
        if key == ours and ours.casefold() not in holder:
            error.field = f"{path}.{theirs if theirs in holder else 'range'}"
    return error


def _without_edges(found: Range, path: str, start: bool = True, end: bool = True) -> Range:
    """Remove the network and broadcast address from an IPv4 range, as whereabouts does.

    ``start`` and ``end`` say which bounds were given by whereabouts' names. A /31 or /32 has
    neither address.
    """
    if found.family != V4 or BITS[V4] - found.length <= 1:
        return found
    first, last = prefix_bounds(V4, found.network, found.length)
    if start:
        found.start = max(found.start, first + 1)
    if end:
        found.end = min(found.end, last - 1)
    if found.start > found.end:
        subnet = format_cidr(V4, first, found.length)
        raise ConfigError(
            f"no address is left between the network address {format_ip(V4, first)} and the "
            f"broadcast address {format_ip(V4, last)} of {subnet}",
            field=path,
            value=subnet,
        )
    return found


def _either(holder: dict[str, Any], theirs: str, ours: str, path: str) -> str:
    """Return the text under one of two keys. If both exist, they must have the same text."""
    text, other = reader.text(holder, theirs, path), reader.text(holder, ours, path)
    if text and other and text != other:
        raise ConfigError(
            f"{theirs} is {text!r}, but {path}.{ours} is {other!r}",
            field=f"{path}.{theirs}",
            value=text,
            hint="use one of the two",
        )
    return text or other


def _range(holder: dict[str, Any], path: str) -> Range:
    """Return the range under ``range``: a CIDR (host bits allowed) or ``a-b/length``.

    It has no default gateway.
    """
    if "range" not in holder:
        raise ConfigError("the range is missing", field=f"{path}.range", value=None)
    text = reader.text(holder, "range", path)
    low, dash, rest = text.partition("-")
    start, end = (_either(holder, *names, path) for names in _NAMES)
    if dash:
        high, _, length = rest.partition("/")
        text = f"{low.strip()}/{length}"
        if reader.ip(high.strip(), f"{path}.range") is None:
            raise ConfigError(
                "the range's end address after '-' is missing", field=f"{path}.range", value=high
            )
        start, end = start or low.strip(), end or high.strip()
    try:
        family, value, bits = parse_cidr(text)
    except ValueError as error:
        raise ConfigError(str(error), field=f"{path}.range", value=holder["range"]) from None
    subnet = format_cidr(family, prefix_bounds(family, value, bits)[0], bits)
    gateway = reader.text(holder, "gateway", path)
    try:
        found = Range.parse(subnet, start, end, gateway, default_gateway=False, field=path)
    except ConfigError as error:
        if error.field == f"{path}.subnet":
            error.field = f"{path}.range"
        raise _at_the_name(error, holder, path) from None
    return _without_edges(found, path)
