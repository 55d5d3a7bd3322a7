"""A node's membership in its cluster: its registration, its session, the proof of ownership."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from fastipam.allocation.blocks import boottime_ns
from fastipam.cluster.engine import EngineError
from fastipam.cluster.node import recovery

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.node.node import Node

log = logging.getLogger("fastipam.cluster")

_RECONCILE_S = 600.0  # between two comparisons of both stores: they should never differ


class Membership:
    """Joins, keeps the session, and joins again when the session or the registration is gone.

    ``clock`` gives seconds; ``directories`` are where runtimes mount network namespaces.
    """

    def __init__(self, node: Node, clock: Callable[[], float], directories: Sequence[str]) -> None:
        self._node = node
        self._clock = clock
        self._directories = directories
        self._joined = False
        self.session = 0
        # A session that was opened and is not held yet: its id, until when to use it, and the
        # boot time before it was opened.
        self._spare = (0, 0.0, 0)
        self._keep_at = self._reconcile_at = 0.0

    def doubt(self) -> None:
        """Join again at the next :meth:`keep`: what is known of this node may be wrong."""
        self._joined = False

    def keep(self, deadline: Deadline) -> bool:
        """Do what is due; return whether both stores were compared just now.

        Raises EngineError, NoBlock, ClusterRefused, ClusterCorrupt, NamespacesUnreadable,
        StoreError; the next call finishes what was begun.
        """
        now = self._clock()
        node, settings = self._node, self._node.settings
        if self._joined and node.share.doubt():
            # Another process has found this node removed, or has restored its store.
            self._joined = False
        if self._joined and now < self._keep_at:
            return False
        began_ns = boottime_ns()
        if self._joined:
            left = node.engine.keep_session(self.session, deadline_s=deadline.call_s())
            if left <= 0 or not node.registration.is_current(deadline):
                log.warning(
                    "network=%s node=%s session or registration gone, joining again",
                    node.network.name,
                    node.name,
                )
                self._joined = False
        if not self._joined:
            self.session = self._opened(deadline)
            began_ns = min(began_ns, self._spare[2])
        compared = not self._joined or now >= self._reconcile_at
        if compared:
            self._compare(deadline)
            self._reconcile_at = now + _RECONCILE_S
        if not self._joined:
            if node.registration.session != self.session:
                node.registration.hold_session(self.session, deadline)
            self._spare = (0, 0.0, 0)
            self._joined = True
        if settings.fencing:
            # The session expires so long after the moment before it was renewed, or later.
            node.share.prove_until(began_ns + settings.session_s * 10**9)
        self._keep_at = now + settings.session_s / 3
        return compared

    def _compare(self, deadline: Deadline) -> None:
        """Make this node's records agree with the shared store's."""
        node = self._node
        found = node.join(deadline, agent=True, session=self.session)
        if found:
            entered = recovery.recover(node, found, self._directories)
            log.warning(
                "network=%s found=%d blocks of an earlier store, %d addresses in use",
                node.network.name,
                len(found),
                len(entered),
            )
        node.share.reindex()

    def _opened(self, deadline: Deadline) -> int:
        """Return a session to join with: a new one, or that of a join that failed just now."""
        if self._clock() >= self._spare[1]:
            began_ns = boottime_ns()
            seconds = self._node.settings.session_s
            session = self._node.engine.open_session(seconds, deadline_s=deadline.call_s())
            self._spare = (session, self._clock() + seconds / 3, began_ns)
        return self._spare[0]

    def end(self) -> None:
        """Close the session, because nobody keeps it any more. The blocks stay this node's."""
        if self.session and not self._node.settings.fencing:
            # With fencing, directly run plugins may assign until the proof and the session expire.
            with suppress(EngineError):
                self._node.engine.close_session(self.session, deadline_s=1.0)
