"""``python -m bench.cluster_sim``: a cluster in virtual time. Exit 1 when a bar is missed.

Nodes, network and the speed of the store are assumptions (``--help``; ``python -m
bench.etcd_speed`` measures a store, ``--sweep`` shows what depends on it). The decisions are those
of fastipam, and the store makes real compare-and-swap transactions. The same seed gives the same
figures.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from bench.cluster_sim import loads
from bench.cluster_sim.cluster import Cluster
from bench.cluster_sim.nodes import ADD_TIMEOUT_S
from bench.cluster_sim.peers import Affinity, Ring
from bench.cluster_sim.world import World
from fastipam.configuration.cluster import Geometry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.cluster_sim.loads import Event
    from bench.cluster_sim.nodes import Node
    from bench.cluster_sim.world import Waits

BASE = 10 << 24
TRANSACTIONS_BAR = 1.5
WAIT_BAR_S = 2.0
LOADS = ("start", "growth", "shift")
_THOUGH_FREE = (
    "no ADD of a node that reaches the store fails while 2 % of the pool is free in blocks that "
    "could move"
)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.cluster_sim", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer nodes: some seconds")
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--pods", type=int, default=1_000_000)
    parser.add_argument(
        "--only", action="append", choices=LOADS, help="this load; may be given several times"
    )
    parser.add_argument(
        "--sweep", action="store_true", help="only the start, on slower and faster stores"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--writes", type=float, default=20_000, help="of the store, a second")
    parser.add_argument("--reads", type=float, default=100_000, help="of the store, a second")
    parser.add_argument("--round-trip", type=float, default=0.002, help="seconds, to the store")
    return parser.parse_args(argv)


def _world(options: argparse.Namespace) -> World:
    return World(
        options.seed,
        writes_per_s=options.writes,
        reads_per_s=options.reads,
        round_trip_s=options.round_trip,
    )


def _cluster(
    world: World,
    nodes: int,
    length: int,
    block_length: int,
    *,
    add_timeout_s: float = ADD_TIMEOUT_S,
) -> Cluster:
    pool = Geometry(4, BASE, 32 - block_length, 1 << (block_length - length))
    names = [f"node-{at:05}" for at in range(nodes)]
    return Cluster(world, pool, names, add_timeout_s=add_timeout_s)


def _feed(world: World, cluster: Cluster, events: Iterable[Event]) -> None:
    """Run a load. Only its next event is in the queue at any time."""
    source = iter(events)

    def play(event: Event) -> None:
        _, node, pod, starts = event
        (cluster.add if starts else cluster.remove)(node, pod)
        follow()

    def follow() -> None:
        event = next(source, None)
        if event is not None:
            world.at(event[0], lambda: play(event))

    follow()


def _row(table: Table, name: str, cluster: Cluster, seconds: float) -> float:
    totals, waits = cluster.totals, cluster.waits
    ratio = (totals.claims + totals.conflicts) / max(1, totals.claims)
    table.add_row(
        name,
        f"{len(cluster.nodes):,}",
        f"{waits.served:,}",
        f"{totals.claims:,}",
        f"{totals.claimed:,}",
        f"{ratio:.3f}",
        f"{totals.conflicts:,}",
        f"{totals.looks:,}",
        f"{totals.donated:,} / {totals.released:,}",
        f"{waits.waited:,}",
        f"{waits.worst_s:.3f}",
        f"{waits.failed:,} / {waits.failed_cut_off:,} / {waits.failed_though_free:,}",
        f"{seconds:.0f}",
    )
    return ratio


def _start(table: Table, options: argparse.Namespace) -> list[tuple[str, bool]]:
    """Start all nodes at the same moment."""
    begin = time.perf_counter()
    world = _world(options)
    cluster = _cluster(world, options.nodes, 11, 26)
    _feed(world, cluster, loads.all_at_once(options.nodes))
    world.run(60.0)
    ratio = _row(table, "start at once", cluster, time.perf_counter() - begin)
    return [
        (f"start: at most {TRANSACTIONS_BAR} transactions a claim", ratio <= TRANSACTIONS_BAR),
        (f"start: nobody waits longer than {WAIT_BAR_S} s", _nobody_waits(cluster.waits)),
        ("start: every node is served", cluster.waits.served == options.nodes),
    ]


def _sweep(options: argparse.Namespace) -> Table:
    """Run the start on slower and faster stores, without a time limit for an ADD."""
    table = Table(
        *("writes a second", "reads a second", "transactions a claim", "conflicts"),
        *("median wait (s)", "worst wait (s)"),
        title=f"{options.nodes:,} nodes start at once, by the store's speed",
    )
    for factor in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2):
        world = World(
            options.seed,
            writes_per_s=options.writes * factor,
            reads_per_s=options.reads * factor,
            round_trip_s=options.round_trip,
        )
        cluster = _cluster(world, options.nodes, 11, 26, add_timeout_s=600.0)
        _feed(world, cluster, loads.all_at_once(options.nodes))
        world.run(300.0)
        totals, waits = cluster.totals, cluster.waits
        assert waits.served == options.nodes
        table.add_row(
            f"{options.writes * factor:,.0f}",
            f"{options.reads * factor:,.0f}",
            f"{(totals.claims + totals.conflicts) / totals.claims:.3f}",
            f"{totals.conflicts:,}",
            f"{median(waits.seconds):.2f}",
            f"{waits.worst_s:.2f}",
        )
    return table


def _nobody_waits(waits: Waits) -> bool:
    return not waits.failed and waits.worst_s <= WAIT_BAR_S


def _cut(nodes: list[Node], is_cut: bool) -> None:
    for node in nodes:
        node.is_cut = is_cut


def _growth(table: Table, options: argparse.Namespace) -> list[tuple[str, bool]]:
    """Run the growth to all pods, with rolling restarts of the agents and two partitions."""
    begin = time.perf_counter()
    world = _world(options)
    cluster = _cluster(world, options.nodes, 11, 26)
    seconds = 600.0
    _feed(world, cluster, loads.growth(options.nodes, options.pods, seconds, options.seed))
    for at, node in enumerate(cluster.nodes):
        world.at(60 + 400.0 * at / options.nodes, partial(node.restart, 5.0))
    for first, moment in ((0, 200.0), (options.nodes // 2, 350.0)):
        part = cluster.nodes[first : first + options.nodes // 20]
        world.at(moment, partial(_cut, part, True))
        world.at(moment + 60, partial(_cut, part, False))
    world.run(seconds + 30)
    _row(table, "growth, restarts, partitions", cluster, time.perf_counter() - begin)
    waits = cluster.waits
    return [
        ("growth: only nodes that are cut off fail", waits.failed == waits.failed_cut_off),
        (f"growth: {_THOUGH_FREE}", waits.failed_though_free == 0),
        (f"growth: nobody waits longer than {WAIT_BAR_S} s", waits.worst_s <= WAIT_BAR_S),
    ]


def _shift(
    table: Table, peers: Table, options: argparse.Namespace, nodes: int, length: int
) -> list[tuple[str, bool]]:
    """Run the load in which demand moves, on fastipam and on the models of other designs."""
    begin = time.perf_counter()
    world = _world(options)
    cluster = _cluster(world, nodes, length, 26)
    size = 1 << (32 - length)
    _feed(world, cluster, loads.shift(nodes, size, options.seed))
    world.run(930.0)
    _row(table, "demand moves", cluster, time.perf_counter() - begin)
    ring = Ring(nodes, size, random.Random(options.seed), options.round_trip)
    affinity = Affinity(nodes, cluster.pool.count, 64, options.round_trip)
    for _, node, pod, starts in loads.shift(nodes, size, options.seed):
        for other in (ring, affinity):
            (other.add if starts else other.remove)(node, pod)
    totals, waits = cluster.totals, cluster.waits
    for name, found, moved, writes, state in (
        (
            "fastipam, /26",
            waits,
            f"{totals.donated + totals.released:,} blocks",
            f"{cluster.world.engine.calls['transact']:,} transactions",
            f"{cluster.owned_blocks:,} blocks",
        ),
        (
            "Weave's ring",
            ring.waits,
            f"{ring.moves:,} ranges",
            f"{ring.messages:,} messages, then gossip to {nodes - 1:,} peers",
            f"{ring.entries:,} ranges, on every peer",
        ),
        (
            "Calico's, /26",
            affinity.waits,
            f"{affinity.released:,} blocks",
            f"{affinity.writes:,} writes",
            f"{cluster.pool.count - affinity.movable():,} blocks",
        ),
    ):
        peers.add_row(
            name,
            f"{found.served:,}",
            f"{found.failed:,}",
            f"{found.waited:,}",
            f"{found.worst_s:.3f}",
            moved,
            writes,
            state,
        )
    return [
        (f"demand moves: {_THOUGH_FREE}", waits.failed_though_free == 0),
        (f"demand moves: nobody waits longer than {WAIT_BAR_S} s", waits.worst_s <= WAIT_BAR_S),
    ]


def main(argv: list[str] | None = None) -> int:
    """Run the simulations; return 0 when all bars are met, 1 when one is missed."""
    options = _arguments(argv)
    if options.quick:
        options.nodes, options.pods = min(options.nodes, 1_000), min(options.pods, 30_000)
    table = Table(
        "load",
        *("nodes", "ADDs served", "claims", "blocks", "transactions a claim", "conflicts"),
        *("looks", "donated / given back", "waited", "worst wait (s)"),
        *("failed / cut off / though free", "took (s)"),
        title=f"Virtual time, seed {options.seed}; a store of {options.writes:,.0f} writes and "
        f"{options.reads:,.0f} reads a second, round trip {1000 * options.round_trip:g} ms",
    )
    peers = Table(
        *("demand moves", "served", "failed", "waited", "worst wait (s)", "moved"),
        *("asked", "state at the end"),
        title="The same load, fastipam and models of others",
    )
    if options.sweep:
        Console(width=None if sys.stdout.isatty() else 200).print(_sweep(options))
        return 0
    nodes, length = (60, 16) if options.quick else (1_000, 12)
    work = {
        "start": lambda: _start(table, options),
        "growth": lambda: _growth(table, options),
        "shift": lambda: _shift(table, peers, options, min(options.nodes, nodes), length),
    }
    verdicts = []
    for load in options.only or LOADS:
        print(f"simulating: {load}", file=sys.stderr, flush=True)
        verdicts += work[load]()
    console = Console(width=None if sys.stdout.isatty() else 200)
    for one in (table, peers):
        if one.row_count:
            console.print(one)
    for text, met in verdicts:
        console.print(f"{'met   ' if met else 'MISSED'} {text}")
    return 0 if all(met for _, met in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
