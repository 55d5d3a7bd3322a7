"""Whatever a benchmark starts comes to an end with it: what hangs, babbles, or is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from bench.arguments import prepare, to_its_end
from bench.errors import Failed, Missing
from bench.tables import digits, duration
from bench.workloads.contenders import Other, Plugin
from bench.workloads.drive import crowd
from bench.workloads.guests import Guest
from bench.workloads.traces import ADD, Step, Workload

from bench import children, memory
from tests.e2e.tools import lacking

Patience = Callable[[str, int], None]
ROOT = Path(__file__).parents[2]
HANGS = "#!/bin/sh\necho $$ >> {pids}\nsleep 1000 &\necho $! >> {pids}\nwait\n"


def plugin(tmp_path: Path, script: str) -> Plugin:
    """A plugin of the test's own; ``{pids}`` in its script is a file for process ids."""
    binary = tmp_path / "own"
    binary.write_text(script.replace("{pids}", str(tmp_path / "pids")))
    binary.chmod(0o755)
    workload = Workload("none", "", 0, 0, lambda _: iter([]))
    return Other(Guest("own", binary), workload, tmp_path / "x")


def gone(tmp_path: Path) -> bool:
    """Whether all processes that wrote their ids end within ten seconds, reaped or not."""
    give_up = monotonic() + 10
    running = [Path(f"/proc/{one}/stat") for one in (tmp_path / "pids").read_text().split()]
    while running and monotonic() < give_up:
        running = [stat for stat in running if _state(stat) not in "ZX"]
        os.sched_yield()
    return not running


def _state(stat: Path) -> str:
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _written(tmp_path: Path) -> int:
    file = tmp_path / "pids"
    return file.read_text().count("\n") if file.exists() else 0


@pytest.fixture
def lose_patience(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Patience:
    """Called with a function of ``os`` and a number: the alarm rings in the first call of it.

    Before that so many processes have written their ids.
    """

    def when(name: str, count: int) -> None:
        wait = getattr(os, name)

        def waited(*arguments: int) -> Any:
            while _written(tmp_path) < 2 * count:
                os.sched_yield()
            monkeypatch.setattr(os, name, wait)
            signal.setitimer(signal.ITIMER_REAL, 1e-6)
            return wait(*arguments)

        monkeypatch.setattr(os, name, waited)

    return when


def test_a_call_that_hangs(tmp_path: Path, lose_patience: Patience) -> None:
    """A plugin that does not answer is ended with what it has started, and is named."""
    hanging = plugin(tmp_path, HANGS)
    lose_patience("waitpid", 1)
    with pytest.raises(Failed, match="own: ADD: no answer within 60 s"):
        hanging.call(Step(ADD, "c1"))
    assert gone(tmp_path)


def test_a_crowd_that_hangs(tmp_path: Path, lose_patience: Patience) -> None:
    """All processes that are under way are ended when none of them comes back."""
    hanging = plugin(tmp_path, HANGS)
    lose_patience("wait", 3)
    with pytest.raises(Failed, match="own: ADD, 3 at once: no answer"):
        crowd(hanging, [Step(ADD, f"c{number}") for number in range(9)], 3, {ADD: []})
    assert gone(tmp_path)


def test_a_start_that_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was started is ended, too, when its start was interrupted and nobody knows of it."""
    hanging = plugin(tmp_path, HANGS)
    start = os.posix_spawn

    def interrupted(*arguments: Any, **options: Any) -> int:
        process = start(*arguments, **options)
        while _written(tmp_path) < 2:
            os.sched_yield()
        signal.raise_signal(signal.SIGINT)
        return process

    def main() -> int:
        hanging.call(Step(ADD, "c1"))
        return 0

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(os, "posix_spawn", interrupted)
    try:
        assert to_its_end(main) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert gone(tmp_path)


def test_a_first_call_that_hangs(tmp_path: Path) -> None:
    """The call that is tried out before anything is measured has a limit, too."""
    hanging = plugin(tmp_path, HANGS)
    command, source = [str(hanging.binary)], os.devnull
    with pytest.raises(Failed, match=r"own: no answer within 0\.3 s"):
        children.ask("own", command, {"PATH": os.defpath}, source, 0.3)
    assert not (tmp_path / "pids").exists() or gone(tmp_path)


def test_one_that_prints_without_end(tmp_path: Path) -> None:
    """What a plugin prints is read up to a limit, and never fills a disk."""
    with pytest.raises(Failed, match="own: ADD: it prints without end: b'y"):
        plugin(tmp_path, "#!/bin/sh\nexec yes\n").try_out(1)


def test_one_that_cannot_be_executed(tmp_path: Path) -> None:
    """A file that is no program is named, not a traceback."""
    broken = plugin(tmp_path, "\x7fELF, or not")
    for call in (lambda: broken.try_out(1), lambda: broken.call(Step(ADD, "c1"))):
        with pytest.raises(Failed, match="own cannot be executed: Exec format error"):
            call()


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (Missing("host-local is missing"), 2, "error: host-local is missing"),
        (Failed("own: ADD failed"), 2, "error: own: ADD failed"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_how_a_run_ends(
    error: BaseException, status: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Status 1 is for a bar that was missed, and nothing else."""
    before = signal.getsignal(signal.SIGTERM)

    def main() -> int:
        raise error

    try:
        assert to_its_end(main) == status
        assert to_its_end(lambda: 1) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert said in capfd.readouterr().err


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    """A directory that cannot be made is told before anything is measured."""
    prepare(tmp_path / "new" / "report")
    (tmp_path / "file").touch()
    with pytest.raises(Missing, match=r"--output .*file/report: Not a directory"):
        prepare(tmp_path / "file" / "report")


def test_libraries_that_are_not_there() -> None:
    """Every library that is missing is named at once, and none of the others."""
    with pytest.raises(Missing, match=r"missing: no_such_one, nor_this; install the dependency"):
        memory.require("json", "no_such_one", "nor_this")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(signum: signal.Signals, tmp_path: Path) -> None:
    """A run that is interrupted leaves no process and no directory behind."""
    plugin(tmp_path, HANGS)
    command = [sys.executable, "-m", "bench.workloads", "--quick", "--only", "churn"]
    command += ["--plugin", f"own={tmp_path / 'own'}", "--output", str(tmp_path / "report")]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with subprocess.Popen(
        [*command, "--scratch", str(scratch)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as run:
        while _written(tmp_path) < 2 and run.poll() is None:
            os.sched_yield()
        run.send_signal(signum)
        said = run.communicate(timeout=60)[1]
    if run.returncode == 2 and "missing" in said:  # a peer, or the dependency group
        lacking(said)
    assert run.returncode == 130, said
    assert "Traceback" not in said
    assert gone(tmp_path)
    assert list(scratch.iterdir()) == []
    assert list((tmp_path / "report").iterdir()) == []


def test_numbers_as_people_write_them() -> None:
    """Three digits, no exponents, and the next unit where rounding reaches it."""
    assert [digits(one) for one in (1.8, 23.44, 353.6, 5061, 516_000)] == [
        "1.8", "23.4", "354", "5,060", "516,000",
    ]  # fmt: skip
    assert [duration(one) for one in (None, 0.35, 999.6, 1500, 3.2e6, 4.8e9, 2e12)] == [
        "-", "0.35 ns", "1 us", "1.5 us", "3.2 ms", "4.8 s", "2,000 s",
    ]  # fmt: skip
