"""The answer to another node's request on the Kubernetes API, and the hand-over of blocks."""

from __future__ import annotations

from contextlib import suppress

from fastipam.cluster.engine import EngineTimeout
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.api import TRIES
from fastipam.cluster.registries.kubernetes.client import Conflict, NotFound
from fastipam.cluster.registry import Unsettled
from fastipam.errors import FastipamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.registries.kubernetes.api import Api
    from fastipam.cluster.registries.kubernetes.blocks import Blocks
    from fastipam.cluster.registries.kubernetes.objects import Place
    from fastipam.cluster.registry import Request
    from fastipam.storage.records.block import Block

MOST_GIVEN = 32  # blocks that one request is answered with: one write each


class Giving:
    """The blocks that a node gives to others."""

    __slots__ = ("_api", "_blocks")

    def __init__(self, api: Api, blocks: Blocks) -> None:
        self._api = api
        self._blocks = blocks

    def hand_over(
        self, request: Request, blocks: Sequence[Block], claimed_ns: int, deadline: Deadline
    ) -> bool:
        """Answer a request, then hand over the blocks to the needy node, one write each.

        The answer moves no block. Until the first write to a block, a failure counts as a definite
        no (I4); from then on each write is repeated until its outcome is known.
        """
        places = [self._api.place(block.family, block.base) for block in blocks]
        if None in places or not self._answer(request, places, deadline):
            return False
        self._api.step("answered")
        grant = {"request": request.uid, "number": request.mark.number, "from": self._api.name}
        for block, place in zip(blocks, places, strict=True):
            assert place is not None
            try:
                self._give(place, request, block.revision, claimed_ns, grant, deadline)
            except FastipamError as error:
                raise Unsettled(error) from None
            self._api.step("given")
        return True

    def _answer(self, request: Request, places: Sequence[Place | None], deadline: Deadline) -> bool:
        """Write this node's name into a request, unless another node has: one node answers, once.

        One write if the request has not changed since a watch reported it.
        """
        names = [place.name for place in places if place is not None]
        found: dict[str, Any] | None = objects.as_told(request)
        for tries in range(TRIES):
            if tries:
                found = self._api.get(objects.REQUESTS, request.needy, deadline)
            if found is None or objects.uid_of(found) != request.uid:
                return False
            if donor := objects.answered_by(found):  # perhaps our own, whose receipt was lost
                return donor == self._api.name and objects.given(found) == names
            body = objects.answer(found, self._api.name, names)
            with suppress(Conflict, EngineTimeout):
                try:
                    self._api.client.replace(
                        objects.REQUESTS, body, "status", deadline_s=deadline.call_s()
                    )
                except NotFound:
                    return False
                except Conflict:
                    if not tries:
                        return False  # another node has answered, or a watch reports it again
                    raise
                return True
            self._api.pause(tries, deadline)
        return False

    def _give(
        self,
        place: Place,
        request: Request,
        revision: int,
        claimed_ns: int,
        grant: dict[str, Any],
        deadline: Deadline,
    ) -> None:
        """Make the needy node the owner of a block of this node, until the outcome is known."""

        def give(version: int) -> None:
            body = objects.block(
                place,
                request.needy,
                request.mark.epoch,
                claimed_ns,
                grant=grant,
                version=version,
            )
            self._api.client.replace(objects.BLOCKS, body, deadline_s=deadline.call_s())

        self._blocks.write_own(place.name, revision, give, "donated", deadline)
