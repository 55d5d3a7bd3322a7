"""Count the addresses that are lost or leak after ``kill -9`` and after a reboot.

A contender's store is not read. Instead its pool is small, and is filled up before and after: an
address that no pod has, and that a new pod does not get either, has leaked.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass, field
from random import Random
from statistics import median
from time import perf_counter_ns
from typing import TYPE_CHECKING, TypedDict

from bench import children
from bench.errors import Failed
from bench.workloads.answers import Held
from bench.workloads.contenders import Plugin
from bench.workloads.traces import ADD, DEL, SEED, Step, Workload, container

if TYPE_CHECKING:
    from collections.abc import Callable

_HELD = 4
_MOST = 1 << 8  # more than the pool has


class Killed(TypedDict):
    """The result of ``kill -9`` for a contender."""

    contender: str
    what: str  # what was killed
    kills: int  # the number of killed calls that had not answered
    held: int
    lost: int  # addresses of running pods that were given to others
    leaked: int
    leaked_after_del: int
    next_ns: list[float]  # the ADD after each kill
    note: str


class Rebooted(TypedDict):
    """The result of a reboot for a contender."""

    contender: str
    held: int
    leaked: int
    seen: str  # how the contender could notice the reboot
    freed_by: str
    first_ns: float | None  # the time of the first ADD, or None when it was refused
    note: str


def small(name: str, prefix: int) -> Workload:
    """Return a workload without calls on a small pool."""
    return Workload(name, name, 0, 0, lambda _: iter(()), pool=f"10.32.0.0/{prefix}")


@dataclass
class Pool:
    """A contender with a small pool, and the pods for which it was called."""

    plugin: Plugin
    _number: int = 0
    times: list[float] = field(default_factory=list)  # in ns, of the ADDs that gave an address

    def add(self) -> tuple[str, str | None]:
        """Make an ADD for a new pod; return its container, and the address or None."""
        self._number += 1
        who = container(self._number)
        begun = perf_counter_ns()
        status, addresses = self.plugin.attempt(Step(ADD, who))
        if status or not addresses:
            return who, None
        self.times.append(perf_counter_ns() - begun)
        return who, addresses[0]

    def remove(self, who: str) -> None:
        """Release a pod's address. A refusal is not a failure here."""
        self.plugin.attempt(Step(DEL, who))

    def fill(self) -> dict[str, str]:
        """Make ADDs until one is refused; return the addresses by container."""
        given: dict[str, str] = {}
        held = Held(self.plugin.name)
        for _ in range(_MOST):
            who, address = self.add()
            if address is None:
                return given
            held.given(who, [address])
            given[who] = address
        section, found = json.dumps(self.plugin.ipam), list(given.values())
        raise Failed(
            f"{self.plugin.name}: ADD gave {_MOST} addresses, {found[0]} to {found[-1]}, which its "
            f"pool does not have; its `ipam` section is {section}"
        )

    def free(self) -> dict[str, str]:
        """Return the addresses that new pods can get now, by container; release them again."""
        given = self.fill()
        for who in given:
            self.remove(who)
        return given

    def hold(self, count: int) -> dict[str, str]:
        """Make ADDs for ``count`` new pods; return the addresses by container. Raises Failed."""
        held: dict[str, str] = {}
        known = Held(self.plugin.name)
        for _ in range(count):
            who, address = self.add()
            if address is None:
                raise Failed(f"{self.plugin.name}: ADD gave no address on an empty pool")
            known.given(who, [address])
            held[who] = address
        return held


def kill(make: Callable[[], Plugin], rounds: int) -> Killed:
    """Kill ADDs at random moments; every second time kill the service behind the plugin, if any."""
    pool = Pool(make())
    plugin, chance = pool.plugin, Random(SEED)
    capacity = len(pool.free())
    held = pool.hold(_HELD)
    usual = median(pool.times) / 1e9
    victims, taken, service = [], [], False
    for number in range(rounds):
        who = container(_MOST * 16 + number)
        of_service = number % 2 == 1
        found, status = _kill_one(plugin, who, chance.uniform(0, usual), of_service=of_service)
        service |= found
        if status == 0:
            pool.remove(who)  # it had answered before it was killed
        else:
            victims.append(who)
        before = len(pool.times)
        after, address = pool.add()
        taken += pool.times[before:]
        if address is not None:
            pool.remove(after)
        if found:
            plugin.start_service()
    given = pool.free()
    lost = len(set(held.values()) & set(given.values()))
    leaked = capacity - _HELD - len(given) + lost
    for who in victims:
        pool.remove(who)
    left = capacity - _HELD - len(pool.free()) + lost
    return Killed(
        contender=plugin.name,
        what="the call's process; every second time the agent" if service else "the call's process",
        kills=len(victims), held=_HELD, lost=lost, leaked=leaked, leaked_after_del=left,
        next_ns=taken, note="",
    )  # fmt: skip


def _kill_one(plugin: Plugin, who: str, wait_s: float, *, of_service: bool) -> tuple[bool, int]:
    """Begin an ADD and kill it or its service; return (whether the service was, wait status)."""
    with children.patience(f"{plugin.name}: an ADD that is killed"):
        process = plugin.begin(Step(ADD, who))
        time.sleep(wait_s)
        found = of_service and plugin.kill_service()
        if not found:
            os.killpg(process, signal.SIGKILL)
        return found, children.wait(process)


def reboot(make: Callable[[], Plugin]) -> Rebooted:
    """Fill the pool, reboot, and count how many of its addresses new pods get.

    After the reboot no old container runs, their namespaces are gone, and the store is unchanged.
    """
    pool = Pool(make())
    plugin = pool.plugin
    old = pool.fill()
    if not old:
        raise Failed(f"{plugin.name}: ADD gave no address on an empty pool")
    seen = plugin.reboot()
    before = len(pool.times)
    leaked = len(old) - len(pool.free())
    first = pool.times[before] if len(pool.times) > before else None
    freed_by = "the ADDs that follow" if not leaked else ""
    if leaked and plugin.collect() == 0 and len(pool.free()) == len(old):
        freed_by = "GC"
    if not freed_by:
        for who in old:
            pool.remove(who)
        left = len(old) - len(pool.free())
        freed_by = "nothing that CNI has" if left else "the DEL of each old container"
    return Rebooted(
        contender=plugin.name, held=len(old), leaked=leaked, seen=seen, freed_by=freed_by,
        first_ns=first, note="",
    )  # fmt: skip
