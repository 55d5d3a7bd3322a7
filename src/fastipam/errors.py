"""The exceptions that fastipam raises on purpose, as one tree.

::

    FastipamError
    ├── ConfigError (ValueError)          caller: a field has a wrong value
    │   ├── DecodingError                 caller: a document is not a JSON object
    │   └── UnknownNetwork                caller: the store has no network of this name
    ├── PoolExhausted                     operator: no address of a range set is free
    ├── AddressInUse                      caller: the requested address has an owner
    ├── AddressNotInRange                 caller: the requested address is in no range
    ├── DuplicateAllocation               caller: this owner already has an address
    ├── LeaseMissing                      caller: an expected lease does not exist
    ├── ClusterError                      operator: this node and its cluster disagree
    ├── TryLater                          caller: repeat the call in a moment
    ├── CniError                          caller: a plugin answers with a code of its own
    └── StoreError                        operator: the store cannot be used
        ├── StoreUnavailable              path, permission or I/O
        ├── StoreFull                     disk or map is full; nothing was changed
        ├── StoreCorrupt                  the file is damaged, or no fastipam store
        ├── StoreVersion                  written by another fastipam, in another schema
        ├── StoreBusy                     another writer, or no reader slot is free; repeat the call
        ├── StoreClosed                   used after close()
        ├── StoreForked                   opened before fork(), used in the child
        ├── TransactionOpen               a change outside the block that its thread has open
        └── TransactionOver               a handle used after its block, or in another thread

The word before the colon says who has to act. Each error has a one-line text, perhaps a ``hint``
that says what to do next, and fields, so that no program has to parse the text. All errors can be
pickled.

Each class has its code for the error objects of CNI in ``cni_code``; there is no other table of
codes. Codes below 100 are the specification's (CNI 1.1.0, section "Error"), 100 to 119 fastipam's.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "AddressInUse", "AddressNotInRange", "ClusterError", "CniError", "ConfigError",
    "DecodingError", "DuplicateAllocation", "FastipamError", "LeaseMissing", "PoolExhausted",
    "StoreBusy", "StoreClosed", "StoreCorrupt", "StoreError", "StoreForked", "StoreFull",
    "StoreUnavailable", "StoreVersion", "TransactionOpen", "TransactionOver", "TryLater",
    "UnknownNetwork",
]  # fmt: skip


def hide_credentials(text: str) -> str:
    """Return a text with user and password of every URL in it hidden."""
    at = text.find("://")
    while at >= 0:
        start = end = at + 3
        while end < len(text) and text[end] not in " '\"\n":  # a password may have a slash
            end += 1
        sign = text.rfind("@", start, end)
        if sign >= 0:
            text = f"{text[:start]}…{text[sign:]}"
            end -= sign - start - 1
        at = text.find("://", end)
    return text


_LONGEST = 4000  # characters of a message


def _safe_line(text: str) -> str:
    """Return a text on one line, without user and password of a URL, for a message or a hint.

    A long text loses its middle, and control codes are escaped.
    """
    if "://" in text:
        text = hide_credentials(text)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"
    if text.isprintable():
        return text
    return "".join(
        [one if one.isprintable() else one.encode("unicode_escape").decode() for one in text]
    )


def shown(value: object) -> str:
    """Return a caller's value as text for a message, even if its ``repr`` fails."""
    try:
        return repr(value)
    except Exception:  # an int of more than 4300 digits, or whatever a caller's __repr__ raises
        return f"a value of type {type(value).__name__} that cannot be shown"


class FastipamError(Exception):
    """The root of the tree: catching it catches everything that fastipam raises on purpose.

    ``message`` is one line of about 4000 characters at most. ``hint`` says what to do next, or is
    None. Neither shows user and password of a URL. ``cni_code`` is the code of the error in an
    error object of CNI.
    """

    message: str
    hint: str | None
    cni_code: int = 999  # the code that libcni uses for an error of the plugin itself

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        message = _safe_line(message)
        super().__init__(message)
        self.message = message
        self.hint = hint and _safe_line(hint)


class ConfigError(FastipamError, ValueError):
    """A configuration field or an argument has a value that cannot be used.

    ``field`` is its path (``ipam.ranges[0][1].subnet``), ``value`` is the value found there.
    """

    field: str
    value: Any
    cni_code = 7

    def __init__(
        self, message: str, *, field: str = "", value: Any = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.field = field
        self.value = value


class UnknownNetwork(ConfigError):
    """The store has no network of this name, and no ranges were given for a new one."""


class DecodingError(ConfigError):
    """A document is not a JSON object, or a key that every version needs has the wrong type."""

    cni_code = 6


class PoolExhausted(FastipamError):
    """No address is free in the range set that should serve one.

    ``network`` is the network's name (empty for a bare :class:`~fastipam.Bitmap`), ``ranges`` the
    text of the full range set, ``wanted`` the number of addresses requested. ``retry_after_s`` is
    the number of seconds until a cooling address is free, or None when waiting does not help.
    """

    network: str
    ranges: str
    wanted: int
    retry_after_s: int | None
    cni_code = 100

    def __init__(
        self,
        message: str,
        *,
        network: str = "",
        ranges: str = "",
        wanted: int = 1,
        retry_after_s: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.network = network
        self.ranges = ranges
        self.wanted = wanted
        self.retry_after_s = retry_after_s
        if retry_after_s is not None:
            self.cni_code = TryLater.cni_code


class _OfAddress(FastipamError):
    def __init__(
        self,
        message: str,
        *,
        address: str = "",
        owner: tuple[str, str] | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.address = address
        self.owner = owner


class AddressInUse(_OfAddress):
    """The requested ``address`` is assigned to another ``owner`` (container id, interface)."""

    cni_code = 101


class AddressNotInRange(FastipamError, ValueError):
    """The requested ``addresses`` are in no range, excluded, or gateways."""

    cni_code = 103

    def __init__(
        self, message: str, *, addresses: tuple[str, ...] = (), hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.addresses = addresses


class DuplicateAllocation(FastipamError):
    """The ``owner`` (container id, interface) already has ``addresses`` in this network."""

    cni_code = 102

    def __init__(
        self,
        message: str,
        *,
        addresses: tuple[str, ...] = (),
        owner: tuple[str, str] | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.addresses = addresses
        self.owner = owner


class LeaseMissing(_OfAddress):
    """CHECK found that ``owner`` does not have ``address`` (if empty: has no address at all)."""

    cni_code = 104


class ClusterError(FastipamError):
    """This node and its cluster disagree about settings, name, epoch or the store's content."""

    cni_code = 105


class TryLater(FastipamError):
    """The request is valid, and the same call may succeed in a moment."""

    cni_code = 11


class CniError(FastipamError):
    """A CNI request cannot be served, for a reason that has no class of its own.

    Plugins of other authors may raise it too: ``CniError("eth0 lacks its address", 120)``. Codes
    from 120 up are theirs; lower codes already have a meaning, and
    :mod:`fastipam.cni.error_codes` names those without a class.
    """

    def __init__(
        self, message: str, code: int = FastipamError.cni_code, *, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.cni_code = code


class StoreError(FastipamError):
    """The store at ``path`` could not serve the call. Its content is unchanged."""

    cni_code = 5

    def __init__(self, message: str, *, path: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.path = path


class StoreUnavailable(StoreError):
    """The directory or a file cannot be created, opened, locked, read or written."""


class StoreFull(StoreError):
    """The disk or the memory map is full. The whole change was rolled back."""


class StoreCorrupt(StoreError):
    """The file is not a fastipam store, is cut short, or contradicts itself."""


class StoreVersion(StoreError):
    """Another fastipam wrote the store, in a schema that this one does not know."""


class StoreBusy(StoreError, TryLater):
    """A resource of the store is in use; the same call may succeed later."""

    cni_code = TryLater.cni_code


class StoreClosed(StoreError):
    """The store was closed before this call."""


class StoreForked(StoreError):
    """The store was opened before a fork; the child process has to open it again."""


class TransactionOpen(StoreError):
    """This thread has a transaction open, and the call would wait for its end."""


class TransactionOver(StoreError):
    """The transaction has ended, or belongs to another thread."""


CHECK_HINT = "run `fastipam check`"
