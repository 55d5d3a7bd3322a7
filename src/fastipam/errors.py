"""Every exception that fastipam raises on purpose, as one tree.

::

    FastipamError
    ├── ConfigError (ValueError)          the caller: a field and its value are wrong
    │   └── DecodingError                 the caller: a document is not a JSON object
    ├── PoolExhausted                     the operator: no address is left in a range set
    ├── AddressInUse                      the caller: the wanted address has an owner
    ├── AddressNotInRange                 the caller: the wanted address is in no range
    ├── DuplicateAllocation               the caller: this owner has an address already
    ├── LeaseMissing                      the caller: an expected lease is not there
    ├── ClusterError                      the operator: this node and its cluster disagree
    ├── TryLater                          the caller: the same call again, in a moment
    └── StoreError                        the operator: the store cannot be used
        ├── StoreUnavailable              path, permission or I/O
        ├── StoreFull                     disk or map is full; nothing was changed
        ├── StoreCorrupt                  the file is not, or no longer, a fastipam store
        ├── StoreVersion                  written by a newer fastipam
        ├── StoreBusy                     try again: all reader slots are taken
        ├── StoreClosed                   used after close()
        └── StoreForked                   opened before fork(), used in the child

Each carries a one-line text, an optional ``hint`` (what to do next) and the fields that
make it usable by a program: nobody has to parse the text. All of them survive pickling.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "AddressInUse",
    "AddressNotInRange",
    "ClusterError",
    "ConfigError",
    "DecodingError",
    "DuplicateAllocation",
    "FastipamError",
    "LeaseMissing",
    "PoolExhausted",
    "StoreBusy",
    "StoreClosed",
    "StoreCorrupt",
    "StoreError",
    "StoreForked",
    "StoreFull",
    "StoreUnavailable",
    "StoreVersion",
    "TryLater",
]


class FastipamError(Exception):
    """The root of the tree: catch this to catch everything fastipam raises on purpose.

    ``message`` is one line, ``hint`` says what to do next or is ``None``.
    """

    message: str
    hint: str | None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(FastipamError, ValueError):
    """A configuration field, or an argument, has a value that cannot be used.

    ``field`` is its path (``ipam.ranges[0][1].subnet``), ``value`` what stood there.
    """

    field: str
    value: Any

    def __init__(
        self, message: str, *, field: str = "", value: Any = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.field = field
        self.value = value


class DecodingError(ConfigError):
    """A document is not a JSON object, or what every version needs of it has the wrong type."""


class PoolExhausted(FastipamError):
    """No free address is left where one was asked for.

    ``network`` is its name (empty for a bare :class:`~fastipam.Bitmap`), ``ranges`` the text
    of the range set that is full, ``wanted`` how many addresses were asked for. ``retry_after_s``
    are the seconds until a cooling address is free, None when no waiting helps.
    """

    network: str
    ranges: str
    wanted: int
    retry_after_s: int | None

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


class AddressInUse(FastipamError):
    """The requested ``address`` belongs to another ``owner`` (container id, interface)."""

    address: str
    owner: tuple[str, str] | None

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


class AddressNotInRange(FastipamError, ValueError):
    """The requested ``addresses`` cannot be served: in no range, excluded, or a gateway."""

    addresses: tuple[str, ...]

    def __init__(
        self, message: str, *, addresses: tuple[str, ...] = (), hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.addresses = addresses


class DuplicateAllocation(FastipamError):
    """The ``owner`` (container id, interface) has ``addresses`` in this network already."""

    addresses: tuple[str, ...]
    owner: tuple[str, str] | None

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


class LeaseMissing(FastipamError):
    """CHECK found that ``owner`` does not hold ``address`` (or, if that is empty, anything)."""

    address: str
    owner: tuple[str, str] | None

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


class ClusterError(FastipamError):
    """This node and its cluster do not agree: settings, name, epoch or what the store holds."""


class TryLater(FastipamError):
    """Nothing is wrong with the request: the same call may succeed in a moment."""


class StoreError(FastipamError):
    """The store at ``path`` cannot do what was asked; what it holds is unchanged."""

    path: str

    def __init__(self, message: str, *, path: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.path = path


class StoreUnavailable(StoreError):
    """The directory or a file cannot be made, opened, locked, read or written."""


class StoreFull(StoreError):
    """The disk or the memory map is full; the change was given up as a whole."""


class StoreCorrupt(StoreError):
    """The file is not a fastipam store, is cut short, or contradicts itself."""


class StoreVersion(StoreError):
    """The store was written by a newer fastipam, in a schema this one does not know."""


class StoreBusy(StoreError, TryLater):
    """A resource of the store is taken for the moment: the same call may succeed later."""


class StoreClosed(StoreError):
    """The store was closed before this call."""


class StoreForked(StoreError):
    """The store was opened in the parent process; the child has to open it for itself."""


CHECK_HINT = "run `fastipam check`"
