"""What it costs an ADD to choose its pool on Kubernetes: ``python -m bench.kubernetes_choice``.

The launcher is run as a runtime runs it, against four agents in turns: without an annotation, with
those that every pod has, with one that names a pool, and with the annotation of the pod's
namespace, which the agent has read before. A fake API server has the pools: an ADD asks
nobody. Judged is the time from the start of the launcher to its end (bar: 1.1 times). Exit status
1: a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.agent.processes import Agent, ask, until
from tests.cni.plugin import environment
from tests.kubernetes.fake import FakeServer
from tests.kubernetes.machines import accept
from tests.kubernetes.test_agent import fastipam_boot, kubeconfig

from fastipam.cli.commands.install.executables import install
from fastipam.cni.pod_annotations import CAPABILITY, POOL

if TYPE_CHECKING:
    from collections.abc import Iterator

BAR = 1.1
_USUAL = {"kubernetes.io/config.source": "api"}
_ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=named;K8S_POD_NAME=web-0"
_numbers = itertools.count()


class Case(NamedTuple):
    """A way to request an address: the agent, and the pod's annotations.

    The annotations are None when the runtime passes none.
    """

    label: str
    agent: Agent
    config: dict[str, Any]
    annotations: dict[str, str] | None = None

    def stdin(self) -> bytes:
        """Return the input for a pod, whose annotations differ from those of every other pod."""
        document = dict(self.config)
        if self.annotations is not None:
            seen = {"kubernetes.io/config.seen": str(next(_numbers))}
            document["runtimeConfig"] = {CAPABILITY: self.annotations | seen}
        return json.dumps(document, separators=(",", ":")).encode()


def _run(launcher: Path, case: Case, command: str, name: str) -> float:
    """Run the launcher once and return its milliseconds."""
    environ = environment(command, name, args=_ARGS) | {"FASTIPAM_SOCKET": str(case.agent.path)}
    stdin = case.stdin()
    begun = time.perf_counter()
    done = subprocess.run([launcher], input=stdin, env=environ, capture_output=True, check=False)
    took = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{case.label}: {command} failed: {done.stdout!r} {done.stderr!r}")
    return took * 1e3


def _on_processor_ms(agent: Agent) -> float:
    """Return the processor time of all threads of an agent."""
    found = Path(f"/proc/{agent.pid}/task").glob("*/schedstat")
    return sum(int(one.read_text().split()[0]) for one in found) / 1e6


def measure(launcher: Path, cases: list[Case], rounds: int) -> dict[str, float]:
    """Run the cases in turns; print the ratios, and return the median of an ADD in milliseconds."""
    took: dict[str, list[float]] = {one.label: [] for one in cases}
    ran: dict[str, list[float]] = {one.label: [] for one in cases}
    for _ in range(rounds):
        for one in cases:
            name = f"c{next(_numbers)}"
            before = _on_processor_ms(one.agent)
            took[one.label].append(_run(launcher, one, "ADD", name))
            ran[one.label].append(_on_processor_ms(one.agent) - before)
            _run(launcher, one, "DEL", name)
    found = {label: median(times) for label, times in took.items()}
    served = {label: median(times) for label, times in ran.items()}
    base, least = found[cases[0].label], served[cases[0].label]
    for label, ms in found.items():
        print(
            f"{label}: {ms:.3f} ms, ratio {ms / base:.3f}; the agent's processor time "
            f"{served[label]:.3f} ms, ratio {served[label] / least:.3f}"
        )
    return found


def _is_served(agent: Agent, config: dict[str, Any]) -> bool:
    return ask(agent.path, "ADD", config, "first").status == 0


@contextlib.contextmanager
def _agents(api: FakeServer, place: Path) -> Iterator[list[Case]]:
    """Start an agent for each case, so that all have the same work; yield the cases."""
    pod = _USUAL | {POOL: "b"}
    wanted: list[tuple[str, dict[str, str] | None]] = [
        ("no annotation", None),
        ("those of every pod", _USUAL),
        (f"{POOL} of the pod", pod),
        (f"{POOL} of its namespace, read before", _USUAL),
    ]
    cases: list[Case] = []
    try:
        for at, (label, annotations) in enumerate(wanted):
            name = f"n{at}"
            rest = api.node(name, fastipam_boot())
            file = place / f"{name}.kubeconfig"
            file.write_text(json.dumps(kubeconfig(rest.port, api.ca, rest.token)))
            cluster: dict[str, Any] = {"engine": "kubernetes", "node": name, "address": "192.0.2.1"}
            cluster |= {"kubeconfig": str(file), "namespaces": "namespace" in label}
            ipam = {"type": "fastipam", "dataDir": str(place / name), "cooldown": 0}
            config = {"cniVersion": "1.1.0", "name": "podnet", "type": "ptp"}
            case = Case(
                label,
                Agent(place / f"{name}.sock"),
                config | {"ipam": ipam | {"cluster": cluster}},
                annotations,
            )
            cases.append(case)
            until(partial(_is_served, case.agent, case.config), f"the agent of {name} has a block")
        yield cases
    finally:
        for case in cases:
            case.agent.finish()


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.kubernetes_choice", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fi-") as made:
        place = Path(made)
        (place / "api").mkdir()
        launcher = install(place / "bin", launcher_only=True)
        with FakeServer(place / "api") as api:
            for name in ("a", "b"):
                accept(api, name, cidr=f"10.{ord(name)}.0.0/16", size=24)
            namespace = {"name": "named", "annotations": {POOL: "b"}}
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": namespace}
            api.admin.create("/api/v1/namespaces", body).done()
            with _agents(api, place) as cases:
                for one in [one for one in cases for _ in range(5)]:  # warm up all caches
                    _run(launcher, one, "ADD", name := f"w{next(_numbers)}")
                    _run(launcher, one, "DEL", name)
                found = measure(launcher, cases, options.rounds)
    base, *others = found.values()
    for label, ms in zip(list(found)[1:], others, strict=True):
        met = "met   " if ms <= BAR * base else "MISSED"
        print(f"{met} {label}: {ms / base:.3f} times, bar {BAR:g}", file=sys.stderr)
    return 0 if all(ms <= BAR * base for ms in others) else 1


if __name__ == "__main__":
    sys.exit(main())
