"""The power is cut anywhere: the store opens, agrees with itself, has all that was acknowledged.

What a program does to the files of a durable store is recorded (recorder.c, preloaded into it),
with what it was told in between. Then the disk is put together as it may have been left, thousands
of times (powercut.py), and every image is opened. The model is more pessimistic than a disk is:
sectors of a write may be missing, later writes be there without earlier ones, names be lost.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam.verify import verify

from ..e2e import tools
from ..options import options
from .powercut import Disk, Event, cuts, read_events

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.campaign

SOURCE = __file__.replace("test_powercut.py", "recorder.c")
STEPS = 250 if options.long else 20
WRITERS = 3 if options.long else 2
EXTRA = 6 if options.long else 0  # more random subsets a boundary
ACKS = "acks"
STORE = "below/store"  # both directories are made by whoever comes first
CHILD_IMAGES = 40  # images that one child looks at: opening a damaged one could kill it

# Says before a call which owners it may take an address from, and after it what it was told.
WORKLOAD = """
import random, sys
import fastipam
from fastipam.storage.within import Within

path, acks, name, steps, durability = sys.argv[1:]
chance = random.Random(name)
log = open(acks, "a", buffering=1)
ipam = fastipam.open(path, durability)
net = ipam.network("n", ["10.0.0.0/24", "2001:db8::/64"], cooldown_s=0)
held, number = [], 0

def told(leases):
    for lease in leases:
        held.append(lease.container_id)
        cidrs = " ".join(one.cidr for one in lease.siblings)
        log.write(f"+ {lease.container_id} {cidrs}\\n")

for step in range(int(steps)):
    kind = chance.random()
    owners = [f"{name}.{number + at}" for at in range(chance.choice((1, 1, 2, 12)))]
    number += len(owners)
    try:
        if held and kind < 0.35:
            gone = [held.pop(chance.randrange(len(held))) for _ in range(min(3, len(held)))]
            log.write("".join(f"- {owner}\\n" for owner in gone))
            with ipam.transaction() as txn:
                inside = txn.network("n")
                for owner in gone:
                    inside.release(owner)
            log.write("".join(f"= {owner}\\n" for owner in gone))
        elif kind < 0.5:
            told(net.allocate_many([(owner, "eth0") for owner in owners]))
        elif kind < 0.7:
            with ipam.transaction() as txn:
                leases = []
                for owner in owners:
                    try:
                        with Within(txn).write() as part:
                            leases.append(net.within(part).allocate(owner))
                            if chance.random() < 0.2:
                                leases.pop()
                                raise KeyError
                    except KeyError:
                        pass
            told(leases)
        elif kind < 0.75:
            other = ipam.network(f"{name}-{step}", "10.9.0.0/16", cooldown_s=30)
            for owner in owners:
                other.allocate(owner)
            other.release(owners[0])
        else:
            told([net.allocate(owners[0])])
    except fastipam.PoolExhausted:
        pass
ipam.close()
"""


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorder, built."""
    compiler = tools.require_compiler()
    library = tmp_path_factory.mktemp("recorder") / "recorder.so"
    subprocess.run(
        [compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, SOURCE],
        check=True,
    )
    return library


def _record(recorder: Path, tmp_path: Path, durability: str) -> list[Event]:
    """What several writers do to a new store, from its first moment on."""
    directory = tmp_path / "disk"
    directory.mkdir()
    record = tmp_path / "record"
    env = os.environ | {
        "LD_PRELOAD": str(recorder),
        "FASTIPAM_RECORD": str(record),
        "FASTIPAM_RECORD_DIR": str(directory),
    }
    argv = [sys.executable, "-c", WORKLOAD, str(directory / STORE), str(directory / ACKS)]
    writers = [
        subprocess.Popen([*argv, f"w{at}", str(STEPS), durability], env=env)
        for at in range(WRITERS)
    ]
    assert [writer.wait(600) for writer in writers] == [0] * WRITERS
    events = read_events(record, directory)
    disk = Disk()
    for event in events:
        _follow(disk, event)
    real = (directory / STORE / "data.mdb").read_bytes()
    assert disk.content(f"{STORE}/data.mdb") == real, "the recorder has missed a write"
    return events


def _follow(disk: Disk, event: Event) -> None:
    if event.path != ACKS:  # that is what we know, wherever the power went
        disk.follow(event)


class Told:
    """What the programs were told before the cut."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.released: set[str] = set()

    def follow(self, event: Event) -> None:
        """Read what was written into the file of acknowledgements."""
        if event.kind != "W" or event.path != ACKS:
            return
        for line in event.data.decode().splitlines():
            mark, _, rest = line.partition(" ")
            if mark == "+":
                owner, _, addresses = rest.partition(" ")
                self.held[owner] = addresses
            elif mark == "-":
                self.held.pop(rest)
            else:
                self.released.add(rest)

    def compare(self, store: Path) -> list[str]:
        """What is wrong with a store that was left behind."""
        with fastipam.open(store) as ipam:
            wrong = [str(finding) for finding in verify(ipam.store)]
            found: dict[str, list[str]] = {}
            if "n" in ipam.networks():
                for lease in ipam.network("n").leases():
                    found.setdefault(lease.container_id, []).append(lease.cidr)
            for owner, addresses in self.held.items():
                if " ".join(found.get(owner, ())) != addresses:
                    wrong.append(f"{owner} was told {addresses}, the store has {found.get(owner)}")
            wrong += [f"{owner} is back" for owner in self.released & found.keys()]
            ipam.network("after", "10.1.0.0/24").allocate("c1")  # and it can be used
            return wrong + [str(finding) for finding in verify(ipam.store)]


def _images(events: list[Event], chance: random.Random) -> Iterator[tuple[int, str, Disk, Told]]:
    """The state at every cut, in the order of the events."""
    places = sorted(cuts(events, chance, EXTRA))
    disk, told = Disk(), Told()
    done = 0
    for place, kind in places:
        for event in events[done:place]:
            _follow(disk, event)
            told.follow(event)
        done = place
        yield place, kind, disk, told


def _look(batch: list[tuple[str, Path, dict[str, Any]]]) -> str:
    """Open images in a child process; what is wrong with the first that is, "" if none is."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for about, store, attributes in batch:
                os.write(write_end, f"{about}: died".encode())
                told = Told()
                vars(told).update(attributes)
                try:
                    wrong = told.compare(store)
                except Exception as error:
                    wrong = [repr(error)]
                if wrong:
                    os.write(write_end, f"\0{about}: {wrong[:3]}".encode())
                    os._exit(1)
                os.write(write_end, b"\0")
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as reader:
        lines = reader.read().decode().split("\0")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    name = signal.Signals(-status).name if status < 0 else ""
    return f"{lines[-1]} {name}" if status else ""


@pytest.fixture
def images() -> Iterator[Path]:
    """A directory in memory if there is one: an image is synced often while it is looked at."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fastipam-", dir=memory) as made:
        yield Path(made)


def _cut(events: list[Event], images: Path) -> str:
    """Look at every image; what is wrong with the first that is, else "" and the sums printed."""
    chance = random.Random(options.seed)
    batch: list[tuple[str, Path, dict[str, Any]]] = []
    kinds = {"none": 0, "all": 0, "some": 0}
    most = 0
    for place, kind, disk, told in _images(events, chance):
        target = images / f"image{len(batch)}"
        disk.image(chance, kind, target)
        kinds[kind] += 1
        most = max(most, len(told.held))
        state = {"held": dict(told.held), "released": set(told.released)}
        batch.append((f"cut at {place} of {len(events)}, {kind}", target / STORE, state))
        if len(batch) == CHILD_IMAGES:
            wrong = _look(batch)
            if wrong:
                return wrong
            batch.clear()
    syncs = sum(event.kind == "S" for event in events)
    print(
        f"{sum(kinds.values())} images {kinds} of {len(events)} events with {syncs} syncs, "
        f"up to {most} leases acknowledged"
    )
    assert most > STEPS / 4
    return _look(batch)


def test_power_cuts(recorder: Path, tmp_path: Path, images: Path) -> None:
    """Every image opens, is consistent, can be used, and has every lease acknowledged before."""
    assert _cut(_record(recorder, tmp_path, "durable"), images) == ""


def test_what_relaxed_means(recorder: Path, tmp_path: Path, images: Path) -> None:
    """The same cuts do harm a store that is not synced: the campaign can see a loss."""
    assert _cut(_record(recorder, tmp_path, "relaxed"), images) != ""
