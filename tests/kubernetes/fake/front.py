"""One API server in front of the store: its watch cache, which may be behind, and its watches.

A read without resourceVersion (GET, LIST) is linearizable on a real server, whatever its cache
knows. So being behind shows only in what the cache serves: reads with resourceVersion ("0", or at
least a version) and watches.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import statuses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .manifests import Kind
    from .store import Event, Store, Stored

Json = dict[str, Any]


@dataclass(frozen=True)
class Selector:
    """Which objects: a namespace ("" is all), and fields that equal or do not equal a value."""

    namespace: str = ""
    terms: tuple[tuple[tuple[str, ...], bool, str], ...] = ()

    @property
    def name(self) -> str:
        """The name that a selector of one object asks for, or ""."""
        for path, equal, value in self.terms:
            if path == ("metadata", "name") and equal:
                return value
        return ""

    def matches(self, value: Json) -> bool:
        """Whether the object is one of them."""
        if self.namespace and value["metadata"].get("namespace") != self.namespace:
            return False
        for path, equal, wanted in self.terms:
            has: Any = value
            for step in path:
                has = has.get(step, "") if isinstance(has, dict) else ""
            if (str(has) == wanted) != equal:
                return False
        return True


def selector(kind: Kind, namespace: str, text: str) -> Selector:
    """Read a fieldSelector. Raises ApiError 400 for a field that the kind does not offer."""
    terms = []
    for one in filter(None, text.split(",")):
        equal = "!=" not in one
        path, found, value = one.partition("!=" if not equal else "==" if "==" in one else "=")
        known = ("metadata.name", *(("metadata.namespace",) if kind.namespaced else ()))
        if not found or path not in (*known, *kind.selectable):
            raise statuses.bad_request(f"field label not supported: {path}")
        terms.append((tuple(path.split(".")), equal, value))
    return Selector(namespace, tuple(terms))


def line(what: str, text: bytes) -> bytes:
    """Return one line of a watch."""
    return b'{"type":"%s","object":%s}\n' % (what.encode(), text)


def bookmark(kind: Kind, version: int, *, initial_end: bool = False) -> bytes:
    """Return a bookmark's line."""
    metadata: Json = {"resourceVersion": str(version)}
    if initial_end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    value = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
    return line("BOOKMARK", json.dumps(value).encode())


class Watch:
    """An open watch; ``send`` is given lines, ``end`` closes it (b"" when it ends in order)."""

    def __init__(
        self,
        kind: Kind,
        chosen: Selector,
        send: Callable[[bytes], None],
        end: Callable[[], None],
        *,
        bookmarks: bool,
    ) -> None:
        self.kind = kind
        self.chosen = chosen
        self.send = send
        self.end = end
        self.bookmarks = bookmarks
        self.after = 0  # a version of the future that was asked for: nothing before it is sent
        self.told = 0  # how far the watch was when it began: a bookmark says more than that

    def offer(self, event: Event) -> None:
        """Send the event if it concerns what is watched."""
        if event.version <= self.after:
            return
        before, after = event.before, event.after
        was = before is not None and self.chosen.matches(before.value)
        if after is not None and self.chosen.matches(after.value):
            self.send(line("MODIFIED" if was else "ADDED", after.text))
        elif was:
            self.send(line("DELETED", event.deleted.text))


class Front:
    """One port's server. ``lag`` is the number of versions that its cache is behind."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.lag = 0
        self.held = False  # True: the cache stays where it is
        # The last version that it knows of each kind: of a change, or from etcd's progress.
        self.seen: defaultdict[Kind, int] = defaultdict(int)
        self.watches: defaultdict[Kind, list[Watch]] = defaultdict(list)
        self.version = store.version
        self.oldest = store.version  # a watch from before this version is refused with 410
        self.waiting: list[tuple[int, Callable[[], None]]] = []

    def restart(self) -> None:
        """Begin with an empty history at the present version, as a server does that starts."""
        self.version = self.oldest = self.store.version
        self.seen.clear()
        self.watches.clear()

    def progress(self) -> None:
        """Take over what etcd says now and then: there is nothing else up to this version."""
        for kind in self.watches:
            self.seen[kind] = self.version

    def advance(self) -> None:
        """Take over what was written, but for the last ``lag`` versions; O(changes x watches)."""
        if self.held:
            return
        target = max(self.store.version - self.lag, self.version)
        if target == self.version:
            return
        for event in self.store.since(self.version):
            if event.version > target:
                break
            self.version = self.seen[event.kind] = event.version
            for watch in list(self.watches[event.kind]):
                watch.offer(event)
        self.version = target
        waiting, self.waiting = self.waiting, []
        for version, wake in waiting:
            if version <= self.version:
                wake()
            else:
                self.waiting.append((version, wake))

    def objects(self, kind: Kind) -> dict[tuple[str, str], Stored]:
        """Return a kind's objects as the cache has them."""
        return self.store.at(kind, self.version)

    def start(self, watch: Watch, version: str, *, initial: bool | None) -> None:
        """Begin a watch: what is there, or what happened since a version; then all that follows.

        ``initial``: sendInitialEvents. Raises ApiError 410 when the history does not reach back.
        """
        asked = int(version or 0)
        if initial or (asked == 0 and initial is None):
            for _key, one in sorted(self.objects(watch.kind).items()):
                if watch.chosen.matches(one.value):
                    watch.send(line("ADDED", one.text))
            if initial and watch.bookmarks:
                watch.send(bookmark(watch.kind, self.version, initial_end=True))
        elif asked:
            if asked < self.oldest:
                raise statuses.expired(f"too old resource version: {asked} ({self.oldest})")
            watch.after = asked
            for event in self.store.since(asked):
                if event.version <= self.version and event.kind is watch.kind:
                    watch.offer(event)
        watch.told = max(asked, self.seen[watch.kind])
        self.watches[watch.kind].append(watch)

    def stop(self, watch: Watch) -> None:
        """Forget a watch."""
        if watch in self.watches[watch.kind]:
            self.watches[watch.kind].remove(watch)

    def all_watches(self) -> list[Watch]:
        """Return all open watches."""
        return [watch for held in self.watches.values() for watch in held]

    def mark(self, watches: Iterable[Watch]) -> None:
        """Send bookmarks to those that want them, if their kind has changed since they began."""
        for watch in watches:
            version = self.seen[watch.kind]
            if watch.bookmarks and version > watch.told:
                watch.send(bookmark(watch.kind, version))
