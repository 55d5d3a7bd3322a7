"""ADD: which address comes next, what a failure leaves behind. The scenarios are host-local's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .plugin import VERSIONS, Answer, Call, Held, Make

if TYPE_CHECKING:
    from pathlib import Path

FREE = {"cooldown": 0}
SLASH_29 = {"subnet": "10.0.0.0/29"} | FREE
SLASH_30 = {"subnet": "10.0.0.0/30"} | FREE
V6 = {"subnet": "2001:db8:1::/64"} | FREE


def _first(answer: Answer) -> str:
    """The first address of a result of any version, without its length."""
    document = answer.document
    one = document.get("ip4") or document.get("ip6")
    return str(one["ip"] if one else answer.addresses[0]).partition("/")[0]


@pytest.fixture
def take(call: Call) -> Any:
    """Have exactly these addresses used and the cursor stand at one, then ADD once more."""

    def run(made: dict[str, Any], used: list[str], cursor: str | None) -> Answer:
        for address in used:
            if address != cursor:
                assert call("ADD", made, f"used-{address.replace(':', '_')}", args=f"IP={address}")
        if cursor is not None:
            assert call("ADD", made, "at-cursor", args=f"IP={cursor}").status == 0
            if cursor not in used:
                assert call("DEL", made, "at-cursor").status == 0
        return call("ADD", made, "new")

    return run


@pytest.mark.parametrize("version", VERSIONS)
def test_add_and_del(version: str, call: Call, config: Make, held: Held) -> None:
    """Scenario 1: dual stack, both addresses assigned and both freed."""
    ranges = [
        [{"subnet": "10.1.2.0/24"}, {"subnet": "10.2.2.0/24"}],
        [{"subnet": "2001:db8:1::0/64"}],
    ]
    made = config(version=version, ipam={"ranges": ranges})
    assert _first(call("ADD", made)) == "10.1.2.2"
    assert held() == {"10.1.2.2": ("c1", "eth0"), "2001:db8:1::2": ("c1", "eth0")}
    assert call("DEL", made) == Answer(0, None, "")
    assert held() == {}


@pytest.mark.parametrize("version", VERSIONS)
def test_two_networks(version: str, call: Call, config: Make, held: Held) -> None:
    """Scenario 2: networks are apart; DEL of one leaves the other."""
    one = config(version=version, name="mynet1", ipam={"subnet": "10.1.2.0/24"})
    two = config(version=version, name="mynet2", ipam={"subnet": "10.2.2.0/24"})
    assert _first(call("ADD", one, ifname="eth0")) == "10.1.2.2"
    assert _first(call("ADD", two, ifname="eth1")) == "10.2.2.2"
    assert call("DEL", one, ifname="eth0").status == 0
    assert held("mynet1") == {}
    assert held("mynet2") == {"10.2.2.2": ("c1", "eth1")}
    assert call("DEL", two, ifname="eth1").status == 0
    assert held("mynet2") == {}


def test_same_ranges_in_two_networks(call: Call, config: Make) -> None:
    """An address is unique in its network, not beyond."""
    for name in ("mynet1", "mynet2"):
        made = config(name=name, ipam={"subnet": "10.1.2.0/24"})
        assert call("ADD", made).addresses == ["10.1.2.2/24"]


@pytest.mark.parametrize("version", VERSIONS)
def test_repeat_add(version: str, call: Call, config: Make, held: Held) -> None:
    """Scenario 3: a second ADD of the same owner fails, another owner has the next address."""
    made = config(version=version, ipam={"subnet": "10.1.2.0/24"})
    assert _first(call("ADD", made)) == "10.1.2.2"
    answer = call("ADD", made)
    assert answer.code == 102
    assert "10.1.2.2" in answer.message
    assert _first(call("ADD", made, "c2")) == "10.1.2.3"
    assert held() == {"10.1.2.2": ("c1", "eth0"), "10.1.2.3": ("c2", "eth0")}


def test_two_interfaces(call: Call, config: Make) -> None:
    """Another interface of the same container is another owner."""
    made = config(ipam={"subnet": "10.1.2.0/24"})
    assert call("ADD", made, ifname="eth0").addresses == ["10.1.2.2/24"]
    assert call("ADD", made, ifname="eth1").addresses == ["10.1.2.3/24"]
    assert call("DEL", made, ifname="eth0").status == 0
    assert call("CHECK", made, ifname="eth1").status == 0
    assert call("CHECK", made, ifname="eth0").code == 104


@pytest.mark.parametrize("version", VERSIONS)
def test_first_allocation_is_silent(version: str, call: Call, config: Make) -> None:
    """Scenario 7: the first ADD of a new store has nothing to say."""
    assert call("ADD", config(version=version, ipam={"subnet": "10.1.2.0/24"})).stderr == ""


# The allocator's table ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ipam", "used", "cursor", "expected"),
    [
        (SLASH_29, [], None, "10.0.0.2"),
        (V6, [], None, "2001:db8:1::2"),
        (SLASH_30, [], None, "10.0.0.2"),
        (SLASH_29, ["10.0.0.5"], "10.0.0.5", "10.0.0.6"),
        (SLASH_29, [], "10.0.0.5", "10.0.0.6"),
        (SLASH_29, ["10.0.0.4", "10.0.0.5"], "10.0.0.3", "10.0.0.6"),
        (SLASH_29, ["10.0.0.6"], "10.0.0.5", "10.0.0.2"),
        (SLASH_29, [f"10.0.0.{one}" for one in (2, 4, 5, 6)], "10.0.0.3", "10.0.0.3"),
        (SLASH_29, [], "10.0.0.6", "10.0.0.2"),
    ],
)
def test_round_robin(
    ipam: dict[str, Any],
    used: list[str],
    cursor: str | None,
    expected: str,
    take: Any,
    config: Make,
) -> None:
    """The search begins behind the last assigned address and wraps; that address comes last."""
    assert _first(take(config(ipam=ipam), used, cursor)) == expected


@pytest.mark.parametrize(
    ("subnets", "cursor", "expected"),
    [
        (["10.0.0.0/30", "10.0.1.0/30"], None, "10.0.0.2"),
        (["10.0.0.0/30", "10.0.1.0/30"], "10.0.0.2", "10.0.1.2"),
        (["10.0.0.0/30", "10.0.1.0/30", "10.0.2.0/30"], "10.0.2.2", "10.0.0.2"),
    ],
)
def test_round_robin_over_ranges(
    subnets: list[str], cursor: str | None, expected: str, take: Any, config: Make
) -> None:
    """The ranges of a set are one pool, in the order in which they are written."""
    made = config(ipam={"ranges": [[{"subnet": subnet} for subnet in subnets]]} | FREE)
    assert _first(take(made, [], cursor)) == expected


def test_ranges_out_of_order(call: Call, config: Make) -> None:
    """The order of the ranges is the configuration's, not that of the addresses."""
    ranges = [[{"subnet": "10.0.9.0/30"}, {"subnet": "10.0.1.0/30"}, {"subnet": "10.0.5.0/30"}]]
    made = config(ipam={"ranges": ranges} | FREE)
    got = [_first(call("ADD", made, f"c{at}")) for at in range(3)]
    assert got == ["10.0.9.2", "10.0.1.2", "10.0.5.2"]
    call("DEL", made, "c1")
    assert _first(call("ADD", made, "c3")) == "10.0.1.2"


@pytest.mark.parametrize(
    ("cursor", "expected"),
    [
        (None, [2, 3, 4, 5, 6]),
        ("192.168.1.6", [2, 3, 4, 5, 6]),
        ("192.168.1.3", [4, 5, 6, 2, 3]),
    ],
)
def test_iteration(
    cursor: str | None, expected: list[int], take: Any, call: Call, config: Make
) -> None:
    """Every address comes once, the cursor's own last; then the set is exhausted."""
    made = config(ipam={"subnet": "192.168.1.0/29"} | FREE)
    got = [_first(take(made, [], cursor))]
    got += [_first(call("ADD", made, f"c{at}")) for at in range(4)]
    assert got == [f"192.168.1.{one}" for one in expected]
    assert call("ADD", made, "late").code == 100


def test_cursor_outside(call: Call, config: Make) -> None:
    """A cursor outside the ranges, after they have changed, counts as none."""
    old = config(ipam={"subnet": "10.0.0.0/24"} | FREE)
    call("ADD", old, args="IP=10.0.0.128")
    new = config(ipam=SLASH_29)
    assert _first(call("ADD", new, "c2")) == "10.0.0.2"
    assert _first(call("ADD", new, "c3")) == "10.0.0.3"


def test_after_release(call: Call, config: Make) -> None:
    """A released address is not the next one, even without a cool-down."""
    made = config(ipam=SLASH_29)
    assert _first(call("ADD", made)) == "10.0.0.2"
    call("DEL", made)
    assert _first(call("ADD", made)) == "10.0.0.3"


def test_request_moves_the_cursor(call: Call, config: Make) -> None:
    """After a requested address the next automatic one is the one behind it."""
    made = config(ipam={"subnet": "10.1.2.0/24"})
    call("ADD", made, args="IP=10.1.2.88")
    assert call("ADD", made, "c2").addresses == ["10.1.2.89/24"]


@pytest.mark.parametrize("version", VERSIONS)
def test_exhausted(version: str, call: Call, config: Make, held: Held) -> None:
    """A full range set is code 100 with its ranges; after a DEL there is room again."""
    ranges = [[{"subnet": "10.0.0.0/30"}, {"subnet": "10.0.1.0/30"}]]
    made = config(version=version, ipam={"ranges": ranges})
    assert _first(call("ADD", made, "c1")) == "10.0.0.2"
    assert _first(call("ADD", made, "c2")) == "10.0.1.2"
    answer = call("ADD", made, "c3")
    assert answer.code == 100
    assert "10.0.0.1-10.0.0.2,10.0.1.1-10.0.1.2" in answer.message
    assert len(held()) == 2
    call("DEL", made, "c1")
    assert _first(call("ADD", made, "c3")) == "10.0.0.2"


def test_exhausted_with_the_cursor_at_an_end(call: Call, config: Make) -> None:
    """The search ends when the cursor is the end of a range and everything is used."""
    ranges = [[{"subnet": f"10.0.{at}.0/29"} for at in range(3)]]
    made = config(ipam={"ranges": ranges})
    for at in range(3):
        for last in (2, 3, 4, 5, 6):
            assert call("ADD", made, f"c{at}{last}", args=f"IP=10.0.{at}.{last}").status == 0
    for end in ("c06", "c16", "c26"):
        call("DEL", made, end)
        assert call("ADD", made, end).status == 0
        assert call("ADD", made, "late").code == 100


def test_dual_stack_is_one_step(call: Call, config: Make, held: Held) -> None:
    """When one family is exhausted the other is not touched, and the cursor stays."""
    ranges = [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8::/126"}]]
    made = config(ipam={"ranges": ranges} | FREE)
    assert call("ADD", made, "c1").addresses == ["10.1.2.2/24", "2001:db8::2/126"]
    assert call("ADD", made, "c2").addresses == ["10.1.2.3/24", "2001:db8::3/126"]
    for _ in range(3):
        answer = call("ADD", made, "c3")
        assert answer.code == 100
        assert "2001:db8::1-2001:db8::3" in answer.message
    assert len(held()) == 4
    call("DEL", made, "c1")
    assert call("ADD", made, "c3").addresses == ["10.1.2.4/24", "2001:db8::2/126"]


def test_a_failure_keeps_what_the_owner_has(call: Call, config: Make, held: Held) -> None:
    """A failed ADD does not free what the owner had before, in these ranges or in others."""
    call("ADD", config(ipam={"subnet": "10.9.0.0/24"}))
    made = config(ipam={"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.3.0/30"}]]})
    assert call("ADD", made).code == 102
    assert call("ADD", made, "c2").status == 0
    assert call("ADD", made, "c3").code == 100
    assert held()["10.9.0.2"] == ("c1", "eth0")
    assert len(held()) == 3


def test_ranges_grow(call: Call, config: Make) -> None:
    """More ranges in the configuration are served at once; what is assigned stays."""
    small = config(ipam={"ranges": [[{"subnet": "10.0.0.0/30"}]]})
    large = config(ipam={"ranges": [[{"subnet": "10.0.0.0/30"}, {"subnet": "10.0.1.0/30"}]]})
    assert call("ADD", small, "c1").status == 0
    assert call("ADD", small, "c2").code == 100
    assert call("ADD", large, "c2").addresses == ["10.0.1.2/30"]
    assert call("ADD", small, "c3").code == 100
    assert call("CHECK", small, "c2").status == 0


def test_ranges_of_one_container(call: Call, config: Make) -> None:
    """runtimeConfig.ipRanges are one container's: the network's own ranges stay what they are."""
    made = config(ipam={"subnet": "10.1.2.0/24"})
    call("ADD", made, "c1")
    mine = {"runtimeConfig": {"ipRanges": [[{"subnet": "10.7.0.0/24"}]]}}
    assert call("ADD", made | mine, "c2").addresses == ["10.7.0.2/24", "10.1.2.3/24"]
    assert call("ADD", made, "c3").addresses == ["10.1.2.4/24"]
    assert call("CHECK", made, "c2").status == 0
    assert call("DEL", made, "c2").status == 0
    assert call("ADD", made | mine, "c4").addresses == ["10.7.0.3/24", "10.1.2.5/24"]


def test_pod_of_a_lease(call: Call, config: Make, tmp_path: Path) -> None:
    """The names that a Kubernetes runtime passes are on the lease."""
    import fastipam

    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=77"
    call("ADD", config(ipam={"subnet": "10.1.2.0/24"}), args=args, netns="/var/run/netns/x")
    with fastipam.open(tmp_path / "store") as ipam:
        lease = ipam.network("mynet").lookup("10.1.2.2")
    assert lease is not None
    assert (lease.pod_namespace, lease.pod_name, lease.pod_uid) == ("default", "web-0", "77")
    assert lease.netns == "/var/run/netns/x"
