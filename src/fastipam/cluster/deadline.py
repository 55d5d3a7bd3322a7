"""How long an operation on the shared store may take, all of its calls together."""

from __future__ import annotations

import time

from fastipam.cluster.errors import NoBlock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# One call of the shared store: a leader's death stalls writes for 1.3 to 1.7 s (measured).
CALL_S = 2.5


class Deadline:
    """A moment that all calls of one operation share; ``call_s``: the most for one of them."""

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
        """Seconds left; 0.0 when it has passed."""
        return max(0.0, self._at - self._clock())

    def call_s(self) -> float:
        """Seconds for one call of the shared store. Raises NoBlock when nothing is left."""
        left = self.left_s()
        if left <= 0:
            raise NoBlock("the shared store did not answer in time")
        return min(left, self._call_s or CALL_S)
