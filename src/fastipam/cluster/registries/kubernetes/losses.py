"""How a node notices that the cluster's store has lost changes, because its etcd was restored.

Changes were lost if a version goes back or leaps, or if an object of this node is not as the node
last wrote it. Then all blocks are compared before another block is claimed. If a watch's history
was cut off, the API server was started again or its etcd was restored; so this node compares its
own objects.
"""

from __future__ import annotations

from contextlib import suppress

from fastipam.cluster.engine import EngineError, History
from fastipam.cluster.registries.kubernetes import objects
from fastipam.storage.records.block import Heard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.cluster.registries.kubernetes.api import Api
    from fastipam.cluster.registries.kubernetes.watch import Follower

# After lost changes every node claims its own blocks again, and for so long no node claims another
# block. Agents notice the loss within seconds, because their watches end with the API server.
HELD_BACK_S = 20.0
# After a history was cut off, all nodes compare their blocks and restart their watches, spread over
# this time.
SPREAD_S = 36.0
# etcdctl snapshot restore --bump-revision adds a billion, so that no version comes twice.
_LEAP = 1 << 28


class Losses:
    """The state of the cluster's store that a node knows, and whether some of it was lost."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.history = History()
        self.begins_anew = False  # a loss was accepted: earlier versions do not count
        self.written = ("", 0)  # uid and generation of this node's entry as it was last written
        self.free_at = 0.0  # when new blocks may be claimed again, after lost changes
        self.suspect_at = 0.0  # when to compare this node's objects: the history was cut off
        self.suspicion = ""
        self.followers: dict[Follower, str] = {}  # -> its version when a loss was accepted

    def remember(self) -> None:
        """Compare each later answer with the state that this node knew earlier. No request."""
        if not self.history.revision and not self.begins_anew:
            heard = self._api.share.heard()
            self.history.expect(heard.identity, heard.revision)

    def heard(self, era: str | None) -> Heard:
        """Return the state of the shared store that this node knows, to be stored."""
        return Heard(self.history.identity, self.history.revision, era)

    @property
    def has_lost_changes(self) -> bool:
        """Whether changes were lost, and the blocks are to be compared."""
        return self.history.is_lost

    def hold_back(self) -> None:
        """Accept a store that has lost changes; claim no new block for a while."""
        if not self.suspicion:
            self.free_at = self._api.clock() + HELD_BACK_S
        self.suspect_at = 0.0
        self.written = ("", 0)
        self.begins_anew = True
        for one in list(self.followers):
            self.followers[one] = one.version
            one.begin_anew()
        self.history.accept()

    def note(self) -> None:
        """Store the latest version of the API's store in the node's own store."""
        self._api.share.note_heard(self.history.identity, self.history.revision)

    def suspect(self, why: str) -> None:
        """Have this node's objects compared soon, and before a block is claimed. For any thread.

        When the API server was started again, all nodes call this in the same instant. So they
        compare when a watch has resumed (:meth:`resynced`), which each watch does after a random
        pause.
        """
        if not self.suspect_at:
            self.suspicion = why
            self.suspect_at = self._api.clock() + 2 * SPREAD_S

    def resynced(self) -> None:
        """Record that a watch has read the current state again. For any thread."""
        if self.suspect_at:
            self.suspect_at = min(self.suspect_at, self._api.clock())

    @property
    def is_look_due(self) -> bool:
        """Whether this node's objects must be compared now."""
        return bool(self.suspect_at) and self._api.clock() >= self.suspect_at

    def looked(self, *, is_as_known: bool) -> None:
        """Record the result of comparing this node's objects. Raises nothing."""
        newest = max(
            (int(one.version) for one in self.followers if one.version.isdigit()), default=0
        )
        if self.history.revision and newest - self.history.revision > _LEAP:
            with suppress(EngineError):
                self._lose_by_leap(self.history.revision, newest)
        elif is_as_known:
            self.suspect_at = 0.0
            self.suspicion = ""
        else:
            self.notice()

    def notice(self) -> None:
        """Treat suspected changes as lost. Raises nothing."""
        self.suspect_at = 0.0
        with suppress(EngineError):
            self.history.lose(self.suspicion)

    def _lose_by_leap(self, floor: int, version: int) -> None:
        self.suspect_at = 0.0
        self.suspicion = ""
        self.history.lose(
            f"the version of the cluster's store jumped from {floor} to {version}: it was restored "
            "to an older state"
        )

    def compare_own(self, there: tuple[str, int]) -> None:
        """Raise HistoryLost if this node's entry is not as the node last wrote it."""
        before, self.written = self.written, there
        if before[0] and before != there:
            self.suspicion = ""
            self.history.lose(
                f"the entry of node {self._api.name} was changed (its generation is "
                f"{there[1]}, and was {before[1]}): the cluster's store was restored to an older "
                "state, or the entry was edited"
            )

    def require_later(self, found: dict[str, Any] | None) -> None:
        """Raise HistoryLost if this node's entry is older than when the node last wrote it.

        A later generation is no loss: the removal of a node writes one.
        """
        uid, generation = self.written
        there = ("", 0) if found is None else objects.identity_of(found)
        if uid and (there[0] != uid or there[1] < generation):
            self.compare_own(there)

    def hear(self, found: dict[str, Any], *, changed: bool = False) -> None:
        """Record the version of an object that was written just now. Raises HistoryLost."""
        self._hear_version(objects.version_of(found), changed=changed)

    def hear_list(self, version: str) -> None:
        """Record the version of a list. Raises HistoryLost."""
        if version.isdigit():
            self._hear_version(int(version))

    def hear_followers(self) -> None:
        """Record the version of the watches, so that no later answer may be older."""
        for one, before in list(self.followers.items()):
            if one.version != before and one.version.isdigit():
                self.history.revision = max(self.history.revision, int(one.version))

    def _hear_version(self, version: int, *, changed: bool = False) -> None:
        floor = self.history.begin()
        if floor and not floor - changed < version <= floor + _LEAP:
            self.suspicion = ""
        if floor and version - floor > _LEAP:
            self._lose_by_leap(floor, version)
        self.history.hear(0, version, floor, changed=changed)
