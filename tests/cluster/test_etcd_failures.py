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
    Delete,
    EngineTimeout,
    EngineUnavailable,
    Put,
)
from fastipam.cluster.engines.etcd import EtcdEngine

from .etcd import Etcd, free_ports
from .proxy import Proxy

S = 20.0
KEY = b"/fastipam/failures"


@pytest.fixture
def proxy(etcd: Etcd) -> Iterator[Proxy]:
    """A proxy in front of the first member."""
    with Proxy(etcd.members[0].client_port) as running:
        yield running


@pytest.fixture(autouse=True)
def whole(etcd: Etcd) -> None:
    """Each test begins with three members and without the key."""
    etcd.start()
    with contextlib.closing(etcd.engine()) as engine:
        engine.transact([], [Delete(KEY)], deadline_s=S)


def first_to(engine: EtcdEngine, endpoint: str) -> None:
    """Let the engine begin with that endpoint; it chooses at random otherwise."""
    engine._endpoints.sort(key=lambda one: one.address.text != endpoint)


def test_dead_endpoint_is_skipped(etcd: Etcd) -> None:
    """A transaction passes a port where nobody listens, and the port is not asked again soon."""
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    with contextlib.closing(etcd.engine([dead, *etcd.endpoints])) as engine:
        first_to(engine, dead)
        assert engine.transact([], [Put(KEY, b"1")], deadline_s=S).succeeded
        assert engine._endpoints[0].failures == 1
        engine.get(KEY, deadline_s=S)
        assert engine._endpoints[0].failures == 1


def test_nobody_listens() -> None:
    """Without any member the answer is EngineUnavailable, long before the deadline."""
    engine = EtcdEngine([f"http://127.0.0.1:{port}" for port in free_ports(3)])
    begin = time.monotonic()
    with pytest.raises(EngineUnavailable, match="no endpoint can be reached"):
        engine.transact([], [Put(KEY, b"1")], deadline_s=60)
    with pytest.raises(EngineUnavailable):
        engine.get(KEY, deadline_s=60)
    with pytest.raises(EngineUnavailable):
        engine.watch(KEY, 0, deadline_s=60)
    assert time.monotonic() - begin < 30


def test_read_fails_over_from_a_half_open_connection(etcd: Etcd, proxy: Proxy) -> None:
    """A member that takes connections and says nothing costs a read half of its time."""
    proxy.become("swallow")
    with contextlib.closing(etcd.engine([proxy.endpoint, etcd.endpoints[1]])) as engine:
        first_to(engine, proxy.endpoint)
        assert engine.get(KEY, deadline_s=2.0) is None
        assert proxy.connections == 1
        for _ in range(10):  # and it is remembered
            engine.get(KEY, deadline_s=2.0)
        assert proxy.connections == 1


def test_read_times_out(etcd: Etcd, proxy: Proxy) -> None:
    """A read that nobody answers is a timeout, and not ambiguous."""
    proxy.become("swallow")
    with contextlib.closing(etcd.engine([proxy.endpoint])) as engine:
        with pytest.raises(EngineTimeout) as caught:
            engine.get(KEY, deadline_s=0.5)
        assert not caught.value.ambiguous


@pytest.mark.parametrize("mode", ["swallow", "mute"])
def test_unanswered_change_is_ambiguous(etcd: Etcd, proxy: Proxy, mode: str) -> None:
    """A change whose answer is lost is not repeated: it may have been made, or not."""
    with contextlib.closing(etcd.engine([proxy.endpoint, *etcd.endpoints[1:]])) as engine:
        first_to(engine, proxy.endpoint)
        engine.get(KEY, deadline_s=S)  # the connection is there
        proxy.become(mode)  # type: ignore[arg-type]
        with pytest.raises(EngineTimeout) as caught:
            engine.transact([Compare(KEY, "absent")], [Put(KEY, b"1")], deadline_s=1.0)
        assert caught.value.ambiguous
        found = engine.get(KEY, deadline_s=S)
        assert (found is not None) == (mode == "mute")
        if found is not None:
            assert found.version == 1


def test_cut_in_the_middle_of_a_change_is_ambiguous(etcd: Etcd, proxy: Proxy) -> None:
    """A connection that breaks after the request has left is no reason to send it again."""
    with contextlib.closing(etcd.engine([proxy.endpoint, *etcd.endpoints[1:]])) as engine:
        first_to(engine, proxy.endpoint)
        engine.get(KEY, deadline_s=S)
        proxy.delay_s = 0.5
        timer = threading.Timer(0.7, proxy.cut)
        timer.start()
        with pytest.raises(EngineTimeout) as caught:
            engine.transact([Compare(KEY, "absent")], [Put(KEY, b"1")], deadline_s=S)
        timer.join()
        assert caught.value.ambiguous


def test_cut_while_idle_is_noticed(etcd: Etcd, proxy: Proxy) -> None:
    """A kept connection that the network has cut is not used: the change goes through."""
    with contextlib.closing(etcd.engine([proxy.endpoint])) as engine:
        engine.get(KEY, deadline_s=S)
        proxy.cut()
        while engine._idle and engine._idle[0].idle():
            time.sleep(0.01)
        assert engine.transact([], [Put(KEY, b"1")], deadline_s=S).succeeded
        assert proxy.connections == 2


def test_leader_killed(etcd: Etcd) -> None:
    """Changes go on when the leader dies; one that was under way may be ambiguous, none is lost."""
    made: list[bytes] = []
    unclear: list[bytes] = []
    with contextlib.closing(etcd.engine()) as engine:
        for at in range(40):
            if at == 10:
                etcd.leader().kill()
            key = KEY + b"/%d" % at
            try:
                engine.transact([Compare(key, "absent")], [Put(key, b"x")], deadline_s=S)
                made.append(key)
            except EngineTimeout:
                unclear.append(key)
        assert len(unclear) <= 1  # one caller, so one was under way
        there = {each.key for each in engine.list(KEY + b"/", deadline_s=S)[0]}
        assert set(made) <= there <= set(made + unclear)
        engine.transact([], [Delete(key) for key in there], deadline_s=S)


def test_without_a_majority(etcd: Etcd) -> None:
    """A member without a leader refuses at once: nothing is done, and nothing is ambiguous."""
    etcd.members[1].kill()
    etcd.members[2].kill()
    with contextlib.closing(etcd.engine([etcd.endpoints[0]])) as engine:
        end = time.monotonic() + 30
        while True:  # until the member has noticed
            try:
                engine.transact([], [Put(KEY, b"1")], deadline_s=1.0)
            except EngineTimeout:
                assert time.monotonic() < end
            except EngineUnavailable as error:
                assert "no leader" in str(error)  # noqa: PT017  # which of two it is decides
                break
        with pytest.raises(EngineTimeout) as caught:
            engine.get(KEY, deadline_s=0.5)
        assert not caught.value.ambiguous
        etcd.start()
        assert engine.transact([], [Put(KEY, b"2")], deadline_s=S).succeeded


def test_frozen_leader(etcd: Etcd) -> None:
    """A leader that hangs is passed as well, once the others have chosen another."""
    frozen = etcd.leader()
    at = etcd.members.index(frozen)
    frozen.freeze()
    try:
        others = etcd.endpoints[:at] + etcd.endpoints[at + 1 :]
        with contextlib.closing(etcd.engine([etcd.endpoints[at], *others])) as engine:
            first_to(engine, etcd.endpoints[at])
            engine.get(KEY, deadline_s=S)
            assert engine.transact([], [Put(KEY, b"1")], deadline_s=S).succeeded
    finally:
        frozen.thaw()


def test_watch_survives_its_member(etcd: Etcd) -> None:
    """A watch goes on at another member when its own dies, and misses nothing."""
    with contextlib.closing(etcd.engine()) as engine, contextlib.closing(etcd.engine()) as writer:
        first_to(engine, etcd.endpoints[0])
        revision = writer.transact([], [Put(KEY, b"0")], deadline_s=S).revision
        assert engine.watch(KEY, revision, deadline_s=0.2) == ([], revision)
        etcd.members[0].kill()
        writer.transact([], [Put(KEY, b"1")], deadline_s=S)
        events, _ = engine.watch(KEY, revision, deadline_s=S)
        assert [event.value for event in events] == [b"1"]


def test_watch_through_a_cut(etcd: Etcd, proxy: Proxy) -> None:
    """A watch whose connection is cut while it waits is set up anew and misses nothing."""
    with contextlib.closing(etcd.engine([proxy.endpoint])) as engine:
        with contextlib.closing(etcd.engine()) as writer:
            revision = writer.transact([], [Put(KEY, b"0")], deadline_s=S).revision

            def disturb() -> None:
                proxy.cut()
                writer.transact([], [Put(KEY, b"1")], deadline_s=S)

            timer = threading.Timer(0.5, disturb)
            timer.start()
            events, _ = engine.watch(KEY, revision, deadline_s=S)
            timer.join()
        assert [event.value for event in events] == [b"1"]


def test_fork(etcd: Etcd) -> None:
    """A child opens connections of its own: parent and child do not read each other's answers."""
    with contextlib.closing(etcd.engine()) as engine:
        engine.transact([], [Put(KEY, b"1")], deadline_s=S)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                values = {getattr(engine.get(KEY, deadline_s=S), "value", None) for _ in range(50)}
                status = int(values != {b"1"})
            finally:
                os._exit(status)
        for _ in range(50):
            assert engine.get(KEY + b"-none", deadline_s=S) is None
        assert os.waitpid(child, 0)[1] == 0
