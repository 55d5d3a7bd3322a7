"""Short calls of several threads in one commit: who is told what, and what is on disk then."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import fastipam
from fastipam import Ipam, Network
from fastipam._ledger import Call
from fastipam.errors import DuplicateAllocation, PoolExhausted, StoreFull, TryLater
from fastipam.storage.transaction import Transaction
from fastipam.testing import failing
from fastipam.verify import verify

SOON_S = 20  # for what happens in milliseconds; only a failure waits so long
PATIENCE_S = 0.3


@pytest.fixture
def ipam(tmp_path: Path) -> Iterator[Ipam]:
    """A durable store, in which alone calls share commits."""
    with fastipam.open(tmp_path / "store", "durable") as opened:
        yield opened
        assert verify(opened.store) == []


@pytest.fixture
def net(ipam: Ipam) -> Network:
    """A network that has assigned its first address: 10.1.0.2."""
    made = ipam.network("n", "10.1.0.0/24", cooldown_s=0)
    made.allocate("first")
    return made


class Made(Call):  # type: ignore[type-arg]  # a native class takes none
    """A call of a function, which is passed the transaction and the arguments behind."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._function, self._arguments = function, arguments

    def make(self, txn: Transaction) -> object:
        """Call it."""
        return self._function(txn, *self._arguments)


class Line:
    """Threads that wait for the writer's lock in the order in which they were added."""

    def __init__(self, ipam: Ipam) -> None:
        self._ipam = ipam
        self._threads: list[threading.Thread] = []
        self.told: dict[int, Any] = {}  # by number: what the call has returned or raised

    def add(self, call: Callable[[], object]) -> None:
        """Start a thread, and wait until it waits."""
        number = len(self._threads)

        def run() -> None:
            try:
                self.told[number] = call()
            except BaseException as error:
                self.told[number] = error

        thread = threading.Thread(target=run)
        thread.start()
        self._threads.append(thread)
        wait_until_it_waits(thread)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the lock until the end of the block, and wait for all threads there."""
        with self._ipam.transaction():
            yield
        for thread in self._threads:
            thread.join(SOON_S)
            assert not thread.is_alive()

    def commits(self) -> int:
        """Return the number of the last commit."""
        with self._ipam.store.read() as txn:
            return txn.number


def wait_until_it_waits(thread: threading.Thread) -> None:
    """Return when a thread sleeps on a futex of its own; that of the interpreter has 5 ms."""
    place = Path(f"/proc/self/task/{thread.native_id}/syscall")
    end = time.monotonic() + SOON_S
    while time.monotonic() < end:
        text = place.read_text()
        time.sleep(0.02)
        if text.startswith("202 ") and text == place.read_text():
            return
    raise AssertionError("it does not wait")


@pytest.fixture
def line(ipam: Ipam) -> Line:
    """A line before the store."""
    return Line(ipam)


def owned(net: Network) -> dict[str, str]:
    """Return the addresses by container."""
    return {one.container_id: str(one.address.ip) for one in net.leases()}


# One commit ----------------------------------------------------------------------------------


def test_one_commit_serves_all_who_wait(line: Line, net: Network) -> None:
    """The calls are made in the order of the threads, and each gets its own answer."""
    before = line.commits()
    with line.held():
        for number in range(8):
            line.add(partial(net.allocate, f"c{number}"))
        line.add(lambda: net.release("c2"))
    assert line.commits() == before + 1
    assert [line.told[number].container_id for number in range(8)] == [f"c{n}" for n in range(8)]
    assert [str(line.told[number].address.ip) for number in range(8)] == [
        f"10.1.0.{number + 3}" for number in range(8)
    ]
    assert [str(one) for one in line.told[8]] == ["10.1.0.5"]
    assert "c2" not in owned(net)


def test_a_relaxed_store_shares_nothing(tmp_path: Path) -> None:
    """A commit costs nothing there: each call has its own."""
    with fastipam.open(tmp_path / "relaxed", "relaxed") as ipam:
        net = ipam.network("n", "10.1.0.0/24")
        net.allocate("first")
        line = Line(ipam)
        before = line.commits()
        with line.held():
            for number in range(4):
                line.add(partial(net.allocate, f"c{number}"))
        assert line.commits() == before + 4


def test_a_block_is_not_joined_and_not_overtaken(line: Line, ipam: Ipam, net: Network) -> None:
    """It has a commit of its own, in its turn."""

    def block() -> str:
        with ipam.transaction() as txn:
            return str(txn.network("n").allocate("block").address.ip)

    before = line.commits()
    with line.held():
        line.add(lambda: net.allocate("a"))
        line.add(lambda: net.allocate("b"))
        line.add(block)
        line.add(lambda: net.allocate("c"))
        line.add(lambda: net.allocate("d"))
    assert line.commits() == before + 3
    assert line.told[2] == owned(net)["block"] == "10.1.0.5"
    assert owned(net)["c"] == "10.1.0.6"


def test_the_main_thread_does_no_call_of_another(line: Line, ipam: Ipam) -> None:
    """A handler may raise in it at any moment, and that is not the other call's error."""
    threads: dict[str, int] = {}

    def call(name: str) -> None:
        def note(_: Transaction) -> None:
            threads[name] = threading.get_ident()

        ipam.store.perform(Made(note))

    go = threading.Event()

    def hold() -> None:
        with ipam.transaction():
            go.wait(SOON_S)

    def add() -> None:
        wait_until_it_waits(threading.main_thread())
        line.add(lambda: call("behind"))
        go.set()

    holder = threading.Thread(target=hold)
    holder.start()
    while ipam.store.is_writable_at_once:
        time.sleep(0.001)
    adder = threading.Thread(target=add)
    adder.start()
    call("main")
    for thread in (holder, adder):
        thread.join(SOON_S)
    with line.held():
        pass
    assert threads["main"] == threading.get_ident()
    assert threads["behind"] != threading.get_ident()


# Errors --------------------------------------------------------------------------------------


def test_each_call_has_its_own_error(line: Line, net: Network) -> None:
    """A call that fails changes nothing for the others, and raises in its own thread."""
    net.allocate_many([(f"old{number}", "eth0") for number in range(249)])  # 3 are left
    before = line.commits()
    with line.held():
        line.add(lambda: net.allocate("a"))
        line.add(lambda: net.allocate("old7"))
        line.add(lambda: net.allocate("b", addresses=["10.1.0.2"]))
        line.add(lambda: net.allocate("c"))
        line.add(lambda: net.allocate("d"))
        line.add(lambda: net.allocate("e"))
        line.add(lambda: net.release("nobody"))
    assert line.commits() == before + 1
    kinds = {number: type(told).__name__ for number, told in line.told.items()}
    assert kinds == {
        **dict.fromkeys((0, 3, 4), "Lease"),
        1: "DuplicateAllocation",
        2: "AddressInUse",
        5: "PoolExhausted",
        6: "list",
    }
    assert "e" not in owned(net)
    own = line.told[1].__traceback__
    names = set()
    while own is not None:
        names.add(own.tb_frame.f_code.co_name)
        own = own.tb_next
    assert "run" in names, "it was not raised in its own thread"


def test_a_write_that_fails_fails_one_call(line: Line, ipam: Ipam, net: Network) -> None:
    """LMDB cannot take back what it has begun: so all calls are made again, alone."""

    def broken(txn: Transaction) -> None:
        txn.put_in(0, b"k" * 600, b"")

    before = line.commits()
    with line.held():
        line.add(lambda: net.allocate("a"))
        line.add(lambda: net.allocate("b"))
        line.add(lambda: ipam.store.perform(Made(broken)))
        line.add(lambda: net.allocate("c"))
    assert isinstance(line.told[2], fastipam.StoreError)
    assert line.commits() == before + 3
    assert set(owned(net)) == {"first", "a", "b", "c"}
    assert len({line.told[number].address for number in (0, 1, 3)}) == 3


def test_a_commit_that_fails(line: Line, net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call is made again alone; the error that comes again is told to one of them."""
    flush = Transaction.flush
    failures = [StoreFull("shared"), StoreFull("alone")]

    def fail(self: Transaction) -> None:
        if failures and type(self) is Transaction:  # and not the block of the line
            raise failures.pop(0)
        flush(self)

    before = line.commits()
    monkeypatch.setattr(Transaction, "flush", fail)
    with line.held():
        for number in range(4):
            line.add(partial(net.allocate, f"c{number}"))
    told = Counter(type(one).__name__ for one in line.told.values())
    assert told == {"Lease": 3, "StoreFull": 1}
    assert {str(one) for one in line.told.values() if isinstance(one, StoreFull)} == {"alone"}
    assert line.commits() == before + 3
    assert len(owned(net)) == 4


def test_what_interrupts_the_leader(line: Line, ipam: Ipam, net: Network) -> None:
    """It ends the leader's own call; the call that it was in is made by its own thread, once."""
    made = []

    def interrupted(txn: Transaction, owner: int) -> int:
        made.append(threading.get_ident())
        txn.put_in(0, b"test", b"")
        txn.delete_from(0, b"test")
        if threading.get_ident() != owner:
            raise KeyboardInterrupt
        return owner

    before = line.commits()
    with line.held():
        line.add(lambda: net.allocate("leader"))
        line.add(lambda: net.allocate("a"))
        line.add(lambda: ipam.store.perform(Made(interrupted, threading.get_ident())))
        line.add(lambda: net.allocate("b"))
    assert isinstance(line.told[0], KeyboardInterrupt)
    assert len(made) == 2
    assert line.told[2] == made[1]
    assert set(owned(net)) == {"first", "a", "b"}
    assert line.commits() in (before + 2, before + 3)  # the call above writes nothing in the end


@pytest.mark.parametrize("committed", [True, False])
def test_a_handler_that_raises_in_a_thread_that_waits(
    ipam: Ipam, net: Network, *, committed: bool
) -> None:
    """It raises when it is known how the call went, and the call is made once or not at all."""

    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    mine = threading.get_ident()

    def interrupt(txn: Transaction) -> None:
        net._release(txn, ("first", "eth0"))
        if threading.get_ident() != mine:
            os.kill(os.getpid(), signal.SIGALRM)
            time.sleep(0.2)  # the handler runs meanwhile
            if not committed:
                raise RuntimeError

    go = threading.Event()

    def hold() -> None:
        with ipam.transaction():
            go.wait(SOON_S)

    def lead() -> None:
        net.allocate("leader")

    def watch() -> None:
        wait_until_it_waits(threading.main_thread())
        go.set()

    holder, leader = threading.Thread(target=hold), threading.Thread(target=lead)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        holder.start()
        while ipam.store.is_writable_at_once:
            time.sleep(0.001)
        leader.start()
        wait_until_it_waits(leader)
        threading.Thread(target=watch).start()
        with pytest.raises(Alarm):
            ipam.store.perform(Made(interrupt))
        assert ("first" not in owned(net)) is committed
        assert "leader" in owned(net) or not committed
    finally:
        signal.signal(signal.SIGALRM, before)
        for thread in (holder, leader):
            thread.join(SOON_S)
    assert "leader" in owned(net)


def test_patience_does_not_end_a_call_that_is_made(tmp_path: Path) -> None:
    """Its thread has waited too long, but another one is at it: what it does is the answer."""
    with fastipam.open(tmp_path / "store", "durable", patience_s=PATIENCE_S) as ipam:
        net = ipam.network("n", "10.1.0.0/24")
        net.allocate("first")
        line = Line(ipam)

        def slow(txn: Transaction) -> int:
            net._release(txn, ("first", "eth0"))
            time.sleep(2 * PATIENCE_S)
            return threading.get_ident()

        with line.held():
            line.add(lambda: net.allocate("leader"))
            line.add(lambda: ipam.store.perform(Made(slow)))
        assert isinstance(line.told[1], int)
        assert "first" not in owned(net)


def test_a_promise_is_settled_by_its_own_thread(line: Line, ipam: Ipam, net: Network) -> None:
    """After the commit; one that cannot be kept is the error of its call alone."""
    settled: dict[str, int] = {}

    class Promise:
        def __init__(self, name: str, *, kept: bool) -> None:
            self._name, self._kept = name, kept

        def settle(self) -> fastipam.FastipamError | None:
            settled[self._name] = threading.get_ident()
            return None if self._kept else TryLater(self._name)

    def call(name: str, *, kept: bool) -> int:
        def promise(txn: Transaction) -> None:
            net._try_assign(txn, fastipam.lease.Requester(name, "eth0"), (), "error", None)
            txn.promises = (*txn.promises, Promise(name, kept=kept))

        ipam.store.perform(Made(promise))
        return threading.get_ident()

    with line.held():
        line.add(lambda: call("a", kept=True))
        line.add(lambda: call("b", kept=False))
        line.add(lambda: call("c", kept=True))
    assert isinstance(line.told[1], TryLater)
    assert (line.told[0], line.told[2]) == (settled["a"], settled["c"])
    assert len(set(settled.values())) == 3
    assert {"a", "b", "c"} < set(owned(net))


def test_a_fault_at_a_change_of_a_number(line: Line, ipam: Ipam, net: Network) -> None:
    """While ``failing`` counts changes each call is one, whoever waits for whom."""
    before = line.commits()
    with ExitStack() as stack:
        held = stack.enter_context(ExitStack())
        held.enter_context(line.held())
        stack.enter_context(failing(ipam, StoreFull("no space"), call=2))
        line.add(lambda: net.allocate("a"))
        with pytest.raises(StoreFull):
            net.allocate("b")
        line.add(lambda: net.allocate("c"))
        held.close()
    assert line.commits() == before + 2
    assert set(owned(net)) == {"first", "a", "c"}


# Under load ----------------------------------------------------------------------------------


def test_threads_and_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every answer the store has what it says, whatever fails meanwhile."""
    flush = Transaction.flush
    chance = random.Random(7)
    lock = threading.Lock()
    commits = Counter[str]()

    def fail(self: Transaction) -> None:
        with lock:
            commits["all"] += 1
            fails = chance.random() < 0.1
            commits["failed"] += fails
        if fails:
            raise StoreFull("by chance")
        flush(self)

    wrong: list[object] = []
    with fastipam.open(tmp_path / "store", "durable") as ipam:
        net = ipam.network("n", "10.1.0.0/27", cooldown_s=0)
        net.allocate("first")
        monkeypatch.setattr(Transaction, "flush", fail)
        told = Counter[str]()

        def work(number: int) -> None:
            mine: dict[str, str] = {}
            own = random.Random(number)
            try:
                for at in range(60):
                    step(own, mine, f"c{number}-{at}")
                assert mine == {
                    name: address
                    for name, address in owned(net).items()
                    if name.startswith(f"c{number}-")
                }
            except BaseException as error:
                wrong.append(error)

        def step(own: random.Random, mine: dict[str, str], new: str) -> None:
            name = own.choice(list(mine)) if mine and own.random() < 0.6 else new
            allocates = name == new or own.random() < 0.2
            try:
                if allocates:
                    address = str(net.allocate(name).address.ip)
                    assert name not in mine
                    mine[name] = address
                else:
                    assert [str(one) for one in net.release(name)] == [mine.pop(name)]
                told["well"] += 1
            except DuplicateAllocation:
                assert name in mine
                told["duplicate"] += 1
            except PoolExhausted:
                told["exhausted"] += 1
            except StoreFull:
                told["full"] += 1
            found = net.get(name)
            assert (str(found.address.ip) if found else None) == mine.get(name)

        threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
        monkeypatch.undo()
        assert not wrong
        assert verify(ipam.store) == []
        assert told["duplicate"]
        assert told["exhausted"]
        assert commits["failed"]
        assert told["full"] < commits["failed"], "no call was made again"


# Threads that write down each answer, until they are killed.
ANSWERED = """
import os, sys, threading, fastipam
ipam = fastipam.open(sys.argv[1], "durable")
net = ipam.network("n", "10.1.0.0/16", cooldown_s=0)
out = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)

def work(number):
    for at in range(100000):
        name = f"c{number}-{at}"
        os.write(out, f"{name} {net.allocate(name).address.ip}\\n".encode())
        if at % 2:
            net.release(name)
            os.write(out, f"{name} none\\n".encode())

threads = [threading.Thread(target=work, args=[number], daemon=True) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_what_was_answered_outlives_a_kill(tmp_path: Path) -> None:
    """Of each thread, all is there but the call that it was in."""
    chance = random.Random(3)
    for number in range(6):
        store, answers = tmp_path / f"s{number}", tmp_path / f"answers{number}"
        answers.touch()
        with subprocess.Popen([sys.executable, "-c", ANSWERED, store, answers]) as process:
            end = time.monotonic() + SOON_S
            while answers.stat().st_size < 400 and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.2))
            process.kill()
        told = dict(text.split(" ") for text in answers.read_text().splitlines())
        assert len(told) > 10
        last = {name.split("-")[0]: name for name in told}
        with fastipam.open(store) as ipam:
            found = owned(ipam.network("n"))
            assert verify(ipam.store) == []
        for name, address in told.items():
            if name == last[name.split("-")[0]] and int(name.split("-")[1]) % 2:
                continue  # it may have been released, and nobody was told
            assert found.pop(name, "none") == address
        # What nobody was told of is at most one call of each thread.
        assert len(found) <= 8
