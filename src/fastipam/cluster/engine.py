"""The engine under cluster mode: a small linearizable key-value store, as an interface.

Two engines implement it: etcd (``engines/etcd.py``) and one inside the process for tests and the
simulator (``engines/memory.py``); ``tests/cluster/test_conformance.py`` runs on both. All that the
decisions need is a compare-and-swap transaction, a listing at one revision, sessions (etcd calls
them leases) and a way to wait for changes.

Every call is synchronous, safe to make from several threads, and takes ``deadline_s``: the seconds
from now after which it has returned or raised. What it may raise::

    FastipamError
    └── EngineError
        ├── EngineUnavailable    nothing was changed: try again later
        ├── EngineTimeout        unanswered: with ``ambiguous`` a change may have been made or not,
        │                        read before trying again
        ├── EngineDenied         user, password, certificate or permission: tell the operator
        ├── SessionGone          the session of a Put has ended: nothing was changed, open another
        └── Compacted            the revision of a watch is too old: list again, watch from there

An engine never repeats a change whose outcome it does not know; reads are repeated on other
endpoints until the deadline.
"""

from __future__ import annotations

from fastipam.errors import FastipamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Sequence
    from typing import Literal, NamedTuple, Protocol
else:
    from fastipam.cluster.tuples import NamedTuple

    Protocol = object

# etcd's own limit (--max-txn-ops): more in one transaction is refused by every engine.
MAX_OPERATIONS = 128

__all__ = [
    "MAX_OPERATIONS",
    "Compacted",
    "Compare",
    "Delete",
    "Engine",
    "EngineDenied",
    "EngineError",
    "EngineTimeout",
    "EngineUnavailable",
    "Event",
    "KeyValue",
    "Outcome",
    "Put",
    "SessionGone",
    "check_transaction",
]


class EngineError(FastipamError):
    """The root of what an engine raises."""


class EngineUnavailable(EngineError):
    """No endpoint could be reached, or none could serve; nothing was changed."""


class EngineTimeout(EngineError):
    """No answer came in time, or the connection broke after the request had left.

    ``ambiguous``: the call was a change, and it may have been made.
    """

    ambiguous: bool

    def __init__(self, message: str, *, ambiguous: bool = False, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.ambiguous = ambiguous


class EngineDenied(EngineError):
    """Credentials, certificate or permission are refused; nothing was changed."""


class SessionGone(EngineError):
    """The session that a Put names has ended; nothing was changed."""


class Compacted(EngineError):
    """The events after the wanted revision are gone; ``revision`` is the oldest that is left."""

    revision: int

    def __init__(self, message: str, *, revision: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.revision = revision


class KeyValue(NamedTuple):
    """A key as it was read: its value, and the revisions of its creation and last change.

    ``version`` counts the changes since it was created, from 1.
    """

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int


class Compare(NamedTuple):
    """A condition of a transaction on one key.

    ``absent``: there is no such key (``expected`` is not looked at). ``mod_revision``: its last
    change was at the revision ``expected``; 0 is the same as absent. ``value``: its value is
    ``expected``; a key that does not exist has none, not even the empty one.
    """

    key: bytes
    kind: Literal["absent", "mod_revision", "value"]
    expected: int | bytes | None = None


class Put(NamedTuple):
    """Write a value; with a session, the key is deleted when that session ends (0: none).

    A Put without a session takes the key out of the one it had.
    """

    key: bytes
    value: bytes
    session: int = 0


class Delete(NamedTuple):
    """Delete a key; one that does not exist is no error."""

    key: bytes


class Outcome(NamedTuple):
    """What became of a transaction.

    ``succeeded``: all conditions held and all operations were made, at ``revision``. Else nothing
    was changed and ``existing`` has those of the compared keys that exist, in the order of the
    conditions, each once, as they were when the conditions were looked at.
    """

    succeeded: bool
    revision: int
    existing: list[KeyValue]


class Event(NamedTuple):
    """One change of one key; the value of a deleted key is empty."""

    kind: Literal["put", "delete"]
    key: bytes
    value: bytes
    revision: int


class Engine(Protocol):
    """A linearizable key-value store: what a call returned, every later call of anybody sees."""

    def get(self, key: bytes, *, deadline_s: float) -> KeyValue | None:
        """The key now, or None. One round trip; repeated on another endpoint when one fails.

        Raises EngineUnavailable, EngineTimeout (never ambiguous), EngineDenied.
        """

    def list(
        self, prefix: bytes, *, limit: int = 0, deadline_s: float
    ) -> tuple[builtins.list[KeyValue], int]:
        """All keys that begin with ``prefix``, ascending, and the revision at which they are so.

        O(keys), one round trip a thousand, all of one revision. ``limit`` > 0 stops after so many.
        An empty prefix is every key. A watch from that revision misses nothing.

        Raises EngineUnavailable, EngineTimeout (never ambiguous), EngineDenied.
        """

    def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete], *, deadline_s: float
    ) -> Outcome:
        """Make all operations if all conditions hold, else none. One round trip.

        At most MAX_OPERATIONS of each, no key in two operations. Not repeated once the request
        has left: see Outcome and EngineTimeout. Durable on a majority of the members on return.

        Raises EngineUnavailable (nothing was changed), EngineTimeout (``ambiguous``: it may have
        been made), EngineDenied, SessionGone; ValueError for what is said above.
        """

    def open_session(self, ttl_s: int, *, deadline_s: float) -> int:
        """A new session that ends when it is not kept for ``ttl_s`` seconds; its id, never 0.

        An engine may choose a longer time. A session whose opening was not answered ends by
        itself, so the caller just opens another.

        Raises EngineUnavailable, EngineTimeout, EngineDenied.
        """

    def keep_session(self, session: int, *, deadline_s: float) -> float:
        """Let the session's time begin anew; the seconds it has now, 0.0 when it is gone.

        Idempotent. Raises EngineUnavailable, EngineTimeout, EngineDenied.
        """

    def close_session(self, session: int, *, deadline_s: float) -> None:
        """End the session and delete its keys. Idempotent: one that is gone is no error.

        Raises EngineUnavailable, EngineTimeout (``ambiguous``), EngineDenied.
        """

    def watch(
        self, prefix: bytes, revision: int, *, deadline_s: float
    ) -> tuple[builtins.list[Event], int]:
        """Wait for changes of keys with ``prefix`` after ``revision``: the events, and how far.

        Returns as soon as there is an event, with all that are there, in order of revision, never
        a part of one transaction; or at the deadline with none. Ask again with the revision that
        was returned and nothing is missed or repeated. ``revision`` 0: from now on.

        Raises Compacted, EngineUnavailable, EngineDenied.
        """

    def close(self) -> None:
        """Give up all connections; open sessions live on until their time is over. Idempotent."""


def check_transaction(compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> None:
    """Raise ValueError for a transaction that no engine takes. O(operations)."""
    if len(compares) > MAX_OPERATIONS or len(operations) > MAX_OPERATIONS:
        raise ValueError(
            f"{len(compares)} conditions and {len(operations)} operations in one transaction, "
            f"at most {MAX_OPERATIONS} of each"
        )
    keys = {operation.key for operation in operations}
    if len(keys) != len(operations):
        raise ValueError("a key is in two operations of one transaction")
