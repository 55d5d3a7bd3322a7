"""Compare clients of etcd for claiming blocks: ``python -m bench.etcd_clients PYTHON...``.

Each ``PYTHON`` is an interpreter with some of the peers installed (they need different versions of
the same packages, so one environment hardly has all)::

    python -m venv a && a/bin/pip install etcd3gw etcd3aio 'protobuf>=6.31.1' urllib3
    python -m venv b && b/bin/pip install cslab-etcd3

The etcd has three members and is durable. Two things are measured: a whole process that imports the
client, creates one key if it is absent and ends, as a directly run plugin does (wall clock, and
processor time, which other work disturbs less); and one create in a process that has made others
before. Clients alternate; figures are medians. Exit 2: something is missing.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

from rich.console import Console
from rich.table import Table
from tests.cluster.etcd import Etcd, debian_etcd, packaged_etcd

SOURCE = str(Path(__file__).parents[1] / "src")

_GATEWAY = """
from base64 import b64encode
import json
def body(key):
    key = b64encode(key).decode()
    return json.dumps({"compare": [{"key": key, "target": "CREATE", "create_revision": "0"}],
        "success": [{"request_put": {"key": key, "value": "eA=="}}]}).encode()
"""
# Each defines create(key) -> bool for the endpoint HOST:PORT.
CLIENTS = {
    "fastipam's own": f"""
import sys
sys.path.append({SOURCE!r})
from fastipam.cluster.engines.etcd.engine import EtcdEngine
from fastipam.cluster.engine import Compare, Put
engine = EtcdEngine([f"{{HOST}}:{{PORT}}"])
def create(key):
    return engine.transact([Compare(key, "absent")], [Put(key, b"x")], deadline_s=5).succeeded
""",
    "gateway, http.client": _GATEWAY
    + """
from http.client import HTTPConnection
connection = HTTPConnection(HOST, PORT, timeout=5)
def create(key):
    connection.request("POST", "/v3/kv/txn", body(key))
    return json.loads(connection.getresponse().read())["succeeded"]
""",
    "gateway, urllib3": _GATEWAY
    + """
import urllib3
pool = urllib3.HTTPConnectionPool(HOST, PORT, timeout=5)
def create(key):
    return json.loads(pool.request("POST", "/v3/kv/txn", body=body(key)).data)["succeeded"]
""",
    "etcd3gw": """
from etcd3gw.client import Etcd3Client
client = Etcd3Client(host=HOST, port=PORT, timeout=5)
def create(key):
    return client.create(key, b"x")
""",
    "cslab-etcd3": """
import etcd3
client = etcd3.client(host=HOST, port=PORT, timeout=5)
def create(key):
    return client.put_if_not_exists(key, b"x")
""",
    "etcd3aio": """
import asyncio
from etcd3aio import Etcd3Client
loop = asyncio.new_event_loop()
client = Etcd3Client([f"{HOST}:{PORT}"])
loop.run_until_complete(client.connect())
def create(key):
    kv = client.kv
    async def txn():
        absent = kv.txn_compare_create_revision(key, 0)
        return (await kv.txn([absent], [kv.txn_op_put(key, b"x")], timeout=5)).succeeded
    return loop.run_until_complete(txn())
""",
}
_MANY = """
import time
took = []
for at in range({count}):
    begin = time.perf_counter()
    assert create(b"{key}/%d" % at)
    took.append(time.perf_counter() - begin)
print(sorted(took)[len(took) // 2] * 1e3)
import os, sys
sys.stdout.flush()
os._exit(0)
"""
# os._exit, because gRPC's threads print and wait when the interpreter ends; no client is charged
# for that.
_ONCE = "\nassert create(b'{key}')\nimport sys, os\nsys.stdout.flush()\nos._exit(0)\n"


@dataclass
class Subject:
    """A client, its interpreter, and its measured times in milliseconds."""

    name: str
    python: str
    process: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    call: list[float] = field(default_factory=list)


def _run(python: str, code: str) -> str:
    done = subprocess.run(
        [python, "-I", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise SystemExit(f"{code}\nfailed: {done.stderr}")
    return done.stdout


def _timed(python: str, code: str) -> tuple[float, float]:
    """Run a process; return its wall clock time and processor time in milliseconds."""
    before, begin = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    _run(python, code)
    took, after = time.perf_counter() - begin, getrusage(RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1e3 * took, 1e3 * used


def _subjects(pythons: list[str], head: str) -> list[Subject]:
    """Return each client with the first interpreter that has it. Exits with 2 if none has it."""
    found = []
    for name, code in CLIENTS.items():
        for python in pythons:
            done = subprocess.run(
                [python, "-I", "-c", head + code], capture_output=True, timeout=120, check=False
            )
            if done.returncode == 0:
                found.append(Subject(name, python))
                break
        else:
            print(f"error: no interpreter has what {name} needs", file=sys.stderr)
            raise SystemExit(2)
    return found


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.etcd_clients", description=__doc__)
    parser.add_argument("pythons", nargs="*", help="interpreters with the peers")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    keys = (f"k{at}" for at in itertools.count())
    table = Table("client", title="create if absent, milliseconds (medians)")
    columns: list[dict[str, Subject]] = []
    bare: list[tuple[float, float]] = []
    for version, binary in (("3.4", debian_etcd()), ("3.5", packaged_etcd())):
        if binary is None:
            print(f"error: etcd {version} is not installed", file=sys.stderr)
            raise SystemExit(2)
        with tempfile.TemporaryDirectory() as path, Etcd(binary, Path(path), sync=True) as etcd:
            head = f"HOST, PORT = '127.0.0.1', {etcd.members[0].client_port}\n"
            subjects = _subjects([sys.executable, *options.pythons], head)
            for _ in range(options.rounds):
                bare.append(_timed(sys.executable, "pass"))
                for each in subjects:
                    code = head + CLIENTS[each.name] + _ONCE.format(key=next(keys))
                    took, used = _timed(each.python, code)
                    each.process.append(took)
                    each.processor.append(used)
            for _ in range(3):
                for each in subjects:
                    many = _MANY.format(key=next(keys), count=options.calls)
                    code = head + CLIENTS[each.name] + many
                    each.call.append(float(_run(each.python, code)))
        columns.append({each.name: each for each in subjects})
        table.add_column(f"whole process, etcd {version}", justify="right")
        table.add_column("its processor time", justify="right")
        table.add_column(f"one call, etcd {version}", justify="right")
    for name in CLIENTS:
        cells = []
        for column in columns:
            one = column[name]
            cells += [f"{median(one.process):.0f}", f"{median(one.processor):.0f}"]
            cells.append(f"{median(one.call):.2f}")
        table.add_row(name, *cells)
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    took, used = (median(column) for column in zip(*bare, strict=True))
    console.print(f"an interpreter that does nothing: {took:.0f} ms, processor {used:.0f} ms")


if __name__ == "__main__":
    main()
