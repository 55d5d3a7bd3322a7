"""An engine in memory, for tests and the simulator: the semantics of etcd, not durable.

It has compare-and-swap on revisions, sessions on a clock that the caller moves, watches,
compaction, and a hook before and after every call that can lose the request or its answer.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, insort
from collections import Counter, deque
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

from fastipam.cluster.engine import (
    Compacted,
    Delete,
    EngineUnavailable,
    History,
    KeyEvent,
    KeyValue,
    Outcome,
    Put,
    SessionGone,
    check_transaction,
)

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Literal

    from fastipam.cluster.engine import Compare

    Fault = Callable[[str, Literal["before", "after"]], None]


class _Session:
    """A session: when it expires, and the keys that are deleted with it."""

    __slots__ = ("expires", "keys", "ttl_s")

    def __init__(self, ttl_s: int, expires: float) -> None:
        self.ttl_s = ttl_s
        self.expires = expires
        self.keys: set[bytes] = set()


class MemoryEngine:
    """An Engine in memory, which several threads and any number of nodes may share.

    ``clock`` gives seconds and only moves sessions. ``fault(call, when)`` is called ``"before"``
    and ``"after"`` each call. The caller sees what it raises: an exception after a ``transact`` is
    an answer that was lost. ``calls`` counts the calls that passed ``before``, ``refused`` the
    transactions whose conditions did not hold.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, fault: Fault | None = None
    ) -> None:
        self.fault = fault
        self.calls: Counter[str] = Counter()
        self.refused = 0
        self.history = History()
        self.revision = 1
        self._clock = clock
        self._changed = threading.Condition()
        self._values: dict[bytes, KeyValue] = {}
        self._keys: builtins.list[bytes] = []  # the same keys, sorted
        self._holders: dict[bytes, int] = {}  # key -> the session that it ends with
        self._sessions: dict[int, _Session] = {}
        self._due: builtins.list[tuple[float, int]] = []  # a heap; may be out of date
        self._ids = count(1)
        self._events: deque[KeyEvent] = deque()
        self._oldest = 1  # events after this revision are all there
        self._closed = False

    def get(self, key: bytes, *, deadline_s: float) -> KeyValue | None:
        """See Engine. O(1)."""
        del deadline_s
        with self._changed:
            self._begin("get")
            found = self._values.get(key)
            self._end("get")
            return found

    def list(
        self, prefix: bytes, *, limit: int = 0, deadline_s: float
    ) -> tuple[builtins.list[KeyValue], int]:
        """See Engine. O(log keys + what is found)."""
        del deadline_s
        with self._changed:
            self._begin("list")
            found: builtins.list[KeyValue] = []
            for at in range(bisect_left(self._keys, prefix), len(self._keys)):
                key = self._keys[at]
                if not key.startswith(prefix) or (limit and len(found) == limit):
                    break
                found.append(self._values[key])
            self._end("list")
            return found, self.revision

    def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete], *, deadline_s: float
    ) -> Outcome:
        """See Engine. O(conditions + operations), and O(keys) to keep them sorted."""
        del deadline_s
        check_transaction(compares, operations)
        with self._changed:
            self._begin("transact")
            if all(map(self._holds, compares)):
                self._change(operations)
                outcome = Outcome(True, self.revision, [])
            else:
                self.refused += 1
                keys = dict.fromkeys(compare.key for compare in compares)
                there = [self._values[key] for key in keys if key in self._values]
                outcome = Outcome(False, self.revision, there)
            self._end("transact")
            return outcome

    def open_session(self, ttl_s: int, *, deadline_s: float) -> int:
        """See Engine. The time is the one asked for."""
        del deadline_s
        if ttl_s < 1:
            raise ValueError(f"ttl_s {ttl_s} is less than a second")
        with self._changed:
            self._begin("open_session")
            session = next(self._ids)
            self._sessions[session] = _Session(ttl_s, self._clock() + ttl_s)
            heappush(self._due, (self._sessions[session].expires, session))
            self._end("open_session")
            return session

    def keep_session(self, session: int, *, deadline_s: float) -> float:
        """See Engine."""
        del deadline_s
        with self._changed:
            self._begin("keep_session")
            found = self._sessions.get(session)
            if found is not None:
                found.expires = self._clock() + found.ttl_s
            self._end("keep_session")
            return float(found.ttl_s) if found is not None else 0.0

    def close_session(self, session: int, *, deadline_s: float) -> None:
        """See Engine."""
        del deadline_s
        with self._changed:
            self._begin("close_session")
            self._drop_session(session)
            self._end("close_session")

    def watch(
        self, prefix: bytes, revision: int, *, deadline_s: float
    ) -> tuple[builtins.list[KeyEvent], int]:
        """See Engine. ``deadline_s`` is real time, whatever ``clock`` is; 0: never wait."""
        deadline = time.monotonic() + deadline_s
        with self._changed:
            self._begin("watch")
            revision = revision or self.revision
            while True:
                if revision < self._oldest:
                    raise Compacted(
                        f"the events after revision {revision} are gone, "
                        f"those after {self._oldest} are left",
                        revision=self._oldest,
                    )
                found = [event for event in self._after(revision) if event.key.startswith(prefix)]
                left = deadline - time.monotonic()
                if found or left <= 0:
                    self._end("watch")
                    return found, max(revision, self.revision)
                self._changed.wait(min(left, self._until_expiry()))
                self._expire()

    def problem(self, *, deadline_s: float) -> str:
        """See Engine."""
        del deadline_s
        self._begin("problem")
        return ""

    def local_addresses(self) -> tuple[str, ...]:
        """See Engine. The store is in this process, so there is no address."""
        return ()

    def close(self) -> None:
        """Refuse every later call; keep what is stored for tests that look into it."""
        self._closed = True

    # For tests.

    def expire(self) -> None:
        """End the sessions that have expired, and wake the watchers; every call does this."""
        with self._changed:
            self._expire()

    def compact(self, revision: int) -> None:
        """Forget the events up to and including ``revision``."""
        with self._changed:
            while self._events and self._events[0].revision <= revision:
                self._events.popleft()
            self._oldest = max(self._oldest, min(revision, self.revision))

    def copy(self) -> builtins.list[KeyValue]:
        """Return what is stored, as a backup has it."""
        with self._changed:
            return [self._values[key] for key in self._keys]

    def put_back(self, copy: Sequence[KeyValue], revision: int) -> None:
        """Forget all that was changed since a copy was made at that revision; sessions end."""
        with self._changed:
            self._values = {one.key: one for one in copy}
            self._keys = sorted(self._values)
            self._holders, self._sessions, self._due = {}, {}, []
            self._events.clear()
            self.revision = self._oldest = revision

    # All methods below are called with the lock held.

    def _begin(self, call: str) -> None:
        if self._closed:
            raise EngineUnavailable("the engine is closed")
        if self.fault is not None:
            self.fault(call, "before")
        self.calls[call] += 1
        self._expire()

    def _until_expiry(self) -> float:
        """Return how many seconds to wait until a session may end; a minute if there is none."""
        return max(0.001, self._due[0][0] - self._clock()) if self._due else 60.0

    def _end(self, call: str) -> None:
        if self.fault is not None:
            self.fault(call, "after")

    def _holds(self, compare: Compare) -> bool:
        found = self._values.get(compare.key)
        if compare.kind == "absent":
            return found is None
        if compare.kind == "mod_revision":
            return (found.mod_revision if found is not None else 0) == compare.expected
        return found is not None and found.value == compare.expected

    def _change(self, operations: Iterable[Put | Delete]) -> None:
        """Make the operations as one revision; without any change there is no new revision."""
        revision = self.revision + 1
        events = []
        for operation in operations:
            if (
                isinstance(operation, Put)
                and operation.session
                and operation.session not in self._sessions
            ):
                raise SessionGone(f"session {operation.session} has ended")
        for operation in operations:
            key = operation.key
            before = self._values.get(key)
            if isinstance(operation, Put):
                if before is None:
                    insort(self._keys, key)
                    self._values[key] = KeyValue(key, operation.value, revision, revision, 1)
                else:
                    self._values[key] = KeyValue(
                        key, operation.value, before.create_revision, revision, before.version + 1
                    )
                self._hold(key, operation.session)
                events.append(KeyEvent("put", key, operation.value, revision))
            elif before is not None:
                del self._values[key]
                del self._keys[bisect_left(self._keys, key)]
                self._hold(key, 0)
                events.append(KeyEvent("delete", key, b"", revision))
        if events:
            self.revision = revision
            self._events.extend(events)
            self._changed.notify_all()

    def _hold(self, key: bytes, session: int) -> None:
        """Attach the key to that session, and to no other (0: to none)."""
        before = self._holders.pop(key, 0)
        if before in self._sessions:
            self._sessions[before].keys.discard(key)
        if session:
            self._holders[key] = session
            self._sessions[session].keys.add(key)

    def _drop_session(self, session: int) -> None:
        found = self._sessions.pop(session, None)
        if found is not None:
            self._change([Delete(key) for key in sorted(found.keys)])

    def _expire(self) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            _, session = heappop(self._due)
            found = self._sessions.get(session)
            if found is None:
                continue
            if found.expires <= now:
                self._drop_session(session)
            else:  # it was renewed since
                heappush(self._due, (found.expires, session))

    def _after(self, revision: int) -> Iterable[KeyEvent]:
        """Return the events after a revision, oldest first. O(events returned)."""
        young: deque[KeyEvent] = deque()
        for event in reversed(self._events):
            if event.revision <= revision:
                break
            young.appendleft(event)
        return young


class Client:
    """A client of a MemoryEngine with a history of its own, as each process of a node has one.

    ``identity`` is that of the store, for all its clients.
    """

    identity = 1

    def __init__(self, engine: MemoryEngine) -> None:
        self._engine = engine
        self.history = History()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._engine, name)
        if name not in _ORDERED:
            return found

        def call(*positional: Any, **named: Any) -> Any:
            floor = self.history.begin()
            answer = found(*positional, **named)
            revision = 0 if name == "keep_session" else self._engine.revision
            changed = isinstance(answer, Outcome) and answer.succeeded
            changed = changed and any(isinstance(one, Put) for one in positional[1])
            self.history.hear(self.identity, revision, floor, changed=changed)
            return answer

        return call

    def close(self) -> None:
        """Close nothing: others use the engine."""


_ORDERED = ("get", "list", "transact", "open_session", "keep_session")
