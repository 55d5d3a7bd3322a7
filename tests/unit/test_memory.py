"""What a plain call leaves in memory for the next one is used only while it is still true."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.conftest import assert_consistent
from tests.contents import check_all
from tests.e2e.tools import require_root

import fastipam
from fastipam import Network
from fastipam.allocation.ledger import Ledger
from fastipam.ipam import Ipam
from fastipam.storage.transaction import Transaction

RANGES = "10.0.0.0/27"
SETTLED_S = 0.05  # longer than it takes until an unchanged directory is trusted

# Another process: for each line it makes a call, and prints its result.
OTHER = """
import json, sys
import fastipam
ipam = fastipam.open(sys.argv[1])
for line in sys.stdin:
    name, arguments, options = json.loads(line)
    net = ipam.network("n", sys.argv[2], cooldown_s=float(sys.argv[3]))
    try:
        result = getattr(net, name)(*arguments, **options)
        print(json.dumps(getattr(result, "cidr", "")), flush=True)
    except fastipam.FastipamError as error:
        print(json.dumps(type(error).__name__), flush=True)
"""


class Other:
    """The network in another process."""

    def __init__(self, path: Path, cooldown_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(path), RANGES, str(cooldown_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, name: str, *arguments: object, **options: object) -> str:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([name, arguments, options]) + "\n")
        process.stdin.flush()
        return str(json.loads(process.stdout.readline()))

    def end(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture
def relaxed(data_dir: Path) -> Iterator[Ipam]:
    with fastipam.open(data_dir, "relaxed") as ipam:
        yield ipam


def is_left(ipam: Ipam) -> bool:
    """Whether the last call has left something."""
    files = ipam.store.files
    assert files is not None
    return files.memory is not None


def stored(path: Path) -> dict[str, str]:
    """The leases of the store that a path leads to, read by another process."""
    code = (
        "import fastipam, json, sys\n"
        "with fastipam.open(sys.argv[1]) as ipam:\n"
        "    print(json.dumps({one.container_id: one.cidr"
        " for one in ipam.network('n').leases()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


# Other transactions ------------------------------------------------------------------------------


def test_only_plain_calls_leave_something(relaxed: Ipam) -> None:
    """A transaction in which Python code may have written anything leaves nothing."""
    net = relaxed.network("n", RANGES)
    net.allocate("first")  # makes the network: not a plain call
    assert not is_left(relaxed)
    calls: list[tuple[Callable[[], object], bool]] = [
        (lambda: net.allocate("a"), True),
        (lambda: net.release("a"), True),
        (lambda: net.release("a"), False),  # Python looks for an imported lease
        (lambda: net.allocate("b"), True),
        (lambda: net.reserve("10.0.0.9"), False),
        (lambda: net.allocate("c"), False),  # there are reservations
        (lambda: net.unreserve("10.0.0.9"), False),
        (lambda: net.allocate("d"), True),
        (lambda: net.allocate_many([("e", "eth0")]), False),
        (lambda: net.allocate("f"), True),
        (lambda: net.lookup("10.0.0.2"), True),  # reads
    ]
    for number, (call, leaves) in enumerate(calls):
        call()
        assert is_left(relaxed) == leaves, number
        assert_consistent(relaxed.store)
    with Transaction(relaxed.store) as txn:
        assert not is_left(relaxed)
        txn._check()
    with relaxed.transaction() as block:
        block.network("n").allocate("g")
    assert not is_left(relaxed)
    net.allocate("h")
    assert_consistent(relaxed.store)


def test_what_is_left_equals_the_store(relaxed: Ipam) -> None:
    """After each of many plain calls, a transaction that takes it over has what LMDB has."""
    pool = [[f"10.0.{at}.0/30" for at in range(16, 256, 16)], "2001:db8::/120"]
    net = relaxed.network("n", pool, cooldown_s=0, history=20)
    held: list[str] = []
    for number in range(120):
        if held and number % 3 == 2:
            net.release(held.pop(0))
        else:
            held.append(f"c{number}")
            try:
                net.allocate(held[-1])
            except fastipam.PoolExhausted:
                net.release(held.pop())
                net.release(held.pop(0))
        if number % 2:  # every other time the next call takes over what this call took over
            with Transaction(relaxed.store) as txn:
                txn._check()
    assert_consistent(relaxed.store)


def test_bitmap_of_many_pages(relaxed: Ipam) -> None:
    """A bitmap that has grown beyond some pages is read again, and nothing is lost by it."""
    pool = [f"10.0.{at}.0/30" for at in range(0, 256, 16)]  # each range is in a page of its own
    net = relaxed.network("n", [pool], cooldown_s=0)
    given = [net.allocate(f"c{number}").cidr for number in range(16)]
    assert len({*given}) == 16
    assert is_left(relaxed)
    with pytest.raises(fastipam.PoolExhausted):
        net.allocate("more")
    for number in range(0, 16, 2):
        net.release(f"c{number}")
    assert is_left(relaxed)
    assert {net.allocate(f"d{number}").cidr for number in range(8)} == {*given[::2]}
    with Transaction(relaxed.store) as txn:
        txn._check()
    assert_consistent(relaxed.store)


@pytest.mark.parametrize("cooldown_s", [0, 0.002, 30])
def test_two_processes_in_turns(
    relaxed: Ipam, data_dir: Path, cooldown_s: float, request: pytest.FixtureRequest
) -> None:
    """Each process sees what the other one has done, however many calls it made before."""
    seed = random.randrange(1 << 32)
    print(f"seed={seed}")
    dice = random.Random(seed)
    net = relaxed.network("n", RANGES, cooldown_s=cooldown_s)
    other = Other(data_dir, cooldown_s)
    request.addfinalizer(other.end)

    def here(name: str, owner: str) -> str:
        try:
            return getattr(getattr(net, name)(owner), "cidr", "")
        except fastipam.FastipamError as error:
            return type(error).__name__

    held: dict[str, str] = {}
    for number in range(400):
        call = here if dice.random() < 0.6 else other.call
        if held and dice.random() < 0.5:
            owner = dice.choice([*held, "nobody"])
            call("release", owner)
            held.pop(owner, None)
        else:
            owner = f"c{number}"
            answer = call("allocate", owner)
            if answer != "PoolExhausted":
                assert answer not in held.values(), (number, answer)
                held[owner] = answer
        if not number % 20:
            assert_consistent(relaxed.store)
    assert {one.container_id: one.cidr for one in net.leases()} == held
    assert_consistent(relaxed.store)


@pytest.mark.parametrize("what", ["policy", "reservation", "sticky", "removal"])
def test_another_process_changes_the_network(relaxed: Ipam, data_dir: Path, what: str) -> None:
    """A policy, a reservation or a removal of another process holds from the next call on."""
    net = relaxed.network("n", RANGES, cooldown_s=0)
    for owner in ("first", "a", "b"):
        net.allocate(owner)
    assert is_left(relaxed)
    code = {
        "policy": "ipam.network('n', sys.argv[2], cooldown_s=7).allocate('x')",
        "reservation": "ipam.network('n').reserve('10.0.0.5')",
        "sticky": "ipam.network('n', sys.argv[2], sticky_s=60).allocate('x', pod=('d', 'p'))",
        "removal": "[ipam.network('n').release(owner) for owner in ('first', 'a', 'b')]; "
        "sys.argv = ['fastipam', 'network', 'remove', 'n', '--data-dir', sys.argv[1]]; main()",
    }[what]
    program = f"""import sys, fastipam
from fastipam.cli.main import main
with fastipam.open(sys.argv[1]) as ipam: {code}"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(data_dir), RANGES],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    address = net.allocate("c").cidr
    assert address == ("10.0.0.2/27" if what == "removal" else address)
    assert address != "10.0.0.5/27" or what == "policy"
    net.release("c")
    assert_consistent(relaxed.store)


TAKE_FIVE = """
import lmdb, sys
with lmdb.open(sys.argv[1], max_dbs=32) as env, env.begin(write=True) as txn:
    pages = env.open_db(b"pages", txn)
    [(key, page)] = [one for one in txn.cursor(pages) if one[0][5] == 0]
    bits = int.from_bytes(page, "little") | 1 << 5  # 10.0.0.5
    txn.put(key, bits.to_bytes(len(page), "little"), db=pages)
"""


def test_other_program_leaves_the_numbers_as_they_are(relaxed: Ipam, data_dir: Path) -> None:
    """The number of its commit is enough: a repair may write a bitmap and nothing else."""
    net = relaxed.network("n", RANGES, cooldown_s=0)
    for owner in ("first", "a", "b"):  # 10.0.0.2 to .4
        net.allocate(owner)
    assert is_left(relaxed)
    subprocess.run([sys.executable, "-c", TAKE_FIVE, str(data_dir)], check=True)
    assert net.allocate("c").cidr == "10.0.0.6/27"


def test_doubt_whether_the_machine_has_rebooted(
    relaxed: Ipam, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is settled by the next call, whatever the last one has left."""
    net = relaxed.network("n", RANGES)
    for owner in ("first", "a"):
        net.allocate(owner)
    assert is_left(relaxed)
    settled: list[str] = []

    def settle(ledger: Ledger) -> None:
        settled.append(ledger.store.boot_doubt)
        ledger.store.boot_doubt = ""

    monkeypatch.setattr(Ledger, "settle_boot", settle)
    for owner in ("b", "c"):
        relaxed.store.boot_doubt = owner
        net.allocate(owner)
        net.release(owner)
    assert settled == ["b", "c"]


def test_file_put_back_in_place(relaxed: Ipam, data_dir: Path) -> None:
    """The bytes of an older commit are copied over the open file; LMDB does not notice it."""
    net = relaxed.network("n", RANGES, cooldown_s=0)
    net.allocate("first")
    net.allocate("a")
    before = (data_dir / "data.mdb").read_bytes()
    net.allocate("b")
    net.release("b")  # two commits: LMDB uses its two meta pages in turns
    assert is_left(relaxed)
    (data_dir / "data.mdb").write_bytes(before)
    assert net.allocate("c").cidr == "10.0.0.4/27"
    assert {one.container_id for one in net.leases()} == {"first", "a", "c"}
    assert_consistent(relaxed.store)


def test_parts_of_one_transaction(relaxed: Ipam) -> None:
    """Parts of a batch that use one network after another, with other ranges and policies."""
    seed = random.randrange(1 << 32)
    print(f"seed={seed}")
    dice = random.Random(seed)
    networks = [
        relaxed.network("n", RANGES, cooldown_s=0),
        relaxed.network("n", RANGES, cooldown_s=30),
        relaxed.network("n", "10.0.0.0/26", cooldown_s=0),
        relaxed.network("m", RANGES, pool="n", history=3),
        relaxed.network("o", ["10.1.0.0/28", "2001:db8::/124"], cooldown_s=0),
    ]
    owners = [f"c{number}" for number in range(12)]
    steps: list[Callable[[Network], object]] = [
        *[lambda net: net.allocate(dice.choice(owners))] * 5,
        *[lambda net: net.release(dice.choice(owners))] * 5,
        lambda net: net.allocate("s", pod=("default", "s")),
        lambda net: net.reserve("10.0.0.9"),
        lambda net: net.unreserve("10.0.0.9"),
        lambda net: net.release_many([(owner, "eth0") for owner in owners[:3]]),
    ]
    for _ in range(12):
        with Transaction(relaxed.store, joined=True) as whole:
            for _ in range(25):
                net = dice.choice(networks)
                with suppress(fastipam.FastipamError):  # then its part is undone
                    dice.choice(steps)(net)
                check_all(whole)
        networks[0].allocate(f"alone{seed}")
        networks[0].release(f"alone{seed}")
        assert_consistent(relaxed.store)


# The files ---------------------------------------------------------------------------------------


def fill_and_copy(
    ipam: Ipam, path: Path, copied: Path, settled: bool
) -> tuple[Network, dict[str, str]]:
    """Make leases and copy the store; return the network and its leases.

    If ``settled``, the last call trusts that the directory has not changed.
    """
    net = ipam.network("n", RANGES)
    net.allocate("first")
    net.allocate("a")
    if settled:
        time.sleep(SETTLED_S)
        net.allocate("b")
    subprocess.run(["cp", "-a", str(path), str(copied)], check=True)
    return net, {one.container_id: one.cidr for one in net.leases()}


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize(
    "what", ["directory", "parent", "data file", "lock file", "copy", "link", "other link"]
)
def test_files_that_are_moved_away(tmp_path: Path, what: str, reads: bool, settled: bool) -> None:
    """A call notices it at once: it opens the store that the path leads to, or is refused."""
    parent = tmp_path / "parent"
    path = parent / "store"
    opened = path
    path.mkdir(parents=True)
    if what in ("link", "other link"):
        opened = tmp_path / "link"
        opened.symlink_to(path)
    with fastipam.open(opened, "relaxed") as ipam:
        copied = tmp_path / "copy"
        net, was = fill_and_copy(ipam, path, copied, settled)
        # What another program does, faster than a tick of the kernel's clock.
        if what == "parent":
            parent.rename(tmp_path / "elsewhere")
        elif what in ("directory", "copy", "link"):
            path.rename(tmp_path / "elsewhere")
            if what != "directory":
                copied.rename(path)
        elif what == "other link":
            opened.unlink()
            opened.symlink_to(copied)
        else:
            name = "data.mdb" if what == "data file" else "lock.mdb"
            os.rename(path / name, tmp_path / name)
        if what in ("directory", "parent", "data file"):
            with pytest.raises(fastipam.StoreUnavailable, match="is gone"):
                net.stats() if reads else net.allocate("c")
            return
        if reads:
            assert net.stats().assigned == len(was)
        net.allocate("c")
        assert stored(opened).keys() == {*was, "c"}
        assert_consistent(ipam.store)
    left = path if what == "other link" else tmp_path / "elsewhere"
    if left.exists():
        assert stored(left).keys() == was.keys()


@pytest.mark.parametrize("settled", [False, True])
def test_directory_replaced_by_its_copy_under_the_same_number(
    tmp_path: Path, settled: bool
) -> None:
    """A removed directory's inode is used again, and cp -a keeps the time of its last change."""
    path, copied = tmp_path / "store", tmp_path / "copy"
    for _ in range(20):
        with fastipam.open(path, "relaxed") as ipam:
            net, was = fill_and_copy(ipam, path, copied, settled)
            subprocess.run(f"rm -rf '{path}' && cp -a '{copied}' '{path}'", shell=True, check=True)
            net.allocate("c")
            assert stored(path).keys() == {*was, "c"}
        shutil.rmtree(path)
        shutil.rmtree(copied)


MOUNTED_OVER = """
import os, subprocess, sys, time
import fastipam
store, other = sys.argv[1:]
for path, owners in ((other, ["in-other"]), (store, ["first", "a"])):
    ipam = fastipam.open(path, "relaxed")
    net = ipam.network("n", "10.0.0.0/27")
    for owner in owners:
        net.allocate(owner)
    if path == other:
        ipam.close()
time.sleep(0.05)
net.allocate("b")
subprocess.run(["mount", "--bind", f"{other}/data.mdb", f"{store}/data.mdb"], check=True)
time.sleep(1.1)
net.allocate("c")
print(sorted(one.container_id for one in net.leases()))
"""


def test_file_mounted_over_the_open_one(tmp_path: Path) -> None:
    """It changes no directory; a second later the mounted file is the store's."""
    require_root()
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", MOUNTED_OVER, tmp_path / "a", tmp_path / "b"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("['c', 'in-other']\n", "")


# Without memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_end_that_cannot_begin(relaxed: Ipam, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """When no memory is left to end a call's transaction, it is rolled back, the lock released."""
    net = relaxed.network("n", RANGES)
    net.allocate("first")

    def no_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "__exit__", no_memory, raising=False)
        with pytest.raises(MemoryError):
            net.allocate("first" if fails else "a")  # it has an address already
    assert net.allocate("b").cidr == "10.0.0.3/27"
    assert not relaxed.store.is_in_use
    assert_consistent(relaxed.store)
