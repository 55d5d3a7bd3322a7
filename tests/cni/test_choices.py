"""What an ADD has chosen counts for the next one, as long as nothing of it has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastipam.cluster.registry import Namespace
from fastipam.cni.choices import Choices
from fastipam.cni.environment import Arguments
from fastipam.cni.pod_annotations import CAPABILITY, FAMILIES, POOL
from fastipam.cni.services import Services
from fastipam.configuration.address_pools import AddressPool
from fastipam.configuration.cluster import Settings
from fastipam.configuration.network import Config
from fastipam.errors import ConfigError

POOLS = [
    AddressPool("a", {"cidr": "10.1.0.0/16", "blockSize": 24, "priority": 1}),
    AddressPool("b", {"cidr": "10.2.0.0/16", "blockSize": 24}),
    AddressPool(
        "red",
        {
            "cidr": "10.3.0.0/16",
            "blockSize": 24,
            "priority": 2,
            "namespaceSelector": {"matchLabels": {"team": "red"}},
        },
    ),
]


class Told(Services):
    """Services that say what a test has given them, and count how often they were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.said = Namespace({}, {})
        self.reach: int = 1
        self.asked = 0

    def namespace(self, *_: object) -> Namespace:
        self.asked += 1
        return self.said

    def within_reach(self, _store: object, _network: str, _settings: object, lines: Any) -> Any:
        return tuple((family, groups[: self.reach]) for family, groups in lines)


class Asking:
    """ADDs of one configuration."""

    def __init__(self, path: Path, **ipam: Any) -> None:
        settings = Settings({"engine": "kubernetes", "node": "n"}).with_pools(POOLS)
        ipam |= {"type": "fastipam", "datadir": str(path), "cluster": {}}
        document = {"name": "n", "ipam": ipam, "runtimeconfig": {CAPABILITY: {}}}
        config = Config(document, (1, 1, 0), lambda *_: settings)
        self.services = Told()
        self._choices = Choices(config, document, b"")

    def lines(self, namespace: str = "plain", **annotations: Any) -> list[str]:
        """Return what serves a pod, from the preferred group on, by the second byte of a pool."""
        found = {POOL: annotations.get("pool"), FAMILIES: annotations.get("families")}
        arguments = Arguments(f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=p")
        _, chosen = self._choices.choose(self.services, found, arguments, [])
        assert chosen is not None
        ((_, groups),) = chosen._reach
        return ["+".join(str(base >> 16 & 255) for base in group) for group in groups]


@pytest.fixture
def asking(tmp_path: Path) -> Asking:
    """A network whose pods may choose."""
    return Asking(tmp_path)


def test_annotations_differ(asking: Asking) -> None:
    """Each pod gets what its own annotations and namespace say, in any order."""
    for _ in range(3):
        assert asking.lines(pool="b") == ["2"]
        assert asking.lines(pool="a") == ["1"]
        assert asking.lines(pool="a,b") == ["1"]
        assert asking.lines() == ["1"]
        assert asking.lines(families="v4", pool="b") == ["2"]
    with pytest.raises(ConfigError, match="no pool that this pod may use has IPv6"):
        asking.lines(families="v6", pool="b")


def test_a_namespace_changes(asking: Asking) -> None:
    """What was read of a namespace anew counts, and it is asked for only if it matters."""
    assert asking.lines() == ["1"]
    asking.services.said = Namespace({"team": "red"}, {})
    for _ in range(3):
        assert asking.lines() == ["3"]
    asking.services.said = Namespace({"team": "blue"}, {})
    assert asking.lines() == ["1"]
    before = asking.services.asked
    for _ in range(3):
        assert asking.lines(pool="b") == ["2"]
    assert asking.services.asked == before


def test_reach_changes(asking: Asking) -> None:
    """The next pool of a list counts while no block of the one before is free."""
    for reach in (1, 2, 1, 2, 2):
        asking.services.reach = reach
        assert asking.lines(pool="b,a") == ["2", "1"][:reach]
        assert asking.lines() == ["1", "2"][:reach]


def test_what_is_wrong_stays_wrong(asking: Asking) -> None:
    """A refusal is no choice, and neither is an annotation that cannot be a key of anything."""
    for wrong in ("nobody", 7, ["a"], {"a": "b"}, "", "a" * 2000):
        for _ in range(2):
            with pytest.raises(ConfigError):
                asking.lines(pool=wrong)
    assert asking.lines(pool="b") == ["2"]


def test_what_is_kept_is_bounded(asking: Asking) -> None:
    """Pods that choose in many ways do not fill the agent's memory."""
    for number in range(1000):
        assert asking.lines(f"n{number}", pool="b") == ["2"]
    for _ in range(2):
        assert asking.lines(pool=",".join(["b", *["a"] * 2, " " * 1100 + "a"])) == ["2"]
    kept = asking._choices._kept
    assert len(kept) <= 256
    assert all(sum(len(part) for part in key if part) <= 1024 for key in kept)
