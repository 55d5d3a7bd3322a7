"""The errors for ranges and requested addresses. Imported when one of them may be raised."""

from __future__ import annotations

from fastipam.addressing.addresses import LOOPBACK, MULTICAST, format_ip, unusable
from fastipam.errors import AddressNotInRange, ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def check_bounds(
    written: tuple[str | None, str | None],
    bounds: tuple[int, int, int, int],
    is_left: bool,
    subnet: str,
    dot: str,
) -> None:
    """Raise ConfigError for a range without an address that an interface can have.

    ``written`` are rangeStart and rangeEnd as the configuration has them, or empty for a default;
    the error names a bound only if the configuration has it. ``bounds`` are family, network, first
    and last address. ``is_left`` says that an interface can have an address between the bounds.
    """
    family, network, low, high = bounds
    if low > high:
        raise _reversed(written, bounds, subnet, dot)
    for text, value, key in zip(written, (low, high), ("rangeStart", "rangeEnd"), strict=True):
        if text and unusable(family, value):
            raise unusable_address(text, (family, value), f"{dot}{key}", "an interface")
    kind = unusable(family, network)
    if kind in (LOOPBACK, MULTICAST) or not is_left:
        raise ConfigError(
            f"{subnet} has {kind} addresses, which an interface cannot have",
            field=f"{dot}subnet",
            value=subnet,
        )


def _reversed(
    written: tuple[str | None, str | None],
    bounds: tuple[int, int, int, int],
    subnet: str,
    dot: str,
) -> ConfigError:
    """Return the error for a range that ends before it starts."""
    start, end = written
    first, last = format_ip(bounds[0], bounds[2]), format_ip(bounds[0], bounds[3])
    if start and end:
        message = f"rangeStart {first} comes after rangeEnd {last}"
    elif start:
        message = f"{first} comes after {last}, the default rangeEnd of {subnet}"
    else:
        message = f"{last} comes before {first}, the default rangeStart of {subnet}"
    field = f"{dot}rangeStart" if start else f"{dot}rangeEnd"
    return ConfigError(message, field=field, value=start or end)


def unusable_address(text: str, address: tuple[int, int], field: str, who: str) -> ConfigError:
    """Return the error for an address that ``who`` ("an interface", "a gateway") cannot have."""
    kind = unusable(*address)
    article = "a" if kind in (LOOPBACK, MULTICAST) else "the"
    return ConfigError(
        f"{text} is {article} {kind} address, which {who} cannot have", field=field, value=text
    )


def unserved(
    sets: Sequence[Any], requests: Sequence[int | None], left: Sequence[tuple[int, int]]
) -> AddressNotInRange:
    """Return the error for requested addresses that no range set serves.

    ``requests`` has the address that each range set serves, or None. ``left`` has the addresses
    that are in no range, or in a range whose set already serves another request.
    """
    reasons = []
    for family, value in left:
        text = f"the requested address {format_ip(family, value)} is in"
        for each, served in zip(sets, requests, strict=True):
            if served is not None and each.family == family and each.range_of(value):
                other = format_ip(family, served)
                reasons.append(
                    f"{text} range set {each}, like {other}: a request gets only one address from "
                    "each range set"
                )
                break
        else:
            reasons.append(f"{text} no range of the network")
    return AddressNotInRange(
        "; ".join(reasons),
        addresses=tuple(format_ip(*one) for one in left),
        hint=f"the ranges are {'; '.join(map(str, sets))}",
    )
