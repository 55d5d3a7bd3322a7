"""Label selectors of Kubernetes, for ``nodeSelector`` and ``namespaceSelector`` of a pool.

Anything that the API server would not accept raises ConfigError.
"""

from __future__ import annotations

from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    Requirement = tuple[str, str, tuple[str, ...]]  # label, operator, values

_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ENDS = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")  # what a label begins and ends with
_WITHIN = _ENDS | frozenset("-_.")
_LONGEST, _LONGEST_DOMAIN = 63, 253
_RULE = (
    f"has at most {_LONGEST} characters, which are letters, digits, '-', '_' and '.', and "
    "begins and ends with a letter or a digit"
)
KEY_RULE = f"is not a valid label key: its name {_RULE}; a domain and '/' may precede the name"
VALUE_RULE = f"is not a valid label value: a value {_RULE}, or is empty"


def is_key(text: object) -> bool:
    """Return whether this is a valid name of a label, by the rules of Kubernetes.

    >>> is_key("topology.kubernetes.io/zone"), is_key("zone!"), is_key("a/b/c")
    (True, False, False)
    """
    if not isinstance(text, str):
        return False
    domain, slash, name = text.rpartition("/")
    if not slash:
        return _is_word(name)
    return (
        len(domain) <= _LONGEST_DOMAIN and _is_word(name) and all(map(_is_part, domain.split(".")))
    )


def is_value(text: object) -> bool:
    """Return whether this is a valid value of a label."""
    return isinstance(text, str) and (not text or _is_word(text))


def _is_word(text: str) -> bool:
    return (
        0 < len(text) <= _LONGEST
        and text[0] in _ENDS
        and text[-1] in _ENDS
        and _WITHIN.issuperset(text)
    )


def _is_part(text: str) -> bool:
    """Return whether this is a valid part of a domain name, between two dots."""
    return (
        _is_word(text)
        and text[0] in _LOWER
        and text[-1] in _LOWER
        and (_LOWER.issuperset(text.replace("-", "")))
    )


class Selector:
    """Conditions on labels, all of which must hold. Without conditions everything matches."""

    __slots__ = ("_requirements",)

    def __init__(self, spec: object, field: str) -> None:
        """``spec`` has matchLabels and matchExpressions; ``field`` is its path for errors."""
        holder = _object(spec, field)
        found: list[Requirement] = []
        for key, value in _object(holder.get("matchLabels"), f"{field}.matchLabels").items():
            where = f"{field}.matchLabels.{key}"
            _require_label(key, (value,), where, where)
            found.append((key, "In", (value,)))
        listed = holder.get("matchExpressions") or []
        if not isinstance(listed, list):
            raise _odd(listed, f"{field}.matchExpressions")
        for at, one in enumerate(listed):
            where = f"{field}.matchExpressions[{at}]"
            each = _object(one, where)
            operator, values = each.get("operator"), each.get("values") or []
            if operator not in _OPERATORS or not isinstance(values, list):
                raise _odd(one, where)
            _require_label(each.get("key"), values, f"{where}.key", f"{where}.values")
            found.append((each["key"], operator, tuple(values)))
        self._requirements = tuple(sorted(found))

    def __bool__(self) -> bool:
        return bool(self._requirements)

    def __str__(self) -> str:
        """Return the selector as kubectl accepts it: ``kubectl get nodes -l TEXT``."""
        return ",".join(_text(*one) for one in self._requirements)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether an object with these labels is selected. O(conditions)."""
        return all(
            _holds(labels.get(key), operator, values)
            for key, operator, values in self._requirements
        )


def _holds(value: str | None, operator: str, values: tuple[str, ...]) -> bool:
    if operator == "In":
        return value is not None and value in values
    if operator == "NotIn":
        return value is None or value not in values
    return (value is not None) == (operator == "Exists")


def _text(key: str, operator: str, values: tuple[str, ...]) -> str:
    if operator == "In" and len(values) == 1:
        return f"{key}={values[0]}"
    if operator in ("In", "NotIn"):
        return f"{key} {operator.lower()} ({','.join(values)})"
    return key if operator == "Exists" else f"!{key}"


def _object(value: object, field: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _odd(value, field)
    return value


def _require_label(key: object, values: Iterable[object], its: str, theirs: str) -> None:
    """Raise ConfigError for an invalid name or value of a label.

    ``its`` is the field of the name, ``theirs`` that of the values.
    """
    if not is_key(key):
        raise ConfigError(f"{key!r:.330} {KEY_RULE}", field=its, value=key)
    for one in values:
        if not is_value(one):
            raise ConfigError(f"{one!r:.80} {VALUE_RULE}", field=theirs, value=one)


def _odd(value: object, field: str) -> ConfigError:
    return ConfigError(f"{value!r:.80} is not a valid label selector", field=field, value=value)
