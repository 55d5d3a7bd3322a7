"""Measure the same ADDs with host-local, and with fastipam without and with an agent."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from bench.workloads.contenders import Fastipam, HostLocal, Plugin
from bench.workloads.traces import ADD, DEL, Step, container, growth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.agent.service import Agent

_DIRECTORIES = ("/usr/lib/cni", "/opt/cni/bin")  # of Debian, and of containerd and kubelet
_OWN = b"FASTIPAM_SOCKET"  # bytes of fastipam's launcher, which may have another plugin's name


class Contender(NamedTuple):
    """A plugin that takes part in the comparison."""

    name: str
    durability: str  # whether an answer survives a power cut
    make: Callable[[Path, int], Plugin]  # makes it with a new store for this number of leases


class Row(NamedTuple):
    """A contender's results: the median of its ADDs in nanoseconds, for each number of leases."""

    contender: Contender
    medians: list[float]


def find_host_local(directories: tuple[str, ...] = _DIRECTORIES) -> Path | None:
    """Return the first host-local in these directories, or None.

    A fastipam that is installed under that name does not count.
    """
    for directory in directories:
        binary = Path(directory, "host-local")
        with suppress(OSError):
            if _OWN not in binary.read_bytes():
                return binary
    return None


def contenders(fastipam: Path, agent: Agent, host_local: Path | None) -> Iterator[Contender]:
    """Yield the contenders. ``fastipam`` is the path of the installed plugin."""
    if host_local is not None:

        def peer(scratch: Path, leases: int) -> Plugin:
            made = HostLocal(growth(leases), scratch)
            made.binary = host_local
            return made

        yield Contender("host-local", "no: a file, without fsync", peer)

    def own(name: str, at: Agent | None) -> Callable[[Path, int], Plugin]:
        return lambda scratch, leases: Fastipam(name, fastipam, growth(leases), scratch, at)

    durable = "yes: a commit, with fdatasync"
    yield Contender("fastipam, no agent", durable, own("without an agent", None))
    yield Contender("fastipam, agent", durable, own("with an agent", agent))


def measure(
    listed: list[Contender],
    leases: tuple[int, ...],
    adds: int,
    scratch: Path,
    advance: Callable[[int], object],
) -> list[Row]:
    """Measure ADDs, each a process, beside each of these numbers of leases in the store.

    The contenders alternate, so that other work on the machine affects all of them. Each ADD is
    followed by its DEL, which is not timed; then ``advance(1)`` is called. Raises Failed.
    """
    rows = [Row(one, []) for one in listed]
    for held in leases:
        plugins = []
        for number, one in enumerate(listed):
            plugin = one.make(scratch / f"{held}-{number}", held)
            plugin.seed(held, lambda: False)
            plugins.append(plugin)
        times: list[list[float]] = [[] for _ in listed]
        for at in range(adds):
            for taken, plugin in zip(times, plugins, strict=True):
                taken.append(pair(plugin, container(held + at)))
                advance(1)
        for row, taken in zip(rows, times, strict=True):
            row.medians.append(median(taken))
    return rows


def pair(plugin: Plugin, name: str) -> float:
    """Make an ADD and its DEL, and return the nanoseconds of the ADD. Raises Failed."""
    taken = plugin.call(Step(ADD, name))
    plugin.call(Step(DEL, name))
    return taken
