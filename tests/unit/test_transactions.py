"""The block of a transaction: what is in it, what is refused, and how it ends."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

import fastipam
from fastipam import Ipam, Network, Transaction, TransactionOpen, TransactionOver
from fastipam._ledger import OpenFiles
from fastipam.testing import TemporaryStore, temporary_store
from fastipam.verify import verify

SOON_S = 60.0


@pytest.fixture
def store() -> Iterator[TemporaryStore]:
    with temporary_store() as made:
        yield made


@pytest.fixture
def ipam(store: TemporaryStore) -> Iterator[Ipam]:
    with store.open() as opened:
        opened.network("n", "10.1.0.0/24", cooldown_s=0).allocate("first")
        yield opened


@pytest.fixture
def net(ipam: Ipam) -> Network:
    return ipam.network("n")


def owners(net: Network) -> list[str]:
    return [lease.container_id for lease in net.leases()]


def in_thread(call: Callable[[], object]) -> BaseException | None:
    """Call it in another thread; return what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(SOON_S)
    assert not thread.is_alive()
    return raised[0] if raised else None


# What is in a block ---------------------------------------------------------------------------


CHANGES: list[Callable[[Ipam, Network], object]] = [
    lambda _, net: net.allocate("plain"),
    lambda _, net: net.allocate_many([("plain", "eth0")]),
    lambda _, net: net.release("first"),
    lambda _, net: net.release_address("10.1.0.2"),
    lambda _, net: net.retain([("other", "eth0")], time.time_ns() * 2),
    lambda _, net: net.reserve("10.1.0.9"),
    lambda _, net: net.unreserve("10.1.0.9"),
    lambda ipam, _: ipam.transaction().__enter__(),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_plain_change_is_refused(
    ipam: Ipam, net: Network, change: Callable[[Ipam, Network], object]
) -> None:
    """In the thread of a block nothing else changes the store: it would wait for itself."""
    with ipam.transaction() as txn:
        began = time.monotonic()
        with pytest.raises(TransactionOpen, match="open in the store") as caught:
            change(ipam, net)
        assert time.monotonic() - began < 4, "it waited"
        assert "txn.network" in str(caught.value.hint)
        txn.network("n").allocate("block")
    assert owners(net) == ["first", "block"]
    change(ipam, net) if change is not CHANGES[-1] else None


def test_plain_reads_see_the_last_commit(ipam: Ipam, net: Network) -> None:
    with ipam.transaction() as txn:
        inside = txn.network("n")
        lease = inside.allocate("block")
        assert net.lookup(lease.address.ip) is None
        assert owners(net) == ["first"]
        assert inside.lookup(lease.address.ip) == lease
        assert owners(inside) == ["first", "block"]
    assert net.lookup(lease.address.ip) == lease


def test_a_new_network_of_a_block(ipam: Ipam) -> None:
    """A network that a block makes is a network of the store after the commit, and only then."""
    with pytest.raises(KeyError), ipam.transaction() as txn:  # noqa: PT012
        txn.network("new", "10.2.0.0/24").allocate("a")
        assert txn.networks() == ["n", "new"]
        assert ipam.networks() == ["n"]
        raise KeyError
    assert ipam.networks() == ["n"]
    with ipam.transaction() as txn:
        txn.network("new", "10.2.0.0/24").allocate("a")
    assert ipam.networks() == ["n", "new"]


def test_another_store_is_another_matter(ipam: Ipam) -> None:
    """A block of one store does not keep its thread from changing another store."""
    with temporary_store() as other, other.open() as second, ipam.transaction() as txn:
        second.network("m", "10.2.0.0/24").allocate("a")
        txn.network("n").allocate("b")
        with second.transaction() as both:
            both.network("m").allocate("c")
        assert second.network("m").stats().assigned == 2


# Handles that are used too late, or elsewhere --------------------------------------------------


def test_a_handle_that_has_ended(ipam: Ipam, net: Network) -> None:
    with ipam.transaction() as txn:
        inside = txn.network("n")
        leases = inside.leases()
        inside.allocate("block")
    for use in (
        lambda: txn.network("n"),
        txn.networks,
        lambda: inside.allocate("late"),
        inside.stats,
        lambda: list(leases),
        txn.__enter__,
        lambda: txn.__exit__(None, None, None),
    ):
        with pytest.raises(TransactionOver):
            use()
    net.allocate("later")
    assert owners(net) == ["first", "block", "later"]


def test_a_handle_in_another_thread(ipam: Ipam, net: Network) -> None:
    """A block belongs to its thread: another one is refused, and the block is none the worse."""
    with ipam.transaction() as txn:
        inside = txn.network("n")
        for use in (lambda: inside.allocate("other"), inside.stats, txn.networks):
            assert isinstance(in_thread(use), TransactionOver)
        inside.allocate("block")
    assert owners(net) == ["first", "block"]


def block(ipam: Ipam) -> Generator[Transaction]:
    """A generator that keeps a block open."""
    with ipam.transaction() as txn:
        txn.network("n").allocate("generator")
        yield txn


def test_a_generator_keeps_a_block_open(ipam: Ipam, net: Network) -> None:
    """While it stands still, its thread is refused; what it began is rolled back with it."""
    generator = block(ipam)
    next(generator)
    with pytest.raises(TransactionOpen):
        net.allocate("later")
    generator.close()
    net.allocate("later")
    assert owners(net) == ["first", "later"]


def test_a_block_that_another_thread_leaves(ipam: Ipam, net: Network) -> None:
    """Only its own thread can end a block: the next change there does, and rolls it back."""
    generator = block(ipam)
    next(generator)
    assert isinstance(in_thread(generator.close), TransactionOver)
    net.allocate("later")
    assert owners(net) == ["first", "later"]
    assert in_thread(lambda: net.allocate("other")) is None
    assert not verify(ipam.store)


@pytest.mark.parametrize(
    "use",
    [
        lambda _, inside: inside.allocate("told"),
        lambda _, inside: inside.stats(),
        lambda txn, _: txn.network("n"),
        lambda txn, _: txn.networks(),
    ],
)
def test_the_handle_of_a_block_that_another_thread_left(
    ipam: Ipam, net: Network, use: Callable[[Transaction, Network], object]
) -> None:
    """Nothing is told in a block that cannot be committed; its first use ends it."""
    generator = block(ipam)
    txn = next(generator)
    inside = txn.network("n")
    in_thread(generator.close)
    with pytest.raises(TransactionOver):
        use(txn, inside)
    assert in_thread(lambda: net.allocate("other")) is None
    assert owners(net) == ["first", "other"]
    assert not verify(ipam.store)


def test_a_block_that_was_never_entered(ipam: Ipam) -> None:
    with pytest.raises(TransactionOver):
        ipam.transaction().__exit__(None, None, None)


def ends_late() -> None:
    """Let the kernel end this thread a fifth of a second after Python has ended it."""
    libc = ctypes.CDLL(None)
    key = ctypes.c_uint()
    assert libc.pthread_key_create(ctypes.byref(key), libc.usleep) == 0
    assert libc.pthread_setspecific(key, ctypes.c_void_p(200_000)) == 0


@pytest.mark.parametrize("late", [False, True])
def test_a_block_whose_thread_has_ended(ipam: Ipam, net: Network, late: bool) -> None:
    """A thread that ends within a block leaves no lock: the thread that leaves the block ends it.

    A thread that was joined may live a little longer in the kernel, with LMDB's mutex.
    """
    kept: list[Generator[Transaction]] = []

    def begin() -> None:
        if late:
            ends_late()
        kept.append(block(ipam))
        next(kept[0])

    assert in_thread(begin) is None
    with pytest.raises(TransactionOver):
        kept[0].close()
    net.allocate("later")
    assert owners(net) == ["first", "later"]


def test_a_forgotten_block_whose_thread_is_about_to_end(ipam: Ipam, net: Network) -> None:
    kept: list[Transaction] = []

    def begin() -> None:
        ends_late()
        kept.append(ipam.transaction().__enter__())

    assert in_thread(begin) is None
    kept.clear()
    net.allocate("later")
    assert owners(net) == ["first", "later"]
    assert not verify(ipam.store)


def test_a_block_that_nobody_leaves(ipam: Ipam, net: Network) -> None:
    """A handle that was entered by hand, in a thread that ends and forgets it."""
    assert in_thread(lambda: ipam.transaction().__enter__().network("n").allocate("lost")) is None
    net.allocate("later")
    assert owners(net) == ["first", "later"]
    assert not verify(ipam.store)


def test_a_block_in_a_cycle(ipam: Ipam, net: Network) -> None:
    """The garbage collector finds a block, or a reader, that nobody has left in a cycle."""

    def lose() -> None:
        txn = ipam.transaction().__enter__()
        txn.network("n").allocate("lost")
        read = ipam.store.read()
        read.__enter__()
        cycle: list[object] = [txn, read]
        cycle.append(cycle)

    assert in_thread(lose) is None
    gc.collect()
    assert not ipam.store.is_in_use
    net.allocate("later")
    assert owners(net) == ["first", "later"]
    assert not verify(ipam.store)


def test_forked_within_a_block(ipam: Ipam, store: TemporaryStore) -> None:
    """A child has no part in its parent's block, and can open the store itself."""
    with ipam.transaction() as txn:
        inside = txn.network("n")
        inside.allocate("block")
        child = os.fork()
        if not child:
            status = 1
            try:
                for use in (lambda: inside.allocate("child"), txn.networks, inside.stats):
                    with pytest.raises(fastipam.StoreForked):
                        use()
                with fastipam.open(store.path) as own:  # waits for the parent's block
                    assert owners(own.network("n")) == ["first", "block"]
                status = 0
            finally:
                os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert owners(ipam.network("n")) == ["first", "block"]


# Tasks --------------------------------------------------------------------------------------


def test_tasks_cannot_join(ipam: Ipam, net: Network) -> None:
    """A coroutine that waits in a block: another one is refused, and is told no address."""

    async def holder() -> None:
        with ipam.transaction() as txn:
            txn.network("n").allocate("a")
            await asyncio.sleep(0.1)
            raise KeyError

    async def other() -> None:
        await asyncio.sleep(0.05)
        net.allocate("b")

    async def main() -> list[object]:
        return list(await asyncio.gather(holder(), other(), return_exceptions=True))

    assert [type(one) for one in asyncio.run(main())] == [KeyError, TransactionOpen]
    net.allocate("later")
    assert owners(net) == ["first", "later"]


def test_blocks_that_overlap(ipam: Ipam, net: Network) -> None:
    """The second of two blocks on one thread is refused; the first, and the thread, go on."""

    async def hold(name: str, seconds: float) -> None:
        with ipam.transaction() as txn:
            txn.network("n").allocate(name)
            await asyncio.sleep(seconds)

    async def main() -> list[object]:
        both = asyncio.gather(hold("c1", 0.05), hold("c2", 0.1), return_exceptions=True)
        return list(await both)

    assert [type(one) for one in asyncio.run(main())] == [type(None), TransactionOpen]
    net.allocate("later")
    assert owners(net) == ["first", "c1", "later"]


def test_run(ipam: Ipam, net: Network) -> None:
    """A transaction in a worker thread: its result, its error, and the loop goes on meanwhile."""
    threads: list[int] = []
    turns = 0

    def give(txn: Transaction) -> str:
        threads.append(threading.get_ident())
        lease = txn.network("n").allocate("a")
        time.sleep(0.1)
        return lease.cidr

    def fail(txn: Transaction) -> None:
        txn.network("n").allocate("undone")
        raise KeyError

    async def spin() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    async def main() -> str:
        spinning = asyncio.create_task(spin())
        cidr = await ipam.run(give)
        spinning.cancel()
        with pytest.raises(KeyError):
            await ipam.run(fail)
        return cidr

    assert asyncio.run(main()) == "10.1.0.3/24"
    assert threads != [threading.get_ident()]
    assert turns > 2
    assert owners(net) == ["first", "a"]


def test_many_tasks_run(ipam: Ipam, net: Network) -> None:
    """Tasks that run transactions at once: each is told what it has."""

    async def one(name: str) -> str:
        return await ipam.run(lambda txn: str(txn.network("n").allocate(name).address.ip))

    async def main() -> list[str]:
        return list(await asyncio.gather(*(one(f"c{at}") for at in range(40))))

    told = asyncio.run(main())
    assert len(set(told)) == 40
    for at, address in enumerate(told):
        lease = net.lookup(address)
        assert lease is not None
        assert lease.container_id == f"c{at}"


def test_a_task_that_is_cancelled(ipam: Ipam, net: Network) -> None:
    """A task that is cancelled before the commit leaves nothing, and returns when that is so."""
    began, go_on = threading.Event(), threading.Event()

    def give(txn: Transaction) -> None:
        txn.network("n").allocate("cancelled")
        began.set()
        go_on.wait(SOON_S)

    async def main() -> None:
        task = asyncio.create_task(ipam.run(give))
        while not began.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()  # once more: it still waits
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        net.allocate("later")

    asyncio.run(main())
    assert owners(net) == ["first", "later"]


def test_a_function_that_raises_stop_iteration(ipam: Ipam, net: Network) -> None:
    """A future cannot have this exception; the task gets an error that it can have, and ends."""

    def find(txn: Transaction) -> None:
        txn.network("n").allocate("undone")
        next(iter(()))

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration") as caught:
            await asyncio.wait_for(ipam.run(find), SOON_S)
        assert isinstance(caught.value.__cause__, StopIteration)

    ended = in_thread(lambda: asyncio.run(main()))
    assert ended is None
    assert owners(net) == ["first"]


def test_a_task_that_is_cancelled_in_the_queue(ipam: Ipam, net: Network) -> None:
    """Cancelled while it waits for a worker thread, it ends at once, and never runs."""
    go_on = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        before = loop.run_in_executor(None, go_on.wait, SOON_S)
        task = asyncio.create_task(ipam.run(lambda txn: txn.network("n").allocate("never")))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, SOON_S)
        assert not before.done(), "it waited for the one before it"
        go_on.set()
        await before
        assert await ipam.run(lambda txn: txn.networks()) == ["n"]

    asyncio.run(main())
    assert owners(net) == ["first"]


async def _coroutine(txn: Transaction) -> None:
    txn.network("n").allocate("never")


@pytest.mark.parametrize(
    "function", [_coroutine, partial(_coroutine), lambda txn: next(iter([_coroutine(txn)]))]
)
def test_a_coroutine_does_not_run(
    ipam: Ipam, net: Network, function: Callable[[Transaction], object]
) -> None:
    with pytest.raises(fastipam.ConfigError, match="coroutine function") as caught:
        asyncio.run(ipam.run(function))
    assert caught.value.field == "function"
    assert owners(net) == ["first"]


def test_what_is_no_function_does_not_run(ipam: Ipam, net: Network) -> None:
    with ipam.transaction() as txn:
        called = _coroutine(txn)
    for wrong in (called, None, "attach"):
        with pytest.raises(fastipam.ConfigError, match="must be a function") as caught:
            asyncio.run(ipam.run(wrong))  # type: ignore[arg-type]
        assert caught.value.field == "function"
        assert caught.value.value is wrong
    assert owners(net) == ["first"]


# Signals ------------------------------------------------------------------------------------


# A handler changes the store: while its thread is in a block, in a call, and waits for the lock.
HANDLER = """
import signal, sys, time, fastipam
ipam = fastipam.open(sys.argv[1], "relaxed")
net = ipam.network("n")
seen = {"refused": 0, "done": 0}
def handler(*_):
    began = time.monotonic()
    try:
        net.release("handler")
        net.allocate("handler", existing="return")
        seen["done"] += 1
    except fastipam.TransactionOpen:
        seen["refused"] += 1
    assert time.monotonic() - began < 5
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
end = time.monotonic() + 2
while time.monotonic() < end:
    net.allocate("call", existing="return")
    with ipam.transaction() as txn:
        inside = txn.network("n")
        inside.release("call")
        sum(range(2000))
        inside.allocate("call")
signal.setitimer(signal.ITIMER_REAL, 0)
print("ready", flush=True)
sys.stdin.readline()  # the parent holds the lock now
signal.setitimer(signal.ITIMER_REAL, 0.1)
before = seen["refused"]
net.allocate("waited")
assert seen["refused"] == before + 1, seen
assert seen["refused"] and seen["done"], seen
"""


def test_a_handler_that_changes_the_store(ipam: Ipam, store: TemporaryStore, net: Network) -> None:
    """It is refused while its thread is in a transaction or waits for one, and served otherwise."""
    with subprocess.Popen(
        [sys.executable, "-c", HANDLER, str(store.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        with ipam.transaction():
            process.stdin.write("\n")
            process.stdin.flush()
            time.sleep(0.5)
        assert process.wait(SOON_S) == 0
    assert sorted(owners(net)) == ["call", "first", "handler", "waited"]
    assert not verify(ipam.store)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_block_that_is_interrupted(ipam: Ipam, net: Network) -> None:
    """An alarm that raises at any moment of a block leaves no lock."""

    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    rung = 0
    try:
        for at in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00002 + at % 10 * 0.00002)
                with ipam.transaction() as txn:
                    txn.network("n").allocate(f"c{at}")
                    raise KeyError
            except KeyError:
                pass
            except Alarm:
                rung += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    except Alarm:
        rung += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rung
    assert in_thread(lambda: net.allocate("other")) is None
    net.allocate("later")
    assert owners(net) == ["first", "other", "later"]


# Closing ------------------------------------------------------------------------------------


def test_closed_is_closed(store: TemporaryStore, net: Network) -> None:
    """A closed Ipam and its networks serve nobody, whoever else has the store open."""
    other = store.open()
    closed = other.network("n")
    leases = closed.leases()
    waiting = other.transaction()

    def enter(block: Transaction) -> None:
        with block:
            block.network("n")

    other.close()
    other.close()
    assert "closed" in repr(other)
    for use in (
        lambda: closed.allocate("late"),
        closed.stats,
        lambda: next(leases),
        lambda: other.network("n"),
        lambda: other.network("m", "10.2.0.0/24"),
        other.networks,
        other.transaction,
        lambda: enter(waiting),
        lambda: asyncio.run(other.run(lambda txn: txn.networks())),
    ):
        with pytest.raises(fastipam.StoreClosed):
            use()
    net.allocate("later")
    assert owners(net) == ["first", "later"]


def test_closed_within_a_block(store: TemporaryStore, net: Network) -> None:
    """A block of a store that is closed meanwhile is rolled back, and says so."""
    other = store.open()

    def work() -> None:
        with other.transaction() as txn:
            inside = txn.network("n")
            inside.allocate("lost")
            other.close()
            with pytest.raises(fastipam.StoreClosed):
                inside.allocate("more")

    with pytest.raises(fastipam.StoreClosed):
        work()
    net.allocate("later")
    assert owners(net) == ["first", "later"]


def test_closed_under_threads(store: TemporaryStore, net: Network) -> None:
    """Threads in calls get StoreClosed or what they asked for: no address is told and lost."""
    other = store.open()
    mine = other.network("n", "10.1.0.0/16", cooldown_s=0)
    told: list[tuple[str, str]] = []
    raised: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for at in range(10_000):
                lease = mine.allocate(f"{name}-{at}")
                told.append((f"{name}-{at}", lease.cidr))
                if at % 2:
                    mine.release(f"{name}-{at}")
                    told.pop()
                    told[:] = [one for one in told if one[0] != f"{name}-{at}"]
        except fastipam.FastipamError as error:
            raised.append(error)

    threads = [threading.Thread(target=work, args=[f"t{at}"]) for at in range(1)]
    for thread in threads:
        thread.start()
    while len(told) < 20:
        time.sleep(0.001)
    other.close()
    for thread in threads:
        thread.join(SOON_S)
    assert [type(error) for error in raised] == [fastipam.StoreClosed]
    have = {(lease.container_id, lease.cidr) for lease in net.leases()}
    assert set(told) <= have


class SlowEnvironment:
    """LMDB's environment, which takes its time to close."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.closes = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def close(self) -> None:
        self.closes.set()
        time.sleep(0.2)
        self._real.close()


def test_opened_while_another_thread_closes_it(store: TemporaryStore) -> None:
    """The last block of a closed store closes its files; who opens it meanwhile waits for that."""
    opened = store.open()
    opened.network("n", "10.1.0.0/24").allocate("first")
    files = opened.store.files
    assert files is not None
    slow = SlowEnvironment(files.env)
    paths = [os.fsencode(store.path / name) for name in ("data.mdb", "lock.mdb")]
    opened.store.files = OpenFiles(slow, files.databases, files.lock, paths[0], paths[1])

    def work() -> None:
        with pytest.raises(fastipam.StoreClosed), opened.transaction():
            opened.close()

    thread = threading.Thread(target=work)
    thread.start()
    assert slow.closes.wait(SOON_S)
    with store.open() as again:
        assert owners(again.network("n")) == ["first"]
    thread.join(SOON_S)


def test_a_child_closes_what_it_has_inherited(ipam: Ipam, store: TemporaryStore) -> None:
    """A thread of the parent was in a call at the fork: the child opens the store all the same."""
    in_call, go_on = threading.Event(), threading.Event()

    def read() -> None:
        with ipam.store.read():
            in_call.set()
            go_on.wait(SOON_S)

    thread = threading.Thread(target=read)
    thread.start()
    assert in_call.wait(SOON_S)
    child = os.fork()
    if not child:
        status = 1
        try:
            ipam.close()
            with fastipam.open(store.path) as own:
                own.network("n").allocate("child")
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    go_on.set()
    thread.join(SOON_S)
    assert owners(ipam.network("n")) == ["first", "child"]


AT_EXIT = """
import atexit, sys, fastipam
ipam = fastipam.open(sys.argv[1])
net = ipam.network("n")
class Late:
    def __del__(self):
        net.allocate("deleted")
def leave():
    assert net.stats().assigned == 2
    with ipam.transaction() as txn:
        txn.network("n").allocate("block")
    net.allocate("exit")
atexit.register(leave)
late = Late()
del late
with ipam.transaction() as txn:
    late = Late()
    del late  # refused: the message goes to standard error
block = ipam.transaction().__enter__() if len(sys.argv) > 2 else None
if block: atexit.unregister(leave)
"""


@pytest.mark.parametrize("left_open", [[], ["open"]])
def test_at_the_end_of_the_program(
    store: TemporaryStore, net: Network, left_open: list[str]
) -> None:
    """``atexit`` and ``__del__`` use the store; a block that is open at the end is rolled back."""
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT, str(store.path), *left_open],
        capture_output=True,
        text=True,
        check=True,
        timeout=SOON_S,
    )
    assert done.stderr.count("TransactionOpen") == 1
    wanted = ["first", "deleted"] if left_open else ["first", "deleted", "block", "exit"]
    assert owners(net) == wanted
    net.allocate("later")
    assert not verify(store.open().store)


# Networks, and how a store is opened ------------------------------------------------------------


def test_an_unknown_network(ipam: Ipam) -> None:
    """A network that the store does not have needs its ranges; the error names those it has."""
    with pytest.raises(fastipam.UnknownNetwork, match="no network 'm'; it has 'n'") as caught:
        ipam.network("m")
    assert (caught.value.field, caught.value.value) == ("name", "m")
    assert "DEFAULT_RANGE" in str(caught.value.hint)
    with ipam.transaction() as txn, pytest.raises(fastipam.UnknownNetwork):
        txn.network("m", cooldown_s=5)
    ipam.network("m", "10.2.0.0/24")
    assert ipam.network("m").allocate("a").cidr == "10.2.0.2/24"
    for at in range(20):
        ipam.network(f"net{at}", "10.3.0.0/24").allocate("a")
    with pytest.raises(fastipam.UnknownNetwork, match=r"'n', 'net0', .* and 14 more$"):
        ipam.network("unknown")


@pytest.mark.parametrize("exclude", ["10.1.0.3", b"10.1.0.3", None, 3])
def test_exclusions_of_the_wrong_shape(ipam: Ipam, exclude: object) -> None:
    with pytest.raises(fastipam.ConfigError, match="not a list of strings") as caught:
        ipam.network("n", exclude=exclude)  # type: ignore[arg-type]
    assert caught.value.field == "exclude"


@pytest.mark.parametrize(
    ("arguments", "options", "field"),
    [
        ([""], {}, "path"),
        ([None], {}, "path"),
        ([3], {}, "path"),
        ([b"store"], {}, "path"),
        (["store", "fast"], {}, "durability"),
        (["store"], {"patience_s": -1}, "patience_s"),
        (["store"], {"patience_s": "8"}, "patience_s"),
        (["store"], {"patience_s": True}, "patience_s"),
        (["store"], {"patience_s": float("nan")}, "patience_s"),
    ],
)
def test_open_with_what_it_does_not_take(
    tmp_path: object,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[object],
    options: dict[str, object],
    field: str,
) -> None:
    """The error names the argument and the value, and no directory is made."""
    monkeypatch.chdir(str(tmp_path))
    with pytest.raises(fastipam.ConfigError) as caught:
        fastipam.open(*arguments, **options)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert os.listdir(".") == []


def test_descriptors_are_not_inherited(ipam: Ipam, store: TemporaryStore) -> None:
    """A program that is started while a store is open gets none of its files."""
    with ipam.transaction():
        code = "import os\nfor one in os.listdir('/proc/self/fd'):\n"
        code += "  try: print(os.readlink(f'/proc/self/fd/{one}'))\n  except OSError: pass\n"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            close_fds=False,
            check=True,
            timeout=SOON_S,
        )
    assert str(store.path) not in done.stdout
    assert "/dev/null" in done.stdout or "pipe:" in done.stdout


def test_a_network_stays_as_it_was_named(ipam: Ipam, store: TemporaryStore) -> None:
    """By its name alone a network has the ranges and the policy that this program gave it."""
    ipam.network("m", "10.2.0.0/24", cooldown_s=0, sticky_s=7)
    with ipam.transaction() as txn:
        assert txn.network("m").policy.sticky_s == 7
        txn.network("m").allocate("a")
        assert txn.network("m", cooldown_s=3).policy.cooldown_ns == 3 * 10**9
    ipam.network("m").release("a")
    assert ipam.network("m").stats().cooling == 0
    with store.open() as other:
        assert other.network("m").policy.sticky_s == 7, "the policy of the last assignment"


def test_two_policies_of_a_network_in_a_block(ipam: Ipam, store: TemporaryStore) -> None:
    """The store remembers that of the last assignment, also when it is the first one again."""
    long = ipam.network("n", "10.1.0.0/24", cooldown_s=90)
    short = ipam.network("n", "10.1.0.0/24", cooldown_s=7)
    with ipam.transaction() as txn:
        for number, each in enumerate((long, short, long)):
            each.within(txn).allocate(f"c{number}")
            txn._check()
    with store.open() as again:
        assert again.network("n").policy.cooldown_ns == 90_000_000_000


def test_left_open_by_a_thread_that_ended(store: TemporaryStore, net: Network) -> None:
    """Nobody has the block any more: it is rolled back, and a close does not wait for it."""

    def scene() -> None:
        other = store.open()
        kept: list[object] = [other]

        def work() -> None:
            block = other.transaction()
            block.__enter__().network("n").allocate("lost")
            kept.append(block)

        assert in_thread(work) is None
        kept.append(kept)  # a cycle: the garbage collector finds the block
        other.close()

    scene()
    gc.collect()
    net.allocate("later")
    assert owners(net) == ["first", "later"]
