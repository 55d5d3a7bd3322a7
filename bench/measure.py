"""The measurements of a run. Each adds samples and verdicts to the results."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench import bars, memory, processes, stores
from bench.errors import Missing
from bench.results import Results, peer_key
from bench.sampling import interleave, ratio
from fastipam.cli.commands.install.executables import DIRECT

if TYPE_CHECKING:
    from bench.processes import Plugin
    from bench.sampling import Samples, Subject

_ROOT = Path(__file__).parent.parent
_NS_PER_MS = 1e6


@dataclass(frozen=True)
class Effort:
    """The number of rounds of a run."""

    memory: int
    store: int
    process: int
    fills: int
    peer_seconds: float
    peers: tuple[str, ...]  # sizes and fills of the peers, in pytest's names: "/12-99.00"
    million: tuple[stores.Durability, ...]  # the durabilities of the stores with a million leases
    text: str


QUICK = Effort(
    memory=60,
    store=25,
    process=10,
    fills=1,
    peer_seconds=0.02,
    # netaddr needs ten seconds for a half-full /12, as long as all other peers together.
    peers=tuple(
        f"/{prefix}-{100 * fill:.2f}" for prefix in (24, 12) for fill in memory.FILLS if fill != 0.5
    ),
    million=("durable",),
    text="quick: few rounds; no peers on a /20, on a /16 and half full, "
    "no relaxed store of a million leases",
)
FULL = Effort(
    memory=400,
    store=100,
    process=60,
    fills=3,
    peer_seconds=0.25,
    peers=tuple(f"/{prefix}-" for prefix in memory.PREFIXES),
    million=("durable", "relaxed"),
    text="full",
)


def in_memory(results: Results, effort: Effort) -> None:
    """Measure calls and pairs of a Bitmap, in alternating rounds."""
    calls = results.add(interleave(memory.calls_of_a_bitmap(), effort.memory))
    results.judge(bars.ALLOCATE, ratio(calls, "allocate", "empty method"))
    by_call = median(calls["allocate"])
    results.judge(bars.many(by_call), median(calls["allocate_many"]))
    pairs = results.add(interleave(memory.pairs(), effort.memory))
    full, empty = (peer_key("fastipam", 12, fill) for fill in (0.9999, 0.0))
    results.judge(bars.FILL_FLATNESS, ratio(pairs, full, empty))
    sizes = [
        ratio(pairs, peer_key("fastipam", 12, fill), peer_key("fastipam", 24, fill))
        for fill in memory.FILLS
    ]
    results.judge(bars.SIZE_FLATNESS, max(sizes))
    results.judge(bars.MEMORY, memory.full_size_kib())


def peers(results: Results, effort: Effort, scratch: Path) -> None:
    """Measure a pair of every peer at every size and fill, with pytest-benchmark."""
    memory.require()
    output = scratch / "peers.json"
    chosen = " or ".join(effort.peers)
    command = [
        *(sys.executable, "-m", "pytest", "-q", "bench/test_memory.py"),
        *("-k", f"test_pair and ({chosen})"),
        f"--benchmark-json={output}",
        f"--benchmark-max-time={effort.peer_seconds}",
        *("--benchmark-min-rounds=5", "--benchmark-warmup=off", "--benchmark-disable-gc"),
    ]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pytest-benchmark failed:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
    for one in json.loads(output.read_text())["benchmarks"]:
        info = one["extra_info"]
        key = peer_key(info["peer"], info["prefix"], info["fill"])
        results.peers[key] = [taken * 1e9 / info["calls"] for taken in one["stats"]["data"]]


def in_store(results: Results, effort: Effort, scratch: Path) -> None:
    """Measure pairs, and the same with py-lmdb; the effect of a million leases; the fill."""
    _beside(results, effort, scratch / "beside")
    million = {name: scratch / f"million-{name}" for name in effort.million}
    fills = [stores.fill(scratch / f"fill-{number}", "durable") for number in range(effort.fills)]
    results.add({"fill, durable": [seconds * 1e9 for seconds in fills]})
    results.judge(bars.FILL, median(fills))
    _opening(results, effort, scratch, scratch / "fill-0")
    for durability, path in million.items():
        stores.fill_aside(path, durability)
    _flatness(results, effort, scratch, million)


def _beside(results: Results, effort: Effort, scratch: Path) -> None:
    pairs: list[tuple[stores.Durability, int, bars.Bar]] = [
        ("relaxed", 200, bars.RELAXED_PAIR),
        ("durable", 10, bars.DURABLE_PAIR),
    ]
    for durability, calls, bar in pairs:
        worst = 0.0
        for cooldown in (True, False):
            beside = stores.Beside(
                scratch / f"{durability}-{cooldown}", durability, cooldown=cooldown
            )
            try:
                subjects = beside.subjects(calls)
                samples = results.add(interleave(subjects, effort.store))
            finally:
                beside.close()
            worst = max(worst, ratio(samples, subjects[0].name, subjects[1].name))
        results.judge(bar, worst)


def _opening(results: Results, effort: Effort, scratch: Path, million: Path) -> None:
    empty = scratch / "empty"
    stores.touch(empty)
    subjects = [
        stores.open_and_look("open, 1,048,573 leases", million),
        stores.open_and_look("open, no lease", empty),
    ]
    samples = results.add(interleave(subjects, effort.store))
    results.judge(bars.OPEN, median(samples[subjects[0].name]) / _NS_PER_MS)


def _flatness(
    results: Results, effort: Effort, scratch: Path, million: dict[stores.Durability, Path]
) -> None:
    pairs: list[tuple[stores.Durability, int, bars.Bar]] = [
        ("relaxed", 200, bars.LEASES_FLATNESS_RELAXED),
        ("durable", 10, bars.LEASES_FLATNESS_DURABLE),
    ]
    for durability, calls, bar in pairs:
        if durability not in million:
            continue
        paths = {
            "no lease": scratch / f"none-{durability}",
            "a million leases": million[durability],
            "a million leases, compacted": scratch / f"compacted-{durability}",
        }
        stores.copy(million[durability], paths["a million leases, compacted"], compact=True)
        stores.copy(million[durability], scratch / f"by-hand-{durability}")
        (scratch / f"by-hand-none-{durability}").mkdir()
        with ExitStack() as stack:
            subjects = [
                stores.pair(
                    f"{durability} pair, {label}",
                    stack.enter_context(stores.opened(path, durability)),
                    calls,
                )
                for label, path in paths.items()
            ]
            for label, name, stride in (
                ("no lease", "by-hand-none", 1),
                ("a million leases", "by-hand", stores.LEASES // stores.ROOM),
            ):
                hand = stores.ByHand(scratch / f"{name}-{durability}", durability, stride=stride)
                stack.callback(hand.close)
                subjects.append(hand.pair(f"{durability} pair by hand, {label}", calls))
            samples = results.add(interleave(subjects, effort.store))
        results.judge(bar, ratio(samples, subjects[1].name, subjects[0].name))


def as_processes(results: Results, effort: Effort, scratch: Path) -> None:
    """Measure CNI plugins and bare starts, alternately."""
    processes.require_host_local()
    plugins = [processes.host_local(leases, scratch) for leases in processes.HOST_LOCAL_LEASES]
    plugins += _fastipam(scratch)
    subjects: list[Subject] = processes.bare_starts()
    for plugin in plugins:
        plugin.try_out()
        subjects += plugin.subjects()
    samples = results.add(interleave(subjects, effort.process))
    _judge_plugin(results, samples)


def _fastipam(scratch: Path) -> list[Plugin]:
    """Install the plugin for a store without a lease and for one with a million."""
    # Without an agent the launcher starts the entry point, which is what this measures.
    binary = processes.install_plugin(scratch / "bin").with_name(DIRECT)
    million = scratch / "million-durable"
    if not million.exists():
        stores.fill_aside(million, "durable")
    return [
        processes.Plugin("fastipam, 0 leases", binary, scratch / "plugin", scratch),
        processes.Plugin("fastipam, 1,000,000 leases", binary, million, scratch),
    ]


def _judge_plugin(results: Results, samples: Samples) -> None:
    none, many = "fastipam, 0 leases: ADD", "fastipam, 1,000,000 leases: ADD"
    start = ratio(samples, none, "python -I -S -c pass")
    results.judge(bars.PLUGIN_START, max(start, ratio(samples, many, "python -I -S -c pass")))
    results.judge(bars.PLUGIN_FLATNESS, ratio(samples, many, none))


def compare(results: Results, before: Results) -> list[tuple[str, float]]:
    """Return how many times an earlier run's median each subject costs. Raises Missing."""
    found = [
        (name, median(values) / median(before.samples[name]))
        for name, values in results.samples.items()
        if before.samples.get(name)
    ]
    if not found:
        raise Missing("the baseline has no subject of this run")
    return found
