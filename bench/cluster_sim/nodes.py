"""The nodes of fastipam in virtual time, with the real planner, keys and transactions.

``fastipam.cluster.planner`` decides which blocks to claim, how many, which to give back or donate,
and when. The handling of the answers is written here again, because a real node keeps its addresses
in a store on disk, while here a block is only a count.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from bench.cluster_sim.world import Call
from fastipam.cluster import planner
from fastipam.cluster.engine import Compare, Delete, EngineError, Put
from fastipam.cluster.planner import Demand, Look, Search, Use
from fastipam.cluster.schema import BlockEntry, Mark, read_block_key

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    from tests.cluster.memory import MemoryEngine

    from bench.cluster_sim.cluster import Cluster
    from fastipam.cluster.engine import KeyValue, Outcome

COOLDOWN_S = 30.0
ADD_TIMEOUT_S = 2.0
SETTINGS = b"10.0.0.0/11=26"
MOVABLE_SHARE = (
    0.02  # no ADD may fail while this share of the pool is free in blocks that could move
)


class Block:
    """A block of a node. ``cooled_s`` is the time when its last address has cooled down."""

    __slots__ = ("claimed_s", "cooled_s", "revision", "used")

    def __init__(self, revision: int, claimed_s: float) -> None:
        self.revision = revision
        self.claimed_s = claimed_s
        self.used = 0
        self.cooled_s = 0.0


class Totals:
    """Counts of the requests that all nodes make to the store."""

    def __init__(self) -> None:
        self.claims = self.claimed = self.conflicts = self.looks = 0
        self.released = self.donated = self.marks = self.joins = 0


class Node:
    """A node: its blocks, its waiting pods, and the processes of its agent."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.blocks: dict[int, Block] = {}
        self.free = 0
        self.filling = -1
        self.is_cut = False
        self.life = 0  # a restart increases it, which ends the earlier processes
        self.waiting: deque[tuple[float, int, bool]] = (
            deque()
        )  # time of the ADD, pod, whether the node was cut off at that time
        self.asked = 0  # the number of ADDs that found no address; each wakes the agent
        self.pods: dict[int, int] = {}  # pod -> block
        self.last_run = 0
        self.last_claim_s = 0.0
        self.claiming = False
        self.joined = False
        self.tidying = False
        self.node_revision = 0
        self.marked = 0
        self.leaving: set[int] = set()  # blocks that are being given to other nodes

    # Pods: the plugin's part, which does not use the network.

    def add(self, pod: int) -> None:
        if self.free:
            self._assign(pod)
            self.cluster.waits.serve(0.0)
        else:
            now = self.cluster.world.now
            self.waiting.append((now, pod, self.is_cut))
            self.asked += 1
            self.cluster.world.at(now + self.cluster.add_timeout_s + 1e-6, self._give_up)
        self.consider()

    def _assign(self, pod: int) -> None:
        """Assign an address of the fullest block, so that other blocks become free."""
        size = self.cluster.pool.size
        block = self.blocks.get(self.filling)
        if block is None or block.used == size:
            self.filling = max(
                (number for number, block in self.blocks.items() if block.used < size),
                key=lambda number: self.blocks[number].used,
            )
            block = self.blocks[self.filling]
        block.used += 1
        self.pods[pod] = self.filling
        self.free -= 1

    def remove(self, pod: int) -> None:
        number = self.pods.pop(pod, None)
        if number is None:
            return
        block = self.blocks[number]
        block.used -= 1
        block.cooled_s = self.cluster.world.now + COOLDOWN_S
        self.free += 1
        if not block.used:
            self._tidy_later()
        self._serve()

    def _serve(self) -> None:
        while self.waiting and self.free:
            since, pod, _ = self.waiting.popleft()
            self._assign(pod)
            self.cluster.waits.serve(self.cluster.world.now - since)

    def _give_up(self) -> None:
        """Fail the ADDs whose time is over, and count whether an address could have been moved."""
        waits, now = self.cluster.waits, self.cluster.world.now
        while self.waiting and self.waiting[0][0] + self.cluster.add_timeout_s <= now:
            _, _, was_cut = self.waiting.popleft()
            waits.failed += 1
            if self.is_cut or was_cut:
                waits.failed_cut_off += 1
            elif self.cluster.movable() >= MOVABLE_SHARE:
                waits.failed_though_free += 1

    def wholly_free(self) -> int:
        """Return the number of blocks that could move now."""
        now = self.cluster.world.now
        return sum(not each.used and each.cooled_s <= now for each in self.blocks.values())

    def _uses(self) -> list[Use]:
        """Return the blocks in the planner's form. A cooling address counts as a used one."""
        now, size = self.cluster.world.now, self.cluster.pool.size
        return [
            Use(number, size, max(each.used, int(each.cooled_s > now)), each.claimed_s)
            for number, each in self.blocks.items()
        ]

    # The agent.

    def restart(self, away_s: float) -> None:
        """Kill the agent and start it again after ``away_s``.

        The requests that it has sent are served; afterwards it reads the store again.
        """
        self.life += 1
        self.claiming = self.tidying = self.joined = False
        self.marked = 0
        self.leaving.clear()
        # Waiting requests fall back to the directly run plugin, which claims blocks by itself.
        self.cluster.world.at(self.cluster.world.now + planner.TICK_S, self._serve_directly)
        self.cluster.world.at(self.cluster.world.now + away_s, self.consider)

    def _serve_directly(self) -> None:
        if self.waiting:
            self.consider()

    def _start(self, process: Generator[Any, Any, None]) -> None:
        life = self.life
        self.cluster.world.start(process, lambda: not self.is_cut, lambda: self.life == life)

    def _wanted_run(self) -> int:
        cluster = self.cluster
        demand = Demand(
            self.free,
            missing=len(self.waiting),
            last_run=self.last_run,
            since_last_s=cluster.world.now - self.last_claim_s,
            scarce=bool(cluster.marks),
        )
        return planner.to_claim(cluster.watermarks, cluster.pool, demand)

    def consider(self) -> None:
        """Claim blocks if the planner wants that and no claim is running."""
        if not self.claiming and self._wanted_run():
            self.claiming = True
            self._start(self._claim_all())

    def _claim_all(self) -> Generator[Any, Any, None]:
        failures = 0
        # An ADD that waits wakes the agent; other demand is noticed at the next tick.
        if not self.waiting:
            yield planner.TICK_S
        while run := self._wanted_run():
            asked = self.asked
            try:
                if not self.joined:
                    yield from self._join()
                    continue
                if not (yield from self._claim(run)) and not (yield from self._need()):
                    break
            except EngineError:
                failures += 1
                yield from self._pause(asked, planner.backoff_s(self.name, failures))
        self.claiming = False

    def _pause(self, asked: int, seconds: float) -> Generator[Any, Any, None]:
        """Send the store no request for this time, or until an ADD finds no address."""
        until = self.cluster.world.now + seconds
        while self.asked == asked and self.cluster.world.now < until:
            yield planner.TICK_S

    def _join(self) -> Generator[Any, Any, None]:
        """Do the same as ``Membership.keep``: register a new node, or read its entry and blocks.

        The session is opened first. Renewing it writes nothing, and nothing in the simulation ends
        it.
        """
        keys = self.cluster.keys
        key, alive = keys.node(self.name), Put(keys.session(self.name), b"")
        yield _write(lambda _: None)
        if not self.node_revision:
            conditions = [Compare(key, "absent"), Compare(keys.settings, "value", SETTINGS)]
            outcome = yield _write(
                lambda engine: engine.transact(conditions, [Put(key, b""), alive], deadline_s=1)
            )
            # An agent that was killed before it got the answer may have registered.
            self.node_revision = (
                outcome.revision if outcome.succeeded else outcome.existing[0].mod_revision
            )
        else:
            yield _read(lambda engine: engine.get(keys.settings, deadline_s=1))
            yield _read(lambda engine: engine.get(key, deadline_s=1))
            yield from self._collect()
            same = [Compare(key, "mod_revision", self.node_revision)]
            yield _write(lambda engine: engine.transact(same, [alive], deadline_s=1))
        self.joined = True
        self.cluster.totals.joins += 1

    def _collect(self) -> Generator[Any, Any, None]:
        """Add the blocks that the store lists for this node, after a lost answer or a donation."""
        prefix = self.cluster.keys.owned_by(self.name)
        listed, _ = yield _read(lambda engine: engine.list(prefix, deadline_s=1))
        for one in listed:
            number = self.cluster.pool.number(read_block_key(one.key)[1])
            assert number is not None
            if number not in self.leaving:
                self._enter(number, one.mod_revision)
        self._serve()

    def _enter(self, number: int, revision: int) -> None:
        if number in self.blocks:  # an earlier answer has added it already
            return
        self.blocks[number] = Block(revision, self.cluster.world.now)
        self.free += self.cluster.pool.size
        self._tidy_later()

    def _claim(self, run: int) -> Generator[Any, Any, bool]:
        """Make one claim, as ``Node.claim`` does. Return False when the pool is used up."""
        cluster, pool, keys = self.cluster, self.cluster.pool, self.cluster.keys
        owned = frozenset(self.blocks)
        search = Search(pool, self.name, owned, run)
        while search.step is not None:
            numbers = search.step.blocks
            if isinstance(search.step, Look):
                cluster.totals.looks += 1
                bits = 32 - pool.host_bits - (len(numbers).bit_length() - 1)
                prefix = keys.blocks_of(pool.family, pool.address(numbers.start), bits)
                listed, _ = yield _read(partial(_listed, prefix))
                search.looked(frozenset(self._number(one.key) for one in listed) | owned)
                continue
            value = BlockEntry(self.name, 1, int(cluster.world.now * 1e9)).pack()
            pairs = [(pool.family, pool.address(one)) for one in numbers]
            conditions = [Compare(keys.node(self.name), "mod_revision", self.node_revision)]
            conditions += [Compare(keys.block(*pair), "absent") for pair in pairs]
            operations = [Put(keys.block(*pair), value) for pair in pairs]
            operations += [Put(keys.owned(self.name, *pair), value) for pair in pairs]
            outcome: Outcome = yield _write(partial(self._taken, conditions, operations))
            if outcome.succeeded:
                cluster.totals.claims += 1
                cluster.totals.claimed += len(numbers)
                for number in numbers:
                    self._enter(number, outcome.revision)
                self.last_run, self.last_claim_s = run, cluster.world.now
                search.claimed()
                yield from self._lower_mark()
                self._serve()
                return True
            cluster.totals.conflicts += 1
            node = keys.node(self.name)
            search.conflict(self._number(one.key) for one in outcome.existing if one.key != node)
        return not search.exhausted

    def _taken(
        self, conditions: list[Compare], operations: list[Put], engine: MemoryEngine
    ) -> Outcome:
        """Make the transaction of a claim, and count its blocks as owned at that moment."""
        outcome = engine.transact(conditions, operations, deadline_s=1)
        if outcome.succeeded:
            self.cluster.owned_blocks += len(operations) // 2
        return outcome

    def _number(self, key: bytes) -> int:
        number = self.cluster.pool.number(read_block_key(key)[1])
        assert number is not None
        return number

    # Asking other nodes for blocks, and donating blocks.

    def _need(self) -> Generator[Any, Any, bool]:
        """Set a mark when the pool is used up, and wait. Return False when no ADD waits."""
        cluster = self.cluster
        missing = len(self.waiting) - self.free
        if missing <= 0:
            return False
        if not self.marked:
            number = cluster.world.random.getrandbits(48) | 1
            want = Mark(number, -(-missing // cluster.pool.size), 1, cluster.pool.family)
            key = cluster.keys.mark(self.name)
            outcome = yield _write(lambda e: e.transact([], [Put(key, want.pack())], deadline_s=1))
            self.marked = outcome.revision
            cluster.totals.marks += 1
            cluster.mark_is_up(self.name, key, outcome.revision, want)
        yield planner.LOOK_AGAIN_S
        return True

    def _lower_mark(self) -> Generator[Any, Any, None]:
        if self.marked:
            key, revision = self.cluster.keys.mark(self.name), self.marked
            self.marked = 0
            self.cluster.mark_is_down(self.name, revision)
            condition = [Compare(key, "mod_revision", revision)]
            yield _write(lambda e: e.transact(condition, [Delete(key)], deadline_s=1))

    def answerer(self, needy: str, revision: int) -> Callable[[], None]:
        """Return the function with which this node answers a mark, after a delay."""

        def act() -> None:
            mark = self.cluster.marks.get(needy)
            if mark is None or mark[1] != revision or self.is_cut:
                return
            if numbers := planner.to_donate(self._uses(), mark[2].blocks):
                self._start(self._donate(needy, mark, numbers))
            else:
                self.cluster.world.at(self.cluster.world.now + planner.SPREAD_S, act)

        return act

    def _donate(
        self, needy: str, mark: tuple[bytes, int, Mark], numbers: list[int]
    ) -> Generator[Any, Any, None]:
        keys, pool = self.cluster.keys, self.cluster.pool
        value = BlockEntry(needy, 1, int(self.cluster.world.now * 1e9), mark[2].number).pack()
        given = [(number, self._take_out(number)) for number in numbers]
        conditions = [Compare(mark[0], "mod_revision", mark[1])]
        operations: list[Put | Delete] = [Delete(mark[0])]
        for number, block in given:
            pair = pool.family, pool.address(number)
            conditions.append(Compare(keys.block(*pair), "mod_revision", block.revision))
            operations.append(Put(keys.block(*pair), value))
            operations.append(Put(keys.owned(needy, *pair), value))
            operations.append(Delete(keys.owned(self.name, *pair)))
        try:
            outcome = yield _write(lambda e: e.transact(conditions, operations, deadline_s=1))
            done = outcome.succeeded
        except EngineError:
            done = False
        for number, block in given:
            self._left(number, None if done else block)
        if not done:  # another donor was faster
            return
        self.cluster.totals.donated += len(given)
        self.cluster.mark_is_down(needy, mark[1])
        self.cluster.by_name[needy].receive()

    def receive(self) -> None:
        """Read this node's blocks again, because its watch has reported that the mark is gone."""
        self.marked = 0
        self._start(self._collect_surely())

    def _collect_surely(self) -> Generator[Any, Any, None]:
        while True:
            try:
                yield from self._collect()
            except EngineError:
                yield planner.LOOK_AGAIN_S
            else:
                return

    def _take_out(self, number: int) -> Block:
        block = self.blocks.pop(number)
        assert not block.used
        self.leaving.add(number)
        self.free -= self.cluster.pool.size
        return block

    def _left(self, number: int, kept: Block | None) -> None:
        """Record the outcome of a transaction that gives a block away; put back one it kept."""
        self.leaving.discard(number)
        if kept is not None:
            self.blocks[number] = kept
            self.free += self.cluster.pool.size

    def _tidy_later(self) -> None:
        if not self.tidying:
            self.tidying = True
            self._start(self._tidy())

    def _tidy(self) -> Generator[Any, Any, None]:
        """Give back blocks that are not needed, as long as blocks may become free."""
        cluster, keys, pool = self.cluster, self.cluster.keys, self.cluster.pool
        while sum(not each.used for each in self.blocks.values()) > cluster.watermarks.warm:
            yield planner.TIDY_S
            if cluster.marks or self.waiting or self.is_cut:
                continue
            numbers = planner.to_give_back(
                cluster.watermarks, pool, self._uses(), cluster.world.now
            )
            for number in numbers:
                if number not in self.blocks or self.blocks[number].used:
                    continue
                block = self._take_out(number)
                pair = pool.family, pool.address(number)
                condition = [Compare(keys.block(*pair), "mod_revision", block.revision)]
                gone: list[Put | Delete] = [
                    Delete(keys.block(*pair)),
                    Delete(keys.owned(self.name, *pair)),
                ]
                try:
                    yield _write(partial(self._freed, condition, gone))
                except EngineError:
                    self._left(number, block)
                    break
                self._left(number, None)
                cluster.totals.released += 1
        self.tidying = False

    def _freed(
        self, condition: list[Compare], gone: list[Put | Delete], engine: MemoryEngine
    ) -> Outcome:
        outcome = engine.transact(condition, gone, deadline_s=1)
        if outcome.succeeded:
            self.cluster.owned_blocks -= 1
        return outcome


def _listed(prefix: bytes, engine: MemoryEngine) -> tuple[list[KeyValue], int]:
    return engine.list(prefix, deadline_s=1)


def _read(work: Callable[[MemoryEngine], Any]) -> Call:
    return Call(work, writes=False)


def _write(work: Callable[[MemoryEngine], Any]) -> Call:
    return Call(work, writes=True)
