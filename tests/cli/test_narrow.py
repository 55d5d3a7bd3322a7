"""Tables on a terminal of 80 columns: real commands, long names, IPv6, many networks."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

import fastipam
from fastipam.addressing import sizes
from fastipam.cli import columns, layout, topics
from fastipam.cli.commands import cli
from fastipam.cli.times import Ages

from .terminal import Terminal, plain

FASTIPAM = str(Path(sys.executable).with_name("fastipam"))
ROOT = Path(__file__).parents[2]
WIDTH = 80
LONG_IPV6 = "2001:db8:1234:5678:9abc:def0:1234:5670/124"
NETWORKS: dict[str, object] = {
    "podnet": "10.32.0.0/24",
    "a-network-with-quite-a-long-name-of-its-own": LONG_IPV6,
    "dual": [["10.50.0.0/16"], ["fd00:1234:5678:9abc::/64"]],
    **{f"secondary-{number}": f"10.6{number}.0.0/24" for number in range(6)},
}
FIRST_OF_LONG = "2001:db8:1234:5678:9abc:def0:1234:5672"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine networks, and pods whose names are as long as those of a Deployment's pods."""
    data_dir = tmp_path_factory.mktemp("narrow") / "store"
    with fastipam.open(data_dir, "relaxed") as ipam:
        for name, ranges in NETWORKS.items():
            net = ipam.network(name, ranges)  # type: ignore[arg-type]
            for number in range(5):
                pod = (f"team-payments-{number}", f"checkout-backend-7c9f8d6b5b-{number:05x}")
                net.allocate(f"{number:064x}", "eth0", pod=pod)
            net.release(f"{4:064x}", "eth0")
    return data_dir


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network, short names."""
    data_dir = tmp_path_factory.mktemp("narrow") / "small"
    with fastipam.open(data_dir, "relaxed") as ipam:
        ipam.network("podnet", "10.32.0.0/24").allocate("0a1b2c3d", pod=("web", "web-0"))
    return data_dir


def _shown(words: list[str], data_dir: Path, *, columns: int = WIDTH) -> list[str]:
    """Return the lines that a command prints on a terminal, which has to end with status 0."""
    command = [FASTIPAM, *words, "--data-dir", str(data_dir)]
    with Terminal(command, {"TZ": "UTC"}, columns=columns) as terminal:
        status, output = terminal.rest()
    assert status == 0, output
    return plain(output).splitlines()


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ("list", 50),
        ("list --network dual", 10),
        ("list --all --address 2001:db8:1234:5678:9abc:def0:1234:5670/125", 6),
        ("history --since 1h", 60),
        (f"history {FIRST_OF_LONG} --at now", 1),
        ("stats", 10),
        (f"release {FIRST_OF_LONG} --dry-run", 1),
        ("sweep --dry-run", 0),
        ("pool list", 9),
    ],
)
def test_no_row_wraps(line: str, rows: int, store: Path) -> None:
    """Every row is one line of at most 80 characters, and every address is whole."""
    lines = _shown(line.split(), store)
    assert max(map(len, lines)) <= WIDTH
    if not rows:
        return
    heading, *shown = lines
    assert len(shown) == rows
    # The columns stand below their headings: a row that wrapped would begin elsewhere.
    assert all(re.match(r"\S", row) for row in shown)
    if "IP" in heading.split():
        at = heading.index("IP")
        for row in shown:
            ipaddress.ip_address(row[at:].split()[0])  # raises for one that is cut


def test_what_leaves(store: Path, small: Path) -> None:
    """Ages replace times; one network is not named; the interface and the container leave first."""
    heading, *rows = _shown(["list"], store)
    assert heading.split() == ["IP", "STATUS", "POD", "NETWORK"]
    assert any("a-netw" in row for row in rows)
    assert _shown(["list", "--network", "podnet"], store)[0].split() == [
        "IP", "STATUS", "POD", "AGE",
    ]  # fmt: skip
    heading, row = _shown(["list"], small)
    assert heading.split() == ["IP", "STATUS", "POD", "CONTAINER", "INTERFACE", "AGE"]
    assert re.fullmatch(r"10\.32\.0\.2 +ASSIGNED +web/web-0 +0a1b2c3d +eth0 +\d+[sm0-9]*", row)


def test_pods_differ(store: Path) -> None:
    """The middle of a pod's name is cut out: its end tells it from the others of a Deployment."""
    rows = _shown(["list", "--network", "podnet"], store, columns=60)[1:]
    pods = [row.split()[2] for row in rows]
    assert len(set(pods)) == len(pods) == 5
    assert all("…" in pod and pod.startswith("team-") for pod in pods)


def test_powers_of_two(store: Path) -> None:
    """The numbers of an IPv6 network are powers; --wide, a pipe and --json have the digits."""
    row = next(line for line in _shown(["stats"], store) if "fd00" in line)
    assert row.split()[2] == "~2^64"
    digits = str(2**64 - 2)
    words = [FASTIPAM, "stats", "--data-dir", str(store)]
    piped = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert digits in piped
    assert "\n".join(_shown(["stats", "--wide"], store, columns=200)) == piped.rstrip("\n")
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=True)
    dual = next(one for one in json.loads(done.stdout) if one["network"] == "dual")
    assert dual["range_sets"][1]["size"] == 2**64 - 2


@pytest.mark.parametrize("line", ["list", "history --since 1h"])
def test_wide(line: str, store: Path) -> None:
    """--wide prints on a terminal what a pipe gets: every column, whole, with times."""
    words = [FASTIPAM, *line.split(), "--data-dir", str(store)]
    environment = {"TZ": "UTC", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    piped = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert _shown([*line.split(), "--wide"], store) == piped.stdout.splitlines()
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", piped.stdout)


def test_release_asks_in_80_columns(store: Path) -> None:
    """The table before the question fits, too, and it is the one that --dry-run shows."""
    words = [FASTIPAM, "release", FIRST_OF_LONG, "--data-dir", str(store)]
    with Terminal(words, columns=WIDTH) as terminal:
        terminal.until(r"Release 1 address\? \[y/N\]: ")
        terminal.settle()
        terminal.type("n\r")
        _, output = terminal.rest()
    lines = plain(output).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[:2] == _shown([*words[1:3], "--dry-run"], store)


def test_watch_keeps_its_footer(store: Path) -> None:
    """With more rows and networks than the screen has room for, the last two lines are there."""
    words = [FASTIPAM, "list", "--watch", "--interval", "0.1", "--data-dir", str(store)]
    with Terminal(words, columns=WIDTH, rows=24) as terminal:
        terminal.until("Ctrl-C ends")
        terminal.until("Ctrl-C ends")  # a whole screen has been drawn before it
        drawn = plain(terminal.output.split("\x1b[H")[-2]).splitlines()
        terminal.interrupt()
        terminal.rest()
    assert len(drawn) <= 24
    assert max(len(line.rstrip()) for line in drawn) <= WIDTH
    counts, hints = [line.rstrip() for line in drawn if line.strip()][-2:]
    assert re.match(r"\S.*: \d+ assigned, 1 cooling.* more in `fastipam stats`$", counts)
    assert hints == "the first 20 rows; a filter shows others   Ctrl-C ends"


LATER = (
    layout.Column("IP", "ip", 4),
    layout.Column("POD", "pod", least=6, middle=True),
    layout.Column("N", "n", number=True, drop=1),
)


def test_later_rows_that_are_longer() -> None:
    """An address that is longer than those that decided the widths is whole; the rest gives way."""

    def rows() -> Iterator[dict[str, object]]:
        for _ in range(layout.SAMPLE):
            yield {"ip": "10.0.0.1", "pod": "default/web", "n": 1}
        yield {"ip": "2001:db8::1:2:3", "pod": "default/web", "n": 1}

    lines = list(layout.lines(LATER, rows(), width=25))
    assert lines[1] == "10.0.0.1  default/web  1"
    assert lines[-1] == "2001:db8::1:2:3  de…eb  1"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (2**32 - 1, "4294967295"),
        (2**32, "2^32"),
        (2**64, "2^64"),
        (2**64 - 2, "~2^64"),
        (3 * 2**62, "~2^63.6"),
        (2**128, "2^128"),
    ],
)
def test_power(number: int, text: str) -> None:
    """What IPv4 can have is in digits; beyond it exact powers are told from rounded ones."""
    assert sizes.power(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (312, "5m12s"), (11_520, "3h12m"), (9e6, "104d"), (-5, "0s")],
)
def test_ages(seconds: float, text: str) -> None:
    """Two units at most; a clock that was set back makes no negative age."""
    now_ns = 1_800_000_000 * 10**9
    assert Ages(now_ns)(now_ns - int(seconds * 10**9)) == text
    assert Ages(now_ns)(0) == ""


def test_every_table_of_leases_has_an_address() -> None:
    """The address and the pod never leave a table."""
    for table in (columns.LEASES, columns.EVENTS, columns.HOLDERS):
        stay = {one.heading for one in table if not one.drop}
        assert {"IP", "POD"} <= stay


@pytest.mark.parametrize("name", topics.TOPICS)
def test_help_of_a_topic(name: str) -> None:
    """A topic has its terms and commands that exist, in 80 columns."""
    done = CliRunner().invoke(cli, ["help", name], terminal_width=WIDTH)
    assert done.exit_code == 0
    assert all(term in done.stdout for term, _ in topics.TOPICS[name].terms)
    for line in topics.TOPICS[name].commands:
        word = line.split()[0]
        assert CliRunner().invoke(cli, ["help", word]).exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= WIDTH


def test_help_of_commands() -> None:
    """``help WORDS`` is what ``WORDS --help`` prints; without words topics are listed as well."""
    for words in (["list"], ["cluster", "init"], ["help"]):
        named = CliRunner().invoke(cli, ["help", *words], prog_name="fastipam")
        asked = CliRunner().invoke(cli, [*words, "--help"], prog_name="fastipam")
        assert named.stdout == asked.stdout
        assert named.exit_code == 0
    everything = CliRunner().invoke(cli, ["help"]).stdout
    assert all(f"  {name}" in everything for name in (*topics.TOPICS, "list", "doctor"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["liist"], "'liist' is not a command or a topic; did you mean list"),
        (["statess"], "did you mean states or stats"),
        (["cluster", "initt"], "'cluster initt' is not a command or a topic; did you mean init?"),
        (["list", "x"], "'list x' is not a command or a topic; `fastipam help` lists all topics"),
    ],
)
def test_help_of_nothing(words: list[str], said: str) -> None:
    """A word that is not known is wrong usage, and similar ones are named."""
    done = CliRunner().invoke(cli, ["help", *words])
    assert done.exit_code == 2
    assert said in done.stderr


def test_help_links_to_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is that of the package's metadata, and is left out when there is none."""
    for named, shown in (
        (["Source, https://example.com/x", "Documentation, https://example.com/docs"], True),
        (None, False),
    ):
        monkeypatch.setattr(
            metadata, "metadata", lambda _, named=named: _Metadata(named), raising=True
        )
        text = CliRunner().invoke(cli, ["--help"]).stdout
        assert ("https://example.com/docs" in text) == shown
        assert "fastipam help TOPIC" in text


def test_the_documents_of_the_installed_package() -> None:
    """``fastipam --help`` prints the address that pyproject.toml has, from what is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address = project["urls"]["Documentation"]
    done = subprocess.run([FASTIPAM, "--help"], capture_output=True, text=True, check=True)
    assert address.startswith("https://")
    assert address in done.stdout.splitlines()[-2]


class _Metadata:
    def __init__(self, named: list[str] | None) -> None:
        self._named = named

    def get_all(self, name: str) -> list[str] | None:
        assert name == "Project-URL"
        return self._named
