"""The request of this node for blocks, on the Kubernetes API, and the answer to it."""

from __future__ import annotations

from contextlib import suppress

from fastipam.cluster.engine import EngineTimeout
from fastipam.cluster.errors import ClusterCorrupt, ClusterRefused, not_written
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.api import TRIES
from fastipam.cluster.registries.kubernetes.client import AlreadyExists, Conflict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.registries.kubernetes.api import Api
    from fastipam.cluster.registries.kubernetes.blocks import Blocks
    from fastipam.cluster.registries.kubernetes.entry import Entry
    from fastipam.cluster.registries.kubernetes.losses import Losses
    from fastipam.cluster.registry import Request
    from fastipam.cluster.schema import BlockEntry, BlockId, Mark
    from fastipam.storage.records.block import Member

_ANSWER_S = 2.0  # between two reads of this node's request, while no watch reports an answer


class Asking:
    """This node's request. ``awaits``: an answer, or the blocks of one, may still come."""

    def __init__(self, api: Api, losses: Losses, entry: Entry, blocks: Blocks) -> None:
        self._api = api
        self._losses = losses
        self._entry = entry
        self._blocks = blocks
        self.awaits = False
        self._ask_at = 0.0  # when to read this node's request again
        self._has_answer = False  # a watch has reported an answer to this node's request
        self._answered_at = 0.0  # when the answer was first seen
        self._is_complete = False  # all blocks of the answer have come, or will not come
        self._request_uid = ""  # of the request that this process has made
        self._told: dict[str, Any] | None = None  # this node's request, with its answer
        self._has_looked = False  # whether an earlier process's request was looked for

    def look_for_an_earlier(self, mark: int) -> None:
        """Expect an answer to the request of an earlier process, if there is one.

        ``mark`` is the number of that request, or 0. Only the first call does anything.
        """
        if not self._has_looked and mark and not self._request_uid:
            self._expect(now=True)
        self._has_looked = True

    def ask(
        self,
        member: Member,
        mark: Mark,
        deadline: Deadline,
    ) -> bool:
        """Replace this node's request by a new one; return False if the node was removed.

        The node's entry is read after the request was created (I6). Raises NoBlock.
        """
        places = [place for pair in mark.named if (place := self._api.place(*pair))]
        if places:
            mark.pool = places[0].pool
        elif not mark.pool:
            pools = self._api.pools()
            mark.pool = next((one.name for one in pools if one.family == mark.family), "")
        body = objects.request(self._api.name, mark, [one.cidr for one in places])
        self._expect(now=False)
        for tries in range(TRIES):
            with suppress(AlreadyExists, EngineTimeout):
                made = self._api.client.create(objects.REQUESTS, body, deadline_s=deadline.call_s())
                self._api.step("asked")
                self._losses.hear(made, changed=True)
                return self._is_still(member, made, deadline)
            self._api.pause(tries, deadline)
            found = self._api.get(objects.REQUESTS, self._api.name, deadline)
            if found is None:
                continue
            if found.get("spec", {}).get("number") == mark.number:
                return self._is_still(member, found, deadline)
            self._withdraw_request(found, deadline)
        raise not_written("the request of this node")

    def _is_still(self, member: Member, request: dict[str, Any], deadline: Deadline) -> bool:
        """Return whether the node's entry is unchanged; if it is not, withdraw the request."""
        self._request_uid = objects.uid_of(request)
        try:
            self._entry.confirm(member, deadline)
        except ClusterRefused:
            self._withdraw_request(request, deadline)
            return False
        return True

    def _expect(self, *, now: bool) -> None:
        """Expect an answer to this node's request.

        ``now``: read the request at the next :meth:`granted`; else when a watch reports an answer,
        or after two seconds.
        """
        self.awaits, self._has_answer, self._told = True, now, None
        self._ask_at, self._answered_at = self._api.clock() + _ANSWER_S, 0.0

    def _withdraw_request(self, found: dict[str, Any], deadline: Deadline) -> bool:
        """Delete a request by its uid and version; return False if it may still exist."""
        try:
            self._api.client.delete(
                objects.REQUESTS,
                self._api.name,
                uid=objects.uid_of(found),
                version=str(objects.version_of(found)),
                deadline_s=deadline.call_s(),
            )
        except (Conflict, EngineTimeout):
            return False
        return True

    def unask(self, deadline: Deadline) -> None:
        """Delete this node's request, if no node has answered it. Idempotent.

        If a node has answered it, :meth:`granted` waits for the blocks, and then deletes the
        request.
        """
        if not self.awaits and not self._request_uid:
            return
        found = self._api.get(objects.REQUESTS, self._api.name, deadline)
        if found is None:
            self.awaits = False
        elif objects.answered_by(found):
            self._has_answer = True
        else:
            self.awaits = not self._withdraw_request(found, deadline)
        self._request_uid = ""

    def is_asked(self, deadline: Deadline) -> bool:
        """Return whether the request waits for an answer, or for the blocks. One read."""
        found = self._api.get(objects.REQUESTS, self._api.name, deadline)
        if found is None:
            return False
        if objects.answered_by(found):
            self._has_answer = True
            return not self._answered_at or self._api.clock() < self._answered_at + _ANSWER_S
        return True

    def granted(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return the blocks that answer this node's request, each with this node's epoch (I7).

        Until a watch reports an answer, it reads only once every two seconds. After the answer it
        reads at each call, for two seconds, until all blocks have come.
        """
        now = self._api.clock()
        if not self.awaits or (not self._has_answer and now < self._ask_at):
            return {}
        self._ask_at = now + _ANSWER_S
        found = self._told  # an answer does not change
        if found is None or objects.uid_of(found) != self._request_uid:
            found = self._api.get(objects.REQUESTS, self._api.name, deadline)
        if found is None:
            self.awaits = self._has_answer = False
            return {}
        if not objects.answered_by(found):
            self._has_answer = False
            if not self._request_uid:  # an earlier process has asked
                self.awaits = not self._withdraw_request(found, deadline)
            return {}
        self._has_answer, self._told = True, found
        self._answered_at = self._answered_at or now
        member = self._entry.member()
        mine: dict[BlockId, BlockEntry] = {}
        is_coming = False
        for name in objects.given(found):
            there = self._api.get(objects.BLOCKS, name, deadline)
            if there is None:
                continue  # released by the donor, and free: the next search finds it
            pair, entry = objects.read_block(there)
            is_coming = is_coming or entry.node == objects.answered_by(found)
            kept = self._blocks.stamp(there, member, deadline)
            if kept is not None:
                mine[pair] = kept
        if mine:
            self._entry.confirm(member, deadline)
        self._is_complete = not is_coming or now >= self._answered_at + _ANSWER_S
        known = {(one.family, one.base) for one in self._api.share.blocks()}
        if known.issuperset(mine):
            self.collected(deadline)
        return mine

    def look_for_an_answer(self) -> None:
        """Have the next :meth:`granted` read this node's request."""
        self.awaits = self._has_answer = True

    def collected(self, deadline: Deadline) -> None:
        """Delete the request when all blocks of its answer have come, or will not come."""
        if not self._is_complete:
            return
        found, self._told = self._told, None
        found = found or self._api.get(objects.REQUESTS, self._api.name, deadline)
        if found is None or self._withdraw_request(found, deadline):
            self._request_uid = ""
            self.awaits = self._has_answer = self._is_complete = False

    def read_request(self, found: dict[str, Any]) -> Request | None:
        """Return a request if it waits for an answer; keep the answer to this node's request."""
        if objects.answered_by(found):
            if objects.name_of(found) == self._api.name:
                self._told = found
                self.look_for_an_answer()
            return None
        try:
            request = objects.read_request(found, self._api.families())
        except ClusterCorrupt:
            return None
        return request if request.mark.family else None
