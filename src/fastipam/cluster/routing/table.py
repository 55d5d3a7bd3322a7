"""Blocks as routes: which prefixes lead to which address. No I/O."""

from __future__ import annotations

from bisect import bisect_left

from fastipam.addressing.addresses import BITS, prefix_bounds
from fastipam.cluster.planner import runs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Iterator
    from typing import TypeVar

    Hop = TypeVar("Hop", bound=Hashable)
    Prefix = tuple[int, int, int]  # family, first address, length
    Address = tuple[int, int]  # family, integer

# The protocol (rtnetlink(7)) of every route that fastipam sets, by which a later run finds the
# routes of an earlier one. iproute2's list of protocols (rt_protos) does not have this number.
PROTOCOL = 147


def merged(blocks: Iterable[tuple[Prefix, Hop]]) -> Iterator[tuple[Prefix, Hop]]:
    """Yield the fewest prefixes that route every block to its target. O(n log n).

    Adjacent blocks with the same target are one prefix if they are an aligned run.
    """
    numbers: dict[tuple[Hop, int, int], list[int]] = {}
    for (family, base, length), hop in blocks:
        numbers.setdefault((hop, family, length), []).append(base >> BITS[family] - length)
    for (hop, family, length), owned in numbers.items():
        for run in runs(owned):
            base = run.start << BITS[family] - length
            yield (family, base, length - (len(run).bit_length() - 1)), hop


class Inside:
    """A set of addresses, to find one that lies in a prefix. O(log n) for each prefix."""

    def __init__(self, addresses: Collection[Address]) -> None:
        self._sorted = sorted(addresses)

    def first(self, prefix: Prefix) -> Address | None:
        """Return the first of the addresses that a prefix holds, or None."""
        family = prefix[0]
        low, high = prefix_bounds(*prefix)
        at = bisect_left(self._sorted, (family, low))
        if at < len(self._sorted) and self._sorted[at] <= (family, high):
            return self._sorted[at]
        return None
