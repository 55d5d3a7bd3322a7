"""A node's session, to which its sign of life is tied, whichever process renews it.

A node has one session. The sign of life in the shared store names it, so that another process of
the same store (a second agent, an ADD that runs directly) keeps that session and opens no other. No
process writes the sign of life while another incarnation of the node has one. A process that renews
the session checks each time that the sign of life is still the one that was tied to the session.

An agent that ends leaves the session to expire by itself: directly run plugins go on assigning, and
a copy of the store must not take the node's place while its agent is started again.
"""

from __future__ import annotations

import time

from fastipam.cluster.engine import Compare, Put
from fastipam.cluster.errors import ClusterRefused, NoBlock
from fastipam.cluster.schema import SignOfLife
from fastipam.storage.boot import boottime_ns
from fastipam.storage.records.block import RESTORED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.cluster import schema
    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.engine import Engine
    from fastipam.cluster.node.share import Share
    from fastipam.storage.records.block import Member


class Session:
    """The session of a node. Use it only while :class:`NodeLock` is held.

    ``since_ns`` is a time of this boot, read just before the session was last renewed. The session
    ends the settings' ``sessionTTL`` after that time, or later. ``clock`` gives seconds.
    """

    __slots__ = ("_clock", "_engine", "_keys", "_revision", "_share", "_spare", "id", "since_ns")

    def __init__(
        self,
        share: Share,
        engine: Engine,
        keys: schema.Keys,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share = share
        self._engine = engine
        self._keys = keys
        self._clock = clock
        self.id = 0
        self.since_ns = 0
        self._revision = 0  # of the sign of life that is tied to the session
        # A session that was opened and is not tied yet: its id, until when to use it, and the
        # boot time before it was opened.
        self._spare = (0, 0.0, 0)

    def spare(self, deadline: Deadline) -> int:
        """Return a session that is not tied yet: a new one, or that of a failed attempt."""
        if self._clock() >= self._spare[1]:
            began_ns = boottime_ns()
            seconds = self._share.settings.session_s
            session = self._engine.open_session(seconds, deadline_s=deadline.call_s())
            self._spare = (session, self._clock() + seconds / 3, began_ns)
        return self._spare[0]

    def sign(self, member: Member, session: int) -> Put:
        """Return the change that ties the node's sign of life to a session."""
        settings = self._share.settings
        boot = self._share.store.boot_id()
        value = SignOfLife(member.incarnation, boot, session, settings.session_s)
        return Put(self._keys.session(settings.node), value.pack(), session)

    def tied(self, revision: int) -> None:
        """Record that the spare session was tied at this revision of the shared store."""
        self.id, _, self.since_ns = self._spare
        self._revision = revision
        self._spare = (0, 0.0, 0)

    def let_go(self, deadline: Deadline) -> None:
        """Forget which session is kept, because it may not be the node's any more.

        Close the session if the node's store was restored: then it is another node, and assigns
        nothing yet.
        """
        member = self._share.member()
        if self.id and member is not None and member.file == RESTORED:
            self._engine.close_session(self.id, deadline_s=deadline.call_s())
        self.id = self._revision = 0

    def hold(self, deadline: Deadline) -> None:
        """Keep the session of the node's sign of life, or tie one to it if there is none.

        Raises ClusterRefused (the node was removed, or another one of its name is alive), NoBlock,
        EngineError.
        """
        member, name = self._share.member(), self._share.settings.node
        if member is None or not member.revision:
            raise NoBlock("this node is not registered in its cluster")
        key = self._keys.session(name)
        stored = self._engine.get(key, deadline_s=deadline.call_s())
        if stored is not None:
            found = SignOfLife.read(key, stored.value)
            if not found.is_of(member.incarnation, self._share.store.boot_id()):
                self._share.forget_registration()
                raise ClusterRefused(
                    f"there is another node named {name} and it is alive",
                    hint='give this node another name with "node"',
                )
            if found.session and found.ttl_s == self._share.settings.session_s:
                self.id, self._revision = found.session, stored.mod_revision
                if self.keep(deadline):
                    return
        self._tie(member, 0 if stored is None else stored.mod_revision, deadline)

    def _tie(self, member: Member, revision: int, deadline: Deadline) -> None:
        """Tie the sign of life, whose last change was at ``revision``, to a session."""
        key = self._keys.session(self._share.settings.node)
        outcome = self._engine.transact(
            [self._same_entry(member), Compare(key, "mod_revision", revision)],
            [self.sign(member, self.spare(deadline))],
            deadline_s=deadline.call_s(),
        )
        if outcome.succeeded:
            self.tied(outcome.revision)
            return
        self._check_entry(member, deadline)
        raise NoBlock("the session of this node was changed meanwhile")

    def keep(self, deadline: Deadline) -> bool:
        """Renew the session; return False if it has ended or the sign of life is not tied to it.

        Two calls to the shared store.
        """
        began_ns = boottime_ns()
        member = self._share.member()
        if member is None or not member.revision:
            return False
        if self._engine.keep_session(self.id, deadline_s=deadline.call_s()) <= 0:
            return False
        # The session existed after ``began_ns``. If the sign of life is tied to it now, and the
        # entry is this node's, then nobody can have taken the blocks without ``--force``.
        key = self._keys.session(self._share.settings.node)
        outcome = self._engine.transact(
            [self._same_entry(member), Compare(key, "mod_revision", self._revision)],
            [],
            deadline_s=deadline.call_s(),
        )
        if not outcome.succeeded:
            entry = self._keys.node(self._share.settings.node)
            revisions = {one.key: one.mod_revision for one in outcome.existing}
            if revisions.get(entry) != member.revision:
                self._share.forget_registration()
            return False
        self.since_ns = began_ns
        return True

    def _same_entry(self, member: Member) -> Compare:
        return Compare(self._keys.node(self._share.settings.node), "mod_revision", member.revision)

    def _check_entry(self, member: Member, deadline: Deadline) -> None:
        """Raise ClusterRefused unless the node's entry is the one that this node wrote."""
        name = self._share.settings.node
        stored = self._engine.get(self._keys.node(name), deadline_s=deadline.call_s())
        if stored is None or stored.mod_revision != member.revision:
            self._share.forget_registration()
            raise ClusterRefused(f"node {name} was removed meanwhile, or another node has its name")
