"""Batches of requests in this process: one commit, and what is left when something fails."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam.agent.batch import Executor
from fastipam.agent.requests import Answer, Observer, Request
from fastipam.allocation.ledger import Ledger
from fastipam.errors import StoreFull
from fastipam.storage import holders, open_stores, tables
from fastipam.storage.holders import describe_holders
from fastipam.storage.transaction import Transaction
from fastipam.verify import verify

from ..cni.plugin import Held, Make, environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SUBNET = {"subnet": "10.1.0.0/16"}
VALID = "cni.dev/valid-attachments"


class Counter(Observer):
    """Keeps what an observer is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, int]] = []
        self.batches: list[int] = []

    def request(
        self,
        verb: str,
        status: int,
        output: bytes,
        seconds: float,
        asked: Request | None = None,  # noqa: ARG002
    ) -> None:
        """Keep verb and status."""
        assert seconds >= 0
        assert not status or json.loads(output)["code"]
        self.requests.append((verb, status))

    def batch(self, size: int, commit_seconds: float) -> None:
        """Keep the size."""
        assert commit_seconds >= 0
        self.batches.append(size)


@pytest.fixture
def counter() -> Counter:
    """An observer."""
    return Counter()


@pytest.fixture
def execute(counter: Counter) -> Iterator[Executor]:
    """An executor; what it opened is closed at the end."""
    yield Executor(counter)
    open_stores.close_all()


def _request(
    command: str, config: Mapping[str, Any] | None, container: str = "c1", age_s: float = 0
) -> Request:
    stdin = json.dumps(config).encode() if config is not None else b""
    arrived_ns = time.time_ns() - int(age_s * 1e9)
    return Request(environment(command, container), stdin, os.getpid(), arrived_ns)


def _code(answer: Answer) -> int:
    return int(json.loads(answer.output)["code"]) if answer.status else 0


def test_one_commit(
    execute: Executor, counter: Counter, config: Make, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of requests for one store is one transaction."""
    made = config(ipam=SUBNET)
    outermost = 0
    end = Transaction.__exit__

    def count(self: Transaction, *arguments: Any) -> None:
        nonlocal outermost
        outermost += 1
        end(self, *arguments)

    execute([_request("VERSION", None)])
    monkeypatch.setattr(Transaction, "__exit__", count)
    answers = execute([_request("ADD", made, f"c{at}") for at in range(50)])
    assert [answer.status for answer in answers] == [0] * 50
    assert outermost == 1
    assert len(held()) == 50
    assert counter.batches == [1, 50]
    assert counter.requests == [("VERSION", 0)] + [("ADD", 0)] * 50


def test_order_within_a_batch(execute: Executor, config: Make, held: Held) -> None:
    """Requests see what those before them did: ADD, again, CHECK, DEL, CHECK of one owner."""
    made = config(ipam=SUBNET, version="1.0.0")
    first = execute([_request("ADD", made)])[0]
    checked = made | {"prevResult": json.loads(first.output)}
    commands = ("CHECK", "ADD", "DEL", "CHECK", "ADD")
    requests = [_request(one, checked if one == "CHECK" else made) for one in commands]
    assert [_code(one) for one in execute(requests)] == [0, 102, 0, 104, 0]
    assert list(held().values()) == [("c1", "eth0")]


def test_failing_request_leaves_no_trace(
    execute: Executor, config: Make, held: Held, tmp_path: Path
) -> None:
    """Half-way failed requests undo their own, and the others of the batch stand."""
    # The second range set has one address: a second ADD takes one of the first set, then fails.
    ranges = [
        [{"subnet": "10.1.0.0/16"}],
        [{"subnet": "10.2.0.0/24", "rangeStart": "10.2.0.9", "rangeEnd": "10.2.0.9"}],
    ]
    full = config(ipam={"ranges": ranges}, name="both")
    good = config(ipam=SUBNET)
    requests = [
        _request("ADD", good, "g1"),
        _request("ADD", full, "f1"),
        _request("ADD", full, "f2"),
        _request("ADD", config(ipam={"subnet": "nonsense"}), "b1"),
        _request("NONSENSE", good, "b2"),
        _request("ADD", good, "g2"),
    ]
    assert [_code(one) for one in execute(requests)] == [0, 0, 100, 7, 4, 0]
    assert sorted(held("both").values()) == [("f1", "eth0")] * 2
    assert sorted(held().values()) == [("g1", "eth0"), ("g2", "eth0")]
    with fastipam.open(tmp_path / "store") as ipam:
        assert verify(ipam.store) == []


def test_several_stores(execute: Executor, counter: Counter, config: Make, held: Held) -> None:
    """A batch may touch several data directories, of different durability, in any order."""
    made = [
        config(ipam=SUBNET | {"dataDir": config()["ipam"]["dataDir"] + name, "durability": kind})
        for name, kind in (("1", "durable"), ("2", "relaxed"), ("3", "durable"))
    ]
    answers = execute([_request("ADD", made[at % 3], f"c{at}") for at in range(30)])
    assert [answer.status for answer in answers] == [0] * 30
    assert counter.batches == [30]
    assert [len(held(store=f"store{at}")) for at in (1, 2, 3)] == [10] * 3


class _Fault:
    """Makes commits of a batch fail as a full disk does: nothing is written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, paths: list[str]) -> None:
        end = Transaction.__exit__

        def fail(transaction: Transaction, *arguments: Any) -> None:
            commits = arguments[0] is None
            if commits and transaction.store.path in paths:
                paths.remove(transaction.store.path)
                end(transaction, StoreFull, None, None)
                raise StoreFull("injected", path=transaction.store.path)
            end(transaction, *arguments)

        monkeypatch.setattr(Transaction, "__exit__", fail)


def test_commit_fails_once(
    execute: Executor, config: Make, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the batch cannot be committed, each request is served by itself, and says the truth."""
    made = config(ipam=SUBNET)
    execute([_request("ADD", made, "c0")])
    _Fault(monkeypatch, [made["ipam"]["dataDir"]])
    requests = [_request("ADD", made, f"c{at}") for at in (0, 1, 2)] + [_request("DEL", made, "c0")]
    assert [_code(one) for one in execute(requests)] == [102, 0, 0, 0]
    assert sorted(held().values()) == [("c1", "eth0"), ("c2", "eth0")]


def test_commit_fails_again(
    execute: Executor, config: Make, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of them may fail once more: that one alone has the error."""
    made = config(ipam=SUBNET)
    execute([_request("ADD", made, "c0")])
    _Fault(monkeypatch, [made["ipam"]["dataDir"]] * 2)
    answers = execute([_request("ADD", made, f"c{at}") for at in (1, 2, 3)])
    assert [_code(one) for one in answers] == [5, 0, 0]
    assert len(held()) == 3


def test_one_of_two_stores_fails(
    execute: Executor, config: Make, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another store has committed is not done, nor answered, a second time."""
    one, two = (
        config(ipam=SUBNET | {"dataDir": config()["ipam"]["dataDir"] + name}) for name in "12"
    )
    for failing in (one, two):
        with monkeypatch.context() as patch:
            _Fault(patch, [failing["ipam"]["dataDir"]])
            name = failing["ipam"]["dataDir"][-1]
            requests = [_request("ADD", where, f"n{name}") for where in (one, two)]
            assert [_code(answer) for answer in execute(requests)] == [0, 0]
    assert sorted(held(store="store1").values()) == [("n1", "eth0"), ("n2", "eth0")]
    assert sorted(held(store="store2").values()) == [("n1", "eth0"), ("n2", "eth0")]


def test_removed_directory(execute: Executor, config: Make, held: Held) -> None:
    """A data directory that is removed under a running agent is a new one for the next request."""
    made = config(ipam=SUBNET)
    for turn in range(3):
        requests = [_request("ADD", made, f"c{turn}-{at}") for at in range(2)]
        assert [_code(one) for one in execute(requests)] == [0, 0]
        assert len(held()) == 2
        shutil.rmtree(made["ipam"]["dataDir"])
    assert execute([_request("DEL", made, "c0-0")])[0].status == 0
    assert not os.path.exists(made["ipam"]["dataDir"])


def test_removed_directory_within_a_batch(
    execute: Executor, config: Make, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it goes between two requests of a batch, what was done in it is done again."""
    made = config(ipam=SUBNET)
    execute([_request("ADD", made, "old")])
    handle = Executor._handle

    def remove_first(self: Executor, request: Request) -> Answer:
        if request.variables["CNI_CONTAINERID"] == "c2" and removals:
            shutil.rmtree(removals.pop())
        return handle(self, request)

    removals = [made["ipam"]["dataDir"]]
    monkeypatch.setattr(Executor, "_handle", remove_first)
    answers = execute([_request("ADD", made, f"c{at}") for at in (1, 2, 3)])
    assert [_code(one) for one in answers] == [0, 0, 0]
    assert sorted(one for one, _ in held().values()) == ["c1", "c2", "c3"]
    printed = {json.loads(one.output)["ips"][0]["address"].partition("/")[0] for one in answers}
    assert set(held()) == printed


def test_gc_beside_a_batch(execute: Executor, counter: Counter, config: Make, held: Held) -> None:
    """GC runs behind the batch, frees what is stale, and spares what came in with it."""
    made = config(ipam=SUBNET)
    execute([_request("ADD", made, f"stale{at}") for at in range(300)])
    requests = [
        _request("ADD", made, "new1"),
        _request("GC", made | {VALID: [{"containerID": "stale7", "ifname": "eth0"}]}),
        _request("ADD", made, "new2"),
        _request("DEL", made, "stale8"),
    ]
    assert [_code(one) for one in execute(requests)] == [0] * 4
    assert sorted(one for one, _ in held().values()) == ["new1", "new2", "stale7"]
    assert counter.batches == [300, 3]


def test_only_gc(execute: Executor, counter: Counter, config: Make, held: Held) -> None:
    """A GC by itself is no batch."""
    made = config(ipam=SUBNET)
    execute([_request("ADD", made)])
    assert _code(execute([_request("GC", made | {VALID: []})])[0]) == 0
    assert held() == {}
    assert counter.batches == [1]
    assert counter.requests[-1] == ("GC", 0)


# One transaction, and what happens when something fails in it -----------------------------------


def _commits(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Every transaction that ends from now on: whether it was to be committed."""
    ended: list[bool] = []
    end = Transaction.__exit__

    def count(self: Transaction, *arguments: Any) -> None:
        ended.append(arguments[0] is None)
        end(self, *arguments)

    monkeypatch.setattr(Transaction, "__exit__", count)
    return ended


def test_one_transaction(execute: Executor, config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that succeed, and those that are refused, are one transaction."""
    made = config(ipam=SUBNET)
    execute([_request("ADD", made, "c0")])
    requests = [
        *(_request("ADD", made, f"c{at}") for at in range(1, 4)),
        _request("ADD", made, "c1"),
        _request("DEL", made, "c0"),
        _request("DEL", made, "unknown"),
        _request("ADD", config(ipam={"subnet": "nonsense"}), "b1"),
        _request("NONSENSE", made),
        _request("CHECK", made | {"prevResult": {}}, "unknown"),
        _request("STATUS", made),
    ]
    ended = _commits(monkeypatch)
    assert [_code(one) for one in execute(requests)] == [0, 0, 0, 102, 0, 0, 7, 4, 104, 0]
    assert ended == [True]


def test_write_that_fails(
    execute: Executor,
    counter: Counter,
    config: Make,
    held: Held,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a write that fails nothing of the batch is kept, and each request is alone."""
    made = config(ipam=SUBNET)
    execute([_request("ADD", made, "c0")])
    ended = _commits(monkeypatch)
    enter = Ledger.give

    def full(self: Ledger, owner: Any, *arguments: Any) -> Any:
        leases = enter(self, owner, *arguments)
        if owner.container_id == "c2":
            tables.META.put(self.txn, b"x" * 600, b"")  # longer than LMDB takes
        return leases

    monkeypatch.setattr(Ledger, "give", full)
    answers = execute([_request("ADD", made, f"c{at}") for at in (1, 2, 3)])
    assert [_code(one) for one in answers] == [0, 5, 0]
    assert ended == [False, True, False, True]
    assert sorted(one for one, _ in held().values()) == ["c0", "c1", "c3"]
    assert len(counter.requests) == 4


VERBS = ("ADD", "ADD", "ADD", "DEL", "CHECK")  # GC and STATUS come behind their batch


_HOLDER = """
import fastipam, sys
with fastipam.open(sys.argv[1]) as ipam, ipam.store.write():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_store_that_is_held(
    execute: Executor, config: Make, held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch waits once for a store that is held, and each answer names the holder, code 11.

    Who came while it waited, or while another thread of the agent did, is refused without another
    wait, unless the store is free again; who comes later waits.
    """
    waits = []

    def describe(path: str) -> str:
        waits.append(path)
        return describe_holders(path)

    monkeypatch.setattr(holders, "describe_holders", describe)
    path = tmp_path / "store"
    made = config(ipam=SUBNET)
    command = [sys.executable, "-c", _HOLDER, str(path)]
    store = open_stores.open_store(path, patience_s=0.2)
    try:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            first = [_request("ADD", made, f"c{number}") for number in range(5)]
            meanwhile = [_request("ADD", made, f"m{number}") for number in range(5)]
            served = _request("ADD", made, "served")
            for count, waiting in ((1, first), (1, meanwhile), (2, [])):
                requests = waiting or [_request("ADD", made, "afterwards")]
                answers = execute(requests)
                assert [_code(answer) for answer in answers] == [11] * len(requests)
                for answer in answers:
                    message = json.loads(answer.output)["msg"]
                    assert f"process {holder.pid} (python" in message
                    assert str(path) in message
                assert len(waits) == count
            behind_a_sweep = _request("ADD", made, "swept")
            with pytest.raises(fastipam.StoreBusy):
                store.write().__enter__()
            assert [_code(answer) for answer in execute([behind_a_sweep])] == [11]
            assert len(waits) == 3
            assert holder.stdin is not None
            holder.stdin.close()
        later = _request("ADD", made, "later")
        assert [answer.status for answer in execute([served, later])] == [0, 0]
    finally:
        open_stores.close_store(store)
    assert sorted(owner for owner, _ in held().values()) == ["later", "served"]


@pytest.mark.parametrize("seed", range(20))
def test_batches_answer_as_single_requests_do(seed: int, execute: Executor, tmp_path: Path) -> None:
    """Random requests, many of which fail: the same answers and the same store, however batched.

    Two small networks share a store; addresses are asked for by name, twice, in vain, and run out.
    """
    chance = random.Random(seed)
    ended = []
    requests = [
        (
            chance.choice(VERBS),
            chance.randrange(3),
            f"c{chance.randrange(12)}",
            chance.choice(["", "", "", f"10.1.2.{chance.randrange(2, 20)}"]),
        )
        for _ in range(150)
    ]
    for name in ("single", "batched"):
        # The data directory is there before: what is said of one that is missing differs.
        found = list(execute([_made(tmp_path / name, "ADD", 0, "first", "")]))
        at = 0
        while at < len(requests):
            size = 1 if name == "single" else chance.randrange(1, 40)
            found += execute([_made(tmp_path / name, *one) for one in requests[at : at + size]])
            at += size
        with fastipam.open(tmp_path / name) as ipam:
            assert verify(ipam.store) == []
            leases = {
                (network, str(one.address), one.container_id)
                for network in ipam.networks()
                for one in ipam.network(network).leases()
            }
            stats = {network: ipam.network(network).stats() for network in ipam.networks()}
        ended.append((found, leases, stats))
    (one_answers, *one), (many_answers, *many) = ended
    for asked, first, second in zip(requests, one_answers[1:], many_answers[1:], strict=True):
        texts = [one.output.replace(b"/batched", b"/single") for one in (first, second)]
        assert texts[0] == texts[1], asked
    assert one == many


def _made(data: Path, verb: str, which: int, container: str, address: str) -> Request:
    """A request to one of two networks; the third is the second one with its ranges changed."""
    subnets = (
        {"subnet": "10.1.2.0/28"},
        {"ranges": [[{"subnet": "10.1.3.0/28"}], [{"subnet": "2001:db8::/125"}]]},
        {"ranges": [[{"subnet": "10.1.3.0/29"}], [{"subnet": "2001:db8::/124"}]]},
    )
    document: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "name": f"net{min(which, 1)}",
        "type": "bridge",
        "ipam": {"type": "fastipam", "dataDir": str(data), "cooldown": 0} | subnets[which],
    }
    if verb == "CHECK":
        document["prevResult"] = {"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.3/28"}]}
    variables = environment(verb, container, args=f"IP={address}" if address else "")
    return Request(variables, json.dumps(document).encode(), os.getpid(), time.time_ns())
