"""The registry on a key-value store: every change is one transaction over all keys it concerns."""

from __future__ import annotations

import time

from fastipam.addressing.addresses import BITS
from fastipam.cluster import schema
from fastipam.cluster.deadline import CALL_S
from fastipam.cluster.engine import (
    MAX_OPERATIONS,
    Compacted,
    Compare,
    Delete,
    EngineError,
    EngineFull,
    EngineTimeout,
    HistoryLost,
    Outcome,
    Put,
)
from fastipam.cluster.errors import (
    ClusterCorrupt,
    ClusterRefused,
    NoBlock,
    entry_changed,
    not_written,
)
from fastipam.cluster.planner import backoff_s
from fastipam.cluster.registries.keyvalue.losses import Losses
from fastipam.cluster.registries.keyvalue.registration import ENTRY_TRIES, Registration
from fastipam.cluster.registries.keyvalue.session import Session
from fastipam.cluster.registries.lost_watch import log_lost_watch
from fastipam.cluster.registry import (
    Claimed,
    Counts,
    Layout,
    Namespace,
    NodeRow,
    Request,
    Unsettled,
)
from fastipam.cluster.schema import BlockEntry, Mark, NodeEntry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.engine import Engine
    from fastipam.cluster.node.share import Share
    from fastipam.cluster.planner import Use
    from fastipam.cluster.registry import Condition, Follow, Owners, Registry, Requests
    from fastipam.cluster.schema import BlockId
    from fastipam.configuration.address_pools import AddressPool
    from fastipam.configuration.cluster import Geometry
    from fastipam.storage.records.block import Block, Heard, Member

# Blocks of a donation: three operations each, and one for the mark, in one transaction.
_MOST_DONATED = (MAX_OPERATIONS - 1) // 3
_FREED_AT_ONCE = 32  # blocks of a removed node: two deletions each
_BRIEF_S = 10  # nodes answer within a second; the mark of a killed plugin expires after this
_LIST_S = 5.0
_WATCH_S = 30.0


class KeyValueRegistry:
    """A node's view of a cluster's key-value store: see :class:`Registry`.

    ``clock`` gives seconds.
    """

    store_name = "etcd"
    most_given = _MOST_DONATED
    has_signs = True
    alive_text = "its agent keeps its session"
    alive_hint = "stop its agent; its session ends sessionTTL later"
    operation_s = 5.0
    call_s = CALL_S

    def __init__(
        self, share: Share, engine: Engine, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.share = share
        self.engine = engine
        self.name = share.settings.node
        self.keys = schema.Keys(share.settings.prefix, share.network.name)
        self.counts = Counts()
        self.keep_every_s = share.settings.session_s / 3
        self.session = Session(share, engine, self.keys, clock)
        self.losses = Losses(share, engine, self.keys)
        self.registration = Registration(share, engine, self.keys, self.session)
        self.history = engine.history
        self._brief = 0  # the session of a request that ends by itself

    # This node ------------------------------------------------------------------------------

    def remember(self) -> None:
        """Compare each later answer with the state that this node knew earlier. No request."""
        self.losses.remember()

    def register(self, member: Member, deadline: Deadline, *, agent: bool, sign: bool) -> bool:
        """Write this node's entry and, with ``sign``, its first sign of life. One transaction."""
        return self.registration.register(member, deadline, agent=agent, sign=sign)

    def addresses(self) -> tuple[str, ...]:
        """Return the addresses of this node."""
        return self.registration.addresses()

    def pools(self, deadline: Deadline) -> list[AddressPool] | None:  # noqa: ARG002  # no request
        """Return None: the pools are in the settings."""
        return None

    def namespace(self, name: str, deadline: Deadline) -> Namespace:  # noqa: ARG002  # no request
        """Return a namespace without labels and annotations: there are none in etcd."""
        return Namespace({}, {})

    def check_settings(self, deadline: Deadline) -> None:
        """Raise ClusterRefused unless this node's settings equal the cluster's."""
        self.registration.check_settings(deadline)

    def read_era(self, is_new: bool, deadline: Deadline) -> tuple[str | None, bool]:
        """Return the era, and whether it is not the one that this node knows. One read."""
        if is_new:
            return None, False
        known = self.share.heard().era
        era = self.losses.read_era(deadline)
        return era, era != (known or "")

    def heard(self, era: str | None) -> Heard:
        """Return the state of the shared store that this node knows, to be stored."""
        return self.losses.heard(era)

    def owned(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return this node's blocks, as the shared store lists them. One read."""
        listed, _ = self.engine.list(self.keys.owned_by(self.name), deadline_s=deadline.call_s())
        return schema.read_blocks(listed)

    def hold(self, deadline: Deadline) -> None:
        """Tie the sign of life to a session, unless it is tied to one."""
        self.session.hold(deadline)

    def keep(self, deadline: Deadline) -> bool:
        """Renew the session; return False if it has ended, or the entry was changed."""
        return self.session.keep(deadline)

    @property
    def is_held(self) -> bool:
        """Whether this process keeps the node's session."""
        return bool(self.session.id)

    @property
    def proven_ns(self) -> int:
        """A time of this boot, read just before the session was last renewed."""
        return self.session.since_ns

    def let_go(self, deadline: Deadline) -> None:
        """Stop renewing the session."""
        self.session.let_go(deadline)

    # Lost changes ---------------------------------------------------------------------------

    def look(self, deadline: Deadline) -> None:
        """Do nothing: each answer shows whether changes were lost."""

    def hold_back(self, deadline: Deadline) -> None:
        """Stop all nodes from claiming new blocks for a while, because changes were lost."""
        self.losses.hold_back(deadline)

    def learn_history(self, deadline: Deadline) -> None:
        """Read the era, unless this node knows one."""
        if not self.losses.knows_era():
            self.losses.learn_era(deadline)

    @property
    def has_lost_changes(self) -> bool:
        """Whether a loss was noticed and not accepted yet."""
        return self.history.is_lost

    def note(self) -> None:
        """Record in the node's store the latest revision that was seen of the shared store."""
        self.losses.note()

    # Claims ---------------------------------------------------------------------------------

    def claim(
        self,
        member: Member,
        ids: Sequence[BlockId],
        claimed_ns: int,
        newest: Block | None,
        deadline: Deadline,
    ) -> Claimed:
        """Claim all of the blocks or none, in one transaction.

        If the shared store does not have the claim of ``newest``, it has lost changes.
        """
        entry = BlockEntry(self.name, member.epoch, claimed_ns)
        conditions, operations = self._claim(member, ids, entry)
        conditions += self.losses.conditions(newest)
        outcome = self._ask_until_known(ids, conditions, operations, deadline)
        if outcome.succeeded:
            return Claimed(dict.fromkeys(ids, outcome.revision))
        existing = {one.key: one for one in outcome.existing}
        theirs = [self.keys.block(*each) for each in ids if self.keys.block(*each) in existing]
        # If all of the blocks have our own value, an earlier request of this claim succeeded.
        if sum(existing[key].value == entry.pack() for key in theirs) == len(ids):
            return Claimed(dict.fromkeys(ids, existing[theirs[-1]].mod_revision))
        node = existing.get(self.keys.node(self.name))
        if node is None or node.mod_revision != member.revision:
            self.share.forget_registration()
            raise entry_changed(self.name)
        self.losses.check(existing, newest)
        return Claimed({}, [schema.read_block_key(key) for key in theirs])

    def claim_again(self, member: Member, block: Block, deadline: Deadline) -> int:
        """Claim a lost block in one transaction; return its revision, 0 if another node owns it."""
        entry = BlockEntry(self.name, member.epoch, block.claimed_ns)
        conditions, operations = self._claim(member, [(block.family, block.base)], entry)
        if not block.revision:  # not this node's block when the shared store lost changes
            conditions.append(self.losses.nobody_holds_back())
        outcome = self.engine.transact(conditions, operations, deadline_s=deadline.call_s())
        return outcome.revision if outcome.succeeded else 0

    def _claim(
        self, member: Member, ids: Sequence[BlockId], entry: BlockEntry
    ) -> tuple[list[Compare], list[Put | Delete]]:
        """Return the transaction of a claim: all of the blocks, or none."""
        conditions = [self._same_entry(member)]
        conditions += [Compare(self.keys.block(*each), "absent") for each in ids]
        value = entry.pack()
        operations: list[Put | Delete] = [Put(self.keys.block(*each), value) for each in ids]
        operations += [Put(self.keys.owned(self.name, *each), value) for each in ids]
        return conditions, operations

    def _same_entry(self, member: Member) -> Compare:
        return Compare(self.keys.node(self.name), "mod_revision", member.revision)

    def _ask_until_known(
        self,
        ids: Sequence[BlockId],
        conditions: Sequence[Compare],
        operations: Sequence[Put | Delete],
        deadline: Deadline,
    ) -> Outcome:
        """Send a claim until its outcome is known. Raises Unsettled if it may have succeeded."""
        is_uncertain = False
        while True:
            try:
                seconds = deadline.call_s()
                self.counts.transactions += 1
                return self.engine.transact(conditions, operations, deadline_s=seconds)
            except HistoryLost as error:
                raise Unsettled(error) from None  # comparing all blocks settles the claim
            except EngineFull as error:
                made = self._made(ids, operations, deadline)
                if made is not None:
                    return made
                if is_uncertain:
                    raise Unsettled(error) from None
                raise
            except (EngineError, NoBlock) as error:
                if isinstance(error, EngineTimeout) and error.ambiguous:
                    # Repeat it. If the claim was made, it fails now and shows our own value.
                    is_uncertain = True
                    continue
                if is_uncertain:
                    raise Unsettled(error) from None
                raise

    def _made(
        self, ids: Sequence[BlockId], operations: Sequence[Put | Delete], deadline: Deadline
    ) -> Outcome | None:
        """Return the outcome of a claim that succeeded although the store says that it is full."""
        found = [
            self.engine.get(self.keys.block(*each), deadline_s=deadline.call_s()) for each in ids
        ]
        wanted = {one.key: one.value for one in operations if isinstance(one, Put)}
        mine = [one for one in found if one is not None and one.value == wanted[one.key]]
        return Outcome(False, 0, mine) if len(mine) == len(ids) else None

    def taken(self, pool: Geometry, numbers: range, deadline: Deadline) -> frozenset[int]:
        """Return the blocks among these that some node owns. One read."""
        shared_bits = BITS[pool.family] - pool.host_bits - (len(numbers).bit_length() - 1)
        prefix = self.keys.blocks_of(pool.family, pool.address(numbers.start), shared_bits)
        listed, _ = self.engine.list(prefix, deadline_s=deadline.call_s())
        found = (pool.number(schema.read_block_key(one.key)[1]) for one in listed)
        return frozenset(one for one in found if one is not None)

    def owner(self, pair: BlockId, deadline: Deadline) -> BlockEntry | None:
        """Return the owner of a block, or None when nobody owns it. One read."""
        found = self.engine.get(self.keys.block(*pair), deadline_s=deadline.call_s())
        return None if found is None else BlockEntry.read(found.key, found.value)

    def assigned(self, deadline: Deadline) -> frozenset[BlockId]:  # noqa: ARG002  # no request
        """Return nothing: nodes claim what they need."""
        return frozenset()

    def release(self, block: Block, deadline: Deadline) -> None:
        """Make a block free if it is this node's. Repeats until the outcome is known."""
        key = self.keys.block(block.family, block.base)
        owned = self.keys.owned(self.name, block.family, block.base)
        revision = block.revision
        while True:
            try:
                outcome = self.engine.transact(
                    [Compare(key, "mod_revision", revision)],
                    [Delete(key), Delete(owned)],
                    deadline_s=deadline.call_s(),
                )
            except EngineTimeout as error:
                if not error.ambiguous:
                    raise
                continue
            if outcome.succeeded or not outcome.existing:
                return
            (existing,) = outcome.existing
            if BlockEntry.read(key, existing.value).node != self.name:
                return
            revision = existing.mod_revision

    def report(
        self,
        uses: Sequence[tuple[Geometry, Use]],
        deadline: Deadline,
        routes: Condition | None = None,
    ) -> None:
        """Do nothing: there is no object in etcd for it; the agents' metrics report it."""

    # Need -----------------------------------------------------------------------------------

    def ask(self, member: Member, mark: Mark, deadline: Deadline, *, brief: bool = False) -> bool:
        """Write this node's mark; it is deleted with the session, or by the node that answers."""
        session = self.session.id
        if brief:
            self._brief = session = self.engine.open_session(_BRIEF_S, deadline_s=deadline.call_s())
        outcome = self.engine.transact(
            [self._same_entry(member)],
            [Put(self.keys.mark(self.name), mark.pack(), session)],
            deadline_s=deadline.call_s(),
        )
        return outcome.succeeded

    @property
    def awaits(self) -> bool:
        """Always False: a donor answers a mark and hands its blocks over in one transaction."""
        return False

    def unask(self, deadline: Deadline) -> None:
        """Delete the mark; a brief mark is deleted by closing its session."""
        if self._brief:
            session, self._brief = self._brief, 0
            self.engine.close_session(session, deadline_s=deadline.call_s())
        else:
            mark = Delete(self.keys.mark(self.name))
            self.engine.transact([], [mark], deadline_s=deadline.call_s())

    def is_asked(self, deadline: Deadline) -> bool:
        """Return whether the mark exists. One read."""
        key = self.keys.mark(self.name)
        return self.engine.get(key, deadline_s=deadline.call_s()) is not None

    def granted(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return this node's blocks, as the shared store lists them. One read."""
        return self.owned(deadline)

    def collected(self, ids: Sequence[BlockId], deadline: Deadline) -> None:
        """Do nothing: the node that answered the mark has deleted it."""

    def hand_over(
        self,
        request: Request,
        blocks: Sequence[Block],
        claimed_ns: int,
        deadline: Deadline,
    ) -> bool:
        """Hand over the blocks and delete the mark in one transaction: one node answers, once."""
        needy, mark = request.needy, self.keys.mark(request.needy)
        value = BlockEntry(needy, request.mark.epoch, claimed_ns, request.mark.number).pack()
        conditions = [Compare(mark, "mod_revision", request.revision)]
        operations: list[Put | Delete] = [Delete(mark)]
        for block in blocks:
            key = self.keys.block(block.family, block.base)
            conditions.append(Compare(key, "mod_revision", block.revision))
            operations.append(Put(key, value))
            operations.append(Put(self.keys.owned(needy, block.family, block.base), value))
            operations.append(Delete(self.keys.owned(self.name, block.family, block.base)))
        try:
            outcome = self.engine.transact(conditions, operations, deadline_s=deadline.call_s())
        except (EngineFull, HistoryLost) as error:
            raise Unsettled(error) from None
        except EngineTimeout as error:
            if error.ambiguous:
                raise Unsettled(error) from None
            raise
        return outcome.succeeded

    def marks(self, deadline_s: float) -> tuple[list[Request], int]:
        """Return the marks that can be read, and the revision to watch from. One list request."""
        listed, revision = self.engine.list(self.keys.wanted, deadline_s=deadline_s)
        read = (self._request(one.key, one.value, one.mod_revision) for one in listed)
        return [one for one in read if one is not None], revision

    def follow_requests(
        self,
        requests: Requests,
        is_over: Callable[[], bool],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Watch the marks until ``is_over``; after a lost watch list them again. Raises nothing."""
        failures = revision = 0
        while not is_over():
            try:
                if not revision:
                    listed, revision = self.marks(_LIST_S)
                    requests.replace(listed)
                revision = self._tell_events(requests, revision)
                failures = 0
            except Compacted:
                revision = 0
            except Exception as error:
                revision = 0
                failures += 1
                if isinstance(error, HistoryLost):
                    requests.wake()  # the keeper compares the blocks
                log_lost_watch(self.share.network.name, "watch lost", error)
                if not is_over():
                    sleep(backoff_s(self.name, failures))

    def _tell_events(self, requests: Requests, revision: int) -> int:
        """Wait for changes of the marks, and report them; return the revision so far."""
        events, revision = self.engine.watch(self.keys.wanted, revision, deadline_s=_WATCH_S)
        for event in events:
            if event.kind == "delete":
                requests.forget(schema.name_of(event.key))
                continue
            request = self._request(event.key, event.value, event.revision)
            if request is not None:
                requests.see(request)
        return revision

    def follow_blocks(
        self,
        owners: Owners,
        is_over: Callable[[], bool],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Report the owners of all blocks; their addresses come from the nodes' entries."""
        from fastipam.cluster.registries.keyvalue.following import Following

        Following(self.share, self.engine, self.keys, self.layout, owners).run(is_over, sleep)

    def threads(self, wake: Callable[[], object]) -> list[tuple[str, Follow]]:  # noqa: ARG002
        """Return nothing: the settings of etcd do not change."""
        return []

    def _request(self, key: bytes, value: bytes, revision: int) -> Request | None:
        """Return a mark as a request, or log that it cannot be read and return None."""
        try:
            return Request(schema.name_of(key), Mark.read(key, value), revision)
        except ClusterCorrupt as error:  # the other marks must be answered nevertheless
            import logging  # imported late: a direct ADD seldom needs it

            log = logging.getLogger("fastipam.cluster")
            log.warning("network=%s %s", self.share.network.name, error)
            return None

    # Everybody ------------------------------------------------------------------------------

    def blocks(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return every owned block, in address order. O(blocks of all nodes), one list."""
        listed, _ = self.engine.list(self.keys.blocks, deadline_s=deadline.call_s())
        return schema.read_blocks(listed)

    def nodes(self, deadline: Deadline) -> list[NodeRow]:
        """Return every node that ever registered. Three lists."""
        engine, keys = self.engine, self.keys
        nodes, _ = engine.list(keys.nodes, deadline_s=deadline.call_s())
        sessions, _ = engine.list(keys.sessions, deadline_s=deadline.call_s())
        marks, _ = engine.list(keys.wanted, deadline_s=deadline.call_s())
        alive = {schema.name_of(one.key) for one in sessions}
        needy = {schema.name_of(one.key) for one in marks}
        rows = []
        for one in nodes:
            name, entry = schema.name_of(one.key), NodeEntry.read(one.key, one.value)
            rows.append(NodeRow(name, entry, alive=name in alive, needy=name in needy))
        return rows

    def contradictions(
        self, entries: Mapping[BlockId, BlockEntry], deadline: Deadline
    ) -> list[tuple[str, BlockId, str]]:
        """Return the differences between the blocks' owners and each node's list of its blocks."""
        lists, _ = self.engine.list(self.keys.owned_lists, deadline_s=deadline.call_s())
        found = []
        listed: dict[BlockId, str] = {}
        start = len(self.keys.owned_lists)
        for one in lists:
            name = one.key[start:].split(b"/")[0].decode("utf-8", "replace")
            block = schema.read_block_key(one.key)
            listed[block] = name
            owner = entries.get(block)
            if owner is None or owner.node != name:
                whose = "no node" if owner is None else f"node {owner.node}"
                found.append((name, block, f"node {name} lists it, and {whose} owns it"))
        for block, entry in entries.items():
            if block not in listed:
                text = f"node {entry.node} owns it and does not list it"
                found.append((entry.node, block, text))
        return found

    def layout(self, deadline_s: float) -> Layout:
        """Return who owns which block, and the nodes' addresses. Two lists."""
        nodes, revision = self.engine.list(self.keys.nodes, deadline_s=deadline_s)
        addresses = {
            schema.name_of(one.key): NodeEntry.read(one.key, one.value).addresses for one in nodes
        }
        listed, _ = self.engine.list(self.keys.blocks, deadline_s=deadline_s)
        return Layout(schema.read_blocks(listed), addresses, revision)

    def changes(self, revision: int, wait_s: float) -> Iterator[tuple[bool, int]]:
        """Yield whether the layout may have changed; end when it has to be read again."""
        while True:
            try:
                events, revision = self.engine.watch(self.keys.prefix, revision, deadline_s=wait_s)
            except Compacted:
                return
            places = (self.keys.blocks, self.keys.nodes)
            if not events or any(event.key.startswith(places) for event in events):
                yield bool(events), revision

    def settings_text(self, deadline: Deadline) -> str | None:
        """Return the cluster's pools, None before there are any. One read."""
        stored = self.engine.get(self.keys.settings, deadline_s=deadline.call_s())
        return None if stored is None else stored.value.decode("utf-8", "replace")

    def found_cluster(self, deadline: Deadline) -> str | None:
        """Write the cluster's pools if there are none; return what was there before, or None."""
        key, text = self.keys.settings, self.share.settings.text
        outcome = self.engine.transact(
            [Compare(key, "absent")], [Put(key, text.encode())], deadline_s=deadline.call_s()
        )
        if outcome.succeeded:
            return None
        return outcome.existing[0].value.decode("utf-8", "replace")

    def is_alive(self, name: str, deadline: Deadline) -> bool:
        """Return whether a node's sign of life exists. One read."""
        key = self.keys.session(name)
        return self.engine.get(key, deadline_s=deadline.call_s()) is not None

    def end(self, name: str, deadline: Deadline, *, force: bool) -> int | None:
        """Mark a node as removed; return its new epoch, None when there is no such node."""
        engine, keys = self.engine, self.keys
        key = keys.node(name)
        for _ in range(ENTRY_TRIES):
            stored = engine.get(key, deadline_s=deadline.call_s())
            if stored is None:
                return None
            entry = NodeEntry.read(key, stored.value)
            if not entry.incarnation:
                return entry.epoch  # it was removed earlier; some of its blocks may be left
            conditions = [Compare(key, "mod_revision", stored.mod_revision)]
            if not force:
                if self.is_alive(name, deadline):
                    raise ClusterRefused(f"node {name} is alive: {self.alive_text}")
                conditions.append(Compare(keys.session(name), "absent"))
            removed = NodeEntry("", entry.epoch + 1, "", entry.addresses)
            try:
                outcome = engine.transact(
                    conditions,
                    [Put(key, removed.pack()), Delete(keys.mark(name))],
                    deadline_s=deadline.call_s(),
                )
            except EngineTimeout:
                continue
            if outcome.succeeded:
                return removed.epoch
        raise not_written(f"the entry of node {name}")

    def take_back(self, name: str, deadline: Deadline) -> int:
        """Free some blocks of a removed node; return how many, 0 when it owns none."""
        keys = self.keys
        while True:
            listed, _ = self.engine.list(
                keys.owned_by(name), limit=_FREED_AT_ONCE, deadline_s=deadline.call_s()
            )
            if not listed:
                return 0
            conditions = [Compare(one.key, "mod_revision", one.mod_revision) for one in listed]
            operations: list[Put | Delete] = [Delete(one.key) for one in listed]
            operations += [Delete(keys.block(*schema.read_block_key(one.key))) for one in listed]
            seconds = deadline.call_s()
            if self.engine.transact(conditions, operations, deadline_s=seconds).succeeded:
                return len(listed)

    def problem(self, *, deadline_s: float) -> str:
        """Return what is wrong with a store that answers reads, or an empty text."""
        return self.engine.problem(deadline_s=deadline_s)

    def close(self) -> None:
        """Close all connections; the session lasts until it expires."""
        self.engine.close()


if TYPE_CHECKING:

    def _is_registry(one: KeyValueRegistry) -> Registry:
        return one
