"""The reader of configurations: it decodes JSON, and checks the type of each field.

A field that is absent is empty: "", [], {} or None. An error names the path of the field as the
user wrote it.

Importing ``json`` takes as long as starting the interpreter. So this module calls the scanner that
``json`` itself uses (``_json``), and imports ``json`` only to locate the error in a malformed
document, or on an interpreter without that scanner.

The case of keys is ignored, the last of several equal keys counts, and ``null`` is the same as
absent. Go's decoder works this way, and so does every CNI plugin, and configurations rely on it.
The list of valid attachments for GC is the one exception (``ATTACHMENTS``).
"""

from __future__ import annotations

import sys

from fastipam import late_errors as errors
from fastipam.addressing.addresses import parse_cidr, parse_ip
from fastipam.addressing.parsing import parse_exclusion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    make_scanner: Any

try:
    from _json import encode_basestring_ascii, make_scanner
except ImportError:  # pragma: no cover  # an interpreter without the C accelerator
    make_scanner = None
    from json.encoder import encode_basestring_ascii

# These two limits bound the memory and time that a hostile document can take. Marks are the
# characters , [ and {. A configuration has a few hundred bytes; a GC request has about 100 bytes
# and three marks for each attachment.
LARGEST = 4 << 20
_MOST_MARKS = 1 << 17
# Nested levels of lists and objects. Without this limit the depth that can be decoded would depend
# on the interpreter (CPython 3.11: 994, 3.13: 9998) and on the caller's own depth.
_DEEPEST = 256


# The one key for which null is not the same as absent: a runtime without attachments sends null,
# and a missing list is an error.
ATTACHMENTS = "cni.dev/valid-attachments"


def fold(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object with its keys case-folded and without null values."""
    return {
        key.casefold(): value
        for key, value in pairs
        if value is not None or key.casefold() == ATTACHMENTS
    }


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_Namespace: Any = type(sys.implementation)  # types.SimpleNamespace, without the import
# The settings of the scanner, under the names that it reads.
_CONTEXT = _Namespace(
    strict=True,
    object_hook=None,
    object_pairs_hook=fold,
    parse_float=float,
    parse_int=int,
    parse_constant=_refuse_constant,
    memo={},  # the scanner empties it after every document
)


# The same settings, for an object in which the case of keys matters.
_EXACT = _Namespace(**{**vars(_CONTEXT), "object_pairs_hook": None, "memo": {}})


_SPACE = " \t\n\r"


def decode(raw: bytes, what: str = "the network configuration") -> dict[str, Any]:
    """Return the JSON object in ``raw``, its keys case-folded. ``what`` names it in an error.

    Raises DecodingError with line and column.
    """
    if len(raw) > LARGEST:
        raise errors.DecodingError(f"{what} is larger than {LARGEST >> 20} MiB")
    # Every value but the first follows one of these characters. Those inside texts are counted too.
    opened = raw.count(b"[") + raw.count(b"{")
    if raw.count(b",") + opened > _MOST_MARKS:
        raise errors.DecodingError(f"{what} has more than {_MOST_MARKS} values")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - before.rfind(b"\n")
        raise errors.DecodingError(
            f"{what} is not UTF-8: line {line} column {column}: {error.reason}"
        ) from None
    try:
        value = _scan(text)
        if opened > _DEEPEST and _is_deep(value):
            raise RecursionError
    except RecursionError:
        raise errors.DecodingError(
            f"{what} is nested too deeply: the limit is {_DEEPEST} levels"
        ) from None
    except ValueError as error:
        raise errors.DecodingError(f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise errors.DecodingError(f"{what} is not a JSON object but {kind_of(value)}")
    return value


def decode_first(raw: bytes) -> tuple[dict[str, Any], int]:
    """Return the JSON object at the start of ``raw``, keys as written, and its size in bytes.

    Anything may follow the object. Raises DecodingError, without line and column.
    """
    if make_scanner is None:  # pragma: no cover  # an interpreter without the C accelerator
        raise errors.DecodingError(
            "this Python has no C scanner for JSON, which fastipam needs to find an object's end"
        )
    try:
        text = raw.decode()
        value, end = make_scanner(_EXACT)(text, 0)
    except (ValueError, RecursionError, StopIteration, SystemError):
        raise errors.DecodingError("this is not JSON") from None
    if not isinstance(value, dict):
        raise errors.DecodingError("this is not a JSON object")
    return value, end if text.isascii() else len(text[:end].encode())


def _scan(text: str) -> Any:
    if make_scanner is not None:
        at = len(text) - len(text.lstrip(_SPACE))
        try:
            value, end = make_scanner(_CONTEXT)(text, at)
        except (StopIteration, SystemError):
            pass  # up to Python 3.12 the scanner cannot raise its own error unless json is imported
        else:
            if not text[end:].strip(_SPACE):
                return value
    import json  # its error says where and why

    if not text.strip(_SPACE):
        raise ValueError("the document is empty")
    return json.loads(text, object_pairs_hook=fold, parse_constant=_refuse_constant)


def _is_deep(value: Any) -> bool:
    """Return whether a value has more than ``_DEEPEST`` levels. O(values)."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def encode(value: Any, margin: str = "") -> str:
    """Return a value as JSON, indented by 4 as libcni prints it.

    The value may have objects, lists, texts, integers and booleans.
    """
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    inner = margin + "    "
    if isinstance(value, dict):
        if not value:
            return "{}"
        items = [
            f"{inner}{encode_basestring_ascii(key)}: {encode(item, inner)}"
            for key, item in value.items()
        ]
        return "{\n" + ",\n".join(items) + f"\n{margin}}}"
    if not value:
        return "[]"
    return "[\n" + ",\n".join(inner + encode(item, inner) for item in value) + f"\n{margin}]"


def kind_of(value: Any) -> str:
    """Return the type of a JSON value, for an error's text."""
    if isinstance(value, bool):
        return "a boolean"
    for kind, name in ((dict, "an object"), (list, "a list"), (str, "a string")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "a number"


# Fields ----------------------------------------------------------------------------------------

RANGE_KEYS = ("subnet", "rangeStart", "rangeEnd", "gateway")
# These limits are far above any real configuration, and bound the time that a hostile one can take.
MOST_ENTRIES = 4096  # entries of a list, such as routes or exclusions
MOST_SETS = 256  # range sets: each gives a container one address


def show(value: Any) -> str:
    """Return a value for a message: JSON, cut to 80 characters, without a URL's credentials."""
    try:
        return f"{errors.hide_credentials(_written(value)):.80}"
    except RecursionError:  # a value that could be decoded may still be too deep for repr
        return "…"


def _written(value: Any) -> str:
    """Return a value as JSON, but a string in the quotes that other messages use."""
    if isinstance(value, str):
        return repr(value)
    import json  # it is slow to import, and an error is rare

    return json.dumps(value, default=repr)


def wrong(field: str, value: Any, wanted: str) -> errors.ConfigError:
    """Return the error for a value of the wrong type."""
    shown = "" if value is None else f": {show(value)}"
    return errors.ConfigError(
        f"this is {kind_of(value)}, not {wanted}{shown}", field=field, value=value
    )


def refused(field: str, value: Any, wanted: str) -> errors.ConfigError:
    """Return the error for a value of the right type that is not allowed."""
    return errors.ConfigError(f"{show(value)} is not {wanted}", field=field, value=value)


def text(holder: dict[str, Any], key: str, path: str) -> str:
    """Return the text under a key, or "" when it is absent. Raises ConfigError."""
    value = holder.get(key.casefold(), "")
    if not isinstance(value, str):
        raise wrong(f"{path}.{key}", value, "a string")
    return value


def listed(holder: dict[str, Any], key: str, path: str, most: int = MOST_ENTRIES) -> list[Any]:
    """Return the list under a key, or [] when it is absent.

    Raises ConfigError, also when the list has more than ``most`` entries.
    """
    value = holder.get(key.casefold(), [])
    field = f"{path}.{key}"
    if not isinstance(value, list):
        raise wrong(field, value, "a list")
    if len(value) > most:
        raise errors.ConfigError(
            f"{len(value)} entries are listed, but at most {most} are allowed",
            field=field,
            value=value,
        )
    return value


def mapping(holder: dict[str, Any], key: str, path: str) -> dict[str, Any]:
    """Return the object under a key, or {} when it is absent. Raises ConfigError."""
    value = holder.get(key.casefold(), {})
    if not isinstance(value, dict):
        raise wrong(f"{path}.{key}" if path else key, value, "an object")
    return value


def choice(ipam: dict[str, Any], key: str, allowed: tuple[str, ...]) -> str | None:
    """Return the text under a key of ``ipam``, one of ``allowed``, or None when it is absent."""
    if key.casefold() not in ipam:
        return None
    value = ipam[key.casefold()]
    field = f"ipam.{key}"
    shown = " or ".join(f'"{one}"' for one in allowed)
    if not isinstance(value, str):
        raise wrong(field, value, shown)
    if value not in allowed:
        raise refused(field, value, shown)
    return value


def integer(value: Any, field: str) -> int:
    """Return ``value`` as an integer of up to 64 bits. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong(field, value, "an integer")
    if not -(1 << 63) <= value < 1 << 63:
        raise errors.ConfigError(f"{value} does not fit in 64 bits", field=field, value=value)
    return value


def exclusion(value: Any, field: str) -> tuple[int, int, int]:
    """Return (family, first, last) of a CIDR, a range "a-b" or an address."""
    if not isinstance(value, str):
        raise wrong(field, value, "a CIDR, an address or a range, as a string")
    return parse_exclusion(value, field=field)


def address(value: str, field: str) -> tuple[int, int] | None:
    """Parse an address, ignoring a /length: (family, address), or None for an empty text."""
    if not value:
        return None
    try:
        return parse_cidr(value)[:2] if "/" in value else parse_ip(value)
    except ValueError as error:
        raise errors.ConfigError(str(error), field=field, value=value) from None


def ip(value: str, field: str) -> tuple[int, int] | None:
    """Parse an address without a /length: (family, address), or None for an empty text."""
    if not value:
        return None
    try:
        return parse_ip(value)
    except ValueError as error:
        raise errors.ConfigError(str(error), field=field, value=value) from None


def is_path(value: Any) -> bool:
    """Return whether the value can be a file name: not empty, no NUL, encodable."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell
        return False
    return True


def brief(value: Any) -> str:
    """Return a value for an error's text, but a list or an object only as its type."""
    return kind_of(value) if isinstance(value, (dict, list)) else _written(value)


def flag(holder: dict[str, Any], key: str, path: str) -> bool:
    """Return the boolean under a key, or False when it is absent. Raises ConfigError."""
    value = holder.get(key.casefold(), False)
    if not isinstance(value, bool):
        raise wrong(f"{path}.{key}", value, "true or false")
    return value


def number(
    holder: dict[str, Any], key: str, path: str, default: float, bounds: tuple[float, float]
) -> float:
    """Return the number under a key, or ``default``. Both bounds are inclusive."""
    value = holder.get(key.casefold(), default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong(f"{path}.{key}", value, "a number")
    if not bounds[0] <= value <= bounds[1]:
        raise refused(f"{path}.{key}", value, f"a number from {bounds[0]:g} to {bounds[1]:g}")
    return value


def file(holder: dict[str, Any], key: str, path: str) -> str:
    """Return the absolute path under a key, or "" when it is absent.

    It has to be absolute because a runtime may start the plugin in any directory.
    """
    value = text(holder, key, path)
    if value and not (value.startswith("/") and is_path(value)):
        raise refused(f"{path}.{key}", value, "an absolute path")
    return value


def is_id(value: str) -> bool:
    """Return whether the specification allows this container id or network name (CNI 1.1.0)."""
    if value.isalnum() and value.isascii():  # the usual case
        return True
    return bool(value) and value[0] in _ALPHANUMERIC and _ID_CHARACTERS.issuperset(value)


# Bytes: host-local's limit (the name is a directory there), and far below LMDB's 511.
LONGEST_NETWORK = 255
LONGEST_IFNAME = 15  # IFNAMSIZ less the final NUL


def fault_of_ifname(value: str) -> str:
    """Return why no interface can have this name, by libcni's rules, or an empty text."""
    try:
        size = len(value.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # half a surrogate pair, from JSON or from a caller of the library
        return f"{value!r} is not valid UTF-8"
    if not size:
        return "the interface name is empty"
    if size > LONGEST_IFNAME:
        return f"the interface name {value!r} is too long"
    if value in (".", ".."):
        return f"an interface cannot be named {value!r}"
    if any(character in "/:" or character.isspace() for character in value):
        return f"the interface name {value!r} has '/', ':' or white space"
    return ""


_ALPHANUMERIC = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_ID_CHARACTERS = _ALPHANUMERIC | frozenset("_.-")
