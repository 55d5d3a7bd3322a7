"""What the API server says when it refuses: Status objects, worded and shaped as the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .manifests import Kind

Json = dict[str, Any]
Cause = tuple[str, str, str]  # reason, message, field

TOO_OLD_LIST = "The resourceVersion for the provided list is too old."
TOO_OLD_CONTINUE = (
    "The provided continue parameter is too old to display a consistent list result. You can start "
    "a new list without the continue parameter, or use the continue token in this response to "
    "retrieve the remainder of the results. Continuing with the provided token results in an "
    "inconsistent list - objects that were created, modified, or deleted between the time the "
    "first chunk was returned and now may show up in the list."
)


class ApiError(Exception):
    """An answer that is not a success: the Status, and headers beside it."""

    def __init__(self, status: Json, headers: dict[str, str] | None = None) -> None:
        super().__init__(status["message"])
        self.status = status
        self.code: int = status["code"]
        self.headers = headers or {}
        self.in_stream = False  # a watch tells it as an event


def failure(code: int, reason: str, message: str, details: Json | None = None) -> ApiError:
    """Return the error with this Status; ``retryAfterSeconds`` becomes the header as well."""
    status: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    status["message"] = message
    if reason:
        status["reason"] = reason
    if details:
        status["details"] = details
    status["code"] = code
    seconds = (details or {}).get("retryAfterSeconds")
    return ApiError(status, {"Retry-After": str(seconds)} if seconds else None)


def success(kind: Kind, name: str, uid: str) -> Json:
    """Return what a DELETE answers."""
    details = {"name": name, "group": kind.group, "kind": kind.plural, "uid": uid}
    if not kind.group:
        del details["group"]
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    }


def _details(kind: Kind, name: str) -> Json:
    found = {"name": name, "group": kind.group, "kind": kind.plural}
    return {key: value for key, value in found.items() if value}


def not_found(kind: Kind, name: str) -> ApiError:
    """404: no object of that name."""
    return failure(404, "NotFound", f'{kind.resource} "{name}" not found', _details(kind, name))


def bad_options(field: str, why: str) -> ApiError:
    """422: a list's or watch's options do not go together."""
    message = f"Forbidden: {why}"
    cause = {"reason": "FieldValueForbidden", "message": message, "field": field}
    details = {"group": "meta.k8s.io", "kind": "ListOptions", "causes": [cause]}
    text = f'ListOptions.meta.k8s.io "" is invalid: {field}: {message}'
    return failure(422, "Invalid", text, details)


def not_a_version(text: str, before: str = "resourceVersion: ") -> str:
    """Return what the server says of a resourceVersion that is no number."""
    said = f'strconv.ParseUint: parsing "{text}": invalid syntax'
    return f'{before}Invalid value: "{text}": {said}' if before else said


def no_such_path() -> ApiError:
    """404: nothing is served there."""
    return failure(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(kind: Kind, name: str, *, going: bool = False) -> ApiError:
    """409 for a create; ``going``: a finalizer still holds what is there."""
    before = "object is being deleted: " if going else ""
    message = f'{before}{kind.resource} "{name}" already exists'
    return failure(409, "AlreadyExists", message, _details(kind, name))


def conflict(kind: Kind, name: str, why: str = "", *, by_kind: bool = False) -> ApiError:
    """409 for a change; ``by_kind``: an early check of preconditions names the kind."""
    why = why or (
        "the object has been modified; please apply your changes to the latest version and "
        "try again"
    )
    details = _details(kind, name)
    resource = kind.resource
    if by_kind:
        details["kind"] = kind.kind
        resource = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    message = f'Operation cannot be fulfilled on {resource} "{name}": {why}'
    return failure(409, "Conflict", message, details)


def invalid(
    kind: Kind, name: str, causes: Sequence[Cause], *, by_resource: bool = False
) -> ApiError:
    """422; ``by_resource``: what the storage refuses names the resource, not the kind."""
    details = _details(kind, name)
    if not by_resource:
        details["kind"] = kind.kind
    details["causes"] = [
        {"reason": reason, "message": message, "field": field} for reason, message, field in causes
    ]
    each = [f"{field}: {message}" for _reason, message, field in causes]
    text = each[0] if len(each) == 1 else f"[{', '.join(each)}]"
    qualified = f"{details['kind']}.{kind.group}" if kind.group else details["kind"]
    return failure(422, "Invalid", f'{qualified} "{name}" is invalid: {text}', details)


def denied_by_policy(kind: Kind, name: str, policy: str, binding: str, message: str) -> ApiError:
    """422: what a ValidatingAdmissionPolicy refuses."""
    text = (
        f"ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {message}"
    )
    details = _details(kind, name)
    details["causes"] = [{"message": text}]
    called = f'{kind.resource} "{name}"' if name else kind.resource
    return failure(422, "Invalid", f"{called} is forbidden: {text}", details)


def forbidden(kind: Kind, name: str, why: str) -> ApiError:
    """403: no rule grants it."""
    called = f'{kind.resource} "{name}"' if name else kind.resource
    return failure(403, "Forbidden", f"{called} is forbidden: {why}", _details(kind, name))


def unauthorized() -> ApiError:
    """401: no token, an unknown or an expired one."""
    return failure(401, "Unauthorized", "Unauthorized")


def bad_request(message: str) -> ApiError:
    """400."""
    return failure(400, "BadRequest", message)


def expired(message: str) -> ApiError:
    """410: the history does not reach back to there."""
    return failure(410, "Expired", message)


def too_large(version: int, current: int, *, waited: bool = True) -> ApiError:
    """504: no such version yet; ``waited``: not in the cache, for three seconds."""
    details: Json = {
        "causes": [
            {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"},
        ],
    }
    if waited:
        details["retryAfterSeconds"] = 1
    message = f"Timeout: Too large resource version: {version}, current: {current}"
    error = failure(504, "Timeout", message, details)
    error.in_stream = True
    return error


def no_watch_list() -> ApiError:
    """500: the etcd behind the server is older than 3.4.31 or 3.5.13."""
    text = "a watch stream was requested by the client but the required storage feature"
    error = failure(500, "InternalError", f"{text} RequestWatchProgress is disabled")
    error.in_stream = True
    return error


def on_command(code: int, retry_after_s: int = 0) -> ApiError:
    """429, 500, 503 or 504, as a server says it that has too much to do or is ill."""
    if code == 429:
        text = "too many requests, please try again later."
        return failure(429, "TooManyRequests", text, {"retryAfterSeconds": retry_after_s or 1})
    if code == 500:
        text = "Internal error occurred: etcdserver: leader changed"
        cause = {"message": "etcdserver: leader changed"}
        return failure(500, "InternalError", text, {"causes": [cause]})
    if code == 503:
        details = {"retryAfterSeconds": retry_after_s} if retry_after_s else None
        return failure(503, "ServiceUnavailable", "apiserver is shutting down.", details)
    if code == 504:
        text = "Timeout: request did not complete within the allotted timeout"
        return failure(504, "Timeout", text, {})
    return failure(code, "", f"answered {code} on command")
