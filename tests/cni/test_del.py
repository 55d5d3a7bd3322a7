"""DEL frees what the owner has, with whatever configuration it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam.lease import Requester
from fastipam.storage import open_stores

from .plugin import VERSIONS, Answer, Call, Held, Make

if TYPE_CHECKING:
    from pathlib import Path

SUBNET = {"subnet": "10.1.2.0/24"}
DONE = Answer(0, None, "")


@pytest.mark.parametrize("version", VERSIONS)
def test_unknown_container(version: str, call: Call, config: Make, held: Held) -> None:
    """Scenario 5: DEL of a container that has nothing succeeds, as often as it is called."""
    made = config(version=version, ipam=SUBNET)
    assert call("DEL", made) == DONE
    call("ADD", made)
    for _ in range(3):
        assert call("DEL", made, "c2") == DONE
    assert held() == {"10.1.2.2": ("c1", "eth0")}


def test_no_store(call: Call, config: Make, tmp_path: Path) -> None:
    """DEL makes no store where there is none."""
    assert call("DEL", config(ipam=SUBNET)) == DONE
    assert list(tmp_path.iterdir()) == []


def test_only_the_interface(call: Call, config: Make, held: Held) -> None:
    """DEL frees what the container's interface has, and no other interface's."""
    made = config(ipam=SUBNET)
    call("ADD", made, ifname="eth0")
    call("ADD", made, ifname="eth1")
    assert call("DEL", made, ifname="eth2") == DONE
    assert len(held()) == 2
    assert call("DEL", made, ifname="eth0") == DONE
    assert held() == {"10.1.2.3": ("c1", "eth1")}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("netns", ["", "/gone", "/proc/self/ns/mnt"])
def test_network_namespace(version: str, netns: str, call: Call, config: Make, held: Held) -> None:
    """The network namespace may be empty or gone."""
    made = config(version=version, ipam=SUBNET)
    call("ADD", made)
    assert call("DEL", made, netns=netns) == DONE
    assert held() == {}


@pytest.mark.parametrize(
    "ipam",
    [
        {},
        {"subnet": "10.9.9.0/24"},
        {"subnet": "2001:db8::/64"},
        {"subnet": "10.1.2.7/24"},
        {"subnet": "bogus"},
        {"subnet": 5},
        {"ranges": []},
        {"ranges": {}},
        {"ranges": [[]]},
        {"ranges": [[{"subnet": "10.1.0.0/16"}], [{"subnet": "10.1.2.0/24"}]]},
        {"routes": "x", "resolvConf": "/no/such/file", "exclude": 7},
        {"cooldown": "long", "repeatAdd": 5, "durability": "maybe"},
        {"cluster": {}, "sticky": True},
        {"range": "x", "subnet": "y"},
        {"type": 5, "unknown": []},
    ],
)
def test_invalid_configuration(ipam: dict[str, Any], call: Call, config: Make, held: Held) -> None:
    """Where the leases are is all that DEL takes from ipam."""
    call("ADD", config(ipam=SUBNET))
    assert call("DEL", config(ipam=ipam)) == DONE
    assert held() == {}


@pytest.mark.parametrize("key", ["args", "runtimeConfig", "prevResult"])
@pytest.mark.parametrize("value", [5, "x", [], {"ips": 7, "cni": 8, "ipRanges": 9}])
def test_other_keys(key: str, value: Any, call: Call, config: Make, held: Held) -> None:
    """What does not say where the leases are is not looked at."""
    call("ADD", config(ipam=SUBNET))
    assert call("DEL", config(ipam=SUBNET) | {key: value}) == DONE
    assert held() == {}


@pytest.mark.parametrize("ipam", [None, 5, "x", [], {}])
def test_no_ipam(ipam: Any, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a usable ipam the leases are sought where they are by default."""
    monkeypatch.setattr(
        "fastipam.configuration.network.DEFAULT_DATA_DIR", str(tmp_path / "default")
    )
    made = {"cniVersion": "1.1.0", "name": "mynet"}
    assert call("ADD", made | {"ipam": SUBNET}).status == 0
    assert call("DEL", made | {"ipam": ipam}) == DONE
    with fastipam.open(tmp_path / "default") as opened:
        assert list(opened.network("mynet").leases()) == []


@pytest.mark.parametrize("command", ["DEL", "GC"])
@pytest.mark.parametrize("ipam", [{"type": "fastipam"}, {"dataDir": "relative"}, None])
def test_no_store_here_knows_the_network(
    command: str,
    ipam: Any,
    call: Call,
    config: Make,
    held: Held,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A configuration that has lost its dataDir releases nothing, and standard error says so."""
    monkeypatch.setattr(
        "fastipam.configuration.network.DEFAULT_DATA_DIR", str(tmp_path / "default")
    )
    call("ADD", config(ipam=SUBNET))
    made = {"cniVersion": "1.1.0", "name": "mynet", "ipam": ipam, "cni.dev/valid-attachments": []}
    for _ in range(2):  # without a store there, and with one that knows another network
        answer = call(command, made)
        assert (answer.status, answer.document) == (0, None)
        assert answer.stderr.startswith("ipam.dataDir is not given"), answer.stderr
        assert "has no network mynet" in answer.stderr
        call("ADD", config(name="other", ipam=SUBNET | {"dataDir": str(tmp_path / "default")}))
    assert len(held()) == 1
    call("ADD", config(ipam=SUBNET | {"dataDir": str(tmp_path / "default")}))
    for _ in range(2):  # the second one finds nothing to release, as often happens
        assert call(command, made) == DONE


@pytest.mark.parametrize("args", ["K8S_POD_NAME=x", ";;", "IP", "IgnoreUnknown=maybe", "IP=nope"])
def test_args(args: str, call: Call, config: Make, held: Held) -> None:
    """CNI_ARGS cannot keep DEL from freeing."""
    call("ADD", config(ipam=SUBNET))
    assert call("DEL", config(ipam=SUBNET), args=args) == DONE
    assert held() == {}


def test_changed_ranges(call: Call, config: Make, held: Held) -> None:
    """An address outside of today's ranges is freed; with the old ones it is assigned again."""
    old = config(ipam=SUBNET | {"cooldown": 0})
    new = config(ipam={"subnet": "10.7.0.0/24", "cooldown": 0})
    call("ADD", old, "c1")
    assert call("ADD", new, "c2").addresses == ["10.7.0.2/24"]
    assert call("DEL", new, "c1") == DONE
    assert held() == {"10.7.0.2": ("c2", "eth0")}
    assert call("DEL", old, "c2") == DONE
    assert held() == {}
    assert call("ADD", old, "c3", args="IP=10.1.2.2").status == 0


def test_after_a_failed_add(call: Call, config: Make, held: Held) -> None:
    """DEL after an ADD that failed succeeds and changes nothing."""
    made = config(ipam={"subnet": "10.1.2.0/30"})
    call("ADD", made)
    assert call("ADD", made, "c2").code == 100
    assert call("DEL", made, "c2") == DONE
    assert held() == {"10.1.2.2": ("c1", "eth0")}


def test_only_the_network(call: Call, config: Make, held: Held) -> None:
    """DEL in one network leaves the same owner's addresses in others."""
    for name in ("a", "b"):
        call("ADD", config(name=name, ipam=SUBNET))
    assert call("DEL", config(name="a", ipam=SUBNET)) == DONE
    assert held("a") == {}
    assert held("b") == {"10.1.2.2": ("c1", "eth0")}


def test_lease_without_interface(call: Call, config: Make, held: Held, tmp_path: Path) -> None:
    """Scenario 4: a lease that names no interface goes with the first DEL that has none itself."""
    made = config(ipam=SUBNET)
    with fastipam.open(tmp_path / "store") as ipam:
        ipam.network("mynet", "10.1.2.0/24")._assign(Requester("c1", ""))
    call("ADD", made, "c1", ifname="eth0")
    assert held() == {"10.1.2.2": ("c1", ""), "10.1.2.3": ("c1", "eth0")}
    assert call("DEL", made, "c2", ifname="eth1") == DONE
    assert call("DEL", made, "c1", ifname="eth0") == DONE
    assert held() == {"10.1.2.2": ("c1", "")}
    assert call("CHECK", made, "c1", ifname="eth7").status == 0
    assert call("DEL", made, "c1", ifname="eth7") == DONE
    assert held() == {}


def test_damaged_store(call: Call, config: Make, tmp_path: Path) -> None:
    """DEL in a store that cannot be read is code 5: nobody may believe that it has freed."""
    made = config(ipam=SUBNET)
    call("ADD", made)
    open_stores.close_all()
    (tmp_path / "store" / "data.mdb").write_bytes(b"no LMDB file" * 1000)
    for command in ("ADD", "DEL", "CHECK"):
        assert call(command, made).code == 5
    assert call("GC", made | {"cni.dev/valid-attachments": []}).code == 5


def test_replaced_store(call: Call, config: Make, tmp_path: Path) -> None:
    """A store that was removed while a long-lived process served from it is not served from on."""
    made = config(ipam=SUBNET)
    call("ADD", made)
    (tmp_path / "store").rename(tmp_path / "old")
    assert call("DEL", made) == DONE
    assert not (tmp_path / "store").exists()
    assert call("ADD", made).addresses == ["10.1.2.2/24"]
