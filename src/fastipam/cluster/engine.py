"""The interface of the shared store: a small linearizable key-value store.

The implementations are in ``engines/``; ``tests/cluster/memory.py`` has one in memory, for tests
and the simulator. Cluster mode needs a compare-and-swap transaction, a listing at one revision,
sessions (etcd calls them leases) and a way to wait for changes.

Every call is synchronous and safe to make from several threads. Every call takes ``deadline_s``:
it returns or raises within that many seconds. It may raise::

    FastipamError
    └── EngineError
        ├── EngineUnavailable    nothing was changed: try again later
        ├── EngineTimeout        no answer in time: if ``ambiguous``, the change may have been made,
        │                        so read before a retry
        ├── EngineDenied         user, password, certificate or permission was refused
        ├── EngineFull           no room: the change was made, or was not and never will be
        ├── SessionGone          the session of a Put has ended: nothing was changed, open another
        ├── HistoryLost          the store has lost changes that this node has seen
        └── Compacted            the revision of a watch is too old: list again, and watch from
                                 the revision of the listing

An engine never retries a change whose outcome it does not know. It retries a read on other
endpoints until the deadline.
"""

from __future__ import annotations

from fastipam.errors import FastipamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Sequence
    from typing import Literal, Protocol
else:
    Protocol = object

# etcd's own limit of one transaction (--max-txn-ops). Every engine refuses a larger one.
MAX_OPERATIONS = 128


class EngineError(FastipamError):
    """The base class of every error of an engine."""


class EngineUnavailable(EngineError):
    """No endpoint could be reached, or none could serve; nothing was changed.

    ``retry_after_s`` is the pause that the store asks for, or 0.0.
    """

    retry_after_s = 0.0


class EngineTimeout(EngineError):
    """No answer came in time, or the connection broke after the request was sent.

    ``ambiguous``: the call was a change, and the store may have made it.
    """

    def __init__(self, message: str, *, ambiguous: bool = False, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.ambiguous = ambiguous


class EngineDenied(EngineError):
    """The store refuses the credentials, the certificate or the permission; nothing was changed."""


class EngineFull(EngineError):
    """The store has no room for changes, and still answers reads.

    The requested change was made, or was not and never will be: a read shows which.
    """


class SessionGone(EngineError):
    """The session that a Put names has ended; nothing was changed."""


class Compacted(EngineError):
    """The events after the given revision are gone; ``revision`` is the oldest that is left."""

    def __init__(self, message: str, *, revision: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.revision = revision


class HistoryLost(EngineError):
    """The shared store has lost changes that this node has seen.

    The requested change may have been made. Every call raises this error until
    :meth:`History.accept` is called: no answer is trusted before this node has compared all its
    blocks.
    """

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="every node compares its blocks before any is claimed: see docs/operations.md",
        )


class History:
    """The last known state of a store: its identity (0: unknown) and its highest revision.

    A store that was restored from an older copy does not know which blocks were claimed since that
    copy. Then its revision is lower than one that a node has seen, or its identity is different.
    So each answer of an engine is compared with the state that was known before the call.

    Safe to use from several threads: each change of a field is one assignment.
    """

    __slots__ = ("_lost", "identity", "revision")

    def __init__(self) -> None:
        self.identity = 0
        self.revision = 0
        self._lost = ""

    @property
    def is_lost(self) -> bool:
        """Whether a loss was noticed and not accepted yet."""
        return bool(self._lost)

    def expect(self, identity: int, revision: int) -> None:
        """Start from the state that an earlier process has stored, unless a state is known."""
        if not self.revision and revision:
            self.identity, self.revision = identity, revision

    def begin(self) -> int:
        """Return the lowest revision that the answer to the next call may have.

        Raises HistoryLost while a loss is not accepted.
        """
        if self._lost:
            raise HistoryLost(self._lost)
        return self.revision

    def hear(self, identity: int, revision: int, floor: int, *, changed: bool = False) -> None:
        """Record the store's identity and the revision (0: none) of an answer. Raises HistoryLost.

        ``floor`` is what :meth:`begin` returned before the call. ``changed``: the call made a
        change, and ``revision`` is that change's; it must be higher than ``floor``.
        """
        if self._lost:
            raise HistoryLost(self._lost)
        if self.identity and identity != self.identity:
            self.lose(
                f"the cluster's store was replaced: its id was {self.identity:x}, "
                f"and is {identity:x}"
            )
        if revision and revision - changed < floor:
            self.lose(
                f"the cluster's store was restored to an older state: its revision was {floor}, "
                f"and is {revision}"
            )
        self.identity = identity
        self.revision = max(self.revision, revision)

    def lose(self, message: str) -> None:
        """Record that the store has lost a change that this node has seen. Raises HistoryLost."""
        self._lost = message
        raise HistoryLost(message)

    def accept(self) -> None:
        """Accept the store as it is now: the next answer is compared with nothing."""
        self.identity = self.revision = 0
        self._lost = ""


class _Record:
    """A value with named fields; two are equal if their classes and all their fields are equal.

    It exists because importing ``typing`` or ``dataclasses`` takes longer than importing the code
    of a claim.
    """

    __slots__: tuple[str, ...] = ()

    def _fields(self) -> list[object]:
        return [getattr(self, name) for name in self.__slots__]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._fields() == self._fields()

    def __hash__(self) -> int:
        return hash((type(self), *self._fields()))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({inside})"


class KeyValue(_Record):
    """A key as it was read: its value, and the revisions of its creation and of its last change.

    ``version`` counts the changes since the key was created, from 1.
    """

    __slots__ = ("create_revision", "key", "mod_revision", "value", "version")

    def __init__(
        self, key: bytes, value: bytes, create_revision: int, mod_revision: int, version: int
    ) -> None:
        self.key = key
        self.value = value
        self.create_revision = create_revision
        self.mod_revision = mod_revision
        self.version = version


class Compare(_Record):
    """A condition of a transaction on one key.

    ``absent``: the key does not exist (``expected`` is ignored). ``mod_revision``: its last change
    was at the revision ``expected``; 0 means the same as absent. ``value``: the key exists, and its
    value is ``expected`` (which may be empty).
    """

    __slots__ = ("expected", "key", "kind")

    def __init__(
        self,
        key: bytes,
        kind: Literal["absent", "mod_revision", "value"],
        expected: int | bytes | None = None,
    ) -> None:
        self.key = key
        self.kind = kind
        self.expected = expected


class Put(_Record):
    """Write a value; with a session, the key is deleted when that session ends (0: no session).

    A Put without a session detaches the key from the session that it had.
    """

    __slots__ = ("key", "session", "value")

    def __init__(self, key: bytes, value: bytes, session: int = 0) -> None:
        self.key = key
        self.value = value
        self.session = session


class Delete(_Record):
    """Delete a key; a key that does not exist is no error."""

    __slots__ = ("key",)

    def __init__(self, key: bytes) -> None:
        self.key = key


class Outcome(_Record):
    """The result of a transaction.

    ``succeeded``: all conditions held, and all operations were made at ``revision``. Otherwise
    nothing was changed, and ``existing`` lists the compared keys that exist, each once, in the
    order of the conditions, as they were when the conditions were checked.
    """

    __slots__ = ("existing", "revision", "succeeded")

    def __init__(self, succeeded: bool, revision: int, existing: list[KeyValue]) -> None:
        self.succeeded = succeeded
        self.revision = revision
        self.existing = existing


class KeyEvent(_Record):
    """One change of one key; the value of a deleted key is empty."""

    __slots__ = ("key", "kind", "revision", "value")

    def __init__(
        self, kind: Literal["put", "delete"], key: bytes, value: bytes, revision: int
    ) -> None:
        self.kind = kind
        self.key = key
        self.value = value
        self.revision = revision


class Engine(Protocol):
    """A linearizable key-value store: after a change has ended, every call of any client sees it.

    Every method that sends a request may raise EngineUnavailable, EngineTimeout, EngineDenied and
    HistoryLost: it compares the answer with ``history``.
    """

    history: History

    def get(self, key: bytes, *, deadline_s: float) -> KeyValue | None:
        """Return a key as it is now, or None. One round trip; retried on another endpoint."""

    def list(
        self, prefix: bytes, *, limit: int = 0, deadline_s: float
    ) -> tuple[builtins.list[KeyValue], int]:
        """Return all keys that begin with ``prefix``, ascending, and the revision of the listing.

        O(keys), one round trip per thousand keys, all at one revision. With ``limit`` > 0 it stops
        after that many keys. An empty prefix means every key. A watch from the returned revision
        misses nothing.
        """

    def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete], *, deadline_s: float
    ) -> Outcome:
        """Make all operations if all conditions hold, else none. One round trip.

        At most MAX_OPERATIONS conditions and as many operations, and no key in two operations. The
        engine does not retry a request that was sent, so a timeout may be ``ambiguous``. The call
        returns after a majority of the store's members has stored the change. Raises SessionGone,
        and ValueError for too many conditions or operations, or a key in two operations.
        """

    def open_session(self, ttl_s: int, *, deadline_s: float) -> int:
        """Open a session that expires ``ttl_s`` seconds after its last renewal; return its id.

        The id is never 0. An engine may choose a longer time. When no answer comes, the caller
        opens another session: the first one, if it was opened, expires by itself.
        """

    def keep_session(self, session: int, *, deadline_s: float) -> float:
        """Renew a session; return the seconds until it expires, or 0.0 if it has. Idempotent."""

    def close_session(self, session: int, *, deadline_s: float) -> None:
        """End a session and delete its keys. Idempotent. A timeout may be ``ambiguous``."""

    def watch(
        self, prefix: bytes, revision: int, *, deadline_s: float
    ) -> tuple[builtins.list[KeyEvent], int]:
        """Wait for changes of keys with ``prefix`` after ``revision``; return them and a revision.

        Returns as soon as there is an event, with all events so far, in order of revision; the
        events of one transaction always come together. Without an event, returns an empty list at
        the deadline. The next call, with the returned revision, neither misses nor repeats an
        event. ``revision`` 0 means from now on. Raises Compacted.
        """

    def problem(self, *, deadline_s: float) -> str:
        """Return a problem of the store that reads do not show, or "". One round trip.

        Raises the errors of a read.
        """

    def local_addresses(self) -> tuple[str, ...]:
        """Return the address from which this machine reaches the store; sends nothing.

        Empty when there is no route, or when it is a loopback address, which other nodes cannot
        use.
        """

    def close(self) -> None:
        """Close all connections; open sessions stay until they expire. Idempotent."""


def check_transaction(compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> None:
    """Raise ValueError for a transaction that every engine refuses. O(operations)."""
    if len(compares) > MAX_OPERATIONS or len(operations) > MAX_OPERATIONS:
        raise ValueError(
            f"{len(compares)} conditions and {len(operations)} operations in one transaction, "
            f"at most {MAX_OPERATIONS} of each"
        )
    keys = {operation.key for operation in operations}
    if len(keys) != len(operations):
        raise ValueError("a key is in two operations of one transaction")
