"""What docs/embedding.md promises to programs that use the library in their own process."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastipam
from fastipam import errors
from fastipam.testing import Clock, TemporaryStore, temporary_store


@pytest.fixture
def store() -> Iterator[TemporaryStore]:
    """A store of the test's own."""
    with temporary_store() as made:
        yield made


def test_threads_share_what_was_opened(store: TemporaryStore) -> None:
    """Eight threads allocate and release through one Network: no address is given twice."""
    with store.open() as ipam:
        network = ipam.network("n", "10.1.0.0/22", cooldown_s=0)
        held: list[str] = []
        faults: list[BaseException] = []

        def work(name: int) -> None:
            try:
                for number in range(40):
                    lease = network.allocate(f"{name}-{number}")
                    if number % 2:
                        held.append(lease.cidr)
                    else:
                        network.release(f"{name}-{number}")
            except BaseException as error:  # it would be lost with the thread
                faults.append(error)

        threads = [threading.Thread(target=work, args=[name]) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults
        assert len(set(held)) == len(held) == 160 == network.stats().assigned


def test_readers_wait_for_nobody(store: TemporaryStore) -> None:
    """A thread reads while another has a transaction open, and sees what was committed before."""
    with store.open() as ipam:
        network = ipam.network("n", "10.1.0.0/24")
        network.allocate("before")
        seen: list[int] = []
        with ipam.transaction() as txn:
            txn.network("n").allocate("within")
            reader = threading.Thread(target=lambda: seen.append(network.stats().assigned))
            reader.start()
            reader.join(timeout=30)
            assert seen == [1]
            assert network.stats().assigned == 1, "the last commit"
            assert txn.network("n").stats().assigned == 2


def test_writers_wait_for_the_whole_block(store: TemporaryStore) -> None:
    """Another thread's change waits until the transaction has ended, and is no part of it."""
    with store.open() as ipam:
        network = ipam.network("n", "10.1.0.0/24")
        done = threading.Event()

        def other() -> None:
            network.allocate("other")
            done.set()

        writer = threading.Thread(target=other)

        def fail() -> None:
            with ipam.transaction() as txn:
                txn.network("n").allocate("mine")
                writer.start()
                assert not done.wait(0.2)
                raise LookupError

        with pytest.raises(LookupError):
            fail()
        writer.join(timeout=30)
        assert [lease.container_id for lease in network.leases()] == ["other"]


def test_a_part_of_a_transaction_may_fail(store: TemporaryStore) -> None:
    """A call that raises inside a block leaves no trace; the rest stands."""
    with store.open() as ipam:
        network = ipam.network("n", "10.1.0.0/24")
        with ipam.transaction() as txn:
            inside = txn.network("n")
            inside.allocate("first")
            with pytest.raises(fastipam.DuplicateAllocation):
                inside.allocate("first")
            inside.allocate("last")
        assert [lease.container_id for lease in network.leases()] == ["first", "last"]


def test_a_signal_leaves_a_transaction_as_an_exception_does(store: TemporaryStore) -> None:
    """KeyboardInterrupt between two calls of a block: none of them has happened."""
    with store.open() as ipam:
        network = ipam.network("n", "10.1.0.0/24")

        def interrupted() -> None:
            with ipam.transaction() as txn:
                txn.network("n").allocate("first")
                os.kill(os.getpid(), signal.SIGINT)
                txn.network("n").allocate("second")

        # A process that was started in the background ignores it.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                interrupted()
        finally:
            signal.signal(signal.SIGINT, before)
        assert network.stats().assigned == 0
        network.allocate("later")


def test_a_handler_is_no_part_of_the_block(store: TemporaryStore) -> None:
    """A signal handler that changes something while its thread has a block open is refused."""
    with store.open() as ipam:
        network = ipam.network("n", "10.1.0.0/24")
        refused = []

        def handler(*_: object) -> None:
            try:
                network.allocate("handler")
            except fastipam.TransactionOpen as error:
                refused.append(error)

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            with ipam.transaction() as txn:
                os.kill(os.getpid(), signal.SIGUSR1)
                txn.network("n").allocate("block")
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert len(refused) == 1
        assert [lease.container_id for lease in network.leases()] == ["block"]


QUIET = """
import signal, sys, threading
before = {number: signal.getsignal(number) for number in signal.valid_signals()}
import fastipam
with fastipam.open(sys.argv[1], "relaxed") as ipam:
    ipam.network("n", fastipam.DEFAULT_RANGE).allocate("c1")
    assert threading.active_count() == 1
    assert before == {number: signal.getsignal(number) for number in signal.valid_signals()}
"""


def test_no_handler_and_no_thread(store: TemporaryStore) -> None:
    """Opening and using a store installs no signal handler and starts no thread."""
    subprocess.run([sys.executable, "-c", QUIET, str(store.path)], check=True, timeout=60)


LATE = """
import sys
import fastipam
with fastipam.open(sys.argv[1], "relaxed") as ipam:
    before = set(sys.modules)
    net = ipam.network("n", ["10.1.0.0/29", "fd00::/125"], sticky_s=60, cooldown_s=0)
    net.allocate("c1", pod=("web", "web-0")).address
    net.allocate_many([("c2", "eth0"), ("c3", "eth0")])
    net.release("c1")
    net.allocate("c1", pod=("web", "web-0"))
    many = [("d", f"e{at}") for at in range(9)]
    for refused in (lambda: net.allocate("c1"), lambda: net.allocate_many(many)):
        try:
            refused()
        except fastipam.FastipamError:
            pass
    list(net.leases()), list(net.reservations()), list(net.history()), net.stats()
    net.lookup("10.1.0.2"), net.retain([("c1", "eth0")], 0), net.get("c1").owner
    net.owned_by("c1"), net.release_many([("c2", "eth0")]), net.reserve("10.1.0.3")
    assert set(sys.modules) == before, set(sys.modules) - before
"""


def test_no_call_imports_anything(store: TemporaryStore) -> None:
    """After ``open`` the usual calls import no module: a signal could break an import."""
    subprocess.run([sys.executable, "-c", LATE, str(store.path)], check=True, timeout=60)


def test_a_directory_is_opened_once(store: TemporaryStore) -> None:
    """A second open in the process gets the same store; the last close closes it."""
    first = store.open()
    second = fastipam.open(store.path)
    assert second.store is first.store
    first.close()
    second.network("n", "10.1.0.0/24").allocate("c1")
    with pytest.raises(fastipam.ConfigError, match="durability"):
        fastipam.open(store.path, durability="durable")
    second.close()
    with pytest.raises(fastipam.StoreClosed):
        second.networks()


def test_a_child_opens_it_again(store: TemporaryStore) -> None:
    """After fork() the parent's store refuses in the child; the child's own works, and so on."""
    with store.open() as ipam:
        network = ipam.network("n", "10.1.0.0/24")
        child = os.fork()
        if not child:
            status = 1
            try:
                network.allocate("refused")
            except fastipam.StoreForked:
                with fastipam.open(store.path) as own:
                    own.network("n", "10.1.0.0/24").allocate("child")
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        network.allocate("parent")
        assert [lease.container_id for lease in network.leases()] == ["child", "parent"]


def _in_a_worker(network: fastipam.Network | None, path: str) -> str:
    """What a worker process can do with its parent's network, else with a store of its own."""
    try:
        if network is not None:
            return str(network.stats())
        with fastipam.open(path) as own:
            return str(own.network("n").allocate("worker").address.ip)
    except fastipam.StoreForked:
        return "forked"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(store: TemporaryStore, method: str) -> None:
    """A worker opens the store itself, whatever the start method; a forked one has to."""
    context = multiprocessing.get_context(method)
    with store.open() as ipam:
        network = ipam.network("n", "10.1.0.0/24")
        network.allocate("parent")
        with context.Pool(1) as pool:
            assert pool.apply(_in_a_worker, (None, str(store.path))) == "10.1.0.3"
        assert [lease.container_id for lease in network.leases()] == ["parent", "worker"]
        if method == "fork":
            answer = context.SimpleQueue()
            child = context.Process(  # type: ignore[attr-defined]  # what it inherits is not pickled
                target=lambda: answer.put(_in_a_worker(network, ""))
            )
            child.start()
            child.join(60)
            assert answer.get() == "forked"


def test_work_can_be_repeated(store: TemporaryStore) -> None:
    """allocate with existing="return" and release are idempotent: a crash in between is mended."""
    with store.open() as ipam:
        network = ipam.network("n", "10.1.0.0/24")
        lease = network.allocate("c1", existing="return")
        assert network.allocate("c1", existing="return").address == lease.address
        assert [str(one) for one in network.release("c1")] == ["10.1.0.2"]
        assert network.release("c1") == []


def test_reconciliation_spares_what_is_younger() -> None:
    """retain frees what is not listed, except leases that were made after the list was."""
    clock = Clock()
    with temporary_store(clock) as store, store.open() as ipam:
        network = ipam.network("n", "10.1.0.0/24")
        network.allocate("lost")
        clock.advance(1)
        listed_ns = clock()
        clock.advance(1)
        network.allocate("young")
        assert [str(one) for one in network.retain(set(), listed_ns)] == ["10.1.0.2"]
        assert [lease.container_id for lease in network.leases()] == ["young"]


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_survive_pickling(name: str) -> None:
    """An error that crosses a process boundary keeps its text, hint and class."""
    error = getattr(fastipam, name)("a text", hint="a hint")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.message, copy.hint) == (type(error), "a text", "a hint")


def test_a_killed_process_keeps_nobody_waiting(store: TemporaryStore, tmp_path: Path) -> None:
    """A process killed inside a transaction: its change is gone, and the next writer goes on."""
    ready = tmp_path / "ready"
    program = (
        "import sys, time, pathlib, fastipam\n"
        "ipam = fastipam.open(sys.argv[1])\n"
        "with ipam.transaction() as txn:\n"
        "    txn.network('n', '10.1.0.0/24').allocate('killed')\n"
        "    pathlib.Path(sys.argv[2]).touch()\n"
        "    time.sleep(600)\n"
    )
    with store.open() as ipam:
        command = [sys.executable, "-c", program, str(store.path), str(ready)]
        process = subprocess.Popen(command)
        try:
            while not ready.exists():
                assert process.poll() is None
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
        network = ipam.network("n", "10.1.0.0/24")
        assert str(network.allocate("next").address.ip) == "10.1.0.2"
        assert network.stats().assigned == 1
