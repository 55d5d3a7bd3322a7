"""The rules of the kind AddressPool, for a pool that no API server has checked.

They are the rules of deploy/chart/files/crds.yaml. A test gives the same pools to an API server and
to this module.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from fastipam.addressing.addresses import BITS, V4, format_cidr, format_ip, parse_cidr, parse_ip
from fastipam.addressing.addresses import prefix_bounds as bounds
from fastipam.addressing.parsing import parse_exclusion
from fastipam.cluster.controller import selector_rules
from fastipam.errors import ConfigError

_PART = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LONGEST_NAME = 63
_TYPES: dict[str, tuple[type, str]] = {
    "cidr": (str, "a string"),
    "blockSize": (int, "an integer"),
    "gateway": (str, "a string"),
    "exclude": (list, "a list"),
    "nodeSelector": (dict, "an object"),
    "namespaceSelector": (dict, "an object"),
    "assignment": (str, "a string"),
    "claims": (str, "a string"),
    "priority": (int, "an integer"),
    "disabled": (bool, "true or false"),
    "maxBlocksPerNode": (int, "an integer"),
}
_CHOICES = {"assignment": ("Automatic", "Manual"), "claims": ("Any", "NodeCIDRs")}
_BOUNDS = {"priority": (-1_000_000, 1_000_000), "maxBlocksPerNode": (1, 1 << 20)}
_LARGEST_BLOCK = {4: 16, 6: 112}  # 65536 addresses
_MOST_BITS = 20  # of a block's number within its pool
_MOST_EXCLUSIONS = 256
_CIDR_HINT = "type one such as 10.32.0.0/12 or fd00:10::/104"


def check(name: object, spec: dict[str, Any], where: str) -> None:
    """Raise ConfigError for the first field that the API server would refuse.

    ``where`` is the path of the pool; the error's field begins with it. A null counts as absent, as
    on the server.
    """
    if (
        not isinstance(name, str)
        or len(name) > _LONGEST_NAME
        or not all(_PART.fullmatch(part) for part in name.split("."))
    ):
        raise _wrong(
            f"{where}.metadata.name",
            name,
            f"cannot be a pool's name: a name has at most {_LONGEST_NAME} characters, which are "
            "lower case letters, digits and '-'",
            "type a name such as default",
        )
    where = f"{where}.spec"
    given = {key: value for key, value in spec.items() if value is not None}
    _check_fields(given, where)
    cidr = _check_cidr(given["cidr"], where)
    _check_block_size(given["blockSize"], cidr, where)
    _check_gateway(given.get("gateway"), cidr, where)
    for at, one in enumerate(given.get("exclude", ())):
        _check_exclusion(one, f"{where}.exclude[{at}]")
    for key in ("nodeSelector", "namespaceSelector"):
        selector_rules.check(given.get(key, {}), f"{where}.{key}")


def _check_fields(given: dict[str, Any], where: str) -> None:
    """Check the fields' names, types and presence, and values that depend on no other field."""
    for key, value in given.items():
        if key not in _TYPES:
            close = difflib.get_close_matches(key, _TYPES, 1)
            hint = f"type {close[0]}" if close else f"the fields are {', '.join(_TYPES)}"
            raise ConfigError(
                f"AddressPool has no field {key}", field=f"{where}.{key}", value=value, hint=hint
            )
        kind, text = _TYPES[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise _wrong(f"{where}.{key}", value, f"is not {text}")
    for key in ("cidr", "blockSize"):
        if key not in given:
            raise ConfigError(
                f"the field {key} is missing",
                field=f"{where}.{key}",
                value=None,
                hint=_CIDR_HINT
                if key == "cidr"
                else "type the prefix length of a block, for example 24",
            )
    for key, choices in _CHOICES.items():
        if given.get(key, choices[0]) not in choices:
            raise _wrong(f"{where}.{key}", given[key], f"is neither {' nor '.join(choices)}")
    for key, (low, high) in _BOUNDS.items():
        if not low <= given.get(key, low) <= high:
            raise _wrong(f"{where}.{key}", given[key], f"is not in {low}..{high}")
    if len(given.get("exclude", ())) > _MOST_EXCLUSIONS:
        raise _wrong(
            f"{where}.exclude", given["exclude"], f"has more than {_MOST_EXCLUSIONS} items"
        )


def _check_cidr(text: str, where: str) -> tuple[int, int, int]:
    """Return the family, the network and the length of the pool's CIDR."""
    where = f"{where}.cidr"
    try:
        family, value, length = parse_cidr(text)
    except ValueError:
        raise _wrong(where, text, "is not a CIDR", _CIDR_HINT) from None
    network = bounds(family, value, length)[0]
    canonical = format_cidr(family, network, length)
    if network != value:
        raise _wrong(where, text, "has host bits", f"type {canonical}")
    if text != canonical:
        raise _wrong(where, text, "is not in canonical form", f"type {canonical}")
    if text.startswith(":"):
        raise _wrong(
            where, text, "begins with a colon, and blocks are named by their CIDR", _CIDR_HINT
        )
    return family, network, length


def _check_block_size(size: int, cidr: tuple[int, int, int], where: str) -> None:
    family, _, length = cidr
    low = max(length, _LARGEST_BLOCK[family])
    high = min(length + _MOST_BITS, BITS[family])
    if not low <= size <= high:
        raise _wrong(
            f"{where}.blockSize",
            size,
            f"cannot cut {format_cidr(*cidr)} into blocks: a block has 65536 addresses at most, a "
            "pool 1048576 blocks at most, and a block is not larger than its pool",
            f"type a blockSize in {low}..{high}" if low <= high else "type a smaller CIDR",
        )


def _check_gateway(text: str | None, cidr: tuple[int, int, int], where: str) -> None:
    if text is None:
        return
    where = f"{where}.gateway"
    try:
        family, value = parse_ip(text)
    except ValueError:
        hint = "type an address, or leave it out"
        raise _wrong(where, text, "is not an IP address", hint) from None
    if format_ip(family, value) != text:
        raise _wrong(where, text, "is not in canonical form", f"type {format_ip(family, value)}")
    if family != cidr[0]:
        raise _wrong(
            where,
            text,
            f"is not of the family of {format_cidr(*cidr)}",
            f"type an IPv{cidr[0]} address",
        )


def _check_exclusion(text: Any, where: str) -> None:
    hint = "type one such as 10.32.0.0/28, 10.32.0.5 or 10.32.0.1-10.32.0.9"
    if not isinstance(text, str):
        raise _wrong(where, text, "is not a string", hint)
    try:
        family, _, _ = parse_exclusion(text, field=where)
    except ConfigError:
        raise _wrong(where, text, "is not a CIDR, an address or a range", hint) from None
    if (
        (family == V4 and ":" in text)
        or any(letter.isspace() for letter in text)
        or "/0" in text.removesuffix("/0")
    ):
        raise _wrong(where, text, "is not in canonical form", hint)


def _wrong(field: str, value: object, what: str, hint: str | None = None) -> ConfigError:
    return selector_rules.wrong(field, value, what, hint)
