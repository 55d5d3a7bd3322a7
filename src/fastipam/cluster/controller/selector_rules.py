"""The rules for the selectors of an AddressPool, as the API server checks them."""

from __future__ import annotations

from typing import Any

from fastipam.configuration import selectors
from fastipam.errors import ConfigError

_MOST_CONDITIONS = 32
_MOST_VALUES = 64
_WITH_VALUES = ("In", "NotIn")
_HINT = "kubectl explain addresspool.spec.nodeSelector"
_OPERATORS = (*_WITH_VALUES, "Exists", "DoesNotExist")


def check(selector: dict[str, Any], where: str) -> None:
    """Raise ConfigError for the first part that the API server would refuse, or would drop."""
    _require_keys(selector, ("matchLabels", "matchExpressions"), where)
    labels = _get(selector, "matchLabels", dict, {}, where)
    _require_few(labels, _MOST_CONDITIONS, f"{where}.matchLabels")
    for key, value in labels.items():
        _require_key(key, f"{where}.matchLabels")
        _require_value(value, f"{where}.matchLabels.{key}")
    conditions = _get(selector, "matchExpressions", list, [], where)
    _require_few(conditions, _MOST_CONDITIONS, f"{where}.matchExpressions")
    for at, one in enumerate(conditions):
        _check_condition(one, f"{where}.matchExpressions[{at}]")


def _check_condition(one: Any, where: str) -> None:
    if not isinstance(one, dict):
        raise wrong(where, one, "is not an object with a key and an operator")
    _require_keys(one, ("key", "operator", "values"), where)
    key, operator = one.get("key"), one.get("operator")
    _require_key(key, f"{where}.key")
    if operator not in _OPERATORS:
        raise wrong(f"{where}.operator", operator, f"is not one of {', '.join(_OPERATORS)}")
    values = _get(one, "values", list, [], where)
    _require_few(values, _MOST_VALUES, f"{where}.values")
    for at, value in enumerate(values):
        _require_value(value, f"{where}.values[{at}]")
    if (operator in _WITH_VALUES) != bool(values):
        need = "needs values" if operator in _WITH_VALUES else "takes no values"
        raise ConfigError(
            f"the operator {operator} {need}, but has {len(values)}",
            field=where,
            value=operator,
            hint="type values for In and NotIn, and none for Exists and DoesNotExist",
        )


def _require_keys(holder: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in holder:
        if key not in known:
            raise wrong(f"{where}.{key}", key, f"is not a key here: type {' or '.join(known)}")


def _get(holder: dict[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    """Return the value of a key, or the default; a null counts as absent, as on the server."""
    value = holder.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise wrong(f"{where}.{key}", value, f"is not {'a list' if kind is list else 'an object'}")
    return value


def _require_few(found: dict[str, Any] | list[Any], most: int, where: str) -> None:
    if len(found) > most:
        raise ConfigError(
            f"{len(found)} items are listed, but at most {most} are allowed",
            field=where,
            value=len(found),
            hint="make two pools",
        )


def _require_key(key: object, where: str) -> None:
    if not selectors.is_key(key):
        raise wrong(where, key, selectors.KEY_RULE)


def _require_value(value: object, where: str) -> None:
    if not selectors.is_value(value):
        raise wrong(where, value, selectors.VALUE_RULE)


def wrong(field: str, value: object, what: str, hint: str | None = _HINT) -> ConfigError:
    """Return the error for a value; ``what`` follows the value in the message."""
    shown = value if isinstance(value, str) and value else repr(value)
    return ConfigError(f"{shown:.80} {what}", field=field, value=value, hint=hint)
