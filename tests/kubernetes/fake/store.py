"""The server's state: objects, one counter of versions, the history that watches read.

Only the server's own thread touches it. Objects are never changed in place, so a snapshot of all
is a copy of a dictionary.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .manifests import Kind

Json = dict[str, Any]
Key = tuple[str, str]  # namespace ("" for cluster-scoped kinds), name


class Stored:
    """One object at one version, and its bytes once somebody read them."""

    def __init__(self, value: Json) -> None:
        self.value = value
        self.version = int(value["metadata"]["resourceVersion"])

    @cached_property
    def text(self) -> bytes:
        """The object as it is sent."""
        return json.dumps(self.value, separators=(",", ":"), ensure_ascii=False).encode()

    @cached_property
    def bare(self) -> bytes:
        """The object as a list of a built-in kind has it: without kind and apiVersion."""
        head = ("kind", "apiVersion")
        value = {key: one for key, one in self.value.items() if key not in head}
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True)
class Event:
    """One change: what was before and what is after (one of them None)."""

    version: int
    kind: Kind
    key: Key
    before: Stored | None
    after: Stored | None

    @cached_property
    def deleted(self) -> Stored:
        """What a watch that sees it go is sent: the last state with the version of the change."""
        assert self.before is not None
        metadata = self.before.value["metadata"] | {"resourceVersion": str(self.version)}
        return Stored(self.before.value | {"metadata": metadata})


@dataclass(frozen=True)
class Snapshot:
    """All objects at one version."""

    version: int
    objects: dict[Kind, dict[Key, Stored]]


class Store:
    """Objects by kind and key. Reads of the present are O(1), of a past O(objects + changes)."""

    def __init__(self) -> None:
        self.version = 1000
        self.compacted = 0  # lists of older versions, and watches from them, are refused
        self.objects: defaultdict[Kind, dict[Key, Stored]] = defaultdict(dict)
        self.history: list[Event] = []

    def get(self, kind: Kind, key: Key) -> Stored | None:
        """Return the object as it is now."""
        return self.objects[kind].get(key)

    def put(self, kind: Kind, key: Key, value: Json) -> Stored:
        """Write an object at the next version; its resourceVersion is set."""
        self.version += 1
        value["metadata"]["resourceVersion"] = str(self.version)
        after = Stored(value)
        before = self.objects[kind].get(key)
        self.objects[kind][key] = after
        self.history.append(Event(self.version, kind, key, before, after))
        return after

    def delete(self, kind: Kind, key: Key) -> Stored:
        """Remove an object. Raises KeyError."""
        before = self.objects[kind].pop(key)
        self.version += 1
        self.history.append(Event(self.version, kind, key, before, None))
        return before

    def at(self, kind: Kind, version: int) -> dict[Key, Stored]:
        """Return a kind's objects as they were; the caller looks at ``compacted`` before."""
        if version >= self.version:
            return self.objects[kind]
        found = dict(self.objects[kind])
        for event in reversed(self.history):
            if event.version <= version:
                break
            if event.kind is kind:
                if event.before is None:
                    del found[event.key]
                else:
                    found[event.key] = event.before
        return found

    def since(self, version: int) -> list[Event]:
        """Return the changes after a version (those that are still known), oldest first."""
        first = bisect_right(self.history, version, key=lambda event: event.version)
        return self.history[first:]

    def compact(self, version: int = 0) -> None:
        """Refuse lists of versions before this one (default: the present one).

        The history stays: a server's cache that is behind still reads it.
        """
        self.compacted = max(self.compacted, version or self.version)

    def snapshot(self) -> Snapshot:
        """Return all of it, O(objects)."""
        return Snapshot(self.version, {kind: dict(held) for kind, held in self.objects.items()})

    def put_back(self, snapshot: Snapshot, *, bump: int | None = None) -> None:
        """Return to a snapshot, as a restored etcd does.

        Without ``bump`` versions go on from the snapshot's. With it the counter is first raised by
        so much above the present one and all before counts as compacted, as
        ``etcdutl snapshot restore --bump-revision --mark-compacted`` does it; objects keep
        the versions that they had.
        """
        self.objects = defaultdict(dict, {kind: dict(o) for kind, o in snapshot.objects.items()})
        self.history = []
        self.version = snapshot.version if bump is None else self.version + bump
        self.compacted = self.version
