"""The identity of a node, which it chooses and stores before it calls the shared store."""

from __future__ import annotations

import os

from fastipam.allocation import blocks
from fastipam.cluster.errors import ClusterRefused
from fastipam.storage.records.block import COPIED, Member

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.cluster.node.share import Share


def identify(share: Share, machine: str, step: Callable[[str], None]) -> Member:
    """Return this node's identity, after storing it: by it the node recognises its entry later."""
    member = require_own(share)
    name = share.settings.node
    if member is not None and member.node == name:
        if share.is_copy(member, machine):
            # The original may still run: this is another node, which has lost its store.
            member.incarnation, member.file, member.revision = _new(), COPIED, 0
            member.boot, member.machine = share.store.boot, machine
            share.put_member(member)
            step("named")
        return member
    member = Member(
        name,
        _new(),
        share.settings.text,
        machine,
        file=blocks.file_of(share.store),
        boot=share.store.boot,
    )
    share.put_member(member)
    step("named")
    return member


def require_own(share: Share) -> Member | None:
    """Return this node's identity from its store. Does not call the shared store.

    Raises ClusterRefused when the store is another node's, or was founded for another engine.
    """
    share.require_engine()
    name = share.settings.node
    member = share.member()
    if member is not None and member.epoch and member.node != name:
        if member.revision and share.settings.is_founded_by_agent:
            # The Node of the old name is gone, and its blocks become free (docs/cluster.md).
            share.forget_registration()
        raise ClusterRefused(
            f"this store belongs to node {member.node}, but the configuration says {name}",
            hint=f'set "node": "{member.node}", or, if the node was renamed, '
            "type `fastipam cluster leave`",
        )
    return member


def _new() -> str:
    """Return a new incarnation."""
    return os.urandom(8).hex()
