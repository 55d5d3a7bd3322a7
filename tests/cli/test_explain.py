"""``fastipam show``: the state of an address in a sentence, whatever it is."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Literal

import pytest
from click.testing import CliRunner

import fastipam
from fastipam.cli.commands import cli
from fastipam.cli.explain import explain
from fastipam.cli.times import Stamps, duration, parse, stamp
from fastipam.ipam import open_with
from fastipam.namespaces import Netns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastipam.ipam import Ipam

V4 = 4


@pytest.fixture
def ipam(data_dir: Path) -> Iterator[Ipam]:
    """A store with a small network."""
    with fastipam.open(data_dir, "relaxed") as opened:
        opened.network("podnet", "10.1.0.0/29", cooldown_s=60).allocate("c1", pod=("web", "web-0"))
        yield opened


def _value(last: int) -> int:
    return (10 << 24) + (1 << 16) + last


def _told(ipam: Ipam, last: int) -> dict[str, Any]:
    found = explain(ipam, "podnet", (V4, _value(last)), local=False)
    assert found is not None
    return found


def test_assigned(ipam: Ipam) -> None:
    """Whose it is and since when; a lease that names no namespace says so."""
    told = _told(ipam, 2)
    assert told["status"] == "ASSIGNED"
    assert told["why"].startswith("web/web-0 has had it for ")
    assert told["netns_state"] == "not recorded"
    assert [one["event"] for one in told["history"]] == ["assigned"]


def test_namespace(ipam: Ipam, tmp_path: Path) -> None:
    """There, replaced by another one, gone."""
    file = tmp_path / "netns"
    file.touch()
    network = ipam.network("podnet")
    inode = file.stat().st_ino
    here = network.allocate("c2", netns=Netns(str(file), inode=inode)).value
    other = network.allocate("c3", netns=Netns(str(file), inode=inode + 1)).value
    gone = network.allocate("c4", netns=Netns(str(tmp_path / "gone"), inode=inode)).value
    states = [_told(ipam, value & 0xFF)["netns_state"] for value in (here, other, gone)]
    assert states == [
        "there",
        "another namespace has its path now",
        "not there: No such file or directory",
    ]


def test_namespace_that_has_lost_its_path(ipam: Ipam, tmp_path: Path) -> None:
    """The path is gone, or leads to another file, and a process runs in the namespace."""
    file = tmp_path / "netns"
    file.touch()
    inode = os.stat("/proc/self/ns/net").st_ino
    network = ipam.network("podnet")
    for name, path in (("c2", file), ("c3", tmp_path / "gone")):
        value = network.allocate(name, netns=Netns(str(path), inode=inode)).value
        assert _told(ipam, value & 0xFF)["netns_state"] == (
            "there, but not at its path: this process"
        )


@pytest.mark.parametrize(
    ("policy", "when"), [("prefer", "earlier when nothing else is free"), ("strict", "not earlier")]
)
def test_cooling(policy: Literal["prefer", "strict"], when: str, ipam: Ipam) -> None:
    """How long ago it was given back, and when it may be assigned again."""
    network = ipam.network("podnet", "10.1.0.0/29", cooldown_s=60, cooldown_policy=policy)
    network.allocate("c2")
    network.release("c2")
    told = _told(ipam, 3)
    assert told["status"] == "COOLING"
    assert "released " in told["why"]
    assert told["why"].endswith(f", {when}")


def test_cooled(data_dir: Path) -> None:
    """With its cool-down over it waits to be taken out of the queue."""
    now_ns = [1_790_000_000 * 10**9]
    with open_with(data_dir, "relaxed", clock=lambda: now_ns[0]) as ipam:
        network = ipam.network("podnet", "10.1.0.0/29", cooldown_s=60)
        network.allocate("c1")
        network.release("c1")
        now_ns[0] += 61 * 10**9
        told = _told(ipam, 2)
    assert told["why"] == "released 1m 1s ago; its cool-down of 60 s is over"


def test_reserved(ipam: Ipam) -> None:
    """For somebody, for nobody, and for a pod that had it."""
    network = ipam.network("podnet")
    network.reserve("10.1.0.5", owner="web/db-0", reason="moved")
    network.reserve("10.1.0.6")
    assert _told(ipam, 5)["why"] == "reserved for web/db-0 until `fastipam unreserve 10.1.0.5`"
    assert _told(ipam, 6)["why"].startswith("reserved for no owner until ")
    network.reserve("10.1.0.2")
    assert _told(ipam, 2)["why"].endswith("; reserved for no owner from then on")
    sticky = ipam.network("podnet", "10.1.0.0/29", sticky_s=3600)
    sticky.allocate("c9", pod=("web", "web-9"))
    sticky.release("c9")
    told = _told(ipam, 3)
    assert told["why"].startswith("kept for web/web-9, which had it, for another ")
    assert 0 < told["reserved_for_s"] <= 3600


def test_nobodys(ipam: Ipam) -> None:
    """Free, the gateway, an end of the subnet; not in this network at all."""
    assert _told(ipam, 4)["why"] == "free; any allocation may get it"
    assert _told(ipam, 1)["why"].startswith("the address is the gateway")
    assert (
        _told(ipam, 7)["why"]
        == "the address is in the subnet of a range, but not between rangeStart and rangeEnd"
    )
    ipam.network("podnet", "10.1.0.0/29", exclude=["10.1.0.6"]).allocate("c2")
    assert _told(ipam, 6)["why"] == "the address is excluded by the configuration"
    assert {_told(ipam, last)["status"] for last in (1, 6, 7)} == {"EXCLUDED"}
    assert explain(ipam, "podnet", (V4, _value(200)), local=False) is None
    assert explain(ipam, "unknown", (V4, _value(2)), local=False) is None


def test_before_a_reboot(data_dir: Path) -> None:
    """What an earlier boot has left says so until it is swept."""
    for boot in ("one", "two"):
        with open_with(data_dir, "relaxed", boot_id=lambda boot=boot: boot) as ipam:
            network = ipam.network("podnet", "10.1.0.0/29")
            if boot == "one":
                network.allocate("c1")
            else:
                assert "before the last reboot" in _told(ipam, 2)["why"]


def test_command(ipam: Ipam, data_dir: Path) -> None:
    """``show`` finds the network by the address, and prints the same as JSON."""
    words = ["show", "10.1.0.2", "--data-dir", str(data_dir), "--json"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0
    assert json.loads(done.output)[0]["why"] == _told(ipam, 2)["why"]
    done = CliRunner().invoke(cli, ["show", "10.9.9.9", "--data-dir", str(data_dir)])
    assert done.exit_code == 1


def test_times() -> None:
    """Now, how long ago, the last time that a clock showed it, a date; nothing for no time."""
    now_s = 1_790_000_000.5
    assert parse("now", now_s).start_ns == 1_790_000_000 * 10**9
    assert parse("2h ago", now_s).start_ns == (1_790_000_000 - 7200) * 10**9
    for text, length_s in (("23:59", 60), ("00:00:01", 1)):
        found = parse(text, now_s)
        assert found.end_ns - found.start_ns == length_s * 10**9
        assert now_s - 86_400 < found.start_ns / 1e9 <= now_s
    day = parse("2026-11-24", now_s)
    assert day.end_ns - day.start_ns == 86_400 * 10**9
    assert parse("2026-11-24T14:05Z").start_ns == 1_795_529_100 * 10**9
    assert stamp(0) == ""
    stamps = Stamps(local=False)
    assert stamps(1_795_529_100 * 10**9) == stamps(1_795_529_100 * 10**9 + 5)
    assert stamps(1_795_529_100 * 10**9) == "2026-11-24T14:05:00Z"
    assert [duration(s) for s in (0, 61, 3600, 90_000)] == ["0s", "1m 1s", "1h", "1d 1h"]
    for text in ("25:00", "yesterday", "2026-13-01"):
        with pytest.raises(ValueError, match=r".+"):
            parse(text, now_s)
