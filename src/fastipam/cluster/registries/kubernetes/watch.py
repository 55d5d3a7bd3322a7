"""A follower of the objects of a kind: it reports their current state, then each change."""

from __future__ import annotations

import contextlib
import math
import time

from fastipam.cluster.engine import Compacted, EngineUnavailable
from fastipam.cluster.registries.kubernetes.client import Behind, Refused, ends_initial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastipam.cluster.registries.kubernetes.client import Client, Kind, Watch

# A watch is renewed after 5 to 10 minutes, as client-go does: no proxy can keep a broken watch open
# for longer, and the watches of all nodes do not end together.
_WATCH_S = 300.0
_STATE_S = 30.0  # for a list, or between two of the first events of a watch
_LOOK_S = 0.5  # how often a quiet watch checks whether it is to end
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0  # between two watches; doubles
_STEADY_S = 10.0  # a watch that lasted so long was no failure
# A server that is behind for so many attempts has lost versions: it was restored from a copy.
_MOST_BEHIND = 3


class Follower:
    """The objects of a kind as a stream of events; for one thread, which calls :meth:`run`.

    ``on_event`` is called with ADDED, MODIFIED or DELETED and an object. ``on_synced`` is called
    whenever the whole state has been reported, and ``on_open`` when a watch continues from a state
    that was reported. ``on_error`` is called with each exception: nothing is raised.

    An event may be reported twice. A change that is made while no server can be reached is reported
    when one can be. Then an object that was deleted meanwhile comes as DELETED, with nothing but
    its metadata's name and namespace, and one that was deleted and created again as MODIFIED.

    After a break it continues from the last version. If the server's history does not go back that
    far, it waits a random part of ``spread_s``, because all nodes learn this in the same instant.
    Then it reads the state from the server's cache, never from etcd.

    Memory: the name and the version of each object, about 200 bytes.
    """

    def __init__(
        self,
        client: Client,
        kind: Kind,
        on_event: Callable[[str, dict[str, Any]], object],
        *,
        on_synced: Callable[[], object] = lambda: None,
        on_open: Callable[[], object] = lambda: None,
        on_error: Callable[[Exception], object],
        selector: str = "",
        spread_s: float = 30.0,
        watch_s: float = _WATCH_S,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``selector``: a field selector. ``watch_s``: how long a watch lasts, up to twice that."""
        self.version = ""  # the reported state is the one at this version
        # The reported state is that of this time or a later one; a cache does not say its age.
        self.current_at = -math.inf
        self.is_synced = False
        self._client = client
        self._kind = kind
        self._on_event = on_event
        self._on_synced = on_synced
        self._on_open = on_open
        self._on_error = on_error
        self._selector = selector
        self._spread_s = spread_s
        self._watch_s = watch_s
        self._sleep = sleep
        self._clock = clock
        self._known: dict[tuple[str, str], str] = {}  # (namespace, name) -> version
        self._streams_state = True  # whether the server sends the state as events of a watch
        self._lists_next = False  # the server does, but its last attempt failed
        self._wants_anew = False
        self._failures = self._behind = 0

    def run(self, is_over: Callable[[], bool]) -> None:
        """Follow until ``is_over``, which is called twice a second; raises nothing.

        It ends at once when the client is closed and ``is_over`` returns True.
        """
        while not is_over():
            began = time.monotonic()
            try:
                self._go_on(is_over)
            except Compacted as error:
                self.is_synced = False
                self._report(error)
                self._pause(self._spread_s * self._client.chance(), is_over)
                continue
            except Exception as error:
                if not is_over():
                    self._failed(error)
            if time.monotonic() - began >= _STEADY_S:
                self._failures = 0
            whole = min(_FIRST_PAUSE_S * 2 ** min(self._failures, 20), _LONGEST_PAUSE_S)
            self._failures += 1
            self._pause(whole * (0.5 + self._client.chance() / 2), is_over)

    def begin_anew(self) -> None:
        """Read the current state, and report all of it again. For any thread."""
        self._wants_anew = True

    def _failed(self, error: Exception) -> None:
        self._behind = self._behind + 1 if isinstance(error, Behind) else 0
        if self._behind >= _MOST_BEHIND or isinstance(error, Refused):
            self.begin_anew()
        self._report(error)

    def _report(self, error: Exception) -> None:
        with contextlib.suppress(Exception):  # there is nobody left to report to
            self._on_error(error)

    def _pause(self, seconds: float, is_over: Callable[[], bool]) -> None:
        while seconds > 0 and not is_over():
            self._sleep(min(seconds, _LOOK_S))
            seconds -= _LOOK_S

    def _go_on(self, is_over: Callable[[], bool]) -> None:
        """Report the state if that is due, then changes until the watch ends."""
        if self._wants_anew:
            self._wants_anew, self.is_synced, self.version = False, False, ""
            self._known = dict.fromkeys(self._known, "")
        initial = not self.is_synced and self._streams_state and not self._lists_next
        if not self.is_synced and not initial:
            self._tell_list()
        seconds = self._watch_s * (1 + self._client.chance())
        asked_at = -math.inf if self.version else self._clock()
        is_open = False
        try:
            watch = self._client.watch(
                self._kind, self.version, self._selector, initial=initial, deadline_s=seconds
            )
            is_open = True
            try:
                if not initial:
                    self._on_open()
                self._tell_changes(watch, initial, is_over, asked_at)
            finally:
                watch.close()
        except Compacted:
            raise
        except Exception as error:
            if not initial or self.is_synced:
                raise
            # Whatever the error was, a list may work, and is answered sooner when all nodes start
            # at once. A state that was followed until its server went away is streamed again.
            self._lists_next = is_open or not self.version
            if not isinstance(error, Refused):
                raise
            self._streams_state = False
            self._go_on(is_over)

    def _tell_list(self) -> None:
        """Report the differences between a list from the server's cache and the last report."""
        found, version = self._client.list(
            self._kind,
            self._selector,
            at_least=self.version,
            from_cache=not self.version,
            deadline_s=_STATE_S,
        )
        seen = set()
        for each in found:
            seen.add(self._tell("ADDED", each))
        self._synced(seen, version)

    def _tell_changes(
        self, watch: Watch, initial: bool, is_over: Callable[[], bool], asked_at: float
    ) -> None:
        """Report the events of a watch until it ends; the initial ones first."""
        seen: set[tuple[str, str]] | None = set() if initial else None
        silent_s = 0.0
        while not (is_over() or watch.is_over or self._wants_anew):
            event = watch.wait(_LOOK_S)
            if event is None:
                silent_s += _LOOK_S
                if seen is not None and silent_s > _STATE_S:
                    raise EngineUnavailable(
                        f"the first events of {self._kind.plural} did not come in {_STATE_S:g} s"
                    )
                continue
            silent_s = 0.0
            kind, found = event
            if kind == "BOOKMARK":
                version = str(found["metadata"].get("resourceVersion") or "")
                if seen is None:
                    self.version = version or self.version
                elif ends_initial(found):
                    self.current_at = asked_at
                    self._synced(seen, version)
                    seen = None
                continue
            key = self._tell(kind, found)
            if seen is not None:
                seen.add(key)
            else:
                self.version = str(found["metadata"].get("resourceVersion") or self.version)
        if seen is not None and watch.is_over:
            raise EngineUnavailable(f"the first events of {self._kind.plural} were cut off")

    def _tell(self, kind: str, found: dict[str, Any]) -> tuple[str, str]:
        """Report an event, unless this version was reported; return the object's key."""
        metadata = found["metadata"]
        key = (str(metadata.get("namespace") or ""), str(metadata["name"]))
        version = str(metadata.get("resourceVersion") or "")
        told = self._known.get(key)
        if kind == "DELETED":
            self._known.pop(key, None)
        elif told == version != "":
            return key
        else:
            kind = "ADDED" if told is None else "MODIFIED"
            self._known[key] = version
        try:
            self._on_event(kind, found)
        except Exception as error:
            if key in self._known:
                self._known[key] = ""  # reported again with the next state
            self._report(error)
        return key

    def _synced(self, seen: set[tuple[str, str]], version: str) -> None:
        """Report the deletions that no event showed, and that the state is complete."""
        for namespace, name in self._known.keys() - seen:
            metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
            self._tell("DELETED", {"metadata": metadata})
        self.version, self.is_synced, self._behind = version, True, 0
        self._lists_next = False
        try:
            self._on_synced()
        except Exception as error:
            self._report(error)
