"""Run the main job from end to end and print figures; `scripts/demo` runs this.

First the CNI plugin is installed into a directory, and serves ADD, CHECK and DEL as a runtime calls
them. Then a durable store is filled with a /12, all 1,048,573 addresses, and churned, with a
progress bar.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

import fastipam
from fastipam.cli.commands.install.executables import install

if TYPE_CHECKING:
    from collections.abc import Callable

POOL = "10.32.0.0/12"
BATCH = 8192
ROUNDS = 20  # plugin calls of each verb

console = Console()


def call(plugin: Path, verb: str, config: dict[str, Any], container: str) -> tuple[float, str]:
    """Run the plugin once as a runtime does; return (seconds of the whole process, output)."""
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": f"/run/netns/{container}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(plugin.parent),
    }
    begin = time.perf_counter()
    done = subprocess.run(
        [plugin],
        env=environment,
        input=json.dumps(config),
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(f"{verb} failed: {done.stdout}{done.stderr}")
    return seconds, done.stdout


def through_the_plugin(directory: Path) -> dict[str, list[float]]:
    """Run ADD, CHECK and DEL through the installed executable; return the seconds of each call."""
    plugin = install(directory / "bin")
    config: dict[str, Any] = {
        "cniVersion": "1.0.0",
        "name": "podnet",
        "type": "bridge",
        "ipam": {
            "type": "fastipam",
            "subnet": POOL,
            "dataDir": str(directory / "plugin"),
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    seconds: dict[str, list[float]] = {"ADD": [], "CHECK": [], "DEL": []}
    for number in range(ROUNDS):
        container = f"container-{number}"
        took, answer = call(plugin, "ADD", config, container)
        seconds["ADD"].append(took)
        result = json.loads(answer)
        if number == 0:
            console.print(f"[bold]ADD[/] through {plugin} answered")
            console.print_json(answer)
        took, _ = call(plugin, "CHECK", {**config, "prevResult": result}, container)
        seconds["CHECK"].append(took)
        took, _ = call(plugin, "DEL", config, container)
        seconds["DEL"].append(took)
    return seconds


def bare_interpreter() -> list[float]:
    """Return the seconds of a bare start of Python."""
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
        seconds.append(time.perf_counter() - begin)
    return seconds


def with_progress(label: str, total: int, work: Callable[[Callable[[int], None]], None]) -> float:
    """Run ``work`` under a progress bar; return the seconds that it took."""
    columns = ("{task.description:<22}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=total)
        begin = time.perf_counter()
        work(lambda count: progress.advance(task, count))
        return time.perf_counter() - begin


def fill(network: fastipam.Network, addresses: int, advance: Callable[[int], None]) -> None:
    """Assign ``addresses`` addresses, each to its own container."""
    for first in range(0, addresses, BATCH):
        count = min(BATCH, addresses - first)
        network.allocate_many((f"pod-{number}", "eth0") for number in range(first, first + count))
        advance(count)


def churn(
    network: fastipam.Network, addresses: int, pairs: int, advance: Callable[[int], None]
) -> list[float]:
    """Release and assign ``pairs`` times in a full pool; return the seconds of each pair."""
    chance = random.Random(1)
    seconds = []
    generations = dict[int, int]()
    for done in range(pairs):
        number = chance.randrange(addresses)
        generation = generations.get(number, 0)
        before = f"pod-{number}" if generation == 0 else f"pod-{number}-{generation}"
        begin = time.perf_counter()
        freed = network.release(before, "eth0")
        network.allocate(f"pod-{number}-{generation + 1}", "eth0")
        seconds.append(time.perf_counter() - begin)
        if len(freed) != 1:
            raise SystemExit(f"{before} had no address")
        generations[number] = generation + 1
        if done % 100 == 99:
            advance(100)
    return seconds


def main() -> None:
    """Run the job and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the /12")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fastipam-demo-") as name:
        directory = Path(name)
        seconds = through_the_plugin(directory)
        bare = statistics.median(bare_interpreter())
        with fastipam.open(directory / "store") as ipam:
            network = ipam.network("podnet", POOL)
            size = network.stats().size
            wanted = size // 16 if options.quick else size
            filling = with_progress(
                f"filling {POOL}", wanted, lambda advance: fill(network, wanted, advance)
            )
            pairs: list[float] = []
            with_progress(
                "churning, durable",
                2000,
                lambda advance: pairs.extend(churn(network, wanted, 2000, advance)),
            )
            states = network.stats().to_dict()
        stored = (directory / "store" / "data.mdb").stat().st_size
    table = Table(
        title=f"fastipam {fastipam.__version__} on {platform.machine()}, "
        f"Python {platform.python_version()}, {os.cpu_count()} processors"
    )
    table.add_column("what")
    table.add_column("figure", justify="right")
    for verb, took in seconds.items():
        median = statistics.median(took)
        table.add_row(
            f"{verb}, whole process, median of {ROUNDS}",
            f"{median * 1e3:.1f} ms, {median / bare:.2f} x a bare Python start",
        )
    table.add_row(f"filling {wanted:,} addresses, durable", f"{filling:.1f} s")
    table.add_row("of that, an address", f"{filling / wanted * 1e6:.1f} us")
    table.add_row(
        "release + allocate there, two commits on disk, median",
        f"{statistics.median(pairs) * 1e6:.0f} us",
    )
    table.add_row("the store's file", f"{stored / 1e6:.0f} MB")
    table.add_row(
        "states",
        ", ".join(f"{key} {value:,}" for key, value in states.items() if isinstance(value, int)),
    )
    console.print(table)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        console.print("interrupted")
        sys.exit(130)
