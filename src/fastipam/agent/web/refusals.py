"""Group refused requests by reason, with their number, the last pod and the last time."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastipam.agent.requests import Request

_LONGEST = 300  # characters of a message or a hint that are kept
_VERB = 16  # characters of a verb that are kept: a client may send any text
_NAME = 253  # characters of a network's or a pod's name that are kept
# What may differ between two refusals for the same reason: ids, addresses, numbers, quoted texts.
_VARYING = re.compile(r"'[^']*'|[0-9a-f]{8,}|[0-9a-f]*:[0-9a-f:]+|\d+(?:[./]\d+)*")


class Refusal(NamedTuple):
    """A request that was answered with an error. ``pod`` is namespace/name, or ""."""

    at: float
    verb: str
    code: int
    message: str
    hint: str = ""
    network: str = ""
    pod: str = ""


def refusal_of(at: float, verb: str, output: bytes, request: Request | None) -> Refusal:
    """Return the refusal made of an error object and its request. Raises nothing."""
    code, message, hint = _error_of(output)
    network = pod = ""
    if request is not None:
        network, pod = _network_of(request.stdin), _pod_of(request)
    return Refusal(
        at, verb[:_VERB], code, message[:_LONGEST], hint[:_LONGEST], network[:_NAME], pod[:_NAME]
    )


def grouped(refusals: Iterable[Refusal], *, private: bool) -> list[dict[str, Any]]:
    """Group refusals, given oldest first, by reason, and return the most recent group first.

    A group has the message and the pod of its newest refusal; on a private page it has neither.
    """
    groups: dict[tuple[str, int, str, str], dict[str, Any]] = {}
    for one in refusals:
        key = one.verb, one.code, one.network, _VARYING.sub("#", one.message)
        before = groups.pop(key, None)
        groups[key] = {
            "count": 1 if before is None else before["count"] + 1,
            "first": one.at if before is None else before["first"],
            "at": one.at,
            "verb": one.verb,
            "code": one.code,
            "network": one.network,
            "pod": "" if private else one.pod,
            "message": "" if private else one.message,
            "hint": "" if private else one.hint,
        }
    return list(reversed(groups.values()))


def _error_of(output: bytes) -> tuple[int, str, str]:
    """Return code, message and details of an error object, or -1, "" and "" for anything else."""
    try:
        document = json.loads(output)
        message, details = (str(document.get(key) or "") for key in ("msg", "details"))
        return int(document["code"]), message, details
    except (ValueError, KeyError, TypeError, AttributeError):
        return -1, "", ""


def _network_of(configuration: bytes) -> str:
    try:
        name = json.loads(configuration)["name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""  # the request may have been refused for that reason
    return name if isinstance(name, str) else ""


def _pod_of(request: Request) -> str:
    pairs = (one.partition("=") for one in request.variables.get("CNI_ARGS", "").split(";"))
    found = {key: value for key, _, value in pairs}
    names = (found.get(key, "") for key in ("K8S_POD_NAMESPACE", "K8S_POD_NAME"))
    return "/".join(filter(None, names))
