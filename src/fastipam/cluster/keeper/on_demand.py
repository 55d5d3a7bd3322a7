"""A block for an ADD that found nothing, in the process of the ADD itself: no agent runs."""

from __future__ import annotations

import time

from fastipam.allocation import blocks
from fastipam.cluster import planner
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import EngineError, Put
from fastipam.cluster.engines.connect import connect
from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.node.claims import Node
from fastipam.cluster.node.lock import NodeLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.cluster.engine import Engine
    from fastipam.configuration.cluster import Settings
    from fastipam.network import Network
    from fastipam.storage.store import Store

_MARK_TTL_S = 10  # others answer within a second; the mark goes with a plugin that was killed


def claim_now(
    store: Store,
    network: Network,
    settings: Settings,
    *,
    timeout_s: float | None = None,
    connected: Callable[[Settings], Engine] = connect,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when every family has a free address in this node's blocks.

    Waits for at most ``timeout_s`` (default: the settings'), the other processes of this node
    included. Raises NoBlock (try later, and why), ClusterRefused, StoreError.
    """
    deadline = Deadline(settings.timeout_s if timeout_s is None else timeout_s)
    lock = NodeLock(store)
    while not lock.try_take():
        if not deadline.left_s():
            raise NoBlock("another process of this node is busy claiming a block")
        sleep(0.005)
        if not lacking(store, network, settings):
            return
    try:
        if not lacking(store, network, settings):
            return
        engine = connected(settings)
        try:
            _claim(Node(store, network, settings, engine), deadline, sleep)
        finally:
            engine.close()
    except EngineError as error:
        raise NoBlock(
            f"no block could be claimed: {error.message}",
            hint="a free address in this node's blocks is assigned without the cluster's store",
        ) from error
    finally:
        lock.give()


def lacking(store: Store, network: Network, settings: Settings) -> list[int]:
    """The families of which this node's blocks have no free address now; all when it may not say.

    O(1) but for blocks that just filled.
    """
    with store.read() as txn:
        network_id = network.id_in(txn)
        if network_id is None or blocks.doubt(txn, network_id):
            return [each.family for each in settings.pool.sets]
        return [
            each.family
            for index, each in enumerate(settings.pool.sets)
            if not network.can_serve(txn, index, each)
        ]


def _claim(node: Node, deadline: Deadline, sleep: Callable[[float], None]) -> None:
    store, settings = node.store, node.settings
    _make_sure(node, deadline)
    node.reindex()
    for family in lacking(store, node.network, settings):
        if not claim_family(node, family, 1, deadline):
            _wait_for_donor(node, family, deadline, sleep)


def _make_sure(node: Node, deadline: Deadline) -> None:
    """Registered, nothing begun and not finished, ownership proven if that is asked for."""
    with node.store.read() as txn:
        network_id = node.network.id_in(txn)
        doubt = network_id is None or blocks.doubt(txn, network_id)
    if doubt or node.has_begun():
        found = node.join(deadline)
        if found:
            from fastipam.cluster.node import recovery

            try:
                recovery.resolve(node, found)
            except recovery.NamespacesUnreadable as error:
                raise NoBlock(f"what this node's pods have is not known: {error}") from error
    if node.settings.fencing:
        began_ns = blocks.boottime_ns()
        session = node.engine.open_session(node.settings.session_s, deadline_s=deadline.call_s())
        hold_session(node, session, deadline)
        node.prove_until(began_ns + node.settings.session_s * 10**9)


def hold_session(node: Node, session: int, deadline: Deadline) -> None:
    """Tie the sign of this node's life to a session. Raises ClusterRefused: it was removed."""
    from fastipam.cluster.engine import Compare
    from fastipam.cluster.schema import pack

    member = node.member()
    revision = member.revision if member is not None else 0
    incarnation = member.incarnation if member is not None else ""
    outcome = node.engine.transact(
        [Compare(node.keys.node(node.name), "mod_revision", revision)],
        [Put(node.keys.session(node.name), pack(incarnation=incarnation), session)],
        deadline_s=deadline.call_s(),
    )
    if not outcome.succeeded:
        node.forget_registration()
        raise ClusterRefused(f"node {node.name} was removed meanwhile, or another has its name")
    node.session = session


def claim_family(node: Node, family: int, run: int, deadline: Deadline) -> bool:
    """Claim in the first pool of a family that has a free block; False: none of them has."""
    return any(node.claim(pool, run, deadline) for pool in node.settings.geometries_of(family))


def _wait_for_donor(
    node: Node, family: int, deadline: Deadline, sleep: Callable[[float], None]
) -> None:
    """The pool is used up: ask the other nodes, until one answers or a block becomes free."""
    session = node.engine.open_session(_MARK_TTL_S, deadline_s=deadline.call_s())
    try:
        node.raise_mark(family, 1, session, deadline)
        waited, look_at = 0.0, planner.LOOK_AGAIN_S
        while deadline.left_s() > planner.COLLECT_S:
            sleep(planner.COLLECT_S)
            waited += planner.COLLECT_S
            if any(one[0] == family for one in node.collect(deadline)):
                return
            if waited >= look_at:
                look_at += planner.LOOK_AGAIN_S
                if claim_family(node, family, 1, deadline):
                    return
    finally:
        try:  # noqa: SIM105  # contextlib costs a directly run plugin a fifth of its start
            node.engine.close_session(session, deadline_s=1.0)
        except EngineError:
            pass  # it ends by itself
    raise NoBlock(
        "the cluster's pool is used up, and no node has a wholly free block to hand over",
        hint="free addresses, remove nodes that are gone (`fastipam cluster release-node`), "
        "or give the cluster another pool",
    )
