"""A watch at one member of etcd: reads its stream of lines as events."""

from __future__ import annotations

from fastipam.cluster.engine import Compacted
from fastipam.cluster.engines.etcd import gateway
from fastipam.cluster.engines.http import Lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.cluster.engine import KeyEvent
    from fastipam.cluster.engines.http import Connection


class Stream:
    """The events of a prefix after ``revision``, which advances with each :meth:`wait`.

    Not for two threads at a time.
    """

    def __init__(self, connection: Connection, revision: int, deadline: float) -> None:
        """Read the acknowledgement. Raises what :meth:`wait` raises."""
        self.revision = revision
        self._connection = connection
        self._lines = Lines(connection)
        created = self._next(deadline)
        if not revision:  # from now on
            self.revision = created.revision
        elif created.revision < revision:
            # This member is behind, or the store was restored to an older state. A listing shows
            # which, and a watch for a future revision never would.
            raise Compacted(
                f"the member is at revision {created.revision}, which is before {revision}",
                revision=created.revision,
            )

    @property
    def heard_at(self) -> float:
        """When the member last sent anything, as ``time.monotonic()``."""
        return self._connection.used_at

    def wait(self, deadline: float) -> list[KeyEvent]:
        """Return the next events, at least one, with all events of the last transaction.

        Can be called again after a TimeoutError. Raises OSError when the stream has ended or is
        not etcd's, Retry when the member lost its leader, Compacted.
        """
        while True:
            message = self._next(deadline)
            found = message.events
            while self._lines.has_more:  # messages that came with it
                message = self._next(deadline)
                found += message.events
            if found:
                self.revision = found[-1].revision
                return found
            # A message without events says that all events up to its revision were sent.
            if not message.created:
                self.revision = max(self.revision, message.revision)

    def close(self) -> None:
        """Close the connection; the member then ends the watch."""
        self._connection.close()

    def _next(self, deadline: float) -> _Message:
        """Return the next message; the gateway ends each with a line feed."""
        line = self._lines.next(deadline)
        if line is None:
            raise ConnectionResetError("the watch has ended")
        try:
            answer = gateway.decode(line)
            message = None if "error" in answer else _Message(answer["result"])
        except gateway.MALFORMED as error:
            raise ConnectionError(
                f"the watch sends an answer that is not of etcd's protocol: {error!r}"
            ) from error
        if message is None:
            raise gateway.failure(0, line, self._connection.server.text, change=False)
        if message.compacted:
            # Events at that revision itself are still there (etcd, mvcc/watchable_store.go).
            raise Compacted(
                f"the events after revision {self.revision} are gone, "
                f"those after {message.compacted - 1} are left",
                revision=message.compacted - 1,
            )
        if message.canceled:
            raise gateway.Retry(message.canceled)
        return message


class _Message:
    """An etcdserverpb.WatchResponse; raises one of ``gateway.MALFORMED`` for anything else."""

    __slots__ = ("canceled", "compacted", "created", "events", "revision")

    def __init__(self, result: Any) -> None:
        self.compacted = int(result.get("compact_revision", 0))
        self.canceled = (
            str(result.get("cancel_reason") or "the watch was ended")
            if result.get("canceled")
            else ""
        )
        self.created = bool(result.get("created"))
        self.events = [gateway.event(one) for one in result.get("events", ())]
        # The last message of a watch need not have a revision.
        over = self.compacted or self.canceled
        self.revision = 0 if over else int(result["header"]["revision"])
