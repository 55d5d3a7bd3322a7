"""``fastipam gc``: which lists are believed, and which leases a list can speak of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import fastipam
from fastipam.cli import attachments
from fastipam.cli.commands import cli
from fastipam.ipam import open_with
from fastipam.testing import Clock

FASTIPAM = str(Path(sys.executable).with_name("fastipam"))
HOUR_NS = 3600 * 10**9
IDS = [digit * 64 for digit in "abc"]


@pytest.fixture
def filled(data_dir: Path) -> Path:
    """Three containers that were added an hour ago."""
    clock = Clock(time.time_ns() - HOUR_NS)
    with open_with(data_dir, "relaxed", clock=clock) as ipam:
        net = ipam.network("podnet", "10.32.0.0/24", cooldown_s=0)
        for one in IDS:
            net.allocate(one)
    return data_dir


def gc(data_dir: Path, *words: str, text: str) -> Result:
    """Run the command with a list on standard input."""
    line = ["gc", "--network", "podnet", "--data-dir", str(data_dir), *words, "-"]
    return CliRunner().invoke(cli, line, input=text)


def left(data_dir: Path) -> list[str]:
    """Return the containers that have a lease."""
    with fastipam.open(data_dir) as ipam:
        return [lease.container_id for lease in ipam.network("podnet").leases()]


@pytest.mark.parametrize(
    "text",
    [
        "{b}\n{c} eth0\n",
        "# pods\n{b} eth0\n\n{c}",
        '[{{"containerID": "{b}", "ifname": "eth0"}}, {{"containerID": "{c}", "ifname": "eth0"}}]',
        '{{"cni.dev/valid-attachments": [{{"containerID": "{b}", "ifname": "eth0"}},'
        ' {{"containerID": "{c}", "ifname": "eth0"}}]}}',
    ],
)
def test_forms(filled: Path, text: str) -> None:
    """Every form of the list; a dry run says the same and changes nothing."""
    text = text.format(b=IDS[1], c=IDS[2])
    for dry in (["--dry-run"], []):
        assert left(filled) == IDS
        done = gc(filled, "--json", *dry, text=text)
        assert [row["address"] for row in json.loads(done.stdout)] == ["10.32.0.2"]
    assert left(filled) == IDS[1:]


@pytest.mark.parametrize("line", [b"c\xff", b"x\0y", b"FATA[0000]", b"c1 eth0 more"])
def test_no_list(filled: Path, line: bytes) -> None:
    """A line that is no container's id, by the specification, is an accident: nothing is freed."""
    done = subprocess.run(
        [FASTIPAM, "gc", "--network", "podnet", "--data-dir", str(filled), "-"],
        input=IDS[0].encode() + b"\n" + line + b"\n",
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(b"fastipam: standard input, line 2: ")
    assert left(filled) == IDS


def test_empty_list(filled: Path) -> None:
    """An empty list is an accident, unless the operator says otherwise."""
    done = gc(filled, text="\n")
    assert done.exit_code == 1
    assert "--allow-empty" in done.stderr
    assert "not valid JSON" in gc(filled, text="[" * 100_000).stderr
    assert left(filled) == IDS
    assert gc(filled, "--allow-empty", text="").exit_code == 0
    assert left(filled) == []


def test_closed_standard_input(filled: Path) -> None:
    """Without standard input the message says what belongs there."""
    done = subprocess.run(
        [
            "sh",
            "-c",
            'exec "$@" <&-',
            "sh",
            FASTIPAM,
            "gc",
            "--network",
            "podnet",
            "--data-dir",
            str(filled),
            "-",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("fastipam: standard input cannot be read")
    assert "crictl pods -q | fastipam gc" in done.stderr
    assert left(filled) == IDS


def test_added_while_the_list_came(filled: Path) -> None:
    """A container that was added after the list was made is spared, and counted."""
    with fastipam.open(filled) as ipam:
        ipam.network("podnet").allocate("d" * 64)
    done = gc(filled, text=IDS[0])
    assert done.exit_code == 0
    assert left(filled) == [IDS[0], "d" * 64]
    assert "2 addresses released; the list names 1 container, 1 of them" in done.stderr
    assert "1 address not released: younger than the list" in done.stderr


@pytest.mark.parametrize(
    ("words", "released"),
    [
        (["--older-than", "50m"], 2),
        (["--older-than", "70m"], 0),
        (["--before", "50m"], 2),
        (["--before", "70m"], 0),
    ],
)
def test_age_of_the_list(filled: Path, words: list[str], released: int) -> None:
    """Only what is older than the given time, or as old as the given duration, is released."""
    assert gc(filled, *words, text=IDS[0]).exit_code == 0
    assert len(left(filled)) == 3 - released


def test_two_ages(filled: Path) -> None:
    """Two times for one list are a mistake, and so is a duration that is none."""
    assert gc(filled, "--before", "1h", "--older-than", "1m", text=IDS[0]).exit_code == 2
    done = gc(filled, "--older-than", "soon", text=IDS[0])
    assert done.exit_code == 2
    assert "'soon' is not a duration; use 90s, 10m" in done.stderr


def test_list_of_the_future(filled: Path) -> None:
    """No list was made later than now: a typo would release what was added after the list."""
    done = gc(filled, "--before", "2999-01-01", text=IDS[0])
    assert done.exit_code == 2
    assert "--before is in the future" in done.stderr
    assert len(left(filled)) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "the list is not valid JSON"),
        ("c1 eth0 x", "'c1 eth0 x' is not a container id and an interface"),
    ],
)
def test_unreadable_list(filled: Path, tmp_path: Path, content: str, message: str) -> None:
    """The error names the file that was given."""
    path = tmp_path / "list"
    path.write_text(content)
    line = ["gc", "--network", "podnet", "--data-dir", str(filled), str(path)]
    done = CliRunner().invoke(cli, line)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"fastipam: {path}")
    assert message in done.stderr


@pytest.mark.parametrize("through_stdin", [False, True])
@pytest.mark.parametrize(("changed_s", "released"), [(50, 0), (70, 2)])
def test_list_in_a_file(
    filled: Path, tmp_path: Path, changed_s: int, released: int, through_stdin: bool
) -> None:
    """A file is as old as its last change, also as standard input: the margin counts from there."""
    with fastipam.open(filled) as ipam:
        added_ns = next(iter(ipam.network("podnet").leases())).allocated_ns
    path = tmp_path / "list"
    path.write_text(IDS[0])
    os.utime(path, ns=(added_ns + changed_s * 10**9,) * 2)
    with path.open() as file:
        subprocess.run(
            [
                FASTIPAM,
                "gc",
                "--network",
                "podnet",
                "--data-dir",
                str(filled),
                "-" if through_stdin else str(path),
            ],
            stdin=file,
            capture_output=True,
            check=True,
        )
    assert len(left(filled)) == 3 - released


def test_file_of_the_future(tmp_path: Path) -> None:
    """A file whose time is in the future is as old as the command."""
    path = tmp_path / "list"
    path.write_text("c1")
    now_ns = path.stat().st_mtime_ns - 10**9
    assert attachments.read(str(path), now_ns) == ({("c1", "")}, now_ns)


@pytest.mark.parametrize("part", [slice(12), slice(20, 40), slice(1, 64)])
def test_shortened_ids(filled: Path, part: slice) -> None:
    """Parts of ids are refused, also beside whole ids: every container would lose its lease."""
    for text in (IDS[0][part], f"{IDS[1]}\n{IDS[0][part]}", f"{IDS[0][part]} eth0"):
        done = gc(filled, text=text)
        assert done.exit_code == 1
        assert "the list has shortened ids, and nothing was released" in done.stderr
        assert IDS[0] in done.stderr
        assert left(filled) == IDS
    assert gc(filled, "--allow-unknown", text=f"{IDS[1]}\n{IDS[0][part]}").exit_code == 0
    assert left(filled) == [IDS[1]]


@pytest.mark.parametrize(
    "text",
    [
        f"{IDS[0]} web-0\n{IDS[1]} web-1\n{IDS[2]} web-2\n",
        f"{IDS[0]} eth0\n{IDS[1]} web-1\n{IDS[2]}\n",
        f"{IDS[0]}\n{IDS[1]} {IDS[2]}\n",
    ],
)
def test_a_word_that_is_no_interface(filled: Path, text: str) -> None:
    """A name behind an id is no interface: containers that run would lose their leases."""
    done = gc(filled, text=text)
    assert done.exit_code == 1
    assert "but its interface here is 'eth0': nothing was released" in done.stderr
    assert left(filled) == IDS
    assert gc(filled, "--allow-unknown", text=text).exit_code == 0
    assert len(left(filled)) < len(IDS)


def test_part_of_a_listed_id(filled: Path) -> None:
    """A list may have an id that begins another one, when that one is listed as well."""
    done = gc(filled, "--json", text=f"{IDS[0]}\n{IDS[0][:12]}\n")
    assert done.exit_code == 0
    assert left(filled) == [IDS[0]]


def test_unknown_ids(filled: Path) -> None:
    """A list that names no container of the network is of something else: it is refused."""
    for words in ([], ["--dry-run"]):
        done = gc(filled, *words, text="d" * 64)
        assert done.exit_code == 1
        assert "no container of the list has a lease in network podnet" in done.stderr
        assert "--allow-unknown" in done.stderr
        assert left(filled) == IDS
    assert gc(filled, "--allow-unknown", text="d" * 64).exit_code == 0
    assert left(filled) == []
    done = gc(filled, text="d" * 64)  # without leases nothing can be released by mistake
    assert done.exit_code == 0
