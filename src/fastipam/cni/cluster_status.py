"""STATUS of a network in cluster mode, from what this node knows without asking the cluster.

This module is imported only for STATUS.
"""

from __future__ import annotations

from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import EngineError, EngineTimeout
from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.node.share import Share
from fastipam.cluster.registries.connect import open_registry
from fastipam.errors import TryLater
from fastipam.network import Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.addressing.ranges import RangeSet
    from fastipam.cni.services import Services
    from fastipam.configuration.network import Config
    from fastipam.storage.store import Store

# How long a node that never registered waits for the cluster; STATUS has to answer within 100 ms.
_GLANCE_S = 0.02


def look(
    services: Services,
    config: Config,
    store: Store,
    exhausted: RangeSet | None,
    log: Callable[[str], None],
) -> RangeSet | None:
    """Return the range set from which no ADD can be served now, or None. Raises NoBlock.

    With an agent, the answer comes from the agent's keeper, without a wait. The cluster is asked,
    for 20 ms at most, only if there is no agent and the node never registered. NoBlock is raised
    when the node has never had a block and cannot get one, or when the cluster refuses the node.
    A node that has served before stays ready while its cluster cannot be reached, because its pods
    are healthy.
    """
    assert config.cluster is not None
    if exhausted is not None and config.spare_policy is not None:
        policy = config.spare_policy
        network = Network(store, config.name, config.pool, policy=policy, remember=config.remember)
        exhausted = network._exhausted()
    standing = services.standing(store, config.name, config.cluster)
    reason, refused = standing or ("", False)
    if reason:
        log(f"cluster: {reason}")
    if refused:
        raise NoBlock(reason)
    if exhausted is None:
        return None
    share = Share(store, Network(store, config.name, config.pool), config.cluster)
    member, doubt = share.member(), share.doubt()
    if member is not None and member.epoch:
        if doubt:
            log(f"cluster: {doubt}")
        return None if doubt else exhausted
    if standing is not None or config.cluster.is_founded_by_agent:
        raise NoBlock(reason or doubt)
    _require_answer(share)
    log(f"cluster: {doubt} yet: its first ADD registers it")
    return None


def _require_answer(share: Share) -> None:
    """Raise NoBlock when a node that never registered cannot register now.

    A cluster that does not answer at once counts as one that can be reached.
    """
    registry = open_registry(share)
    try:
        registry.check_settings(Deadline(_GLANCE_S, call_s=_GLANCE_S))
    except (EngineTimeout, TryLater):
        return
    except EngineError as error:
        raise NoBlock(f"no block could be claimed: {error.message}", hint=error.hint) from error
    except ClusterRefused as error:
        raise NoBlock(error.message, hint=error.hint) from error
    finally:
        registry.close()
