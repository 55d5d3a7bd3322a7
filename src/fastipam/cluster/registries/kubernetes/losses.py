"""How a node notices that the cluster's store has lost changes: its etcd was restored.

A version that goes back or leaps, or an own object that is not as it was last written: then all
blocks are compared before another one is claimed. A history that was cut off is a reason to look at
the own objects: the API server was started anew, or its etcd was put back.
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

# After lost changes every node claims again what it has. Meanwhile nobody claims another block:
# agents notice within seconds, because their watches end with the API server.
HELD_BACK_S = 20.0
# In which all nodes look at their blocks, and their watches begin anew, after a cut history.
SPREAD_S = 36.0
# etcdctl snapshot restore --bump-revision adds a billion, so that no version comes twice.
_LEAP = 1 << 28


class Losses:
    """The state of the cluster's store that a node knows, and whether some of it was lost."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.history = History()
        self.begins_anew = False  # a loss was accepted: what was heard before it counts no more
        self.written = ("", 0)  # uid and generation of the own entry as it was last written
        self.free_at = 0.0  # when new blocks may be claimed again, after lost changes
        self.suspect_at = 0.0  # when to look at the own objects, because the history was cut off
        self.suspicion = ""
        self.followers: dict[Follower, str] = {}  # and their versions when a loss was accepted

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
        """Have the own objects compared soon, and before a block is claimed. For any thread.

        All nodes suspect in the same instant, when the API server has started anew. So they look
        when a watch goes on (:meth:`resynced`), which each does after a random pause.
        """
        if not self.suspect_at:
            self.suspicion = why
            self.suspect_at = self._api.clock() + 2 * SPREAD_S

    def resynced(self) -> None:
        """Note that a watch has read the current state again. For any thread."""
        if self.suspect_at:
            self.suspect_at = min(self.suspect_at, self._api.clock())

    @property
    def is_look_due(self) -> bool:
        """Whether the own objects must be compared now."""
        return bool(self.suspect_at) and self._api.clock() >= self.suspect_at

    def looked(self, *, is_as_known: bool) -> None:
        """Note the result of comparing the own objects. Raises nothing."""
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
        """Notice an own object that differs from its last written form. Raises HistoryLost."""
        before, self.written = self.written, there
        if before[0] and before != there:
            self.suspicion = ""
            self.history.lose(
                f"the entry of node {self._api.name} was changed (its generation is "
                f"{there[1]}, and was {before[1]}): the cluster's store was restored to an older "
                "state, or the entry was edited"
            )

    def require_later(self, found: dict[str, Any] | None) -> None:
        """Notice that the own entry is older than before. Raises HistoryLost.

        The removal of a node writes a later generation of its entry.
        """
        uid, generation = self.written
        there = ("", 0) if found is None else objects.identity_of(found)
        if uid and (there[0] != uid or there[1] < generation):
            self.compare_own(there)

    def hear(self, found: dict[str, Any], *, changed: bool = False) -> None:
        """Note the version of an object that was written just now. Raises HistoryLost."""
        self._hear_version(objects.version_of(found), changed=changed)

    def hear_list(self, version: str) -> None:
        if version.isdigit():
            self._hear_version(int(version))

    def hear_followers(self) -> None:
        """Note the watches' version: answers from now on must not be older."""
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
