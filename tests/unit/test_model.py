"""A network against an obvious model, through reopening, clock jumps and changed ranges."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.conftest import assert_consistent
from tests.counting import COUNTED, looked_at

import fastipam
from fastipam import (
    AddressInUse,
    AddressNotInRange,
    DuplicateAllocation,
    FastipamError,
    Network,
    PoolExhausted,
)
from fastipam._ledger import PoolState
from fastipam.addressing.parsing import parse_ranges
from fastipam.ipam import open_with
from fastipam.storage import tables
from fastipam.storage.records import keys as records_keys
from fastipam.testing import Clock

COOLDOWN_S = 30
# Small sets, a page border (10.0.16.0 begins a page), dual stack, the sets in another order.
CONFIGURATIONS: list[tuple[list[Any], tuple[str, ...]]] = [
    (["10.0.0.0/29"], ()),
    ([["10.0.0.0/29", "10.0.1.0/30"]], ("10.0.0.4",)),
    (["10.0.0.0/29", "2001:db8::/125"], ()),
    (["2001:db8::/125", "10.0.0.0/29"], ()),
    ([{"subnet": "10.0.0.0/16", "rangeStart": "10.0.15.250", "rangeEnd": "10.0.16.5"}], ()),
]
NAMES = st.integers(0, 11).map("c{}".format)

Address = tuple[int, int]


class NetworkMachine(RuleBasedStateMachine):
    """Whatever is called, in whatever order: the model says who has what, and the store agrees.

    The model does not say which address an owner gets, only what must be true of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="fastipam-model-"))
        self.clock = Clock()
        self.owned: dict[str, list[Address]] = {}
        # Cooling: the seconds that had passed, and the pool's own clock, which may have stood
        # still meanwhile if the wall clock stepped back.
        self.released: dict[Address, tuple[float, int]] = {}
        self.elapsed = 0.0
        self.generations: set[int] = set()
        self.changed = False

    @initialize(which=st.integers(0, len(CONFIGURATIONS) - 1))
    def start(self, which: int) -> None:
        self.open()
        self.configure(which)

    def open(self) -> None:
        self.ipam = open_with(self.directory, "relaxed", clock=self.clock)

    def configure(self, which: int) -> None:
        self.which = which
        ranges, exclude = CONFIGURATIONS[which]
        self.pool = parse_ranges(ranges, exclude)

    @property
    def net(self) -> Network:
        ranges, exclude = CONFIGURATIONS[self.which]
        return self.ipam.network("n", ranges, exclude=exclude, cooldown_s=COOLDOWN_S)

    def network_clock(self) -> int:
        with self.ipam.store.read() as txn:
            for key, raw in tables.MAIN.scan(txn, records_keys.STATE_MARK):
                return PoolState(int.from_bytes(key[1:], "big"), raw).clock
        return 0

    def used(self) -> set[Address]:
        return {address for held in self.owned.values() for address in held}

    def candidates(self, index: int) -> set[Address]:
        """What a range set has left to give: all of it that nobody owns."""
        each = self.pool.sets[index]
        whole = {(each.family, v) for low, high in each.intervals for v in range(low, high + 1)}
        return whole - self.used()

    def give(self, name: str, lease: fastipam.Lease) -> None:
        given = [(one.family, one.value) for one in lease.siblings]
        assert len(given) == len(self.pool.sets)
        for index, address in enumerate(given):
            assert address in self.candidates(index)
            self.released.pop(address, None)
        generations = {one.generation for one in lease.siblings}
        assert not generations & self.generations
        self.generations |= generations
        self.owned[name] = given
        self.changed = True

    @rule(name=NAMES)
    def allocate(self, name: str) -> None:
        cool = [self.candidates(index) - set(self.released) for index in range(len(self.pool.sets))]
        try:
            lease = self.net.allocate(name)
        except DuplicateAllocation:
            assert name in self.owned
        except PoolExhausted:
            assert name not in self.owned
            assert any(not self.candidates(index) for index in range(len(self.pool.sets)))
        else:
            assert name not in self.owned
            for index, one in enumerate(lease.siblings):
                address = (one.family, one.value)
                early = self.elapsed - self.released.get(address, (-1e12, 0))[0] < COOLDOWN_S
                if early:
                    assert not cool[index], "a cooling address was taken though others were free"
                    waiting = self.candidates(index) & set(self.released)
                    longest = min(self.released[each][1] for each in waiting)
                    assert self.released[address][1] == longest
            self.give(name, lease)

    @rule(name=NAMES, data=st.data())
    def request(self, name: str, data: st.DataObject) -> None:
        octet = data.draw(st.integers(0, 9))
        wanted = data.draw(
            st.sampled_from([f"10.0.0.{octet}", f"2001:db8::{octet}", f"10.0.15.25{octet % 6}"])
        )
        try:
            lease = self.net.allocate(name, addresses=[wanted])
        except (AddressInUse, AddressNotInRange, DuplicateAllocation, PoolExhausted):
            return
        assert wanted in [str(one.ip) for one in lease.addresses]
        self.give(name, lease)

    @rule(names=st.lists(NAMES, max_size=4))
    def allocate_many(self, names: list[str]) -> None:
        try:
            leases = self.net.allocate_many([(name, "eth0") for name in names])
        except DuplicateAllocation:
            assert len(set(names)) < len(names) or set(names) & set(self.owned)
        except PoolExhausted:
            free = min(len(self.candidates(index)) for index in range(len(self.pool.sets)))
            assert free < len(names)
        else:
            for name, lease in zip(names, leases, strict=True):
                self.give(name, lease)

    @rule(name=NAMES)
    def release(self, name: str) -> None:
        freed = self.net.release(name)
        held = self.owned.pop(name, [])
        assert [(each.version, int(each)) for each in freed] == held
        self.released.update(dict.fromkeys(held, (self.elapsed, self.network_clock())))

    @rule(seconds=st.sampled_from([0.5, 1, 10, 29, 31, 1000]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.elapsed += seconds

    @rule(seconds=st.sampled_from([1, 100, 10**6]))
    def step_back(self, seconds: int) -> None:
        """No time passes, so no cool-down ends."""
        self.clock.advance(-seconds)

    @rule()
    def group_that_fails(self) -> None:
        with pytest.raises(KeyError), self.ipam.transaction() as txn:  # noqa: PT012
            net = txn.network(self.net.name)
            for name in ("x", *self.owned):
                try:
                    net.release(name)
                    net.allocate(name)
                except FastipamError:
                    pass
            raise KeyError

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def stranger(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.owned)))
        assert self.net.release(name, "eth1") == []
        assert ipam_other(self).release(name) == []

    @rule()
    def reopen(self) -> None:
        self.ipam.close()
        self.open()

    @rule(which=st.integers(0, len(CONFIGURATIONS) - 1))
    def change_ranges(self, which: int) -> None:
        self.configure(which)

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "ipam"):
            return
        assert_consistent(self.ipam.store)
        stats = self.net.stats().to_dict()
        assert stats["size"] == sum(stats[what] for what in ("assigned", "cooling", "free"))
        assert stats["assigned"] == len(self.used())
        sets = [{key: one[key] for key in COUNTED} for one in stats["range_sets"]]
        assert sets == looked_at(self.net)
        listed = [(lease.family, lease.value) for lease in self.net.leases()]
        assert listed == sorted(self.used())
        for name, held in self.owned.items():
            assert self.net._owned(name, "eth0") == held

    def teardown(self) -> None:
        if hasattr(self, "ipam"):
            self.ipam.close()
        shutil.rmtree(self.directory)


def ipam_other(machine: NetworkMachine) -> Network:
    return machine.ipam.network("other", "10.0.0.0/29")


TestNetworkMachine = NetworkMachine.TestCase
TestNetworkMachine.settings = settings(max_examples=max(settings().max_examples // 2, 20))
