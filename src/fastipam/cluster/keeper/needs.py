"""The ADDs of a node that wait for an address: their pools, and what to claim for them.

A pod that chooses no pool gets an address of the node's *lines* (``configuration/pool_lines.py``);
other pods have lines of their own. In each line the first group with a free block serves: a pod
gets an address of the next group only when no pool of this group has a free block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam.configuration.cluster import Watermarks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fastipam.cluster.node.share import Share
    from fastipam.configuration.cluster import Geometry, Settings
    from fastipam.configuration.pool_lines import Group, Lines, Wanted

    Place = tuple[int, int]  # family and first address of a pool

_NEED_S = 3.0  # an ADD that has not asked again for this long has ended
_USED_UP_S = 10.0  # how long a pool counts as used up after a search found no free block


class Needs:
    """The ADDs that wait, and the pools that are used up. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # ADD that waits -> (when it last asked, its lines)
        self._waiting: dict[str, tuple[float, Lines]] = {}
        self._used_up: dict[Place, float] = {}  # pools without a free block -> until when

    # Waiting ADDs ---------------------------------------------------------------------------

    def note(self, who: str, lines: Lines) -> None:
        """Record an ADD that waits for an address."""
        self._waiting[who] = self._clock(), lines

    def clear(self) -> None:
        """Forget all ADDs: they are served now, or ask again."""
        self._waiting.clear()

    def count(self) -> int:
        """Return how many ADDs wait for an address."""
        oldest = self._clock() - _NEED_S
        for who, (asked, _) in list(self._waiting.items()):
            if asked < oldest:
                self._waiting.pop(who, None)
        return len(self._waiting)

    def kinds(self, settings: Settings) -> set[Lines]:
        """Return the lines of the ADDs that wait, each once."""
        return {settings.present(lines) for lines in self._lines()}

    def _lines(self) -> list[Lines]:
        self.count()
        return [lines for _, lines in list(self._waiting.values())]

    # Pools without a free block -------------------------------------------------------------

    def has_room(self, pool: Geometry) -> None:
        """Record that a pool had a free block."""
        self._used_up.pop((pool.family, pool.base), None)

    def used_up_now(self, wanted: Wanted, pools: Iterable[Geometry]) -> bool:
        """Record that pools have no free block; return whether a waiting ADD may use others."""
        until = self._clock() + _USED_UP_S
        for one in pools:
            self._used_up[one.family, one.base] = until
        family, group = wanted
        return bool(group) and any(
            its_family == family and group in groups and self.is_open(family, groups)
            for lines in self._lines()
            for its_family, groups in lines
        )

    def is_used_up(self, family: int, group: Group) -> bool:
        """Return whether no pool of a group had a free block when it was last searched."""
        now = self._clock()
        return bool(group) and all(self._used_up.get((family, base), 0.0) > now for base in group)

    def is_open(self, family: int, groups: Sequence[Group]) -> bool:
        """Return whether one of these groups may have a free block."""
        return not all(self.is_used_up(family, one) for one in groups)

    def within_reach(self, family: int, groups: Sequence[Group]) -> Sequence[Group]:
        """Return the groups up to and including the first that may have a free block."""
        for at, one in enumerate(groups):
            if not self.is_used_up(family, one):
                return groups[: at + 1]
        return groups

    # What is to be claimed ------------------------------------------------------------------

    def demand(self, share: Share) -> dict[Wanted, int]:
        """Return how many ADDs wait for an address of each group.

        A group of which blocks are claimed ahead of demand is included even if no ADD waits.
        """
        settings = share.settings
        found: dict[Wanted, int] = {
            (family, self._current(family, groups)): 0 for family, groups in settings.lines
        }
        for chosen in self._lines():
            lines = settings.present(chosen)
            reach = tuple((one, tuple(self.within_reach(one, groups))) for one, groups in lines)
            lacking = share.lacking(reach)
            for family, groups in lines:
                if family in lacking:
                    wanted = family, self._current(family, groups)
                    found[wanted] = found.get(wanted, 0) + 1
        return found

    def watermarks(self, settings: Settings, pool: Geometry) -> Watermarks:
        """Return when to claim a block of a pool ahead of demand, and when to give one back.

        A pool has blocks in reserve only while pods that choose no pool get its addresses.
        """
        for family, groups in settings.lines:
            group = self._current(family, groups)
            if family == pool.family and (not group or pool.base in group):
                return settings.watermarks
        age_s = settings.watermarks.minimum_age_s
        return Watermarks(low_water=0.0, high_water=0.0, minimum_age_s=age_s, warm=0)

    def _current(self, family: int, groups: Sequence[Group]) -> Group:
        """Return the first group that may have a free block; the first one if none has."""
        return next((one for one in groups if not self.is_used_up(family, one)), groups[0])
