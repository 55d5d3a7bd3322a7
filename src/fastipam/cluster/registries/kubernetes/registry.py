"""The registry on the Kubernetes API: every change writes one object.

An object is replaced only if its resourceVersion is still the one that was read.

A change that a key-value store makes in one transaction is here a sequence of single steps, and
after each step a block has one owner at most. docs/cluster.md has the invariants I1 to I9 (the
modules beside this one refer to them), the model that a model checker runs, and what happens when a
process dies between two steps.
"""

from __future__ import annotations

import time

from fastipam.cluster.registries.kubernetes.api import Api
from fastipam.cluster.registries.kubernetes.asking import Asking
from fastipam.cluster.registries.kubernetes.blocks import Blocks
from fastipam.cluster.registries.kubernetes.entry import Entry
from fastipam.cluster.registries.kubernetes.following import Following
from fastipam.cluster.registries.kubernetes.giving import MOST_GIVEN, Giving
from fastipam.cluster.registries.kubernetes.losses import Losses
from fastipam.cluster.registries.kubernetes.overview import Overview
from fastipam.cluster.registries.kubernetes.pools import Pools
from fastipam.cluster.registries.kubernetes.report import Report
from fastipam.cluster.registries.kubernetes.selection import Selection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.node.share import Share
    from fastipam.cluster.planner import Use
    from fastipam.cluster.registries.kubernetes.client import Client
    from fastipam.cluster.registry import (
        Claimed,
        Condition,
        Follow,
        Namespace,
        Owners,
        Registry,
        Request,
        Requests,
    )
    from fastipam.cluster.schema import BlockEntry, BlockId, Mark
    from fastipam.configuration.address_pools import AddressPool
    from fastipam.configuration.cluster import Geometry
    from fastipam.storage.records.block import Block, Heard, Member

_LOOK_S = 300.0  # between two reads of this node's entry, without fencing


class KubernetesRegistry(Overview):
    """A node's view of its cluster through the Kubernetes API: see :class:`Registry`.

    ``clock`` gives seconds; ``step`` is called after each change, with a name, for tests.
    """

    store_name = "the Kubernetes API"
    most_given = MOST_GIVEN
    # When all nodes start at once the API lets requests wait for up to 15 s. A node that gives up
    # earlier sends its request again, which makes the queue longer.
    operation_s = 30.0
    call_s = 15.0

    def __init__(
        self,
        share: Share,
        client: Client,
        clock: Callable[[], float] = time.monotonic,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.api = api = Api(share, client, clock, step)
        self._losses = Losses(api)
        self._entry = Entry(api, self._losses)
        pools = Pools(api)
        self._blocks = Blocks(api, self._losses, self._entry, pools)
        self._asking = Asking(api, self._losses, self._entry, self._blocks)
        self._giving = Giving(api, self._blocks)
        self._report = Report(api)
        self._selection = Selection(api)
        self._following = Following(api, self._losses, pools, self._asking.read_request)
        super().__init__(api, pools)
        self.history = self._losses.history
        self.counts = self._blocks.counts
        settings = share.settings
        self.keep_every_s = settings.session_s / 3 if settings.fencing else _LOOK_S
        self.has_signs = settings.fencing

    # This node --------------------------------------------------------------------------------

    def remember(self) -> None:
        """Compare each later answer with the state that this node knew earlier. No request."""
        self._losses.remember()

    def read_era(self, is_new: bool, deadline: Deadline) -> tuple[str | None, bool]:  # noqa: ARG002
        """Return nothing: a change of this node's objects shows a loss."""
        return None, False

    def heard(self, era: str | None) -> Heard:
        """Return the state of the shared store that this node knows, to be stored."""
        return self._losses.heard(era)

    def addresses(self) -> tuple[str, ...]:
        """Return the addresses in the settings, or the one from which the API is reached."""
        return self.api.addresses()

    def pools(self, deadline: Deadline) -> list[AddressPool] | None:
        """Return the pools that are in force, as this node may use them, and never None."""
        return self._selection.for_node(self._pools.in_force(deadline), deadline)

    def namespace(self, name: str, deadline: Deadline) -> Namespace:
        """Return the labels and annotations of a namespace, from the server's cache. One read."""
        return self._selection.namespace(name, deadline)

    def check_settings(self, deadline: Deadline) -> None:
        """Do nothing: the pools are the cluster's own objects."""

    def register(self, member: Member, deadline: Deadline, *, agent: bool, sign: bool) -> bool:
        """Write this node's entry; return whether the node is new. One request for a new node."""
        before = member.epoch
        is_new = self._entry.register(member, deadline, agent=agent, sign=sign)
        if member.epoch != before:
            self._report.rejoined(is_new=member.epoch == 1)
        return is_new

    def owned(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return this node's blocks, each stamped with its current epoch (I7). One list request."""
        member = self._entry.member()
        found = self._blocks.owned(member, deadline)
        self._asking.look_for_an_earlier(member.mark)
        return found

    def hold(self, deadline: Deadline) -> None:
        """With fencing, take the Lease, and write its uid into this node's entry."""
        self._entry.hold(deadline)

    def keep(self, deadline: Deadline) -> bool:
        """Renew the Lease and read this node's entry; return False if either was changed."""
        return self._entry.keep(deadline)

    @property
    def is_held(self) -> bool:
        """Whether this process keeps the Lease; without fencing there is none to keep."""
        return self._entry.is_held

    @property
    def proven_ns(self) -> int:
        """A time of this boot, before the Lease was last renewed or the entry last read."""
        return self._entry.proven_ns

    def let_go(self, deadline: Deadline) -> None:  # noqa: ARG002  # no request
        """Stop renewing the Lease."""
        self._entry.let_go()

    # Lost changes -----------------------------------------------------------------------------

    @property
    def has_lost_changes(self) -> bool:
        """Whether changes were lost, or may have been, and the blocks are to be compared."""
        return self._losses.has_lost_changes

    def look(self, deadline: Deadline) -> None:
        """Compare this node's objects if the API's history was cut off."""
        self._blocks.look(deadline)

    def hold_back(self, deadline: Deadline) -> None:  # noqa: ARG002  # no request
        """Accept a store that has lost changes; claim no new block for a while."""
        self._losses.hold_back()

    def learn_history(self, deadline: Deadline) -> None:
        """Do nothing: there is no era."""

    def note(self) -> None:
        """Record in the node's store the latest version that was seen of the API's store."""
        self._losses.note()

    # Blocks -----------------------------------------------------------------------------------

    def claim(
        self,
        member: Member,
        ids: Sequence[BlockId],
        claimed_ns: int,
        newest: Block | None,  # noqa: ARG002  # only etcd compares it
        deadline: Deadline,
    ) -> Claimed:
        """Create the blocks' objects, then read this node's entry (I6). One write per block."""
        return self._blocks.claim(member, ids, claimed_ns, deadline)

    def claim_again(self, member: Member, block: Block, deadline: Deadline) -> int:
        """Create a lost block's object; return its version, 0 when another node owns it."""
        return self._blocks.claim_again(member, block, deadline)

    def taken(self, pool: Geometry, numbers: range, deadline: Deadline) -> frozenset[int]:
        """Return the blocks among these that some node owns. One list request."""
        return self._blocks.taken(pool, numbers, deadline)

    def owner(self, pair: BlockId, deadline: Deadline) -> BlockEntry | None:
        """Return the owner of a block, or None when nobody owns it. One read."""
        return self._blocks.owner(pair, deadline)

    def assigned(self, deadline: Deadline) -> frozenset[BlockId]:
        """Return the podCIDRs of this node's Node object. One read."""
        return self._blocks.assigned(deadline)

    def release(self, block: Block, deadline: Deadline) -> None:
        """Delete a block's object if it is this node's. Repeats until the outcome is known."""
        self._blocks.release(block, deadline)

    def report(
        self,
        uses: Sequence[tuple[Geometry, Use]],
        deadline: Deadline,
        routes: Condition | None = None,
    ) -> None:
        """Write the use of blocks into the entry's status: see ``_REPORT_S``. Raises nothing."""
        self._report.report(uses, deadline, routes)

    # Need -------------------------------------------------------------------------------------

    def ask(
        self,
        member: Member,
        mark: Mark,
        deadline: Deadline,
        *,
        brief: bool = False,  # noqa: ARG002  # only an agent asks
    ) -> bool:
        """Replace this node's request by a new one; return False if the node was removed (I6)."""
        return self._asking.ask(member, mark, deadline)

    @property
    def awaits(self) -> bool:
        """Whether an answer to this node's request, or its blocks, may still come."""
        return self._asking.awaits

    def unask(self, deadline: Deadline) -> None:
        """Delete this node's request, if no node has answered it. Idempotent."""
        self._asking.unask(deadline)

    def is_asked(self, deadline: Deadline) -> bool:
        """Return whether the request waits for an answer, or for the blocks. One read."""
        return self._asking.is_asked(deadline)

    def granted(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return the blocks that answer this node's request, each with this node's epoch (I7)."""
        return self._asking.granted(deadline)

    def look_for_an_answer(self) -> None:
        """Have the next :meth:`granted` read this node's request."""
        self._asking.look_for_an_answer()

    def collected(self, ids: Sequence[BlockId], deadline: Deadline) -> None:  # noqa: ARG002
        """Delete the request when all blocks of its answer have come, or will not come."""
        self._asking.collected(deadline)

    def hand_over(
        self, request: Request, blocks: Sequence[Block], claimed_ns: int, deadline: Deadline
    ) -> bool:
        """Answer a request, then hand over the blocks to the needy node, one write each."""
        return self._giving.hand_over(request, blocks, claimed_ns, deadline)

    def follow_requests(self, requests: Requests, is_over: Callable[[], bool]) -> None:
        """Report the requests of other nodes. One long connection; raises nothing."""
        self._following.follow_requests(requests, is_over)

    def follow_blocks(self, owners: Owners, is_over: Callable[[], bool]) -> None:
        """Report the owners of all blocks. One long connection; raises nothing."""
        self._following.follow_blocks(owners, is_over)

    def threads(self, wake: Callable[[], object]) -> list[tuple[str, Follow]]:
        """Return the name and the function of a thread that follows the pools."""
        return self._following.threads(wake)

    def read_request(self, found: dict[str, Any]) -> Request | None:
        """Return a request if it waits for an answer; keep the answer to this node's request."""
        return self._asking.read_request(found)

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self.api.client.close()


if TYPE_CHECKING:

    def _is_registry(one: KubernetesRegistry) -> Registry:
        return one
