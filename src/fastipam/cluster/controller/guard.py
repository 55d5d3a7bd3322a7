"""Work on many objects, in which a failure with one object does not stop the others."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from fastipam.cluster.engine import EngineTimeout, EngineUnavailable
from fastipam.cluster.errors import NoBlock
from fastipam.errors import FastipamError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("fastipam.controller")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0  # until an object that failed is tried again; doubles
_MOST_IN_A_ROW = 3  # failures after which the API, not an object, is the reason
_FORGET_S = 600.0


class ApiFails(Exception):
    """The API does not answer: the other objects are handled later."""


class Guard:
    """Runs work on objects, and retries a failed one after a pause; ``failures`` counts them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures = 0
        self._clock = clock
        self._tries: dict[str, tuple[int, float]] = {}  # object -> (failures, when to try again)
        self._in_a_row = 0

    def run(self, what: str, work: Callable[..., object], *arguments: object) -> bool:
        """Do the work on one object, unless it failed just now; return whether it was done.

        Raises only ApiFails, when the API has not served several objects in a row.
        """
        failed, again_at = self._tries.get(what, (0, 0.0))
        if failed and self._clock() < again_at:
            return False
        try:
            work(*arguments)
        except Exception as error:
            self.failures += 1
            pause_s = min(_FIRST_PAUSE_S * 2 ** min(failed, 10), _LONGEST_PAUSE_S)
            self._tries[what] = failed + 1, self._clock() + pause_s
            if isinstance(error, FastipamError):
                log.warning("%s: %s", what, error)
            else:
                log.exception("%s: internal error", what)
            is_api = isinstance(error, (EngineUnavailable, EngineTimeout, NoBlock))
            self._in_a_row = self._in_a_row + 1 if is_api else 0
            if self._in_a_row >= _MOST_IN_A_ROW:
                self._in_a_row = 0
                raise ApiFails(str(error)) from error
            return False
        self._in_a_row = 0
        self._tries.pop(what, None)
        return True

    def tidy(self) -> None:
        """Forget the failures of objects that are gone. O(failures).

        They are gone if their retry was due ten minutes ago.
        """
        oldest = self._clock() - _FORGET_S
        self._tries = {what: one for what, one in self._tries.items() if one[1] > oldest}
