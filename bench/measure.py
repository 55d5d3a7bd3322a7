"""The measurements of a run. Each adds samples and verdicts to the results."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import fastipam
from bench import bars, bulk, by_hand, memory, processes, stores
from bench.errors import Missing
from bench.results import Results, peer_key
from bench.sampling import interleave, ratio, ratio_of_ratios
from fastipam.cli.commands.install.executables import DIRECT

if TYPE_CHECKING:
    from bench.processes import Plugin
    from bench.sampling import Samples, Subject

_ROOT = Path(__file__).parent.parent
_NS_PER_MS = 1e6
DURABLE_PAIR, TMPFS_PAIR = "durable pair", "pair on a tmpfs"
_TOGETHER = 1000  # pairs in one transaction


@dataclass(frozen=True)
class Effort:
    """The number of rounds of each part of a run."""

    memory: int
    store: int
    process: int
    fills: int
    long: int  # the number of transactions with 40,000 pairs
    bulk: int
    peer_seconds: float
    peers: tuple[str, ...]  # sizes and fills of the peers' tests, as in pytest's ids: "/12-99.00"
    text: str


QUICK = Effort(
    memory=60,
    store=25,
    process=10,
    fills=1,
    peer_seconds=0.02,
    # Without half-full pools: netaddr needs ten seconds for a /12, as long as all other peers.
    peers=tuple(
        f"/{prefix}-{100 * fill:.2f}" for prefix in (24, 12) for fill in memory.FILLS if fill != 0.5
    ),
    long=3,
    bulk=10,
    text="quick: few rounds; no peers on a /20, on a /16 and half full",
)
FULL = Effort(
    memory=400,
    store=100,
    process=60,
    fills=3,
    peer_seconds=0.25,
    peers=tuple(f"/{prefix}-" for prefix in memory.PREFIXES),
    long=7,
    bulk=40,
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
    """Measure pairs, bulk calls, the fill and a million leases, and the same with py-lmdb."""
    _beside(results, effort, scratch / "beside")
    _bulk(results, effort, scratch)
    _fill(results, effort, scratch)
    _opening(results, effort, scratch, scratch / "fill-0")
    with stores.in_memory(scratch) as tmpfs:
        results.facts["tmpfs"] = str(tmpfs.parent)
        stores.fill_aside(scratch / "million", tmpfs / "million")
        _flatness(results, effort, scratch, DURABLE_PAIR)
        _flatness(results, effort, tmpfs, TMPFS_PAIR)


def _beside(results: Results, effort: Effort, scratch: Path) -> None:
    worst: dict[bars.Bar, float] = {}

    def judge(bar: bars.Bar, figure: float) -> None:
        worst[bar] = max(worst.get(bar, 0.0), figure)

    pairs: list[tuple[stores.Durability, int, bars.Bar]] = [
        ("relaxed", 200, bars.RELAXED_PAIR),
        ("durable", 10, bars.DURABLE_PAIR),
    ]
    for durability, calls, bar in pairs:
        for cooldown in (True, False):
            path = scratch / f"{durability}-{cooldown}"
            with ExitStack() as stores_of:
                beside, apart = (
                    stores_of.enter_context(
                        closing(by_hand.Beside(path / name, durability, cooldown=cooldown))
                    )
                    for name in ("alone", "together")
                )
                ours, hand, *more = beside.subjects(calls)
                if durability == "relaxed":
                    # In a store of its own: a large transaction frees many pages at once, and LMDB
                    # then carries the list of them through every later commit.
                    more.append(apart.together(_TOGETHER))
                samples = results.add(interleave([ours, hand, *more], effort.store))
                judge(bar, ratio(samples, ours.name, hand.name))
                if more:
                    judge(bars.TOGETHER, ratio(samples, more[0].name, hand.name))
                    judge(bars.LONG_TRANSACTION, _long_transaction(results, effort, apart))
    for bar, figure in worst.items():
        results.judge(bar, figure)


def _long_transaction(results: Results, effort: Effort, beside: by_hand.Beside) -> float:
    """Return the ratio of the cost of a late pair in a transaction to that of an early pair."""
    samples: Samples = {}
    for _ in range(effort.long):
        for name, values in beside.long_transaction().items():
            samples.setdefault(name, []).extend(values)
    early, late, *_ = results.add(samples)
    return ratio(samples, late, early)


def _bulk(results: Results, effort: Effort, scratch: Path) -> None:
    with fastipam.open(scratch / "many", "relaxed") as ipam:
        subjects = bulk.many(ipam.network(stores.NETWORK, stores.SUBNET, cooldown_s=30))
        samples = results.add(interleave(subjects, effort.bulk))
        results.judge(bars.RELEASE_MANY, ratio(samples, *reversed(bulk.MANY_NAMES)))
    with ExitStack() as stack:
        network = stack.enter_context(stores.opened(scratch / "threads", "durable"))
        subjects = []
        for name, count in zip(bulk.THREADS_NAMES, bulk.THREADS, strict=True):
            threads = bulk.Threads(name, network, count)
            stack.callback(threads.close)
            subjects.append(threads.subject())
        samples = results.add(interleave(subjects, effort.bulk))
        results.judge(bars.THREADS, ratio(samples, *bulk.THREADS_NAMES))


def _fill(results: Results, effort: Effort, scratch: Path) -> None:
    """Fill stores alternately with both sides. The first store of fastipam is kept."""
    ours, beside = "fill, durable", "fill, durable, by hand"
    samples: Samples = {ours: [], beside: []}
    for number in range(effort.fills):
        path = scratch / f"fill-{number}"
        hand = by_hand.Filling(scratch / "fill-by-hand", "durable")
        for side in (ours, beside) if number % 2 else (beside, ours):
            taken = hand.fill() if side == beside else stores.fill(path, "durable")
            samples[side].append(taken * 1e9)
        hand.close()
        shutil.rmtree(scratch / "fill-by-hand")
        if number:
            shutil.rmtree(path)
    results.add(samples)
    results.judge(bars.FILL, median(samples[ours]) / 1e9)
    results.judge(bars.FILL_BY_HAND, ratio(samples, ours, beside))


def _opening(results: Results, effort: Effort, scratch: Path, million: Path) -> None:
    empty = scratch / "empty"
    stores.touch(empty)
    subjects = [
        stores.open_and_look("open, 1,048,573 leases", million),
        stores.open_and_look("open, no lease", empty),
    ]
    samples = results.add(interleave(subjects, effort.store))
    results.judge(bars.OPEN, median(samples[subjects[0].name]) / _NS_PER_MS)


def _flatness(results: Results, effort: Effort, scratch: Path, kind: str) -> None:
    """Compare pairs on a store with a million leases, in ``scratch``, and on one without leases."""
    calls, bar = {
        DURABLE_PAIR: (10, bars.LEASES_FLATNESS),
        TMPFS_PAIR: (200, bars.LEASES_FLATNESS_TMPFS),
    }[kind]
    none, many = "no lease", "a million leases"
    compacted = f"{many}, compacted"
    paths = {none: scratch / "none", many: scratch / "million", compacted: scratch / "compacted"}
    stores.copy(paths[many], paths[compacted], compact=True)
    stores.copy(paths[many], scratch / "by-hand")
    with ExitStack() as stack:
        ours = [
            stores.pair(
                f"{kind}, {label}", stack.enter_context(stores.opened(path, "durable")), calls
            )
            for label, path in paths.items()
        ]
        beside = []
        for label, name in ((none, "by-hand-none"), (many, "by-hand")):
            hand = by_hand.Pairs(scratch / name, "durable", full=label == many)
            stack.callback(hand.close)
            beside.append(hand.pair(f"{kind} by hand, {label}", calls))
        samples = results.add(interleave([*ours, *beside], effort.store))
    figure = ratio_of_ratios(
        samples, (ours[1].name, ours[0].name), (beside[1].name, beside[0].name)
    )
    results.judge(bar, figure)


def as_processes(results: Results, effort: Effort, scratch: Path) -> None:
    """Measure CNI plugins and bare starts of programs alternately."""
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
    """Return the plugin on a store without leases, and on one with a million."""
    # Measure the entry point directly: without an agent the launcher starts it.
    binary = processes.install_plugin(scratch / "bin").with_name(DIRECT)
    million = scratch / "million"
    if not million.exists():
        stores.fill_aside(million)
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
    """Return the ratio of each subject's median to that of an earlier run. Raises Missing."""
    found = [
        (name, median(values) / median(before.samples[name]))
        for name, values in results.samples.items()
        if before.samples.get(name)
    ]
    if not found:
        raise Missing("the baseline has no subject of this run")
    return found
