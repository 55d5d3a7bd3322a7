"""The parts of the demo, in their order. Each part first prints what it is going to do."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import fastipam
from bench.agent.service import Agent
from bench.demo import beside, closing, pool
from bench.demo.churn import Call, Runtime, audit
from bench.demo.places import typed
from bench.errors import Failed
from bench.stores import BATCH, NETWORK, SUBNET
from bench.workloads.contenders import Plugin
from bench.workloads.traces import ADD, DEL, container
from fastipam.cli.commands.install.executables import install
from fastipam.cli.output import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from bench.demo.churn import Outcome
    from bench.demo.places import Places
    from bench.demo.pool import Deployment

AT_ONCE = 16  # plugin processes at the same time, as when a node comes up
_NEW = 1 << 32  # the number of the first container that replaces another one
_COLUMNS = "80"  # of the map
_LINES = "48"


@dataclass(frozen=True)
class Effort:
    """The amount of work in a demo."""

    adds: int  # ADDs of each contender
    leases: tuple[int, ...]  # numbers of leases beside which the ADDs are made
    share: int  # the /12 is filled to 1/share
    pods: int  # the number of pods that are replaced


FULL = Effort(adds=30, leases=(0, 10_000), share=1, pods=10_000)
QUICK = Effort(adds=5, leases=(0, 1_000), share=16, pods=500)


class Demo:
    """A demo in a prepared directory. ``sockets`` is a directory with a short path."""

    def __init__(self, places: Places, effort: Effort, sockets: Path, console: Console) -> None:
        self._places, self._effort, self._console = places, effort, console
        self._number = itertools.count(1)
        self._plugin = install(places.plugins)
        self._config = places.configurations / "10-podnet.conf"
        ipam = {"type": "fastipam", "subnet": SUBNET, "dataDir": str(places.store)}
        document = {"cniVersion": "1.0.0", "name": NETWORK, "type": "bridge", "ipam": ipam}
        self._config.write_text(json.dumps(document, indent=2) + "\n")
        # No pod of the demo has a network namespace, so there is nothing to sweep.
        self._agent = Agent(sockets, data=places.store, sweeps=False)

    def run(self) -> None:
        """Run all parts. Raises Failed, Missing."""
        with self._agent:
            self._one_pod()
            self._contenders()
            living = self._fill()
            self._one_more(sum(one.pods for one in living))
            pod = self._churn(living)
            gone = self._short_life()
            address = self._address(pod.container)
        self._map()
        self._what_next(pod.pod, address, gone)

    def _title(self, text: str) -> None:
        self._console.print(f"\n[bold]{next(self._number)}. {text}[/]", highlight=False)

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def _show(self, text: str) -> None:
        """Print a command or a document without wrapping its lines."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def _progress(self, label: str, total: int) -> Iterator[Callable[[int], object]]:
        columns = TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        quiet = not self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=quiet) as progress:
            task = progress.add_task(label, total=total)
            yield lambda count: progress.advance(task, count)

    def _one_pod(self) -> None:
        self._title("A pod gets an address, as a container runtime asks for one")
        runtime = self._runtime(1)
        pod = Call(ADD, "container-1", ("default", "web-0"), "")
        answer = json.loads(runtime.ask(pod))
        self._show(f"$ CNI_COMMAND=ADD {typed(self._plugin)} < {typed(self._config)}")
        self._show(json.dumps(answer))
        runtime.ask(pod._replace(verb=DEL))
        self._say("DEL releases it. It cools down for 30 s before another pod can get it.")

    def _runtime(self, width: int) -> Runtime:
        return Runtime(self._plugin, self._config, self._agent, self._places.scratch, width)

    def _contenders(self) -> None:
        effort = self._effort
        self._title(f"The same ADD and DEL, {effort.adds} times, through each plugin")
        host_local = beside.find_host_local()
        if host_local is None:
            self._say(
                "host-local is not here, so it takes no part. On Debian: "
                "apt-get install containernetworking-plugins"
            )
        listed = list(beside.contenders(self._plugin, self._agent, host_local))
        with self._progress("measuring", len(listed) * len(effort.leases) * effort.adds) as advance:
            rows = beside.measure(listed, effort.leases, effort.adds, self._places.scratch, advance)
        # Remove the 10,000 files of host-local now, while they are cached: later it takes half a
        # minute.
        for one in self._places.scratch.iterdir():
            if one.is_dir():
                shutil.rmtree(one)
        table = Table("ADD, median", box=None, pad_edge=False, header_style="bold")
        for held in effort.leases:
            table.add_column(f"{held:,} leases" if held else "no lease", justify="right")
        table.add_column("safe after a power cut")
        for row in rows:
            cells = (f"{one / 1e6:.1f} ms" for one in row.medians)
            table.add_row(row.contender.name, *cells, row.contender.durability)
        self._console.print(table)
        self._say(
            "An ADD is a process, timed from its start to its end. host-local reads "
            "all its files at every call. Without an agent, each call of fastipam starts Python."
        )

    def _fill(self) -> list[Deployment]:
        """Fill the pool, stop some deployments, and return those that still run."""
        effort = self._effort
        with fastipam.open(self._places.store) as ipam:
            network = ipam.network(NETWORK, SUBNET, cooldown_s=0)
            network.reserve(pool.RESERVED, reason="load balancers")
            pods = network.stats().free // effort.share
            self._title(f"{pods:,} pods fill {'' if effort.share == 1 else 'a part of '}{SUBNET}")
            listed = pool.deployments(pods)
            self._say(f"{BATCH:,} pods a commit, and each commit is on disk before the next …")
            begun = perf_counter()
            with self._progress("filling", pods) as advance:
                pool.fill(network, listed, advance)
            taken = perf_counter() - begun
            self._say(f"{taken:.1f} s, {taken / pods * 1e6:.1f} µs an address")
            gone = pool.choose(listed, max(pods // 8, effort.pods + effort.pods // 4))
            for one in gone:
                network.release_many(one.owners)
        stopped = sum(one.pods for one in gone)
        self._say(f"{len(gone)} of the {len(listed)} deployments stop: {stopped:,} pods less")
        return [one for one in listed if one not in gone]

    def _one_more(self, leases: int) -> None:
        """Measure an ADD in the full pool."""
        ipam = json.loads(self._config.read_text())["ipam"]
        scratch = self._places.scratch / "one-more"
        plugin = Plugin("fastipam", self._plugin, ipam, scratch, self._agent.socket)
        names = [f"one-more-{at}" for at in range(self._effort.adds)]
        taken = median([beside.pair(plugin, name) for name in names])
        self._say(
            f"An ADD through the agent now, beside {leases:,} leases: {taken / 1e6:.1f} ms "
            f"(median of {len(names)})"
        )

    def _short_life(self) -> str:
        """Start and stop a pod, and return the address that it had."""
        call = Call(ADD, "container-2", ("ci", "build-1"), "")
        runtime = self._runtime(1)
        address: str = json.loads(runtime.ask(call))["ips"][0]["address"]
        runtime.ask(call._replace(verb=DEL))
        return address.partition("/")[0]

    def _churn(self, living: list[Deployment]) -> Call:
        """Replace pods and kill the agent in the middle; return a running pod. Raises Failed."""
        pods = self._effort.pods
        self._title(f"{pods:,} pods are replaced through the agent, {AT_ONCE} calls at a time")
        self._say(f"The agent is killed (SIGKILL) after {pods // 2:,} of them, and started again …")
        old = [(number, one) for one in pool.choose(living, pods) for number in one.numbers][:pods]
        calls = [
            Call(ADD, container(_NEW + at), (one.space, f"{one.space}-new-{at}"), container(number))
            for at, (number, one) in enumerate(old)
        ]
        with self._progress("replacing", pods) as advance:
            outcome = self._runtime(AT_ONCE).replace(calls, pods // 2, advance)
        self._tell(outcome)
        self._look_for_losses(outcome, sum(one.pods for one in living))
        return next(call for call in calls if call.container in outcome.answered)

    def _tell(self, outcome: Outcome) -> None:
        seconds = outcome.spent_ns / 1e9
        away = (outcome.back_ns - outcome.killed_ns) / 1e9
        self._say(
            f"{seconds:.1f} s for {outcome.calls:,} calls: {outcome.calls / seconds:,.0f} a second"
        )
        self._say(
            f"The agent answered again {away:.2f} s after the kill. Meanwhile "
            f"{counted(outcome.meanwhile, 'call')} began and got an answer without it."
        )
        if outcome.refused:
            self._say(
                f"{counted(outcome.refused, 'ADD')} that it had begun failed, and a new container "
                "was tried, as a runtime does."
            )

    def _look_for_losses(self, outcome: Outcome, living: int) -> None:
        with fastipam.open(self._places.store) as ipam:
            wrong = audit(ipam.network(NETWORK), outcome, living)
        if wrong:
            raise Failed(f"{len(wrong)} things are wrong after the kill: " + "; ".join(wrong[:5]))
        self._say(
            f"Nothing was lost: each of the {len(outcome.answered):,} pods has the address that it "
            f"was told, no address was given twice, and the store has {living:,} leases for the "
            f"{living:,} pods that run."
        )

    def _map(self) -> None:
        self._title(f"The map of {SUBNET}")
        sys.stdout.flush()
        fastipam_ = Path(sys.executable).with_name("fastipam")
        command = [str(fastipam_), "map", "--data-dir", str(self._places.store)]
        environment = os.environ | {"COLUMNS": _COLUMNS, "LINES": _LINES}
        if subprocess.run(command, env=environment, check=False).returncode:
            raise Failed("fastipam map failed")

    def _address(self, container_id: str) -> str:
        with fastipam.open(self._places.store) as ipam:
            lease = ipam.network(NETWORK).get(container_id)
        if lease is None:
            raise Failed(f"{container_id} has no lease")
        return str(lease.address.ip)

    def _what_next(self, pod: tuple[str, str], address: str, gone: str) -> None:
        places = self._places
        size = (places.store / "data.mdb").stat().st_size
        self._title(f"Try next, on the store of this demo ({size / 1e6:.0f} MB)")
        lines = [*closing.setting(places), ""]
        for command in closing.commands(places, pod, address, gone):
            lines += [f"# {command.purpose}", command.line]
        lines += ["# remove the demo", closing.removal(places)]
        self._show("\n".join(lines))
