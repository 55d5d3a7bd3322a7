"""A CRD's schema: unknown fields are dropped, defaults set, values and CEL rules checked."""

from __future__ import annotations

import re
from typing import Any

from .cel import CelError
from .cel import compile as compile_cel

Json = dict[str, Any]
Cause = tuple[str, str, str]  # reason, message, field

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def prune(schema: Json, value: Any) -> Any:
    """Return the value without unknown fields and with defaults, as a copy of its containers."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return value
    if isinstance(value, dict) and schema.get("type") == "object":
        properties = schema.get("properties", {})
        other = schema.get("additionalProperties")
        kept = {}
        for key, inner in value.items():
            if key in properties:
                if inner is None and not properties[key].get("nullable"):
                    continue  # a null that may not be there counts as absent
                kept[key] = prune(properties[key], inner)
            elif isinstance(other, dict):
                kept[key] = prune(other, inner)
            elif other:
                kept[key] = inner
        for key, inner in properties.items():
            if key not in kept and "default" in inner:
                kept[key] = inner["default"]
        return kept
    if isinstance(value, list) and "items" in schema:
        return [prune(schema["items"], one) for one in value]
    return value


def check(schema: Json, value: Any, old: Any = None, *, root: Json | None = None) -> list[Cause]:
    """Return what is wrong with an object: its types and limits first, CEL rules if these fit.

    ``old`` is what an update replaces; rules that name ``oldSelf`` are for updates only. ``root``
    is what rules at the top see as ``self`` (with the metadata's name).
    """
    wrong = _structure(schema, value, "")
    return wrong or _rules(schema, value if root is None else root, old, "")


def _type_fits(schema: Json, value: Any) -> bool:
    if schema.get("x-kubernetes-int-or-string"):
        return isinstance(value, int | str) and not isinstance(value, bool)
    wanted = schema.get("type")
    if wanted is None:
        return True
    return isinstance(value, _TYPES[wanted]) and (
        wanted == "boolean" or not isinstance(value, bool)
    )


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _bad(field: str, value: Any, what: str) -> Cause:
    return ("FieldValueInvalid", f"Invalid value: {_shown(value)}: {what}", field)


def _structure(schema: Json, value: Any, path: str) -> list[Cause]:
    if value is None and schema.get("nullable"):
        return []
    shown = path or "<nil>"
    if not _type_fits(schema, value):
        names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer"}
        has = names.get(type(value), "null" if value is None else "number")
        what = f'{path} in body must be of type {schema["type"]}: "{has}"'
        return [("FieldValueTypeInvalid", f'Invalid value: "{has}": {what}', shown)]
    wrong: list[Cause] = []
    if "enum" in schema and value not in schema["enum"]:
        values = ", ".join(map(_shown, schema["enum"]))
        message = f"Unsupported value: {_shown(value)}: supported values: {values}"
        wrong.append(("FieldValueNotSupported", message, shown))
    if isinstance(value, str):
        wrong += _check_text(schema, value, path)
    elif isinstance(value, int | float):
        if "minimum" in schema and value < schema["minimum"]:
            what = f"{path} in body should be greater than or equal to {schema['minimum']}"
            wrong.append(_bad(shown, value, what))
        if "maximum" in schema and value > schema["maximum"]:
            what = f"{path} in body should be less than or equal to {schema['maximum']}"
            wrong.append(_bad(shown, value, what))
    elif isinstance(value, list):
        wrong += _check_list(schema, value, path)
    elif isinstance(value, dict):
        wrong += _check_fields(schema, value, path)
    return wrong


def _check_text(schema: Json, value: str, path: str) -> list[Cause]:
    wrong: list[Cause] = []
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        message = f"Too long: may not be more than {schema['maxLength']} bytes"
        wrong.append(("FieldValueTooLong", message, path))
    if "minLength" in schema and len(value) < schema["minLength"]:
        what = f"{path} in body should be at least {schema['minLength']} chars long"
        wrong.append(_bad(path, value, what))
    if "pattern" in schema and re.search(schema["pattern"], value) is None:
        wrong.append(_bad(path, value, f"{path} in body should match '{schema['pattern']}'"))
    return wrong


def _check_list(schema: Json, value: list[Any], path: str) -> list[Cause]:
    wrong: list[Cause] = []
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        message = f"Too many: {len(value)}: must have at most {schema['maxItems']} items"
        wrong.append(("FieldValueTooMany", message, path))
    if "minItems" in schema and len(value) < schema["minItems"]:
        what = f"{path} in body should have at least {schema['minItems']} items"
        wrong.append(_bad(path, len(value), what))
    if schema.get("x-kubernetes-list-type") == "set":
        for index, one in enumerate(value):
            if one in value[:index]:
                message = f"Duplicate value: {_shown(one)}"
                wrong.append(("FieldValueDuplicate", message, f"{path}[{index}]"))
    for index, one in enumerate(value):
        wrong += _structure(schema.get("items", {}), one, f"{path}[{index}]")
    return wrong


def _check_fields(schema: Json, value: Json, path: str) -> list[Cause]:
    before = f"{path}." if path else ""
    wrong: list[Cause] = [
        ("FieldValueRequired", "Required value", f"{before}{key}")
        for key in schema.get("required", [])
        if key not in value
    ]
    properties = schema.get("properties", {})
    other = schema.get("additionalProperties")
    for key, inner in value.items():
        if key in properties:
            wrong += _structure(properties[key], inner, f"{before}{key}")
        elif isinstance(other, dict):
            wrong += _structure(other, inner, f"{before}{key}")
    return wrong


def _rules(schema: Json, value: Any, old: Any, path: str) -> list[Cause]:
    wrong: list[Cause] = []
    for rule in schema.get("x-kubernetes-validations", []):
        transition = re.search(r"\boldSelf\b", rule["rule"]) is not None
        if transition and old is None:
            continue
        field = (path + rule.get("fieldPath", "")).removeprefix(".") or "<nil>"
        try:
            holds = compile_cel(rule["rule"])({"self": value, "oldSelf": old})
        except CelError as error:
            wrong.append(_bad(field, value, f"rule not evaluated: {error}"))
            continue
        if not holds:
            message = rule.get("message") or f"failed rule: {rule['rule']}"
            if "messageExpression" in rule:
                message = compile_cel(rule["messageExpression"])({"self": value, "oldSelf": old})
            reason = rule.get("reason", "FieldValueInvalid")
            shown = "" if isinstance(value, dict) else f"{_shown(value)}: "
            wrong.append((reason, f"Invalid value: {shown}{message}", field))
    if isinstance(value, dict):
        before = f"{path}." if path else ""
        for key, inner in schema.get("properties", {}).items():
            if key in value:
                was = old.get(key) if isinstance(old, dict) else None
                wrong += _rules(inner, value[key], was, f"{before}{key}")
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, one in enumerate(value):
            wrong += _rules(schema["items"], one, None, f"{path}[{index}]")
    return wrong
