"""The ranges of a configuration written for whereabouts.

Imported only when a configuration has one of its keys (``network.py``: ``_WHEREABOUTS``).
"""

from __future__ import annotations

from fastipam.addressing.addresses import format_cidr, parse_cidr, prefix_bounds
from fastipam.addressing.ranges import Range
from fastipam.configuration import reader
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def range_sets(
    ipam: dict[str, Any], paths: list[str]
) -> tuple[list[list[Range]], list[tuple[int, int, int]]]:
    """Return the sets of ``range`` and ``ipRanges``, and the exclusions of the latter's entries.

    Adds the sets' paths to ``paths``. Raises ConfigError.
    """
    sets = []
    holes: list[tuple[int, int, int]] = []
    if "range" in ipam:
        sets.append([_range(ipam, "ipam")])
        paths.append("ipam")
    else:
        for key in ("range_start", "range_end"):
            if key in ipam:
                raise ConfigError(
                    "this bounds ipam.range, which is missing", field=f"ipam.{key}", value=ipam[key]
                )
    for at, one in enumerate(reader.listed(ipam, "ipRanges", "ipam", reader.MOST_SETS)):
        here = f"ipam.ipRanges[{at}]"
        if not isinstance(one, dict):
            raise reader.wrong(here, one, "an object with a range")
        its_range = _range(one, here)
        sets.append([its_range])
        paths.append(here)
        for place, hole in enumerate(reader.listed(one, "exclude", here)):
            family, low, high = reader.exclusion(hole, f"{here}.exclude[{place}]")
            # It is this entry's alone: what it says beyond the range means nothing to the others.
            low, high = max(low, its_range.start), min(high, its_range.end)
            if family == its_range.family and low <= high:
                holes.append((family, low, high))
    return sets, holes


def _either(holder: dict[str, Any], theirs: str, ours: str, path: str) -> str:
    """Return the text under one of two names. Both may be there only with the same text."""
    text, other = reader.text(holder, theirs, path), reader.text(holder, ours, path)
    if text and other and text != other:
        raise ConfigError(
            f"it says {text!r} and {path}.{ours} says {other!r}",
            field=f"{path}.{theirs}",
            value=text,
            hint="use one of the two",
        )
    return text or other


def _range(holder: dict[str, Any], path: str) -> Range:
    """Return ``range``, a CIDR (host bits allowed) or ``a-b/length``, without a default gateway."""
    if "range" not in holder:
        raise ConfigError("the range is missing", field=f"{path}.range", value=None)
    text = reader.text(holder, "range", path)
    low, dash, rest = text.partition("-")
    start = _either(holder, "range_start", "rangeStart", path)
    end = _either(holder, "range_end", "rangeEnd", path)
    if dash:
        high, _, length = rest.partition("/")
        text = f"{low.strip()}/{length}"
        if reader.ip(high.strip(), f"{path}.range") is None:
            raise ConfigError("the end behind '-' is missing", field=f"{path}.range", value=high)
        start, end = start or low.strip(), end or high.strip()
    try:
        family, value, bits = parse_cidr(text)
    except ValueError as error:
        raise ConfigError(str(error), field=f"{path}.range", value=holder["range"]) from None
    subnet = format_cidr(family, prefix_bounds(family, value, bits)[0], bits)
    gateway = reader.text(holder, "gateway", path)
    try:
        return Range.parse(subnet, start, end, gateway, default_gateway=False, field=path)
    except ConfigError as error:
        key = error.field.rpartition(".")[2]
        for theirs, ours in (("range_start", "rangeStart"), ("range_end", "rangeEnd")):
            if key == ours and ours.casefold() not in holder:  # it is where the user wrote it
                error.field = f"{path}.{theirs if theirs in holder else 'range'}"
        raise
