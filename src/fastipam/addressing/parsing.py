"""Build a pool of ranges from a configuration, or from the arguments of a caller.

An error names the field. The checks are made in host-local's order, so that both refuse the same
configuration for the same reason.
"""

from __future__ import annotations

from fastipam import late_errors as errors
from fastipam.addressing.addresses import BITS, UNUSABLE, parse_cidr, parse_ip, prefix_bounds
from fastipam.addressing.ranges import Pool, Range, RangeSet, merge, touching

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    OneRange = Collection[str]  # a text or a mapping; mypy infers this type for a list of both
    Ranges = str | Sequence[OneRange | Sequence[OneRange] | RangeSet]

DEFAULT_RANGE = "10.32.0.0/12"  # Weave Net's, 10.32.0.0 to 10.47.255.255


def build_pool(
    sets: Sequence[Sequence[Range]],
    exclude: Sequence[tuple[int, int, int]] = (),
    *,
    static: Sequence[tuple[int, int, int]] = (),
    field: str = "ranges",
    fields: Sequence[str] = (),
    may_be_empty: bool = False,
) -> Pool:
    """Return the pool of these range sets, after checking them against each other.

    ``exclude`` and ``static`` hold (family, low, high) triples. ``fields`` has the path of each
    set, for errors; without it the paths are ``field[0]`` and so on. Raises ConfigError for an
    empty set, mixed families, overlapping ranges or sets, and, unless ``may_be_empty``, for a set
    that has no address left to assign.
    """
    places = fields or [f"{field}[{which}]" for which in range(len(sets))]
    for which, ranges in enumerate(sets):
        here = places[which]
        if not ranges:
            raise errors.ConfigError(f"range set {which} is empty", field=here, value=[])
        for at, other in enumerate(ranges):
            if other.family != ranges[0].family:
                raise errors.ConfigError(
                    f"range set {which} mixes address families: {ranges[0]} and {other}",
                    field=_in_list(here, at),
                    value=str(other),
                    hint="give each family a range set of its own",
                )
        clash = _overlap(ranges, ranges, same=True)
        if clash:
            raise errors.ConfigError(
                f"ranges {clash[0]} and {clash[1]} of range set {which} overlap",
                field=_in_list(here, ranges.index(clash[1])),
                value=str(clash[1]),
            )
    for which, ranges in enumerate(sets):
        for later in range(which + 1, len(sets)):
            clash = _overlap(ranges, sets[later], same=False)
            if clash:
                raise errors.ConfigError(
                    f"range set {which} ({clash[0]}) overlaps with range set {later} ({clash[1]})",
                    field=_in_list(places[later], sets[later].index(clash[1]))
                    if len(sets[later]) > 1
                    else places[later],
                    value=str(clash[1]),
                )
    holes = {
        family: merge((low, high) for its_family, low, high in exclude if its_family == family)
        for family in BITS
    }
    joined = []
    for which, ranges in enumerate(sets):
        family = ranges[0].family
        inside = {
            hole
            for each in ranges
            for known in (holes[family], UNUSABLE[family])
            for hole in touching(known, each.start, each.end)
        }
        on_request = [(low, high) for its_family, low, high in static if its_family == family]
        whole = RangeSet(ranges, sorted(inside), static=on_request)
        if not whole.size and not whole.static and not may_be_empty:
            raise errors.ConfigError(
                f"range set {which} ({whole}) has no address to assign: the gateway and the "
                "exclusions cover all of it",
                field=places[which],
                value=str(whole),
            )
        joined.append(whole)
    return Pool(joined)


def _in_list(place: str, at: int) -> str:
    """Return the path of a range in a set, or the set's path if that is not written as a list."""
    return f"{place}[{at}]" if place.endswith("]") else place


def _overlap(
    left: Sequence[Range], right: Sequence[Range], *, same: bool
) -> tuple[Range, Range] | None:
    """Return the first pair of ranges that share an address, or None."""
    # ``same`` says that both are the same list: then a range is not compared with itself.
    for at, one in enumerate(left):
        for other in right[at + 1 :] if same else right:
            if one.family == other.family and one.start <= other.end and other.start <= one.end:
                return one, other
    return None


def parse_exclusion(text: str, *, field: str = "exclude") -> tuple[int, int, int]:
    """Return (family, low, high) of a CIDR, a range ``"10.0.0.1-10.0.0.9"`` or an address.

    Raises ConfigError.
    """
    try:
        if "/" in text:
            family, value, length = parse_cidr(text)
            return (family, *prefix_bounds(family, value, length))
        low_text, dash, high_text = text.partition("-")
        if dash and not (low_text.strip() and high_text.strip()):
            raise ValueError(f"{text!r} is not a range of addresses: write FIRST-LAST")
        family, low = parse_ip(low_text.strip())
        if not dash:
            return family, low, low
        high_family, high = parse_ip(high_text.strip())
    except ValueError as error:
        raise errors.ConfigError(str(error), field=field, value=text) from None
    if high_family != family or high < low:
        raise errors.ConfigError(
            f"{text!r} is not a valid range: the end comes before the start, or has another family",
            field=field,
            value=text,
        )
    return family, low, high


def parse_ranges(
    ranges: str | Sequence[object],
    exclude: Iterable[str] = (),
    *,
    static: Iterable[str] = (),
    field: str = "ranges",
) -> Pool:
    """Return the pool that a library caller describes.

    ``ranges`` is one CIDR, or a sequence of range sets. A set is a CIDR, a mapping with
    host-local's keys (``subnet``, ``rangeStart``, ``rangeEnd``, ``gateway``), a sequence of these,
    or a set of :attr:`Network.ranges`, whose exclusions are taken too. Raises ConfigError with the
    field and the value.
    """
    given: object = ranges
    if not isinstance(given, (str, list, tuple)):
        raise errors.ConfigError(
            f"{field} is {errors.shown(ranges)}, which is neither a CIDR nor a list of range sets",
            field=field,
            value=ranges,
            hint="write '10.1.0.0/16', or ['10.1.0.0/16', 'fd00::/64'] for two families",
        )
    holes, on_request = _parse_exclusions(exclude), _parse_exclusions(static, "static")
    listed: Sequence[object] = [ranges] if isinstance(ranges, str) else ranges
    sets: list[list[Range]] = []
    for which, entry in enumerate(listed):
        here = f"{field}[{which}]"
        if isinstance(entry, RangeSet):
            sets.append(list(entry.ranges))
            holes += [(entry.family, *hole) for hole in entry.excluded]
            on_request += [(entry.family, *area) for area in entry.static]
        elif isinstance(entry, (list, tuple)):
            sets.append([_parse_entry(one, f"{here}[{at}]") for at, one in enumerate(entry)])
        else:
            sets.append([_parse_entry(entry, here)])
    if not sets:
        raise errors.ConfigError("no ranges are given", field=field, value=ranges)
    return build_pool(sets, holes, static=on_request, field=field)


def exclude_from(pool: Pool, exclude: Iterable[str]) -> Pool:
    """Return a pool's ranges with these exclusions instead of its own. Raises ConfigError."""
    static = [(each.family, *area) for each in pool.sets for area in each.static]
    sets = [each.ranges for each in pool.sets]
    return build_pool(sets, _parse_exclusions(exclude), static=static)


def _parse_exclusions(given: Iterable[str], field: str = "exclude") -> list[tuple[int, int, int]]:
    return [parse_exclusion(text, field=f"{field}[{at}]") for at, text in enumerate(given)]


_RANGE_KEYS = ("subnet", "rangeStart", "rangeEnd", "gateway")


def _parse_entry(entry: object, field: str) -> Range:
    if isinstance(entry, str):
        return Range.parse(entry, field=field)
    if not hasattr(entry, "keys"):
        message = f"{errors.shown(entry)} is neither a CIDR nor a mapping with a subnet"
        raise errors.ConfigError(message, field=field, value=entry)
    mapping: Mapping[str, object] = entry  # type: ignore[assignment]
    texts: list[str | None] = []
    for key in mapping:
        if key not in _RANGE_KEYS:
            raise errors.ConfigError(
                f"{key!r} is not a valid key of a range", field=field, value=key
            )
    for key in _RANGE_KEYS:
        text = mapping.get(key)
        if text is not None and not isinstance(text, str):
            raise errors.ConfigError(f"{key} must be a string", field=f"{field}.{key}", value=text)
        texts.append(text)
    if texts[0] is None:
        raise errors.ConfigError("subnet is missing", field=f"{field}.subnet", value=None)
    return Range.parse(texts[0], *texts[1:], field=field)
