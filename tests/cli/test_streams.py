"""Standard streams that are closed or full, or have lost their reader: every command, every way."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import fastipam
from fastipam.backup import backup
from fastipam.verify import verify

from ..measuring import passed_on
from .test_commands import ALL, FASTIPAM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PATIENCE_S = 60
_LOST = "fastipam: cannot write to standard output: {}\n"
_FULL = _LOST.format("No space left on device")
_CLOSED = _LOST.format("Bad file descriptor")

# What a command is called with, in a directory of its own; several lines: in several ways. Other
# commands are asked for their help, which is safe and prints something.
CALLS = {
    "list": ("list", "list --json", "list --all"),
    "stats": ("stats", "stats --json"),
    "map": ("map", "map --json", "map -o map.png"),
    "show": ("show 10.32.0.2", "show 10.32.0.200"),
    "history": ("history", "history --json"),
    "release": ("release 10.32.0.2 --yes",),
    "reserve": ("reserve 10.32.0.9",),
    "unreserve": ("unreserve 10.32.0.100", "unreserve 10.32.0.101"),
    "gc": ("gc --network podnet listed",),
    "sweep": ("sweep",),
    "status": ("status --conf-dir configurations",),
    "doctor": ("doctor --bin-dir bin --conf-dir configurations --host-local tree",),
    "check": ("check", "check --json --data-dir damaged", "check --data-dir damaged"),
    "backup": ("backup copy.mdb",),
    "restore": ("restore backup.mdb --replace",),
    "import host-local": ("import host-local tree",),
    "export host-local": ("export host-local exported",),
    "cluster init": ("cluster init",),
    "install": ("install --bin-dir bin --launcher-only",),
    "agent": ("agent --http nowhere",),
    "completion": ("completion bash",),
}
_OTHERS = ("", "--help", "--version", "no-such-command", "list --no-such-option")
WORDS = [
    *_OTHERS,
    *(line for path, _ in ALL for line in CALLS.get(" ".join(path), (f"{' '.join(path)} --help",))),
]


class Way(NamedTuple):
    """What is done to the streams of a process."""

    redirected: str
    complaint: str | None = None  # about standard output; None: that is as it should be
    reader: bool = True  # of standard output
    unbuffered: bool = False
    errors: bool = True  # what is printed on standard error can be seen


WAYS = {
    "full output": Way(">/dev/full", _FULL),
    "closed output": Way(">&-", _CLOSED),
    "no reader": Way("", "", reader=False),
    "closed errors": Way("2>&-", errors=False),
    "full errors": Way("2>/dev/full", errors=False),
    "all closed": Way("<&- >&- 2>&-", _CLOSED, errors=False),
}
# What can differ only in the entry point, which all commands share.
MORE_WAYS = {
    "full output, unbuffered": Way(">/dev/full", _FULL, unbuffered=True),
    "no reader, unbuffered": Way("", "", reader=False, unbuffered=True),
    "both full": Way(">/dev/full 2>/dev/full", _FULL, errors=False),
    "full output, closed errors": Way(">/dev/full 2>&-", _FULL, errors=False),
    "closed input": Way("<&-"),
}
MORE_WORDS = ("--help", "list", "list --json", "check --data-dir damaged", "list --no-such-option")


class Done(NamedTuple):
    """How a process ended."""

    status: int
    output: str
    errors: str


@pytest.fixture
def places(tmp_path: Path) -> Callable[[], Path]:
    """Make a directory with stores and files; each call makes another one that is the same."""
    origin = tmp_path / "origin"
    for name in ("configurations", "bin"):
        (origin / name).mkdir(parents=True)
    (origin / "tree" / "other").mkdir(parents=True)
    (origin / "tree" / "other" / "10.33.0.7").write_text("a1\neth0")
    (origin / "listed").write_text("c0\nc1\n")
    (origin / "configurations" / "1.conf").write_text(
        '{"name": "podnet", "cniVersion": "1.1.0", "type": "bridge", "ipam": {"type": "fastipam"}}'
    )
    for name in ("store", "damaged"):
        with fastipam.open(origin / name, "relaxed") as ipam:
            network = ipam.network("podnet", "10.32.0.0/24")
            for number in range(5):
                network.allocate(f"c{number}")
            network.reserve("10.32.0.100")
            if name == "store":
                backup(ipam.store, origin / "backup.mdb")
            else:
                _damage(ipam)

    def make() -> Path:
        make.count += 1  # type: ignore[attr-defined]
        return shutil.copytree(origin, tmp_path / str(make.count) / "here")  # type: ignore[attr-defined]

    make.count = 0  # type: ignore[attr-defined]
    return make


def _damage(ipam: fastipam.Ipam) -> None:
    """Remove a lease from the store but not from its page."""
    from fastipam.storage import tables

    with ipam.store.write() as txn:
        key, _ = next(iter(tables.LEASES.scan(txn, b"", b"")))
        tables.LEASES.delete(txn, key)


def _environ(here: Path, *, unbuffered: bool = False) -> dict[str, str]:
    """What ``env -i`` leaves, and a store."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(here),
        "FASTIPAM_DATA_DIR": "store",
        "FASTIPAM_SOCKET": str(here / "none.sock"),
        **passed_on(),
        **({"PYTHONUNBUFFERED": "1"} if unbuffered else {}),
    }


def _run(command: Sequence[str], here: Path, way: Way) -> Done:
    """Run a command line of a shell: it sees the streams as the way has them."""
    output: int = subprocess.PIPE
    if not way.reader:
        read_end, output = os.pipe()
        os.close(read_end)
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {way.redirected}', "sh", *command],
            cwd=here,
            env=_environ(here, unbuffered=way.unbuffered),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=_PATIENCE_S,
            check=False,
        )
    finally:
        if not way.reader:
            os.close(output)
    return Done(done.returncode, (done.stdout or b"").decode(), done.stderr.decode())


def _assert_as(usual: Done, way: Way, done: Done, what: str) -> None:
    """The status and the messages are the usual ones, but for the complaint."""
    status, errors = usual.status, usual.errors
    if way.complaint and usual.output:
        status = status or 1
        errors = way.complaint
    assert done.status == status, (what, done)
    assert done.errors == (errors if way.errors else ""), what
    if way.complaint is None:
        assert done.output == usual.output, what


def _steady(done: Done, here: Path) -> Done:
    """Replace what differs between two runs: times, and the directory."""
    differing = r"\d{4}-\d\d-\d\d.\d\d:\d\d:\d\d(\.\d+)?|\d+ (?:bytes|MiB)|\b\d+s\b"
    output = re.sub(differing, "?", done.output.replace(str(here), "HERE"))
    return Done(done.status, output, done.errors.replace(str(here), "HERE"))


@pytest.mark.parametrize("words", WORDS)
def test_every_command(words: str, places: Callable[[], Path]) -> None:
    """One line says what could not be written; else all is as usual, and so is the store."""
    command = [FASTIPAM, *words.split()]
    here = places()
    usual = _steady(_run(command, here, Way("")), here)
    assert usual.output or usual.errors
    assert "Traceback" not in usual.errors
    for name, way in (WAYS | (MORE_WAYS if words in MORE_WORDS else {})).items():
        here = places()
        done = _steady(_run(command, here, way), here)
        _assert_as(usual, way, done, name)
        with fastipam.open(here / "store", "relaxed", create=False) as ipam:
            assert verify(ipam.store) == [], name
        shutil.rmtree(here)


def test_work_is_done_without_a_reader(places: Callable[[], Path]) -> None:
    """A command whose output is lost changes what it would have changed."""
    for way in (WAYS["no reader"], WAYS["full output"], WAYS["all closed"]):
        here = places()
        _run([FASTIPAM, "release", "--yes", "10.32.0.2", "10.32.0.3"], here, way)
        with fastipam.open(here / "store", "relaxed", create=False) as ipam:
            assert ipam.networks() == ["podnet"]
            owners = {lease.container_id for lease in ipam.network("podnet").leases()}
            assert len(owners) == 3, way


def test_long_list_ends_with_its_reader(places: Callable[[], Path]) -> None:
    """``| head`` gets its lines, and the rest is not read from the store."""
    here = places()
    for words in ("list --all", "list --all --json"):
        done = subprocess.run(
            ["/bin/bash", "-c", f'set -o pipefail; "$0" {words} | head -2', FASTIPAM],
            cwd=here,
            env=_environ(here),
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr, done.stdout.count(b"\n")) == (0, b"", 2)


@pytest.mark.parametrize("option", ["", "--json"])
def test_watching_ends_with_its_reader(option: str, places: Callable[[], Path]) -> None:
    """``list --watch`` ends when its reader does, though nothing changes any more."""
    here = places()
    command = [FASTIPAM, "list", "--watch", "--interval", "3600", *option.split()]
    process = subprocess.Popen(
        command, cwd=here, env=_environ(here), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(_PATIENCE_S) == 0
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == b""


def test_watching_a_full_output(places: Callable[[], Path]) -> None:
    """``list --watch`` ends when what it prints cannot be written."""
    done = _run([FASTIPAM, "list", "--watch"], places(), WAYS["full output"])
    assert done == (1, "", _FULL)


@pytest.mark.parametrize("module", ["fastipam.cli.reference", "bench"])
def test_modules_with_an_end(module: str, places: Callable[[], Path]) -> None:
    """``python -m`` ends as a command does."""
    here = places()
    (here / "bench").symlink_to(Path(__file__).parents[2] / "bench")
    command = [sys.executable, "-m", module, "--help"]
    usual = _run(command, here, Way(""))
    for name, way in (WAYS | MORE_WAYS).items():
        _assert_as(usual, way, _run(command, here, way), name)
