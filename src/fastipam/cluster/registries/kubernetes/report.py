"""The report on the use of a node's blocks, in the status of its entry, for people."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.entry import is_of
from fastipam.errors import FastipamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.planner import Use
    from fastipam.cluster.registries.kubernetes.api import Api
    from fastipam.cluster.registry import Condition
    from fastipam.configuration.cluster import Geometry

# A node reports the use of its blocks once a minute at most, and only when its number of blocks has
# changed, or its number of used addresses by a twentieth of all its addresses.
_REPORT_S = 60.0
_REPORT_PART = 0.05
_REJOINED_S = 5.0  # by then the node has claimed a block
_REPORT_CALL_S = 1.0  # the keeper has more urgent things to do


class Report:
    """The last report, and when the next one is due."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._reported: dict[str, tuple[int, int, int]] | None = None
        self._routes: Condition | None = None  # as it was reported last
        self._routes_since = ""  # when the condition's status last changed
        # Nodes that start together have more urgent requests, and do not report together.
        self.due_at = api.clock() + _REPORT_S * (1 + api.client.chance())

    def rejoined(self, *, is_new: bool) -> None:
        """Forget what was reported, because the entry may say by now that the node was removed.

        Unless the node is new to the cluster, it reports within seconds.
        """
        self._reported = None
        if not is_new:
            soon = self._api.clock() + _REJOINED_S * (1 + self._api.client.chance())
            self.due_at = min(self.due_at, soon)

    def report(
        self,
        uses: Sequence[tuple[Geometry, Use]],
        deadline: Deadline,
        routes: Condition | None = None,
    ) -> None:
        """Write the use of blocks into the entry's status: see ``_REPORT_S``. Raises nothing.

        That changes neither the entry's generation nor its spec.
        """
        now = self._api.clock()
        if now < self.due_at:
            return
        sums: dict[str, tuple[int, int, int]] = {}
        for pool, one in uses:
            place = self._api.place(pool.family, pool.address(one.number))
            if place is not None:
                blocks, used, free = sums.get(place.pool, (0, 0, 0))
                sums[place.pool] = blocks + 1, used + one.used, free + one.size - one.used
        if not _is_news(self._reported, sums) and routes == self._routes:
            return
        self.due_at = now + _REPORT_S
        status = {"status": objects.usage(sums) | {"conditions": None}}
        if routes is not None:
            if self._routes is None or routes[0] != self._routes[0]:
                self._routes_since = objects.stamp(self._api.share.store.clock() / 1e9)
            condition = objects.condition("Routes", routes, self._routes_since)
            status["status"]["conditions"] = [condition]
        with suppress(FastipamError):
            seconds = min(deadline.call_s(), _REPORT_CALL_S)
            patch = partial(
                self._api.client.patch_status, objects.NODES, self._api.name, deadline_s=seconds
            )
            found = patch(status)
            self._reported, self._routes = sums, routes
            member = self._api.share.member()
            if member is not None and not is_of(found, member):
                # The node was removed: the entry shows that before it is next read.
                self._api.share.forget_registration()
                if not objects.read_node(found).incarnation:
                    patch({"status": {"state": "Removed"}})


def _is_news(
    before: dict[str, tuple[int, int, int]] | None, after: dict[str, tuple[int, int, int]]
) -> bool:
    """Return whether the use of the blocks of some pool has changed enough to be reported.

    The numbers are blocks, used addresses, and free addresses.
    """
    if before is None or before.keys() != after.keys():
        return True
    return any(
        one[0] != after[name][0]
        or abs(one[1] - after[name][1]) >= _REPORT_PART * (after[name][1] + after[name][2])
        for name, one in before.items()
    )
