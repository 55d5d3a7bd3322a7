"""The keeper of a node's share of a cluster: a thread of the agent, beside the agent's loop.

It renews the node's session, claims blocks ahead of demand, gives back blocks that are not needed,
writes a mark when the pool is used up, and answers the marks of other nodes. The agent's loop never
waits for the keeper: it parks an ADD that finds no address, and serves it when the keeper calls
:attr:`Keeper.on_blocks`.

:meth:`Keeper.step` does everything except waiting. Tests give the keeper a clock that they move.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from fastipam.cluster import planner
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import EngineError, EngineFull, EngineUnavailable, HistoryLost
from fastipam.cluster.errors import ClusterCorrupt, ClusterRefused, NoBlock, in_words
from fastipam.cluster.keeper import usage
from fastipam.cluster.keeper.membership import Membership
from fastipam.cluster.keeper.named import Named, Told
from fastipam.cluster.keeper.namespaces import Namespaces
from fastipam.cluster.keeper.needs import Needs
from fastipam.cluster.keeper.wanted import Marks
from fastipam.cluster.node import owners, recovery
from fastipam.cluster.node.lock import NodeLock
from fastipam.cluster.node.node import Node
from fastipam.cluster.planner import Demand
from fastipam.errors import FastipamError
from fastipam.namespaces import NETNS_DIRECTORIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.node.share import Share
    from fastipam.cluster.planner import Use
    from fastipam.cluster.registries.connect import Open
    from fastipam.cluster.registry import Condition, Counts, Namespace, Owners
    from fastipam.configuration.address_pools import AddressPool
    from fastipam.configuration.cluster import Geometry, Settings
    from fastipam.configuration.pool_lines import Lines, Wanted

log = logging.getLogger("fastipam.cluster")

_IDLE_S = 1.0  # between two checks of demand while there is none
_UNSEEN = (-1, -1)  # no store has this generation
_TELL_AGAIN_S = 10.0  # between two reads of the owners of a used up pool's blocks
_BLOCKS_LATER_S = 30.0  # after this time a node follows all blocks even if it owns none


class Status(NamedTuple):
    """The state of a node's share, for metrics and ``STATUS``.

    ``reason`` says why the keeper gets no blocks, or is empty. ``refused``: the cluster does not
    accept this node as it is configured. ``states`` counts the blocks by state; ``counts`` are the
    counters of the keeper's work.
    """

    connected: bool
    reason: str
    refused: bool
    states: dict[str, int]
    counts: Counts


class Keeper:
    """The keeper of a node's share of one network. It works between :meth:`start` and :meth:`stop`.

    ``on_blocks`` is called when waiting ADDs may be served. ``blocks`` receives the owners of all
    blocks. ``routes`` returns whether the routes to all blocks are set, or None when fastipam sets
    none.
    """

    def __init__(
        self,
        share: Share,
        opened: Open,
        *,
        on_blocks: Callable[[], None] = lambda: None,
        blocks: Owners | None = None,
        routes: Callable[[], Condition | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        directories: Sequence[str] = NETNS_DIRECTORIES,
    ) -> None:
        self.share = share
        self.store = share.store
        self.on_blocks = on_blocks
        self._blocks = blocks
        self._routes = routes
        self.registry = opened(share)
        self.node = Node(share, self.registry)
        self.registry.remember()  # before a thread sends a request
        self._clock = clock
        self.membership = Membership(self.node, clock, directories)
        self._lock = NodeLock(share.store)
        self._wake = threading.Event()
        self._has_block = threading.Event()
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._tidy_at = 0.0
        self._pools: list[AddressPool] | None = None
        # (pools, whether an ADD waits) -> when to search these used up pools again
        self._look_at: dict[tuple[Wanted, bool], float] = {}
        self._failures = 0
        self.needs = Needs(clock)
        self.namespaces = Namespaces(self.registry, clock)
        self._marked: set[Wanted] = set()  # pools for which this node has a mark
        self._last_claim: dict[Wanted, tuple[float, int]] = {}  # pools -> (when, blocks)
        self.marks = Marks(self.node, clock, self._wake.set)
        self.named = Named(self.node, self.membership, self._marked, clock, self._wake.set)
        self._seen = _UNSEEN  # the store's generation at the last check of demand
        self._states: dict[str, int] = {}
        self._connected = self._refused = False
        # pools without a free block -> (when to read the owners again, who owns the blocks)
        self._scarce: dict[Wanted, tuple[float, str]] = {}
        self._reason = "the agent has not reached the cluster's store yet"

    @property
    def settings(self) -> Settings:
        """The settings of the node; its pools may change."""
        return self.share.settings

    # What others see ------------------------------------------------------------------------

    def need(self, who: str = "", lines: Lines | None = None) -> str:
        """Record an ADD that found no address; return why there is no block yet. Never waits.

        ``lines`` are the lines of its pools if the ADD has chosen pools.
        """
        lines = self.settings.lines if lines is None else lines
        self.needs.note(who, lines)
        self._wake.set()
        told = [self._scarce.get((family, one)) for family, groups in lines for one in groups]
        scarce = "; ".join(one[1] for one in told if one is not None)
        return (
            self._reason
            or scarce
            or "this node's blocks are full, and another block is being claimed"
        )

    def want(self, who: str, addresses: Sequence[tuple[int, int]]) -> Told:
        """Record an ADD that requests these addresses; return why it has to wait. Never waits."""
        told = self.named.want(who, addresses)
        return told if told.is_final or not self._reason else Told(self._reason)

    def namespace(self, name: str) -> Namespace | str:
        """Return a namespace, or why it is unknown ("" while it is being read). Never waits."""
        found = self.namespaces.get(name)
        if found == "":
            self._wake.set()
        return found

    @property
    def status(self) -> Status:
        """The state of the share now."""
        return Status(
            self._connected, self._reason, self._refused, dict(self._states), self.node.counts
        )

    def start(self) -> None:
        """Start the threads: one does the steps, the others follow the shared store's changes."""
        threads = [("cluster", self._run), ("cluster-watch", self._watch_marks)]
        if self._blocks is not None:
            threads.append(("cluster-blocks", partial(self._follow_blocks, self._blocks)))
        for name, follow in self.registry.threads(self._wake.set):
            threads.append((name, partial(follow, lambda: self._stopping)))
        for name, target in threads:
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, seconds: float = 2.0) -> bool:
        """Stop the threads; return False if a step has not ended within these seconds.

        The next keeper finishes what was begun. The blocks stay this node's.
        """
        self._stopping = True
        self._wake.set()
        self._has_block.set()
        worker = self._threads[:1]  # the others end their calls when the registry is closed
        for thread in worker:
            thread.join(seconds)
        self.registry.close()
        return not any(thread.is_alive() for thread in worker)

    def _run(self) -> None:
        while not self._stopping:
            seconds = self.step()
            self._wake.wait(seconds)
            self._wake.clear()

    def _watch_marks(self) -> None:
        self.registry.follow_requests(self.marks, lambda: self._stopping)

    def _follow_blocks(self, blocks: Owners) -> None:
        """Follow the blocks of all nodes, once this node has a block.

        The more nodes follow the blocks, the more each write of a block costs the shared store. So
        when thousands of nodes start at once, those that still need a block come first.
        """
        self._has_block.wait(_BLOCKS_LATER_S)
        self.registry.follow_blocks(blocks, lambda: self._stopping)

    # One step -------------------------------------------------------------------------------

    def step(self) -> float:
        """Do what is due now; return the seconds until something is due again. Raises nothing."""
        try:
            if not self._lock.try_take():
                return planner.COLLECT_S  # a directly run plugin is claiming for this node
        except OSError as error:  # for example no descriptor is left
            return self._failed(False, f"the lock for this node's claims cannot be taken: {error}")
        try:
            seconds = self._work()
            self._failures = 0
            self._refused = False
            self._set_status(True, "")
            return seconds
        except HistoryLost as error:
            self._set_status(True, error.message)
            return 0.0
        except (EngineError, NoBlock, ClusterRefused, ClusterCorrupt) as error:
            if isinstance(error, ClusterRefused) or (
                self._has_begun() and not isinstance(error, EngineFull)
            ):
                # A new join finishes what was begun. But it opens a session, for which a full store
                # has no room, although that store still renews the present session.
                self.membership.doubt()
            self._refused = isinstance(error, ClusterRefused)
            later_s = error.retry_after_s if isinstance(error, EngineUnavailable) else 0.0
            return self._failed(not isinstance(error, EngineError), in_words(error), later_s)
        except FastipamError as error:
            self.membership.doubt()
            return self._failed(False, in_words(error))
        except recovery.NamespacesUnreadable as error:
            self.membership.doubt()
            self._set_status(True, f"the addresses of this node's pods are not known: {error}")
            return _IDLE_S
        except Exception:
            log.exception(
                "network=%s internal error in the cluster's keeper", self.node.network.name
            )
            self.membership.doubt()
            return self._failed(self._connected, self._reason)
        finally:
            self._lock.release()

    def _has_begun(self) -> bool:
        """Return whether a claim or release is not finished, or the local store is unreadable."""
        try:
            return self.share.has_begun()
        except FastipamError:
            return True

    def _failed(self, connected: bool, reason: str, later_s: float = 0.0) -> float:
        """Record why a step failed; return the seconds until the next step.

        ``later_s`` is the pause that the shared store asks for.
        """
        self._set_status(connected, reason)
        self._failures += 1
        self._seen = _UNSEEN  # the next step checks demand, and claims again
        # However long the pause is, the session has to be renewed.
        pause_s = planner.backoff_s(self.node.name, self._failures)
        pause_s = max(pause_s, planner.postponed_s(self.node.name, self._failures, later_s))
        return min(pause_s, self.registry.keep_every_s)

    def _set_status(self, connected: bool, reason: str) -> None:
        if (connected, reason) == (self._connected, self._reason):
            return
        if reason:
            log.warning("network=%s node=%s %s", self.node.network.name, self.node.name, reason)
        elif self._reason:
            log.info("network=%s node=%s connected again", self.node.network.name, self.node.name)
        self._connected, self._reason = connected, reason

    def _work(self) -> float:
        deadline = Deadline(self.registry.operation_s, call_s=self.registry.call_s)
        if self.namespaces.is_asked:
            self.namespaces.read(deadline)
            self.on_blocks()
        self.membership.require_own()
        self._use_pools(deadline)
        if self._lacks_any() and self.share.reindex():
            self.on_blocks()  # this node had free addresses that no search found
        if self.membership.keep(deadline, lacks_block=self._lacks_node_cidr()):
            self._seen = _UNSEEN
        needs = self.needs.count()
        if (self._marked or self.registry.awaits) and self.node.collect(deadline):
            self._seen = _UNSEEN
            self.on_blocks()
        busy = self._claim(needs, deadline)
        if self.named.get(deadline):
            self._seen = _UNSEEN
            self.on_blocks()
        self._answer_marks(deadline)
        now = self._clock()
        if now >= self._tidy_at:
            self._tidy_at = now + planner.TIDY_S
            self._give_back(deadline)
        if self._marked or self.registry.awaits:
            return planner.COLLECT_S
        soonest = self.marks.next_answer()
        busy = busy or bool(needs or self.named.wanted())
        return max(0.0, min(soonest - now, planner.TICK_S if busy else _IDLE_S))

    def _use_pools(self, deadline: Deadline) -> None:
        """Use the pools that are in force. Raises NoBlock while there are none."""
        pools = self.registry.pools(deadline)
        if pools is None:
            return
        if pools == self._pools and self.settings.pools and not self.share.gone:
            return
        if (pools or self.settings.pools) and self.share.adopt_pools(pools):
            log.info("network=%s pools=%s", self.node.network.name, self.settings.text)
            for one in self.share.left_out:
                gone = " ".join(each.cidr for each in self.share.gone if one.overlaps(each))
                log.warning(
                    "network=%s pool %s (%s) is not used until this node owns no block of %s, "
                    "which is no longer in force", self.node.network.name, one.name, one.cidr, gone,
                )  # fmt: skip
            self._seen = _UNSEEN
            self._look_at.clear()  # other pools may have free blocks
            self.on_blocks()
        self._pools = pools
        if not self.settings.pools:
            raise NoBlock(
                "no AddressPool is accepted yet",
                hint="kubectl get addresspools shows them; the controller accepts them",
            )

    # Demand ---------------------------------------------------------------------------------

    def _lacks_any(self) -> bool:
        """Return whether an ADD waits for which this node's blocks have no free address."""
        return any(self.share.lacking(lines) for lines in self.needs.kinds(self.settings))

    def _claim(self, needs: int, deadline: Deadline) -> bool:
        """Claim the blocks that are needed now or soon; return whether demand has changed."""
        seen = usage.generation(self.share)
        busy = seen != self._seen
        if not busy and not needs and not self._marked:
            return False
        self._seen = seen
        uses = self._survey()
        got = False
        demand = self.needs.demand(self.share)
        for wanted in self._marked - demand.keys():  # its pools are gone, or no ADD waits for them
            self._delete_mark(wanted, deadline)
        for wanted, missing in demand.items():
            pools = [one for one in self.settings.in_group(*wanted) if not one.is_single]
            free = sum(each.size - each.used for pool, each in uses if pool in pools)
            if not missing:
                self._delete_mark(wanted, deadline)
                if free:
                    self._scarce.pop(wanted, None)
            got |= self._claim_group(wanted, free, missing, deadline)
        if got:
            self._seen = _UNSEEN
        if needs and not self._lacks_any():
            self.needs.clear()
            self.on_blocks()
        return busy or got

    def _survey(self) -> list[tuple[Geometry, Use]]:
        uses, self._states = usage.survey(self.share)
        if uses:
            self._has_block.set()
        return uses

    def _claim_group(self, wanted: Wanted, free: int, missing: int, deadline: Deadline) -> bool:
        """Claim blocks of a group of pools if the planner says so; if none is free, ask others."""
        now = self._clock()
        when, last_run = self._last_claim.get(wanted, (now, 0))
        pools = self.settings.in_group(*wanted)
        claimable = list(filter(self.settings.claims_ahead, pools))
        if not claimable:  # this node uses only the podCIDR of its Node
            if missing:
                self._tell_scarce(wanted, now, deadline)
                self._pass_on(wanted, pools)
            return False
        demand = Demand(
            free,
            missing=missing,
            last_run=last_run,
            since_last_s=now - when,
            scarce=bool(self.marks),
        )
        watermarks = self.needs.watermarks(self.settings, claimable[0])
        run = planner.to_claim(watermarks, claimable[0], demand)
        if not run or now < self._look_at.get((wanted, bool(missing)), 0.0):
            return False
        for pool in claimable:
            if self.node.claim(pool, run, deadline):
                self.needs.has_room(pool)
                self._last_claim[wanted] = self._clock(), run
                self._scarce.pop(wanted, None)
                self._delete_mark(wanted, deadline)
                return True
        self._look_at[wanted, True] = now + planner.LOOK_AGAIN_S
        self._look_at[wanted, False] = now + planner.TIDY_S  # no ADD waits: it is not urgent
        if not self._pass_on(wanted, claimable):
            self._ask(wanted, claimable, free, missing, deadline)
        return False

    def _pass_on(self, wanted: Wanted, pools: Sequence[Geometry]) -> bool:
        """Record that pools have no free block; return whether a waiting ADD may use others."""
        if self.needs.used_up_now(wanted, pools):
            self.on_blocks()
            return True
        return False

    def _tell_scarce(self, wanted: Wanted, until: float, deadline: Deadline) -> None:
        """Read the owners of the blocks of pools without a free block, for the errors of ADDs."""
        among = self.settings.in_group(*wanted) if wanted[1] else ()
        told = owners.without_a_free_block(self.node, wanted[0], deadline, among)
        self._scarce[wanted] = until, in_words(told)

    def _ask(
        self,
        wanted: Wanted,
        pools: Sequence[Geometry],
        free: int,
        missing: int,
        deadline: Deadline,
    ) -> None:
        """Ask other nodes for blocks of pools without a free block; read the blocks' owners."""
        now = self._clock()
        if missing and now >= self._scarce.get(wanted, (0.0, ""))[0]:
            self._tell_scarce(wanted, now + _TELL_AGAIN_S, deadline)
        if missing > free and not self._marked and not self.named.makes_way(deadline):
            return  # the blocks of an earlier request may still come
        if missing > free and wanted not in self._marked:
            blocks_needed = -(-(missing - free) // pools[0].size)
            self.node.write_mark(
                wanted[0], blocks_needed, deadline, pool=self.settings.name_of(pools[0])
            )
            self._marked.add(wanted)
        elif wanted in self._marked and not self.registry.is_asked(deadline):
            # The answer to the mark may have been too small. Then the next step writes a new mark.
            self._marked.remove(wanted)

    def _may_claim(self, pool: Geometry) -> bool:
        return self.settings.may_claim(pool)

    def _lacks_node_cidr(self) -> bool:
        """Return whether the controller has yet to make the block of this node's podCIDR."""
        settings = self.settings
        if not settings.uses_node_cidrs:
            return False
        mine = [settings.geometry_of(one.family, one.base) for one in self.share.blocks()]
        return not all(map(self._may_claim, set(settings.geometries) - set(mine)))

    def _delete_mark(self, wanted: Wanted, deadline: Deadline) -> None:
        if wanted in self._marked:
            self._marked.remove(wanted)
            self.registry.unask(deadline)

    def _give_back(self, deadline: Deadline) -> None:
        uses = self._survey()
        self.registry.report(uses, deadline, self._routes())
        single = self.named.to_give_back(uses)
        if single:
            self.node.give_back(single, deadline)
        if self._marked or self.needs.count():  # give back only blocks that cannot serve an ADD
            uses = [(pool, each) for pool, each in uses if not each.size]
        now_s = self.store.clock() / 1e9
        for pool in self.settings.geometries:
            mine = [each for its_pool, each in uses if its_pool is pool]
            if pool.is_single:
                continue
            if not self._may_claim(pool):
                self._give_back_others(pool, mine, deadline)
                continue
            watermarks = self.needs.watermarks(self.settings, pool)
            numbers = planner.to_give_back(watermarks, pool, mine, now_s)
            if numbers:
                ids = [(pool.family, pool.address(one)) for one in numbers]
                self.node.give_back(ids, deadline)
                self._seen = _UNSEEN

    def _give_back_others(self, pool: Geometry, mine: Sequence[Use], deadline: Deadline) -> None:
        """Give back the wholly free blocks that are the podCIDR of an earlier Node object."""
        if len(mine) < 2 or all(one.used for one in mine):
            return
        chosen = self.registry.assigned(deadline)
        ids = {(pool.family, pool.address(one.number)): one for one in mine}
        if chosen & ids.keys():
            empty = [each for each, one in ids.items() if not one.used and each not in chosen]
            if empty and self.node.give_back(empty, deadline):
                self._seen = _UNSEEN

    # Others in need -------------------------------------------------------------------------

    def _answer_marks(self, deadline: Deadline) -> None:
        due = self.marks.due()
        for request in [one for one in due if one.mark.named]:
            ids = self.named.to_donate(request.mark.named)
            given = self.node.donate(request, ids, deadline) if ids else 0
            self.marks.answered(request, given)
        due = [one for one in due if not one.mark.named]
        if not due:
            return
        uses = self._survey()
        for request in due:
            wanted, given = request.mark, 0
            for pool in filter(
                self.settings.claims_ahead, self.settings.to_donate(wanted.family, wanted.pool)
            ):
                mine = [each for its_pool, each in uses if its_pool is pool]
                numbers = planner.to_donate(mine, wanted.blocks)
                if numbers and not given:
                    ids = [(pool.family, pool.address(one)) for one in numbers]
                    given = self.node.donate(request, ids, deadline)
            self.marks.answered(request, given)
