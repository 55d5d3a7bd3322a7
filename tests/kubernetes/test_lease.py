"""The Lease of a node with fencing that has lost its store. On the fake, and on a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fastipam.cluster.deadline import Deadline
from fastipam.cluster.errors import ClusterRefused, NoBlock

from .agents import Time
from .machines import Machine, accept
from .rest import LEASES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastipam.cluster.registries.kubernetes.registry import KubernetesRegistry

    from .conftest import Api

_TTL_S = 120.0


@pytest.fixture
def pair(api: Api, tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """A node with fencing, and the same node with another store."""
    accept(api)
    one = Machine(tmp_path / "old", api, "n", fencing=True)
    two = Machine(tmp_path / "new", api, "n", fencing=True, rest=one.rest)
    two.clock = Time()
    yield one, two
    one.close()
    two.close()


def _holder(api: Api) -> str:
    return str(api.admin.get(f"{LEASES}/n").done()["spec"]["holderIdentity"])


def _both(one: Machine, two: Machine) -> tuple[KubernetesRegistry, KubernetesRegistry, Time]:
    old = one.registry_of(one.joined())
    old.hold(Deadline(10))
    new = two.registry_of(two.joined())
    assert isinstance(two.clock, Time)
    return old, new, two.clock


def test_the_lease_of_a_lost_store(api: Api, pair: tuple[Machine, Machine]) -> None:
    """It is ended when it was unchanged for longer than it lasts; then the node has its own."""
    _, new, clock = _both(*pair)
    with pytest.raises(ClusterRefused, match="another node named n"):
        new.hold(Deadline(10))
    clock.now += 1.05 * _TTL_S - 1
    with pytest.raises(ClusterRefused) as refused:
        new.hold(Deadline(10))
    assert "for 1 s" in str(refused.value.hint)
    clock.now += 1
    with pytest.raises(NoBlock, match="just been ended"):
        new.hold(Deadline(10))
    assert api.admin.get(f"{LEASES}/n").status == 404
    new.hold(Deadline(10))
    assert new.is_held
    member = pair[1].share.member()
    assert member is not None
    assert _holder(api) == member.incarnation


def test_the_lease_of_a_store_that_is_in_use(api: Api, pair: tuple[Machine, Machine]) -> None:
    """As long as it is renewed the other node is refused, however late it looks."""
    old, new, clock = _both(*pair)
    for _ in range(3):
        with pytest.raises(ClusterRefused):
            new.hold(Deadline(10))
        assert old._entry.lease is not None
        assert old._entry.lease.renew(Deadline(10))
        clock.now += 2 * _TTL_S
    with pytest.raises(ClusterRefused):
        new.hold(Deadline(10))
    member = pair[0].share.member()
    assert member is not None
    assert _holder(api) == member.incarnation
