"""No command prints a line that is wider than the terminal, however long the names are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import fastipam
from fastipam.cli import layout, output
from fastipam.cli.commands import cli
from fastipam.cluster import schema
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.engine import Delete
from fastipam.storage import tables

from ..cluster import nodes
from ..cluster.memory import MemoryEngine
from .test_commands import ALL

LONG = 63  # characters of a label: a pod, a namespace, a node
POD = "checkout-backend-for-the-payments-team".ljust(LONG - 6, "x") + "-{:05}"
NAMESPACE = "team-payments-europe".ljust(LONG, "n")
NODE = "worker-{}.eu-central-1.compute.internal".ljust(LONG, "m")
NETWORK = "a-network-with-a-name-that-is-as-long-as-a-label".ljust(LONG, "w")
V6 = "2001:db8:1234:5678:9abc:def0:1234:5670/124"
IN_V6 = "2001:db8:1234:5678:9abc:def0:1234:567"
LISTED = f"{0:064x}\n"
NOBODYS = 2**32 - 6  # an inode of no network namespace

# A command line, and texts that --wide has whole; none: it has no --wide.
LINES = {
    "list": [POD.format(1), NETWORK],
    "list --all --network dual --address fd00:1234:5678:9abc::/125": ["FREE"],
    "history": [POD.format(1), f"{1:064x}"],
    f"history {IN_V6}3 --at now": [POD.format(1), "FROM"],
    "stats": [str(2**64 - 2), NETWORK],
    f"show {IN_V6}3": [f"{NAMESPACE}/{POD.format(1)}", f"{1:064x}"],
    f"release {IN_V6}3 --dry-run": [POD.format(1), f"{1:064x}"],
    f"reserve {IN_V6}d --network {NETWORK}": [NETWORK],
    f"unreserve {IN_V6}e --network {NETWORK}": [NETWORK],
    "pool list": [NETWORK, str(2**64 + 2**16 - 5)],
    f"pool show {NETWORK}": [f"{IN_V6}1-{IN_V6}f", NETWORK],
    f"gc --network {NETWORK} --older-than 0s --dry-run listed": [POD.format(1)],
    "sweep --dry-run": [POD.format(1), f"/run/netns/{1:064x}"],
    "status --conf-dir configurations": [NETWORK, "no address"],
    "doctor --conf-dir configurations --bin-dir bin --host-local tree": [],
    "check": [],
    "check --data-dir damaged": [],
    "map": [],
    "import host-local tree --dry-run": [],
    "cluster nodes": [NODE.format(1), "fd00:1234:5678:9abc:def0:1234:5678:9a01"],
    "cluster blocks": [NODE.format(1), "/4096"],
    "cluster status": [NODE.format(1)],
    "cluster check": [],
}  # fmt: skip

# Commands that print no table: a sentence, a document for a program, or a log.
OTHERS = {
    "pool remove", "network remove", "backup", "restore", "export host-local", "cluster init",
    "cluster routes", "cluster rollout", "cluster claim", "cluster leave", "cluster release-node",
    "install", "conflist", "uninstall", "agent", "controller", "help", "completion",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores whose names are as long as they may be, and what the commands read beside them."""
    here = tmp_path_factory.mktemp("width")
    mounts = Path("/proc/self/ns/mnt").stat().st_ino
    for name in ("store", "damaged"):
        with fastipam.open(here / name, "relaxed") as ipam:
            for network, ranges in (
                (NETWORK, V6),
                ("dual", [["10.50.0.0/16"], ["fd00:1234:5678:9abc::/64"]]),
            ):
                net = ipam.network(network, ranges)
                for number in range(4):
                    netns = fastipam.Netns(f"/run/netns/{number:064x}", NOBODYS, mounts)
                    pod = (NAMESPACE, POD.format(number))
                    net.allocate(f"{number:064x}", "eth0", pod=pod, netns=netns)
            ipam.network(NETWORK).reserve(f"{IN_V6}e", owner=f"{NAMESPACE}/{POD.format(9)}")
            if name == "damaged":
                with ipam.store.write() as txn:
                    for key, _ in list(tables.OWNERS.scan(txn, b"", b"")):
                        tables.OWNERS.delete(txn, key)
    (here / "listed").write_text(LISTED)
    for name in ("bin", "tree", "configurations"):
        (here / name).mkdir()
    (here / "tree" / NETWORK).mkdir()
    for address in (
        f"{IN_V6}9",
        "10.99.0.1",
        "no-address-and-a-name-that-is-long".ljust(LONG, "x"),
    ):
        (here / "tree" / NETWORK / address).write_text(f"{9:064x}\r\neth0")
    full = {"type": "fastipam", "dataDir": str(here / "full"), "statusWhenFull": "unavailable"}
    full["ranges"] = [[{"subnet": "10.60.0.0/30"}]]  # type: ignore[assignment]
    with fastipam.open(here / "full", "relaxed") as ipam:
        ipam.network(NETWORK, "10.60.0.0/30").allocate("one")
    document = {"cniVersion": "1.1.0", "name": NETWORK, "type": "bridge", "ipam": full}
    (here / "configurations" / "10-a-file-with-a-long-name-of-its-own.conf").write_text(
        json.dumps(document)
    )
    (here / "configurations" / "20-broken.conf").write_text('{"name": ')
    return here


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Three nodes of a cluster with blocks of both families; return the file of its settings."""
    engine = MemoryEngine()
    pools: Any = {
        "pool": ["10.32.0.0/16", "fd00:1234:5678:9abc:def0:1234:5670:0/108"],
        "blockSize": [24, 116],
    }
    nodes.init(engine, **pools)
    for number in range(3):
        one = nodes.Machine(
            tmp_path, NODE.format(number), engine,
            address=f"fd00:1234:5678:9abc:def0:1234:5678:9a0{number}", **pools,
        )  # fmt: skip
        node = one.joined()
        for family in (4, 6):
            assert node.claim_family(family, 2, Deadline(5))
        one.store.close()
    keys, _ = engine.list(schema.Keys("/fastipam/", nodes.NETWORK).blocks, deadline_s=1)
    mine = next(one.key for one in keys if NODE.format(1).encode() in one.value)
    engine.transact([], [Delete(mine)], deadline_s=1)  # for `cluster check` to find
    monkeypatch.setattr("fastipam.cluster.registries.connect.open_registry", nodes.over(engine))
    file = tmp_path / "cluster.json"
    settings = {"engine": "etcd", "endpoints": ["http://127.0.0.1:1"], "network": nodes.NETWORK}
    settings |= {"node": NODE.format(1), "dataDir": str(tmp_path / NODE.format(1))}
    settings |= {"address": "fd00:1234:5678:9abc:def0:1234:5678:9a01"}
    file.write_text(json.dumps(settings | pools))
    return str(file)


def _lines(
    words: list[str], place: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Return what a command prints on a terminal of so many columns."""
    for name, value in (
        ("COLUMNS", str(columns)), ("NO_COLOR", "1"), ("TZ", "UTC"),
        ("FASTIPAM_SOCKET", str(place / "none.sock")),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    if words[0] != "cluster":
        monkeypatch.setenv("FASTIPAM_DATA_DIR", "store")
    monkeypatch.chdir(place)
    monkeypatch.setattr(output, "is_terminal", lambda _=None: True)
    monkeypatch.setattr("fastipam.cli.progress.bar", _no_bar)
    done = CliRunner().invoke(cli, words, prog_name="fastipam")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    assert "Usage" not in done.stderr
    assert done.stdout, done.stderr
    return done.stdout.splitlines()


class _no_bar:  # noqa: N801  # it stands for a function
    """Progress is on standard error, and not what a line of the answer is."""

    def __init__(self, _: str) -> None:
        pass

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        pass


def _words(line: str, request: pytest.FixtureRequest) -> list[str]:
    words = line.split()
    if words[0] == "unreserve":
        place = request.getfixturevalue("place")
        with fastipam.open(place / "store", "relaxed") as ipam:
            ipam.network(NETWORK).reserve(words[1])
    if words[0] == "cluster":
        words += ["--config", request.getfixturevalue("shared")]
    return words


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize("line", LINES)
def test_no_line_is_wider(
    line: str,
    columns: int,
    place: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No line is longer; a command to type ($ ...) is the exception, because it is copied."""
    lines = _lines(_words(line, request), place, columns, monkeypatch)
    wider = [one for one in lines if len(one) > columns and not re.match(r" *\$ ", one)]
    assert wider == []


@pytest.mark.parametrize("line", [line for line, whole in LINES.items() if whole])
def test_wide_has_all(
    line: str, place: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --wide nothing is cut, and nothing is left out."""
    lines = _lines([*_words(line, request), "--wide"], place, 60, monkeypatch)
    assert "…" not in "".join(lines)
    for text in LINES[line]:
        assert any(text in one for one in lines), (text, lines)


def test_every_command_is_here() -> None:
    """A new command is in one of both lists, and has --wide when something of it is cut."""
    names = {" ".join(path): command for path, command in ALL}
    shown = {next(name for name in names if f"{line} ".startswith(f"{name} ")) for line in LINES}
    assert shown | OTHERS == set(names)
    assert not shown & OTHERS
    whole = {name for name, one in names.items() if "wide" in {each.name for each in one.params}}
    assert whole == {
        name
        for name in shown
        if any(LINES[line] for line in LINES if f"{line} ".startswith(f"{name} "))
    }


def test_last_columns_to_leave() -> None:
    """Where cutting is not enough, a column below 0 leaves, and the address stays whole."""
    table = (
        layout.Column("AGO", "ago", drop=-1),
        layout.Column("IP", "ip"),
        layout.Column("POD", "pod", least=18, middle=True),
    )
    row = {"ago": "5m12s", "ip": f"{IN_V6}3", "pod": POD.format(1)}
    for width, headings in (
        (80, ["AGO", "IP", "POD"]),
        (60, ["AGO", "IP", "POD"]),
        (50, ["IP", "POD"]),
    ):
        heading, shown = layout.lines(table, [row], width=width)
        assert heading.split() == headings
        assert row["ip"] in shown
        assert len(shown) <= width
