"""A watch that is set up at one member of etcd: its stream of lines, as events."""

from __future__ import annotations

from fastipam.cluster.engine import Compacted
from fastipam.cluster.engines import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.cluster.engine import Event
    from fastipam.cluster.engines.transport import Connection

__all__ = ["Stream"]


class Stream:
    """The events of a prefix after ``revision``, which moves on with what was handed out.

    ``heard_at`` is when the member last said anything. Not for two threads at a time.
    """

    def __init__(self, connection: Connection, revision: int, deadline: float) -> None:
        """Read the acknowledgement. Raises as ``wait``."""
        self.revision = revision
        self._connection = connection
        self._rest = b""
        created = self._line(deadline)
        if not revision:  # from now on
            self.revision = int(created["header"]["revision"])

    @property
    def heard_at(self) -> float:
        """Moment of ``time.monotonic()``."""
        return self._connection.used_at

    def wait(self, deadline: float) -> list[Event]:
        """The next events, at least one; those of one transaction are never parted.

        After a TimeoutError it can be called again. Raises OSError when the stream has ended,
        Retry when the member lost its leader, Compacted.
        """
        while True:
            result = self._line(deadline)
            revision = int(result["header"]["revision"])
            found = [wire.event(one) for one in result.get("events", ())]
            while b"\n" in self._rest:  # what came with it
                result = self._line(deadline)
                found += [wire.event(one) for one in result.get("events", ())]
            if found:
                self.revision = found[-1].revision
                return found
            # Nothing but a sign of life: all before it has been sent.
            if not result.get("created"):
                self.revision = max(self.revision, revision)

    def close(self) -> None:
        """Give it up; the member notices."""
        self._connection.close()

    def _line(self, deadline: float) -> Any:
        """The next result; the gateway ends each with a line feed."""
        while b"\n" not in self._rest:
            chunk = self._connection.chunk(deadline)
            if chunk is None:
                raise ConnectionResetError("the watch has ended")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            answer = wire.decode(line)
        except ValueError as error:
            raise ConnectionError(f"the watch sends no JSON: {error}") from error
        if "error" in answer:
            raise wire.failure(0, line, self._connection.address.text, change=False)
        result = answer["result"]
        if compacted := int(result.get("compact_revision", 0)):
            # Events at that revision itself are still there (etcd, mvcc/watchable_store.go).
            raise Compacted(
                f"the events after revision {self.revision} are gone, "
                f"those after {compacted - 1} are left",
                revision=compacted - 1,
            )
        if result.get("canceled"):
            raise wire.Retry(str(result.get("cancel_reason", "the watch was ended")))
        return result
