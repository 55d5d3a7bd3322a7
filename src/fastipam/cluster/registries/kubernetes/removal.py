"""The removal of a node on the Kubernetes API: first the tombstone, then its blocks (I5).

A tombstone is the node's entry without an incarnation, in a later epoch. The node's blocks and its
request are deleted only while there is a tombstone, by their versions, and only if they are of the
tombstone's epoch or an earlier one. Blocks that the node gets after it has come back are of a later
epoch. So the deletion may be interrupted anywhere, and any process may begin it again, also after
the node has come back.
"""

from __future__ import annotations

import time
from contextlib import suppress

from fastipam.cluster.engine import EngineTimeout
from fastipam.cluster.errors import not_written
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.client import AlreadyExists, Conflict, NotFound
from fastipam.cluster.schema import NodeEntry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.registries.kubernetes.client import Client

_TRIES = 8  # to change an entry that somebody else changes meanwhile
_PAUSE_S = 0.05  # before the first retry; doubles


def end(
    client: Client,
    name: str,
    deadline: Deadline,
    *,
    check: Callable[[], object] = lambda: None,
    step: Callable[[str], None] = lambda _: None,
    orphan_epoch: int = 0,
    most_tries: int = _TRIES,
    now: Callable[[], float] = time.time,
) -> int | None:
    """Write the tombstone of a node; return its epoch, or None without an entry. Idempotent.

    ``check`` is called before each write, and may raise. With ``orphan_epoch`` a node without an
    entry, whose blocks are of that epoch at most, gets a tombstone, too. Raises NoBlock when each
    of ``most_tries`` writes finds the entry changed, or its outcome stays unknown.
    """
    for tries in range(most_tries):
        if tries:
            client.pause(min(_PAUSE_S * (1 << tries), deadline.left_s()))
        found = client.get(objects.NODES, name, deadline_s=deadline.call_s())
        if found is None:
            if not orphan_epoch:
                return None
            check()
            body = objects.tombstone(name, NodeEntry("", orphan_epoch + 1, "", ()), now())
            with suppress(AlreadyExists, EngineTimeout):
                client.create(objects.NODES, body, deadline_s=deadline.call_s())
                step("tombstone")
                return orphan_epoch + 1
            continue
        there = objects.read_node(found)
        if not there.incarnation:
            return there.epoch
        check()
        removed = NodeEntry("", there.epoch + 1, "", there.addresses)
        body = objects.tombstone(name, removed, now(), version=objects.version_of(found))
        with suppress(Conflict, NotFound, EngineTimeout):
            client.replace(objects.NODES, body, deadline_s=deadline.call_s())
            step("tombstone")
            return removed.epoch
    raise not_written(f"the entry of node {name}")


def take_back(
    client: Client,
    name: str,
    deadline: Deadline,
    *,
    step: Callable[[str], None] = lambda _: None,
    now: Callable[[], float] = time.time,
) -> int:
    """Delete the blocks and the request of a removed node; return how many blocks. Idempotent.

    Deletes nothing while the node has no tombstone. Repeats until a list shows no block: two
    requests per list, one per block.
    """
    freed = 0
    while True:
        found = client.get(objects.NODES, name, deadline_s=deadline.call_s())
        if found is None or objects.read_node(found).incarnation:
            return freed
        there = objects.read_node(found)
        listed, _ = client.list(
            objects.BLOCKS,
            f"spec.node={name}",
            deadline_s=max(deadline.call_s(), deadline.left_s()),  # it may be many requests
        )
        is_empty, latest = True, there.epoch
        for one in listed:
            is_empty = False
            epoch = objects.read_block(one)[1].epoch
            latest = max(latest, epoch)
            if epoch > there.epoch:
                continue
            with suppress(Conflict):  # stamped by the node, which has come back, or handed over
                freed += client.delete(
                    objects.BLOCKS,
                    objects.name_of(one),
                    version=str(objects.version_of(one)),
                    deadline_s=deadline.call_s(),
                )
                step("freed")
        if is_empty:
            break
        if latest > there.epoch:
            # Either the node has just come back, and then this fails; or somebody has deleted its
            # entry, and it was created again in an earlier epoch.
            later = NodeEntry("", latest + 1, "", there.addresses)
            version = objects.version_of(found)
            body = objects.tombstone(name, later, now(), version=version)
            with suppress(Conflict, NotFound):
                client.replace(objects.NODES, body, deadline_s=deadline.call_s())
    _delete_request(client, name, there.epoch, deadline)
    step("request")
    return freed


def _delete_request(client: Client, name: str, epoch: int, deadline: Deadline) -> None:
    """Delete the request that a removed node has left, not one that it has made since."""
    found = client.get(objects.REQUESTS, name, deadline_s=deadline.call_s())
    if found is None or int(found.get("spec", {}).get("epoch") or 0) > epoch:
        return
    with suppress(Conflict):
        client.delete(
            objects.REQUESTS, name, uid=objects.uid_of(found), deadline_s=deadline.call_s()
        )
