"""The exceptions for answers of the Kubernetes API that are not a success."""

from __future__ import annotations

import json

from fastipam.cluster.engine import (
    Compacted,
    EngineDenied,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.cluster.registries.kubernetes.calls import Call

_OWN = "/apis/fastipam.io/"  # the kinds that the chart installs
_RETRY_AFTER_S = 1.0  # for a 429 that does not say how long
_LONGEST_RETRY_AFTER_S = 3600.0
# The exceptions that are raised on reading a text that is no list or event of the API.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)


class Refused(EngineError):
    """The API refuses, and nothing was changed; ``reason`` is the reason in its Status."""

    reason = ""


class AlreadyExists(Refused):
    """An object of this name exists."""


class Conflict(Refused):
    """The object has another version or uid than the request named."""


class NotFound(Refused):
    """There is no object of this name."""


class Invalid(Refused):
    """The schema, a rule or an admission policy refuses the object; the message says why."""


class Behind(EngineTimeout):
    """No server has reached the version that a list must have at least."""


class Retry(Exception):
    """Nothing was done: ask another server, or the same one after ``after_s``."""

    def __init__(self, message: str, after_s: float = 0.0, *, is_behind: bool = False) -> None:
        super().__init__(message)
        self.after_s = after_s
        self.is_behind = is_behind


class Unauthorized(Exception):
    """The token was refused, and nothing was done."""


class Untrusted(Exception):
    """A certificate was refused before the request was sent: another server may work."""

    def __init__(self, denied: EngineDenied) -> None:
        super().__init__(str(denied))
        self.denied = denied


def failure(status: int, headers: dict[str, str], raw: bytes, where: str, call: Call) -> Exception:
    """Return the exception for an answer that is not a success."""
    found = _status(raw)
    message = str(found.get("message") or shown(raw))
    text = f"{where}: {message} ({status})"
    if status == 401:
        return Unauthorized(f"{where} refuses this token: {message}")
    if status == 403:
        return EngineDenied(text, hint="check the roles of the user that the message names")
    if status in {429, 503}:
        return Retry(text, _retry_after_s(status, headers, found))
    if status == 404 and (refusal := _absence(found, raw, text, call)):
        return refusal
    # Without a Status it may be the answer of a proxy between this client and the server.
    if status >= 500 or not found:
        if call.is_change:
            return EngineTimeout(text, ambiguous=True)
        return Retry(text, _retry_after_s(status, headers, found), is_behind=_is_behind(found))
    if status == 410:
        return Compacted(text)
    kinds = {"AlreadyExists": AlreadyExists, "Conflict": Conflict, "Invalid": Invalid}
    reason = str(found.get("reason") or "")
    refused = (Invalid if status == 422 else kinds.get(reason, Refused))(text)
    refused.reason = reason
    return refused


def _absence(found: dict[str, Any], raw: bytes, text: str, call: Call) -> EngineError | None:
    """Return the error for a 404 of an API server, or None for a 404 of another server.

    Callers act on the absence of an object: a block is free, a node was removed. So an object
    counts as absent only if a Status says so that names the object (or, for a new one, its
    namespace).
    """
    details = found.get("details")
    name = details.get("name") if isinstance(details, dict) else None
    if found.get("reason") == "NotFound" and name and (name == call.name or call.method == "POST"):
        return NotFound(text)
    if not found and b"404 page not found" not in raw:
        return None
    if call.kind.prefix.startswith(_OWN):
        return EngineUnavailable(
            f"{text}: this API server does not know the kind {call.kind.plural}",
            hint="install the kinds with the chart, or kubectl apply --server-side "
            "-f deploy/kubernetes/fastipam.yaml",
        )
    return EngineUnavailable(
        f"{text}: the server that answers has no {call.kind.prefix}/{call.kind.plural}",
        hint="`kubectl get --raw /version` says whether it is a Kubernetes API server",
    )


def stream_error(found: object, where: str, *, initial: bool) -> EngineError:
    """Return the exception for the Status in an event of type ERROR."""
    status = found if isinstance(found, dict) else {}
    code = status.get("code")
    text = f"{where}: {status.get('message') or 'a watch has failed'} ({code})"
    if code == 410 or status.get("reason") in {"Expired", "Gone"}:
        return Compacted(text)
    if code in {401, 403}:
        return EngineDenied(text)
    if initial and code == 500:  # "the required storage feature RequestWatchProgress is disabled"
        return Refused(text)
    return Behind(text) if _is_behind(status) else EngineUnavailable(text)


def _status(raw: bytes) -> dict[str, Any]:
    """Return the Status in an answer, empty when there is none."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and found.get("kind") == "Status" else {}


def _is_behind(status: dict[str, Any]) -> bool:
    """Return whether the server has not reached the version that was asked for."""
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    return isinstance(causes, list) and any(
        isinstance(one, dict) and one.get("reason") == "ResourceVersionTooLarge" for one in causes
    )


def _retry_after_s(status: int, headers: dict[str, str], found: dict[str, Any]) -> float:
    """Return the pause that an answer asks for; the header wins over the Status."""
    header = headers.get("retry-after", "")
    if header.isascii() and header.isdigit():
        return min(float(header), _LONGEST_RETRY_AFTER_S)
    details = found.get("details")
    asked = details.get("retryAfterSeconds") if isinstance(details, dict) else None
    if isinstance(asked, int) and asked > 0:
        return min(float(asked), _LONGEST_RETRY_AFTER_S)
    return _RETRY_AFTER_S if status == 429 else 0.0


def shown(raw: bytes) -> str:
    """Return the beginning of what a server sent, to be quoted in an error message."""
    return " ".join(raw[:200].decode("utf-8", "replace").split()) or "nothing"
