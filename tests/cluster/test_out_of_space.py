"""An etcd whose quota is used up: it answers reads and renewals, and no claim."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import EngineFull, Put
from fastipam.cluster.engines.etcd import gateway
from tests.cluster.memory import MemoryEngine

from ..agent.conftest import run_dir, start  # noqa: F401  # fixtures of the same name
from ..agent.processes import Client, until
from ..cni.conftest import call, plugin  # noqa: F401  # fixtures of the same name
from ..cni.plugin import Call
from .conftest import any_binary
from .etcd import Etcd
from .nodes import Machine, assert_settled, init
from .test_plugin import Site, Start

FULL = "etcd is out of space"
QUOTA_BYTES = 200_000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """One member with little room, which ``fill`` uses up."""
    quota = ("--quota-backend-bytes", str(QUOTA_BYTES))
    directory = tmp_path_factory.mktemp("small")
    with Etcd(any_binary(), directory, size=1, extra=quota) as running:
        yield running


def fill(etcd: Etcd) -> None:
    """Write until there is no room; what says so must be an EngineFull."""
    with contextlib.closing(etcd.engine()) as engine:

        def write() -> None:
            for number in range(100):
                engine.transact([], [Put(b"fill%d" % number, b"x" * 20_000)], deadline_s=5)

        with pytest.raises(EngineFull, match=FULL) as full:
            write()
    assert "etcdctl alarm disarm" in str(full.value.hint)


def test_it_is_named_everywhere(small: Etcd, tmp_path: Path, start: Start, call: Call) -> None:  # noqa: F811
    """ADD says so, directly and by an agent; ``status`` exits 1; what is owned is assigned."""
    site = Site(small, tmp_path, timeout=1)
    site.init()
    assert call("ADD", site.config("a"), "c1").status == 0
    with contextlib.closing(small.engine()) as engine:
        session = engine.open_session(60, deadline_s=5)
        fill(small)
        assert engine.keep_session(session, deadline_s=5) > 0
        assert FULL in engine.problem(deadline_s=5)
    assert call("ADD", site.config("a"), "c2").status == 0
    refused = call("ADD", site.config("b"), "c1")
    assert refused.code == 11
    assert FULL in refused.message + refused.document["details"]
    agent = start()
    with Client(agent.path) as client:

        def told() -> bool:
            reply = client.ask("ADD", site.config("c"), "c1")
            assert reply.document["code"] == 11, reply
            return FULL in reply.document["msg"] + reply.document.get("details", "")

        until(told, "the agent says that etcd is out of space")
    agent.terminate()
    status = site.run("status")
    assert status.returncode == 1
    assert FULL in status.stdout
    document = json.loads(site.run("status", "--json").stdout)
    assert FULL in document["problem"]
    assert document["reachable"] is True


@pytest.mark.parametrize("made", [False, True], ids=["not made", "made"])
def test_a_claim_that_found_no_room(tmp_path: Path, *, made: bool) -> None:
    """etcd applies the change that uses the last room up, and says that there was none."""
    engine = MemoryEngine()
    init(engine)
    machine = Machine(tmp_path, "a", engine)
    node = machine.joined()
    fault = gateway._classify(8, "mvcc: database space exceeded", "http://a:1", change=True)

    def full(what: str, at: str) -> None:
        if what == "transact" and at == ("after" if made else "before"):
            raise fault

    engine.fault = full
    pool = node.settings.geometries[0]
    if made:
        assert len(node.claim(pool, 1, Deadline(5))) == 1
    else:
        with pytest.raises(EngineFull):
            node.claim(pool, 1, Deadline(5))
    engine.fault = None
    assert len(machine.active()) == int(made)
    assert_settled(engine, machine)
