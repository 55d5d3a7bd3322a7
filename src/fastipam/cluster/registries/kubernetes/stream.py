"""A watch as the Kubernetes API sends it: one event per line."""

from __future__ import annotations

import json
import time

from fastipam.cluster.engine import EngineUnavailable
from fastipam.cluster.engines.http import Lines
from fastipam.cluster.registries.kubernetes.answers import MALFORMED, shown, stream_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastipam.cluster.engines.http import Connection

_LARGEST_EVENT = 4 << 20  # an API server takes bodies of 3 MiB
_EVENTS = frozenset(("ADDED", "MODIFIED", "DELETED", "BOOKMARK"))


class Watch:
    """The events of a watch, as an iterator over (type, object). For one thread at a time."""

    def __init__(
        self,
        connection: Connection,
        over_at: float,
        forget: Callable[[Watch], object],
        *,
        initial: bool,
    ) -> None:
        """``over_at``: when to close it at the latest; ``forget`` is called when it is closed."""
        self._initial = initial
        self._forget = forget
        self._connection = connection
        self._lines = Lines(connection, _LARGEST_EVENT)
        self._over_at = over_at
        self.is_over = False

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> tuple[str, dict[str, Any]]:
        while not self.is_over:
            if found := self.wait(3600.0):
                return found
        raise StopIteration

    def wait(self, seconds: float) -> tuple[str, dict[str, Any]] | None:
        """Return the next event; None after these seconds, or when the watch ``is_over``.

        Raises Compacted; EngineUnavailable when the connection broke or the server is in trouble.
        An error ends the watch.
        """
        until = time.monotonic() + seconds
        try:
            line = self._lines.next(min(until, self._over_at))
        except TimeoutError as error:
            if time.monotonic() < self._over_at:
                return None
            self.close()
            raise EngineUnavailable("the server did not end a watch in time") from error
        except OSError as error:
            self.close()
            raise EngineUnavailable(f"a watch broke: {error.strerror or error}") from error
        if line is None:
            self.close()
            return None
        try:
            return self._read(line)
        except BaseException:
            self.close()
            raise

    def _read(self, line: bytes) -> tuple[str, dict[str, Any]]:
        where = self._connection.server.text
        try:
            event = json.loads(line)
            kind, found = event["type"], event["object"]
            is_event = kind in _EVENTS and isinstance(found["metadata"], dict)
        except MALFORMED:
            is_event = False
        else:
            if kind == "ERROR":
                raise stream_error(found, where, initial=self._initial)
        if not is_event:
            raise EngineUnavailable(f"{where} sends a line that is not an event: {shown(line)}")
        return kind, found

    def shut_down(self) -> None:
        """End the watch from another thread: a wait that is under way ends with an error."""
        self._connection.shut_down()

    def close(self) -> None:
        """Close the connection; the server then ends the watch. Idempotent."""
        self.is_over = True
        self._connection.close()
        self._forget(self)


def ends_initial(found: dict[str, Any]) -> bool:
    """Return whether this is the bookmark that ends the initial events of a watch (KEP-3157)."""
    annotations = found["metadata"].get("annotations")
    return isinstance(annotations, dict) and "k8s.io/initial-events-end" in annotations
