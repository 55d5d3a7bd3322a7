"""Which of a cluster's pools give a pod its addresses, in which order: a line for each family.

Pools are named by their first address here. A *group* is a set of pools with equal preference; ()
stands for all pools of a family. A *line* is a list of groups, the preferred one first: a pod gets
its address from one of them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fastipam.addressing.ranges import Pool
    from fastipam.configuration.address_pools import AddressPool

    Group = tuple[int, ...]
    Line = tuple[int, tuple[Group, ...]]  # with the family in front
    Lines = tuple[Line, ...]
    Wanted = tuple[int, Group]  # one group, with its family


def any_address(pool: Pool) -> Lines:
    """Return the lines of a pod that may get any address of each family."""
    return tuple((each.family, ((),)) for each in pool.sets)


def are_uniform(pools: Sequence[AddressPool]) -> bool:
    """Return whether a pod that chooses nothing may get any address of each family.

    A pool of single addresses does not count, because they are assigned on request only; but a
    family that has no other pool is none that every pod gets. Nor is one whose pools assign
    nothing: a pod is told which of them is disabled.
    """
    priorities: dict[int, int] = {}
    serving = {one.family for one in pools if not (one.is_single or one.is_closed)}
    if {one.family for one in pools} != serving:
        return False
    return all(
        one.is_single
        or (
            priorities.setdefault(one.family, one.priority) == one.priority
            and not (one.manual or one.elsewhere or one.namespace_selector)
        )
        for one in pools
    )


def automatic(pools: Iterable[AddressPool]) -> Lines:
    """Return the lines of a pod that chooses nothing: pools by priority, then by name.

    Pools that have to be named, pools of other nodes and pools of single addresses are left out.
    """
    by_priority: dict[int, dict[int, list[AddressPool]]] = {}
    for one in sorted(pools, key=lambda one: one.name):
        if not (one.manual or one.elsewhere or one.is_single or one.is_gone):
            groups = by_priority.setdefault(one.family, {})
            groups.setdefault(-one.priority, []).append(one)
    return tuple(
        (family, tuple(_group(groups[priority]) for priority in sorted(groups)))
        for family, groups in sorted(by_priority.items())
    )


def named(pools: Iterable[AddressPool]) -> Lines:
    """Return the lines of a pod for which these pools were named, the preferred one first."""
    found: dict[int, list[Group]] = {}
    for one in pools:
        found.setdefault(one.family, []).append(_group([one]))
    return tuple((family, tuple(groups)) for family, groups in sorted(found.items()))


def _group(pools: Sequence[AddressPool]) -> Group:
    return tuple(one.range.network for one in pools)
