"""A node's entry on the Kubernetes API: its current incarnation and epoch."""

from __future__ import annotations

from contextlib import suppress

from fastipam.cluster.engine import EngineTimeout
from fastipam.cluster.errors import ClusterRefused, NoBlock, entry_changed, not_written
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.api import TRIES
from fastipam.cluster.registries.kubernetes.client import AlreadyExists, Conflict, NotFound
from fastipam.cluster.registries.kubernetes.lease import Lease
from fastipam.cluster.schema import NodeEntry
from fastipam.storage.boot import boottime_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.registries.kubernetes.api import Api
    from fastipam.cluster.registries.kubernetes.losses import Losses
    from fastipam.storage.records.block import Member


class Entry:
    """This node's entry and, with fencing, its Lease."""

    def __init__(self, api: Api, losses: Losses) -> None:
        self._api = api
        self._losses = losses
        self._seen_ns = 0  # a time of this boot, before the entry was last read unchanged
        self._me: Member | None = None  # as this process has registered it
        settings = api.share.settings
        self.lease = None
        if settings.fencing:
            self.lease = Lease(api.client, api.name, settings.session_s, api.clock)

    def known(self) -> Member | None:
        """Return this node's identity, None before it has registered."""
        return self._me or self._api.share.member()

    def member(self) -> Member:
        """Return this node's identity. Raises NoBlock before it has registered."""
        member = self.known()
        if member is None or not member.incarnation:
            raise NoBlock("this node is not registered in its cluster")
        return member

    def register(self, member: Member, deadline: Deadline, *, agent: bool, sign: bool) -> bool:
        """Write this node's entry; return whether the node is new. One request for a new node.

        Raises ClusterRefused when another machine has this name.
        """
        boot = self._api.share.store.boot_id()
        if not member.epoch:
            entry = NodeEntry(member.incarnation, 1, boot, self._api.addresses(), agent=agent)
            with suppress(AlreadyExists, EngineTimeout):
                made = self._create_entry(entry, deadline)
                self._registered(member, 1, made)
                if sign:
                    self.hold(deadline)
                return True
        for tries in range(TRIES):
            found = self._api.get(objects.NODES, self._api.name, deadline)
            if found is None:
                entry = NodeEntry(
                    member.incarnation, member.epoch + 1, boot, self._api.addresses(), agent=agent
                )
                with suppress(AlreadyExists, EngineTimeout):
                    made = self._create_entry(entry, deadline)
                    self._registered(member, entry.epoch, made)
                    return False
                continue
            there = objects.read_node(found)
            entry = self._next_entry(there, member, boot, agent, deadline)
            if entry.pack() == there.pack():
                self._registered(member, there.epoch, found)
                return False
            body = objects.node(
                self._api.name,
                entry,
                machine_uid=objects.machine_of(found),
                lease=objects.lease_of(found),
                version=objects.version_of(found),
            )
            with suppress(Conflict, NotFound, EngineTimeout):
                made = self._api.client.replace(objects.NODES, body, deadline_s=deadline.call_s())
                self._losses.hear(made, changed=True)
                self._api.step("entry")
                self._registered(member, entry.epoch, made)
                return False
            self._api.pause(tries, deadline)
        raise not_written(f"the entry of node {self._api.name}")

    def _create_entry(self, entry: NodeEntry, deadline: Deadline) -> dict[str, Any]:
        body = objects.node(self._api.name, entry)
        made = self._api.client.create(objects.NODES, body, deadline_s=deadline.call_s())
        self._losses.hear(made, changed=True)
        self._api.step("entry")
        return made

    def _next_entry(
        self, there: NodeEntry, member: Member, boot: str, agent: bool, deadline: Deadline
    ) -> NodeEntry:
        """Return the entry to write in place of ``there``. Raises ClusterRefused, NoBlock."""
        epoch = max(there.epoch, member.epoch)  # an older state of the store may have come back
        is_other = there.incarnation != member.incarnation
        if is_other:
            epoch += 1  # another store, or a removed node that comes back
        if is_other or there.boot not in ("", boot):
            self._check_machine(boot, deadline)
        return NodeEntry(
            member.incarnation, epoch, boot, self._api.addresses() or there.addresses, agent=agent
        )

    def _check_machine(self, boot: str, deadline: Deadline) -> None:
        """Raise ClusterRefused unless the Node object of this name is this machine's, by boot id.

        Raises NoBlock when there is no Node object.
        """
        found = self._api.get(objects.MACHINES, self._api.name, deadline)
        if found is None:
            raise NoBlock(
                f"there is no Node object {self._api.name}: this node cannot check that the name "
                "is its own",
                hint='wait until the kubelet has registered, or set "node" to the name of its Node',
            )
        info = found.get("status", {}).get("nodeInfo", {})
        theirs = str(info.get("bootID") or "")
        if theirs == boot:
            return
        if self._api.share.member() is not None:
            self._api.share.forget_registration()
        raise ClusterRefused(
            f"the Node {self._api.name} is another machine: its boot id is "
            f"{theirs or 'not known'}, and this machine's is {boot}",
            hint='give this node another name with "node"; after a reboot the kubelet reports the '
            "new boot id when it starts",
        )

    def _registered(self, member: Member, epoch: int, found: dict[str, Any]) -> None:
        member.epoch, member.revision = epoch, objects.version_of(found)
        self._me = member
        self._losses.written = objects.identity_of(found)
        self._seen_ns = boottime_ns()

    def hold(self, deadline: Deadline) -> None:
        """With fencing, take the Lease, and write its uid into this node's entry.

        To remove a node, the controller reads its entry, ends its Lease, and then writes the
        tombstone by the version of the entry. A Lease that the node takes between the last two
        steps protects the node only because the entry has another version by then. Raises
        ClusterRefused, NoBlock.
        """
        if self.lease is None:
            return
        member = self.member()
        self.lease.hold(member.incarnation, deadline)
        self._api.step("lease")
        found = self._api.get(objects.NODES, self._api.name, deadline)
        if found is None or not is_of(found, member):
            self.confirm(member, deadline)
            raise NoBlock("the entry of this node was changed meanwhile")
        if objects.lease_of(found) != self.lease.uid:
            body = objects.node(
                self._api.name,
                objects.read_node(found),
                machine_uid=objects.machine_of(found),
                lease=self.lease.uid,
                version=objects.version_of(found),
            )
            try:
                made = self._api.client.replace(objects.NODES, body, deadline_s=deadline.call_s())
            except (Conflict, NotFound, EngineTimeout):
                self.lease.let_go()
                raise NoBlock("the entry of this node was changed meanwhile") from None
            self._losses.written = objects.identity_of(made)
            self._api.step("entry")

    def keep(self, deadline: Deadline) -> bool:
        """Renew the Lease and read this node's entry; return False if either was changed."""
        began_ns = boottime_ns()
        if self.lease is not None and not self.lease.renew(deadline):
            return False
        found = self._api.get(objects.NODES, self._api.name, deadline)
        member = self._api.share.member()
        if member is None or not member.revision:
            return False
        if not is_of(found, member):
            self._api.share.forget_registration()
            self._losses.require_later(found)
            return False
        if self.lease is not None and objects.lease_of(found or {}) != self.lease.uid:
            return False
        assert found is not None
        self._losses.compare_own(objects.identity_of(found))
        self._seen_ns = began_ns
        return True

    @property
    def is_held(self) -> bool:
        """Whether this process keeps the Lease; without fencing there is none to keep."""
        return self.lease is None or self.lease.is_held

    @property
    def proven_ns(self) -> int:
        """A time of this boot, read just before the Lease was last renewed.

        Without fencing: before this node's entry was last read, unchanged.
        """
        return self._seen_ns if self.lease is None else self.lease.since_ns

    def let_go(self) -> None:
        """Stop renewing the Lease."""
        if self.lease is not None:
            self.lease.let_go()

    def confirm(self, member: Member, deadline: Deadline) -> None:
        """Raise ClusterRefused unless this node's entry is the one that it wrote (I6)."""
        found = self._api.get(objects.NODES, self._api.name, deadline)
        if not is_of(found, member):
            self._api.share.forget_registration()
            raise entry_changed(self._api.name)


def is_of(found: dict[str, Any] | None, member: Member) -> bool:
    """Return whether an entry is of this incarnation and epoch of a node."""
    if found is None:
        return False
    entry = objects.read_node(found)
    return (entry.incarnation, entry.epoch) == (member.incarnation, member.epoch)
