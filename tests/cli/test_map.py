"""``fastipam map``: a file, the terminal, numbers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from PIL import Image

import fastipam
from fastipam.cli.commands.map_ import command

from ..measuring import passed_on

if TYPE_CHECKING:
    from click.testing import Result


FASTIPAM = Path(sys.executable).with_name("fastipam")


@pytest.fixture
def filled(data_dir: Path) -> Path:
    """A store with a network of two states."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("podnet", "10.1.0.0/24", exclude=["10.1.0.240/28"])
        for number in range(40):
            net.allocate(f"c{number}", pod=("web", "front"))
        for number in range(10):
            net.release(f"c{number}")
    return data_dir


def _run(data_dir: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["--data-dir", str(data_dir), *arguments])


def _size(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        assert image.format == "PNG"
        return image.size


def test_file(filled: Path, tmp_path: Path) -> None:
    """-o writes a PNG; bare, it has one pixel an address."""
    file = tmp_path / "map.png"
    done = _run(filled, "-o", str(file))
    assert (done.exit_code, done.output) == (0, f"wrote {file}: 902 x 650 pixels\n")
    assert _size(file) == (902, 650)
    assert _run(filled, "-o", str(file), "--bare", "--by", "owner").exit_code == 0
    assert _size(file) == (16, 16)


def test_plain(filled: Path) -> None:
    """Into a pipe it is characters, one an address, no escape sequences."""
    done = _run(filled)
    lines = done.output.splitlines()
    assert done.exit_code == 0
    assert lines[0] == "podnet: 10.1.0.0/24"
    text = "".join(lines[1:17])
    assert [text.count(one) for one in "#cx."] == [30, 10, 18, 198]
    assert lines[1].startswith("x")  # the network's address, at the top left
    assert "assigned 30  cooling 10" in lines[-1]
    assert lines[-1].startswith("10.1.0.0/24: size 238  ")
    assert lines[-1].endswith("  excluded 18")
    assert "\x1b" not in done.output


def test_text_file(filled: Path, tmp_path: Path) -> None:
    """-o FILE.txt writes what a pipe gets, of all networks, and says what it cannot show."""
    with fastipam.open(filled, "relaxed") as ipam:
        ipam.network("second", "10.2.0.0/28").allocate("c1")
    file = tmp_path / "map.TXT"
    done = _run(filled, "-o", str(file))
    lines = file.read_text().splitlines()
    assert (done.exit_code, done.output) == (0, f"wrote {file}: {len(lines)} lines\n")
    assert file.read_text() == _run(filled).output
    assert {"podnet: 10.1.0.0/24", "second: 10.2.0.0/28"} <= set(lines)
    assert "characters show states only" in _run(filled, "-o", str(file), "--by", "age").stderr
    assert _run(filled, "-o", str(file), "--bare").exit_code == 2


def test_each_range_set_is_counted(data_dir: Path) -> None:
    """The counts below the picture are of one range set each, with its ranges."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("podnet", ["10.32.1.0/29", "fd00:32::/64"])
        net.allocate_many([(f"c{number}", "eth0") for number in range(5)])
    lines = _run(data_dir).output.splitlines()
    assert "podnet: 10.32.1.0/29" in lines
    counts = "size 5  assigned 5  cooling 0  reserved 0  free 0  excluded 3"
    assert lines[-2:] == [
        f"10.32.1.0/29: {counts}",
        f"fd00:32::/64: size {2**64 - 2:,}  assigned 5  cooling 0  reserved 0  free {2**64 - 7:,}"
        "  excluded 2",
    ]


def test_terminal(filled: Path) -> None:
    """On a terminal it is half blocks in colour; with NO_COLOR it is not."""
    command = [str(FASTIPAM), "map", "--data-dir", str(filled)]
    program = f"import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn({command!r})))"
    for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={
                "TERM": "xterm-256color",
                "COLORTERM": "truecolor",
                "LANG": "C.UTF-8",
                "PATH": os.environ["PATH"],
                **passed_on(),
                **variables,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert ("▀" in done.stdout) == coloured
        assert ("38;2;46;184;160" in done.stdout) == coloured
        assert ("####" in done.stdout) != coloured
        assert "podnet: 10.1.0.0/24" in done.stdout
        assert "excluded 18" in done.stdout


def test_json(filled: Path) -> None:
    """--json counts each CIDR, and the counts add up."""
    rows = json.loads(_run(filled, "--json").output)
    assert [row["cidr"] for row in rows[:2]] == ["10.1.0.0/28", "10.1.0.16/28"]
    assert len(rows) == 16
    states = ("free", "assigned", "cooling", "reserved", "excluded", "outside")
    assert all(row["elsewhere"] == 0 for row in rows)
    assert all(sum(row[state] for state in states) == row["size"] == 16 for row in rows)
    assert [sum(row[state] for row in rows) for state in states] == [198, 30, 10, 0, 18, 0]
    (whole,) = json.loads(_run(filled, "--json", "--prefix", "24").output)
    assert (whole["cidr"], whole["assigned"]) == ("10.1.0.0/24", 30)
    assert len(json.loads(_run(filled, "--json", "--prefix", "32").output)) == 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--network", "x"), "no network 'x'"),
        (("-o", "x.svg"), r"x\.svg: the name ends in \.svg, but map writes \.png or \.txt"),
        (("-o", "x"), "x: the name has no ending"),
        (("--by", "block", "-o", "x.png"), "no blocks of a cluster"),
        (("--json", "--prefix", "23"), "/23 is not a valid prefix length for the rows of"),
        (("--json", "--prefix", "33"), "/33 is not a valid prefix length for the rows of"),
    ],
)
def test_errors(filled: Path, arguments: tuple[str, ...], message: str) -> None:
    """What cannot be drawn is an error that says so."""
    done = _run(filled, *arguments)
    assert done.exit_code == 1
    assert isinstance(done.exception, fastipam.ConfigError)
    assert re.search(message, str(done.exception))


@pytest.mark.parametrize("arguments", [("--bare",), ("--prefix", "24"), ("--json", "-o", "x.png")])
def test_options_that_do_not_go_together(filled: Path, arguments: tuple[str, ...]) -> None:
    """An option that would change nothing is refused."""
    assert _run(filled, *arguments).exit_code == 2


def test_several_networks(filled: Path, tmp_path: Path) -> None:
    """The terminal shows all networks, a file one."""
    with fastipam.open(filled) as ipam:
        ipam.network("second", "2001:db8::/64").allocate("c")
    assert "second: 2001:db8::/116 of 2001:db8::/64" in _run(filled).output
    done = _run(filled, "-o", str(tmp_path / "x.png"))
    assert "2 networks" in str(done.exception)
    assert _run(filled, "-o", str(tmp_path / "x.png"), "--network", "second").exit_code == 0
