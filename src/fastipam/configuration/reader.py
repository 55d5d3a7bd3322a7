"""JSON in and out, at a fraction of what importing ``json`` costs.

That import takes as long as the interpreter's start, which is why the plugin uses the scanner
that ``json`` itself uses (``_json``) and imports ``json`` only to say where a malformed document is
wrong, or on an interpreter without that scanner.

Keys are matched whatever their case, the last one counting, and ``null`` is the same as
absent: so do Go's decoder, every CNI plugin, and configurations in real use.
"""

from __future__ import annotations

from fastipam.errors import DecodingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    make_scanner: Any

try:
    from _json import encode_basestring_ascii, make_scanner
except ImportError:  # pragma: no cover  # an interpreter without the C accelerator
    make_scanner = None
    from json.encoder import encode_basestring_ascii

# A configuration has a few hundred bytes, a GC request about 100 and three values' worth of marks
# an attachment. The two limits bound the memory and the time that a hostile document can take.
LARGEST = 4 << 20
_MOST_MARKS = 1 << 17


def fold(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object with its keys case-folded; null values are absent."""
    return {key.casefold(): value for key, value in pairs if value is not None}


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class _Context:
    """What the scanner is told, under the names that it looks for."""

    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(fold)
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)
    memo: dict[str, str] = {}  # noqa: RUF012  # the scanner empties it after every document


_SPACE = " \t\n\r"


def decode(raw: bytes, what: str = "the network configuration") -> dict[str, Any]:
    """Return the JSON object in ``raw``, its keys folded; ``what`` names it in an error.

    Raises DecodingError with line and column.
    """
    if len(raw) > LARGEST:
        raise DecodingError(f"{what} is larger than {LARGEST >> 20} MiB")
    # Every value but the first stands behind one of these. Those inside a text are counted, too.
    if sum(map(raw.count, (b",", b"[", b"{"))) > _MOST_MARKS:
        raise DecodingError(f"{what} has more than {_MOST_MARKS} values")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - before.rfind(b"\n")
        raise DecodingError(
            f"{what} is not UTF-8: line {line} column {column}: {error.reason}"
        ) from None
    try:
        value = _scan(text)
    except RecursionError:
        raise DecodingError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise DecodingError(f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DecodingError(f"{what} is not a JSON object but {kind_of(value)}")
    return value


def _scan(text: str) -> Any:
    if make_scanner is not None:
        at = len(text) - len(text.lstrip(_SPACE))
        try:
            value, end = make_scanner(_Context)(text, at)
        except (StopIteration, SystemError):
            pass  # up to Python 3.12 it cannot even raise its error unless json is imported
        else:
            if not text[end:].strip(_SPACE):
                return value
    import json  # it says where and why

    if not text.strip(_SPACE):
        raise ValueError("it is empty")
    return json.loads(text, object_pairs_hook=fold, parse_constant=_refuse_constant)


def encode(value: Any, margin: str = "") -> str:
    """JSON, indented by 4 as libcni prints it: objects, lists, texts, integers, booleans."""
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
    """What a JSON value is, for an error's text."""
    if isinstance(value, bool):
        return "a boolean"
    for kind, name in ((dict, "an object"), (list, "a list"), (str, "a text")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "a number"
