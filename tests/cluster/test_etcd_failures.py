"""The etcd engine when members die, hang, lie behind a broken network, or have no leader."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import pytest

from fastipam.cluster.engine import (
    Compare,
    EngineTimeout,
    EngineUnavailable,
    Put,
)
from fastipam.cluster.engines import pool
from fastipam.cluster.engines.etcd.engine import EtcdEngine

from ..ports import free_ports
from .etcd import QUICK_MS, Etcd, surely
from .proxy import Proxy

S = 30.0  # nothing here is meant to last as long


@pytest.fixture(scope="module")
def election_ms() -> int:
    """Leaders die here."""
    return QUICK_MS


@pytest.fixture
def long_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that failed is left alone for longer than any test lasts."""
    monkeypatch.setattr(pool, "_FIRST_REST_S", 600.0)
    monkeypatch.setattr(pool, "_LONGEST_REST_S", 600.0)


@pytest.fixture
def proxy(etcd: Etcd) -> Iterator[Proxy]:
    """A proxy in front of the first member."""
    with Proxy(etcd.members[0].client_port) as running:
        yield running


@pytest.fixture(autouse=True)
def whole(etcd: Etcd) -> None:
    """Each test begins with three members and a leader that serves."""
    etcd.start()
    with contextlib.closing(etcd.engine()) as engine:
        surely(engine, [], [Put(b"/fastipam/settled", b"")])


@pytest.fixture
def key() -> bytes:
    """A key of the test's own: what an election held up may be done after what came later."""
    return b"/fastipam/failures/" + os.urandom(8).hex().encode()


def written(engine: EtcdEngine, key: bytes) -> int:
    """Write b"0" to the key, once, however often that has to be asked for; the revision of it."""
    surely(engine, [Compare(key, "absent")], [Put(key, b"0")])
    found = engine.get(key, deadline_s=S)
    assert found is not None
    return found.mod_revision


def first_to(engine: EtcdEngine, endpoint: str) -> None:
    """Let the engine begin with that endpoint; it chooses at random otherwise."""
    engine.members.endpoints.sort(key=lambda one: one.server.text != endpoint)


@pytest.mark.usefixtures("long_memory")
def test_dead_endpoint_is_skipped(etcd: Etcd, key: bytes) -> None:
    """A transaction passes a port where nobody listens, and the port is not asked again soon."""
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    with contextlib.closing(etcd.engine([dead, *etcd.endpoints])) as engine:
        first_to(engine, dead)
        assert surely(engine, [], [Put(key, b"1")]).succeeded
        assert engine.members.endpoints[0].failures == 1
        engine.get(key, deadline_s=S)
        assert engine.members.endpoints[0].failures == 1


def test_nobody_listens(key: bytes) -> None:
    """Without any member the answer is EngineUnavailable, long before the deadline."""
    engine = EtcdEngine([f"http://127.0.0.1:{port}" for port in free_ports(3)])
    begin = time.monotonic()
    with pytest.raises(EngineUnavailable, match="no endpoint can be reached"):
        engine.transact([], [Put(key, b"1")], deadline_s=60)
    with pytest.raises(EngineUnavailable):
        engine.get(key, deadline_s=60)
    with pytest.raises(EngineUnavailable):
        engine.watch(key, 0, deadline_s=60)
    assert time.monotonic() - begin < 30


@pytest.mark.usefixtures("long_memory")
def test_read_fails_over_from_a_half_open_connection(
    etcd: Etcd, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, key: bytes
) -> None:
    """A read passes a member that takes connections and says nothing."""
    monkeypatch.setattr(pool, "_READ_S", 1.0)
    proxy.become("swallow")
    with contextlib.closing(etcd.engine([proxy.endpoint, etcd.endpoints[1]])) as engine:
        first_to(engine, proxy.endpoint)
        assert engine.get(key, deadline_s=S) is None
        assert proxy.connections == 1
        for _ in range(10):  # and it is remembered
            engine.get(key, deadline_s=S)
        assert proxy.connections == 1


def test_read_times_out(etcd: Etcd, proxy: Proxy, key: bytes) -> None:
    """A read that nobody answers is a timeout, and not ambiguous."""
    proxy.become("swallow")
    with contextlib.closing(etcd.engine([proxy.endpoint])) as engine:
        with pytest.raises(EngineTimeout) as caught:
            engine.get(key, deadline_s=2.0)
        assert not caught.value.ambiguous


@pytest.mark.parametrize("mode", ["swallow", "mute"])
def test_unanswered_change_is_ambiguous(etcd: Etcd, proxy: Proxy, mode: str, key: bytes) -> None:
    """A change whose answer is lost is not repeated: it may have been made, or not."""
    with contextlib.closing(etcd.engine([proxy.endpoint, *etcd.endpoints[1:]])) as engine:
        first_to(engine, proxy.endpoint)
        engine.get(key, deadline_s=S)  # the connection is there
        proxy.become(mode)  # type: ignore[arg-type]
        # A member that is told so gives up at the deadline, done or not.
        deadline_s = 1.0 if mode == "swallow" else 8.0
        with pytest.raises(EngineTimeout) as caught:
            engine.transact([Compare(key, "absent")], [Put(key, b"1")], deadline_s=deadline_s)
        assert caught.value.ambiguous
        found = engine.get(key, deadline_s=S)
        assert (found is not None) == (mode == "mute")
        if found is not None:
            assert found.version == 1


def test_cut_in_the_middle_of_a_change_is_ambiguous(etcd: Etcd, proxy: Proxy, key: bytes) -> None:
    """A connection that breaks after the request has left is no reason to send it again."""
    with contextlib.closing(etcd.engine([proxy.endpoint, *etcd.endpoints[1:]])) as engine:
        first_to(engine, proxy.endpoint)
        engine.get(key, deadline_s=S)
        proxy.become("mute")

        def cut_the_answer_off() -> None:
            assert proxy.swallowed.wait(S)
            proxy.cut()

        cutting = threading.Thread(target=cut_the_answer_off)
        cutting.start()
        begin = time.monotonic()
        with pytest.raises(EngineTimeout) as caught:
            engine.transact([Compare(key, "absent")], [Put(key, b"1")], deadline_s=2 * S)
        cutting.join()
        assert caught.value.ambiguous
        assert time.monotonic() - begin < 2 * S  # by the cut, not by the deadline


def test_cut_while_idle_is_noticed(etcd: Etcd, proxy: Proxy, key: bytes) -> None:
    """A kept connection that the network has cut is not used: the change goes through."""
    with contextlib.closing(etcd.engine([proxy.endpoint])) as engine:
        engine.get(key, deadline_s=S)
        proxy.cut()
        while engine.members.idle and engine.members.idle[0].idle():
            time.sleep(0.01)
        assert surely(engine, [], [Put(key, b"1")]).succeeded
        assert proxy.connections == 2


def test_leader_killed(etcd: Etcd, key: bytes) -> None:
    """Changes go on when the leader dies; those under way may be ambiguous, none is lost."""
    made: list[bytes] = []
    unclear: list[bytes] = []
    with contextlib.closing(etcd.engine()) as engine:
        for at in range(60):
            if at == 10:
                etcd.leader().kill()
            one = key + b"/%d" % at
            try:
                engine.transact([Compare(one, "absent")], [Put(one, b"x")], deadline_s=S)
                made.append(one)
            except EngineTimeout as error:
                assert error.ambiguous  # noqa: PT017  # an unclear one is none of the made ones
                unclear.append(one)
        # On a busy machine there may be more than one election; in between it is served.
        assert len(made) > 10 + len(unclear)
        there = {each.key for each in engine.list(key + b"/", deadline_s=S)[0]}
        assert set(made) <= there <= set(made + unclear)


def test_without_a_majority(etcd: Etcd, key: bytes) -> None:
    """A member without a leader refuses at once: nothing is done, and nothing is ambiguous."""
    etcd.members[1].kill()
    etcd.members[2].kill()
    with contextlib.closing(etcd.engine([etcd.endpoints[0]])) as engine:
        end = time.monotonic() + 60
        while True:  # until the member has noticed
            try:
                engine.transact([], [Put(key, b"1")], deadline_s=1.0)
            except EngineTimeout:
                assert time.monotonic() < end
            except EngineUnavailable as error:
                assert "no leader" in str(error)  # noqa: PT017  # which of two it is decides
                break
        with pytest.raises(EngineTimeout) as caught:
            engine.get(key, deadline_s=2.0)
        assert not caught.value.ambiguous
        etcd.start()
        assert surely(engine, [], [Put(key, b"2")]).succeeded


@pytest.mark.usefixtures("long_memory")
def test_frozen_leader(etcd: Etcd, key: bytes) -> None:
    """A leader that hangs is passed as well, once the others have chosen another."""
    frozen = etcd.leader()
    at = etcd.members.index(frozen)
    frozen.freeze()
    try:
        others = etcd.endpoints[:at] + etcd.endpoints[at + 1 :]
        with contextlib.closing(etcd.engine([etcd.endpoints[at], *others])) as engine:
            first_to(engine, etcd.endpoints[at])
            engine.get(key, deadline_s=S)
            assert surely(engine, [], [Put(key, b"1")]).succeeded
            assert engine.members.endpoints[0].failures == 1
    finally:
        frozen.thaw()


def test_watch_survives_its_member(etcd: Etcd, key: bytes) -> None:
    """A watch goes on at another member when its own, the leader, dies, and misses nothing."""
    leader = etcd.leader()
    endpoint = etcd.endpoints[etcd.members.index(leader)]
    with contextlib.closing(etcd.engine()) as engine, contextlib.closing(etcd.engine()) as writer:
        first_to(engine, endpoint)
        revision = written(writer, key)
        while key not in engine._streams:  # until it is set up
            assert engine.watch(key, revision, deadline_s=0.2) == ([], revision)
        leader.kill()
        # The leader's death may swallow the change: it is asked for again, and made once.
        surely(writer, [Compare(key, "mod_revision", revision)], [Put(key, b"1")])
        events, _ = engine.watch(key, revision, deadline_s=S)
        assert [event.value for event in events] == [b"1"]


def test_watch_through_a_cut(etcd: Etcd, proxy: Proxy, key: bytes) -> None:
    """A watch whose connection is cut while it waits is set up anew and misses nothing."""
    with contextlib.closing(etcd.engine([proxy.endpoint])) as engine:
        with contextlib.closing(etcd.engine()) as writer:
            revision = written(writer, key)
            while key not in engine._streams:
                assert engine.watch(key, revision, deadline_s=0.2) == ([], revision)
            before = proxy.connections

            def disturb() -> None:
                proxy.cut()
                surely(writer, [Compare(key, "mod_revision", revision)], [Put(key, b"1")])

            timer = threading.Timer(0.5, disturb)
            timer.start()
            events, _ = engine.watch(key, revision, deadline_s=2 * S)
            timer.join()
        assert [event.value for event in events] == [b"1"]
        assert proxy.connections > before


def test_fork(etcd: Etcd, key: bytes) -> None:
    """A child opens connections of its own: parent and child do not read each other's answers."""
    with contextlib.closing(etcd.engine()) as engine:
        surely(engine, [], [Put(key, b"1")])
        child = os.fork()
        if child == 0:
            status = 1
            try:
                values = {getattr(engine.get(key, deadline_s=S), "value", None) for _ in range(50)}
                status = int(values != {b"1"})
            finally:
                os._exit(status)
        for _ in range(50):
            assert engine.get(key + b"-none", deadline_s=S) is None
        assert os.waitpid(child, 0)[1] == 0
