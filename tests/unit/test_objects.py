"""What a caller of the library gives and gets: objects, and refusals before anything changes."""

from __future__ import annotations

import ipaddress
import json
import pickle
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam import Netns, Owner, Pod
from fastipam.backup import backup, restore
from fastipam.repair import repair
from fastipam.sweep import finish_reboot, sweep
from fastipam.testing import temporary_network
from fastipam.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fastipam import Network

DUAL = ["10.0.0.0/24", "2001:db8::/64"]
A1, B1 = Owner("a1"), Owner("b1")


@pytest.fixture
def net() -> Iterator[Network]:
    with temporary_network(DUAL, cooldown_s=0) as network:
        yield network


def owners(net: Network) -> list[Owner]:
    """Who has addresses."""
    return list(dict.fromkeys(lease.owner for lease in net.leases()))


# No list of owners, by what a caller may have had in mind.
NO_OWNERS: dict[str, Callable[[], Any]] = {
    "lists, as JSON gives them": lambda: json.loads('[["a1", "eth0"], ["b1", "eth0"]]'),
    "an empty dict": dict,
    "a dict of owners": lambda: {A1: "eth0"},
    "dicts": lambda: [{"containerID": "a1", "ifname": "eth0"}],
    "ids": lambda: ["a1", "b1"],
    "an id of two characters": lambda: ["ab"],
    "a generator of turned pairs": lambda: (x for x in [("eth0", "a1"), ("eth0", "b1")]),
    "turned, a long id": lambda: {("eth0", "f" * 64)},
    "turned": lambda: {("eth0", "a1")},
    "a good one, then a bad one": lambda: [A1, ("b1", "a/b")],
    "a triple": lambda: [("a1", "eth0", "")],
    "an interface of 16 characters": lambda: [("a1", "e" * 16)],
    "an interface with a blank": lambda: [("a1", "eth 0")],
    "no interface": lambda: [("a1", "")],
    "no id": lambda: [("", "eth0")],
    "no text": lambda: [(1, "eth0")],
    "no text behind": lambda: [("a1", None)],
    "None": lambda: None,
    "None in a list": lambda: [None],
    "a text": lambda: "a1",
    "one owner": lambda: A1,
    "a number": lambda: 5,
}


@pytest.mark.parametrize("name", NO_OWNERS)
@pytest.mark.parametrize("method", ["retain", "release_many", "allocate_many"])
def test_no_owners(net: Network, method: str, name: str) -> None:
    """What does not list owners is refused by its place and value, and nobody loses an address."""
    for owner in (A1, B1):
        net.allocate(*owner)
    given = NO_OWNERS[name]()
    arguments = (time.time_ns(),) if method == "retain" else ()
    with pytest.raises(fastipam.ConfigError) as caught:
        getattr(net, method)(given, *arguments)
    error = caught.value
    argument = "valid" if method == "retain" else "owners"
    assert error.field.startswith(argument)
    assert error.field in str(error)
    assert repr(error.value) in str(error)
    assert error.hint
    assert owners(net) == [A1, B1]


def test_owners(net: Network) -> None:
    """Owners, plain pairs that can only be owners, sets and generators of them are taken."""
    pairs = [("a1", "eth0"), A1, Owner("eth0", "net1"), ("x" * 64, "veth-0.1"), ("lo", "eth0")]
    for given in ([A1, ("b1", "eth0")], (each for each in [("a1", "eth0"), B1])):
        net.allocate_many(given)
        assert owners(net) == [A1, B1]
        lost = [lease.address.ip for lease in net.owned_by("b1")]
        assert net.retain(iter([A1]), time.time_ns()) == lost
        assert owners(net) == [A1]
        assert net.release_many({("a1", "eth0"), B1}) == 2
        assert net.release_many([A1, B1]) == 0
        assert owners(net) == []
    with pytest.raises(
        fastipam.ConfigError, match=r"owners\[4\] has an interface, 'lo', as its first item"
    ):
        net.allocate_many(pairs)


def test_owner() -> None:
    """An owner is the pair, a value with names, and cannot be one that no lease has."""
    owner = Owner("a1")
    assert owner == ("a1", "eth0")
    assert (owner.container_id, owner.ifname) == ("a1", "eth0")
    assert hash(owner) == hash(("a1", "eth0"))
    assert repr(owner) == "Owner(container_id='a1', ifname='eth0')"
    assert pickle.loads(pickle.dumps(owner)) == owner
    with pytest.raises(AttributeError):
        owner.ifname = "eth1"  # type: ignore[misc]
    for wrong in ((None,), (1,), ("",), ("a\0",), ("a", ""), ("a", None), ("a", "b" * 16)):
        with pytest.raises(fastipam.ConfigError):
            Owner(*wrong)
    for ifname in ("a/b", "a b", "a\t", ".", "a:1", "ä" * 8, "\0"):
        with pytest.raises(fastipam.ConfigError, match="ifname"):
            Owner("a", ifname)


def test_pod(net: Network) -> None:
    """A pod is a value; a lease gives it back, and a pair stands for one without a UID."""
    pod = Pod("default", "web", "uid-1")
    assert (pod.namespace, pod.name, pod.uid) == pod == ("default", "web", "uid-1")
    assert pickle.loads(pickle.dumps(pod)) == pod
    assert repr(pod) == "Pod(namespace='default', name='web', uid='uid-1')"
    lease = net.allocate("a1", pod=pod)
    assert lease.pod == pod
    assert net.allocate("b1", pod=("default", "db")).pod == Pod("default", "db")
    assert net.allocate("c1").pod is None
    for wrong in ("default/web", ("a",), ["a", "b"], ("", "b"), ("a", ""), ("a", 1), ("a\0", "b")):
        with pytest.raises(fastipam.ConfigError, match="pod"):
            net.allocate("d1", pod=wrong)  # type: ignore[arg-type]
    assert net.get("d1") is None


def test_pods_of_many(net: Network) -> None:
    """``pods`` has an entry for each owner; anything else is refused before a lease is made."""
    first, second, third = net.allocate_many(
        [A1, B1, Owner("c1")],
        pods=[Pod("n", "a", "u"), ("n", "b"), None],
        netns=Netns("/run/netns/x", inode=7),
    )
    assert (first.pod, second.pod, third.pod) == (Pod("n", "a", "u"), Pod("n", "b"), None)
    assert first.netns == third.netns == "/run/netns/x"
    new = [Owner("d1"), Owner("e1")]
    for wrong in ([None], "ab", {"d1": None}, [("n", "a"), "x"], [("n", "a"), ("n",)]):
        with pytest.raises(fastipam.ConfigError, match="pods"):
            net.allocate_many(new, pods=wrong)  # type: ignore[arg-type]
    with pytest.raises(fastipam.ConfigError, match=r"Netns\.of|netns"):
        net.allocate_many(new, netns="/run/netns/x")  # type: ignore[arg-type]
    assert net.get("d1") is None


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"addresses": "10.0.0.9"}, "addresses"),
        ({"addresses": 5}, "addresses"),
        ({"addresses": None}, "addresses"),
        ({"addresses": {"10.0.0.9": 1}}, "addresses"),
        ({"addresses": ipaddress.ip_network("10.0.0.0/24")}, "addresses"),
        ({"addresses": [(4, 167772169)]}, "addresses[0]"),
        ({"addresses": ["10.0.0.9", 5]}, "addresses[1]"),
        ({"addresses": ["nonsense"]}, "addresses[0]"),
        ({"addresses": [ipaddress.ip_network("10.0.0.8/30")]}, "addresses[0]"),
        ({"existing": "both"}, "existing"),
        ({"netns": "/run/netns/x"}, "netns"),
        ({"pod": "default/web"}, "pod"),
        ({"ifname": "e" * 16}, "ifname"),
        ({"ifname": "a/b"}, "ifname"),
        ({"ifname": ""}, "ifname"),
        ({"ifname": None}, "ifname"),
        ({"container_id": None}, "container_id"),
        ({"container_id": ""}, "container_id"),
        ({"container_id": b"a1"}, "container_id"),
    ],
)
def test_wrong_arguments_of_allocate(net: Network, wrong: dict[str, Any], field: str) -> None:
    """An argument of the wrong shape is named with its value, and nothing is assigned."""
    with pytest.raises(fastipam.ConfigError) as caught:
        net.allocate(**{"container_id": "a1"} | wrong)
    assert caught.value.field == field
    assert list(net.leases()) == []
    if wrong == {"addresses": "10.0.0.9"}:
        assert caught.value.hint == "give a list: addresses=['10.0.0.9']"


@pytest.mark.parametrize("before", [None, 1.5, "now", True])
def test_wrong_time_of_retain(net: Network, before: Any) -> None:
    """A time that is no whole number of nanoseconds is refused before a release."""
    net.allocate("a1")
    with pytest.raises(fastipam.ConfigError, match="before_ns"):
        net.retain([], before)
    assert owners(net) == [A1]


def test_addresses_in(net: Network) -> None:
    """Addresses are texts, and objects of ipaddress, wherever one is taken."""
    lease = net.allocate("a1", addresses=[ipaddress.ip_address("10.0.0.9"), "2001:db8::9"])
    assert [str(one) for one in lease.addresses] == ["10.0.0.9/24", "2001:db8::9/64"]
    for form in ("10.0.0.9", "10.0.0.9/24", lease.address, lease.address.ip):
        assert form in net
        found = net.lookup(form)
        assert found is not None
        assert found.owner == A1
    assert "10.0.0.8" not in net
    net.reserve("10.0.0.8")
    assert "10.0.0.8" not in net
    wrong: Any
    for wrong in (None, 5, (4, 167772169), b"10.0.0.9", lease, ipaddress.ip_network("10.0.0.0/8")):
        for call in (net.lookup, net.reservation, net.release_address, net.__contains__):
            with pytest.raises(fastipam.ConfigError, match="address is not an address"):
                call(wrong)
        with pytest.raises(fastipam.ConfigError, match="address is not an address"):
            net.holder_at(wrong, 0)
    assert net.release_address(lease.address) == lease


def test_reserved(net: Network) -> None:
    """Targets are texts, addresses and networks; what changed comes back as addresses."""
    eight, nine = ipaddress.ip_address("10.0.0.8"), ipaddress.ip_address("10.0.0.9")
    assert net.reserve(ipaddress.ip_network("10.0.0.8/31"), owner="ns/db") == [eight, nine]
    assert net.reserve(nine) == [nine]
    assert net.unreserve(ipaddress.ip_interface("10.0.0.9/24")) == [nine]
    assert net.unreserve("10.0.0.0/24") == [eight]
    for wrong in (None, 5, (4, 167772169), ["10.0.0.9"], b"10.0.0.9"):
        with pytest.raises(fastipam.ConfigError, match="target"):
            net.reserve(wrong)  # type: ignore[arg-type]
        with pytest.raises(fastipam.ConfigError, match="target"):
            net.unreserve(wrong)  # type: ignore[arg-type]
    texts: Any = (None, A1, "a\0")
    for text in texts:
        with pytest.raises(fastipam.ConfigError, match="owner"):
            net.reserve("10.0.0.9", owner=text)
        with pytest.raises(fastipam.ConfigError, match="reason"):
            net.reserve("10.0.0.9", reason=text)
    assert list(net.reservations()) == []


def test_get(net: Network) -> None:
    """An owner's lease is had by its names, with its siblings, until it is released."""
    made = net.allocate("a1")
    net.allocate("a1", "net1")
    net.allocate("b1")
    found = net.get("a1")
    assert found is not None
    assert (found, found.siblings) == (made, made.siblings)
    assert (found.owner, found.created, made.created) == (A1, False, True)
    assert [(one.ifname, one.family) for one in net.owned_by("a1")] == [
        ("eth0", 4),
        ("eth0", 6),
        ("net1", 4),
        ("net1", 6),
    ]
    assert (net.get("a1", "net2"), net.get("c1"), net.owned_by("c1")) == (None, None, [])
    net.release("a1")
    assert net.get("a1") is None
    assert [one.owner for one in net.owned_by("a1")] == [Owner("a1", "net1")] * 2
    for wrong in (None, "", 5):
        with pytest.raises(fastipam.ConfigError, match="container_id"):
            net.get(wrong)  # type: ignore[arg-type]
        with pytest.raises(fastipam.ConfigError, match="container_id"):
            net.owned_by(wrong)  # type: ignore[arg-type]


def test_created(net: Network) -> None:
    """``created`` tells a new lease from the one that was there; other addresses are an error."""
    made = net.allocate("a1", existing="return")
    again = net.allocate("a1", existing="return", addresses=[made.address])
    assert (made.created, again.created) == (True, False)
    assert [one.created for one in again.siblings] == [False, False]
    assert again.address == made.address
    with pytest.raises(fastipam.DuplicateAllocation, match=r"10\.0\.0\.77"):
        net.allocate("a1", existing="return", addresses=["10.0.0.77"])
    assert [one.created for one in net.allocate_many([B1])[0].siblings] == [True, True]
    assert not any(one.created for one in net.leases())


def test_a_bad_release_leaves_all(net: Network) -> None:
    """``release_many`` is one transaction: a generator that fails releases nothing."""
    net.allocate_many([A1, B1])

    def failing() -> Iterator[Owner]:
        yield A1
        raise RuntimeError("the list could not be read")

    with pytest.raises(RuntimeError):
        net.release_many(failing())
    assert owners(net) == [A1, B1]


def test_namespace(net: Network, tmp_path: Path) -> None:
    """A namespace that cannot be seen is refused, and a relative path is made absolute."""
    known = Netns.of("/proc/self/ns/net")
    assert known.inode
    assert known.mount_ns
    assert "self" not in known.path
    assert known == Netns(known.path, known.inode, known.mount_ns, known.born_ns)
    assert net.allocate("a1", netns=known).inode == known.inode
    for wrong in (tmp_path / "none", tmp_path, "", "a\0b", None, 5):
        with pytest.raises(fastipam.ConfigError, match="network namespace"):
            Netns.of(wrong)  # type: ignore[arg-type]
    for keyword in ("inode", "born_ns", "mount_ns"):
        for number in (-1, 1 << 64, "7", 7.0, True, None):
            with pytest.raises(fastipam.ConfigError, match=keyword):
                Netns("/run/netns/x", **{keyword: number})  # type: ignore[arg-type]
    with pytest.raises(fastipam.ConfigError, match="path"):
        Netns(tmp_path)  # type: ignore[arg-type]


def test_stats(net: Network) -> None:
    """``stats`` is a value with the counts of the network and of each of its sets."""
    for at in range(253):
        net.allocate(f"c{at}")
    stats = net.stats()
    v4, v6 = stats.sets
    assert (stats.network, stats.assigned, stats.other_sets) == ("test", 506, ())
    assert stats.size == stats.assigned + stats.cooling + stats.reserved + stats.free
    assert (v4.family, v4.assigned, v4.free, v4.full, v4.used_percent) == (4, 253, 0, True, 100.0)
    assert (v6.family, v6.assigned, v6.full, v6.blocks) == (6, 253, False, None)
    assert (stats.can_serve, stats.used_percent) == (False, 100.0)
    assert v4.ranges[0]["subnet"] == "10.0.0.0/24"
    with pytest.raises(fastipam.PoolExhausted):
        net.allocate("none")
    assert net.stats() == stats == pickle.loads(pickle.dumps(stats))
    assert eval(repr(v4.size), {}) == 253
    net.release("c0")
    assert net.stats().can_serve
    assert net.stats() != stats
    for value in (stats, v4):
        with pytest.raises(AttributeError, match="size cannot be set"):
            value.size = 1
        with pytest.raises(AttributeError):
            del value.size
        with pytest.raises(TypeError):
            hash(value)


def test_stats_as_a_document(net: Network) -> None:
    """``to_dict`` is a document of JSON, in the words of ``fastipam stats --json``."""
    net.allocate("a1")
    document = net.stats().to_dict()
    assert json.loads(json.dumps(document)) == document
    assert list(document) == [
        "network", "pool", "size", "assigned", "cooling", "reserved", "free",
        "range_sets", "other_range_sets", "used_percent",
    ]  # fmt: skip
    assert list(document["range_sets"][0]) == [
        "family", "ranges", "size", "assigned", "cooling", "reserved", "free",
        "used_percent", "full", "excluded",
    ]  # fmt: skip


def test_stats_of_a_new_network(net: Network) -> None:
    """All of a network that was never used is free; one without ranges can serve nothing."""
    stats = net.stats()
    assert (stats.can_serve, stats.assigned, stats.used_percent) == (True, 0, 0.0)
    assert stats.size == stats.free == sum(one.size for one in stats.sets)
    unknown = fastipam.Network(net.store, "unknown", None).stats()
    assert (unknown.sets, unknown.can_serve, unknown.used_percent) == ((), False, None)


def test_ranges(net: Network) -> None:
    """The ranges can be read, printed, and given to another network, with what is excluded."""
    assert str(net.ranges[0]) == "10.0.0.1-10.0.0.254"
    ipam = fastipam.Ipam(net.store)
    wanted: Any = [[{"subnet": "10.9.0.0/29", "gateway": "10.9.0.6"}, "10.9.1.0/30"], "fd00::/125"]
    given = ipam.network("given", wanted, exclude=["10.9.0.2"])
    again = ipam.network("again", given.ranges)
    assert repr(again.ranges) == repr(given.ranges)
    assert "10.9.0.0/29" in repr(given.ranges)
    for each in (given, again):
        first = each.allocate("a1")
        assert [str(one) for one in first.addresses] == ["10.9.0.1/29", "fd00::2/125"]
        assert str(each.allocate("b1").address.ip) == "10.9.0.3"
        assert str(first.gateway) == "10.9.0.6"
    assert repr(ipam.network("again").ranges) == repr(given.ranges)
    assert fastipam.Network(net.store, "unknown", None).ranges == ()


def test_wrong_arguments_of_history(net: Network) -> None:
    """A pod that is no text, and a time that is no number of nanoseconds, are refused at once."""
    net.allocate("a1", pod=("ns", "web"))
    wrong: Any
    for wrong in (Pod("ns", "web"), ("ns", "web"), None):
        with pytest.raises(fastipam.ConfigError, match="pod must be a string"):
            net.history(pod=wrong)
    for wrong in (1.5, "now", True):
        for keyword in ("since_ns", "until_ns"):
            with pytest.raises(fastipam.ConfigError, match=keyword):
                net.history(**{keyword: wrong})
        with pytest.raises(fastipam.ConfigError, match="wall_ns"):
            net.holder_at("10.0.0.2", wrong)
    assert [one.kind for one in net.history(pod="ns/web")] == ["assigned", "assigned"]


# Options and names that a network cannot have: the keywords, and the field that is wrong.
NO_NETWORKS: list[tuple[dict[str, Any], str]] = [
    *(
        ({option: wrong}, option)
        for option in ("cooldown_s", "sticky_s", "history", "history_age_s")
        for wrong in ("5", True, [5], b"5")
    ),
    ({"sticky_s": 1.5}, "sticky_s"),
    ({"history": 1.5}, "history"),
    ({"name": None}, "name"),
    ({"name": ["podnet"]}, "name"),
    ({"name": ""}, "name"),
    ({"name": "a\0b"}, "name"),
    ({"ranges": 5}, "ranges"),
    ({"ranges": b"10.9.0.0/24"}, "ranges"),
    ({"ranges": {"subnet": "10.9.0.0/24"}}, "ranges"),
    ({"ranges": ipaddress.ip_network("10.9.0.0/24")}, "ranges"),
    ({"exclude": "10.9.0.9"}, "exclude"),
    ({"exclude": {}}, "exclude"),
    ({"exclude": 5}, "exclude"),
    ({"exclude": ["10.9.0.9", 5]}, "exclude[1]"),
    ({"exclude": ipaddress.ip_network("10.0.0.0/8")}, "exclude[0]"),
]


@pytest.mark.parametrize(("wrong", "field"), NO_NETWORKS)
def test_wrong_arguments_of_network(net: Network, wrong: dict[str, Any], field: str) -> None:
    """An argument of the wrong shape is named with its value, with ranges and without."""
    ipam = fastipam.Ipam(net.store)
    net.allocate("a1")
    for usual in ({"name": "new", "ranges": "10.9.0.0/24"}, {"name": "test"}):
        with pytest.raises(fastipam.ConfigError) as caught:
            ipam.network(**usual | wrong)
        assert caught.value.field == field
        assert field in str(caught.value)
        assert repr(caught.value.value) in str(caught.value)
    assert ipam.networks() == ["test"]


def test_no_address(net: Network) -> None:
    """A network is no address; a text with host bits and a length is one, but no target."""
    lease = net.allocate("a1")
    for network in ("10.0.0.0/24", "2001:db8::/64", "0.0.0.0/0"):
        for call in (net.lookup, net.reservation, net.release_address, net.history, "in"):
            with pytest.raises(
                fastipam.ConfigError, match="address is not an address, but a network"
            ):
                network in net if call == "in" else call(network)  # type: ignore[operator]
        with pytest.raises(fastipam.ConfigError, match=r"addresses\[0\] is not an address"):
            net.allocate("b1", addresses=[network])
    assert net.lookup(lease.cidr) == lease
    for change in (net.reserve, net.unreserve):
        with pytest.raises(fastipam.ConfigError, match="has host bits") as caught:
            change("10.0.0.9/24")
        assert caught.value.hint == (
            "write '10.0.0.9' for the address, '10.0.0.0/24' for all of its prefix"
        )
    assert list(net.reservations()) == []
    assert net.reserve("10.0.0.9/32") == net.unreserve("10.0.0.8/31")
    with temporary_network("10.7.0.0/31") as pair:
        first = pair.allocate("a1")
        assert pair.lookup(first.cidr) == first


def test_wrong_numbers_and_times(net: Network) -> None:
    """A generation or a time that cannot be one is refused before anything is released."""
    lease = net.allocate("a1")
    wrong: Any
    for wrong in ("1", 1.5, True, [lease.generation]):
        with pytest.raises(fastipam.ConfigError, match="generation"):
            net.release_address(lease.address, generation=wrong)
    assert net.release_address(lease.address, generation=lease.generation + 1) is None
    for wrong in (-1, 1 << 80, float("nan")):
        with pytest.raises(fastipam.ConfigError, match="before_ns"):
            net.retain([], wrong)
        with pytest.raises(fastipam.ConfigError, match="since_ns"):
            net.history(since_ns=wrong)
        with pytest.raises(fastipam.ConfigError, match="wall_ns"):
            net.holder_at(lease.address, wrong)
    assert owners(net) == [A1]


def test_a_turned_pair(net: Network) -> None:
    """A container id where an interface is wanted is refused, and not taken for nobody's."""
    net.allocate("f" * 64)
    for call in (net.release, net.get, net.check):
        with pytest.raises(fastipam.ConfigError, match="ifname"):
            call("eth0", "f" * 64)
        with pytest.raises(fastipam.ConfigError, match="ifname"):
            call("f" * 64, "eth/0")
        with pytest.raises(fastipam.ConfigError, match="ifname"):
            call("f" * 64, None)  # type: ignore[arg-type]
    assert owners(net) == [Owner("f" * 64)]
    assert net.release("f" * 64, "") == []


def test_pod_of_history(net: Network) -> None:
    """A pod is asked for by its namespace and name; a half of them is no question."""
    net.allocate("a1", pod=("ns", "web"))
    for wrong in ("eth0", "web", "ns/", "/web", "/"):
        with pytest.raises(fastipam.ConfigError, match="namespace/name"):
            net.history(pod=wrong)


def test_events_and_reservations_are_values(net: Network) -> None:
    """What was read twice is equal, and so is a copy; another one is not."""
    net.allocate("a1")
    net.reserve("10.0.0.8/31", owner="ns/db", reason="x")
    for read in (net.history, net.reservations):
        once, again = list(read()), list(read())
        assert once == again
        assert pickle.loads(pickle.dumps(once)) == again
        assert len(set(once + again)) == len(once)
        assert once[0] != once[1]
        assert once[0] != "one"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"path": "a\0b"}, "path"),
        ({"path": "a\ud800"}, "path"),
        ({"path": b"a"}, "path"),
        ({"create": "no"}, "create"),
        ({"create": None}, "create"),
    ],
)
def test_wrong_arguments_of_open(tmp_path: Path, wrong: dict[str, Any], field: str) -> None:
    """An argument that cannot be one is named with its value, and makes no directory."""
    with pytest.raises(fastipam.ConfigError) as caught:
        fastipam.open(**{"path": tmp_path / "store"} | wrong)
    assert caught.value.field == field
    assert repr(wrong[field]) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_of_upkeep(net: Network, tmp_path: Path) -> None:
    """What is no store, no path, no number of seconds or no function is named with its value."""
    ipam, file = fastipam.Ipam(net.store), tmp_path / "file"
    net.allocate("a1")
    no_ipam, no_store, no_path, no_time, no_function = (
        "ipam",
        "store",
        "path",
        "grace_s",
        "progress",
    )
    wrong: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
        *(
            (call, (one,), {}, no_ipam)
            for call in (sweep, finish_reboot)
            for one in (None, net.store)
        ),
        *(
            (call, (one,), {}, no_store)
            for call in (verify, repair)
            for one in (None, ipam, "path")
        ),
        *((call, (ipam, file), {}, no_store) for call in (backup, restore)),
        *(
            (call, (net.store, path), {}, no_path)
            for call in (backup, restore)
            for path in (None, "", 5, b"file", "a\0b", "a\ud800", ["file"])
        ),
        *((sweep, (ipam,), {"grace_s": s}, no_time) for s in (-1, "5", True, float("nan"), None)),
        *((call, (ipam,), {"progress": 5}, no_function) for call in (sweep, finish_reboot)),
        *((call, (net.store,), {"progress": 5}, no_function) for call in (verify, repair)),
        *((call, (net.store, file), {"progress": 5}, no_function) for call in (backup, restore)),
        (sweep, (ipam,), {"network": "tset"}, "name"),
    ]
    for call, arguments, keywords, field in wrong:
        with pytest.raises(fastipam.ConfigError) as caught:
            call(*arguments, **keywords)
        assert caught.value.field == field
        assert repr(caught.value.value) in str(caught.value)
    assert owners(net) == [A1]
    assert list(tmp_path.iterdir()) == []
    assert sweep(ipam, network="test").looked == 2


class Name(StrEnum):
    """Texts of a class of their own, as configuration files and enumerations have them."""

    CONTAINER = "a1"
    IFNAME = "eth0"
    NAMESPACE = "default"
    POD = "web"
    NETWORK = "podnet"

    def __str__(self) -> str:
        return "another text"

    def __format__(self, spec: str) -> str:
        return "another text"


def test_texts_of_a_class_of_their_own(net: Network) -> None:
    """A text of a class derived from str is the text that it holds, wherever one is wanted."""
    ipam = fastipam.Ipam(net.store)
    podnet = ipam.network(Name.NETWORK, "10.9.0.0/24", cooldown_s=0)
    pod = (Name.NAMESPACE, Name.POD)
    lease = podnet.allocate(Name.CONTAINER, Name.IFNAME, pod=pod)
    assert (lease.network, lease.owner, lease.pod) == ("podnet", A1, Pod("default", "web"))
    assert [type(one) for one in (*lease.owner, lease.network)] == [str, str, str]
    assert podnet.get(Name.CONTAINER, Name.IFNAME) == podnet.get("a1") == lease
    podnet.check(Name.CONTAINER, Name.IFNAME)
    assert podnet.release(Name.CONTAINER, Name.IFNAME) == [lease.address.ip]
    owner = Owner(Name.CONTAINER, Name.IFNAME)
    for given in (owner, (Name.CONTAINER, Name.IFNAME)):
        assert podnet.allocate_many([given], pods=[pod])[0].pod == Pod("default", "web")
        assert podnet.release_many([given]) == 1
    (reserved,) = podnet.reserve("10.9.0.9", owner=Name.CONTAINER, reason=Name.POD)
    assert podnet.allocate(Name.CONTAINER).address.ip == reserved
    assert podnet.release_many([A1]) == 1
    with ipam.transaction() as txn:
        assert txn.network(Name.NETWORK).allocate(Name.CONTAINER).owner == A1
    assert ipam.networks() == ["podnet"]


class Unshown:
    """An object whose repr raises."""

    def __repr__(self) -> str:
        raise RuntimeError


WRONG = [10**5000, Unshown(), "x" * 100_000, "a\nb\udc80\x1b[2J", str]


@pytest.mark.parametrize("wrong", WRONG, ids=["long number", "repr", "long", "control", "class"])
def test_the_message_of_any_value(net: Network, wrong: Any) -> None:
    """A message is one short line that can be printed, whatever the value is."""
    calls: list[Callable[[], object]] = [
        lambda: net.allocate(wrong, "a/b"),
        lambda: net.allocate("a1", ifname=wrong),
        lambda: net.allocate("a1", addresses=wrong),
        lambda: net.allocate("a1", addresses=[wrong]),
        lambda: net.allocate("a1", existing=wrong),
        lambda: net.allocate("a1", netns=wrong),
        lambda: net.allocate("a1", pod=wrong),
        lambda: net.allocate_many(wrong),
        lambda: net.allocate_many([wrong]),
        lambda: net.allocate_many([A1], pods=[wrong]),
        lambda: net.release_many([("a1", "eth0", wrong)]),  # type: ignore[list-item]
        lambda: net.check(wrong, "eth0"),
        lambda: net.lookup(wrong),
        lambda: net.history(since_ns=wrong),
        lambda: fastipam.Ipam(net.store).network("new", wrong),
        lambda: fastipam.Ipam(net.store).network("new", "10.9.0.0/24", exclude=wrong),
        lambda: fastipam.Ipam(net.store).network("new", "10.9.0.0/24", cooldown_policy=wrong),
    ]
    for call in calls:
        with pytest.raises(fastipam.FastipamError) as caught:
            call()
        message = caught.value.message
        assert message.isprintable()
        assert len(message) < 5000
        assert len(caught.value.hint or "") < 5000
        message.encode()
    assert list(net.leases()) == []
