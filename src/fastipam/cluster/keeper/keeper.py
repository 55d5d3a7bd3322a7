"""The part of an agent that keeps a node's share of a cluster: a thread beside the agent's loop.

It keeps the node's session, claims ahead of demand, gives back what is not needed, asks others when
the pool is used up and answers them. The agent's loop never waits for it: requests that find no
address are parked, and served when :attr:`Keeper.on_blocks` says that there are blocks.

:meth:`Keeper.step` is all of it but the waiting, on a clock that a test moves.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from fastipam.cluster import planner, schema
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import EngineError
from fastipam.cluster.errors import ClusterCorrupt, ClusterRefused, NoBlock
from fastipam.cluster.keeper import usage
from fastipam.cluster.keeper.membership import Membership
from fastipam.cluster.keeper.on_demand import claim_family, lacking
from fastipam.cluster.keeper.wanted import Marks
from fastipam.cluster.node import recovery
from fastipam.cluster.node.claims import Node
from fastipam.cluster.node.lock import NodeLock
from fastipam.cluster.planner import Use
from fastipam.errors import FastipamError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.engine import Engine
    from fastipam.cluster.planner import Geometry
    from fastipam.configuration.cluster import Settings
    from fastipam.network import Network
    from fastipam.storage.store import Store

log = logging.getLogger("fastipam.cluster")

_OPERATION_S = 5.0
_IDLE_S = 1.0  # how soon demand is noticed after none was
_UNSEEN = (-1, -1)  # unlike anything that the books say
_NEED_S = 3.0  # an ADD that has not asked again for so long has gone


class Status(NamedTuple):
    """How a node's part in its cluster fares; what metrics and ``STATUS`` show.

    ``since`` is when that began (wall clock, seconds). ``states``: blocks by state.
    """

    connected: bool
    since: float
    reason: str
    states: dict[str, int]
    claims: int
    transactions: int
    conflicts: int
    released: int
    donated: int
    granted: int


class Keeper:
    """Keeps one network's share; :meth:`start` and :meth:`stop` its thread."""

    def __init__(
        self,
        store: Store,
        network: Network,
        settings: Settings,
        connect: Callable[[Settings], Engine],
        *,
        on_blocks: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        directories: Sequence[str] = recovery.NETNS_DIRECTORIES,
    ) -> None:
        self.store = store
        self.network = network
        self.settings = settings
        self.on_blocks = on_blocks
        self.engine = connect(settings)
        self.node = Node(store, network, settings, self.engine)
        self._clock = clock
        self.membership = Membership(self.node, clock, directories)
        self._lock = NodeLock(store)
        self._wake = threading.Event()
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._tidy_at = 0.0
        # (family, does an ADD wait) -> when a pool that was used up is looked at again
        self._look_at: dict[tuple[int, bool], float] = {}
        self._failures = 0
        self._needs: dict[str, float] = {}  # who waits for an address -> when it last asked
        self._marked: dict[int, float] = {}  # family -> when its mark was raised
        self._last_claim: dict[int, tuple[float, int]] = {}  # family -> (when, blocks)
        self.marks = Marks(self.node, clock, self._wake.set)
        self._seen = _UNSEEN  # what the books said when demand was last looked at
        self._states: dict[str, int] = {}
        self._connected = False
        self._since = time.time()
        self._reason = "the agent has not reached the cluster's store yet"

    # What others see ------------------------------------------------------------------------

    def need(self, who: str = "") -> str:
        """An ADD has found no address. Returns why there is no block yet; never waits."""
        self._needs[who] = self._clock()
        self._wake.set()
        return self._reason or "this node's blocks are full, and another one is being claimed"

    @property
    def status(self) -> Status:
        """How it fares."""
        counts = self.node.counts
        return Status(
            self._connected,
            self._since,
            self._reason,
            dict(self._states),
            counts.claimed,
            counts.transactions,
            counts.conflicts,
            counts.released,
            counts.donated,
            counts.granted,
        )

    def start(self) -> None:
        """Begin to work, in two threads: one works, one watches for marks."""
        for name, target in (("cluster", self._run), ("cluster-watch", self._watch_marks)):
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, seconds: float = 2.0) -> bool:
        """End the work; False: a call of the shared store keeps it for longer than that.

        What was begun is finished by the next one; the blocks stay owned.
        """
        self._stopping = True
        self._wake.set()
        worker = self._threads[:1]  # the other thread uses the engine only, which ends its call
        for thread in worker:
            thread.join(seconds)
        self.membership.end()
        self.engine.close()
        return not any(thread.is_alive() for thread in worker)

    def _run(self) -> None:
        while not self._stopping:
            seconds = self.step()
            self._wake.wait(seconds)
            self._wake.clear()

    def _watch_marks(self) -> None:
        self.marks.follow(lambda: self._stopping)

    # One turn -------------------------------------------------------------------------------

    def step(self) -> float:
        """Do what is due now; the seconds until something is due again. Raises nothing."""
        try:
            if not self._lock.try_take():
                return planner.COLLECT_S  # a plugin that runs directly is claiming for this node
        except OSError as error:  # no descriptor is left, say
            return self._failed(False, f"the claims of this node cannot be locked: {error}")
        try:
            seconds = self._work()
            self._failures = 0
            self._say(True, "")
            return seconds
        except (EngineError, NoBlock, ClusterRefused, ClusterCorrupt) as error:
            if isinstance(error, ClusterRefused) or self._has_begun():
                self.membership.doubt()  # joining again finishes what was begun
            return self._failed(not isinstance(error, EngineError), error.message)
        except FastipamError as error:
            self.membership.doubt()
            return self._failed(False, error.message)
        except recovery.NamespacesUnreadable as error:
            self.membership.doubt()
            self._say(True, f"what this node's pods have is not known: {error}")
            return _IDLE_S
        except Exception:
            log.exception("network=%s a defect in the cluster's keeper", self.network.name)
            self.membership.doubt()
            return self._failed(self._connected, self._reason)
        finally:
            self._lock.give()

    def _has_begun(self) -> bool:
        """Whether a claim or release is not finished; so it may be when the store does not say."""
        try:
            return self.node.has_begun()
        except FastipamError:
            return True

    def _failed(self, connected: bool, reason: str) -> float:
        """Say why nothing came of a turn; the seconds to leave everything alone."""
        self._say(connected, reason)
        self._failures += 1
        return planner.backoff_s(self.settings.node, self._failures)

    def _say(self, connected: bool, reason: str) -> None:
        if (connected, reason) == (self._connected, self._reason):
            return
        if connected != self._connected:
            self._since = time.time()
        if reason:
            log.warning("network=%s node=%s %s", self.network.name, self.settings.node, reason)
        elif self._reason:
            log.info("network=%s node=%s in touch again", self.network.name, self.settings.node)
        self._connected, self._reason = connected, reason

    def _work(self) -> float:
        deadline = Deadline(_OPERATION_S)
        if self.membership.keep(deadline):
            self._seen = _UNSEEN
        needs = self._waiting()
        if self._marked and self.node.collect(deadline):
            self._seen = _UNSEEN
            self.on_blocks()
        busy = self._claim(needs, deadline)
        self._answer_marks(deadline)
        now = self._clock()
        if now >= self._tidy_at:
            self._tidy_at = now + planner.TIDY_S
            self._give_back(deadline)
        if self._marked:
            return planner.COLLECT_S
        soonest = self.marks.next_answer()
        return max(0.0, min(soonest - now, planner.TICK_S if busy or needs else _IDLE_S))

    def _waiting(self) -> int:
        """How many ADDs wait for an address."""
        oldest = self._clock() - _NEED_S
        for who, asked in list(self._needs.items()):
            if asked < oldest:
                self._needs.pop(who, None)
        return len(self._needs)

    # Demand ---------------------------------------------------------------------------------

    def _claim(self, needs: int, deadline: Deadline) -> bool:
        """Claim what is needed now or soon; whether addresses were assigned since the last look."""
        seen = usage.books(self.node)
        busy = seen != self._seen
        if not busy and not needs and not self._marked:
            return False
        self._seen = seen
        uses = self._survey()
        lack = lacking(self.store, self.network, self.settings)
        got = False
        for range_set in self.settings.pool.sets:
            family = range_set.family
            free = sum(each.size - each.used for pool, each in uses if pool.family == family)
            missing = needs if family in lack else 0
            if not missing and free:
                self._lower(family, deadline)
            got |= self._claim_family(family, free, missing, deadline)
        if got:
            self._seen = _UNSEEN
        if needs and not lacking(self.store, self.network, self.settings):
            self._needs.clear()
            self.on_blocks()
        return busy or got

    def _survey(self) -> list[tuple[Geometry, Use]]:
        uses, self._states = usage.survey(self.node)
        return uses

    def _claim_family(self, family: int, free: int, missing: int, deadline: Deadline) -> bool:
        """Claim blocks of one family if that is the plan; mark the need when there are none."""
        now = self._clock()
        when, last_run = self._last_claim.get(family, (now, 0))
        pool = self.settings.geometries_of(family)[0]
        run = planner.to_claim(
            self.settings.policy,
            pool,
            free,
            missing=missing,
            last_run=last_run,
            since_last_s=now - when,
            scarce=bool(self.marks),
        )
        if not run or now < self._look_at.get((family, bool(missing)), 0.0):
            return False
        if claim_family(self.node, family, run, deadline):
            self._last_claim[family] = self._clock(), run
            self._lower(family, deadline)
            return True
        self._look_at[family, True] = now + planner.LOOK_AGAIN_S
        self._look_at[family, False] = now + planner.TIDY_S  # nobody waits: it is not urgent
        if missing > free and family not in self._marked:
            blocks_needed = -(-(missing - free) // pool.size)
            self.node.raise_mark(family, blocks_needed, self.membership.session, deadline)
            self._marked[family] = now
        elif family in self._marked:
            # One that was answered with too little, or whose node changed its mind, is gone.
            key = self.node.keys.want(self.settings.node)
            if self.engine.get(key, deadline_s=deadline.call_s()) is None:
                del self._marked[family]
        return False

    def _lower(self, family: int, deadline: Deadline) -> None:
        if family in self._marked:
            del self._marked[family]
            self.node.lower_mark(deadline)

    def _give_back(self, deadline: Deadline) -> None:
        uses = self._survey()
        if self._marked or self._needs:
            return
        now_s = self.store.clock() / 1e9
        for pool in self.settings.geometries:
            mine = [each for its_pool, each in uses if its_pool is pool]
            numbers = planner.to_give_back(self.settings.policy, pool, mine, now_s)
            if numbers:
                pairs = [(pool.family, pool.address(one)) for one in numbers]
                self.node.give_back(pairs, deadline)
                self._seen = _UNSEEN

    # Others in need -------------------------------------------------------------------------

    def _answer_marks(self, deadline: Deadline) -> None:
        due = self.marks.due()
        if not due:
            return
        uses = self._survey()
        for needy, mark in due:
            want = schema.Want.read(mark.key, mark.value)
            given = 0
            for pool in self.settings.geometries_of(want.family):
                mine = [each for its_pool, each in uses if its_pool is pool]
                numbers = planner.to_donate(mine, want.blocks)
                if numbers and not given:
                    pairs = [(pool.family, pool.address(one)) for one in numbers]
                    given = self.node.donate(needy, mark, pairs, deadline)
            self.marks.answered(needy, mark, given)
