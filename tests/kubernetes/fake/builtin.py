"""What the API server checks in the built-in kinds that fastipam writes: Lease and Event."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from . import statuses

if TYPE_CHECKING:
    from .manifests import Kind

Json = dict[str, Any]
Cause = tuple[str, str, str]

_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(?:Z|[+-]\d\d:\d\d)")


def check(kind: Kind, value: Json) -> list[Cause]:
    """Return what is wrong. Raises ApiError 400 for a time that Go does not read."""
    if kind.plural == "leases":
        return _lease(value)
    if kind.plural == "events":
        return _event(value)
    return []


def _lease(value: Json) -> list[Cause]:
    spec = value.get("spec") or {}
    wrong: list[Cause] = []
    for name in ("acquireTime", "renewTime"):
        text = spec.get(name)
        if text is not None and _MICRO_TIME.fullmatch(text) is None:
            raise statuses.bad_request(
                f'Lease in version "v1" cannot be handled as a Lease: parsing time "{text}" '
                f'as "2006-01-02T15:04:05.000000Z07:00": cannot parse'
            )
    duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if duration is not None and duration <= 0:
        message = f"Invalid value: {duration}: must be greater than 0"
        wrong.append(("FieldValueInvalid", message, "spec.leaseDurationSeconds"))
    if transitions is not None and transitions < 0:
        message = f"Invalid value: {transitions}: must be greater than or equal to 0"
        wrong.append(("FieldValueInvalid", message, "spec.leaseTransitions"))
    return wrong


def _event(value: Json) -> list[Cause]:
    """Check where an event is: beside its object, in ``default`` for cluster-scoped ones."""
    about = (value.get("involvedObject") or {}).get("namespace", "")
    namespace = value["metadata"]["namespace"]
    if namespace == (about or "default"):
        return []
    message = f'Invalid value: "{about}": does not match event.namespace'
    return [("FieldValueInvalid", message, "involvedObject.namespace")]
