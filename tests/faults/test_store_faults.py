"""Faults of a store with their real causes, directly and through the agent.

Each gives the right code and says what to do, loses nothing that was acknowledged, and is over when
its cause is: code 5 for what the disk or its administrator has to repair, 11 for what passes by
itself, and STATUS says 51.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

import fastipam
from fastipam import Owner, Pod
from fastipam.backup import backup, restore
from fastipam.ipam import open_with
from fastipam.storage.directory import ROOM_BYTES
from fastipam.verify import verify

from ..cni.plugin import Answer, Make, Plugin, environment
from ..e2e import tools
from ..measuring import not_passed_on
from .disks import tmpfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastipam import Network
    from fastipam.ipam import Ipam

    from ..agent.conftest import Start
    from .disks import Disk, Ext4

SUBNET = {"subnet": "10.1.0.0/16", "cooldown": 0}
NOBODY = 65534


def _add_until(
    way: Plugin, made: dict[str, Any], told: dict[str, str], *, most: int = 400
) -> Answer:
    """ADDs until one fails; what was acknowledged is written down."""
    for at in range(len(told), len(told) + most):
        answer = way("ADD", made, f"c{at}")
        if answer.status:
            return answer
        told[f"c{at}"] = answer.addresses[0].partition("/")[0]
    raise AssertionError(f"{most} ADDs succeeded")


def _refused(answer: Answer, store: Path, *hints: str, code: int = 5) -> None:
    """The code, the path and what to do."""
    assert answer.code == code, answer
    assert str(store) in answer.message
    text = answer.message + str(answer.document.get("details", ""))
    for hint in hints:
        assert hint in text


# The disk -------------------------------------------------------------------------------------


def test_disk_full(
    way: Plugin, config: Make, small_disk: Disk, stored: Callable[[Path], dict[str, str]]
) -> None:
    """A full disk: 5 and "free disk space", STATUS 51; with room again, everything is there."""
    store = small_disk.path / "store"
    made = config(ipam=SUBNET | {"dataDir": str(store)})
    told: dict[str, str] = {}
    for at in range(3):
        told[f"c{at}"] = way("ADD", made, f"c{at}").addresses[0].partition("/")[0]
    assert way("STATUS", made).status == 0
    small_disk.fill()
    _refused(_add_until(way, made, told), store, "No space left", "free disk space")
    _refused(way("STATUS", made), store, "free disk space", code=51)
    assert way("CHECK", made | {"prevResult": {"ips": []}}, "c0").status == 0, "reading goes on"
    assert stored(store) == told
    small_disk.empty()
    assert way("STATUS", made).status == 0
    told["later"] = way("ADD", made, "later").addresses[0].partition("/")[0]
    assert way("DEL", made, "c0").status == 0
    del told["c0"]
    assert stored(store) == told


_STEP = 4096  # bytes: a tmpfs counts pages, LMDB writes pages
_PAGE_HEADER = 16  # bytes


def _work(path: Path, told: dict[str, str]) -> None:
    """Make a store and use it, with every kind of change; what was acknowledged is in ``told``."""
    with fastipam.open(path) as ipam:
        net = ipam.network("n", ["10.1.0.0/24", "2001:db8::/120"], cooldown_s=0, sticky_s=60)
        for at in range(12):
            told[f"c{at}"] = str(net.allocate(f"c{at}").address.ip)
        for lease in net.allocate_many([(f"m{at}", "eth0") for at in range(60)]):
            told[lease.container_id] = str(lease.address.ip)
        for at in range(0, 12, 2):
            net.release(f"c{at}")
            del told[f"c{at}"]
        net.reserve("10.1.0.200-10.1.0.219", owner="ns/db")


def test_disk_full_at_every_step(tmp_path: Path) -> None:
    """Whichever page is the first for which there is no room: nothing that was told is lost.

    And what has failed has left no trace, giving back works as before, and with room again
    everything does.
    """
    tools.require_root()
    failed = 0
    with tmpfs(tmp_path / "small") as disk:
        for pages in range(2, 400):
            store, told = disk.path / f"store{pages}", dict[str, str]()
            disk.resize(pages * _STEP)
            with suppress(fastipam.StoreFull):
                _work(store, told)
                break
            failed += 1
            disk.resize(4 << 20)
            with fastipam.open(store) as ipam:
                assert verify(ipam.store) == []
                net = ipam.network("n", ["10.1.0.0/24", "2001:db8::/120"], cooldown_s=0)
                held = {one.container_id: one for one in net.leases() if one.family == 4}
                assert {name: str(one.address.ip) for name, one in held.items()} == told
                net.allocate("afterwards")
                assert verify(ipam.store) == []
            shutil.rmtree(store)
        else:
            raise AssertionError("it never succeeded")
    assert failed > 30, "the disk was never full where it matters"


def test_no_room_for_a_new_store(way: Plugin, config: Make, small_disk: Disk) -> None:
    """A disk that is full when the store shall be made: 5, and nothing half made is left."""
    store = small_disk.path / "store"
    made = config(ipam=SUBNET | {"dataDir": str(store)})
    store.mkdir()
    small_disk.fill()
    for _ in range(2):
        _refused(way("ADD", made), store, "free disk space")
        assert not (store / "data.mdb").exists()
        assert not (store / "data.mdb.new").exists()
    assert way("DEL", made).status == 0, "there is nothing to free"
    small_disk.empty()
    assert way("ADD", made).status == 0


def test_no_room_for_a_backup(small_disk: Disk, tmp_path: Path) -> None:
    """It is the backup's disk that is full, and the error says so; nothing half made is left."""
    with fastipam.open(tmp_path / "store") as ipam:
        ipam.network("mynet", "10.1.0.0/16").allocate_many([(f"c{at}", "eth0") for at in range(99)])
        small_disk.fill()
        file = small_disk.path / "backup"
        with pytest.raises(
            fastipam.StoreError, match=f"{file} cannot be written: No space"
        ) as full:
            backup(ipam.store, file)
        assert full.value.hint == "nothing was changed; choose another file"
        assert "ballast" in os.listdir(small_disk.path)
        assert not [
            name for name in os.listdir(small_disk.path) if "fastipam" in name or name == "backup"
        ]
        small_disk.empty()
        assert backup(ipam.store, file) == file.stat().st_size


def test_no_room_for_a_restore(small_disk: Disk, tmp_path: Path) -> None:
    """It is the store's disk that is full, and not the backup that is bad; nothing has changed."""
    owners = [(f"c{at}", "eth0") for at in range(99)]
    with fastipam.open(tmp_path / "store") as ipam:
        ipam.network("mynet", "10.1.0.0/16").allocate_many(owners)
        backup(ipam.store, tmp_path / "backup")
    path = small_disk.path / "store"
    with fastipam.open(path) as ipam:
        ipam.network("mynet", "10.1.0.0/16").allocate("mine")
        files = {one.name for one in path.iterdir()}
        small_disk.fill()
        ballast = small_disk.path / "ballast"
        refused = 0
        while not _restored(ipam, tmp_path / "backup", files):
            refused += 1  # each time it gets a bit further
            os.truncate(ballast, ballast.stat().st_size - (1 << 14))
        assert refused > 5
        assert len(list(ipam.network("mynet").leases())) == 99


def _restored(ipam: Ipam, file: Path, files: set[str]) -> bool:
    """Whether there was room for it; if not, nothing has changed, and the error is clear."""
    path = ipam.store.path
    try:
        restore(ipam.store, file, replace=True)
    except fastipam.StoreFull as error:
        full = error
    else:
        return True
    assert full.message.startswith(f"no space is left for the store {path}: ")
    assert full.hint == "free disk space; nothing was changed"
    assert set(os.listdir(path)) == files
    assert [one.container_id for one in ipam.network("mynet").leases()] == ["mine"]
    return False


FILLS: dict[str, dict[str, Any]] = {
    "plain": {"cooldown_s": 0},
    "cooling": {},
    "sticky": {"cooldown_s": 0, "sticky_s": 3600},
    "cooling and sticky": {"sticky_s": 3600},
}


@pytest.fixture(params=["tmpfs", "map"])
def tight(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[int], Ipam]]:
    """How to open a store that is full when it has so many pages, and the room that it keeps."""
    if request.param == "map":
        yield lambda pages: open_with(tmp_path / "store", "relaxed", map_size=pages * _STEP)
        return
    tools.require_root()
    with tmpfs(tmp_path / "small") as disk:

        def open_small(pages: int) -> Ipam:
            disk.resize(pages * _STEP + ROOM_BYTES)
            return open_with(disk.path / "store", "relaxed")

        yield open_small


def _fill(network: Network) -> list[Owner]:
    """Allocate until the store is full, and return who has an address."""
    owners: list[Owner] = []
    size = 256
    while size:
        some = [Owner(f"c{len(owners) + at}-{at * 7919 % 10007}") for at in range(size)]
        try:
            network.allocate_many(some, pods=[Pod("ns", one.container_id) for one in some])
        except fastipam.StoreFull:
            size //= 2
        else:
            owners += some
    return owners


@pytest.mark.parametrize("pages", [137, 210, 257])
@pytest.mark.parametrize("options", FILLS.values(), ids=FILLS)
def test_release_from_a_full_store(
    tight: Callable[[int], Ipam], pages: int, options: dict[str, Any]
) -> None:
    """Whoever gives back an address in a full store can do so, in any order and by any way."""
    with tight(pages) as ipam:
        network = ipam.network("mynet", ["10.1.0.0/16", "2001:db8::/64"], **options)
        owners = _fill(network)
        assert len(owners) > 200
        random.Random(pages).shuffle(owners)
        for owner in owners[:60]:
            assert len(network.release(*owner)) == 2
        for owner in owners[60:90]:
            lease = network.get(*owner)
            assert lease is not None
            assert network.release_address(lease.address)
        for owner in owners[90:120]:
            lease = network.get(*owner)
            assert lease is not None
            assert network._release_leases(lease.siblings)
        for owner in owners[120:150]:
            assert network.release_many([owner]) == 2
        gone = set(network.retain(owners[-50:], time.time_ns() + 1))
        assert len(gone) == 2 * (len(owners) - 200)
        assert {lease.owner for lease in network.leases()} == set(owners[-50:])
        assert verify(ipam.store) == []


def test_full_again_and_again(tight: Callable[[int], Ipam]) -> None:
    """Room is left for releases, however often others take what they leave."""
    with tight(150) as ipam:
        network = ipam.network("mynet", "10.1.0.0/16")
        owners, number, failed = _fill(network), 0, 0
        for turn in range(60):
            network.release(*owners.pop(turn * 37 % len(owners)))
            while number < 20 * (turn + 1):
                number += 1
                try:
                    network.allocate(f"n{number}")
                except fastipam.StoreFull:
                    failed += 1
                else:
                    owners.append(Owner(f"n{number}"))
        assert failed > 60
        assert {lease.owner for lease in network.leases()} == set(owners)
        assert verify(ipam.store) == []


def test_the_room_is_on_disk(tmp_path: Path) -> None:
    """It is allocated with the store, and again when the file was made by something else."""
    file = tmp_path / "store" / "turn.lock"
    for _ in range(2):
        with fastipam.open(tmp_path / "store") as ipam:
            ipam.network("mynet", "10.1.0.0/24").allocate("c1", existing="return")
        assert file.stat().st_size == ROOM_BYTES <= file.stat().st_blocks * 512
        file.write_bytes(file.read_bytes()[:32].rstrip(b"\0"))


def test_read_only(
    way: Plugin, config: Make, small_disk: Disk, stored: Callable[[Path], dict[str, str]]
) -> None:
    """A read-only file system: 5 and why, STATUS 51; and service when it may be written again."""
    store = small_disk.path / "store"
    made = config(ipam=SUBNET | {"dataDir": str(store)})
    with fastipam.open(store) as ipam:  # an agent that had it open would keep it from being so
        ipam.network("mynet", "10.1.0.0/16").allocate("c0")
    small_disk.make_read_only()
    for command in ("ADD", "DEL"):
        _refused(way(command, made, "c0"), store, "Read-only file system")
    _refused(way("STATUS", made), store, "Read-only file system", code=51)
    small_disk.make_writable()
    assert way("STATUS", made).status == 0
    assert way("ADD", made, "c1").status == 0
    assert stored(store) == {"c0": "10.1.0.2", "c1": "10.1.0.3"}


def test_disk_fails(
    config: Make,
    ext4_disk: Ext4,
    start: Start,
    launcher_only: Path,
    stored: Callable[[Path], dict[str, str]],
) -> None:
    """A disk that fails under the agent: 5, and 51; mounted anew it has all that was told."""
    store = ext4_disk.path / "store"
    made = config(ipam=SUBNET | {"dataDir": str(store)})
    agent = start()
    way = Plugin(launcher_only, agent.path)
    told: dict[str, str] = {}
    for at in range(50):
        told[f"c{at}"] = way("ADD", made, f"c{at}").addresses[0].partition("/")[0]
    ext4_disk.fail()
    for at in range(3):
        _refused(way("ADD", made, f"lost{at}"), store, "Input/output error")
    _refused(way("STATUS", made), store, "Input/output error", code=51)
    agent.finish()
    ext4_disk.unmount()
    ext4_disk.mount()
    way = Plugin(launcher_only, start().path)
    assert stored(store) == told
    assert way("STATUS", made).status == 0
    assert way("ADD", made, "later").status == 0


# The directory and its files ------------------------------------------------------------------

# Everything is loaded before: the interpreter's files may be root's alone.
_AS_NOBODY = f"""
import os, sys
import fastipam.agent.main, fastipam.cli.commands, fastipam.cni.handler, fastipam.cni.main
import fastipam.storage.truncation, json, json.encoder, encodings.idna
from fastipam.agent import preload
preload.import_all(page=False)
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
"""


@pytest.fixture(params=["direct", "agent"])
def nobodys(
    request: pytest.FixtureRequest, tmp_path: Path, run_dir: Path
) -> Callable[[str, dict[str, Any]], Answer]:
    """The plugin, or the agent behind it, of a user who is not root."""
    tools.require_root()
    run_dir.chmod(0o777)
    for directory in (tmp_path, *tmp_path.parents):
        if str(directory).startswith("/tmp/") and os.stat(directory).st_uid == 0:
            directory.chmod(0o755)
    if request.param == "direct":
        path = tmp_path / "nobodys"
        code = _AS_NOBODY + "fastipam.cni.main.main()"
        path.write_text(f"#!{sys.executable}\n{code}\n")
        path.chmod(0o755)
        return Plugin(path)
    begin: Start = request.getfixturevalue("start")
    code = _AS_NOBODY + "sys.argv[0:2] = []; fastipam.cli.commands.cli(sys.argv, prog_name='f')"
    # It may not write where coverage's data goes: not measured.
    agent = begin(prefix=[sys.executable, "-c", code], env=not_passed_on())
    return Plugin(request.getfixturevalue("launcher_only"), agent.path)


@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_no_permission(
    mode: int,
    nobodys: Callable[..., Answer],
    config: Make,
    tmp_path: Path,
) -> None:
    """A directory that the plugin's user may not write: 5, 51, and what it has to be."""
    store = tmp_path / "store"
    made = config(ipam=SUBNET)
    with fastipam.open(store) as ipam:
        ipam.network("mynet", "10.1.0.0/16").allocate("c0")
    files = [store, *store.iterdir()]
    for file in files:
        os.chown(file, NOBODY, NOBODY)
        file.chmod(mode)
    _refused(nobodys("ADD", made, "c1"), store, "Permission denied", "can write")
    _refused(nobodys("STATUS", made), store, "Permission denied", code=51)
    for file in files:
        file.chmod(0o700)
    assert nobodys("STATUS", made).status == 0
    assert nobodys("ADD", made, "c1").status == 0
    assert nobodys("DEL", made, "c0").status == 0


@pytest.mark.parametrize("kind", ["truncated", "foreign", "zeros", "text"])
def test_other_file(
    kind: str,
    way: Plugin,
    config: Make,
    tmp_path: Path,
    stored: Callable[[Path], dict[str, str]],
) -> None:
    """Another file under the store's name: 5 and "restore a backup", 51; it is not touched."""
    store = tmp_path / "store"
    made = config(ipam=SUBNET)
    told: dict[str, str] = {}
    for at in range(20):
        told[f"c{at}"] = way("ADD", made, f"c{at}").addresses[0].partition("/")[0]
    file, kept = store / "data.mdb", store / "kept"
    whole = file.read_bytes()
    content = {
        "truncated": whole[: len(whole) // 2],
        "foreign": b"SQLite format 3\0" + bytes(8192),
        "zeros": bytes(len(whole)),
        "text": b"not an LMDB file\n" * 1000,
    }[kind]
    file.rename(kept)
    file.write_bytes(content)
    for command in ("ADD", "DEL"):
        _refused(way(command, made, "c0"), store, "restore a backup")
    _refused(way("STATUS", made), store, "restore a backup", code=51)
    assert file.read_bytes() == content
    kept.replace(file)
    assert way("STATUS", made).status == 0
    assert way("DEL", made, "c0").status == 0
    del told["c0"]
    assert stored(store) == told


def test_directory_removed(way: Plugin, config: Make, tmp_path: Path) -> None:
    """A directory that is gone is made anew, also under a running agent."""
    made = config(ipam=SUBNET)
    assert way("ADD", made, "c0").status == 0
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    assert way("DEL", made, "c0").status == 0
    assert way("STATUS", made).status == 0
    assert way("ADD", made, "c1").status == 0
    assert sorted(each.name for each in (tmp_path / "store").iterdir()) == [
        "data.mdb",
        "lock.mdb",
        "turn.lock",
    ]


def test_file_cut_short_under_the_agent(
    start: Start, plugin: Plugin, config: Make, tmp_path: Path
) -> None:
    """Cutting the file of a running agent may end it; the call that meets it has its answer."""
    made = config(ipam=SUBNET)
    agent = start()
    way = Plugin(plugin.path, agent.path)
    for at in range(50):
        assert way("ADD", made, f"c{at}").status == 0
    file = tmp_path / "store" / "data.mdb"
    os.truncate(file, 3 * 4096)
    _refused(way("ADD", made, "c50"), tmp_path / "store", "restore a backup")
    if agent.process.poll() is None:
        agent.kill()


# LMDB's own limits ----------------------------------------------------------------------------

_SMALL_MAP = """
import sys
import fastipam.storage.store
fastipam.storage.store.Store.__init__.__kwdefaults__["map_size"] = 1 << 19
"""


@pytest.fixture(params=["direct", "agent"])
def cramped(request: pytest.FixtureRequest, tmp_path: Path) -> Plugin:
    """The plugin, or the agent behind it, with a memory map of half a megabyte."""
    if request.param == "direct":
        path = tmp_path / "cramped"
        code = _SMALL_MAP + "import fastipam.cni.main; fastipam.cni.main.main()"
        path.write_text(f"#!{sys.executable}\n{code}\n")
        path.chmod(0o755)
        return Plugin(path)
    begin: Start = request.getfixturevalue("start")
    code = _SMALL_MAP + (
        "from fastipam.cli.commands import cli; cli(sys.argv[2:], prog_name='fastipam')"
    )
    agent = begin(prefix=[sys.executable, "-c", code])
    return Plugin(request.getfixturevalue("launcher_only"), agent.path)


def test_map_full(
    cramped: Plugin,
    plugin: Plugin,
    config: Make,
    tmp_path: Path,
    stored: Callable[[Path], dict[str, str]],
) -> None:
    """A store at its largest size: 5; what is in it is there, and can be given back."""
    store = tmp_path / "store"
    made = config(ipam=SUBNET)
    owners = [(f"c{at}", "eth0") for at in range(4000)]
    with open_with(store, map_size=1 << 19) as ipam:
        network = ipam.network("mynet", "10.1.0.0/16", cooldown_s=0)
        told: dict[str, str] = {}
        size = 256
        while size:
            try:
                leases = network.allocate_many(owners[len(told) : len(told) + size])
            except fastipam.StoreFull:
                size //= 2
            else:
                told |= {one.container_id: str(one.address.ip) for one in leases}
    answer = _add_until(cramped, made, told)
    _refused(answer, store, "largest size, 512 KiB", "larger map_size")
    _refused(cramped("STATUS", made), store, "largest size, 512 KiB", code=51)
    assert stored(store) == told
    for owner in list(told)[::150]:
        assert cramped("DEL", made, owner).status == 0
        del told[owner]
    assert stored(store) == told
    assert plugin("ADD", made, "c9999").status == 0, "with a larger map there is service again"


def test_too_many_readers(way: Plugin, config: Make, tmp_path: Path) -> None:
    """All reader slots are taken: 11 and "try again"; service as soon as they are given back."""
    made = config(ipam=SUBNET)
    assert way("ADD", made, "c0").status == 0
    with fastipam.open(tmp_path / "store") as ipam:
        env = ipam.store.open_files().env
        readers = []
        with pytest.raises(lmdb.ReadersFullError):  # noqa: PT012
            while True:
                readers.append(env.begin())
        with pytest.raises(fastipam.StoreBusy):
            list(ipam.network("mynet").leases())
        # A process that has the store open needs no slot for an ADD; opening it takes one.
        answers = [way(command, made, "c0") for command in ("STATUS", "CHECK", "DEL")]
        for reader in readers:
            reader.abort()
    refused = [answer for answer in answers if answer.status]
    assert refused
    for answer in refused:
        _refused(answer, tmp_path / "store", "reader slots", "try again", code=11)
    assert way("STATUS", made).status == 0
    assert way("DEL", made, "c0").status == 0


_DEAD_READERS = """
import os, signal, sys
import fastipam
env = fastipam.open(sys.argv[1]).store.open_files().env
readers = []
try:
    while True:
        readers.append(env.begin())
except Exception as error:
    print(len(readers), type(error).__name__, flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_slots_of_the_dead(way: Plugin, config: Make, tmp_path: Path) -> None:
    """A process that died with all slots keeps nobody from reading who has the store open."""
    made = config(ipam=SUBNET)
    assert way("ADD", made, "c0").status == 0
    with fastipam.open(tmp_path / "store") as ipam:
        network = ipam.network("mynet")
        argv = [sys.executable, "-c", _DEAD_READERS, str(tmp_path / "store")]
        holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None
        count, error = holder.stdout.readline().split()
        assert int(count) > 900
        assert error == "ReadersFullError"
        holder.communicate("\n")
        assert holder.returncode == -signal.SIGKILL
        assert [lease.container_id for lease in network.leases()] == ["c0"]
    assert way("STATUS", made).status == 0


def test_dead_reader_does_not_pin_pages(tmp_path: Path) -> None:
    """What a dead reader was reading is overwritten again, though nobody opens the store anew."""
    store = tmp_path / "store"
    code = (
        "import fastipam, os, signal, sys\n"
        "with fastipam.open(sys.argv[1]).store.read():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with fastipam.open(store, "relaxed") as ipam:
        network = ipam.network("n", "10.1.0.0/16", cooldown_s=0, history=0)
        network.allocate("a")
        subprocess.run([sys.executable, "-c", code, str(store)], check=False)

        def churn(pairs: int) -> int:
            for at in range(pairs):
                network.allocate(f"c{at}")
                network.release(f"c{at}")
            return ipam.store.file_bytes()

        settled = churn(2000)
        assert churn(4000) == settled


# Other writers --------------------------------------------------------------------------------

_HOLD = """
import sys
import fastipam
ipam = fastipam.open(sys.argv[1])
with ipam.transaction() as txn:
    txn.network("mynet", "10.1.0.0/16", cooldown_s=0).allocate("lost")
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A program in the middle of a change of the store."""
    argv = [sys.executable, "-c", _HOLD, str(tmp_path / "store")]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_killed_while_it_holds_the_lock(
    way: Plugin,
    config: Make,
    holder: subprocess.Popen[str],
    tmp_path: Path,
    stored: Callable[[Path], dict[str, str]],
) -> None:
    """Calls that wait for a writer go on when it is killed, and nothing of its change is there."""
    made = config(ipam=SUBNET)
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda at=at: answers.append(way("ADD", made, f"c{at}")))
        for at in range(4)
    ]
    for thread in threads:
        thread.start()
    assert not answers
    os.kill(holder.pid, signal.SIGKILL)
    for thread in threads:
        thread.join(60)
    assert [answer.status for answer in answers] == [0] * 4
    assert stored(tmp_path / "store").keys() == {f"c{at}" for at in range(4)}


def test_stopped_while_it_holds_the_lock(
    start: Start, launcher_only: Path, config: Make, holder: subprocess.Popen[str]
) -> None:
    """A writer that is stopped holds all up: the launcher gives up with 11, STATUS with 50."""
    made = config(ipam=SUBNET)
    way = Plugin(launcher_only, start().path)
    os.kill(holder.pid, signal.SIGSTOP)
    for command, code in (("ADD", 11), ("STATUS", 50)):
        answer = way.raw(
            environment(command) | {"FASTIPAM_TIMEOUT": "0.3"}, b'{"name":"mynet","cniVersion":'
            b'"1.1.0","ipam":{"subnet":"10.1.0.0/16","dataDir":"%s"}}'
            % made["ipam"]["dataDir"].encode(),
        )  # fmt: skip
        assert answer.code == code
        assert "has not answered in time" in answer.message
    os.kill(holder.pid, signal.SIGCONT)
    assert holder.stdin is not None
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert way("DEL", made, "c1").status == 0, "the agent may have served it behind our back"
    assert way("ADD", made, "c1").status == 0


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (bytes(_STEP), "LMDB file: mdb_get: MDB_CORRUPTED"),
        # The header stays, and each entry begins beyond the end of the file.
        (b"\xff" * (_STEP - _PAGE_HEADER), "a damaged page: LMDB ended with SIG"),
    ],
    ids=["empty", "entries"],
)
def test_a_damaged_page(tmp_path: Path, damage: bytes, said: str) -> None:
    """LMDB refuses it, or ends the process that reads it: check and doctor say so."""
    store = tmp_path / "store"
    with fastipam.open(store) as ipam:
        ipam.network("mynet", "10.1.0.0/20").allocate_many(
            [(f"c{at}", "eth0") for at in range(900)]
        )
    content = bytearray((store / "data.mdb").read_bytes())
    for page in range(2 * _STEP, len(content), _STEP):
        end = page + _STEP
        if b"c400\0eth0" in content[page:end]:  # of leases, or of events
            content[end - len(damage) : end] = damage
    (store / "data.mdb").write_bytes(content)
    command = str(Path(sys.executable).with_name("fastipam"))
    for more in ([], ["--repair"], ["--json"]):
        words = [command, "check", "--data-dir", str(store), *more]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert said in done.stderr
        assert str(store) in done.stderr
        assert "restore a backup" in done.stderr
        assert "Traceback" not in done.stderr
    words = [command, "doctor", "--data-dir", str(store)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert said in done.stdout
