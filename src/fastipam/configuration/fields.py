"""The fields of a configuration, read one at a time: of the right kind, or refused by their path.

A field that is absent is empty: "", [], {} or None.
"""

from __future__ import annotations

from fastipam.addressing.addresses import parse_cidr, parse_ip
from fastipam.addressing.parsing import parse_exclusion
from fastipam.configuration.reader import kind_of
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# No configuration comes near these; they bound the time that a hostile one can take.
MOST_ENTRIES = 4096  # of a list: routes, exclusions
MOST_SETS = 256  # range sets: each gives a container one more address


def wrong(field: str, value: Any, wanted: str) -> ConfigError:
    """A field is of another kind than it has to be."""
    return ConfigError(f"this is {kind_of(value)}, not {wanted}", field=field, value=value)


def text(holder: dict[str, Any], key: str, path: str) -> str:
    """The text under a key, "" when it is absent."""
    value = holder.get(key.casefold(), "")
    if not isinstance(value, str):
        raise wrong(f"{path}.{key}", value, "a text")
    return value


def listed(holder: dict[str, Any], key: str, path: str, most: int = MOST_ENTRIES) -> list[Any]:
    """The list under a key, [] when it is absent; no longer than ``most``."""
    value = holder.get(key.casefold(), [])
    field = f"{path}.{key}"
    if not isinstance(value, list):
        raise wrong(field, value, "a list")
    if len(value) > most:
        raise ConfigError(f"{len(value)} entries are more than {most}", field=field, value=value)
    return value


def mapping(holder: dict[str, Any], key: str, path: str) -> dict[str, Any]:
    """The object under a key, {} when it is absent."""
    value = holder.get(key.casefold(), {})
    if not isinstance(value, dict):
        raise wrong(f"{path}.{key}" if path else key, value, "an object")
    return value


def choice(ipam: dict[str, Any], key: str, allowed: tuple[str, ...]) -> str | None:
    """The text under a key, one of those allowed; None when it is absent."""
    if key.casefold() not in ipam:
        return None
    value = text(ipam, key, "ipam")
    if value not in allowed:
        raise ConfigError(
            f"{value!r} is none of {', '.join(allowed)}", field=f"ipam.{key}", value=value
        )
    return value


def integer(value: Any, field: str) -> int:
    """A whole number that fits into 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong(field, value, "an integer")
    if not -(1 << 63) <= value < 1 << 63:
        raise ConfigError(f"{value} has more than 64 bits", field=field, value=value)
    return value


def exclusion(value: Any, field: str) -> tuple[int, int, int]:
    """A CIDR, a range "a-b" or an address as (family, first, last)."""
    if not isinstance(value, str):
        raise wrong(field, value, "a CIDR, an address or a range, as text")
    return parse_exclusion(value, field=field)


def address(text: str, field: str) -> tuple[int, int] | None:
    """An address, a /length behind it ignored; None for an empty text."""
    if not text:
        return None
    try:
        return parse_cidr(text)[:2] if "/" in text else parse_ip(text)
    except ValueError as error:
        raise ConfigError(str(error), field=field, value=text) from None


def ip(text: str, field: str) -> tuple[int, int] | None:
    """An address and nothing else; None for an empty text."""
    if not text:
        return None
    try:
        return parse_ip(text)
    except ValueError as error:
        raise ConfigError(str(error), field=field, value=text) from None


def is_path(value: Any) -> bool:
    """Whether an operating system could have a file of this name."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell
        return False
    return True


def brief(value: Any) -> str:
    """A value in an error's text; a list or an object only by its kind."""
    return kind_of(value) if isinstance(value, (dict, list)) else repr(value)
