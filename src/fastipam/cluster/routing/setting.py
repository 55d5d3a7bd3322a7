"""Keep the kernel's routes equal to the routes that the blocks need: compare, set, delete."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from fastipam.cluster.routing.kernel import is_own
from fastipam.cluster.routing.plan import REFUSED, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cluster.routing.blocks import Blocks
    from fastipam.cluster.routing.events import Heard
    from fastipam.cluster.routing.kernel import Hop, Kernel, Route
    from fastipam.cluster.routing.table import Address

log = logging.getLogger("fastipam.routes")

COMPARE_S = 600.0  # between two comparisons of the whole table
_SOON_S = 0.05  # the wait after an event: they come in bursts, as when a link goes up
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.5, 30.0  # for what was refused or not reached; doubles
_SHARE = 4  # a pause is so many times as long as the work before it, for the other threads
_LONGEST_GAP_S = 30.0  # between two comparisons while another process changes the routes
_FIGHT_S = 120.0  # after this time without such a change, the other process counts as gone
_MOST_LINES = 10  # of one kind in the log at one time
_LONGEST_MESSAGE = 1000


class Condition(NamedTuple):
    """Whether all routes are set; if not, why: one word for programs, a text for people."""

    is_set: bool
    reason: str
    message: str


class Status(NamedTuple):
    """The state of the routes, for metrics.

    ``counts`` has the routes by (family, type), ``left_out`` the nodes and prefixes without a route
    by reason. ``is_complete``: every shared store is reached, and has reported all blocks.
    ``refused`` counts the changes that the kernel has refused.
    """

    counts: dict[tuple[int, str], int]
    left_out: dict[str, int]
    is_complete: bool
    refused: int


class Setting:
    """The routes of some networks; for one thread. Others may read ``condition`` and ``status``.

    ``networks`` do not change. Without ``gateways`` no route leads to another node.

    No route is set before the blocks of at least one network are known. No route is deleted while
    the shared store of a network is not reached.
    """

    def __init__(
        self,
        kernel: Kernel,
        networks: Sequence[Blocks],
        clock: Callable[[], float] = time.monotonic,
        *,
        gateways: bool = True,
    ) -> None:
        self.interfaces: set[int] = set()  # the interfaces that the routes use
        self.condition = Condition(False, "NotReached", "the cluster's store was not reached yet")
        self.status = Status({}, {}, False, 0)
        self._kernel = kernel
        self._networks = networks
        self._with_gateways = gateways
        self._clock = clock
        self._have: set[Route] = set()  # the routes that the kernel has, as far as is known
        # The routes of an earlier run, until all blocks are reported; None before a comparison.
        self._adopted: set[Route] | None = None
        self._hops: dict[Address, Hop] = {}
        self._pools: list[object] = []
        self._has_changed = True
        self._plan_at: float | None = 0.0
        self._planned_at = self._plan_took_s = 0.0
        self._compare_at = 0.0
        self._compared_at: float | None = None
        self._compare_took_s = 0.0
        self._retry_at: float | None = None
        self._failures = 0
        self._refused = 0
        self._fights = 0
        self._fought_at = 0.0
        self._told: dict[tuple[str, str], str] = {}  # problems that were logged

    # What has happened ----------------------------------------------------------------------

    def changed(self) -> None:
        """Record that the blocks may have changed."""
        self._has_changed = True

    def hear(self, heard: Heard) -> None:
        """Record the kernel's notifications: they decide when the routes are compared again."""
        now = self._clock()
        if heard.by:
            self._note_other(heard.by, now)
        if heard.compare:
            gap_s = max(_SHARE * self._compare_took_s, self._gap_s())
            soonest = now if self._compared_at is None else self._compared_at + gap_s
            self._compare_at = min(self._compare_at, max(now + _SOON_S, soonest))
        elif heard.links and any(not hop.interface for hop in self._hops.values()):
            soonest = max(now + _SOON_S, self._planned_at + 1.0)
            self._retry_at = soonest if self._retry_at is None else min(self._retry_at, soonest)

    def _note_other(self, process: int, now: float) -> None:
        """Record that another process has changed these routes.

        ``process`` is the netlink port id of its socket, usually the process id.
        """
        if now - self._fought_at > _FIGHT_S:
            self._fights = 0
        if not self._fights:
            log.warning(
                "process=%d changed routes of protocol 147: they are checked and set again",
                process,
            )
        self._fought_at = now
        self._fights = min(self._fights + 1, 8)

    def _gap_s(self) -> float:
        """Return the least seconds between two comparisons: more after each change by others."""
        return min(_LONGEST_GAP_S, 0.25 * 2**self._fights) if self._fights > 1 else 0.0

    # One step -------------------------------------------------------------------------------

    def step(self) -> float:
        """Do what is due; return the seconds until something is due. Raises nothing."""
        try:
            self._do()
        except OSError as error:
            self._failed(f"the kernel does not list or change routes: {error}", error)
        except Exception as error:
            self._failed(f"internal error in the routes: {error!r}", error)
        return self._left_s()

    def _failed(self, text: str, error: Exception) -> None:
        log.error("%s", text, exc_info=None if isinstance(error, OSError) else error)
        self.condition = Condition(False, "KernelFailed", text[:_LONGEST_MESSAGE])
        self._failures += 1
        self._compare_at = self._clock() + self._pause_s()
        self._has_changed = False
        self._plan_at = self._retry_at = None
        try:
            self._kernel.reopen()
        except OSError as again:
            log.error("the netlink socket for routes cannot be opened: %s", again)

    def _left_s(self) -> float:
        dues = [self._compare_at, self._plan_at, self._retry_at]
        now = self._clock()
        left = [due - now for due in dues if due is not None]
        left += [due for one in self._networks if (due := one.due_s()) is not None]
        return max(0.0, min(left))

    def _do(self) -> None:
        now = self._clock()
        pools: list[object] = [one.pools() for one in self._networks]
        if self._has_changed or pools != self._pools:
            self._has_changed = False
            self._pools = pools
            if self._plan_at is None:
                self._plan_at = max(now + _SOON_S, self._planned_at + _SHARE * self._plan_took_s)
        compare = now >= self._compare_at
        retry = self._retry_at is not None and now >= self._retry_at
        is_due = self._plan_at is not None and now >= self._plan_at
        is_due = is_due or any(one.due_s() == 0 for one in self._networks)
        if compare:
            self._compare(now)
        if compare or retry or is_due:
            self._plan_at = self._retry_at = None
            self._apply(look_again=retry)

    def _compare(self, now: float) -> None:
        """Read all routes from the kernel, and forget how addresses are reached."""
        self._have = set(self._kernel.installed())
        if self._adopted is None:
            self._adopted = {one for one in self._have if is_own(one)}
        self._hops.clear()
        self._compared_at = self._clock()
        self._compare_took_s = self._compared_at - now
        self._compare_at = self._compared_at + COMPARE_S

    def _apply(self, *, look_again: bool) -> None:
        """Plan the routes, set those that are missing, then delete those that are not needed."""
        began = self._clock()
        plan = self._plan(look_again=look_again)
        if self._adopted:  # an earlier run's routes stay until all blocks are known
            keys = {(*one[:3], one.metric) for one in plan.routes}
            plan.routes |= {one for one in self._adopted if (*one[:3], one.metric) not in keys}
        missing = sorted(plan.routes - self._have, key=_order)
        refused = self._kernel.replace(missing)
        self._note_set(missing, [one for one, _, _ in refused])
        gone = []
        if plan.is_complete:
            spare = sorted(self._have - plan.routes - plan.kept, key=_order)
            failed = self._kernel.delete(spare)
            refused += failed
            gone = [one for one in spare if one not in {each for each, _, _ in failed}]
            self._have.difference_update(gone)
        self._refused += len(refused)
        for route, _, reason in refused:
            plan.problems[REFUSED, str(route)] = f"the kernel refuses the route {route}: {reason}"
        if missing or gone:
            log.info("set=%d deleted=%d routes=%d", len(missing), len(gone), len(self._have))
        self._planned_at = self._clock()
        self._plan_took_s = self._planned_at - began
        self._tell(plan)
        if refused or plan.kept:
            self._failures += 1
            self._retry_at = self._planned_at + self._pause_s()
        else:
            self._failures = 0

    def _plan(self, *, look_again: bool) -> Plan:
        """Return the plan of the routes; ask the kernel how the nodes' addresses are reached."""
        told = [one for one in self._networks if one.is_told]
        plan = Plan([one.wanted() for one in told], gateways=self._with_gateways)
        if len(told) == len(self._networks) and plan.is_complete:
            self._adopted = set()
        else:
            plan.is_complete = False
        known = {one: hop for one, hop in self._hops.items() if one in plan.nodes}
        if look_again:
            known = {one: hop for one, hop in known.items() if hop.interface}
        self._hops = known | self._kernel.look_up(one for one in plan.nodes if one not in known)
        self.interfaces = {hop.interface for hop in self._hops.values()} - {0}
        plan.choose(self._hops)
        return plan

    def _note_set(self, routes: Sequence[Route], refused: Sequence[Route]) -> None:
        """Record that these routes, except the refused ones, are set.

        Each has replaced the route of the same prefix and metric.
        """
        done = {(*one[:3], one.metric): one for one in routes}
        for one in refused:
            done.pop((*one[:3], one.metric), None)
        if done:
            self._have = {one for one in self._have if (*one[:3], one.metric) not in done}
            self._have.update(done.values())

    def _pause_s(self) -> float:
        return float(min(_FIRST_RETRY_S * 2 ** min(self._failures - 1, 10), _LONGEST_RETRY_S))

    # What others see ------------------------------------------------------------------------

    def _tell(self, plan: Plan) -> None:
        """Log each problem once; record the state for metrics and for the condition."""
        self._log_problems(plan)
        counts = Counter(
            (one.family, "unreachable" if one.gateway is None else "gateway") for one in self._have
        )
        left_out = Counter(reason for reason, _ in plan.problems)
        self.status = Status(dict(counts), dict(left_out), plan.is_complete, self._refused)
        if plan.problems:
            (reason, _), text = min(plan.problems.items())
            more = len(plan.problems) - 1
            text = text[:_LONGEST_MESSAGE] + (f" (and {more} more)" if more else "")
            self.condition = Condition(False, reason, text)
        elif self._networks and all(one.is_told for one in self._networks):
            self.condition = Condition(True, "Set", "")

    def _log_problems(self, plan: Plan) -> None:
        new = sorted(plan.problems.keys() - self._told.keys())
        counts: Counter[str] = Counter()
        for reason, subject in new:
            counts[reason] += 1
            if counts[reason] <= _MOST_LINES:
                log.warning("%s", plan.problems[reason, subject])
        for reason, count in counts.items():
            if count > _MOST_LINES:
                log.warning("%s: %d more, which are not listed", reason, count - _MOST_LINES)
        solved = sorted(self._told.keys() - plan.problems.keys())
        for reason, subject in solved[:_MOST_LINES]:
            log.info("solved: %s (%s)", reason, subject)
        self._told = plan.problems


def _order(route: Route) -> tuple[int, int, int, int]:
    """Return the sort key of a route: retries come in the same order."""
    return route.family, route.base, route.length, route.metric
