"""Cluster mode on a real etcd while members die or crawl, connections break and nodes are killed.

Short by default. ``scripts/campaign cluster`` is the long form: ten minutes of sixteen nodes.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fastipam.cluster.engine import Compacted, EngineError, Put
from fastipam.cluster.engines.connect import connect
from fastipam.cluster.keeper.keeper import Keeper
from fastipam.cluster.node.share import Share
from fastipam.cluster.registries.keyvalue.registry import KeyValueRegistry
from fastipam.configuration.cluster import Settings
from fastipam.configuration.policy import Policy
from fastipam.errors import PoolExhausted
from fastipam.network import Network
from fastipam.storage.store import Store
from tests.e2e.tools import require_tools

from ..options import options
from .conftest import any_binary
from .crowd import PATIENCE_S, Crowd, assert_settled, document, init, told
from .etcd import QUICK_MS, Etcd, surely
from .nodes import inside
from .proxy import Proxy

if TYPE_CHECKING:
    from fastipam.cluster.engine import KeyEvent
    from fastipam.cluster.registry import Registry

pytestmark = pytest.mark.campaign

LONG = options.long
# The long form wants a machine of its own, and an ADD waits for as long as a plugin's by default.
# On one that is busy a step of a node may take longer: it shows that every ADD is served at last.
ADD_S = 5.0 if LONG else 30.0


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Three members that sync their logs, and soon choose another leader."""
    require_tools("strace")  # makes a disk slow
    directory = tmp_path_factory.mktemp("etcd")
    with Etcd(any_binary(), directory, sync=True, election_ms=QUICK_MS) as running:
        yield running


@pytest.fixture(autouse=True)
def whole(etcd: Etcd) -> None:
    """Each test begins with three members."""
    for member in etcd.members:
        member.fast_disk()
    etcd.start()


def disturb(etcd: Etcd, proxies: list[Proxy], crowd: Crowd, chance: random.Random) -> str:
    """One fault, chosen at random; what it was."""
    proxy, member = chance.choice(proxies), chance.choice(etcd.members)
    match chance.randrange(10):
        case 0 | 1 | 2:
            crowd.kill_one(chance)
            return "node killed"
        case 3 | 4:
            proxy.cut()
            return "cut"
        case 5 | 6:
            proxy.become("mute" if chance.random() < 0.5 else "swallow")
            time.sleep(0.3)
            proxy.cut()
            proxy.become("pass")
            return "answers lost"
        case 7:
            proxy.delay_s = chance.choice((0.0, 0.0, 0.02))
            return "delay"
        case 8:
            member.slow_disk(chance.choice((0.05, 0.2)))
            time.sleep(chance.uniform(0.3, 1.5))
            member.fast_disk()
            return "slow disk"
        case _:
            with (
                contextlib.closing(etcd.engine()) as engine,
                contextlib.suppress(EngineError),
            ):
                engine.get(b"revision", deadline_s=2.0)
                etcd.compact(engine.list(b"revision", deadline_s=2.0)[1])
            return "compaction"


def test_no_address_twice(etcd: Etcd, tmp_path: Path) -> None:
    """Sixteen nodes under SIGKILL, cuts, slow disks, compactions: no address is two nodes'."""
    chance = random.Random(options.seed)
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(member.client_port)) for member in etcd.members]
        written = document([proxy.endpoint for proxy in proxies])
        init(etcd, written)
        # More pods than the pool has addresses: some ADDs are to find nothing.
        crowd = stack.enter_context(Crowd(tmp_path, 16, written, add_s=5.0))
        crowd.start()
        begin = time.monotonic()
        done: dict[str, int] = {}
        at_least_s, pause_s = (600, 0.6) if LONG else (8, 0.3)
        while time.monotonic() < begin + at_least_s or sum(done.values()) < 25:
            time.sleep(chance.uniform(0.1, pause_s))
            what = disturb(etcd, proxies, crowd, chance)
            done[what] = done.get(what, 0) + 1
        for proxy in proxies:
            proxy.delay_s = 0.0
        crowd.served(200)
        seconds = time.monotonic() - begin
        report = crowd.finish()
    told("sixteen nodes", report, seconds=round(seconds), **done)
    assert not report.conflicts
    assert crowd.kills > 2
    assert_settled(crowd, etcd, written)


def test_one_member_killed(etcd: Etcd, tmp_path: Path) -> None:
    """The leader dies under load and comes back: every ADD is served."""
    written = document(etcd.endpoints, pool="10.32.0.0/20")
    init(etcd, written)
    with Crowd(tmp_path, 6, written, add_s=ADD_S) as crowd:
        crowd.start()
        crowd.served(50, 3.0)
        etcd.leader().kill()
        crowd.served(50, 20.0 if LONG else 4.0)
        etcd.start()
        crowd.served(50, 10.0 if LONG else 2.0)
        report = crowd.finish()
    told("one member killed", report)
    assert not report.unserved
    assert not report.conflicts
    assert_settled(crowd, etcd, written)


def test_slow_disks(etcd: Etcd, tmp_path: Path) -> None:
    """Every sync of every member takes a quarter of a second: claims are late, no ADD fails."""
    written = document(etcd.endpoints, pool="10.32.0.0/20")
    init(etcd, written)
    with Crowd(tmp_path, 6, written, add_s=ADD_S) as crowd:
        crowd.start()
        crowd.served(50, 3.0)
        for member in etcd.members:
            member.slow_disk(0.25)
        crowd.served(300, 20.0 if LONG else 4.0)
        for member in etcd.members:
            member.fast_disk()
        crowd.served(50)
        report = crowd.finish()
    told("slow disks", report)
    assert not report.unserved
    assert not report.conflicts
    assert_settled(crowd, etcd, written)


class Site:
    """A node with a store and a keeper, on the given endpoints."""

    def __init__(self, path: Path, name: str, written: dict[str, Any]) -> None:
        folded = {key.casefold(): value for key, value in written.items()}
        self.settings = Settings(folded | {"node": name})
        self.store = Store(path / name, "relaxed")
        self.network = Network(
            self.store, "podnet", self.settings.pool, policy=Policy(cooldown_s=0)
        )
        self.compacted = 0
        self.watches = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.keeper = Keeper(
            Share(self.store, self.network, self.settings), self._open, directories=()
        )

    def _open(self, share: Share) -> Registry:
        """A store whose watches begin when ``gate`` is open; those too late are counted."""
        engine = connect(share.settings)
        watch = engine.watch

        def counted(
            prefix: bytes, revision: int, *, deadline_s: float
        ) -> tuple[list[KeyEvent], int]:
            self.watches.set()
            assert self.gate.wait(PATIENCE_S)
            try:
                return watch(prefix, revision, deadline_s=deadline_s)
            except Compacted:
                self.compacted += 1
                raise

        engine.watch = counted  # type: ignore[method-assign]
        return KeyValueRegistry(share, engine)

    def serves(self, container: str) -> bool:
        """One ADD, as an agent makes it; whether it has an address, now or since an earlier one."""
        try:
            self.network.allocate(container, existing="return")
        except PoolExhausted:
            self.keeper.need(container)
            return False
        return True

    def active(self) -> int:
        """The blocks from which it assigns."""
        return self.keeper.status.states.get("active", 0)

    def __enter__(self) -> Site:
        self.keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.keeper.stop(PATIENCE_S)
        self.store.close()


def wait_until(holds: Any, what: str) -> None:
    """Look every moment until it holds."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def free(network: Network) -> int:
    """Free addresses of the node's own blocks: tried out, and given back."""
    taken = 0
    with contextlib.suppress(PoolExhausted):
        while True:
            network.allocate(f"try-{taken}")
            taken += 1
    for at in range(taken):
        network.release(f"try-{at}")
    return taken


def test_all_members_stopped(etcd: Etcd, tmp_path: Path) -> None:
    """Without etcd a node assigns what it owns and says what is wrong; then it catches up."""
    written = document(etcd.endpoints, highWater=8, minimumAge=3600)
    init(etcd, written)
    with Site(tmp_path, "a", written) as site:
        keeper, network = site.keeper, site.network
        wait_until(lambda: site.active() >= 1, "a first block")
        assert free(network) >= 14
        for member in etcd.members:
            member.kill()
        wait_until(lambda: not keeper.status.connected, "it is noticed")
        assert keeper.status.reason
        owned = free(network)
        leases = [network.allocate(f"pod-{at}") for at in range(owned)]  # nothing fails
        assert len({lease.value for lease in leases}) == owned
        assert not site.serves("one-more")
        assert len(network.release("pod-0")) == 1  # DEL goes on, too
        network.allocate("another")
        etcd.start()
        wait_until(lambda: keeper.status.connected, "it is in touch again")
        wait_until(lambda: site.serves("one-more"), "claims resume by themselves")


def test_session_expires(etcd: Etcd, tmp_path: Path) -> None:
    """Cut off for longer than its session lives, a node opens another, and keeps its blocks."""
    with Proxy(etcd.members[0].client_port) as proxy, contextlib.closing(etcd.engine()) as engine:
        written = document([proxy.endpoint], sessionTTL=2)
        init(etcd, written)
        with Site(tmp_path, "a", written) as site:
            wait_until(lambda: site.serves("first"), "a first block")
            key = inside(site.keeper.node).keys.session("a")

            def session() -> bytes:
                found = engine.get(key, deadline_s=PATIENCE_S)
                return b"" if found is None else found.value

            before, blocks = session(), site.active()
            assert before
            proxy.become("refuse")
            wait_until(lambda: not session(), "the session ends")
            assert site.serves("meanwhile")
            proxy.become("pass")
            wait_until(session, "another session")
            wait_until(lambda: site.keeper.status.connected, "it is in touch again")
            assert site.active() == blocks
            assert site.serves("afterwards")


def test_compaction_while_a_watch_is_behind(etcd: Etcd, tmp_path: Path) -> None:
    """A donor whose watch was held up until its events were gone answers a mark all the same."""
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(contextlib.closing(etcd.engine()))
        more: dict[str, Any] = {"pool": "10.32.0.0/26", "highWater": 8, "minimumAge": 3600}
        written = document(etcd.endpoints, **more)
        init(etcd, written)
        rich = Site(tmp_path, "rich", written)
        rich.gate.clear()
        stack.callback(rich.gate.set)
        stack.enter_context(rich)

        def owns_all() -> bool:
            for at in range(48):
                rich.serves(f"pod-{at}")
            return rich.active() == 4

        wait_until(owns_all, "all blocks are claimed")
        wait_until(rich.watches.is_set, "the marks are listed")
        for at in range(48):
            rich.network.release(f"pod-{at}")
        poor = stack.enter_context(Site(tmp_path, "poor", written))
        marks = inside(rich.keeper.node).keys.wanted

        def mark_is_up() -> bool:
            assert not poor.serves("in-need")  # an ADD goes on asking: else its need is forgotten
            return bool(engine.list(marks, deadline_s=PATIENCE_S)[0])

        wait_until(mark_is_up, "a mark is up")
        for _ in range(3):
            revision = surely(engine, [], [Put(b"/noise", b"")]).revision
        etcd.compact(revision)
        rich.gate.set()
        wait_until(lambda: poor.serves("in-need"), "the mark is answered")
        assert rich.compacted == 1
