"""The measurements of a run. Each adds samples and verdicts to the results."""

from __future__ import annotations

import shutil
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from time import process_time_ns
from typing import TYPE_CHECKING

from bench import bars, processes, stores
from bench.agent import clients
from bench.agent.alone import Alone
from bench.agent.crowd import Crowd
from bench.agent.page import Page
from bench.agent.pause import Paused, take
from bench.agent.service import Agent, Server
from bench.agent.yardstick import Yardstick
from bench.errors import Missing
from bench.sampling import Subject, interleave, percentile, ratio, ratio_of_ratios
from bench.tables import duration
from fastipam.cli.commands.install.executables import install

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench.processes import Plugin
    from bench.results import Results
    from bench.sampling import Samples

COMMANDS = ("ADD", "DEL")
WIDTHS = (1, 8, 64)
TRUE = "/bin/true"
LAUNCHER = "launcher + agent"
HOST_LOCAL = "host-local"
VERSION = f"{LAUNCHER}: VERSION"
FLOOR = f"{TRUE} + one durable commit of one page"
BY_HAND = "py-lmdb by hand, 64 a commit"
ALONE = "a request, 64 a commit"
EMPTY = "a server in C that only answers, 64 clients, tmpfs"
PAUSE_S = 1.0
_FEW = (0, 250)
_MANY = 100_000
_MILLION = 1_000_000
# ADD and DEL pairs in a run, for each client or place of a crowd. A run takes about a second at
# most.
_SOCKET_PAIRS = {1: 64, 8: 32, 64: 16}
_CROWD_PAIRS = {1: 16, 8: 4, 64: 2}
_BATCHES = 16
_MOST_LATENCIES = 4000  # kept of each subject, so that 40 are beyond the 99th percentile


@dataclass(frozen=True)
class Effort:
    """The number of rounds of each part of a run."""

    process: int
    pause: int
    slow: int  # rounds of host-local with 100,000 files
    crowd: int
    socket: int


QUICK = Effort(process=25, pause=10, slow=2, crowd=4, socket=10)
FULL = Effort(process=150, pause=40, slow=7, crowd=15, socket=60)


def crowd_name(program: str, width: int) -> str:
    """Return the name of the subject with this many processes at once."""
    return f"{program}, {width} at once"


def socket_name(clients: int) -> str:
    """Return the name of the subject with this many clients at once."""
    return f"socket, {clients} client{'s' if clients > 1 else ''}"


def processor_name(name: str) -> str:
    """Return the name of the samples with the processor time of a request."""
    return f"{name}: processor"


def latency_name(name: str) -> str:
    """Return the name of the samples with the latency of each single request."""
    return f"{name}: latency"


def as_processes(results: Results, effort: Effort, scratch: Path) -> None:
    """Measure single processes: the launcher, host-local with few or many leases, /bin/true."""
    with stores.in_memory(scratch) as tmpfs, ExitStack() as stack:
        stores.fill_aside(scratch / "million", tmpfs / "million")
        # The sweeper is off: a sweep of a million leases takes seconds, and would disturb samples.
        agent = stack.enter_context(Agent(scratch, sweeps=False))
        page = Page(scratch / "floor")
        stack.callback(page.close)
        true = processes.start(TRUE, _true()).run

        def floor() -> None:
            true()
            page.commit()

        # Subjects for the cost of a call apart from its work: the connection and the disk.
        others = [
            Subject(VERSION, 1, lambda: ours.call("VERSION")),
            Subject(FLOOR, 1, floor, floor),
        ]
        plugins = []
        for place, path in (("disk", scratch), ("tmpfs", tmpfs)):
            stores.copy(path / "million", path / "by-hand-million")
            for leases, name in ((0, "none"), (_MILLION, "million")):
                label = launcher_name(leases, place)
                plugins.append(_launcher(label, agent, path / name, scratch))
                hand = Yardstick(path / f"by-hand-{name}", 1, together=1, full=leases > 0)
                stack.callback(hand.close)
                others.append(_by_hand(by_hand_name(leases, place), true, hand))
        ours = plugins[0]
        peers = [processes.host_local(leases, scratch) for leases in _FEW]
        samples = _turns(results, [*plugins, *peers], effort.process, others)
        for bar, base in ((bars.LAUNCHER, TRUE), (bars.FLOOR, FLOOR)):
            results.judge(bar, _worst(samples, ours.name, base))
        for place, bar in bars.LAUNCHER_FLATNESS.items():
            mine, theirs = (
                (f"{name(_MILLION, place)}: ADD", f"{name(0, place)}: ADD")
                for name in (launcher_name, by_hand_name)
            )
            results.judge(bar, ratio_of_ratios(samples, mine, theirs))
        for leases, peer in zip(_FEW, peers, strict=True):
            results.judge(bars.FASTER[leases], _times_faster(samples, ours, peer))
        slow = processes.host_local(_MANY, scratch)
        beside = _launcher(f"{LAUNCHER}, beside {slow.name}", agent, scratch / "none", scratch)
        samples = _turns(results, [beside, slow], effort.slow)
        results.judge(bars.FASTER[_MANY], _times_faster(samples, beside, slow))
    shutil.rmtree(scratch / f"host-local-{_MANY}")


def launcher_name(leases: int, place: str) -> str:
    """Return the name of the launcher with a store of this many leases, on disk or tmpfs."""
    return f"{LAUNCHER}, {leases:,} leases" + ("" if place == "disk" else f", {place}")


def by_hand_name(leases: int, place: str) -> str:
    """Return the name of the py-lmdb subject that is compared with :func:`launcher_name`."""
    return f"{TRUE} + py-lmdb by hand, {leases:,} leases, {place}"


def _by_hand(name: str, true: Callable[[], object], hand: Yardstick) -> Subject:
    """Return the subject /bin/true plus the commit of an ADD, with an untimed release before it."""

    def add() -> None:
        true()
        hand.assign()

    return Subject(f"{name}: ADD", 1, add, hand.release)


def paused_name(name: str) -> str:
    """Return the name of a subject that is timed after a pause."""
    return f"after {PAUSE_S:g} s: {name}"


def after_a_pause(results: Results, effort: Effort, scratch: Path) -> None:
    """Measure the launcher after a second of quiet, and its floor after such a second."""
    with ExitStack() as stack:
        agent = stack.enter_context(Agent(scratch, "pause"))
        page = Page(scratch / "page")
        stack.callback(page.close)
        true = processes.start(TRUE, _true()).run
        ours = _launcher("pause", agent, scratch / "pause-store", scratch)
        ours.try_out()

        def floor() -> None:
            true()
            page.commit()

        subjects = [
            Paused(paused_name(TRUE), true),
            Paused(paused_name(FLOOR), floor),
            Paused(paused_name(VERSION), lambda: ours.call("VERSION")),
            *(
                Paused(paused_name(f"{LAUNCHER}: {command}"), one.run, one.before)
                for command, one in zip(COMMANDS, ours.subjects(), strict=True)
            ),
        ]
        samples = results.add(take(subjects, effort.pause, PAUSE_S, agent.process_id))
    for one in subjects:
        work = one.typical
        results.facts[f"agent's work, {one.name}"] = (
            f"{duration(work.cpu_ns)} of processor time, {work.switches} switches, "
            f"{work.faults} page faults"
        )
    worst = max(
        ratio(samples, paused_name(f"{LAUNCHER}: {command}"), paused_name(FLOOR))
        for command in COMMANDS
    )
    results.judge(bars.PAUSE, worst)


def _launcher(name: str, agent: Agent, data: Path, scratch: Path) -> Plugin:
    """Return the launcher, installed without the entry point, so that only the agent answers."""
    binary = install(scratch / "bin", launcher_only=True)
    return processes.Plugin(name, binary, data, scratch, agent.socket)


def _turns(
    results: Results, plugins: list[Plugin], rounds: int, others: Sequence[Subject] = ()
) -> Samples:
    subjects = [processes.start(TRUE, _true()), *others]
    for plugin in plugins:
        plugin.try_out()
        subjects += plugin.subjects()
    samples = interleave(subjects, rounds)
    for name, values in samples.items():
        results.samples.setdefault(
            name, values
        )  # of /bin/true, which takes part twice, the first samples are kept
    return samples


def _true() -> str:
    found = shutil.which("true")
    if found is None:
        raise Missing("the program `true` is missing")
    return found


def _worst(samples: Samples, subject: str, base: str) -> float:
    """Return the larger of the ratios of ADD and of DEL to the base.

    The base has samples for each command, or the same for both.
    """
    return max(
        ratio(samples, f"{subject}: {command}", base if base in samples else f"{base}: {command}")
        for command in COMMANDS
    )


def _times_faster(samples: Samples, ours: Plugin, peer: Plugin) -> float:
    """Return how many times faster the launcher is than the peer: the smaller of ADD and DEL."""
    return min(
        ratio(samples, f"{peer.name}: {command}", f"{ours.name}: {command}") for command in COMMANDS
    )


def as_crowds(results: Results, effort: Effort, scratch: Path) -> None:
    """Measure 1, 8 and 64 processes at once: launcher, host-local without leases, /bin/true."""
    with Agent(scratch, "crowd") as agent:
        ours = _launcher("crowd", agent, scratch / "crowd-store", scratch)
        peer = processes.Plugin(
            "crowd host-local", processes.HOST_LOCAL, scratch / "crowd-host-local", scratch
        )
        for plugin in (ours, peer):
            plugin.try_out()
        for width in WIDTHS:
            crowds = {
                crowd_name(name, width): Crowd(program, plugin, width, _CROWD_PAIRS[width])
                for name, program, plugin in (
                    (TRUE, _true(), ours),
                    (LAUNCHER, str(ours.binary), ours),
                    (HOST_LOCAL, str(peer.binary), peer),
                )
            }
            subjects = [Subject(name, one.calls, one.run) for name, one in crowds.items()]
            results.add(interleave(subjects, effort.crowd))
            _keep_latencies(
                results, {name: one.latencies[one.calls :] for name, one in crowds.items()}
            )
    mine, theirs = (crowd_name(name, WIDTHS[-1]) for name in (LAUNCHER, HOST_LOCAL))
    results.judge(bars.CROWD_RATE, ratio(results.samples, theirs, mine))
    tail = percentile(results.samples[latency_name(mine)], 0.99)
    results.judge(bars.CROWD_TAIL, tail / median(results.samples[latency_name(theirs)]))


def _keep_latencies(results: Results, latencies: dict[str, list[float]]) -> None:
    """Keep the latencies; of very many only every n-th, so that the file stays readable."""
    for name, values in latencies.items():
        results.add({latency_name(name): values[:: max(1, len(values) // _MOST_LATENCIES)]})


def requests_alone(results: Results, effort: Effort, scratch: Path) -> None:
    """Measure requests in this process, without socket and disk, and the same work by hand."""
    with stores.in_memory(scratch) as tmpfs, ExitStack() as stack:
        hand = Yardstick(tmpfs / "by-hand", _BATCHES)
        stack.callback(hand.close)
        alone = Alone(tmpfs / "store", _BATCHES)
        stack.callback(alone.close)
        subjects = [
            Subject(f"{ALONE}: by hand", hand.requests, hand.run),
            Subject(f"{ALONE}: fastipam", alone.requests, alone.run),
        ]
        samples = results.add(interleave(subjects, effort.socket, process_time_ns))
    results.judge(bars.REQUEST, ratio(samples, subjects[1].name, subjects[0].name))


def over_the_socket(results: Results, effort: Effort, scratch: Path) -> None:
    """Measure 1, 8 and 64 clients that connect for each request, and the same work by hand."""
    with stores.in_memory(scratch) as tmpfs, ExitStack() as stack:
        agent = stack.enter_context(Agent(scratch, "socket"))
        program = clients.build(scratch)
        empty = str(clients.build(scratch, "server"))
        server = stack.enter_context(Server(scratch, "empty", empty, status=-signal.SIGTERM))
        subjects: list[Subject] = []
        loads: dict[str, clients.Clients] = {}
        used: Samples = {}

        def add(name: str, work: Yardstick | clients.Clients, clock: Callable[[], int]) -> None:
            """Add a subject that also records the processor time of a request."""
            taken = used.setdefault(processor_name(name), [])

            def run() -> None:
                before = clock()
                work.run()
                taken.append((clock() - before) / work.requests)

            subjects.append(Subject(name, work.requests, run))

        for place, path, widths in (("disk", scratch, WIDTHS), ("tmpfs", tmpfs, WIDTHS[-1:])):
            hand = Yardstick(path / "socket-by-hand", _BATCHES)
            stack.callback(hand.close)
            add(f"{BY_HAND}, {place}", hand, process_time_ns)
            if place == "tmpfs":
                data, width = path / "empty", WIDTHS[-1]
                loads[EMPTY] = clients.Clients(
                    program, server.socket, data, width, _SOCKET_PAIRS[width]
                )
                add(EMPTY, loads[EMPTY], server.processor_ns)
            kinds: list[tuple[int, int | None, str]] = [(width, 0, "") for width in widths]
            if place == "disk":
                kinds.append((widths[-1], None, ", cool-down"))
            for width, cooldown, more in kinds:
                name = f"{socket_name(width)}{more}, {place}"
                data = path / name.replace(" ", "-").replace(",", "")
                loads[name] = clients.Clients(
                    program, agent.socket, data, width, _SOCKET_PAIRS[width], cooldown=cooldown
                )
                add(name, loads[name], agent.processor_ns)
        results.add(interleave(subjects, effort.socket))
        # Drop the first round, as interleave does.
        results.add({name: values[1:] for name, values in used.items()})
        _keep_latencies(
            results, {name: load.latencies[load.requests :] for name, load in loads.items()}
        )
    mine, theirs = (processor_name(f"{side}, disk") for side in (socket_name(64), BY_HAND))
    results.judge(bars.SOCKET, ratio(used, mine, theirs))


def memory(results: Results, scratch: Path) -> None:
    """Compare the memory of two agents after the same work: without leases, and with a million."""
    million = scratch / "million"
    if not million.exists():
        stores.fill_aside(million)
    program = clients.build(scratch)
    taken = {}
    for leases, data in ((0, scratch / "memory"), (_MILLION, million)):
        with Agent(scratch, f"memory-{leases}") as agent:
            idle = agent.memory()
            clients.Clients(program, agent.socket, data, 8, 50).run()
            taken[leases] = agent.memory()
        results.facts[f"agent, private memory, {leases:,} leases"] = (
            f"{idle.private:.1f} MiB started, {taken[leases].private:.1f} MiB after 800 requests; "
            f"pages of the store in the page cache: {taken[leases].store:.1f} MiB"
        )
    results.judge(bars.AGENT_MEMORY, taken[0].private)
    results.judge(bars.AGENT_MEMORY_GROWTH, taken[_MILLION].private - taken[0].private)
