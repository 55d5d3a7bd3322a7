"""A lease as its caller sees it, who asks for one, and what is noted of a network namespace."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any

import pytest

from fastipam.addressing.addresses import to_ip
from fastipam.errors import ConfigError
from fastipam.ipam import Ipam
from fastipam.lease import Lease, Requester, join
from fastipam.namespaces import Netns, look, mount_namespace
from fastipam.storage.records.lease import ASSIGNED, Record


def _record(generation: int = 5, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "state": ASSIGNED, "length": 24, "set_index": 1, "boot": 2, "generation": generation,
        "allocated_ns": 6, "released": 0, "inode": 7, "mount_ns": 8, "sticky_s": 9, "born_ns": 10,
        "network_id": 11,
        "container_id": "box", "ifname": "eth0", "netns": "/run/netns/x", "pod_namespace": "ns",
        "pod_name": "db-0", "pod_uid": "u-1",
    }  # fmt: skip
    return Record(**fields | changes)


V4 = (4, 0x0A000007)
V6 = (6, 0x20010DB8 << 96 | 7)


@pytest.mark.parametrize(
    ("field", "value", "bits"),
    [
        ("inode", -1, 64),
        ("inode", 1 << 64, 64),
        ("born_ns", -1, 64),
        ("born_ns", 1 << 64, 64),
        ("mount_ns", -1, 32),
        ("mount_ns", 1 << 32, 32),
    ],
)
def test_number_without_room(field: str, value: int, bits: int) -> None:
    """A number that its field in the store has no room for is refused, with its name."""
    with pytest.raises(ConfigError) as caught:
        Netns(**{field: value})  # type: ignore[arg-type]
    error = caught.value
    assert (error.message, error.field, error.value) == (
        f"{field} {value} is not a whole number of {bits} bits",
        field,
        value,
    )
    assert error.hint is None


def test_largest_numbers() -> None:
    """The largest numbers that have room are kept as they are; 0, which is not known, too."""
    netns = Netns(inode=(1 << 64) - 1, born_ns=(1 << 64) - 1, mount_ns=(1 << 32) - 1)
    assert (netns.inode, netns.born_ns, netns.mount_ns) == ((1 << 64) - 1, (1 << 64) - 1, 2**32 - 1)
    assert Requester("box", "eth0", netns).netns is netns
    assert Requester("box", "eth0").netns is None


def _owner(**texts: str) -> Requester:
    """An owner with these texts, the others empty."""
    pod = (texts.get("pod_namespace", ""), texts.get("pod_name", ""), texts.get("pod_uid", ""))
    return Requester("box", "eth0", Netns(texts.get("netns", "")), pod)


@pytest.mark.parametrize("field", ["netns", "pod_namespace", "pod_name", "pod_uid"])
def test_nul(field: str) -> None:
    """NUL divides the texts in the store: none of them may have one."""
    with pytest.raises(ConfigError) as caught:
        _owner(**{field: "a\0b"})
    error = caught.value
    assert (error.message, error.field, error.value) == (f"{field} contains NUL", field, "a\0b")


@pytest.mark.parametrize("field", ["netns", "pod_namespace", "pod_name", "pod_uid"])
def test_half_a_surrogate_pair(field: str) -> None:
    """A text that is none is refused; one with bytes that are no UTF-8 is kept as it is."""
    with pytest.raises(ConfigError) as caught:
        _owner(**{field: "a\ud800"})
    error = caught.value
    assert (error.field, error.value) == (field, "a\ud800")
    owner = _owner(**{field: "a\udcffä"})
    assert owner.texts.replace(b"\0", b"") == b"boxeth0a\xff\xc3\xa4"


@pytest.mark.parametrize(
    ("namespace", "name", "pod", "sticky_s"),
    [("ns", "db-0", "ns/db-0", 60), ("ns", "", "", 0), ("", "db-0", "", 0), ("", "", "", 0)],
)
def test_pod(ipam: Ipam, namespace: str, name: str, pod: str, sticky_s: int) -> None:
    """A pod has a namespace and a name; for nobody else an address is kept."""
    owner = _owner(pod_namespace=namespace, pod_name=name)
    assert owner.pod == pod
    assert ipam.network("n", "10.0.0.0/24", sticky_s=60)._assign(owner).sticky_s == sticky_s
    other = _owner(pod_namespace=namespace, pod_name=name)
    assert ipam.network("m", "10.0.0.0/24")._assign(other).sticky_s == 0


def test_fields() -> None:
    """A lease says all that its record does."""
    lease = Lease("net", *V4, None, _record())
    names = (
        "container_id", "ifname", "allocated_ns", "generation", "netns", "inode", "born_ns",
        "mount_ns", "sticky_s", "pod_namespace", "pod_name", "pod_uid", "length",
    )  # fmt: skip
    assert {name: getattr(lease, name) for name in names} == {
        name: getattr(_record(), name) for name in names
    }
    assert lease.record.set_index == 1


def test_packed_record() -> None:
    """A lease of a packed record says the same; its prefix length needs no record."""
    lease = Lease("net", *V4, None, _record().pack())
    assert lease.length == 24
    assert isinstance(lease._record, bytes)
    assert lease.container_id == "box"
    assert lease.record is lease.record
    assert lease.length == 24


@pytest.mark.parametrize(
    ("address", "length", "router", "cidr", "gateway"),
    [
        (V4, 24, (4, 0x0A000001), "10.0.0.7/24", "10.0.0.1"),
        (V4, 32, None, "10.0.0.7/32", None),
        (V6, 64, (6, 1), "2001:db8::7/64", "::1"),
        ((6, 7), 128, (6, 0x0A000001), "::7/128", "::a00:1"),
    ],
)
def test_address(
    address: tuple[int, int],
    length: int,
    router: tuple[int, int] | None,
    cidr: str,
    gateway: str | None,
) -> None:
    """Address and gateway as text, and as the standard library's types."""
    lease = Lease("net", *address, router, _record(length=length))
    assert lease.cidr == cidr
    assert lease.address == ipaddress.ip_interface(cidr)
    assert lease.router_text == gateway
    assert lease.gateway == (None if gateway is None else ipaddress.ip_address(gateway))
    assert repr(lease) == f"<Lease {cidr} of 'box' 'eth0' in 'net'>"


def test_to_ip() -> None:
    """A small number is an address of the family that is said."""
    assert to_ip(4, 7) == ipaddress.IPv4Address("0.0.0.7")
    assert to_ip(6, 7) == ipaddress.IPv6Address("::7")


@pytest.mark.parametrize(
    "other",
    [
        Lease("other", *V4, None, _record()),
        Lease("net", 6, V4[1], None, _record()),
        Lease("net", 4, V4[1] + 1, None, _record()),
        Lease("net", *V4, None, _record(6)),
    ],
)
def test_unequal(other: Lease) -> None:
    """Network, address and generation make a lease; each of them tells two apart."""
    one = Lease("net", *V4, None, _record())
    assert one != other
    assert hash(one) != hash(other)


def test_equal() -> None:
    """The same lease, however it was read, is equal, and one key of a dictionary."""
    one = Lease("net", *V4, None, _record())
    other = Lease("net", *V4, (4, 1), _record().pack())
    assert one == other
    assert {one: 1}[other] == 1
    assert one != "10.0.0.7"


def test_siblings() -> None:
    """Leases that were joined know each other, in their order; one alone knows itself."""
    leases = [Lease("net", *address, None, _record()) for address in (V4, V6)]
    assert leases[1].siblings == (leases[1],)
    assert join(leases) is leases[0]
    for lease in leases:
        assert lease.siblings == tuple(leases)
        assert [str(one) for one in lease.addresses] == ["10.0.0.7/24", "2001:db8::7/24"]
    alone = Lease("net", *V4, None, _record())
    assert join([alone]) is alone
    assert alone._siblings == ()  # it holds no reference to itself


def test_look(tmp_path: Path) -> None:
    """Device, inode and time of a file; what a link leads to has no time, nor has 1969."""
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to(file)
    os.utime(file, ns=(5, 7))
    status = file.stat()
    assert look(str(file)) == (status.st_dev, status.st_ino, 7)
    assert look(str(link)) == (status.st_dev, status.st_ino, 0)
    os.utime(file, ns=(0, -1))
    assert look(str(file))[2] == 0
    with pytest.raises(FileNotFoundError):
        look(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="null"):
        look("/a\0b")


def test_mount_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number that the kernel shows; 0 where it does not."""
    shown = os.readlink("/proc/self/ns/mnt")
    assert shown == f"mnt:[{mount_namespace()}]"

    def fail(_: str) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", fail)
    assert mount_namespace() == 0
