"""Which routes this machine should have, and which nodes get none. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam.addressing.addresses import format_cidr, format_ip
from fastipam.cluster.routing.kernel import unreachable, via
from fastipam.cluster.routing.table import Inside

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fastipam.cluster.routing.blocks import Wanted
    from fastipam.cluster.routing.kernel import Hop, Route
    from fastipam.cluster.routing.table import Address, Prefix

# Why a node or a prefix has no route: the reasons of the condition Routes.
OFF_LINK = "NodeOffLink"
NOT_REACHED = "NodeNotReached"
WITHOUT_ADDRESS = "NodeWithoutAddress"
HOLDS_NODE = "PrefixHoldsNode"
REFUSED = "RouteRefused"
REASONS = (OFF_LINK, NOT_REACHED, WITHOUT_ADDRESS, HOLDS_NODE, REFUSED)


class Plan:
    """The routes of all networks together; a value once :meth:`choose` was called.

    ``routes`` has the routes to set. ``kept`` has routes that stay if they exist, because the
    kernel does not reach their gateways for the moment. All other routes are to be deleted if
    ``is_complete``. ``problems`` has a sentence for each node or prefix without a route, by
    (reason, node or prefix). Without ``gateways`` no route leads to another node.
    """

    __slots__ = ("_gateways", "_rejects", "is_complete", "kept", "nodes", "problems", "routes")

    def __init__(self, networks: Iterable[Wanted], *, gateways: bool = True) -> None:
        self.routes: set[Route] = set()
        self.kept: set[Route] = set()
        self.problems: dict[tuple[str, str], str] = {}
        self.nodes: dict[Address, str] = {}
        self.is_complete = True
        self._gateways: dict[Prefix, int] = {}
        self._rejects: set[Prefix] = set()
        for one in networks:
            self.is_complete = self.is_complete and one.is_complete
            self.nodes.update(one.nodes)
            self._rejects |= one.rejects
            if not gateways:
                continue
            self._gateways.update(one.gateways)
            for node, family in one.without:
                self.problems[WITHOUT_ADDRESS, f"{node} IPv{family}"] = (
                    f"node {node} has blocks, but no IPv{family} address that other nodes can use; "
                    'set "address" in its settings'
                )

    def choose(self, hops: Mapping[Address, Hop]) -> None:
        """Choose the routes; ``hops`` says how the kernel reaches each address of ``nodes``."""
        inside = Inside(self.nodes)
        for prefix, gateway in self._gateways.items():
            address = prefix[0], gateway
            hop = hops[address]
            if held := inside.first(prefix):
                self._note_held(prefix, held)
            elif hop.interface:
                self.routes.add(via(prefix, gateway))
            else:
                if not hop.gateway:
                    self.kept.add(via(prefix, gateway))
                self._note_hop(address, hop)
        for prefix in self._rejects:
            if held := inside.first(prefix):
                self._note_held(prefix, held)
            else:
                self.routes.add(unreachable(prefix))

    def _note_hop(self, address: Address, hop: Hop) -> None:
        node, text = self.nodes[address], format_ip(*address)
        if hop.gateway:
            self.problems[OFF_LINK, f"{node} {text}"] = (
                f"node {node} is not on a link of this machine: the kernel's route to {text} has "
                f"the gateway {hop.gateway}; an overlay, BGP or the cloud's route table has to "
                "lead to its blocks"
            )
        else:
            self.problems[NOT_REACHED, f"{node} {text}"] = (
                f"node {node} is not reached at {text}: {hop.problem}"
            )

    def _note_held(self, prefix: Prefix, held: Address) -> None:
        text = format_cidr(*prefix)
        self.problems[HOLDS_NODE, text] = (
            f"{text} holds the address {format_ip(*held)} of node {self.nodes[held]}, which a "
            "route for it would cut off: pools and the nodes' network must not overlap"
        )
