"""What a part of a transaction has changed is taken back when it fails, wherever it fails."""

from __future__ import annotations

import json
import linecache
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tests.contents import Contents, check_all, contents, differences
from tests.options import options

import fastipam
from fastipam import Ipam, StoreFull, Transaction
from fastipam._ledger import Part
from fastipam.agent.batch import Executor
from fastipam.agent.requests import Request
from fastipam.ipam import open_with
from fastipam.network import Network
from fastipam.storage import open_stores, within
from fastipam.storage.store import Store
from fastipam.testing import Clock
from fastipam.verify import verify

SOURCE = str(Path(fastipam.__file__).parent)
RANGES = ["10.0.0.0/28", "fd00::/64"]
STICKY = ("ns", "db-0")


class Interrupted(BaseException):
    """What a signal handler raises."""


@contextmanager
def interrupted_at(line: int) -> Iterator[list[int]]:
    """Raise Interrupted before the line of fastipam's Python of this number; yield the count.

    A line with "with" does not count: at the end of the block Python comes back to it, and what is
    raised just there would leave the block without its end. A signal handler never runs there.
    """
    seen = [0]

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(SOURCE):
            return None
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not text.lstrip().startswith("with "):
            seen[0] += 1
            if seen[0] == line:
                raise Interrupted
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


def prepare(ipam: Ipam, clock: Clock) -> None:
    """Fill a store with one of everything that an operation can meet."""
    net = ipam.network("n", RANGES, cooldown_s=30, sticky_s=60)
    for at in range(4):
        net.allocate(f"c{at}")
    net.allocate("pod", pod=STICKY)
    net.allocate("kept", pod=("ns", "db-1"))
    net.release("kept")
    for name in ("c2", "c3"):
        net.release(name)
    net.reserve("10.0.0.12", reason="printer")
    net.reserve("10.0.0.13", owner="c9")
    small = ipam.network("small", "10.9.0.0/30", cooldown_s=30)
    small.allocate("s0")
    small.release("s0")
    clock.advance(31)


def begin(txn: Transaction) -> None:
    """Change a few things that are not written yet when the operation comes."""
    net = txn.network("n", RANGES, cooldown_s=30, sticky_s=60)
    net.allocate("early")
    net.release("c1")
    txn.network("fresh", "10.3.0.0/29").allocate("early")


Operation = Callable[[Transaction], object]
OPERATIONS: dict[str, Operation] = {
    "allocate": lambda txn: txn.network("n").allocate("new"),
    "allocate for a pod": lambda txn: txn.network("n").allocate("new", pod=("ns", "db-1")),
    "allocate again": lambda txn: txn.network("n").allocate("c0", existing="return"),
    "request one that cools": lambda txn: txn.network("n").allocate("new", addresses=["10.0.0.5"]),
    "request a reserved one": lambda txn: txn.network("n").allocate("c9", addresses=["10.0.0.13"]),
    "take a cooling one early": lambda txn: txn.network("small", "10.9.0.0/30").allocate("new"),
    "allocate many": lambda txn: txn.network("n").allocate_many([("a", "e"), ("b", "e")]),
    "release": lambda txn: txn.network("n").release("c0"),
    "release a pod's": lambda txn: txn.network("n").release("pod"),
    "release many": lambda txn: txn.network("n").release_many([("c0", "eth0"), ("pod", "eth0")]),
    "release an address": lambda txn: txn.network("n").release_address("10.0.0.2"),
    "reserve": lambda txn: txn.network("n").reserve("10.0.0.8/31", owner="x", reason="y"),
    "reserve what is assigned": lambda txn: txn.network("n").reserve("10.0.0.2"),
    "unreserve": lambda txn: txn.network("n").unreserve("10.0.0.12/31"),
    "another network": lambda txn: txn.network("other", ["10.4.0.0/24"]).allocate("new"),
    "other ranges": lambda txn: txn.network(
        "n", ["10.0.0.0/29", "fd00::/64", "10.5.0.0/24"], exclude=["10.0.0.4"]
    ).allocate("new"),
    "adopt": lambda txn: txn.network("n")._adopt(
        fastipam.lease.Requester("i0", "eth0"), 4, 0x0A00000B, 1_600_000_000 * 10**9
    ),
    "tidy": lambda txn: txn.network("n").tidy(),
}


@contextmanager
def counting_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Yield how many parts have ended well."""
    write, perform, ended = within.Within.write, within.Within.perform, [0]

    class Counted:
        def __init__(self, part: Any) -> None:
            self.part = part

        def __enter__(self) -> Any:
            return self.part.__enter__()

        def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
            self.part.__exit__(kind, error, trace)
            ended[0] += kind is None

    def counted(self: Any, call: Any) -> Any:
        result = perform(self, call)
        ended[0] += 1
        return result

    with monkeypatch.context() as patch:
        patch.setattr(within.Within, "write", lambda self: Counted(write(self)))
        patch.setattr(within.Within, "perform", counted)
        yield ended


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", OPERATIONS)
def test_interrupted_at_each_line(
    ipam: Ipam, clock: Clock, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A signal handler raises before any line of an operation: all of it happens, or nothing."""
    prepare(ipam, clock)
    made: list[Contents] = []
    for operation in (lambda _: None, OPERATIONS[name]):
        with pytest.raises(Interrupted), ipam.transaction() as txn:  # noqa: PT012
            begin(txn)
            operation(txn)
            made.append(contents(txn))
            raise Interrupted
    before, after = made
    assert before != after
    step = 1 if options.long else 7
    line, seen = 1, [1]
    with counting_parts(monkeypatch) as ended:
        while seen[0] == line:  # else the operation has ended before
            with pytest.raises(Interrupted), ipam.transaction() as txn:  # noqa: PT012
                begin(txn)
                ended[0] = 0
                expected = before
                with interrupted_at(line) as seen:
                    try:
                        OPERATIONS[name](txn)
                        expected = after  # what a generator raises that is closed, Python ignores
                    except Interrupted:
                        pass
                if expected is after or not ended[0]:
                    found = differences(expected, contents(txn))
                    assert not found, f"interrupted at line {line}: {found}"
                check_all(txn)
                raise Interrupted
            line += step
            seen[0] += step * (seen[0] == line - step)
    assert line > 20, "no line was seen"


def test_a_clock_that_raises(ipam: Ipam, clock: Clock) -> None:
    """The wall clock is read in the middle of native code, and what it raises is passed on."""
    prepare(ipam, clock)
    with ipam.transaction() as txn:
        begin(txn)
        before = contents(txn)
        for operation in OPERATIONS.values():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ipam.store, "clock", _raise)
                with pytest.raises(Interrupted):
                    operation(txn)
            assert differences(before, contents(txn)) == []
            check_all(txn)


def _raise() -> int:
    raise Interrupted


def test_what_was_freed_is_freed_again(ipam: Ipam, clock: Clock) -> None:
    """A part that fails has freed what has cooled; a later one of the transaction does so, too."""
    prepare(ipam, clock)
    with ipam.transaction() as txn:
        net = txn.network("n")
        with pytest.raises(fastipam.DuplicateAllocation):
            net.allocate("c0")
        cooling = net.stats().cooling
        assert cooling
        with pytest.raises(Interrupted), Part(txn):  # noqa: PT012
            net.allocate("new")
            assert net.stats().cooling < cooling
            raise Interrupted
        assert net.stats().cooling == cooling
        net.allocate("new")
        assert net.stats().cooling < cooling


def test_what_cools_in_a_long_transaction(ipam: Ipam, clock: Clock) -> None:
    """An address that was released in a transaction cools in it, though the queue was empty."""
    prepare(ipam, clock)
    with ipam.transaction() as txn:
        net = txn.network("n")
        while net.stats().cooling:
            net.tidy()
        net.tidy()
        net.release("c0")
        clock.advance(31)
        assert net.stats().cooling == 2
        net.allocate("new")
        assert net.stats().cooling == 0


def test_the_end_of_a_boot_that_is_taken_back(data_dir: Path) -> None:
    """All leases of an earlier boot are released in a block that fails: they are not, then."""
    with open_with(data_dir, boot_id=lambda: "1") as ipam:
        ipam.network("n", "10.0.0.0/29").allocate("old")
    with open_with(data_dir, boot_id=lambda: "2") as ipam:
        net = ipam.network("n")
        for part in (False, True):
            with suppress(Interrupted), ipam.transaction() as txn:
                while txn.network("n").tidy():
                    pass
                with suppress(Interrupted), Part(txn):
                    txn.network("n").tidy()
                    raise Interrupted
                if not part:
                    raise Interrupted
            assert ipam.store.unswept is not part
        assert list(net.leases()) == []
        assert verify(ipam.store) == []


# A full store ---------------------------------------------------------------------------------


def shrink(store: Store, spare: int) -> None:
    """Let the store's file grow by so many pages, and by no more."""
    files = store.files
    assert files is not None
    used = int(files.env.info()["last_pgno"]) + 1
    files.env.set_mapsize((used + spare) * int(files.env.stat()["psize"]))


def records_of(store: Store) -> Contents:
    with store.read() as txn:
        return contents(txn)


def test_full_at_each_page(data_dir: Path, clock: Clock) -> None:
    """Whichever write of a block finds no room: the block raises, and nothing of it is stored.

    What was served before in the block is gone with it, and no later part of it is served.
    """
    with open_with(data_dir, "relaxed", clock=clock) as ipam:
        prepare(ipam, clock)
        before = records_of(ipam.store)
        several = [(f"many{at}", "eth0") for at in range(300)]
        refused = spare = 0
        while spare <= 400:
            shrink(ipam.store, spare)
            try:
                with ipam.transaction() as txn:
                    begin(txn)
                    wide = txn.network("wide", "10.8.0.0/16", cooldown_s=30)
                    for step in (wide.allocate_many, wide.release_many, wide.allocate_many):
                        with suppress(StoreFull):
                            step(several)
                    if txn.failed:
                        with pytest.raises(StoreFull):
                            wide.allocate("later")
                        with pytest.raises(StoreFull):
                            wide.stats()
            except StoreFull:
                refused += 1
                assert differences(before, records_of(ipam.store)) == []
            else:
                break
            spare += 1
        assert refused > 3
        assert len(list(ipam.network("wide").leases())) == 300
        assert verify(ipam.store) == []


def test_a_batch_on_a_full_store(data_dir: Path) -> None:
    """The agent says of each request what has become of it, wherever its batch finds no room."""
    fastipam.open(data_dir, "relaxed").close()
    store = open_stores.get(str(data_dir), None)
    execute = Executor()
    held: set[str] = set()
    refused = 0
    try:
        for turn in range(40):
            shrink(store, turn % 8)
            names = [f"{turn}-{at}{'x' * 200}" for at in range(30)]
            commands = [("ADD", name) for name in names]
            commands += [("DEL", name) for name in sorted(held)[:3]]
            answers = execute([_request(data_dir, *one) for one in commands])
            for (command, name), answer in zip(commands, answers, strict=True):
                refused += answer.status != 0
                if answer.status:
                    assert json.loads(answer.output)["code"] in (11, 5), answer.output
                elif command == "ADD":
                    held.add(name)
                else:
                    held.remove(name)
            net = Network(store, "n", None)
            assert {lease.container_id for lease in net.leases()} == held
            assert verify(store) == []
        assert refused
        assert held
    finally:
        open_stores.close_all()


def _request(data_dir: Path, command: str, name: str) -> Request:
    config = {
        "cniVersion": "1.1.0",
        "name": "n",
        "ipam": {"type": "fastipam", "subnet": "10.0.0.0/16", "dataDir": str(data_dir)},
    }
    environ = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": name,
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": "/run/netns/none",
        "CNI_PATH": "/opt/cni/bin",
    }
    return Request(environ, json.dumps(config).encode(), os.getpid(), time.time_ns())
