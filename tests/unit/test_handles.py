"""Blocks, threads, generators, tasks, forks and closed stores in any order, against a model.

The model knows who has a block open, what it has changed, and what is committed. It says of every
call whether it is served, refused, or has to give up waiting. An address that was told is the
owner's until it is released, no address has two owners, and every thread works on afterwards.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import fastipam
from fastipam import Ipam, Network, Transaction
from fastipam.verify import verify

Result = TypeVar("Result")

RANGES = "10.0.0.0/27"
OWNERS = st.sampled_from([f"c{at}" for at in range(6)])
THREADS = st.sampled_from(["main", "worker"])
PATIENCE_S = 0.02


def block(ipam: Ipam) -> Generator[Transaction, bool]:
    """Keep a block open until it is told how to end it: True commits, False fails."""
    with ipam.transaction() as txn:
        if not (yield txn):
            raise KeyError


class HandleMachine(RuleBasedStateMachine):
    """One network, one main thread, one worker, and a second Ipam that keeps the store open."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(
            tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", 2) else None)
        )
        self.worker = ThreadPoolExecutor(1)
        self.witness = self.opened()
        self.watched = self.witness.network("n", RANGES, cooldown_s=0)
        self.committed: dict[str, str] = {}
        self.pending: dict[str, str] = {}
        self.holder = ""  # the thread that has a block open
        self.left = False  # and another thread has left it
        self.generator: Generator[Transaction, bool] | None = None
        self.handle: Transaction | None = None
        self.inside: Network | None = None
        self.over: list[tuple[Transaction, Network]] = []
        self.closed: list[tuple[Ipam, Network]] = []
        self.begin_anew()

    def opened(self) -> Ipam:
        return fastipam.open(self.directory / "store", "relaxed", patience_s=PATIENCE_S)

    def begin_anew(self) -> None:
        self.ipam = self.opened()
        self.net = self.ipam.network("n", RANGES, cooldown_s=0)

    def teardown(self) -> None:
        if self.holder:
            self.at(self.holder, lambda: self.end_block(commit=False))
        self.worker.shutdown()
        assert not verify(self.witness.store)
        self.ipam.close()
        self.witness.close()
        shutil.rmtree(self.directory)

    def at(self, thread: str, call: Callable[[], Result]) -> Result:
        """Make a call in a thread."""
        return call() if thread == "main" else self.worker.submit(call).result(60)

    def refusal(self, thread: str) -> type[Exception] | None:
        """Return what a change by other means than the handle raises in a thread."""
        if not self.holder:
            return None
        if self.holder != thread:
            return fastipam.StoreBusy
        if not self.left:
            return fastipam.TransactionOpen
        self.forget_block()  # the change rolls it back, and goes on
        return None

    def forget_block(self) -> None:
        assert self.handle is not None
        assert self.inside is not None
        self.over.append((self.handle, self.inside))
        self.over = self.over[-3:]
        self.holder, self.left, self.pending = "", False, {}
        self.generator = self.handle = self.inside = None

    def end_block(self, *, commit: bool) -> None:
        """End the block as its own thread does."""
        assert self.generator is not None
        with suppress(StopIteration, KeyError, fastipam.StoreClosed, fastipam.TransactionOver):
            self.generator.send(commit)
        self.forget_block()

    def change(self, net: Network, owner: str, known: dict[str, str]) -> None:
        """Allocate for an owner that has nothing, else release; keep the model in step."""
        if owner in known:
            assert [str(one) for one in net.release(owner)] == [known.pop(owner)]
            return
        address = str(net.allocate(owner).address.ip)
        assert address not in known.values(), "an address twice"
        known[owner] = address

    # Changes and reads by other means --------------------------------------------------------

    @rule(thread=THREADS, owner=OWNERS)
    def plain_change(self, thread: str, owner: str) -> None:
        refused = self.refusal(thread)
        if refused is None:
            self.at(thread, lambda: self.change(self.net, owner, self.committed))
            return
        with pytest.raises(refused):
            self.at(thread, lambda: self.change(self.net, owner, dict(self.committed)))

    @rule(thread=THREADS)
    def plain_read(self, thread: str) -> None:
        assert self.at(thread, lambda: owners(self.net)) == self.committed

    @rule(thread=THREADS, owner=OWNERS, fails=st.booleans())
    def whole_block(self, thread: str, owner: str, fails: bool) -> None:
        """A block that begins and ends in one step."""
        refused = self.refusal(thread)
        known = dict(self.committed)

        def work() -> None:
            with self.ipam.transaction() as txn:
                self.change(txn.network("n"), owner, known)
                if fails:
                    raise KeyError

        if refused is not None or fails:
            with pytest.raises(refused or KeyError):
                self.at(thread, work)
        else:
            self.at(thread, work)
            self.committed = known

    @rule(owner=OWNERS, fails=st.booleans())
    def run(self, owner: str, fails: bool) -> None:
        """A task on the main thread lets a thread of the loop's do it."""
        known = dict(self.committed)

        def work(txn: Transaction) -> None:
            self.change(txn.network("n"), owner, known)
            if fails:
                raise KeyError

        if self.holder or fails:
            with pytest.raises(fastipam.StoreBusy if self.holder else KeyError):
                asyncio.run(self.ipam.run(work))
        else:
            asyncio.run(self.ipam.run(work))
            self.committed = known

    @rule(owner=OWNERS)
    def task(self, owner: str) -> None:
        """A task changes something while another one of its thread waits in a block."""
        if self.holder:
            return
        known = dict(self.committed)
        refused: list[Exception] = []

        async def hold() -> None:
            with self.ipam.transaction() as txn:
                self.change(txn.network("n"), owner, known)
                await asyncio.sleep(0)
                await asyncio.sleep(0)

        async def join() -> None:
            try:
                self.net.allocate("joined")
            except fastipam.TransactionOpen as error:
                refused.append(error)

        async def both() -> None:
            await asyncio.gather(hold(), join())

        asyncio.run(both())
        assert len(refused) == 1
        self.committed = known

    # A block that stays open ------------------------------------------------------------------

    @rule(thread=THREADS)
    def begin(self, thread: str) -> None:
        refused = self.refusal(thread)
        generator = block(self.ipam)
        if refused is not None:
            with pytest.raises(refused):
                self.at(thread, lambda: next(generator))
            return
        self.handle = self.at(thread, lambda: next(generator))
        handle = self.handle
        self.inside = self.at(thread, lambda: handle.network("n"))
        self.generator, self.holder, self.pending = generator, thread, dict(self.committed)

    @precondition(lambda self: self.holder and not self.left)
    @rule(owner=OWNERS)
    def change_inside(self, owner: str) -> None:
        inside = self.inside
        assert inside is not None
        self.at(self.holder, lambda: self.change(inside, owner, self.pending))
        assert self.at(self.holder, lambda: owners(inside)) == self.pending

    @precondition(lambda self: self.holder)
    @rule()
    def handle_elsewhere(self) -> None:
        """The handle, and its network, in another thread than its own."""
        inside, handle = self.inside, self.handle
        assert inside is not None
        assert handle is not None
        other = "worker" if self.holder == "main" else "main"
        uses: list[Callable[[], object]] = [
            lambda: inside.allocate("elsewhere"),
            inside.stats,
            handle.networks,
            lambda: handle.network("n"),
        ]
        for use in uses:
            with pytest.raises(fastipam.TransactionOver):
                self.at(other, use)

    @precondition(lambda self: self.holder and not self.left)
    @rule(commit=st.booleans())
    def end(self, commit: bool) -> None:
        pending, holder = self.pending, self.holder
        self.at(holder, lambda: self.end_block(commit=commit))
        if commit:
            self.committed = pending

    @precondition(lambda self: self.holder and not self.left)
    @rule()
    def end_elsewhere(self) -> None:
        """Another thread ends the block: it is refused, and nothing of the block will stand."""
        generator = self.generator
        assert generator is not None
        with pytest.raises(fastipam.TransactionOver):
            self.at("worker" if self.holder == "main" else "main", lambda: generator.send(True))
        self.left = True

    @precondition(lambda self: self.left)
    @rule(reads=st.booleans())
    def handle_after_that(self, reads: bool) -> None:
        """Its own thread is refused, too, and has rolled it back with that."""
        inside = self.inside
        assert inside is not None
        use: Callable[[], object] = inside.stats if reads else lambda: inside.allocate("lost")
        with pytest.raises(fastipam.TransactionOver):
            self.at(self.holder, use)
        self.forget_block()

    @precondition(lambda self: self.over)
    @rule(thread=THREADS)
    def handle_that_is_over(self, thread: str) -> None:
        for handle, inside in self.over:
            for use in (lambda: inside.allocate("late"), inside.stats, handle.networks):  # noqa: B023
                with pytest.raises((fastipam.TransactionOver, fastipam.StoreClosed)):
                    self.at(thread, use)

    # Closing, forking ---------------------------------------------------------------------------

    @rule()
    def close(self) -> None:
        """The Ipam is closed while the witness keeps the store open; an open block is lost."""
        self.ipam.close()
        self.closed = [*self.closed[-2:], (self.ipam, self.net)]
        if self.holder and not self.left:
            inside, generator = self.inside, self.generator
            assert inside is not None
            assert generator is not None
            with pytest.raises(fastipam.StoreClosed):
                self.at(self.holder, lambda: inside.allocate("late"))
            with pytest.raises(fastipam.StoreClosed):
                self.at(self.holder, lambda: generator.send(True))
            self.forget_block()
        self.begin_anew()

    @precondition(lambda self: self.closed)
    @rule(thread=THREADS)
    def closed_store(self, thread: str) -> None:
        for ipam, net in self.closed:
            for use in (lambda: net.allocate("late"), net.stats, ipam.networks, ipam.transaction):  # noqa: B023
                with pytest.raises(fastipam.StoreClosed):
                    self.at(thread, use)

    @rule()
    def fork(self) -> None:
        """A child is refused what is its parent's, and opens the store itself."""
        child = os.fork()
        if not child:
            status = 1
            try:
                self.in_child()
                status = 0
            except BaseException as error:
                os.write(2, f"in the child: {error!r}\n".encode())
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0

    def in_child(self) -> None:
        uses: list[Callable[[], object]] = [
            self.net.stats,
            lambda: self.net.allocate("child"),
            self.watched.stats,
        ]
        if self.inside is not None and self.handle is not None and not self.left:
            # The thread that had the block is not here unless it has forked.
            uses += [self.inside.stats, self.handle.networks]
        for use in uses:
            with pytest.raises(fastipam.StoreForked):
                use()
        if self.holder:
            with pytest.raises(fastipam.StoreBusy, match="process"):
                self.opened()
            return
        with self.opened() as own:
            assert owners(own.network("n", RANGES)) == self.committed

    @invariant()
    def agree(self) -> None:
        found = owners(self.watched)
        assert found == self.committed
        assert len(set(found.values())) == len(found), "an address twice"


def owners(net: Network) -> dict[str, str]:
    """Return the address of every owner."""
    return {lease.container_id: str(lease.address.ip) for lease in net.leases()}


TestHandleMachine: Any = HandleMachine.TestCase
TestHandleMachine.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
