"""Serve an ADD that gets addresses from only some of a cluster's pools. Imported for such an ADD.

All AddressPools of a family are ranges of one range set. For each family such an ADD has smaller
sets, which are parts of that whole set, the preferred one first. Blocks, cursor and cool-down are
those of the whole set.
"""

from __future__ import annotations

from fastipam.addressing.ranges import Pool
from fastipam.allocation import blocks
from fastipam.errors import PoolExhausted
from fastipam.network import Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from fastipam.addressing.ranges import RangeSet
    from fastipam.allocation.ledger import Ledger
    from fastipam.lease import Lease, Requester


class Part:
    """The ranges that an ADD may use for one family.

    ``sets`` are the parts in the order in which they are tried. ``all`` is one set with all their
    ranges, for a requested address. ``whole`` is the network's set, and ``index`` its number.
    """

    __slots__ = ("all", "index", "sets", "whole")

    def __init__(
        self, index: int, whole: RangeSet, sets: Sequence[RangeSet], every: RangeSet
    ) -> None:
        self.index = index
        self.whole = whole
        self.sets = sets
        self.all = every


class Chosen(Network):
    """A network for an ADD that gets addresses of ``parts`` only."""

    parts: Sequence[Part]
    _sole: Pool | None  # the sets, if each part has only one

    @classmethod
    def of(cls, network: Network, parts: Sequence[Part]) -> Self:
        """Return the same network for an ADD with these parts."""
        made = object.__new__(cls)
        made.__dict__.update(network.__dict__)
        made.parts = parts
        is_sole = all(len(one.sets) == 1 and one.index == at for at, one in enumerate(parts))
        made._sole = Pool([one.sets[0] for one in parts]) if is_sole else None
        return made

    def _give(
        self,
        ledger: Ledger,
        owner: Requester,
        pool: Pool,  # noqa: ARG002  # the parts are used instead
        wanted: Sequence[tuple[int, int]],
    ) -> list[Lease]:
        """Assign an address of every part: a requested one first, then a reserved one, then any."""
        if self._sole is not None and not (wanted or ledger.state.reserved):
            for part in self.parts:
                _leave_open(ledger, part, part.sets[0])
            return ledger.give(owner, self._sole)
        ledger.tick()
        ledger.expire()
        requests = Pool([one.all for one in self.parts]).match(wanted) if wanted else []
        kept = ledger.kept_for(owner) if ledger.state.reserved else []
        leases = []
        for at, part in enumerate(self.parts):
            value = requests[at] if requests else None
            range_set = part.all
            if value is None and kept:
                value = ledger.first_kept(range_set, kept)
            if value is None:
                range_set, value = _choose(ledger, part)
            else:
                ledger.acquire(part.index, range_set, value, owner)
            leases.append(ledger.assign(owner, part.index, range_set, value))
        ledger.write_owner(owner.name, [(one.family, one.value) for one in leases])
        ledger.save()
        return leases


def _choose(ledger: Ledger, part: Part) -> tuple[RangeSet, int]:
    """Take an address of the first set that has one, else raise PoolExhausted of the last set."""
    for at, each in enumerate(part.sets):
        _leave_open(ledger, part, each)
        try:
            return each, ledger.choose(part.index, each)[0]
        except PoolExhausted:
            if at + 1 == len(part.sets):
                raise
    raise AssertionError("a part has no set")


def _leave_open(ledger: Ledger, part: Part, each: RangeSet) -> None:
    """Enter the cursor's block into the open list if a search in ``each`` would leave the block."""
    cursor = ledger.state.cursor(part.index, part.whole.family)
    if cursor is not None:
        blocks.leave_open(ledger.txn, ledger.pool_id, part.whole, each, cursor)
