"""Answer an ADD that requests addresses of blocks that this node does not own.

A fixed address is a block of its own. Only an agent can get that block for the node. An
address of a larger block is refused, and the error names the node that can assign it. This module
is imported only when a request was refused.
"""

from __future__ import annotations

from fastipam.addressing.addresses import format_ip
from fastipam.allocation import blocks
from fastipam.cluster.errors import NoBlock
from fastipam.configuration.cluster import KUBERNETES
from fastipam.errors import AddressNotInRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.cni.services import Services
    from fastipam.configuration.network import Config
    from fastipam.lease import Requester
    from fastipam.network import Network


def refuse(
    services: Services,
    config: Config,
    network: Network,
    owner: Requester,
    addresses: Sequence[tuple[int, int]],
    refusal: AddressNotInRange,
) -> None:
    """Raise the reason why an ADD does not get the addresses that it requests, now or at all.

    An agent asks its keeper for the blocks of these addresses and handles the request again later:
    the ADD is served once this node owns the blocks.
    """
    settings = config.cluster
    elsewhere = _elsewhere(network, config, addresses)
    if settings is None or settings.engine != KUBERNETES or not elsewhere:
        raise refusal
    services.waiting = False
    who = f"{owner.container_id} {owner.ifname}"
    cut = [one for one in addresses if config.pool.range_of(*one) is not None]
    told = services.ask_for_addresses(network.store, config.name, settings, who, cut)
    texts = tuple(format_ip(*one) for one in elsewhere)
    if told is None:
        raise NoBlock(
            f"this node does not own {', '.join(texts)}, and only its agent "
            "can ask other nodes for addresses",
            hint="start the agent of this node",
        )
    if told.is_final:
        raise AddressNotInRange(told.text, addresses=texts, hint=told.hint or None)
    raise NoBlock(told.text, hint=told.hint or None)


def _elsewhere(
    network: Network, config: Config, addresses: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Return the addresses that are in the pools but in no active block of this node."""
    found = []
    with network.store.read() as txn:
        pool_id = network._pool_in(txn)
        for family, value in addresses:
            for each in config.pool.sets:
                if each.family != family or not (value in each or each.is_static(value)):
                    continue
                base = blocks.base_of(each, value)
                if pool_id is None or not blocks.is_active(txn, pool_id, family, base):
                    found.append((family, value))
    return found
