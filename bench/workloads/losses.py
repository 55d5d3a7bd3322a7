"""Find where fastipam loses: every median of another contender that is lower for the same work."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from bench.workloads.summary import cost
from bench.workloads.traces import ADD, DEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bench.workloads.summary import Summary


class Loss(TypedDict):
    """A median of fastipam that is above the median of another contender."""

    work: str
    verb: str
    own: str
    other: str
    own_ns: float
    other_ns: float
    times: float
    sure: bool  # whether the intervals of the two medians do not overlap


class Verdict(TypedDict):
    """All losses, the largest first, and how many pairs of medians were compared."""

    compared: int
    losses: list[Loss]


def judge(works: Mapping[str, Sequence[Summary]]) -> Verdict:
    """Compare the medians of fastipam with those of each other contender in the same work.

    Processes are compared only with processes, and library calls only with library calls.
    """
    compared, losses = 0, []
    for work, found in works.items():
        for own in found:
            for other in found:
                if not own["own"] or other["own"] or own["whole"] is not other["whole"]:
                    continue
                for verb in (ADD, DEL):
                    ours, theirs = cost(own, verb), cost(other, verb)
                    if ours is None or theirs is None:
                        continue
                    compared += 1
                    if theirs < ours:
                        losses.append(_loss(work, verb, own, other))
    losses.sort(key=lambda one: -one["times"])
    return Verdict(compared=compared, losses=losses)


def _loss(work: str, verb: str, own: Summary, other: Summary) -> Loss:
    ours, theirs = own["verbs"][verb], other["verbs"][verb]
    own_ns, other_ns = ours["percentiles"]["p50"] or 0.0, theirs["percentiles"]["p50"] or 0.0
    apart = ours["interval"] and theirs["interval"] and theirs["interval"][1] < ours["interval"][0]
    return Loss(
        work=work,
        verb=verb,
        own=own["contender"],
        other=other["contender"],
        own_ns=own_ns,
        other_ns=other_ns,
        times=own_ns / max(other_ns, 1.0),
        sure=bool(apart),
    )


def by_pair(losses: Iterable[Loss]) -> dict[tuple[str, str], list[Loss]]:
    """Return the losses by pair: (contender of fastipam, other contender)."""
    pairs: dict[tuple[str, str], list[Loss]] = {}
    for one in losses:
        pairs.setdefault((one["own"], one["other"]), []).append(one)
    return pairs
