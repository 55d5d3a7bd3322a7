"""A cache of the Kubernetes namespaces of waiting ADDs, which the keeper reads.

An agent's loop never waits for the API: it looks a namespace up here, and serves the ADD again when
the keeper has read the namespace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam.cluster.engine import EngineError
from fastipam.cluster.errors import NoBlock, in_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.registry import Namespace, Registry

_KEPT_S = 60.0  # how long a namespace counts as known after it was read
_AGAIN_S = 5.0  # between two tries to read a namespace
_MOST = 4096  # namespaces in the cache


class Namespaces:
    """The namespaces that were read last. Safe to use from several threads."""

    def __init__(self, registry: Registry, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._clock = clock
        self._known: dict[str, tuple[float, Namespace]] = {}  # name -> (valid until, itself)
        self._failed: dict[str, tuple[float, str]] = {}  # name -> (try again at, why)
        self._wanted: dict[str, None] = {}

    def get(self, name: str) -> Namespace | str:
        """Return a namespace, or why it is not known: "" while the keeper reads it. Never waits.

        While the API cannot be reached, the namespace stays valid as it was read last.
        """
        now = self._clock()
        until, found = self._known.get(name, (0.0, None))
        if found is not None and now < until:
            return found
        again_at, why = self._failed.get(name, (0.0, ""))
        if now >= again_at:
            self._wanted[name] = None
            return ""
        return why if found is None else found

    @property
    def is_asked(self) -> bool:
        """Whether :meth:`read` has something to do."""
        return bool(self._wanted)

    def read(self, deadline: Deadline) -> None:
        """Read the namespaces that :meth:`get` did not know. One request each. Raises nothing."""
        for name in list(self._wanted):
            try:
                found = self._registry.namespace(name, deadline)
            except (EngineError, NoBlock) as error:
                self._failed[name] = self._clock() + _AGAIN_S, in_words(error)
            else:
                if len(self._known) >= _MOST:
                    self._known.clear()
                self._known[name] = self._clock() + _KEPT_S, found
                self._failed.pop(name, None)
            self._wanted.pop(name, None)
