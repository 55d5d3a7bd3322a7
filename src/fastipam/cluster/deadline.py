"""The deadline of an operation on the shared store, which all of its calls share."""

from __future__ import annotations

import time

from fastipam.cluster.errors import NoBlock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# The most for one call: after etcd's leader has failed, writes stall for 1.3 to 1.7 s (measured).
CALL_S = 2.5


class Deadline:
    """The moment by which all calls of an operation end; ``call_s`` limits each single call."""

    __slots__ = ("_at", "_call_s", "_clock")

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        call_s: float | None = None,
    ) -> None:
        self._clock = clock
        self._call_s = call_s
        self._at = clock() + seconds

    def left_s(self) -> float:
        """Return the seconds that are left, or 0.0 after the deadline."""
        return max(0.0, self._at - self._clock())

    def call_s(self) -> float:
        """Return the seconds that the next call may take. Raises NoBlock when none are left."""
        left = self.left_s()
        if left <= 0:
            raise NoBlock("the shared store did not answer in time")
        return min(left, self._call_s or CALL_S)
