"""Several threads and several processes on one store, one of them killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import fastipam
from fastipam import PoolExhausted
from fastipam.ipam import Ipam

# A worker: churns owners of its own, and writes down, one line a call, what was committed.
WORKER = """
import random, sys
import fastipam

path, name, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
import time
random.seed(name)
log = open(sys.argv[4], "w", buffering=1)
ipam = fastipam.open(path)
net = ipam.network("n", [["10.0.0.0/24", "10.0.1.0/24"], "2001:db8::/64"], cooldown_s=0.01)
held, number = [], 0
print("ready", flush=True)
sys.stdin.readline()
end = time.monotonic() + seconds
while time.monotonic() < end:
    try:
        if held and random.random() < 0.45:
            owner = held.pop(random.randrange(len(held)))
            log.write(f"- {owner}\\n")
            net.release(owner)
            log.write(f"= {owner}\\n")
        elif random.random() < 0.3:
            owners = [f"{name}.{number + at}" for at in range(5)]
            number += 5
            leases = net.allocate_many([(owner, "eth0") for owner in owners])
            for owner, lease in zip(owners, leases):
                held.append(owner)
                log.write(f"+ {owner} {' '.join(one.cidr for one in lease.siblings)}\\n")
        else:
            owner = f"{name}.{number}"
            number += 1
            with ipam.transaction() as txn:
                lease = txn.network("n", cooldown_s=0.01).allocate(owner)
            held.append(owner)
            log.write(f"+ {owner} {' '.join(one.cidr for one in lease.siblings)}\\n")
    except fastipam.PoolExhausted:
        pass
log.write("end\\n")
ipam.close()
"""


def start(path: Path, name: str, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), name, str(seconds), str(path.parent / name)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def go(workers: list[subprocess.Popen[str]]) -> None:
    """Let all of them begin at once."""
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()


def read_log(path: Path, name: str) -> tuple[dict[str, str], set[str]]:
    """What a worker was told it holds, and the owners whose release may have happened or not."""
    held: dict[str, str] = {}
    unsure = set()
    for line in (path.parent / name).read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # the kill cut it short
        mark, _, rest = line.strip().partition(" ")
        if mark == "+":
            owner, _, addresses = rest.partition(" ")
            held[owner] = addresses
        elif mark == "-":
            held.pop(rest)
            unsure.add(rest)
        elif mark == "=":
            unsure.discard(rest)
    return held, unsure


@pytest.mark.parametrize("killed", [0, 1, 3])
def test_processes(data_dir: Path, verified: Callable[[Path], None], killed: int) -> None:
    """No address is given twice and none that was given is lost, though writers are killed."""
    names = [f"w{at}" for at in range(4)]
    fastipam.open(data_dir, "relaxed").close()
    workers = [start(data_dir, name, 1.0) for name in names]
    try:
        go(workers)
        for worker in workers[:killed]:
            time.sleep(0.2)
            worker.send_signal(signal.SIGKILL)
        codes = [worker.wait(timeout=60) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert codes == [-signal.SIGKILL] * killed + [0] * (4 - killed)
    verified(data_dir)
    held: dict[str, str] = {}
    unsure: set[str] = set()
    for name in names:
        its_held, its_unsure = read_log(data_dir, name)
        assert len(its_held) + len(its_unsure) > 0
        held |= its_held
        unsure |= its_unsure
    with fastipam.open(data_dir, create=False) as ipam:
        stored: dict[str, list[str]] = {}
        for lease in ipam.network("n").leases():
            stored.setdefault(lease.container_id, []).append(lease.cidr)
    given = Counter(cidr for cidrs in stored.values() for cidr in cidrs)
    assert not [cidr for cidr, times in given.items() if times > 1]
    for owner, addresses in held.items():
        assert " ".join(stored[owner]) == addresses, owner
    # A killed worker cannot have written down its last call: a batch of five at most.
    unknown = set(stored) - set(held) - unsure
    assert len(unknown) <= 5 * killed
    assert {name.partition(".")[0] for name in unknown} <= set(names[:killed])


def test_killed_inside_a_transaction(data_dir: Path, verified: Callable[[Path], None]) -> None:
    """A writer that dies in the middle of a transaction leaves nothing of it, and blocks nobody."""
    code = (
        "import fastipam, os, signal, sys\n"
        "ipam = fastipam.open(sys.argv[1])\n"
        "net = ipam.network('n', '10.0.0.0/16')\n"
        "net.allocate('kept')\n"
        "with ipam.transaction() as txn:\n"
        "    net = txn.network('n')\n"
        "    net.allocate_many([(f'c{at}', 'eth0') for at in range(5000)])\n"
        "    net.release('kept')\n"
        "    ipam.store.read().__enter__()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code, str(data_dir)], check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL
        with fastipam.open(data_dir) as ipam:
            net = ipam.network("n")
            assert [lease.container_id for lease in net.leases()] == ["kept"]
            net.release("kept")
        verified(data_dir)


def test_waiting_for_a_killed_writer(data_dir: Path, verified: Callable[[Path], None]) -> None:
    """A writer that waits for another process's lock goes on when that one is killed."""
    code = (
        "import fastipam, sys\n"
        "ipam = fastipam.open(sys.argv[1], 'relaxed')\n"
        "net = ipam.network('n', '10.0.0.0/16')\n"
        "with ipam.transaction() as txn:\n"
        "    txn.network('n').allocate('lost')\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with fastipam.open(data_dir, "relaxed") as ipam:
        command = [sys.executable, "-c", code, str(data_dir)]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        given: list[str] = []
        net = ipam.network("n", "10.0.0.0/16")
        waiter = threading.Thread(target=lambda: given.append(net.allocate("a").cidr))
        waiter.start()
        assert net.stats().assigned == 0, "readers do not wait"
        os.kill(holder.pid, signal.SIGKILL)
        waiter.join(timeout=30)
        holder.communicate()
        assert given == ["10.0.0.2/16"]
    verified(data_dir)


def test_threads(ipam: Ipam) -> None:
    """Threads share one Ipam: no address twice, none lost, readers see whole transactions."""
    net = ipam.network("n", ["10.0.0.0/25", "2001:db8::/64"], cooldown_s=0)
    failures: list[BaseException] = []
    held: list[list[str]] = []
    stop = threading.Event()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        return run

    def writer(name: str) -> Callable[[], None]:
        def work() -> None:
            mine: list[str] = []
            for number in range(150):
                try:
                    with ipam.transaction() as txn:
                        txn.network("n", cooldown_s=0).allocate(f"{name}.{number}")
                        mine.append(f"{name}.{number}")
                except PoolExhausted:
                    mine = [owner for owner in mine if owner != f"{name}.{number}"]
                if number % 3 == 2 and mine:
                    assert len(net.release(mine.pop(0))) == 2
            held.append(mine)

        return work

    def reader() -> None:
        while not stop.is_set():
            stats = net.stats().to_dict()
            assert stats["assigned"] % 2 == 0
            leases = list(net.leases())
            assert len(leases) % 2 == 0
            assert len({lease.cidr for lease in leases}) == len(leases)
            stop.wait(0.001)  # py-lmdb's abort waits for a moment in which nobody reads

    writers = [threading.Thread(target=guarded(writer(f"t{at}"))) for at in range(4)]
    readers = [threading.Thread(target=guarded(reader)) for _ in range(2)]
    for thread in (*writers, *readers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert not failures, failures
    owners = {owner for mine in held for owner in mine}
    assert {lease.container_id for lease in net.leases()} == owners
    assert net.stats().assigned == 2 * len(owners)
