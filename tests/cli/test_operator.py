"""What an operator types about addresses: look at them, change them, take care of the store."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import fastipam
from fastipam.addressing.addresses import parse_ip
from fastipam.cli import times
from fastipam.cli.commands import cli
from fastipam.ipam import open_with
from fastipam.lease import Requester
from fastipam.namespaces import Netns
from fastipam.storage import tables
from fastipam.storage.store import Store

FASTIPAM = str(Path(sys.executable).with_name("fastipam"))


@pytest.fixture
def filled(data_dir: Path) -> Path:
    """Four pods, one of them given back, and a reservation."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("podnet", "10.32.0.0/24")
        for number in range(4):
            net.allocate(f"c{number}", pod=("default", f"web-{number}"), netns=Netns("/gone/ns"))
        net.release("c2")
        net.reserve("10.32.0.99", owner="default/db-0", reason="printer")
    return data_dir


def run(data_dir: Path, *words: str, text: str | None = None) -> Result:
    """The command line on this store."""
    environment = {"FASTIPAM_DATA_DIR": str(data_dir), "TZ": "UTC"}
    return CliRunner().invoke(cli, list(words), input=text, env=environment)


def rows(data_dir: Path, *words: str, text: str | None = None) -> list[dict[str, Any]]:
    """What a command prints as JSON."""
    done = run(data_dir, *words, "--json", text=text)
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def addresses(data_dir: Path, *words: str) -> list[str]:
    return [row["address"] for row in rows(data_dir, "list", *words)]


def test_list(filled: Path) -> None:
    """IP, STATUS and POD of what is used, reservations among it, in address order."""
    found = [(row["address"], row["status"], row["pod"]) for row in rows(filled, "list")]
    assert found == [
        ("10.32.0.2", "ASSIGNED", "default/web-0"),
        ("10.32.0.3", "ASSIGNED", "default/web-1"),
        ("10.32.0.4", "COOLING", "default/web-2"),
        ("10.32.0.5", "ASSIGNED", "default/web-3"),
        ("10.32.0.99", "RESERVED", "default/db-0"),
    ]
    lines = run(filled, "list").stdout.splitlines()
    assert lines[0].split()[:3] == ["IP", "STATUS", "POD"]
    assert len(lines) == 6
    everything = rows(filled, "list", "--all")
    assert len(everything) == 253
    assert sum(row["status"] == "FREE" for row in everything) == 248


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--pod", "default/web-1"], ["10.32.0.3"]),
        (["--container", "c3"], ["10.32.0.5"]),
        (["--container", "c3", "--ifname", "eth0"], ["10.32.0.5"]),
        (["--container", "c", "--ifname", "eth1"], []),
        (["--owner", "default/db-0"], ["10.32.0.99"]),
        (["--owner", "c0"], ["10.32.0.2"]),
        (["--state", "cooling"], ["10.32.0.4"]),
        (["--state", "reserved"], ["10.32.0.99"]),
        (["--address", "10.32.0.4/31"], ["10.32.0.4", "10.32.0.5"]),
        (["--address", "10.32.0.3-10.32.0.4", "--state", "assigned"], ["10.32.0.3"]),
        (["--address", "10.32.0.98/31", "--all"], ["10.32.0.98", "10.32.0.99"]),
        (["--since", "1h"], ["10.32.0.2", "10.32.0.3", "10.32.0.4", "10.32.0.5"]),
        (["--since", "2099-01-01"], []),
    ],
)
def test_filters(filled: Path, words: list[str], expected: list[str]) -> None:
    """Each filter by itself and together with others, whichever index it uses."""
    assert addresses(filled, *words) == expected


def test_since_without_history(data_dir: Path) -> None:
    """A history that does not go back so far is not believed: the leases are looked at."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("podnet", "10.32.0.0/24", history=0)
        net.allocate("c0")
    assert addresses(data_dir, "--since", "1h") == ["10.32.0.2"]


def test_stats(filled: Path) -> None:
    """The four states add up to the size."""
    (row,) = rows(filled, "stats")
    parts = [row[state] for state in ("assigned", "cooling", "reserved", "free")]
    assert parts == [3, 1, 1, 248]
    assert sum(parts) == row["size"]


@pytest.fixture
def dual(data_dir: Path) -> Path:
    """A dual-stack network without a free IPv4 address."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("podnet", ["10.32.1.0/29", "fd00:32::/64"])
        for number in range(5):
            net.allocate(f"c{number}")
    return data_dir


def test_stats_of_a_full_ipv4_set(dual: Path) -> None:
    """A network is as full as its fullest range set, and every set has a line with its ranges."""
    (row,) = rows(dual, "stats")
    assert row["used_percent"] == 100
    assert [(one["family"], one["free"]) for one in row["range_sets"]] == [(4, 0), (6, 2**64 - 7)]
    assert [one["used_percent"] == 100 for one in row["range_sets"]] == [True, False]
    heading, v4, v6 = (line.split() for line in run(dual, "stats").stdout.splitlines())
    assert heading[:3] == ["NETWORK", "RANGES", "SIZE"]
    assert v4 == ["podnet", "10.32.1.0/29", "5", "5", "0", "0", "0", "100.00%"]
    assert v6[:2] == ["podnet", "fd00:32::/64"]
    assert v6[-1] == "<0.01%"


def test_stats_of_addresses_outside_of_the_ranges(data_dir: Path) -> None:
    """Addresses that no range has any longer are in a line of their own."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        ipam.network("podnet", "10.32.0.0/24").allocate("old")
        ipam.network("podnet", "10.33.0.0/24").allocate("new")
    lines = run(data_dir, "stats").stdout.splitlines()
    assert lines[1].split()[1:4] == ["10.33.0.0/24", "253", "1"]
    assert lines[2].split()[:3] == ["podnet", "outside", "1"]
    (row,) = rows(data_dir, "stats")
    assert (row["assigned"], row["range_sets"][0]["assigned"]) == (2, 1)


@pytest.mark.parametrize(
    ("address", "status", "because"),
    [
        ("10.32.0.2", "ASSIGNED", "default/web-0 has had it"),
        ("10.32.0.4", "COOLING", "released"),
        ("10.32.0.99", "RESERVED", "reserved for default/db-0"),
        ("10.32.0.50", "FREE", "any allocation"),
        ("10.32.0.1", "EXCLUDED", "gateway"),
        ("10.32.0.255", "EXCLUDED", "not between rangeStart and rangeEnd"),
    ],
)
def test_show(filled: Path, address: str, status: str, because: str) -> None:
    """Each state with its reason, for a person and for a program."""
    (shown,) = rows(filled, "show", address)
    assert shown["status"] == status
    assert because in shown["why"]
    assert because in run(filled, "show", address).stdout


def test_show_elsewhere(filled: Path) -> None:
    """An address of no network is an error."""
    done = run(filled, "show", "192.0.2.1")
    assert done.exit_code == 1
    assert "no network" in done.stderr


def test_history(filled: Path) -> None:
    """By address, by pod, by time; and the events in their order."""
    assert [row["event"] for row in rows(filled, "history", "10.32.0.4")] == [
        "assigned",
        "released",
    ]
    (one,) = rows(filled, "history", "--pod", "default/web-1")
    assert (one["address"], one["event"]) == ("10.32.0.3", "assigned")
    assert len(rows(filled, "history")) == 6
    assert rows(filled, "history", "--until", "2h") == []


def test_history_of_networks(data_dir: Path) -> None:
    """The events of all networks are in the order in which they happened."""
    now = 1_700_000_000 * 10**9
    with open_with(data_dir, "relaxed", clock=lambda: now) as ipam:
        networks = [ipam.network(f"net{n}", f"10.{n}.0.0/24") for n in range(2)]
        for number in range(4):
            now += 10**9
            networks[number % 2].allocate(f"c{number}")
    found = [(row["container_id"], row["network"]) for row in rows(data_dir, "history")]
    assert found == [("c0", "net0"), ("c1", "net1"), ("c2", "net0"), ("c3", "net1")]


def test_history_of_a_reservation(data_dir: Path) -> None:
    """What is reserved for a pod is among the pod's events, and names no container."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("podnet", "10.32.0.0/24")
        net.reserve("10.32.0.9", owner="default/db-0")
        net.unreserve("10.32.0.9")
        net.reserve("10.32.0.8", owner="c8")
    events = rows(data_dir, "history", "--pod", "default/db-0")
    assert [row["event"] for row in events] == ["reserved", "unreserved"]
    assert {(row["pod"], row["container_id"]) for row in events} == {("default/db-0", "")}
    (other,) = rows(data_dir, "history", "10.32.0.8")
    assert (other["pod"], other["container_id"]) == ("", "c8")


def test_who_had_it_at(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--at 14:05`` is everybody who had the address in that minute, and one command."""
    base = 1_700_000_000 // 60 * 60
    now = [base * 10**9]
    with open_with(data_dir, "relaxed", clock=lambda: now[0]) as ipam:
        net = ipam.network("podnet", "10.32.0.0/30", cooldown_s=0)
        for second, what in ((0, "a"), (310, ""), (330, "b"), (900, "")):
            now[0] = (base + second) * 10**9
            if what:
                net.allocate(what, pod=("ns", what))
            else:
                net.release("a")
                net.release("b")
        monkeypatch.setattr(time, "time", lambda: base + 1000.0)

    def at(second: int) -> list[str]:
        moment = times.stamp((base + second) * 10**9)
        done = run(data_dir, "history", "10.32.0.2", "--at", moment[:16] + "Z", "--json")
        found = [row["pod"] for row in json.loads(done.stdout)]
        assert done.exit_code == (0 if found else 1)
        return found

    assert at(60) == ["ns/a"]
    assert at(300) == ["ns/a", "ns/b"]
    assert at(600) == ["ns/b"]
    assert at(960) == []
    assert at(-120) == []
    done = run(data_dir, "history", "10.32.0.2", "--at", times.stamp((base - 120) * 10**9))
    assert "the history begins at" in done.stderr


@pytest.mark.parametrize(
    ("text", "seconds", "length"),
    [
        ("14:05", -55 * 60, 60),
        ("14:05:30", -55 * 60 + 30, 1),
        ("15:30", 30 * 60 - 86_400, 60),
        ("10m", -600, 1),
        ("2h ago", -7200, 1),
        ("2023-11-14", -15 * 3600, 86_400),
        ("2023-11-14 14:00", -3600, 60),
        ("2023-11-14T14:00:00+01:00", -7200, 1),
    ],
)
def test_times(text: str, seconds: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a time means at 15:00 UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    now = 1_699_974_000  # 2023-11-14 15:00:00
    moment = times.parse(text, now)
    assert moment.start_ns == (now + seconds) * 10**9
    assert moment.end_ns - moment.start_ns == length * 10**9


def test_release(filled: Path) -> None:
    """Only after --yes; a dry run changes nothing; what nobody has is an error."""
    assert run(filled, "release", "10.32.0.2", "--dry-run").exit_code == 0
    asked = run(filled, "release", "10.32.0.2")
    assert asked.exit_code == 1
    assert "--yes" in asked.stderr
    assert "10.32.0.2" in addresses(filled, "--state", "assigned")
    assert rows(filled, "release", "10.32.0.2", "--yes")[0]["released"]
    assert rows(filled, "release", "--container", "c3", "--yes")[0]["address"] == "10.32.0.5"
    assert addresses(filled, "--state", "assigned") == ["10.32.0.3"]
    again = run(filled, "release", "10.32.0.2", "--yes")
    assert again.exit_code == 1
    assert "10.32.0.2" in again.stderr
    assert rows(filled, "history", "10.32.0.2")[-1]["event"] == "released-by-operator"


@pytest.fixture
def dual_pods(data_dir: Path) -> Path:
    """Two dual-stack pods."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("podnet", ["10.32.1.0/24", "fd00:32::/64"], cooldown_s=0)
        for number in range(2):
            net.allocate(f"c{number}", pod=("default", f"web-{number}"))
    return data_dir


@pytest.mark.parametrize("address", ["10.32.1.3", "fd00:32::3"])
def test_release_of_a_dual_stack_container(dual_pods: Path, address: str) -> None:
    """Both addresses are in the dry run, in the question, in the result, and they are released."""
    both = {"10.32.1.3", "fd00:32::3"}
    assert {row["address"] for row in rows(dual_pods, "release", address, "--dry-run")} == both
    asked = run(dual_pods, "release", address)
    assert "2 addresses would be released" in asked.stderr
    done = rows(dual_pods, "release", address, "--yes")
    assert {row["address"] for row in done if row["released"]} == both
    assert addresses(dual_pods, "--state", "assigned") == ["10.32.1.2", "fd00:32::2"]
    said = run(dual_pods, "release", "10.32.1.2", "fd00:32::2", "10.32.1.9", "--yes")
    assert said.stdout.splitlines() == [
        "released 10.32.1.2 of default/web-0",
        "released fd00:32::2 of default/web-0",
    ]
    assert said.stderr == "not assigned: 10.32.1.9\n"


@pytest.mark.parametrize("change", ["another container", "the same container", "one more address"])
def test_release_of_what_has_changed_since_it_was_shown(
    dual_pods: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the owner got while the operator was asked is left alone, and the status says so."""
    from fastipam.cli.commands import release

    def meanwhile(*_: object, **__: object) -> None:
        with fastipam.open(dual_pods) as ipam:
            net = ipam.network("podnet")
            if change == "one more address":
                net._adopt(Requester("c0", "eth0"), 4, parse_ip("10.32.1.77")[1], 1)
                return
            net.release("c0")
            net.allocate("c0" if change == "the same container" else "new", addresses=["10.32.1.2"])

    monkeypatch.setattr(release, "_ask", meanwhile)
    done = run(dual_pods, "release", "10.32.1.2", "--json")
    assert done.exit_code == 1
    assert [row["released"] for row in json.loads(done.stdout)] == [False, False]
    assert "10.32.1.2" in addresses(dual_pods, "--state", "assigned")


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_show_of_an_address_that_no_network_has(filled: Path, words: list[str]) -> None:
    """Status 1, what exists, and with --json an empty array: a program reads it all the same."""
    done = run(filled, "show", "9.9.9.9", *words)
    assert (done.exit_code, done.stdout) == (1, "[]\n" if words else "")
    assert f"no network of {filled} has the address 9.9.9.9" in done.stderr
    assert "hint: the networks are podnet (10.32.0.0/24)" in done.stderr
    done = run(filled, "show", "9.9.9.9", "--network", "podnet", *words)
    assert "network podnet does not have the address 9.9.9.9" in done.stderr


def test_show_in_json_has_numbers(filled: Path) -> None:
    """How long an address has been assigned is a number of seconds."""
    (found,) = rows(filled, "show", "10.32.0.2")
    assert isinstance(found["age_s"], int)
    assert "age" not in found


def test_restore_in_the_same_boot(filled: Path, tmp_path: Path) -> None:
    """Text and JSON count records, and nobody says that leases of an earlier boot are left."""
    copy = str(tmp_path / "copy")
    assert run(filled, "backup", copy).exit_code == 0
    said = run(filled, "restore", copy, "--replace").stdout
    done = json.loads(run(filled, "restore", copy, "--replace", "--json").stdout)
    assert said == f"{filled}: {done['records']} records restored from {copy}\n"
    assert run(filled, "list").stderr == ""
    assert "earlier boot" not in run(filled, "sweep").stderr


def test_leases_of_an_earlier_boot_are_counted(data_dir: Path) -> None:
    """The list says how many are of an earlier boot, and the sweep that releases them as well."""
    with open_with(data_dir, "relaxed", boot_id=lambda: "before") as ipam:
        net = ipam.network("podnet", "10.32.0.0/24")
        for number in range(3):
            net.allocate(f"c{number}")
    assert "the list has 3 leases from an earlier boot" in run(data_dir, "list").stderr
    assert "3 leases from an earlier boot released" in run(data_dir, "sweep").stderr
    assert run(data_dir, "list").stderr == ""


@pytest.mark.parametrize("state", ["RESERVED", "reserved", "Reserved"])
def test_state_in_capitals_or_not(filled: Path, state: str) -> None:
    """A state is printed in capitals, and both spellings are understood."""
    found = rows(filled, "list", "--state", state)
    assert [(row["address"], row["status"]) for row in found] == [("10.32.0.99", "RESERVED")]
    assert rows(filled, "show", "10.32.0.99")[0]["status"] == "RESERVED"


def test_reserve(filled: Path) -> None:
    """A CIDR is reserved and given up again; who has an address keeps it."""
    found = rows(filled, "reserve", "10.32.0.4/30", "--reason", "spare")
    assert {row["address"]: row["status"] for row in found}["10.32.0.5"] == "ASSIGNED"
    assert "10.32.0.7" in addresses(filled, "--state", "reserved")
    ended = {row["address"]: row["status"] for row in rows(filled, "unreserve", "10.32.0.4/30")}
    assert sorted(ended) == [f"10.32.0.{at}" for at in (4, 5, 6, 7)]
    assert (ended["10.32.0.5"], ended["10.32.0.7"]) == ("ASSIGNED", "FREE")
    done = run(filled, "unreserve", "10.32.0.4/30")
    assert done.exit_code == 1
    assert "nothing is reserved" in done.stderr
    outside = run(filled, "reserve", "192.0.2.0/24")
    assert outside.exit_code == 1
    assert "192.0.2.0/24" in outside.stderr


def test_sweep(filled: Path, tmp_path: Path) -> None:
    """A namespace that is gone is noted, then its lease is given back; a dry run notes nothing."""
    alive = tmp_path / "ns"
    alive.touch()
    with fastipam.open(filled) as ipam:
        net = ipam.network("podnet")
        inode = alive.stat().st_ino
        net.allocate("alive", netns=Netns(str(alive), inode=inode))
        net.allocate("dead", netns=Netns(str(tmp_path / "gone"), inode=1))
    for words, result in ((["--dry-run"], "waiting"), ([], "waiting"), ([], "released")):
        found = rows(filled, "sweep", "--grace", "0", *words)
        assert {row["container_id"]: row["result"] for row in found}["dead"] == result
    assert "alive" in [row["container_id"] for row in rows(filled, "list")]
    said = run(filled, "sweep").stderr
    unknown = (
        "/gone/ns was recorded in an unknown place: this process cannot see whether it is gone"
    )
    assert f"3 leases skipped: {unknown}" in said
    assert "type `fastipam release ADDRESS`" in said


def test_sweep_ends_cool_downs(data_dir: Path) -> None:
    """What has cooled down is free after a sweep; --dry-run frees nothing."""
    hour_ns = 3600 * 10**9
    with open_with(data_dir, "relaxed", clock=lambda: time.time_ns() - hour_ns) as ipam:
        net = ipam.network("podnet", "10.32.0.0/24")
        net.allocate("c1")
        net.release("c1")
    run(data_dir, "sweep", "--dry-run")
    assert rows(data_dir, "stats")[0]["cooling"] == 1
    run(data_dir, "sweep")
    assert rows(data_dir, "stats")[0]["cooling"] == 0
    assert rows(data_dir, "list") == []


def test_check_and_repair(filled: Path) -> None:
    """A wrong counter is found (status 1), repaired, and then right."""
    assert run(filled, "check").exit_code == 0
    store = Store(filled)
    with store.write() as txn:
        key = next(iter(tables.OWNERS.scan(txn)))[0]
        tables.OWNERS.delete(txn, key)
    store.close()
    done = run(filled, "check")
    assert done.exit_code == 1
    assert "--repair" in done.stderr
    mended = run(filled, "check", "--repair")
    assert mended.exit_code == 0, mended.output
    assert "repaired: 1 change" in mended.stdout
    assert run(filled, "check", "--json").stdout == "[]\n"


def test_backup_and_restore(filled: Path, tmp_path: Path) -> None:
    """A backup goes into an empty store, and into a used one only when that is said."""
    file = tmp_path / "copy.mdb"
    before = rows(filled, "list")
    assert run(filled, "backup", str(file)).exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    new = tmp_path / "new"
    assert run(new, "restore", str(file)).exit_code == 0
    assert rows(new, "list") == before
    run(filled, "release", "10.32.0.2", "--yes")
    refused = run(filled, "restore", str(file))
    assert refused.exit_code == 1
    assert "--replace" in refused.stderr
    assert run(filled, "restore", str(file), "--replace").exit_code == 0
    assert rows(filled, "list") == before


def test_watch(filled: Path) -> None:
    """Into a pipe: the list, then a line for each change; Ctrl-C is a good end."""
    code = "from fastipam.cli.commands import cli; cli()"
    words = ["list", "--watch", "--json", "--interval", "0.1", "--data-dir", str(filled)]
    with subprocess.Popen(
        [sys.executable, "-uc", code, *words], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            first = [json.loads(process.stdout.readline()) for _ in range(5)]
            assert [row["address"] for row in first] == addresses(filled)
            with fastipam.open(filled) as ipam:
                ipam.network("podnet").allocate("new")
            event = json.loads(process.stdout.readline())
            assert (event["event"], event["container_id"]) == ("assigned", "new")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()  # else a failure above would wait for it for ever


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(filled: Path, shell: str) -> None:
    """Each shell gets a script of its own."""
    done = run(filled, "completion", shell)
    assert done.exit_code == 0
    assert "_FASTIPAM_COMPLETE" in done.stdout


# What a list leaves out, and does not ----------------------------------------------------------


def test_list_of_a_reserved_address_that_is_assigned(data_dir: Path) -> None:
    """An address that its owner has is one row, and a reserved one again when he has not."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("podnet", "10.32.0.0/24")
        net.reserve("10.32.0.9", owner="box")
        net.allocate("box")
    found = [(row["address"], row["status"]) for row in rows(data_dir, "list")]
    assert found == [("10.32.0.9", "ASSIGNED")]
    assert addresses(data_dir, "--all", "--address", "10.32.0.8/31") == ["10.32.0.8", "10.32.0.9"]


def test_list_all_with_addresses_outside(data_dir: Path) -> None:
    """Free addresses are those of the ranges; what is used outside of them is listed, too."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        for pool in ("10.1.0.0/24", "10.99.0.0/24", "10.32.0.0/30"):
            ipam.network("podnet", pool).allocate(f"c{pool[3]}")
    assert [(row["address"], row["status"]) for row in rows(data_dir, "list", "--all")] == [
        ("10.1.0.2", "ASSIGNED"),
        ("10.32.0.2", "ASSIGNED"),
        ("10.99.0.2", "ASSIGNED"),
    ]


def test_list_all_of_too_many(data_dir: Path) -> None:
    """Free addresses that nobody could read are not listed: a part of them is asked for."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        ipam.network("podnet", "2001:db8::/64").allocate("c")
    done = run(data_dir, "list", "--all")
    assert done.exit_code == 1
    assert "--all: network podnet has 18446744073709551614 addresses: too many" in done.stderr
    assert "hint: type a part of it, for example --address" in done.stderr
    found = addresses(data_dir, "--all", "--address", "2001:db8::2/127")
    assert found == ["2001:db8::2", "2001:db8::3"]


@pytest.mark.parametrize("text", ["tomorrow", "25:00", "2026-13-01", "9" * 30 + "d"])
def test_no_time(filled: Path, text: str) -> None:
    """What is no time is wrong usage, quoted, with the forms that there are."""
    done = run(filled, "list", "--since", text)
    assert done.exit_code == 2
    assert f"'{text}' is not a time; use 14:05, 2026-11-24 14:05 or 2h (" in done.stderr


def test_reader_that_goes_away(data_dir: Path) -> None:
    """Into a pipe that nobody reads any longer a list ends, with status 0 and without a word."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        ipam.network("podnet", "10.32.0.0/16").allocate_many(
            [(f"c{number}", "eth0") for number in range(3000)]
        )
    process = subprocess.Popen(
        [Path(sys.executable).with_name("fastipam"), "list", "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0


def test_what_is_not_there_is_said(filled: Path, tmp_path: Path) -> None:
    """A missing network is named with those that are there; a hint can be typed as it is."""
    for words in (("gc", "--network", "nosuch", "/dev/null"), ("network", "remove", "nosuch")):
        done = run(filled, *words)
        assert done.exit_code == 1
        assert "has no network 'nosuch'" in done.stderr
        assert "the networks of the store: podnet" in done.stderr
        assert "would be released" not in done.stderr
    assert "would be" not in run(tmp_path / "none", "gc", "--network", "n", "/dev/null").stderr
    assert "`fastipam show 10.32.0.77`" in run(filled, "release", "10.32.0.77").stderr


def test_reserve_finds_the_network(filled: Path) -> None:
    """--network is needed only where several networks, or none, have the address."""
    with fastipam.open(filled) as ipam:
        ipam.network("other", "10.77.0.0/24").allocate("x")
    for verb in ("reserve", "unreserve"):
        assert [row["network"] for row in rows(filled, verb, "10.77.0.9")] == ["other"]
        assert "name one: other, podnet" in run(filled, verb, "10.99.0.9").stderr
