"""What a person at a terminal sees: the screen of ``list --watch``, bars, completion, questions."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

import fastipam
from fastipam.backup import backup
from tests.e2e import tools

from .terminal import Terminal, plain

FASTIPAM = str(Path(sys.executable).with_name("fastipam"))
CLEARED = "\x1b[H"  # with it each drawing of a screen begins


@pytest.fixture
def filled(data_dir: Path) -> Path:
    """A store with two networks, more leases than a screen has rows."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("podnet", "10.32.0.0/24")
        for number in range(40):
            net.allocate(f"c{number}", pod=("web", f"web-{number}"))
        ipam.network("storage", "10.40.0.0/24").allocate("disk")
    return data_dir


def _rows(screen: str) -> list[str]:
    return [line.rstrip() for line in plain(screen).splitlines()]


def test_watch(filled: Path) -> None:
    """The screen is drawn anew when something changes, fits the window, and is left as it was."""
    words = [FASTIPAM, "list", "--watch", "--interval", "0.1", "--data-dir", str(filled)]
    with Terminal(words, {"TZ": "UTC"}, rows=24, columns=110) as terminal:
        terminal.until(r"podnet: 40 assigned, 0 cooling")
        assert "\x1b[?1049h" in terminal.output  # another screen than the shell's
        with fastipam.open(filled) as ipam:
            ipam.network("podnet").release("c0")
        terminal.until(r"39 assigned, 1 cooling")
        drawn = _rows(terminal.output.split(CLEARED)[-1])
        terminal.resize(12, 120)
        terminal.process.send_signal(28)  # SIGWINCH
        terminal.until(r"39 assigned")
        terminal.until(r"39 assigned")
        short = _rows(terminal.output.split(CLEARED)[-1])
        terminal.interrupt()
        status, output = terminal.rest()
    assert status == 0
    assert "\x1b[?1049l" in output
    assert "Traceback" not in output
    for screen, rows, columns in ((drawn, 24, 110), (short, 12, 120)):
        assert len(screen) <= rows
        assert max(map(len, screen)) <= columns
        assert screen[0].split()[:3] == ["IP", "STATUS", "POD"]
        assert screen[1].split()[:3] == ["10.32.0.2", "COOLING", "web/web-0"]
        # What does not fit is not left out in silence.
        listed = sum("10.32.0." in line for line in screen)
        assert listed == rows - 4
        assert f"the first {listed} rows" in [line for line in screen if line][-1]


def test_watch_has_colours(filled: Path) -> None:
    """States are coloured; with NO_COLOR they are not."""
    words = [FASTIPAM, "list", "--watch", "--interval", "0.1", "--data-dir", str(filled)]
    for variables in ({}, {"NO_COLOR": "1"}):
        with Terminal(words, variables) as terminal:
            terminal.until("ASSIGNED")
            terminal.until("Ctrl-C")
            terminal.interrupt()
            status, output = terminal.rest()
        assert status == 0
        assert bool(re.search(r"\x1b\[[0-9;]*32m", output)) == (not variables)


def test_release_asks(filled: Path) -> None:
    """The lease is shown, and only "y" gives it back; Ctrl-C at the question does not."""
    words = [FASTIPAM, "release", "10.32.0.2", "--data-dir", str(filled)]
    for answer, status in (("n\r", 1), ("\x03", 1), ("y\r", 0)):
        with Terminal(words) as terminal:
            terminal.until(r"web/web-0[^?]*Release 1 address\? \[y/N\]: ")
            terminal.settle()  # until it reads
            terminal.type(answer)
            ended, output = terminal.rest()
        assert ended == status
        assert "Traceback" not in output
        with fastipam.open(filled) as ipam:
            assert (ipam.network("podnet").lookup("10.32.0.2") is None) == (answer == "y\r")


@pytest.mark.parametrize("command", ["check", "check --repair", "sweep", "backup", "restore"])
def test_progress(filled: Path, tmp_path: Path, command: str) -> None:
    """Long work shows a bar and its share, which goes away; the answer remains. Not in a pipe."""
    copy = str(tmp_path / "copy")
    with fastipam.open(filled) as ipam:
        backup(ipam.store, copy)
    words = [FASTIPAM, *command.split(), "--data-dir", str(filled)]
    words += {"backup": [copy], "restore": [copy, "--replace"]}.get(command, [])
    with Terminal(words) as terminal:
        status, output = terminal.rest()
    assert status == 0
    assert "━" in output
    assert re.search(r"[1-9][0-9,]*/[1-9][0-9,]*", plain(output))
    assert "\x1b[2K" in output  # the bar is wiped
    assert "━" not in plain(output.rpartition("\x1b[2K")[2])


def _bash(directory: Path, script: str) -> tuple[list[str], dict[str, str], str]:
    (directory / "rc").write_text(f"PS1='ready> '\n{script}")
    return ["bash", "--noprofile", "--rcfile", str(directory / "rc"), "-i"], {}, "\t\t"


def _zsh(directory: Path, script: str) -> tuple[list[str], dict[str, str], str]:
    (directory / "_fastipam").write_text(script)
    (directory / ".zshrc").write_text(
        f"fpath=({directory} $fpath)\nautoload -Uz compinit\ncompinit -u -D\nPS1='ready> '\n"
        "setopt no_list_beep no_always_last_prompt\n"
    )
    return ["zsh", "-i"], {"ZDOTDIR": str(directory)}, "\t\t"


def _fish(directory: Path, script: str) -> tuple[list[str], dict[str, str], str]:
    place = directory / "fish"
    (place / "completions").mkdir(parents=True)
    (place / "completions" / "fastipam.fish").write_text(script)
    (place / "config.fish").write_text(
        "function fish_prompt; echo 'ready> '; end\nset -g fish_greeting\n"
    )
    return ["fish", "-i"], {"XDG_CONFIG_HOME": str(directory), "HOME": str(directory)}, "\t"


SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}


@pytest.mark.parametrize("shell", SHELLS)
def test_completion(filled: Path, tmp_path: Path, shell: str) -> None:
    """In the shell itself the tabulator completes commands, options and names of networks."""
    tools.require_tools(shell)
    home = tmp_path / "home"
    home.mkdir()
    with Terminal([FASTIPAM, "completion", shell]) as terminal:
        status, script = terminal.rest()
    assert status == 0
    words, variables, tabs = SHELLS[shell](home, script.replace("\r\n", "\n"))
    variables["PATH"] = f"{Path(FASTIPAM).parent}:{os.environ['PATH']}"
    variables["FASTIPAM_DATA_DIR"] = str(filled)
    with Terminal(words, {"HOME": str(home), **variables}) as terminal:
        terminal.until("ready> ")
        for typed, shown in (
            ("fastipam unr\t", "unreserve"),
            ("fastipam list --network st\t", "storage"),
            ("fastipam list --in\t", "--interval"),
            (f"fastipam list --network {tabs}", r"podnet\b[^\0]*storage"),
        ):
            terminal.settle()
            terminal.type(typed)
            terminal.until(shown)
            terminal.type("\x15")  # the line is forgotten
        terminal.settle()
        terminal.type("exit\r")
        terminal.rest()
