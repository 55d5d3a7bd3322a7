"""The writers' lock: signals, threads, forks, processes that die or are stopped, and its bound."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest

import fastipam
from fastipam._ledger import WriterLock
from fastipam.backup import backup
from fastipam.storage import tables
from fastipam.storage.open_stores import close_store, open_store
from fastipam.testing import TemporaryStore, temporary_store

PATIENCE_S = 0.2  # for tests in which it is exceeded
SOON_S = 20  # for what happens in milliseconds; only a failure waits so long


@pytest.fixture
def store() -> Iterator[TemporaryStore]:
    """A store of the test's own, with a network."""
    with temporary_store() as made:
        with made.open() as ipam:
            ipam.network("n", "10.1.0.0/16", cooldown_s=0).allocate("first")
        yield made


# A process that takes the lock, says so, and keeps it until its standard input is closed.
HOLDER = """
import sys, fastipam
with fastipam.open(sys.argv[1]) as ipam, ipam.transaction():
    print("has it", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(store: TemporaryStore) -> Iterator[subprocess.Popen[str]]:
    """Let another process have the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "has it\n"
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def run(code: str, *arguments: object) -> str:
    """Run a program, and return what it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Signals -------------------------------------------------------------------------------------

# Calls are interrupted at random instructions by a handler that raises, as a timeout does.
INTERRUPTED = """
import random, signal, sys
import fastipam
from fastipam.verify import verify

class Alarm(Exception):
    pass

def ring(*_):
    if armed:
        raise Alarm

armed = False
signal.signal(signal.SIGALRM, ring)
chance = random.Random(1)
ipam = fastipam.open(sys.argv[1])
net = ipam.network("n")
held, raised, number = [], 0, 0
while raised < int(sys.argv[2]):
    number += 1
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 4e-4))
        if len(held) > 500 or held and chance.random() < 0.5:
            net.release(held.pop())
        elif chance.random() < 0.2:
            with ipam.transaction() as txn:
                txn.network("n").allocate(f"c{number}")
        elif chance.random() < 0.2:
            list(net.leases())
        else:
            net.allocate(f"c{number}")
            held.append(f"c{number}")
        armed = False
    except Alarm as error:
        armed = False
        kept = error  # its traceback keeps the frames of the call
        raised += 1
        net.allocate(f"after{number}")
        net.release(f"after{number}")
    signal.setitimer(signal.ITIMER_REAL, 0)
print(raised, [str(one) for one in verify(ipam.store)])
"""


def test_a_handler_that_raises_leaves_no_lock(store: TemporaryStore) -> None:
    """After each of 1,000 interrupted calls this thread writes; then another process does."""
    assert run(INTERRUPTED, store.path, 1000) == "1000 []\n"
    with fastipam.open(store.path) as ipam:
        ipam.network("n").allocate("another process")


def test_a_waiter_can_be_interrupted(store: TemporaryStore) -> None:
    """A handler runs while the main thread waits; what it raises ends the wait, and no more."""

    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with store.open() as ipam, holding(store) as holder:
            network = ipam.network("n")
            for _ in range(3):
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                with pytest.raises(Alarm):
                    network.allocate("interrupted")
            holder.communicate("")
            assert network._owned("interrupted", "eth0") == []
            network.allocate("served")
    finally:
        signal.signal(signal.SIGALRM, before)


# The bound -----------------------------------------------------------------------------------


def test_a_stopped_holder_is_named(store: TemporaryStore) -> None:
    """Who waits too long gets StoreBusy, which names the process and says that it is stopped."""
    with fastipam.open(store.path, patience_s=PATIENCE_S) as ipam, holding(store) as holder:
        holder.send_signal(signal.SIGSTOP)
        network = ipam.network("n")
        for _ in range(2):  # the second call asks the kernel anew
            with pytest.raises(fastipam.StoreBusy, match=rf"process {holder.pid} .*stopped"):
                network.allocate("late")
        assert network.stats().assigned == 1  # a reader waits for nobody
        holder.send_signal(signal.SIGCONT)
        holder.communicate("")
        network.allocate("late")


def test_who_gives_up_leaves_one_thread(store: TemporaryStore) -> None:
    """A helper that waits in the kernel serves the next call: a stopped holder costs one thread."""

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    before = threads()
    with fastipam.open(store.path, patience_s=0.02) as ipam, holding(store) as holder:
        network = ipam.network("n")
        for _ in range(20):
            with pytest.raises(fastipam.StoreBusy):
                network.allocate("late")
            with pytest.raises(TimeoutError), WriterLock(str(store.path / "data.mdb"), 0.02):
                pass
        assert threads() <= before + 1
        holder.communicate("")
        network.allocate("served")


def test_who_does_not_wait_leaves_nothing(store: TemporaryStore) -> None:
    """Without patience the lock is free at once when its holder has released it."""
    lock = WriterLock(str(store.path / "data.mdb"), 0.0)
    before = os.listdir("/proc/self/task")
    with holding(store) as holder:
        for _ in range(20):
            with pytest.raises(TimeoutError), lock:
                pass
        assert os.listdir("/proc/self/task") == before
        holder.communicate("")
    with lock:
        pass


def test_a_helper_of_replaced_files(store: TemporaryStore) -> None:
    """The holder of files that were replaced is still stopped: the new files are free."""
    copy = store.path.with_name("copy")
    shutil.copytree(store.path, copy)
    with fastipam.open(store.path, patience_s=0.1) as ipam, holding(store):
        network = ipam.network("n")
        for _ in range(2):
            with pytest.raises(fastipam.StoreBusy):
                network.allocate("late")
        for path in copy.iterdir():
            path.replace(store.path / path.name)
        network.allocate("served")
        assert network.stats().assigned == 2


def test_threads_that_open_a_held_store(store: TemporaryStore) -> None:
    """Threads that open one store wait together for its writer, and not one after the other."""
    errors = []
    began = threading.Barrier(6)

    def open_it() -> None:
        began.wait()
        try:
            fastipam.open(store.path, patience_s=2.0).close()
        except fastipam.StoreBusy as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    with holding(store):
        since = time.monotonic()
        for each in threads:
            each.start()
        for each in threads:
            each.join(60)
        took_s = time.monotonic() - since
    assert len(errors) == 6
    assert took_s < 7, "it would be 12 s one after the other"
    fastipam.open(store.path).close()


def test_threads_that_open_a_replaced_store(store: TemporaryStore) -> None:
    """Threads of a store whose files were replaced wait together for the writer of the new ones."""
    copy = store.path.with_name("copy")
    shutil.copytree(store.path, copy)
    told: list[BaseException] = []

    def call() -> None:
        try:
            network.allocate("late")
        except fastipam.FastipamError as error:
            told.append(error)

    with fastipam.open(store.path, patience_s=1.0) as ipam:
        network = ipam.network("n")
        for path in copy.iterdir():
            path.replace(store.path / path.name)
        threads = [threading.Thread(target=call) for _ in range(6)]
        with holding(store):
            since = time.monotonic()
            for each in threads:
                each.start()
            for each in threads:
                each.join(SOON_S)
            took_s = time.monotonic() - since
        assert len(told) == 6
        assert took_s < 4, "it would be 6 s one after the other"
        network.allocate("served")


def test_who_opens_waits_once(store: TemporaryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opens a store keeps the lock until it is open: it does not wait for a second turn."""
    opened = []
    whole = lmdb.open

    def look(path: str, **options: Any) -> Any:
        opened.append(WriterLock(str(store.path / "data.mdb")).is_free())
        return whole(path, **options)

    monkeypatch.setattr(lmdb, "open", look)
    store.open().close()
    assert opened
    assert not any(opened)


def test_a_thread_that_keeps_it_is_named(store: TemporaryStore) -> None:
    """The holder is another thread of the process: the error says so."""
    with fastipam.open(store.path, patience_s=PATIENCE_S) as ipam:
        network = ipam.network("n")
        caught: list[BaseException] = []

        def call() -> None:
            try:
                network.allocate("late")
            except fastipam.FastipamError as error:
                caught.append(error)

        with ipam.transaction():
            thread = threading.Thread(target=call)
            thread.start()
            thread.join(SOON_S)
        assert "thread of this process" in str(caught[0])
        network.allocate("late")


# Threads and processes -----------------------------------------------------------------------


def test_threads_are_served_in_order(store: TemporaryStore) -> None:
    """Threads that wait for the lock get it in the order in which they came."""
    with store.open() as ipam:
        served: list[int] = []

        def call(number: int) -> None:
            with ipam.transaction() as txn:
                served.append(number)
                txn.network("n").allocate(f"c{number}")

        threads = [threading.Thread(target=call, args=[number]) for number in range(5)]
        with ipam.transaction():
            for thread in threads:
                thread.start()
                _until(partial(_is_waiting, thread))
        for thread in threads:
            thread.join(SOON_S)
        assert served == [0, 1, 2, 3, 4]


def _is_waiting(thread: threading.Thread) -> bool:
    """Return whether a thread sleeps in the kernel, waiting for a futex."""
    try:
        text = Path(f"/proc/self/task/{thread.native_id}/syscall").read_text()
    except FileNotFoundError:
        return False
    # The lock's futex has a timeout; the one by which a thread waits for the interpreter has
    # 5 ms, again and again, so it is looked at twice.
    time.sleep(0.02)
    return (
        text.startswith("202 ")
        and text == Path(f"/proc/self/task/{thread.native_id}/syscall").read_text()
    )


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < end, "it has not happened"


TWO_STORES = """
import sys, threading, fastipam

def work(path, name):
    net = fastipam.open(path).network("n", "10.0.0.0/16", cooldown_s=0)
    try:
        for number in range(300):
            net.allocate(f"{name}-{number}")
            net.release(f"{name}-{number}")
    except Exception as error:
        print(repr(error), repr(error.__cause__))

threads = [threading.Thread(target=work, args=[path, sys.argv[1]]) for path in sys.argv[2:]]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_two_stores_in_two_processes(tmp_path: Path) -> None:
    """Two processes with a thread for each of two stores: no call fails for a deadlock."""
    paths = [str(tmp_path / name) for name in "ab"]
    for path in paths:
        fastipam.open(path, durability="relaxed").close()
    command = [sys.executable, "-c", TWO_STORES]
    started = [
        subprocess.Popen([*command, name, *paths], stdout=subprocess.PIPE, text=True)
        for name in "xy"
    ]
    assert [process.communicate(timeout=120)[0] for process in started] == ["", ""]


def test_a_store_does_not_wait_for_another(store: TemporaryStore, tmp_path: Path) -> None:
    """While a thread waits for the lock of one store, other threads use another store."""
    with (
        store.open() as ipam,
        fastipam.open(tmp_path / "other", "relaxed") as other,
        holding(store) as holder,
    ):
        thread = threading.Thread(target=ipam.network("n").allocate, args=["waits"])
        thread.start()
        _until(lambda: _is_waiting(thread))
        other.network("n", "10.2.0.0/24").allocate("at once")
        assert thread.is_alive()
        holder.communicate("")
        thread.join(SOON_S)
        assert ipam.network("n").stats().assigned == 2


# Forks ---------------------------------------------------------------------------------------

# A process forks inside a transaction, says which child it made, and waits to be killed.
FORKS = """
import ctypes, os, sys, fastipam
fork = os.fork if sys.argv[2] == "os" else ctypes.CDLL(None).fork
with fastipam.open(sys.argv[1]) as ipam, ipam.transaction():
    child = fork()
    if child:
        print(child, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("way", ["os", "libc"])
def test_a_child_does_not_keep_it(store: TemporaryStore, way: str) -> None:
    """The lock of a process that is killed is free, although a forked child of it lives on."""
    with (
        subprocess.Popen(
            [sys.executable, "-c", FORKS, str(store.path), way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
        fastipam.open(store.path) as ipam,
    ):
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            process.kill()
            ipam.network("n").allocate("served")
            os.kill(child, 0)  # it lives
        finally:
            os.kill(child, signal.SIGKILL)


def test_children_of_a_busy_program(store: TemporaryStore) -> None:
    """While threads write, read, and open other stores, every forked child can open the store."""
    stop = threading.Event()
    with store.open() as ipam:
        network = ipam.network("n")

        def write() -> None:
            while not stop.is_set():
                network.allocate("w")
                network.release("w")

        def read() -> None:
            while not stop.is_set():
                list(network.leases())

        def open_others() -> None:
            while not stop.is_set():
                fastipam.open(store.path.parent / f"{store.path.name}-other", "relaxed").close()

        threads = [threading.Thread(target=work) for work in (write, read, open_others)]
        for thread in threads:
            thread.start()
        try:
            ends = [_in_child(lambda: _open_anew(store)) for _ in range(30)]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert ends == [0] * 30


def _open_anew(store: TemporaryStore) -> None:
    with fastipam.open(store.path) as own:
        own.network("n").allocate("child", existing="return")


def _in_child(call: Callable[[], None]) -> int:
    """Call it in a forked child, and return the child's exit status; -14 when it hangs."""
    child = os.fork()
    if not child:
        signal.alarm(SOON_S)
        try:
            call()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_made_within_an_iteration(store: TemporaryStore) -> None:
    """A child that is forked while its own thread iterates, or has a transaction, opens the store.

    It drops what it has of the parent's, and its interpreter ends in order.
    """
    with store.open() as ipam:
        network = ipam.network("n")
        network.allocate("second")

        def call() -> None:
            with pytest.raises(fastipam.StoreForked):
                network.stats()
            with fastipam.open(store.path) as own:
                own.network("n").stats()

        leases = network.leases()
        next(leases)
        assert _in_child(call) == 0
        assert next(leases).container_id == "second"
    code = (
        "import os, sys, fastipam\n"
        "ipam = fastipam.open(sys.argv[1])\n"
        "leases = ipam.network('n').leases()\n"
        "next(leases)\n"
        "child = os.fork()\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "sys.exit(fastipam.open(sys.argv[1]).network('n').stats().assigned != 2)\n"
    )
    run(code, store.path)


# Files that are replaced, and the end of a store -----------------------------------------------


@pytest.mark.parametrize("name", ["lock.mdb", "turn.lock"])
def test_a_lock_file_that_was_removed(store: TemporaryStore, name: str) -> None:
    """A program opens the store anew when a lock file was removed: no address is given twice."""
    with store.open() as ipam:
        network = ipam.network("n")
        given = [network.allocate("before").address]
        (store.path / name).unlink()
        code = (
            "import sys, fastipam\n"
            "with fastipam.open(sys.argv[1]) as ipam:\n"
            "    print(ipam.network('n').allocate(sys.argv[2]).address)\n"
        )
        others = [run(code, store.path, "other-1").strip()]
        given.append(network.allocate("after").address)
        assert ipam.store.is_current()
        others.append(run(code, store.path, "other-2").strip())
        assert len({*map(str, given), *others}) == 4
        assert network.stats().assigned == 5


def replace_files(store: TemporaryStore, *names: str) -> None:
    """Put equal files in the place of files of the store."""
    for name in names:
        copy = store.path.with_name("copy")
        shutil.copyfile(store.path / name, copy)
        copy.replace(store.path / name)


@pytest.mark.parametrize("names", [("lock.mdb",), ("turn.lock",), ("lock.mdb", "turn.lock")])
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_lock_files_that_go_below_a_writer(
    store: TemporaryStore, names: tuple[str, ...], how: str
) -> None:
    """Who is in a transaction excludes the others, and nobody waits longer than its patience."""
    code = (
        "import sys, fastipam\n"
        "try:\n"
        "    with fastipam.open(sys.argv[1], patience_s=0.2) as ipam:\n"
        "        print(ipam.network('n').allocate('other').address)\n"
        "except fastipam.StoreBusy as error: print(error)\n"
    )
    with store.open() as ipam:
        network = ipam.network("n")
        with ipam.transaction() as txn:
            mine = txn.network("n").allocate("mine").address
            if how == "removed":
                for name in names:
                    (store.path / name).unlink()
            else:
                replace_files(store, *names)
            assert f"process {os.getpid()} " in run(code, store.path)
        theirs = run(code, store.path).strip()
        assert theirs != str(mine)
        assert {lease.container_id for lease in network.leases()} == {"first", "mine", "other"}


@pytest.mark.parametrize("names", [("data.mdb",), ("data.mdb", "lock.mdb", "turn.lock")])
def test_files_that_are_replaced_below_a_writer(
    store: TemporaryStore, names: tuple[str, ...]
) -> None:
    """What would be committed to files that are no store's any more is an error, and no answer."""
    code = (
        "import sys, fastipam\n"
        "with fastipam.open(sys.argv[1]) as ipam:\n"
        "    print(ipam.network('n').allocate('other').address)\n"
    )
    with store.open() as ipam:
        network = ipam.network("n")
        transaction = ipam.transaction()
        transaction.__enter__()
        transaction.network("n").allocate("mine")
        replace_files(store, *names)
        theirs = run(code, store.path).strip()
        with pytest.raises(fastipam.StoreBusy, match="replaced or moved away during this call"):
            transaction.__exit__(None, None, None)
        assert str(network.allocate("mine").address) != theirs
        assert {lease.container_id for lease in network.leases()} == {"first", "mine", "other"}


def test_the_lock_of_replaced_files(store: TemporaryStore) -> None:
    """Whether a writer can begin at once is asked of the files under the path, not of old ones."""
    with store.open() as ipam:
        assert ipam.store.is_writable_at_once
        replace_files(store, "data.mdb")
        with holding(store) as holder:
            assert not ipam.store.is_writable_at_once
            holder.communicate("")
        assert ipam.store.is_writable_at_once


def test_a_restored_store_under_a_program(store: TemporaryStore) -> None:
    """The files were moved away and a backup restored: the program works on with the new ones."""
    with store.open() as ipam:
        network = ipam.network("n")
        moved = store.path.parent / "moved"
        moved.mkdir()
        backup(ipam.store, moved / "b.mdb")
        network.allocate("after the backup")
        for name in ("data.mdb", "lock.mdb"):
            (store.path / name).rename(moved / name)
        with pytest.raises(fastipam.StoreUnavailable, match=r"data\.mdb no longer exists"):
            network.allocate("nowhere")
        with pytest.raises(fastipam.StoreUnavailable, match=r"data\.mdb no longer exists"):
            network.stats()
        code = (
            "import sys, fastipam\n"
            "from fastipam.backup import restore\n"
            "with fastipam.open(sys.argv[1], 'relaxed') as ipam: restore(ipam.store, sys.argv[2])\n"
        )
        run(code, store.path, moved / "b.mdb")
        assert network.stats().assigned == 1
        network.allocate("in the new file")
        assert fastipam.open(store.path).store is ipam.store
        fastipam.open(store.path).close()


def test_close_while_threads_call(store: TemporaryStore) -> None:
    """Threads in calls get StoreClosed when another thread closes the store, and nothing else."""
    seen: list[BaseException] = []
    ipam = store.open()
    network = ipam.network("n")

    def work(name: str) -> None:
        try:
            while True:
                network.allocate(name)
                list(network.leases())
                network.release(name)
        except BaseException as error:
            seen.append(error)

    threads = [threading.Thread(target=work, args=[f"t{at}"]) for at in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    ipam.close()
    for thread in threads:
        thread.join(SOON_S)
    assert [type(error) for error in seen] == [fastipam.StoreClosed] * 4
    with store.open() as again:
        again.network("n").allocate("again")


def test_a_store_closed_below_a_reader(store: TemporaryStore) -> None:
    """An open read transaction keeps the files open; the store can be opened again meanwhile."""
    first = store.open()
    held = first.store
    with held.read() as txn:
        first.close()
        again = open_store(store.path)
        assert again is held
        close_store(again)
        assert tables.NETWORKS.count(txn) == 1
    with pytest.raises(fastipam.StoreClosed):
        first.networks()


# A program that reads, and one that opens the store, each as process 1 of a namespace of its own.
READS = """
import sys, fastipam
ipam = fastipam.open(sys.argv[1])
with ipam.store.read():
    print("reads", flush=True)
    sys.stdin.read()
"""
OPENS = """
import sys, fastipam
try:
    fastipam.open(sys.argv[1])
except fastipam.StoreBusy as error:
    print(error, error.hint)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="process namespaces need root")
def test_two_programs_that_are_process_1(store: TemporaryStore) -> None:
    """Two programs cannot share a store as process 1 of two namespaces; the error says so."""
    first = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c"]
    with subprocess.Popen(
        [*first, READS, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reads\n"
        done = subprocess.run(
            [*first, OPENS, str(store.path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        reader.communicate("")
    assert "another program whose process id is 1, too" in done.stdout
    assert "--pid=host" in done.stdout


@pytest.mark.parametrize("what", ["renewal", "opening"])
def test_a_newcomer_does_not_overtake(store: TemporaryStore, what: str) -> None:
    """Threads that open a held store, one after the other: each waits for its own time only."""
    patience_s = 1.0
    waited: list[float] = []
    ipam = fastipam.open(store.path, patience_s=patience_s)
    network = ipam.network("n")

    def use() -> None:
        if what == "renewal":
            network.allocate("late")
        else:
            fastipam.open(store.path, patience_s=patience_s)

    def call() -> None:
        began = time.monotonic()
        with pytest.raises(fastipam.StoreBusy):
            use()
        waited.append(time.monotonic() - began)

    if what == "opening":
        ipam.close()
    else:
        replace_files(store, "data.mdb", "lock.mdb")
    threads = []
    with holding(store):
        for _ in range(8):  # some begin just when the first one has given up
            thread = threading.Thread(target=call)
            thread.start()
            threads.append(thread)
            time.sleep(patience_s / 4)
        for thread in threads:
            thread.join(SOON_S)
    ipam.close()
    assert len(waited) == 8
    assert max(waited) < 1.9 * patience_s, "one waited for another one's time, too"
