"""Order a cluster's pools by preference for a pod: one line of pools for each family.

A pool is identified by its first address here. A *group* is a set of pools with equal preference;
() stands for all pools of a family. A *line* is a list of groups, the preferred one first; the pod
gets its address of that family from one of them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fastipam.addressing.ranges import Pool
    from fastipam.configuration.address_pools import AddressPool

    Group = tuple[int, ...]
    Line = tuple[int, tuple[Group, ...]]  # the family, and its groups
    Lines = tuple[Line, ...]
    Wanted = tuple[int, Group]  # a family, and one group of it


def any_address(pool: Pool) -> Lines:
    """Return the lines for a pod that may get any address of each family."""
    return tuple((each.family, ((),)) for each in pool.sets)


def are_uniform(pools: Sequence[AddressPool]) -> bool:
    """Return whether a pod that chooses no pool may get any address of each family.

    Pools of single addresses do not count, because these are assigned on request only. The result
    is False when a family has no pool that serves: either only pools of single addresses, which
    give a pod without a request no address, or only closed pools, which an error has to name.
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
    """Return the lines for a pod that chooses no pool: pools by priority, then by name.

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
    """Return the lines for a pod for which these pools were named, the preferred one first."""
    found: dict[int, list[Group]] = {}
    for one in pools:
        found.setdefault(one.family, []).append(_group([one]))
    return tuple((family, tuple(groups)) for family, groups in sorted(found.items()))


def _group(pools: Sequence[AddressPool]) -> Group:
    return tuple(one.range.network for one in pools)
