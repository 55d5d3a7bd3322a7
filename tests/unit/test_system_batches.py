"""An agent's batches against a model that says of each address who may get it, and when.

What test_system.py has one of, there is more of here: two networks, two families, ranges that
change under their leases and ranges of one container's own, both cool-down policies, batches that
fail in the middle and at their commit, backups that are put back. The model is exact: it knows
which addresses an ADD may give, and so also when one has been forgotten.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.conftest import assert_consistent
from tests.contents import watched

from fastipam.addressing.addresses import format_ip, parse_ip
from fastipam.addressing.parsing import parse_ranges
from fastipam.agent.batch import Executor
from fastipam.agent.requests import Answer, Observer, Request
from fastipam.backup import backup, restore
from fastipam.errors import StoreFull, UnknownNetwork
from fastipam.ipam import open_with
from fastipam.storage import open_stores
from fastipam.storage.transaction import Transaction
from fastipam.testing import Clock

V6 = "2001:db8::/125"
POOLS: list[list[str]] = [
    ["10.0.0.0/29", V6],
    ["10.0.0.0/28", V6],
    ["10.0.0.8/29", V6],
    [V6, "10.0.0.0/29"],
    ["10.0.0.0/28"],
    ["10.0.0.8/30", "10.0.0.0/29"],
]
OWN = [None, None, None, "10.0.0.16/30", "10.0.0.16/29"]  # runtimeConfig.ipRanges
NETWORKS = st.sampled_from(["n", "n", "m"])
NAMES = st.sampled_from([f"c{at}" for at in range(12)])
PODS = st.sampled_from(["", "db-0", "db-1"])


def usable(pool: list[str]) -> list[list[str]]:
    """The addresses of each set, in order."""
    return [
        [
            format_ip(each.family, value)
            for low, high in each.intervals
            for value in range(low, high + 1)
        ]
        for each in parse_ranges(pool).sets
    ]


GATEWAYS = {
    subnet: format_ip(*gateway)
    for subnet in {*chain(*POOLS), *filter(None, OWN)}
    if (gateway := parse_ranges([subnet]).sets[0].ranges[0].gateway)
}
USABLE = {subnet: usable([subnet])[0] for subnet in {*chain(*POOLS), *filter(None, OWN)}}


@dataclass
class Kept:
    """A sticky address; ``until`` in seconds."""

    pod: str
    until: float


@dataclass
class Net:
    """What is known of a network."""

    stored: list[str] | None = None  # the ranges that the store remembers
    held: dict[str, tuple[list[str], str]] = field(default_factory=dict)  # to (addresses, pod)
    released: dict[str, float] = field(default_factory=dict)  # since when an address cools
    kept: dict[str, Kept] = field(default_factory=dict)
    reserved: dict[str, str] = field(default_factory=dict)  # address to owner

    def set_of(self, address: str) -> int | None:
        """The number of the network's set that holds an address."""
        for index, subnet in enumerate(self.stored or []):
            if address in USABLE[subnet]:
                return index
        return None


class BatchMachine(RuleBasedStateMachine):
    """``now_s`` only grows: what the wall clock does when it steps back is test_system.py's."""

    @initialize(
        strict=st.booleans(), cooldown_s=st.sampled_from([0, 30]), ttl_s=st.sampled_from([5, 100])
    )
    def begin(self, strict: bool, cooldown_s: int, ttl_s: int) -> None:
        self.strict, self.cooldown_s, self.ttl_s = strict, cooldown_s, ttl_s
        self.directory = Path(tempfile.mkdtemp(prefix="fastipam-batches-"))
        self.clock = Clock()
        self.begun_ns = self.clock.now_ns
        self.boot = 1
        self.nets = {"n": Net(), "m": Net()}
        self.backup: tuple[int, dict[str, Net]] | None = None
        self.execute = Executor(Observer())
        self.watching = ExitStack()
        self.watching.enter_context(watched())
        self.open()

    def open(self) -> None:
        boot = f"boot-{self.boot}"
        self.ipam = open_with(
            self.directory / "store", "relaxed", clock=self.clock, boot_id=lambda: boot
        )

    @property
    def now_s(self) -> float:
        return (self.clock.now_ns - self.begun_ns) / 1e9

    # Requests -------------------------------------------------------------------------------

    def config(self, name: str, pool: list[str], **keys: Any) -> dict[str, Any]:
        ipam = {
            "type": "fastipam",
            "ranges": [[{"subnet": one}] for one in pool],
            "dataDir": str(self.directory / "store"),
            "cooldown": self.cooldown_s,
            "cooldownPolicy": "strict" if self.strict else "prefer",
            "sticky": "pod",
            "stickyTTL": self.ttl_s,
            "statusWhenFull": "unavailable",
        }
        return {"cniVersion": "1.1.0", "name": name, "ipam": ipam} | keys

    def request(self, command: str, owner: str, config: dict[str, Any], args: str = "") -> Request:
        environ = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": owner,
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": "/run/netns/none",
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": args,
        }
        return Request(environ, json.dumps(config).encode(), os.getpid(), self.clock.now_ns)

    @rule(
        calls=st.lists(
            st.tuples(
                st.sampled_from(["ADD", "ADD", "DEL"]),
                NETWORKS,
                NAMES,
                PODS,
                st.sampled_from(OWN),
                st.sampled_from([None, None, None, 2, 3, 9, 18]),
            ),
            min_size=1,
            max_size=8,
        ),
        pool=st.sampled_from(POOLS),
        fails=st.sampled_from([False, False, False, True]),
    )
    def batch(
        self,
        calls: list[tuple[str, str, str, str, str | None, int | None]],
        pool: list[str],
        fails: bool,
    ) -> None:
        """Requests that arrive together; with ``fails`` their common commit finds a full disk."""
        requests = []
        for command, name, owner, pod, own, octet in calls:
            args = "IgnoreUnknown=1"
            if pod:
                args += f";K8S_POD_NAMESPACE=ns;K8S_POD_NAME={pod}"
            if octet is not None and command == "ADD":
                args += f";IP=10.0.0.{octet}"
            keys = {"runtimeConfig": {"ipRanges": [[{"subnet": own}]]}} if own else {}
            requests.append(self.request(command, owner, self.config(name, pool, **keys), args))
        for call, answer in zip(calls, self.answers(requests, fails), strict=True):
            command, name, owner, pod, own, octet = call
            net = self.nets[name]
            if command == "DEL":
                assert answer.status == 0, answer
                self.give_back(net, [owner])
            else:
                wanted = None if octet is None else f"10.0.0.{octet}"
                ranges = [own, *pool] if own else pool
                self.judge(net, owner, pod, ranges, wanted, answer)
                if not answer.status and (net.stored is None or not own):
                    net.stored = ranges

    def answers(self, requests: list[Request], fails: bool) -> list[Answer]:
        end = Transaction.__exit__
        left = 1

        def full(transaction: Transaction, *arguments: Any) -> None:
            nonlocal left
            if left and arguments[0] is None:
                left -= 1
                end(transaction, StoreFull, None, None)
                raise StoreFull("injected", path=transaction.store.path)
            end(transaction, *arguments)

        if not fails:
            return self.execute(requests)
        with mock.patch.object(Transaction, "__exit__", full):
            return self.execute(requests)

    # The model ------------------------------------------------------------------------------

    def judge(
        self,
        net: Net,
        owner: str,
        pod: str,
        ranges: list[str],
        wanted: str | None,
        answer: Answer,
    ) -> None:
        """An ADD gives what the model would; or is refused when the model has nothing, either."""
        document = json.loads(answer.output)
        if self.gateway_is_held(net, ranges):
            assert document.get("code") == 7, document
            return
        if owner in net.held:
            assert document.get("code") == 102, document
            return
        inside = [subnet for subnet in ranges if wanted in USABLE[subnet]]
        if wanted is not None and not inside:
            assert document.get("code") == 103, document
            return
        allowed = [
            self.allowed(net, owner, pod, subnet, wanted if subnet in inside else None)
            for subnet in ranges
        ]
        if answer.status:
            assert document["code"] in (11, 100, 101), document
            assert not all(allowed), f"{document} and not one of {allowed}"
            return
        addresses = [one["address"].partition("/")[0] for one in document["ips"]]
        assert len(addresses) == len(allowed)
        for address, good in zip(addresses, allowed, strict=True):
            assert address in good, f"{address} was given and not one of {good}"
            net.released.pop(address, None)
            net.kept.pop(address, None)
        net.held[owner] = addresses, pod

    def gateway_is_held(self, net: Net, ranges: list[str]) -> bool:
        """Whether ranges that are not the network's have a gateway that is assigned."""
        busy = {one for addresses, _ in net.held.values() for one in addresses}
        return ranges != net.stored and any(GATEWAYS[subnet] in busy for subnet in ranges)

    def allowed(self, net: Net, owner: str, pod: str, subnet: str, wanted: str | None) -> list[str]:
        """The addresses of a set that an ADD may give, all equally good."""
        busy = {one for addresses, _ in net.held.values() for one in addresses}
        whose = {one: each.pod for one, each in net.kept.items() if each.until > self.now_s}
        whose |= net.reserved
        mine = (owner, f"ns/{pod}") if pod else (owner,)
        all_of_it = [one for one in USABLE[subnet] if one not in busy]
        kept = [one for one in all_of_it if whose.get(one) in mine]
        others = [one for one in all_of_it if one not in whose]
        if wanted is not None:
            return [one for one in (*kept, *others) if one == wanted]
        if kept:
            return kept
        cool = {one: at for one, at in net.released.items() if at + self.cooldown_s > self.now_s}
        free = [one for one in others if one not in cool]
        if free or self.strict:
            return free
        first = min((cool[one] for one in others), default=0.0)
        return [one for one in others if cool[one] == first]

    def give_back(self, net: Net, owners: list[str]) -> None:
        for owner in owners:
            addresses, pod = net.held.pop(owner, ([], ""))
            for address in addresses:
                if address in net.reserved:
                    continue
                if not pod:
                    net.released[address] = self.now_s
                    continue
                for one, each in list(net.kept.items()):
                    same_set = net.set_of(one) in (net.set_of(address), None)
                    if each.pod == f"ns/{pod}" and same_set and one not in addresses:
                        del net.kept[one]
                        if each.until > self.now_s:
                            net.released[one] = self.now_s
                until = self.now_s + max(self.ttl_s, self.cooldown_s)
                net.kept[address] = Kept(f"ns/{pod}", until)

    # What else happens ----------------------------------------------------------------------

    @rule(name=NETWORKS, valid=st.sets(NAMES))
    def gc(self, name: str, valid: set[str]) -> None:
        self.clock.advance(1)
        listed = [{"containerID": one, "ifname": "eth0"} for one in sorted(valid)]
        config = self.config(name, POOLS[0], **{"cni.dev/valid-attachments": listed})
        (answer,) = self.execute([self.request("GC", "", config)])
        assert answer.status == 0, answer
        net = self.nets[name]
        self.give_back(net, [one for one in self.in_address_order(net) if one not in valid])

    def in_address_order(self, net: Net) -> list[str]:
        """The owners, as the leases have them."""

        def key(owner: str) -> tuple[int, int]:
            return min(parse_ip(one) for one in net.held[owner][0])

        return sorted(net.held, key=key)

    @rule(name=NETWORKS, own=st.sampled_from(OWN), pool=st.sampled_from(POOLS))
    def status(self, name: str, own: str | None, pool: list[str]) -> None:
        """STATUS says 50 exactly when an ADD of an unknown container would find nothing."""
        keys = {"runtimeConfig": {"ipRanges": [[{"subnet": own}]]}} if own else {}
        (answer,) = self.execute([self.request("STATUS", "", self.config(name, pool, **keys))])
        net = self.nets[name]
        ranges = [own, *pool] if own else pool
        free = [self.allowed(net, "nobody", "", subnet, None) for subnet in ranges]
        code = json.loads(answer.output)["code"] if answer.status else 0
        busy = {one for addresses, _ in net.held.values() for one in addresses}
        ready = all(free) and not any(GATEWAYS[subnet] in busy for subnet in ranges)
        assert code == (0 if ready else 50), f"{answer}, {free}"

    @rule(name=NETWORKS, octet=st.integers(1, 18), owner=st.sampled_from(["", "c1", "ns/db-0"]))
    def reserve(self, name: str, octet: int, owner: str) -> None:
        address, net = f"10.0.0.{octet}", self.nets[name]
        if net.stored is None or net.set_of(address) is None:
            return
        assert self.ipam.network(name).reserve(address, owner=owner)
        net.reserved[address] = owner
        net.kept.pop(address, None)
        net.released.pop(address, None)

    @rule(name=NETWORKS, octet=st.integers(1, 18))
    def unreserve(self, name: str, octet: int) -> None:
        address, net = f"10.0.0.{octet}", self.nets[name]
        if self.is_unknown(name):
            return
        ended = self.ipam.network(name).unreserve(address)
        if net.reserved.pop(address, None) is not None:
            assert ended
        elif (kept := net.kept.pop(address, None)) and ended and kept.until > self.now_s:
            net.released[address] = self.now_s

    @rule(seconds=st.sampled_from([1, 4, 29, 30, 101]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(reboots=st.booleans())
    def restart(self, reboots: bool) -> None:
        self.ipam.close()
        open_stores.close_all()
        self.boot += reboots
        self.open()
        if reboots:
            self.lose_all()

    def is_unknown(self, name: str) -> bool:
        """Whether the store has no such network; then the model knows nothing of it, either."""
        if name in self.ipam.networks():
            return False
        assert self.nets[name] == Net()
        with pytest.raises(UnknownNetwork):
            self.ipam.network(name)
        return True

    def lose_all(self) -> None:
        """No container of an earlier boot is there; the model gives all back at once."""
        for net in self.nets.values():
            self.give_back(net, self.in_address_order(net))
        for name in self.ipam.networks():
            while self.ipam.network(name)._sweep_reboot():
                pass

    @rule()
    def save(self) -> None:
        backup(self.ipam.store, self.directory / "backup")
        self.backup = self.boot, copy.deepcopy(self.nets)

    @precondition(lambda self: getattr(self, "backup", None) is not None)
    @rule()
    def put_back(self) -> None:
        restore(self.ipam.store, self.directory / "backup", replace=True)
        assert self.backup is not None
        boot, nets = self.backup
        self.nets = copy.deepcopy(nets)
        if boot != self.boot:
            self.lose_all()

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "ipam"):
            return
        assert_consistent(self.ipam.store)
        for name, net in self.nets.items():
            if self.is_unknown(name):
                continue
            network = self.ipam.network(name)
            held: dict[str, set[str]] = {}
            for lease in network.leases():
                held.setdefault(lease.container_id, set()).add(str(lease.address.ip))
            assert held == {owner: set(addresses) for owner, (addresses, _) in net.held.items()}
            stats = network.stats().to_dict()
            states = ("assigned", "cooling", "reserved", "free")
            assert stats["size"] == sum(stats[what] for what in states)

    def teardown(self) -> None:
        if hasattr(self, "ipam"):
            self.watching.close()
            self.ipam.close()
            open_stores.close_all()
            shutil.rmtree(self.directory)


TestBatchMachine = BatchMachine.TestCase
TestBatchMachine.settings = settings(max_examples=max(settings().max_examples // 2, 20))
