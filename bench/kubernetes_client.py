"""What the client of the Kubernetes API costs a process: ``python -m bench.kubernetes_client``.

Each round runs a bare interpreter, one that imports what any client of the standard library needs
(ssl, json, socket), and one that imports fastipam's own, opens a connection with TLS, reads an
object and follows a kind until its state is told. Figures are medians of processor time and of
memory at the end: what the process has for itself, and all that is resident, in which are the pages
of libssl and libcrypto that all processes share. Exit status 1: a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

from rich.console import Console
from rich.table import Table
from tests.cluster.certificates import make_certificates
from tests.scripted import Scripted, answer, events

from bench.bars import KUBERNETES_CPU, KUBERNETES_MEMORY, Verdict

SOURCE = Path(__file__).parents[1] / "src"
_BLOCK = {"metadata": {"name": "10-32-7-0-24", "resourceVersion": "7"}, "spec": {"node": "n"}}
_END = {
    "metadata": {
        "resourceVersion": "9",
        "annotations": {"k8s.io/initial-events-end": "true"},
    }
}
_MEMORY = """
import sys
with open("/proc/self/status") as file:
    found = dict(line.split(":", 1) for line in file)
sys.stdout.write(found["RssAnon"].split()[0] + " " + found["VmRSS"].split()[0])
"""
SUBJECTS = {
    "bare interpreter": "",
    "ssl + json + socket": "import json, socket, ssl\nssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)\n",
    "fastipam's client, first use": """
import sys
sys.path.append({source!r})
from fastipam.cluster.registries.kubernetes.access import Access, parse_server
from fastipam.cluster.registries.kubernetes.client import Client, Kind
from fastipam.cluster.registries.kubernetes.watch import Follower
client = Client(Access([parse_server({url!r})], ca={ca!r}, token="secret"))
kind = Kind("/apis/fastipam.io/v1alpha1", "addressblocks")
assert client.get(kind, "10-32-7-0-24", deadline_s=20)["spec"]["node"] == "n"
told, synced = [], []
Follower(
    client,
    kind,
    lambda *event: told.append(event),
    on_synced=lambda: synced.append(1),
    on_error=sys.exit,
).run(lambda: bool(synced))
assert len(told) == 2
client.close()
""",
}


def _measure(code: str) -> tuple[float, float, float]:
    """Run a process; return (processor ms, private MiB, resident MiB)."""
    before = getrusage(RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code + _MEMORY],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{code}\nfailed: {done.stderr}")
    after = getrusage(RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    own, resident = map(int, done.stdout.split())
    return 1e3 * used, own / 1024, resident / 1024


def main() -> int:
    """Measure and print the table; return 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.kubernetes_client", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in SUBJECTS}
    with tempfile.TemporaryDirectory() as directory:
        files = make_certificates(Path(directory))
        with Scripted(files.server) as server:
            for _ in range(1 + options.rounds):
                for name, code in SUBJECTS.items():
                    server.scenes.clear()
                    state = [("ADDED", _named(at)) for at in range(2)]
                    watch = events(*state, ("BOOKMARK", _END), end=False)
                    server.play(answer(200, json.dumps(_BLOCK)), watch)
                    given = {"source": str(SOURCE), "url": server.url, "ca": files.ca}
                    found[name].append(_measure(code.format(**given)))
    table = Table(title=f"medians of {options.rounds} processes, {os.cpu_count()} processors")
    table.add_column("what")
    for column in ("processor ms", "+", "own MiB", "+", "resident MiB", "+"):
        table.add_column(column, justify="right")
    figures = {}
    bare: list[float] = []
    for name, samples in found.items():
        figures[name] = [median(column) for column in zip(*samples[1:], strict=True)]
        bare = bare or figures[name]
        cells = []
        for figure, base in zip(figures[name], bare, strict=True):
            cells += [f"{figure:.1f}", f"{figure - base:.1f}"]
        table.add_row(name, *cells)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    own = figures["fastipam's client, first use"]
    verdicts = [
        Verdict(bar, figure - base)
        for bar, figure, base in zip((KUBERNETES_CPU, KUBERNETES_MEMORY), own, bare, strict=False)
    ]
    for each in verdicts:
        name, limit, unit, _ = each.bar
        verdict = "met" if each.met else "MISSED"
        console.print(f"{name}: {each.figure:.1f} {unit}, bar {limit:g} {unit}: {verdict}")
    return 0 if all(each.met for each in verdicts) else 1


def _named(at: int) -> dict[str, object]:
    return {"metadata": {"name": f"b{at}", "resourceVersion": str(at + 1)}}


if __name__ == "__main__":
    sys.exit(main())
