"""The error object of the CNI specification, and the one table of its codes.

Codes 1 to 99 are the specification's (CNI 1.1.0, section "Error"), 100 and up are fastipam's own.
"""

from __future__ import annotations

from fastipam import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

INCOMPATIBLE_VERSION: Final = 1
BAD_ENVIRONMENT: Final = 4
IO_FAILURE: Final = 5
DECODING_FAILURE: Final = 6
BAD_CONFIG: Final = 7
OWN_NETNS: Final = 8  # libcni's: the plugin's own network namespace was named
TRY_LATER: Final = 11
NOT_AVAILABLE: Final = 50  # STATUS: ADD cannot be served
LIMITED: Final = 51  # STATUS: and existing containers may suffer, too
POOL_EXHAUSTED: Final = 100
ADDRESS_IN_USE: Final = 101
DUPLICATE: Final = 102
NOT_IN_RANGE: Final = 103
LEASE_MISSING: Final = 104
CLUSTER: Final = 105  # this node and its cluster disagree
INTERNAL: Final = 999  # as libcni's: an error of the plugin itself

# The first class that matches decides, so subclasses stand before their bases.
_CODES = (
    (errors.DecodingError, DECODING_FAILURE),
    (errors.ConfigError, BAD_CONFIG),
    (errors.PoolExhausted, POOL_EXHAUSTED),
    (errors.AddressInUse, ADDRESS_IN_USE),
    (errors.DuplicateAllocation, DUPLICATE),
    (errors.AddressNotInRange, NOT_IN_RANGE),
    (errors.LeaseMissing, LEASE_MISSING),
    (errors.TryLater, TRY_LATER),
    (errors.ClusterError, CLUSTER),
    (errors.StoreError, IO_FAILURE),
)


class CniError(Exception):
    """An error object of the specification; ``details`` may be empty."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.details = details


def from_exception(error: BaseException) -> CniError:
    """Return the error object for an exception."""
    if isinstance(error, CniError):
        return error
    if isinstance(error, errors.FastipamError):
        message = error.message
        if isinstance(error, errors.ConfigError) and error.field:
            message = f"{error.field}: {message}"
        if isinstance(error, errors.PoolExhausted) and error.retry_after_s is not None:
            return CniError(TRY_LATER, message, error.hint or "")
        for kind, code in _CODES:
            if isinstance(error, kind):
                return CniError(code, message, error.hint or "")
    if isinstance(error, MemoryError):
        return CniError(TRY_LATER, "not enough memory for this request")
    if isinstance(error, OSError) and error.errno is not None:
        from fastipam.storage import limits

        met = limits.passing(error.errno)
        if met is not None:
            return CniError(TRY_LATER, f"the request cannot be handled now: {met[0]}", met[1])
    if isinstance(error, ImportError):  # a module that is needed rarely, while an upgrade runs
        hint = "try again; if it stays so, run `fastipam install` again"
        return CniError(TRY_LATER, f"a part of fastipam cannot be loaded: {error}", hint)
    return CniError(
        INTERNAL,
        f"internal error: {type(error).__name__}: {error}",
        "this is a defect of fastipam: please report it",
    )
