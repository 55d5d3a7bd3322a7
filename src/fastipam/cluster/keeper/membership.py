"""A node's membership in its cluster: its registration, its session, the proof of ownership."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastipam.cluster.node import identity, recovery
from fastipam.storage.records.block import LOST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.node.node import Node

log = logging.getLogger("fastipam.cluster")

_RECONCILE_S = 600.0  # between two comparisons of both stores: they should never differ

_LOOK_S = 5.0  # between two comparisons while this node waits for a block of the controller's


class Membership:
    """Joins the cluster, renews the session, and joins again if session or registration is gone.

    ``clock`` gives seconds; runtimes mount network namespaces in ``directories``.
    """

    def __init__(self, node: Node, clock: Callable[[], float], directories: Sequence[str]) -> None:
        self._node = node
        self._clock = clock
        self._directories = directories
        self._joined = False
        self._is_held_back = True  # False: lost changes have to be reported to the other nodes
        self._restored = False  # True: the store has lost changes, so the blocks are compared
        self._keep_at = self._reconcile_at = self._look_at = 0.0

    def doubt(self) -> None:
        """Join again at the next :meth:`keep`: the known state of this node may be wrong."""
        self._joined = False

    def require_own(self) -> None:
        """Raise ClusterRefused before the first join if the store is not this node's.

        It sends no request: a node of another name must assign nothing, even while the shared store
        cannot be reached.
        """
        if not self._joined:
            identity.require_own(self._node.share)

    def keep(self, deadline: Deadline, *, lacks_block: bool = False) -> bool:
        """Do what is due; return whether both stores were compared just now.

        ``lacks_block``: the controller is making a block for this node, so compare more often.

        Raises EngineError, NoBlock, ClusterRefused, ClusterCorrupt, NamespacesUnreadable,
        StoreError; the next call finishes what was begun.
        """
        now = self._clock()
        node, settings = self._node, self._node.settings
        if self._joined:
            node.registry.look(deadline)
        if node.registry.has_lost_changes:
            self._is_held_back, self._restored, self._joined = False, True, False
        if not self._is_held_back:
            node.registry.hold_back(deadline)
            self._is_held_back = True
        if self._joined and node.share.doubt():
            # Another process has noticed that this node was removed, or has restored its store.
            self._joined = False
        looks = lacks_block and now >= self._look_at
        if self._joined and now < self._keep_at and not looks:
            return False
        if self._joined and not node.registry.keep(deadline):
            log.warning(
                "network=%s node=%s session or registration gone, joining again",
                node.network.name,
                node.name,
            )
            self._joined = False
        if not self._joined:
            node.registry.let_go(deadline)
        else:
            node.registry.learn_history(deadline)
        compared = not self._joined or now >= self._reconcile_at or looks
        if compared:
            self._look_at = now + _LOOK_S
            self._compare(deadline)
            self._restored = False
            lost = any(block.state == LOST for block in node.share.blocks())
            self._reconcile_at = now + (node.registry.keep_every_s if lost else _RECONCILE_S)
        if not self._joined:
            if not node.registry.is_held:  # a new node's registration creates it
                node.registry.hold(deadline)
            self._joined = True
        if settings.fencing:
            # The session expires ``session_s`` after the moment before its renewal, or later.
            node.share.prove_until(node.registry.proven_ns + settings.session_s * 10**9)
        node.registry.note()
        self._keep_at = now + node.registry.keep_every_s
        return compared

    def _compare(self, deadline: Deadline) -> None:
        """Make this node's records agree with the shared store's."""
        node = self._node
        found = node.join(deadline, agent=True, sign=True, restored=self._restored)
        if found:
            done = recovery.recover(node, found, self._directories)
            log.warning(
                "network=%s found blocks=%d addresses_in_use=%d: this store did not know them",
                node.network.name,
                len(found),
                len(done.entered),
            )
            for remark in done.remarks:
                log.warning("network=%s %s", node.network.name, remark)
        node.share.reindex()
