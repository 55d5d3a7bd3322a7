"""Claim a block for an ADD that found no address, in the ADD's process when no agent runs."""

from __future__ import annotations

import time

from fastipam.cluster import planner
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import EngineError, HistoryLost
from fastipam.cluster.errors import NoBlock
from fastipam.cluster.node import owners
from fastipam.cluster.node.lock import NodeLock
from fastipam.cluster.node.node import Node
from fastipam.cluster.registries.connect import open_registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.cluster.node.share import Share
    from fastipam.cluster.registries.connect import Open


def claim_now(
    share: Share,
    *,
    timeout_s: float | None = None,
    opened: Open = open_registry,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Claim blocks until every family has a free address in this node's blocks.

    This takes at most ``timeout_s`` seconds (default: the settings'), including the wait for other
    processes of this node. Raises NoBlock when no block was claimed, ClusterRefused, StoreError.
    """
    settings = share.settings
    deadline = Deadline(settings.timeout_s if timeout_s is None else timeout_s)
    lock = NodeLock(share.store)
    while not lock.try_take():
        if not deadline.left_s():
            raise NoBlock("another process of this node is claiming a block")
        sleep(0.005)
        if not share.lacking():
            return
    try:
        if not share.lacking():
            return
        registry = opened(share)
        try:
            node = Node(share, registry)
            try:
                _claim(node, deadline, sleep)
            except HistoryLost:
                node.registry.hold_back(deadline)
                _join(node, deadline, restored=True)
                _claim(node, deadline, sleep)
        finally:
            registry.close()
    except EngineError as error:
        raise NoBlock(
            f"no block could be claimed: {error.message}",
            hint=error.hint
            or "a free address in this node's blocks is assigned without the cluster's store",
        ) from error
    finally:
        lock.release()


def _claim(node: Node, deadline: Deadline, sleep: Callable[[float], None]) -> None:
    _make_sure(node, deadline)
    node.share.reindex()
    for family in node.share.lacking():
        if not node.claim_family(family, 1, deadline):
            _wait_for_donor(node, family, deadline, sleep)


def _make_sure(node: Node, deadline: Deadline) -> None:
    """Register, finish what was begun, and prove ownership if the settings have fencing."""
    node.registry.remember()
    if node.share.doubt() or node.share.has_begun():
        _join(node, deadline)
    if node.settings.fencing:
        node.registry.hold(deadline)
        node.share.prove_until(node.registry.proven_ns + node.settings.session_s * 10**9)


def _join(node: Node, deadline: Deadline, *, restored: bool = False) -> None:
    """Register, and store leases for the addresses of found blocks that are in use."""
    found = node.join(deadline, restored=restored)
    if found:
        from fastipam.cluster.node import recovery

        try:
            recovery.recover(node, found)
        except recovery.NamespacesUnreadable as error:
            raise NoBlock(f"the addresses of this node's pods are not known: {error}") from error


def _wait_for_donor(
    node: Node, family: int, deadline: Deadline, sleep: Callable[[float], None]
) -> None:
    """Ask the other nodes for a block, until one answers or a block becomes free."""
    try:
        node.write_mark(family, 1, deadline, brief=True)
        full = owners.without_a_free_block(node, family, deadline)
        waited_s, look_at_s = 0.0, planner.LOOK_AGAIN_S
        while deadline.left_s() > planner.COLLECT_S:
            sleep(planner.COLLECT_S)
            waited_s += planner.COLLECT_S
            if any(one[0] == family for one in node.collect(deadline)):
                return
            if waited_s >= look_at_s:
                look_at_s += planner.LOOK_AGAIN_S
                if node.claim_family(family, 1, deadline):
                    return
    finally:
        try:  # noqa: SIM105  # contextlib costs a directly run plugin a fifth of its start
            node.registry.unask(Deadline(1.0))
        except (EngineError, NoBlock):
            pass  # the request expires by itself
    raise full
