"""The whole system against a small model: plugin, operator, reboots, sweeper, repair."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.conftest import assert_consistent
from tests.counting import COUNTED, looked_at

import fastipam
from fastipam import cni
from fastipam._ledger import PoolState
from fastipam.cli.migration import import_host_local
from fastipam.ipam import open_with
from fastipam.network import Network
from fastipam.repair import repair
from fastipam.storage import open_stores, tables
from fastipam.storage.records import keys as records_keys
from fastipam.sweep import finish_reboot, missing_count, sweep
from fastipam.testing import Clock
from fastipam.verify import verify

COOLDOWN_S = 30
STICKY_S = 300
GRACE_S = 60
POOL = "10.0.0.0/28"  # .2 to .14
ALL = {f"10.0.0.{octet}" for octet in range(2, 15)}
NAMES = st.sampled_from([f"c{at}" for at in range(9)])
PODS = st.sampled_from(["", "", "db-0", "db-1"])
OCTETS = st.integers(1, 16)


class SystemMachine(RuleBasedStateMachine):
    """What the model knows: who has which address, which are reserved, and which netns live."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="fastipam-system-"))
        self.netns = self.directory / "netns"
        self.netns.mkdir()
        (self.netns / "node").touch()  # another container's, which lives: the sweeper's proof
        self.clock = Clock()
        self.boot = 1
        self.held: dict[str, str] = {}  # container -> address
        self.pod_of: dict[str, str] = {}
        self.given_ns: dict[str, int] = {}  # container -> wall clock
        self.reserved: dict[str, str] = {}  # address -> owner
        self.gone: set[str] = set()  # containers whose netns is gone
        self.open()

    def open(self) -> None:
        boot = f"boot-{self.boot}"
        self.ipam = open_with(
            self.directory / "store", "relaxed", clock=self.clock, boot_id=lambda: boot
        )

    @property
    def net(self) -> Network:
        return self.ipam.network("n", POOL, cooldown_s=COOLDOWN_S, sticky_s=STICKY_S)

    def call(self, command: str, name: str, args: str = "", **keys: Any) -> tuple[int, Any]:
        config = {
            "cniVersion": "1.1.0",
            "name": "n",
            "ipam": {
                "type": "fastipam",
                "subnet": POOL,
                "dataDir": str(self.directory / "store"),
                "cooldown": COOLDOWN_S,
                "sticky": "pod",
                "stickyTTL": STICKY_S,
            },
        }
        environ = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": name,
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": str(self.netns / name),
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": args,
        }
        status, output = cni.handle(environ, json.dumps(config | keys).encode())
        document = json.loads(output) if output else {}
        assert document.get("code") not in (5, 999), document
        return status, document

    def network_clock(self) -> int:
        with self.ipam.store.read() as txn:
            for key, raw in tables.MAIN.scan(txn, records_keys.STATE_MARK):
                state = PoolState(int.from_bytes(key[1:], "big"), raw)
                return max(state.clock + 1, self.clock.now_ns + state.offset)
        return 0

    def give(self, name: str, address: str, pod: str) -> None:
        """Somebody got an address: nobody else had it, and it was not kept from him."""
        assert address in ALL
        assert address not in self.held.values(), "an address was given twice"
        assert self.reserved.get(address, f"ns/{pod}") in (f"ns/{pod}", name)
        self.held[name] = address
        self.pod_of[name] = pod
        self.given_ns[name] = self.clock.now_ns
        self.gone.discard(name)

    def lose(self, names: set[str]) -> None:
        for name in names:
            self.held.pop(name, None)
            self.gone.discard(name)

    @rule(name=NAMES, pod=PODS, octet=st.none() | OCTETS)
    def add(self, name: str, pod: str, octet: int | None) -> None:
        if name not in self.held:
            (self.netns / name).touch()
        args = "IgnoreUnknown=1"
        if pod:
            args += f";K8S_POD_NAMESPACE=ns;K8S_POD_NAME={pod}"
        if octet is not None:
            args += f";IP=10.0.0.{octet}"
        now = self.network_clock()
        kept = {one.owner: one.address for one in self.net.reservations() if one.until > now}
        status, answer = self.call("ADD", name, args)
        if status:
            assert answer["code"] in (11, 100, 101, 102, 103), answer
            if answer["code"] == 11:  # the requested address is another sandbox's of the same pod
                others = self.held.keys() - {name}
                assert pod in [
                    self.pod_of[one] for one in others if self.held[one] == f"10.0.0.{octet}"
                ]
                assert pod
            assert (answer["code"] == 102) == (name in self.held)
            if answer["code"] == 100:
                free = ALL - set(self.held.values()) - set(self.reserved) - set(kept.values())
                assert not free
            return
        address = answer["ips"][0]["address"].partition("/")[0]
        assert octet is None or address == f"10.0.0.{octet}"
        for owner, one in kept.items():
            assert address != one or owner == f"ns/{pod}", "a sticky address was given away"
        self.give(name, address, pod)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        assert self.call("DEL", name) == (0, {})
        self.lose({name})

    @rule(name=NAMES)
    def check(self, name: str) -> None:
        previous = {"ips": [{"address": f"{self.held.get(name, '10.0.0.9')}/28"}]}
        status, _ = self.call("CHECK", name, prevResult=previous)
        assert (status == 0) == (name in self.held)

    @rule(names=st.sets(NAMES))
    def gc(self, names: set[str]) -> None:
        self.clock.advance(1)  # what is younger than the list is spared
        valid = [{"containerID": name, "ifname": "eth0"} for name in names]
        environ = {"CNI_COMMAND": "GC", "CNI_PATH": "/opt/cni/bin"}
        config = {
            "cniVersion": "1.1.0",
            "name": "n",
            "ipam": {"type": "fastipam", "dataDir": str(self.directory / "store")},
            "cni.dev/valid-attachments": valid,
        }
        status, output = cni.handle(
            environ, json.dumps(config).encode(), started_ns=self.clock.now_ns
        )
        assert (status, output) == (0, b"")
        # The wall clock may have been set back since. After a small step a lease looks younger than
        # the list; one that is farther in the future counts as old.
        now_ns = self.clock.now_ns
        young = range(now_ns, now_ns + 60 * 10**9 + 1)
        older = {name for name in self.held if self.given_ns[name] not in young}
        self.lose(older - names)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def netns_goes(self, data: st.DataObject) -> None:
        """A container dies, and its runtime with it: no DEL comes."""
        name = data.draw(st.sampled_from(sorted(self.held)))
        (self.netns / name).unlink(missing_ok=True)
        self.gone.add(name)

    @rule()
    def look(self) -> None:
        """One look alone frees nobody whom no look has noted before."""
        noted = missing_count(self.ipam.store)
        report = sweep(self.ipam, grace_s=GRACE_S)
        assert len(report.released) <= noted
        self.lose({lease.container_id for lease in report.released})

    @rule()
    def sweep(self) -> None:
        sweep(self.ipam, grace_s=GRACE_S)
        self.clock.advance(GRACE_S)
        report = sweep(self.ipam, grace_s=GRACE_S)
        assert {lease.container_id for lease in report.released} <= self.gone
        self.lose(set(self.gone))

    @rule(whole=st.booleans())
    def reboot(self, whole: bool) -> None:
        """Nothing outlives it; the search for what is left may be made at once, or later."""
        self.ipam.close()
        open_stores.close_all()
        self.boot += 1
        self.open()
        self.lose(set(self.held))
        for path in self.netns.iterdir():
            path.unlink()
        if whole:
            finish_reboot(self.ipam)
            assert self.net.stats().assigned == 0

    @rule()
    def restart(self) -> None:
        self.ipam.close()
        open_stores.close_all()
        self.open()

    @rule(name=NAMES)
    def crash(self, name: str) -> None:
        """A process dies in the middle of a transaction: nothing of it has happened."""
        try:
            with self.ipam.transaction() as txn:
                net = self.net.within(txn)
                net.release(name)
                net.reserve("10.0.0.0/28")
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass

    @precondition(lambda self: self.held)
    @rule(committed=st.booleans(), data=st.data())
    def killed(self, committed: bool, data: st.DataObject) -> None:
        """Another process is killed (SIGKILL) in the middle of a change, or right behind one."""
        name = data.draw(st.sampled_from(sorted(self.held)))
        boot = f"boot-{self.boot}"
        child = os.fork()
        if child == 0:
            try:
                ipam = open_with(self.directory / "store", clock=self.clock, boot_id=lambda: boot)
                net = ipam.network("n", POOL, cooldown_s=COOLDOWN_S, sticky_s=STICKY_S)
                if committed:
                    net.release(name)
                with ipam.transaction() as txn:
                    inside = net.within(txn)
                    inside.reserve("10.0.0.0/28")
                    inside.release("another")
                    os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        if committed:
            self.lose({name})

    @rule(seconds=st.sampled_from([1, COOLDOWN_S, STICKY_S + 1, -100, -(10**6)]))
    def clock_jumps(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(octet=OCTETS, owner=st.sampled_from(["", "c1", "ns/db-0"]))
    def reserve(self, octet: int, owner: str) -> None:
        address = f"10.0.0.{octet}"
        try:
            self.net.reserve(address, owner=owner, reason="test")
        except fastipam.ConfigError:
            assert address not in ALL
        else:
            self.reserved[address] = owner

    @rule(octet=OCTETS)
    def unreserve(self, octet: int) -> None:
        address = f"10.0.0.{octet}"
        ended = self.net.unreserve(address)
        assert address not in self.reserved or [str(one) for one in ended] == [address]
        self.reserved.pop(address, None)

    @rule(octet=OCTETS, name=st.sampled_from(["i0", "i1"]))
    def take_over(self, octet: int, name: str) -> None:
        """Host-local's files are imported; twice does what once does."""
        tree = self.directory / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "n").mkdir(parents=True)
        address = f"10.0.0.{octet}"
        (tree / "n" / address).write_bytes(f"{name}\r\neth0".encode())
        os.utime(tree / "n" / address, ns=(self.clock.now_ns, self.clock.now_ns))
        self.net.stats()  # whatever an earlier boot has left is given back before
        busy = {one: name for name, one in self.held.items()}
        outcome = {item.outcome for item in import_host_local(self.ipam, tree)}
        import_host_local(self.ipam, tree)
        found = self.net.lookup(address)
        if found is not None and found.container_id == name and busy.get(address) != name:
            assert address not in busy
            assert address not in self.reserved
            self.net.release(name)  # it may have several, which the model does not follow
        assert outcome

    @rule(which=st.sampled_from(["pages", "owners", "cooldown", "main", "sticky"]))
    def repair(self, which: str) -> None:
        """All that follows from the leases and reservations is lost, and comes back."""
        store = self.ipam.store
        finish_reboot(self.ipam)
        with store.write() as txn:
            table = getattr(tables, which.upper())
            for key in list(
                table.scan_keys(txn, records_keys.STATE_MARK if which == "main" else b"")
            ):
                table.delete(txn, key)
        repair(store)
        assert not verify(store)

    @invariant()
    def agree(self) -> None:
        assert_consistent(self.ipam.store)
        leases = {lease.container_id: str(lease.address.ip) for lease in self.net.leases()}
        assert leases == self.held
        stats = self.net.stats().to_dict()
        states = ("assigned", "cooling", "reserved", "free")
        assert stats["size"] == sum(stats[what] for what in states)
        assert stats["assigned"] == len(self.held)
        sets = [{key: one[key] for key in COUNTED} for one in stats["range_sets"]]
        assert sets == looked_at(self.net)
        kept = {one.address for one in self.net.reservations()}
        assert set(self.reserved) <= kept
        assert stats["reserved"] == len(kept - set(self.held.values()))

    def teardown(self) -> None:
        self.ipam.close()
        open_stores.close_all()
        shutil.rmtree(self.directory)


TestSystemMachine = SystemMachine.TestCase
TestSystemMachine.settings = settings(max_examples=max(settings().max_examples // 2, 20))
