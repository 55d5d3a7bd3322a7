"""The registry on the Kubernetes API: every change is one object, compared by its version.

What a key-value store does in one transaction is here a row of single steps, each of which leaves a
block with one owner at most. docs/cluster.md has the invariants I1 to I8 that are named below, the
model that a checker runs, and what happens when a process dies between two steps.
"""

from __future__ import annotations

import time
from contextlib import suppress

from fastipam.addressing.addresses import BITS
from fastipam.cluster.engine import Compacted, EngineError, EngineTimeout, History
from fastipam.cluster.engines.http import local_addresses
from fastipam.cluster.errors import ClusterCorrupt, ClusterRefused, NoBlock
from fastipam.cluster.registries.kubernetes import objects, removal
from fastipam.cluster.registries.kubernetes.client import (
    AlreadyExists,
    Client,
    Conflict,
    NotFound,
)
from fastipam.cluster.registries.kubernetes.lease import Lease
from fastipam.cluster.registries.kubernetes.objects import Place
from fastipam.cluster.registry import Claimed, Counts, Layout, NodeRow, Unsettled
from fastipam.cluster.schema import BlockEntry, Mark, NodeEntry
from fastipam.errors import FastipamError
from fastipam.storage.boot import boottime_ns
from fastipam.storage.records.block import ACTIVE, Heard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.node.share import Share
    from fastipam.cluster.planner import Use
    from fastipam.cluster.registries.kubernetes.calls import Kind
    from fastipam.cluster.registries.kubernetes.watch import Follower
    from fastipam.cluster.registry import Follow, Registry, Request, Requests
    from fastipam.cluster.schema import BlockId
    from fastipam.configuration.address_pools import AddressPool
    from fastipam.configuration.cluster import Geometry
    from fastipam.storage.records.block import Block, Member

_LOOK_S = 300.0  # between two looks at the own entry, without fencing
_TRIES = 8  # to change an entry that somebody else changes meanwhile
_MOST_GIVEN = 32  # blocks that one request is answered with: one write each
_WATCH_S = 300.0
_PAUSE_S = 0.02  # before something is asked again; doubles
_ANSWER_S = 2.0  # between two looks at the own request, while no event tells of its answer
# After lost changes every node claims again what it has. Meanwhile nobody claims another block:
# agents notice within seconds, because their watches end with the API server.
HELD_BACK_S = 20.0
SPREAD_S = 30.0  # in which all nodes compare their blocks, or list again, after a cut history
# etcdctl snapshot restore --bump-revision adds a billion, so that no version comes twice.
_LEAP = 1 << 28
# A node tells what is used of its blocks once a minute at most, and only when its number of blocks
# has changed, or a twentieth of the addresses changed hands.
_REPORT_S = 60.0
_REPORT_PART = 0.05
_REPORT_CALL_S = 1.0  # the keeper has more urgent things to do


class KubernetesRegistry:
    """A node's view of its cluster through the Kubernetes API: see :class:`Registry`.

    ``clock`` gives seconds; ``step`` is called after each change, with a name, for tests.
    """

    store_name = "the Kubernetes API"
    most_given = _MOST_GIVEN
    # When all nodes start at once the API lets requests wait for up to 15 s. Who gives up earlier
    # asks again, which makes the queue longer.
    operation_s = 30.0
    call_s = 15.0

    def __init__(
        self,
        share: Share,
        client: Client,
        clock: Callable[[], float] = time.monotonic,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.share = share
        self.client = client
        self.name = share.settings.node
        self.history = History()
        self.counts = Counts()
        self.step = step
        self._clock = clock
        settings = share.settings
        self.lease = None
        if settings.fencing:
            self.lease = Lease(client, self.name, settings.session_s, clock)
        self.keep_every_s = settings.session_s / 3 if settings.fencing else _LOOK_S
        self.has_signs = settings.fencing
        self._seen_ns = 0  # the time of this boot before the own entry was last seen unchanged
        self._me: Member | None = None  # as this process has registered it
        self._begins_anew = False  # a loss was accepted: what was heard before it counts no more
        self._written = ("", 0)  # uid and generation of the own entry as it was last written
        self._free_at = 0.0  # when new blocks may be claimed again, after lost changes
        self._suspect_at = 0.0  # when to compare all blocks, because the history was cut off
        self._suspicion = ""
        self._followers: dict[Follower, str] = {}  # and their versions when a loss was accepted
        self._in_force: list[AddressPool] | None = None  # pools that a follower has read
        self._ask_at = 0.0  # when to look at the own request
        self._has_answer = False  # a watch has told that the own request was answered
        self._answered_at = 0.0  # when the answer was first seen
        self._is_complete = False  # all that it names has come, or will not come
        self._request_uid = ""  # of the request that this process has made
        self._told: dict[str, Any] | None = None  # the own request with its answer
        self._has_looked = False  # for a request of an earlier process
        self.awaits = False
        self._reported: dict[str, tuple[int, int, int]] | None = None
        # Nodes that start together have more urgent requests, and do not report together.
        self._report_at = clock() + _REPORT_S * (1 + client.chance())

    # This node ------------------------------------------------------------------------------

    def remember(self) -> None:
        """Compare each answer from now on with what this node has heard earlier. Asks nothing."""
        if not self.history.revision and not self._begins_anew:
            heard = self.share.heard()
            self.history.expect(heard.identity, heard.revision)

    def read_era(self, is_new: bool, deadline: Deadline) -> tuple[str | None, bool]:  # noqa: ARG002
        """Return nothing: an object that is not as it was written tells a loss."""
        return None, False

    def heard(self, era: str | None) -> Heard:
        """Return what this node has heard by now, to be noted."""
        return Heard(self.history.identity, self.history.revision, era)

    def pools(self, deadline: Deadline) -> list[AddressPool] | None:
        """Return the pools that are in force, and never None.

        A follower knows them (:meth:`threads`). Without one: one list, from the server's cache.
        """
        if self._in_force is None:
            listed, _ = self.client.list(
                objects.POOLS, from_cache=True, deadline_s=deadline.call_s()
            )
            return _read_pools(listed)
        return self._in_force

    def check_settings(self, deadline: Deadline) -> None:
        """Do nothing: the pools are the cluster's own objects."""

    def register(self, member: Member, deadline: Deadline, *, agent: bool, sign: bool) -> bool:
        """Write this node's entry; return whether it is new. One request for a new node.

        Raises ClusterRefused when another machine has this name.
        """
        boot = self.share.store.boot_id()
        if not member.epoch:
            entry = NodeEntry(member.incarnation, 1, boot, self._addresses(), agent=agent)
            with suppress(AlreadyExists, EngineTimeout):
                made = self._create_entry(entry, deadline)
                self._registered(member, 1, made)
                if sign:
                    self.hold(deadline)
                return True
        for tries in range(_TRIES):
            found = self._get(objects.NODES, self.name, deadline)
            if found is None:
                entry = NodeEntry(
                    member.incarnation, member.epoch + 1, boot, self._addresses(), agent=agent
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
                self.name,
                entry,
                machine_uid=objects.machine_of(found),
                lease=objects.lease_of(found),
                version=objects.version_of(found),
            )
            with suppress(Conflict, NotFound, EngineTimeout):
                made = self.client.replace(objects.NODES, body, deadline_s=deadline.call_s())
                self._hear(made, changed=True)
                self.step("entry")
                self._registered(member, entry.epoch, made)
                return False
            self._pause(tries, deadline)
        raise NoBlock(f"the entry of node {self.name} changes faster than it can be read")

    def _create_entry(self, entry: NodeEntry, deadline: Deadline) -> dict[str, Any]:
        body = objects.node(self.name, entry)
        made = self.client.create(objects.NODES, body, deadline_s=deadline.call_s())
        self._hear(made, changed=True)
        self.step("entry")
        return made

    def _next_entry(
        self, there: NodeEntry, member: Member, boot: str, agent: bool, deadline: Deadline
    ) -> NodeEntry:
        """Return what the entry has to say after ``there``. Raises ClusterRefused, NoBlock."""
        epoch = max(there.epoch, member.epoch)  # an older state of the store may have come back
        is_other = there.incarnation != member.incarnation
        if is_other:
            epoch += 1  # another store, or a removed node that comes back
        if is_other or there.boot not in ("", boot):
            self._check_machine(boot, deadline)
        return NodeEntry(
            member.incarnation, epoch, boot, self._addresses() or there.addresses, agent=agent
        )

    def _check_machine(self, boot: str, deadline: Deadline) -> None:
        """Raise ClusterRefused unless the Node of this name is the machine that this is."""
        found = self._get(objects.MACHINES, self.name, deadline)
        if found is None:
            raise NoBlock(
                f"there is no Node {self.name}, which would say which machine has this name",
                hint='wait until the kubelet has registered; "node" gives another name',
            )
        info = found.get("status", {}).get("nodeInfo", {})
        theirs = str(info.get("bootID") or "")
        if theirs == boot:
            return
        if self.share.member() is not None:
            self.share.forget_registration()
        raise ClusterRefused(
            f"the Node {self.name} is another machine: its boot id is {theirs or 'not known'}, "
            f"and this one's is {boot}",
            hint='give this one another name with "node"; after a reboot the kubelet reports the '
            "new boot id when it starts",
        )

    def _registered(self, member: Member, epoch: int, found: dict[str, Any]) -> None:
        if epoch != member.epoch:
            self._reported = None  # the controller may have written that the node was removed
        member.epoch, member.revision = epoch, objects.version_of(found)
        self._me = member
        self._written = objects.identity_of(found)
        self._seen_ns = boottime_ns()

    def _addresses(self) -> tuple[str, ...]:
        return self.share.settings.addresses or local_addresses(self.client.access.servers[0])

    def owned(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return what is this node's, each stamped with its present epoch (I7). One list.

        One write for each block that another epoch of the node has left, and one read after them
        all: what is there counts only if the node was not removed since (I6).
        """
        member = self._me or self._member()
        listed, version = self.client.list(
            objects.BLOCKS, f"spec.node={self.name}", deadline_s=deadline.call_s()
        )
        found = {objects.read_block(one)[0]: one for one in listed}
        self._hear_list(version)
        if self._suspicion:
            self._suspicion = ""
            mine = self.share.blocks()
            if any(one.state == ACTIVE and (one.family, one.base) not in found for one in mine):
                self._free_at = self._clock() + HELD_BACK_S  # others may miss theirs, too
        stamped: dict[BlockId, BlockEntry] = {}
        for pair, one in found.items():
            kept = self._stamp(one, member, deadline)
            if kept is not None:
                stamped[pair] = kept
        if stamped:
            self._confirm(member, deadline)
        self._begins_anew = False
        if not self._has_looked and member.mark and not self._request_uid:
            self._expect(now=True)  # the request of an earlier process
        self._has_looked = True
        return stamped

    def _stamp(
        self, found: dict[str, Any], member: Member, deadline: Deadline
    ) -> BlockEntry | None:
        """Write the present epoch and address into a block; return it, None if it is gone (I7).

        A deletion that is under way with the version before it then fails.
        """
        for tries in range(_TRIES):
            (family, _), entry = objects.read_block(found)
            via = objects.own_address(self._addresses(), family)
            if entry.node != self.name:
                return None
            if entry.epoch > member.epoch:
                self._outgrow(member, entry.epoch)
            if entry.epoch == member.epoch and (list(entry.via) == via or not via):
                return entry
            body = objects.stamped(found, member.epoch, via)
            with suppress(Conflict, EngineTimeout):
                try:
                    made = self.client.replace(objects.BLOCKS, body, deadline_s=deadline.call_s())
                except NotFound:
                    return None
                self._hear(made, changed=True)
                self.step("stamped")
                return objects.read_block(made)[1]
            self._pause(tries, deadline)
            there = self._get(objects.BLOCKS, objects.name_of(found), deadline)
            if there is None:
                return None
            found = there
        raise NoBlock(f"the block {objects.name_of(found)} changes faster than it can be read")

    def _outgrow(self, member: Member, epoch: int) -> None:
        """Take an epoch after that of a block which this node has. Raises NoBlock.

        The node's entry was deleted, and made anew: its epochs began again.
        """
        member.epoch, member.revision = epoch + 1, 0
        self.share.put_member(member)
        raise NoBlock(
            f"a block of node {self.name} is of epoch {epoch}: this node takes the epoch after it"
        )

    def hold(self, deadline: Deadline) -> None:
        """Take the Lease, with fencing, and name it in the own entry.

        Who ends a node reads its entry, ends its Lease, and then writes the tombstone by the
        version of the entry. A Lease that was made anew between these two steps protects the node
        only because its entry has another version by then. Raises ClusterRefused, NoBlock.
        """
        if self.lease is None:
            return
        member = self._me or self._member()
        self.lease.hold(member.incarnation, deadline)
        self.step("lease")
        found = self._get(objects.NODES, self.name, deadline)
        if found is None or not _is_of(found, member):
            self._confirm(member, deadline)
            raise NoBlock("the entry of this node was changed meanwhile")
        if objects.lease_of(found) != self.lease.uid:
            body = objects.node(
                self.name,
                objects.read_node(found),
                machine_uid=objects.machine_of(found),
                lease=self.lease.uid,
                version=objects.version_of(found),
            )
            try:
                made = self.client.replace(objects.NODES, body, deadline_s=deadline.call_s())
            except (Conflict, NotFound, EngineTimeout):
                self.lease.let_go()
                raise NoBlock("the entry of this node was changed meanwhile") from None
            self._written = objects.identity_of(made)
            self.step("entry")

    def keep(self, deadline: Deadline) -> bool:
        """Renew the Lease, and see the own entry; return False if either is not this node's."""
        began_ns = boottime_ns()
        if self.lease is not None and not self.lease.renew(deadline):
            return False
        found = self._get(objects.NODES, self.name, deadline)
        member = self.share.member()
        if member is None or not member.revision:
            return False
        if not _is_of(found, member):
            self.share.forget_registration()
            self._require_later(found)
            return False
        if self.lease is not None and objects.lease_of(found or {}) != self.lease.uid:
            return False
        assert found is not None
        self._compare_own(objects.identity_of(found))
        self._seen_ns = began_ns
        return True

    @property
    def is_held(self) -> bool:
        """Whether this process keeps the Lease; without fencing there is none to keep."""
        return self.lease is None or self.lease.is_held

    @property
    def proven_ns(self) -> int:
        """The time of this boot before the Lease was last renewed."""
        return self._seen_ns if self.lease is None else self.lease.since_ns

    def let_go(self, deadline: Deadline) -> None:  # noqa: ARG002  # others end a session
        """Forget which Lease is kept."""
        if self.lease is not None:
            self.lease.let_go()

    # Lost changes ---------------------------------------------------------------------------

    @property
    def has_lost_changes(self) -> bool:
        """Whether changes were lost, or may have been, and the blocks are to be compared."""
        if self._suspect_at and self._clock() >= self._suspect_at:
            self._notice()
        return self.history.is_lost

    def hold_back(self, deadline: Deadline) -> None:  # noqa: ARG002  # others write
        """Begin anew with a store that has lost changes; claim no other block for a while."""
        if not self._suspicion:
            self._free_at = self._clock() + HELD_BACK_S
        self._suspect_at = 0.0
        self._written = ("", 0)
        self._begins_anew = True
        for one in list(self._followers):
            self._followers[one] = one.version
            one.begin_anew()
        self.history.accept()

    def learn_history(self, deadline: Deadline) -> None:
        """Do nothing: there is no era."""

    def note(self) -> None:
        """Note in the node's own store how far the API's store has come."""
        self.share.note_heard(self.history.identity, self.history.revision)

    def suspect(self, why: str) -> None:
        """Have all blocks compared soon, and before another one is claimed. For any thread.

        All nodes suspect in the same instant, when the API server has started anew.
        """
        if not self._suspect_at:
            self._suspicion = why
            self._suspect_at = self._clock() + SPREAD_S * self.client.chance()

    def _notice(self) -> None:
        self._suspect_at = 0.0
        with suppress(EngineError):
            self.history.lose(self._suspicion)

    def _compare_own(self, there: tuple[str, int]) -> None:
        """Notice an own object that is not as it was last written. Raises HistoryLost."""
        before, self._written = self._written, there
        if before[0] and before != there:
            self._suspicion = ""
            self.history.lose(
                f"the entry of node {self.name} is not as it was written (its generation is "
                f"{there[1]}, and was {before[1]}): the cluster's store was put back to an older "
                "state, or somebody has edited the entry"
            )

    def _require_later(self, found: dict[str, Any] | None) -> None:
        """Notice that the own entry is older than it was once. Raises HistoryLost.

        Who removes a node writes a later generation of it.
        """
        uid, generation = self._written
        there = ("", 0) if found is None else objects.identity_of(found)
        if uid and (there[0] != uid or there[1] < generation):
            self._compare_own(there)

    def _hear(self, found: dict[str, Any], *, changed: bool = False) -> None:
        """Note the version of an object that was written just now. Raises HistoryLost."""
        self._hear_version(objects.version_of(found), changed=changed)

    def _hear_list(self, version: str) -> None:
        if version.isdigit():
            self._hear_version(int(version))

    def _hear_followers(self) -> None:
        """Note how far the watches have come: what is answered from now on is later."""
        for one, before in list(self._followers.items()):
            if one.version != before and one.version.isdigit():
                self.history.revision = max(self.history.revision, int(one.version))

    def _hear_version(self, version: int, *, changed: bool = False) -> None:
        floor = self.history.begin()
        if floor and not floor - changed < version <= floor + _LEAP:
            self._suspicion = ""
        if floor and version - floor > _LEAP:
            self.history.lose(
                f"the version of the cluster's store has leapt from {floor} to {version}: it was "
                "put back to an older state"
            )
        self.history.hear(0, version, floor, changed=changed)

    # Claims ---------------------------------------------------------------------------------

    def claim(
        self,
        member: Member,
        ids: Sequence[BlockId],
        claimed_ns: int,
        newest: Block | None,  # noqa: ARG002  # others compare it
        deadline: Deadline,
    ) -> Claimed:
        """Create the objects of the blocks, then read the own entry (I6). One write a block.

        What other nodes have is left out: a part of a run may be won.
        """
        if self._suspect_at:
            self._notice()
        self.history.begin()
        self._hear_followers()
        if self._clock() < self._free_at:
            raise NoBlock(
                "the cluster's store was put back to an older state: every node claims again what "
                "it has, before anybody claims another block"
            )
        won: dict[BlockId, int] = {}
        taken: list[BlockId] = []
        for pair in ids:
            try:
                revision = self._create(pair, member, claimed_ns, deadline)
            except Unsettled:
                raise
            except FastipamError as error:
                if won:
                    raise Unsettled(error) from None  # the comparison finds what was won
                raise
            if revision:
                won[pair] = revision
            else:
                taken.append(pair)
        if won:
            try:
                self._confirm(member, deadline)
            except ClusterRefused:
                self._withdraw(won, deadline)
                raise
            except FastipamError as error:
                raise Unsettled(error) from None
        return Claimed(won, taken)

    def claim_again(self, member: Member, block: Block, deadline: Deadline) -> int:
        """Create a lost block's object; return its version, 0 when another node owns it."""
        pair = block.family, block.base
        if self._place(*pair) is None:
            return 0
        try:
            revision = self._create(pair, member, block.claimed_ns, deadline)
        except Unsettled as error:
            raise error.error from None  # it stays lost, and is found by the next comparison
        if revision:
            try:
                self._confirm(member, deadline)
            except ClusterRefused:
                self._withdraw({pair: revision}, deadline)
                raise
        return revision

    def _withdraw(self, won: Mapping[BlockId, int], deadline: Deadline) -> None:
        """Delete what a removed node has claimed; what stays is found when it comes back."""
        with suppress(FastipamError):
            for pair, revision in won.items():
                self._delete(pair, revision, deadline)

    def _create(self, pair: BlockId, member: Member, claimed_ns: int, deadline: Deadline) -> int:
        """Create a block's object until the outcome is known; return its version, 0: another's.

        Raises Unsettled when it may have been created, or may be later.
        """
        place = self._place(*pair)
        if place is None:
            raise NoBlock("the pool of this block is not in force any more")
        via = objects.own_address(self._addresses(), place.family)
        body = objects.block(place, self.name, member.epoch, claimed_ns, via=via)
        is_uncertain = False
        for tries in range(_TRIES):
            try:
                self.counts.transactions += 1
                made = self.client.create(objects.BLOCKS, body, deadline_s=deadline.call_s())
            except AlreadyExists:
                try:
                    found = self._get(objects.BLOCKS, place.name, deadline)
                except FastipamError as error:
                    raise Unsettled(error) from None
                if found is None:
                    self._pause(tries, deadline)
                    continue
                entry = objects.read_block(found)[1]
                mine = (self.name, member.epoch, claimed_ns)
                is_mine = (entry.node, entry.epoch, entry.claimed_ns) == mine
                return entry.revision if is_mine else 0
            except (EngineError, NoBlock) as error:
                if isinstance(error, EngineTimeout) and error.ambiguous:
                    is_uncertain = True
                    self._pause(tries, deadline)
                    continue
                if is_uncertain:
                    raise Unsettled(error) from None
                raise
            self.step("created")
            try:
                self._hear(made, changed=True)
            except EngineError as error:
                raise Unsettled(error) from None  # the comparison settles it
            return objects.version_of(made)
        raise Unsettled(NoBlock(f"what became of the claim of {place.cidr} is not known"))

    def _confirm(self, member: Member, deadline: Deadline) -> None:
        """Raise ClusterRefused unless the own entry is what this node wrote (I6)."""
        found = self._get(objects.NODES, self.name, deadline)
        if not _is_of(found, member):
            self.share.forget_registration()
            raise ClusterRefused(
                f"the entry of node {self.name} was changed: this node was removed meanwhile, "
                "or another one has its name"
            )

    def taken(self, pool: Geometry, numbers: range, deadline: Deadline) -> frozenset[int]:
        """Return those of the blocks that a node owns. One list a window."""
        place = self._place(pool.family, pool.address(numbers.start))
        if place is None:
            return frozenset(numbers)
        selectors = [f"spec.pool={place.pool}"]
        windows = self._windows(pool, numbers)
        if len(windows) == 1:
            selectors.append(f"spec.window={windows[0]}")
        listed, version = self.client.list(
            objects.BLOCKS, ",".join(selectors), deadline_s=_list_s(deadline)
        )
        found = (pool.number(objects.read_block(one)[0][1]) for one in listed)
        taken = frozenset(one for one in found if one is not None)
        self._hear_list(version)
        return taken

    def _windows(self, pool: Geometry, numbers: range) -> list[str]:
        length = BITS[pool.family] - pool.host_bits
        ends = {
            objects.window_of(pool.family, pool.address(number), length)
            for number in (numbers.start, numbers.stop - 1)
        }
        return sorted(ends)

    def release(self, block: Block, deadline: Deadline) -> None:
        """Delete a block's object if it is this node's. Asks until the outcome is known."""
        pair = block.family, block.base
        self._delete(pair, block.revision, deadline)

    def _delete(self, pair: BlockId, revision: int, deadline: Deadline) -> None:
        """Delete an object by its version, as long as it is this node's in no later epoch.

        In a later one it is that of another machine which has this node's name now.
        """
        name = self._name_of(pair, deadline)
        if not name:
            return

        def delete(version: int) -> None:
            self.client.delete(
                objects.BLOCKS, name, version=str(version), deadline_s=deadline.call_s()
            )

        self._write_own(name, revision, delete, "given back", deadline)

    def _write_own(
        self,
        name: str,
        version: int,
        write: Callable[[int], object],
        done: str,
        deadline: Deadline,
    ) -> None:
        """Write to an own block by its version, until the outcome is known or it is another's.

        ``version`` 0: it is read first. ``done`` ends the sentence of the error.
        """
        for tries in range(_TRIES):
            try:
                if version:
                    write(version)
                    return
            except NotFound:
                return
            except Conflict:
                pass
            except EngineTimeout as error:
                if not error.ambiguous:
                    raise
                self._pause(tries, deadline)
                continue
            found = self._get(objects.BLOCKS, name, deadline)
            if found is None or not self._is_mine(found):
                return
            version = objects.version_of(found)
        raise NoBlock(f"the block {name} changes faster than it can be {done}")

    def _name_of(self, pair: BlockId, deadline: Deadline) -> str:
        """Return the name of an own block's object, "" when there is none.

        Of a block that lies in no pool, because that was deleted, only the list tells it.
        """
        place = self._place(*pair)
        if place is not None:
            return place.name
        listed, _ = self.client.list(
            objects.BLOCKS, f"spec.node={self.name}", deadline_s=deadline.call_s()
        )
        return next(
            (objects.name_of(one) for one in listed if objects.read_block(one)[0] == pair), ""
        )

    def _is_mine(self, found: dict[str, Any]) -> bool:
        entry = objects.read_block(found)[1]
        member = self._me or self.share.member()
        return entry.node == self.name and member is not None and entry.epoch <= member.epoch

    def _pause(self, tries: int, deadline: Deadline) -> None:
        """Wait a moment before something is asked again, longer each time."""
        self.client.pause(min(_PAUSE_S * (1 << tries), deadline.left_s()))

    def report(self, uses: Sequence[tuple[Geometry, Use]], deadline: Deadline) -> None:
        """Write what is used into the own entry's status: see ``_REPORT_S``. Raises nothing.

        It changes neither the entry's generation nor what it says of this node.
        """
        now = self._clock()
        if now < self._report_at:
            return
        sums: dict[str, tuple[int, int, int]] = {}
        for pool, one in uses:
            place = self._place(pool.family, pool.address(one.number))
            if place is not None:
                blocks, used, free = sums.get(place.pool, (0, 0, 0))
                sums[place.pool] = blocks + 1, used + one.used, free + one.size - one.used
        if not _is_news(self._reported, sums):
            return
        self._report_at = now + _REPORT_S
        status = {"status": objects.usage(sums)}
        with suppress(FastipamError):
            seconds = min(deadline.call_s(), _REPORT_CALL_S)
            found = self.client.patch_status(objects.NODES, self.name, status, deadline_s=seconds)
            self._reported = sums
            member = self.share.member()
            if member is not None and not _is_of(found, member):
                self.share.forget_registration()  # removed: the entry says so before the next look
                if not objects.read_node(found).incarnation:
                    status = {"status": {"state": "Removed"}}
                    self.client.patch_status(objects.NODES, self.name, status, deadline_s=seconds)

    # Need -----------------------------------------------------------------------------------

    def ask(
        self,
        member: Member,
        mark: Mark,
        deadline: Deadline,
        *,
        brief: bool = False,  # noqa: ARG002  # only an agent asks
    ) -> bool:
        """Create the request of this node, in place of an earlier one; confirm it (I6)."""
        pool = next((one.name for one in self._pools() if one.family == mark.family), "")
        body = objects.request(self.name, mark, pool)
        self._expect(now=False)
        for tries in range(_TRIES):
            with suppress(AlreadyExists, EngineTimeout):
                made = self.client.create(objects.REQUESTS, body, deadline_s=deadline.call_s())
                self.step("asked")
                self._hear(made, changed=True)
                return self._is_still(member, made, deadline)
            self._pause(tries, deadline)
            found = self._get(objects.REQUESTS, self.name, deadline)
            if found is None:
                continue
            if found.get("spec", {}).get("number") == mark.number:
                return self._is_still(member, found, deadline)
            self._withdraw_request(found, deadline)
        raise NoBlock("the request of this node changes faster than it can be read")

    def _is_still(self, member: Member, request: dict[str, Any], deadline: Deadline) -> bool:
        """Return whether this node was not removed before it has asked; else withdraw that."""
        self._request_uid = objects.uid_of(request)
        try:
            self._confirm(member, deadline)
        except ClusterRefused:
            self._withdraw_request(request, deadline)
            return False
        return True

    def _expect(self, *, now: bool) -> None:
        """Look for an answer to the own request: now, or when a watch or the time says so."""
        self.awaits, self._has_answer, self._told = True, now, None
        self._ask_at, self._answered_at = self._clock() + _ANSWER_S, 0.0

    def _withdraw_request(self, found: dict[str, Any], deadline: Deadline) -> bool:
        """Delete the request as it was read; return whether it is gone. Its uid names it."""
        try:
            self.client.delete(
                objects.REQUESTS,
                self.name,
                uid=objects.uid_of(found),
                version=str(objects.version_of(found)),
                deadline_s=deadline.call_s(),
            )
        except (Conflict, EngineTimeout):
            return False
        return True

    def unask(self, deadline: Deadline) -> None:
        """Delete the request of this node, if nobody has answered it. Idempotent.

        If somebody has, :meth:`granted` waits for what he gives, and deletes it then.
        """
        if not self.awaits and not self._request_uid:
            return
        found = self._get(objects.REQUESTS, self.name, deadline)
        if found is None:
            self.awaits = False
        elif objects.answered_by(found):
            self._has_answer = True
        else:
            self.awaits = not self._withdraw_request(found, deadline)
        self._request_uid = ""

    def is_asked(self, deadline: Deadline) -> bool:
        """Return whether the request waits for an answer, or for what it promises. One read."""
        found = self._get(objects.REQUESTS, self.name, deadline)
        if found is None:
            return False
        if objects.answered_by(found):
            self._has_answer = True
            return not self._answered_at or self._clock() < self._answered_at + _ANSWER_S
        return True

    def granted(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return the blocks that the answer to the own request names, stamped (I7).

        Asks nothing while no watch tells of an answer; every two seconds it looks itself. From the
        answer on it looks at each call, for two seconds, until all blocks have come.
        """
        now = self._clock()
        if not self.awaits or (not self._has_answer and now < self._ask_at):
            return {}
        self._ask_at = now + _ANSWER_S
        found = self._told  # an answer does not change
        if found is None or objects.uid_of(found) != self._request_uid:
            found = self._get(objects.REQUESTS, self.name, deadline)
        if found is None:
            self.awaits = self._has_answer = False
            return {}
        if not objects.answered_by(found):
            self._has_answer = False
            if not self._request_uid:  # an earlier process has asked
                self.awaits = not self._withdraw_request(found, deadline)
            return {}
        self._has_answer, self._told = True, found
        self._answered_at = self._answered_at or now
        member = self._me or self._member()
        mine: dict[BlockId, BlockEntry] = {}
        is_coming = False
        for name in objects.given(found):
            there = self._get(objects.BLOCKS, name, deadline)
            if there is None:
                continue  # given up by the donor, and free: the next search finds it
            pair, entry = objects.read_block(there)
            is_coming = is_coming or entry.node == objects.answered_by(found)
            kept = self._stamp(there, member, deadline)
            if kept is not None:
                mine[pair] = kept
        if mine:
            self._confirm(member, deadline)
        self._is_complete = not is_coming or now >= self._answered_at + _ANSWER_S
        known = {(one.family, one.base) for one in self.share.blocks()}
        if known.issuperset(mine):
            self.collected((), deadline)
        return mine

    def look_for_an_answer(self) -> None:
        """Have the next :meth:`granted` look at the own request."""
        self.awaits = self._has_answer = True

    def collected(self, ids: Sequence[BlockId], deadline: Deadline) -> None:  # noqa: ARG002
        """Delete the request when all that its answer names has come, or will not come."""
        if not self._is_complete:
            return
        found, self._told = self._told, None
        found = found or self._get(objects.REQUESTS, self.name, deadline)
        if found is None or self._withdraw_request(found, deadline):
            self._request_uid = ""
            self.awaits = self._has_answer = self._is_complete = False

    def hand_over(
        self, request: Request, blocks: Sequence[Block], claimed_ns: int, deadline: Deadline
    ) -> bool:
        """Answer a request, then give it the blocks, one write each.

        The answer moves no block. Until the first write to one it can be taken for a definite no
        (I4); from there on each write is repeated until its outcome is known.
        """
        places = [self._place(block.family, block.base) for block in blocks]
        if None in places or not self._answer(request, places, deadline):
            return False
        self.step("answered")
        grant = {"request": request.uid, "number": request.mark.number, "from": self.name}
        for block, place in zip(blocks, places, strict=True):
            assert place is not None
            try:
                self._give(place, request, block.revision, claimed_ns, grant, deadline)
            except FastipamError as error:
                raise Unsettled(error) from None
            self.step("given")
        return True

    def _answer(self, request: Request, places: Sequence[Place | None], deadline: Deadline) -> bool:
        """Write this node's name into a request, if no other node has (one answers, once).

        One write if the request is as a watch has told it.
        """
        names = [place.name for place in places if place is not None]
        found: dict[str, Any] | None = objects.as_told(request)
        for tries in range(_TRIES):
            if tries:
                found = self._get(objects.REQUESTS, request.needy, deadline)
            if found is None or objects.uid_of(found) != request.uid:
                return False
            if donor := objects.answered_by(found):  # it may be an answer whose receipt was lost
                return donor == self.name and objects.given(found) == names
            body = objects.answer(found, self.name, names)
            with suppress(Conflict, EngineTimeout):
                try:
                    self.client.replace(
                        objects.REQUESTS, body, "status", deadline_s=deadline.call_s()
                    )
                except NotFound:
                    return False
                except Conflict:
                    if not tries:
                        return False  # somebody else has answered, or a watch tells it anew
                    raise
                return True
            self._pause(tries, deadline)
        return False

    def _give(
        self,
        place: Place,
        request: Request,
        revision: int,
        claimed_ns: int,
        grant: dict[str, Any],
        deadline: Deadline,
    ) -> None:
        """Write the needy node's name into a block that is this node's, until that is known."""

        def give(version: int) -> None:
            body = objects.block(
                place,
                request.needy,
                request.mark.epoch,
                claimed_ns,
                grant=grant,
                version=version,
            )
            self.client.replace(objects.BLOCKS, body, deadline_s=deadline.call_s())

        self._write_own(place.name, revision, give, "handed over", deadline)

    def follow_requests(self, requests: Requests, is_over: Callable[[], bool]) -> None:
        """Tell of the requests of other nodes. One long connection; raises nothing."""

        def see(kind: str, found: dict[str, Any]) -> None:
            request = None if kind == "DELETED" else self.read_request(found)
            if request is None:
                requests.forget(objects.name_of(found))
            else:
                requests.see(request)

        self._follow(objects.REQUESTS, see, is_over)

    def threads(self, wake: Callable[[], object]) -> list[tuple[str, Follow]]:
        """Return what another thread has to run: the following of the pools."""
        known: dict[str, dict[str, Any]] = {}
        is_whole = False

        def see(kind: str, found: dict[str, Any]) -> None:
            if kind == "DELETED":
                known.pop(objects.name_of(found), None)
            else:
                known[objects.name_of(found)] = found
            if is_whole:
                tell()

        def tell() -> None:
            nonlocal is_whole
            is_whole = True
            self._in_force = _read_pools(known.values())
            wake()

        return [("cluster-pools", lambda is_over: self._follow(objects.POOLS, see, is_over, tell))]

    def _follow(
        self,
        kind: Kind,
        see: Callable[[str, dict[str, Any]], object],
        is_over: Callable[[], bool],
        synced: Callable[[], object] = lambda: None,
    ) -> None:
        """Follow a kind until ``is_over``. A history that was cut off is a reason to compare."""
        from fastipam.cluster.registries.kubernetes.watch import Follower

        def note(error: Exception) -> None:
            if isinstance(error, Compacted):
                self.suspect("the API's history does not go back to what this node has heard")
            _log(self.share.network.name, kind, error)

        follower = Follower(
            self.client,
            kind,
            see,
            on_synced=synced,
            on_error=note,
            spread_s=SPREAD_S,
            sleep=self.client.pause,
        )
        self._followers[follower] = ""
        follower.run(is_over)

    def read_request(self, found: dict[str, Any]) -> Request | None:
        """Return a request that waits for an answer; note when the own one has it."""
        if objects.answered_by(found):
            if objects.name_of(found) == self.name:
                self._told = found
                self.look_for_an_answer()
            return None
        try:
            request = objects.read_request(found, self._families())
        except ClusterCorrupt:
            return None
        return request if request.mark.family else None

    # Everybody ------------------------------------------------------------------------------

    def blocks(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return every owned block, in address order. O(blocks of all)."""
        listed, _ = self.client.list(objects.BLOCKS, deadline_s=_list_s(deadline))
        return dict(sorted(objects.read_block(one) for one in listed))

    def nodes(self, deadline: Deadline) -> list[NodeRow]:
        """Return every node that ever registered. Three lists."""
        listed, _ = self.client.list(objects.NODES, deadline_s=_list_s(deadline))
        asking, _ = self.client.list(objects.REQUESTS, deadline_s=_list_s(deadline))
        needy = {objects.name_of(one) for one in asking if not objects.answered_by(one)}
        entries = {objects.name_of(one): objects.read_node(one) for one in listed}
        machines, _ = self.client.list(objects.MACHINES, deadline_s=_list_s(deadline))
        ready = {objects.name_of(one) for one in machines if _is_ready(one)}
        return [
            NodeRow(name, entry, alive=name in ready, needy=name in needy)
            for name, entry in sorted(entries.items())
        ]

    def contradictions(
        self, entries: Mapping[BlockId, BlockEntry], deadline: Deadline
    ) -> list[tuple[str, BlockId, str]]:
        """Return the blocks that an earlier epoch of their owner has left."""
        listed, _ = self.client.list(objects.NODES, deadline_s=_list_s(deadline))
        epochs = {objects.name_of(one): objects.read_node(one).epoch for one in listed}
        return [
            (entry.node, pair, f"it is of epoch {entry.epoch}, and its owner is in {epoch}")
            for pair, entry in entries.items()
            if (epoch := epochs.get(entry.node, entry.epoch)) != entry.epoch
        ]

    def layout(self, deadline_s: float) -> Layout:
        """Return who owns what, and where: the blocks say it themselves. One list."""
        listed, version = self.client.list(objects.BLOCKS, deadline_s=deadline_s)
        blocks = dict(objects.read_block(one) for one in listed)
        addresses: dict[str, list[str]] = {}
        for entry in blocks.values():
            addresses.setdefault(entry.node, []).extend(entry.via)
        return Layout(dict(sorted(blocks.items())), addresses, int(version or 0))

    def changes(self, revision: int, wait_s: float) -> Iterator[tuple[bool, int]]:
        """Yield whether a block has changed; ends when the layout is to be read again."""
        try:
            watch = self.client.watch(objects.BLOCKS, str(revision), deadline_s=_WATCH_S)
        except Compacted:
            return
        try:
            while not watch.is_over:
                event = watch.wait(wait_s)
                if event is None:
                    yield False, revision
                    continue
                revision = max(revision, objects.version_of(event[1]))
                if event[0] != "BOOKMARK":
                    yield True, revision
        except Compacted:
            return
        finally:
            watch.close()

    def settings_text(self, deadline: Deadline) -> str | None:
        """Return the pools that are in force, None when there are none. One list."""
        found = self.pools(deadline) or []
        return self.share.settings.with_pools(found).text if found else None

    def found_cluster(self, deadline: Deadline) -> str | None:  # noqa: ARG002  # others write
        """Raise ClusterRefused: the pools are objects that people make."""
        raise ClusterRefused(
            "the pools of this cluster are objects of the Kubernetes API",
            hint="kubectl apply an AddressPool; kubectl get addresspools shows those there are",
        )

    def is_alive(self, name: str, deadline: Deadline) -> bool:
        """Return whether the Node of this name is there and ready. One read."""
        found = self._get(objects.MACHINES, name, deadline)
        return found is not None and _is_ready(found)

    def end(self, name: str, deadline: Deadline, *, force: bool) -> int | None:
        """Write the tombstone of a node (I5); return its epoch, None when there is no such node."""

        def check() -> None:
            if not force and self.is_alive(name, deadline):
                raise ClusterRefused(f"node {name} is alive: its Node object is Ready")
            if not force and self._get(objects.LEASES, name, deadline) is not None:
                raise ClusterRefused(
                    f"node {name} may be alive: it has a Lease, which says that no address of its "
                    "blocks may be given to others"
                )

        return removal.end(self.client, name, deadline, check=check, step=self.step)

    def take_back(self, name: str, deadline: Deadline) -> int:
        """Delete the blocks of a removed node by their versions; return how many."""
        return removal.take_back(self.client, name, deadline, step=self.step)

    def problem(self, *, deadline_s: float) -> str:
        """Return what is wrong with the API, or an empty text. One list."""
        self.client.list(objects.POOLS, from_cache=True, deadline_s=deadline_s)
        return ""

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self.client.close()

    # Parts ----------------------------------------------------------------------------------

    def _get(self, kind: Kind, name: str, deadline: Deadline) -> dict[str, Any] | None:
        return self.client.get(kind, name, deadline_s=deadline.call_s())

    def _member(self) -> Member:
        member = self.share.member()
        if member is None or not member.incarnation:
            raise NoBlock("this node is not registered in its cluster")
        return member

    def _pools(self) -> Sequence[AddressPool]:
        return self.share.settings.pools

    def _families(self) -> dict[str, int]:
        return {one.name: one.family for one in self._pools()}

    def _place(self, family: int, base: int) -> Place | None:
        """Return a block as the API names it, None when it lies in no pool that is in force."""
        for one in self._pools():
            low = one.whole()
            if one.family == family and low[1] <= base <= low[2]:
                return Place(family, base, one.block_length, one.name)
        return None


def _list_s(deadline: Deadline) -> float:
    """Return the seconds for a list, which is many requests. Raises NoBlock if none are left."""
    return max(deadline.call_s(), deadline.left_s())


def _read_pools(listed: Iterable[dict[str, Any]]) -> list[AddressPool]:
    """Return those of the pools that are in force, by name."""
    found = (objects.read_pool(one) for one in listed)
    return sorted((one for one in found if one is not None), key=lambda one: one.name)


def _log(network: str, kind: Kind, error: Exception) -> None:
    import logging  # no direct ADD comes here

    log = logging.getLogger("fastipam.cluster")
    if isinstance(error, FastipamError):
        log.debug("network=%s watch of %s: %s", network, kind.plural, error)
    else:
        log.error("network=%s a defect in the watch", network, exc_info=error)


def _is_news(
    before: dict[str, tuple[int, int, int]] | None, after: dict[str, tuple[int, int, int]]
) -> bool:
    """Return whether what is used of the blocks of some pool has changed so much that it is told.

    The numbers are blocks, used addresses, free ones.
    """
    if before is None or before.keys() != after.keys():
        return True
    return any(
        one[0] != after[name][0]
        or abs(one[1] - after[name][1]) >= _REPORT_PART * (after[name][1] + after[name][2])
        for name, one in before.items()
    )


def _is_of(found: dict[str, Any] | None, member: Member) -> bool:
    """Return whether an entry is of this incarnation and epoch of a node."""
    if found is None:
        return False
    entry = objects.read_node(found)
    return (entry.incarnation, entry.epoch) == (member.incarnation, member.epoch)


def _is_ready(machine: dict[str, Any]) -> bool:
    """Return whether a Node object says that its kubelet is ready."""
    conditions = machine.get("status", {}).get("conditions") or ()
    return any(
        isinstance(one, dict) and one.get("type") == "Ready" and one.get("status") == "True"
        for one in conditions
    )


if TYPE_CHECKING:

    def _is_registry(one: KubernetesRegistry) -> Registry:
        return one
