"""The command line of ``python -m bench``: where a report goes, and what is refused at once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from bench.agent import __main__ as bench_agent
from bench.workloads import __main__ as workloads
from bench.workloads.measure import NAMES

from bench import __main__ as bench
from bench import arguments

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("program", "parts", "output"),
    [
        ("bench", bench.PARTS, arguments.OUTPUT),
        ("bench.agent", bench_agent.PARTS, arguments.OUTPUT / "agent"),
        ("bench.workloads", NAMES, workloads.OUTPUT),
    ],
)
def test_report_without_output(program: str, parts: tuple[str, ...], output: Path) -> None:
    """Without --output a run writes only where git ignores what is written."""
    found = arguments.parser(program, None, parts, output).parse_args([]).output
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    for name in ("report.md", "samples.json", "leases.svg"):
        command = ["git", "check-ignore", "--quiet", str(ROOT / found / name)]
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0, found / name


@pytest.mark.parametrize("name", ["podnet.json", "example.json", "map.png", "report/report.md"])
def test_files_of_the_readme(name: str) -> None:
    """What the commands of the README write into a checkout is ignored, and no file of it is."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    command = ["git", "check-ignore", "--quiet", name]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert tracked.stdout == b""
