"""A node's entry in the shared store: its incarnation, epoch, boot and addresses."""

from __future__ import annotations

from fastipam.cluster import schema
from fastipam.cluster.engine import Compare, EngineTimeout, Put
from fastipam.cluster.errors import ClusterRefused, NoBlock, not_written
from fastipam.cluster.own_addresses import own_addresses
from fastipam.cluster.schema import NodeEntry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.engine import Delete, Engine, KeyValue
    from fastipam.cluster.node.share import Share
    from fastipam.cluster.registries.keyvalue.session import Session
    from fastipam.storage.records.block import Member

# Attempts to change a node's entry; each fails when somebody has changed the entry meanwhile.
ENTRY_TRIES = 8


class Registration:
    """Registers a node under its name."""

    __slots__ = ("_engine", "_keys", "_session", "_share", "name")

    def __init__(
        self,
        share: Share,
        engine: Engine,
        keys: schema.Keys,
        session: Session,
    ) -> None:
        self._share = share
        self._engine = engine
        self._keys = keys
        self._session = session
        self.name = share.settings.node

    def register(self, member: Member, deadline: Deadline, *, agent: bool, sign: bool) -> bool:
        """Write the node's entry; set its epoch and revision; return whether the node is new.

        With ``sign`` a node without an entry ties its sign of life to a session in the same
        transaction. A node without an entry owns nothing. Idempotent.

        Raises ClusterRefused for other settings, or another live node of this name. Raises NoBlock
        if the entry changes too often.
        """
        if not member.epoch and self._register_first(member, deadline, agent, sign):
            return True
        self.check_settings(deadline)
        self._register_again(member, deadline, agent)
        return False

    def _register_first(self, member: Member, deadline: Deadline, agent: bool, sign: bool) -> bool:
        """Register a node that has no entry, in one transaction; return False if it may have one.

        Nothing is read, which spares the shared store when all nodes start at once.
        """
        entry = self._entry(None, member, deadline, agent)
        operations: list[Put | Delete] = [Put(self._keys.node(self.name), entry.pack())]
        conditions = [Compare(self._keys.node(self.name), "absent"), self._same_settings()]
        if sign:
            operations.append(self._session.sign(member, self._session.spare(deadline)))
            conditions.append(Compare(self._keys.session(self.name), "absent"))
        try:
            outcome = self._engine.transact(conditions, operations, deadline_s=deadline.call_s())
        except EngineTimeout:
            return False  # the entry may have been written: read it
        if outcome.succeeded:
            if sign:
                self._session.tied(outcome.revision)
            member.epoch, member.revision = entry.epoch, outcome.revision
        return outcome.succeeded

    def check_settings(self, deadline: Deadline) -> None:
        """Raise ClusterRefused unless this node's settings equal the cluster's."""
        share = self._share
        stored = self._engine.get(self._keys.settings, deadline_s=deadline.call_s())
        if stored is None:
            raise ClusterRefused(
                f"the cluster has no settings for network {share.network.name}",
                hint="run `fastipam cluster init` once, on any node",
            )
        if stored.value != share.settings.text.encode():
            raise ClusterRefused(
                f"the cluster's pools are {stored.value.decode('utf-8', 'replace')!r}, "
                f"this node is configured with {share.settings.text!r}",
                hint="every node must have the same pools and block size",
            )

    def _register_again(self, member: Member, deadline: Deadline, agent: bool) -> None:
        """Write the entry over an earlier one, if there is one.

        Raises ClusterRefused if the earlier entry is another node's, and NoBlock.
        """
        key = self._keys.node(self.name)
        for _ in range(ENTRY_TRIES):
            stored = self._engine.get(key, deadline_s=deadline.call_s())
            entry = self._entry(stored, member, deadline, agent)
            if stored is not None and stored.value == entry.pack():
                member.epoch, member.revision = entry.epoch, stored.mod_revision
                return
            revision = 0 if stored is None else stored.mod_revision
            conditions = [Compare(key, "mod_revision", revision), self._same_settings()]
            if self._was_elsewhere(stored, member):
                conditions.append(Compare(self._keys.session(self.name), "absent"))
            try:
                outcome = self._engine.transact(
                    conditions, [Put(key, entry.pack())], deadline_s=deadline.call_s()
                )
            except EngineTimeout:
                continue  # read whether it was written
            if outcome.succeeded:
                member.epoch, member.revision = entry.epoch, outcome.revision
                return
        raise not_written(f"the entry of node {self.name}")

    def _same_settings(self) -> Compare:
        return Compare(self._keys.settings, "value", self._share.settings.text.encode())

    def addresses(self) -> tuple[str, ...]:
        """Return the addresses in the settings, or the one from which the store is reached."""
        return own_addresses(self._share.settings, self._engine.local_addresses)

    def _entry(
        self, stored: KeyValue | None, member: Member, deadline: Deadline, agent: bool
    ) -> NodeEntry:
        """Return the entry to write over ``stored``. Raises ClusterRefused, NoBlock."""
        boot = self._share.store.boot_id()
        addresses = self.addresses()
        if stored is None:
            return NodeEntry(member.incarnation, member.epoch + 1, boot, addresses, agent=agent)
        entry = NodeEntry.read(stored.key, stored.value)
        epoch = entry.epoch
        if self._was_elsewhere(stored, member):
            self._check_takeover(entry, member, deadline, agent)
            epoch += entry.incarnation != member.incarnation
        return NodeEntry(
            member.incarnation,
            epoch,
            boot,
            addresses or entry.addresses,
            agent=agent or (entry.agent and entry.incarnation == member.incarnation),
        )

    def _was_elsewhere(self, stored: KeyValue | None, member: Member) -> bool:
        """Return whether the entry was written with another local store, or in another boot."""
        if stored is None:
            return False
        entry = NodeEntry.read(stored.key, stored.value)
        if not entry.incarnation:
            return False
        if entry.incarnation != member.incarnation:
            return True
        return entry.boot not in ("", self._share.store.boot_id())

    def _check_takeover(
        self, entry: NodeEntry, member: Member, deadline: Deadline, agent: bool
    ) -> None:
        """Raise ClusterRefused unless the entry's writer is gone and was this machine.

        Raises NoBlock when the writer's session may end soon.
        """
        # Otherwise two nodes would have one name. The same boot means the same machine. An agent
        # keeps a session, so it is gone when its session has ended. A plugin that runs directly
        # keeps no session, so two such plugins could not notice each other.
        alive = self._engine.get(self._keys.session(self.name), deadline_s=deadline.call_s())
        boot = self._share.store.boot_id()
        if entry.incarnation == member.incarnation and member.boot != self._share.store.boot:
            # This machine was rebooted, or another one runs from a copy of its disk.
            if alive is None:
                return
            raise NoBlock(
                f"the session of node {self.name} from another boot has not ended",
                hint=(
                    "it expires sessionTTL after its last renewal; if it does not, "
                    "another machine has a copy of this disk and the same name"
                ),
            )
        is_gone = entry.agent or entry.boot == boot
        if alive is None and agent and is_gone:
            return
        if member.revision:  # another node has this name: our registration proves nothing
            self._share.forget_registration()
        raise ClusterRefused(
            f"there is another node named {self.name}"
            + (" and it is alive" if alive is not None else ", or its store was lost"),
            hint='give this node another name with "node"; if the other node is gone, start the '
            "agent of this node, which can take the name over, or type `fastipam cluster "
            f"release-node {self.name}`",
        )
