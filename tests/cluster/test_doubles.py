"""No address is told to two: clones, restored stores, etcd put back, wiped and slow, hung disks.

Real agents, directly run plugins beside them, real etcd; the ledger is outside of all of them.
With fencing an operator also removes nodes that still run: they must not tell an address that
another node has by then. Without it that is the price that docs/cluster.md names, and the operator
of these tests does not do it. ``scripts/campaign cluster`` is the long form.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import fastipam
from fastipam.cli.commands.install.executables import DIRECT, install
from fastipam.verify import verify
from tests.e2e.tools import require_compiler

from ..options import options
from .conftest import any_binary
from .doubles import PATIENCE_S, Ledger, Machine
from .etcd import Etcd
from .proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

pytestmark = pytest.mark.campaign

TTL_S = 3
# After a loss was noticed, nobody claims new blocks for so long; who is away then may lose his.
HELD_BACK_S = TTL_S + 10
LONG_S = 420  # of each form: with fencing, and without
_GRACE_S = 0.5  # between the moment of an answer and that at which the ledger hears of it


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes a disk hang."""
    source = Path(__file__).with_name("hang.c")
    made = tmp_path_factory.mktemp("hang") / "hang.so"
    command = [require_compiler(), "-shared", "-fPIC", "-O1", "-o", str(made), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return made


class Campaign:
    """Three machines and an etcd, and what happens to them."""

    def __init__(self, place: Path, etcd: Etcd, preload: Path, *, fencing: bool, seed: int) -> None:
        self.place = place
        self.etcd = etcd
        self.fencing = fencing
        self.chance = random.Random(seed)
        self.seed = seed
        self.ledger = Ledger()
        self.stop = threading.Event()
        self.done: dict[str, int] = {}
        self._stack = ExitStack()
        self._preload = preload
        self._threads: list[threading.Thread] = []
        self._direct = install(place / "bin").with_name(DIRECT)
        self._clones = 0
        self._copy = place / "etcd-copy"
        self.proxies = {
            name: self._stack.enter_context(Proxy(etcd.members[0].client_port)) for name in "abc"
        }
        self.machines = {name: self._machine(name, name) for name in "abc"}

    def _settings(self, node: str, endpoint: str) -> dict[str, Any]:
        return {
            "endpoints": [endpoint],
            "pool": "10.40.0.0/24",
            "blockSize": 28,
            "node": node,
            "fencing": self.fencing,
            "sessionTTL": TTL_S,
            "minimumAge": 2,
            "timeout": 3,
            "address": "192.0.2.1",
        }

    def _machine(self, name: str, node: str) -> Machine:
        settings = self._settings(node, self.proxies[node].endpoint)
        return Machine(self.place / name, name, settings, self._direct, self._preload)

    def __enter__(self) -> Campaign:
        first = self.machines["a"]
        done = first.cluster("init")
        assert done.returncode == 0, done.stderr
        for machine in self.machines.values():
            machine.start()
        for machine in self.machines.values():
            for number, direct in enumerate((0.0, 0.5)):
                thread = threading.Thread(
                    target=machine.work,
                    args=(self.ledger, self.stop, f"{self.seed} {machine.name} {number}"),
                    kwargs={"direct": direct},
                    daemon=True,
                )
                thread.start()
                self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for machine in self.machines.values():
            machine.hang.unlink(missing_ok=True)
            if machine.agent is not None:
                machine.signal(signal.SIGCONT)
        for thread in self._threads:
            thread.join(2 * PATIENCE_S)
        for machine in self.machines.values():
            machine.end()
        self._stack.close()

    def served(self, count: int) -> None:
        """Wait until so many more addresses were told."""
        until, end = self.ledger.told_count + count, time.monotonic() + PATIENCE_S
        while self.ledger.told_count < until and not self.ledger.doubles:
            assert time.monotonic() < end, "the nodes do not get on"
            time.sleep(0.02)

    def note(self, what: str) -> None:
        """Count what was done."""
        self.done[what] = self.done.get(what, 0) + 1

    # etcd -----------------------------------------------------------------------------------

    def copy_etcd(self) -> None:
        """Make a copy of etcd's directory."""
        self.etcd.copy(self._copy)
        self.note("copy of etcd")

    def put_etcd_back(self, *, anew: bool = False) -> None:
        """Replace etcd by the copy: what was claimed since is forgotten.

        ``anew``: all agents are killed meanwhile, so that none of them remembers.
        """
        (member,) = self.etcd.members
        member.stop()
        if anew:
            for machine in self.machines.values():
                machine.end()
        self.etcd.put_back(self._copy)
        self.etcd.start()
        if anew:
            for machine in self.machines.values():
                machine.start()
        self.note("etcd put back" + anew * ", agents anew")

    def wipe_etcd(self) -> None:
        """Replace etcd by an empty one, and initialise the cluster again."""
        self.etcd.put_back(None)
        shutil.rmtree(self._copy, ignore_errors=True)
        self.etcd.start()
        done = self.machines["a"].cluster("init")
        assert done.returncode == 0, done.stderr
        self.note("etcd wiped")

    def slow_etcd(self) -> None:
        """Nobody answers for a moment; connections stay."""
        (member,) = self.etcd.members
        member.freeze()
        time.sleep(self.chance.uniform(0.3, 1.5 * TTL_S))
        member.thaw()
        self.note("etcd slow")

    # Machines -------------------------------------------------------------------------------

    def clone(self, name: str, seconds: float = 2.0) -> None:
        """Start a second machine from a copy of a machine's disk, beside it."""
        self._clones += 1
        original = self.machines[name]
        clone = self._machine(f"clone-{self._clones}", name)
        original.copy_disk(clone.store)
        clone.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            clone.add(self.ledger, direct=False)
            clone.add(self.ledger, direct=True)
        clone.end()
        self.ledger.lost(clone.name)
        self.note("clone")

    def replace_by_clone(self, name: str) -> None:
        """Start a machine from a copy of a disk after the first one has gone for good."""
        original = self.machines[name]
        with original.still():
            original.end(signal.SIGTERM)
            self.ledger.lost(original.name)
            original.pods.clear()
            moved = original.store.with_name("moved")
            shutil.rmtree(moved, ignore_errors=True)
            shutil.copytree(original.store, moved)
            shutil.rmtree(original.store)
            moved.rename(original.store)
            original.store.chmod(0o700)
            original.start()
        self.note("machine from a copy")

    def restore(self, name: str) -> None:
        """Put an older state of a store back; the machine's pods do not run any more."""
        machine = self.machines[name]
        file = str(self.place / "backup")
        done = machine.run("backup", "--force", "--data-dir", str(machine.store), file)
        assert done.returncode == 0, done.stderr
        time.sleep(self.chance.uniform(0.2, 1.0))
        with machine.still():
            self.ledger.lost(machine.name)
            machine.pods.clear()
            below = self.chance.random() < 0.5
            if not below:
                machine.end(signal.SIGTERM)
            done = machine.run("restore", "--replace", "--data-dir", str(machine.store), file)
            assert done.returncode == 0, done.stderr
            if not below:
                machine.start()
        self.note("store restored")

    def kill(self, name: str) -> None:
        """Kill an agent, and start the next one."""
        self.machines[name].end()
        time.sleep(self.chance.uniform(0.0, 0.5))
        self.machines[name].start()
        self.note("agent killed")

    def pause(self, name: str) -> None:
        """Stop an agent for a moment."""
        self.machines[name].signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.05, 0.8 * TTL_S))
        self.machines[name].signal(signal.SIGCONT)
        self.note("agent paused")

    def cut(self, name: str) -> None:
        """Break a machine's connections once."""
        self.proxies[name].cut()
        self.note("cut")

    # With fencing ---------------------------------------------------------------------------

    def _remove(self, name: str) -> None:
        """Remove a node that is alive, as soon as that is not refused, and let others claim."""
        other = self.machines["a" if name != "a" else "b"]
        end = time.monotonic() + PATIENCE_S
        while other.cluster("release-node", name).returncode != 0:
            assert time.monotonic() < end, other.cluster("nodes").stdout
            time.sleep(0.2)
        self.ledger.lost(name, time.monotonic() + _GRACE_S)
        time.sleep(_GRACE_S)
        for each in self.machines.values():  # they claim what is free now
            if each.name != name:
                for _ in range(8):
                    if not each.add(self.ledger, direct=False):
                        break  # there is none, and to wait for one takes a while

    def remove_cut_off(self, name: str) -> None:
        """Remove a node that cannot reach etcd."""
        self.proxies[name].become("refuse")
        self._remove(name)
        self.proxies[name].become("pass")
        self.note("removed: cut off")

    def remove_stopped(self, name: str) -> None:
        """Remove a node whose agent is stopped; plugins run directly meanwhile."""
        # Without its agent's way to etcd a directly run ADD would keep the node alive.
        self.proxies[name].become("refuse")
        self.machines[name].signal(signal.SIGSTOP)
        self._remove(name)
        self.machines[name].signal(signal.SIGCONT)
        time.sleep(0.3)
        self.proxies[name].become("pass")
        self.note("removed: stopped")

    def remove_hung(self, name: str) -> None:
        """Remove a node whose disk hangs in the middle of commits."""
        self.machines[name].hang.touch()
        self._remove(name)
        self.machines[name].hang.unlink()
        self.note("removed: disk hung")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="fastipam-") as made:
        yield Path(made)


@pytest.mark.parametrize("fencing", [True, False], ids=["fencing", "without"])
def test_no_address_is_told_to_two(place: Path, preload: Path, fencing: bool) -> None:
    """Whatever happens to disks, etcd and agents, nobody is told what another has."""
    (place / "etcd").mkdir()
    with (
        Etcd(any_binary(), place / "etcd", size=1, election_ms=500) as etcd,
        Campaign(place, etcd, preload, fencing=fencing, seed=options.seed) as campaign,
    ):
        (_at_random if options.long else _in_order)(campaign)
        doubles = list(campaign.ledger.doubles)
        served = {name: one.served for name, one in campaign.machines.items()}
    print(f"\nfencing={fencing}: {campaign.ledger.told_count} told {served} {campaign.done}")
    logs = "\n".join(f"{one.name}:\n{one.log()}" for one in campaign.machines.values())
    assert not doubles, "\n".join([*doubles[:5], logs])
    assert not [each for one in campaign.machines.values() for each in one.odd], logs
    assert all(sum(each.values()) for each in served.values()), (served, logs)
    assert any(each["direct"] for each in served.values())
    for one in campaign.machines.values():
        with fastipam.open(one.store, create=False) as ipam:
            assert not verify(ipam.store)


def _in_order(campaign: Campaign) -> None:
    """The short form: what has told addresses twice before, once."""
    campaign.served(20)
    campaign.copy_etcd()
    campaign.served(40)
    campaign.clone("a", 1.0)
    campaign.put_etcd_back()
    campaign.served(40)
    if campaign.fencing:
        campaign.remove_hung("c")
    else:
        campaign.wipe_etcd()
    campaign.restore("b")
    campaign.served(20)


def _at_random(campaign: Campaign) -> None:
    """The long form."""
    chance = campaign.chance
    any_time: list[Callable[[], None]] = [campaign.slow_etcd]
    of_one: list[Callable[[str], None]] = [campaign.kill, campaign.pause, campaign.cut]
    rare: list[Callable[[str], None]] = [
        campaign.clone, campaign.restore, campaign.replace_by_clone,
    ]  # fmt: skip
    if campaign.fencing:
        rare += [campaign.remove_cut_off, campaign.remove_stopped, campaign.remove_hung]
    begin = time.monotonic()
    alone_until = old_at = 0.0
    has_copy = False
    while time.monotonic() < begin + LONG_S and not campaign.ledger.doubles:
        time.sleep(chance.uniform(0.1, 1.5))
        what, name = chance.random(), chance.choice("abc")
        settled = time.monotonic() > alone_until
        if what < 0.08:
            campaign.copy_etcd()
            has_copy = True
            # What is younger nobody may have heard of: docs/cluster.md, "What is not noticed".
            old_at = time.monotonic() + 2 * TTL_S
        elif what < 0.16 and has_copy and settled and time.monotonic() > old_at:
            campaign.put_etcd_back(anew=chance.random() < 0.4)
            alone_until = time.monotonic() + HELD_BACK_S
        elif what < 0.19 and settled:
            campaign.wipe_etcd()
            has_copy = False
            alone_until = time.monotonic() + HELD_BACK_S
        elif what < 0.4 and settled:
            chance.choice(rare)(name)
        elif what < 0.5:
            chance.choice(any_time)()
        else:
            chance.choice(of_one)(name)
