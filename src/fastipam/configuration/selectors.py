"""Label selectors of Kubernetes, as ``nodeSelector`` and ``namespaceSelector`` of a pool have them.

What the API server has checked is read; anything else raises ConfigError.
"""

from __future__ import annotations

from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Requirement = tuple[str, str, tuple[str, ...]]  # label, operator, values

_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


class Selector:
    """Conditions on labels, which have to hold all; without one everything matches. A value."""

    __slots__ = ("_requirements",)

    def __init__(self, spec: object, field: str) -> None:
        """``spec`` has matchLabels and matchExpressions; ``field`` is its path, for errors."""
        holder = _object(spec, field)
        found: list[Requirement] = []
        for key, value in _object(holder.get("matchLabels"), f"{field}.matchLabels").items():
            found.append((key, "In", (str(value),)))
        listed = holder.get("matchExpressions") or []
        if not isinstance(listed, list):
            raise _odd(listed, f"{field}.matchExpressions")
        for at, one in enumerate(listed):
            where = f"{field}.matchExpressions[{at}]"
            each = _object(one, where)
            operator, values = each.get("operator"), each.get("values") or []
            if operator not in _OPERATORS or not isinstance(values, list):
                raise _odd(one, where)
            found.append((str(each.get("key")), operator, tuple(map(str, values))))
        self._requirements = tuple(sorted(found))

    def __bool__(self) -> bool:
        return bool(self._requirements)

    def __str__(self) -> str:
        """Return it as kubectl takes it: ``kubectl get nodes -l TEXT``."""
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


def _odd(value: object, field: str) -> ConfigError:
    return ConfigError(f"{value!r:.80} is no label selector", field=field, value=value)
