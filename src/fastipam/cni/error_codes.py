"""The error object of the CNI specification, and the error codes without a class in ``errors``."""

from __future__ import annotations

from fastipam import late_errors as errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

INCOMPATIBLE_VERSION: Final = 1
BAD_ENVIRONMENT: Final = 4
OWN_NETNS: Final = 8  # a code of libcni: CNI_NETNS is the plugin's own network namespace
NOT_AVAILABLE: Final = 50  # STATUS: ADD cannot be served
LIMITED: Final = 51  # STATUS: ADD cannot be served, and existing containers may suffer too

OURS = "this is a defect of fastipam: please report it"
_LONGEST_TEXT = 1500


def document(error: BaseException, version: str, defect: str = OURS) -> dict[str, Any]:
    """Return the error object of an exception.

    ``defect`` is the ``details`` of an unexpected one.
    """
    code, message, details = explain(error, defect)
    body = {"cniVersion": version, "code": code, "msg": clean(message)}
    if details:
        body["details"] = clean(details)
    return body


def explain(error: BaseException, defect: str = OURS) -> tuple[int, str, str]:
    """Return code, message and details (or "") for an exception."""
    if isinstance(error, errors.FastipamError):
        message = error.message
        if isinstance(error, errors.ConfigError) and error.field:
            message = f"{error.field}: {message}"
        return error.cni_code, message, error.hint or ""
    later = errors.TryLater.cni_code
    if isinstance(error, MemoryError):
        return later, "not enough memory for this request", ""
    if isinstance(error, OSError) and error.errno is not None:
        from fastipam.storage import limits

        met = limits.passing(error.errno)
        if met is not None:
            return later, f"the request cannot be handled now: {met[0]}", met[1]
    if isinstance(error, ImportError) and defect:  # happens while an upgrade runs
        hint = "try again; if that does not help, run `fastipam install` again"
        return later, f"a part of fastipam cannot be loaded: {error}", hint
    text = f"{type(error).__name__}: {error}"
    return errors.FastipamError.cni_code, f"internal error: {text}" if defect else text, defect


def clean(text: str) -> str:
    """Return a text, which may quote a caller's input, cut to a limit and encodable as UTF-8."""
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]} …"
    return text.encode("utf-8", "backslashreplace").decode()
