"""The command line as a whole: what is imported when, help, errors, tables."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

import fastipam
from fastipam.cli import layout, output
from fastipam.cli.click_base import Command
from fastipam.cli.commands import COMMANDS, cli

if TYPE_CHECKING:
    from collections.abc import Iterator

FASTIPAM = str(Path(sys.executable).with_name("fastipam"))


def every_command(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Each command below a group with the words that lead to it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from every_command(found, (*path, name))
        else:
            yield (*path, name), found


ALL = list(every_command())
EXAMPLES = [
    (line, path) for path, one in ALL if isinstance(one, Command) for line, _ in one.examples
]


@pytest.mark.parametrize(("path", "command"), ALL, ids=str)
def test_help(path: tuple[str, ...], command: click.Command) -> None:
    """Every command says what it is for, each option what it does; examples, exit statuses."""
    done = CliRunner().invoke(cli, [*path, "--help"])
    assert done.exit_code == 0, done.output
    assert isinstance(command, Command), "fastipam.cli.click_base.command makes them"
    assert command.help
    assert command.examples
    assert "Exit status:" in done.output
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize(("line", "path"), EXAMPLES, ids=str)
def test_examples_parse(line: str, path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example is a command line that its command takes, if the files it names are there."""
    for param in dict(ALL)[path].params:
        if isinstance(param.type, click.Path):
            monkeypatch.setattr(param.type, "exists", False)
    for part in line.split(" | "):
        words = shlex.split(part.partition(" > ")[0].partition(" < ")[0])
        if words[0] != "fastipam":
            continue
        assert tuple(words[1 : 1 + len(path)]) == path
        command = dict(ALL)[path]
        context = command.make_context(path[-1], words[1 + len(path) :])
        assert context.params is not None


def test_root_help_imports_no_command() -> None:
    """Help and version cost the same however many commands there are."""
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom fastipam.cli.commands import cli\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0\n"
        "print(*[one for one in sys.modules"
        " if one.startswith(('fastipam', 'lmdb', 'rich', 'numpy', 'prometheus'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {
        "fastipam",
        "fastipam.cli",
        "fastipam.cli.commands",
        "fastipam.cli.click_base",
        "fastipam.cli.topics",
        "fastipam.errors",
    }


@pytest.mark.parametrize("words", [["list", "--help"], ["stats"], ["list"], ["check"]])
def test_light_commands(words: list[str], data_dir: Path) -> None:
    """What only looks at a store imports neither numpy nor, into a pipe, rich."""
    fastipam.open(data_dir).close()
    code = (
        f"import sys\nfrom fastipam.cli.commands import cli\n"
        f"try: cli({words!r}, prog_name='fastipam')\n"
        "except SystemExit: pass\n"
        "print(*[one for one in sys.modules if '.' not in one], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"FASTIPAM_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"numpy", "rich", "asyncio", "prometheus_client"} & set(done.stderr.split())


def test_summaries_are_sentences() -> None:
    """The one-line texts of the root's help fit on a line of 80 columns."""
    for name, entry in COMMANDS.items():
        assert len(entry.summary) <= 64, name
        assert entry.summary[-1] in ".?", name


def test_unknown_command() -> None:
    """A name that does not exist is wrong usage, and gets the names that are like it."""
    done = CliRunner().invoke(cli, ["lst"])
    assert done.exit_code == 2
    assert "Did you mean list" in done.output


def test_data_dir_before_the_command(data_dir: Path) -> None:
    """``--data-dir`` counts where it stands: at the command, before it, and then the variable."""
    fastipam.open(data_dir, "relaxed").close()
    here, elsewhere = str(data_dir), str(data_dir / "none")
    for words, variable in (
        (["--data-dir", here, "list"], elsewhere),
        (["--data-dir", elsewhere, "list", "--data-dir", here], elsewhere),
        (["list"], here),
        (["--data-dir", here, "export", "host-local", str(data_dir.parent / "out")], elsewhere),
    ):
        done = CliRunner().invoke(cli, words, env={"FASTIPAM_DATA_DIR": variable})
        assert done.exit_code == 0, (words, done.output)
    done = CliRunner().invoke(
        cli, ["--data-dir", elsewhere, "list"], env={"FASTIPAM_DATA_DIR": here}
    )
    assert done.exit_code == 1
    assert elsewhere in done.stderr


def test_no_store(data_dir: Path) -> None:
    """A store that is not there is one line and a hint; nothing is made."""
    done = CliRunner().invoke(cli, ["list", "--data-dir", str(data_dir)])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"fastipam: {data_dir}: there is no store\n  hint: ")
    assert not data_dir.exists()


COLUMNS = (
    layout.Column("NAME", "name", least=6),
    layout.Column("STATUS", "status"),
    layout.Column("N", "n", 3, number=True),
)
ROWS = [{"name": "a long name", "status": "ASSIGNED", "n": 7}, {"name": "", "status": "x", "n": 10}]


def test_plain_table() -> None:
    """Into a pipe: aligned, uncut, no empty cell, no codes."""
    assert list(output.lines(COLUMNS, ROWS)) == [
        "NAME         STATUS      N",
        "a long name  ASSIGNED    7",
        "-            x          10",
    ]


def test_narrow_terminal() -> None:
    """Only what may be cut is cut, and says so."""
    assert list(output.lines(COLUMNS, ROWS, width=22)) == [
        "NAME     STATUS      N",
        "a long…  ASSIGNED    7",
        "-        x          10",
    ]


def test_control_characters() -> None:
    """A name that came from a configuration cannot move the terminal's cursor."""
    (_, line) = output.lines(COLUMNS[:1], [{"name": "a\x1b[2Jb"}])
    assert line == "a\N{REPLACEMENT CHARACTER}[2Jb"


def test_table_streams() -> None:
    """A million rows are not collected: the first line comes after a bounded number of them."""
    asked = 0

    def endless() -> Iterator[dict[str, object]]:
        nonlocal asked
        while True:
            asked += 1
            yield ROWS[0]

    assert next(iter(output.lines(COLUMNS, endless())))
    assert asked <= layout.SAMPLE


def test_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR, a dumb terminal and a pipe have none."""

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.has_colours(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not output.has_colours(Terminal())
    assert output.is_terminal(Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert not output.is_terminal(Terminal())


def test_json_is_an_array(data_dir: Path) -> None:
    """Also when there is nothing to list."""
    fastipam.open(data_dir).close()
    done = CliRunner().invoke(cli, ["list", "--json", "--data-dir", str(data_dir)])
    assert json.loads(done.stdout) == []


def _run(redirected: str, words: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """A command line of fastipam's in a shell."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" {words} {redirected}', FASTIPAM],
        env=os.environ | environ,
        input=b"" if "<" not in redirected else None,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("words", ["list", "list --json", "stats", "doctor", "map", "--help"])
@pytest.mark.parametrize(
    ("redirected", "said"),
    [
        (">&-", b"Bad file descriptor"),
        (">/dev/full", b"No space left on device"),
        (">&- 2>&-", b""),
        ("<&-", None),
    ],
)
def test_odd_streams(words: str, redirected: str, said: bytes | None, data_dir: Path) -> None:
    """A stream that is closed or full is one line and a status; nothing goes into the store."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        ipam.network("podnet", "10.32.0.0/24").allocate("c1")
    before = (data_dir / "data.mdb").read_bytes()
    done = _run(redirected, words, FASTIPAM_DATA_DIR=str(data_dir))
    assert (data_dir / "data.mdb").read_bytes() == before
    if said is None:
        assert b"Traceback" not in done.stderr
    else:
        assert done.returncode == 1
        assert done.stderr.count(b"\n") == (1 if said else 0)
        assert said in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_utf_8(encoding: str, data_dir: Path) -> None:
    """Characters that it does not have are shown in another way; a row is a row."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        ipam.network("podnet", "10.32.0.0/24").allocate("c1", pod=("default", "wéb-Ж"))
    done = _run("", "list", FASTIPAM_DATA_DIR=str(data_dir), PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert b"b-\\u0416" in done.stdout
    assert _run("", "cluster routes --help", PYTHONIOENCODING=encoding).returncode == 0
