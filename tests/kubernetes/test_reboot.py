"""A machine that starts while the API cannot be reached serves from the blocks that it owns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import EngineError
from fastipam.errors import PoolExhausted
from fastipam.storage import boot

from .machines import Machine, accept, assert_settled, claim

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .fake import FakeServer


@pytest.fixture
def machines(fake_api: FakeServer, tmp_path: Path) -> Iterator[list[Machine]]:
    """Three machines of a cluster with a pool, each with a block."""
    accept(fake_api)
    made = [Machine(tmp_path, fake_api, name) for name in ("a", "b", "c")]
    for one in made:
        claim(one.joined())
    yield made
    for one in made:
        one.close()


def _started_again(machine: Machine) -> None:
    pools = machine.share.settings.pools  # a plugin reads them in the store: test_agent.py
    machine.store.close()
    machine.boot = "boot-2"
    machine.open()
    machine.share.adopt_pools(pools)
    with machine.store.read() as txn:
        assert txn.store.boot > 1


def test_a_cluster_that_boots_without_its_api(
    fake_api: FakeServer, machines: list[Machine]
) -> None:
    """Every node serves; those that were there before the boot are gone; later all agree."""
    for one in machines:
        one.network.allocate("before")
    fake_api.down()
    try:
        for one in machines:
            _started_again(one)
            assert one.share.doubt() == ""
            lease = one.network.allocate("after")
            with pytest.raises(EngineError):
                one.registry().pools(Deadline(0.3))
            assert lease.cidr
    finally:
        fake_api.up()
    for one in machines:
        fake_api.do("DELETE", f"/api/v1/nodes/{one.name}")
        node = {"metadata": {"name": one.name}, "status": {"nodeInfo": {"bootID": "boot-2"}}}
        fake_api.do("POST", "/api/v1/nodes", node)
        one.joined()
        assert {lease.container_id for lease in one.network.leases()} == {"after"}
    assert_settled(fake_api, *machines)


def test_a_copy_of_the_disk_assigns_nothing(
    machines: list[Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another machine, or one without an id, the blocks wait for the API's word."""
    machine = machines[0]
    other = tmp_path / "machine-id"
    other.write_text("f" * 32 + "\n")
    _started_again(machine)
    monkeypatch.setattr(boot, "MACHINE_ID", str(other))
    assert "not confirmed" in machine.share.doubt()
    with pytest.raises(PoolExhausted, match="not confirmed"):
        machine.network.allocate("c1")
    monkeypatch.setattr(boot, "MACHINE_ID", str(tmp_path / "nothing"))
    assert "not confirmed" in machine.share.doubt()


def test_with_fencing_nothing_is_assigned_before_the_proof(
    fake_api: FakeServer, tmp_path: Path
) -> None:
    """A node with fencing waits for its Lease after a boot."""
    accept(fake_api)
    machine = Machine(tmp_path, fake_api, "a", fencing=True)
    node = machine.joined()
    node.registry.hold(Deadline(5))
    claim(node)
    _started_again(machine)
    assert machine.share.doubt()
    machine.close()
