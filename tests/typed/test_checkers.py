"""What the types of the library accept and refuse, as its users' checkers see them.

Each checker runs once, in a directory without configuration of ours, on the installed package: a
``py.typed`` that the wheel lacks, or a type that says less than the code, fails here.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.docs.documents import ROOT
from tests.e2e import tools

WRONG = ROOT / "tests" / "typed" / "wrong.py"
CORRECT = ROOT / "tests" / "typed" / "correct.py"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

# mypy's code of an error, and what pyright may call the same.
RULES = {
    "arg-type": {"reportArgumentType"},
    "attr-defined": {"reportAttributeAccessIssue"},
    "call-arg": {"reportCallIssue"},
    "dict-item": {"reportArgumentType"},
    "index": {"reportIndexIssue"},
    "list-item": {"reportArgumentType"},
    "misc": {"reportArgumentType", "reportGeneralTypeIssues"},
    "operator": {"reportOperatorIssue", "reportOptionalOperand"},
    "union-attr": {"reportOptionalMemberAccess"},
    "unused-coroutine": {"reportUnusedCoroutine"},
}
# pyroute2 has no types. What follows from that is not the library's.
MYPY = "[mypy]\nstrict = True\n[mypy-pyroute2.*]\nignore_missing_imports = True\n"
PYRIGHT = {"include": ["."], "typeCheckingMode": "standard", "strict": [CORRECT.name]}


class Refusal(NamedTuple):
    """An error of a checker."""

    file: str
    line: int
    rule: str
    text: str


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the examples, the correct programs and the wrong ones."""
    directory = tmp_path_factory.mktemp("programs")
    for path in (WRONG, CORRECT, *EXAMPLES):
        shutil.copy(path, directory)
    (directory / "mypy.ini").write_text(MYPY)
    (directory / "pyrightconfig.json").write_text(json.dumps(PYRIGHT))
    return directory


def _run(directory: Path, *command: str) -> str:
    """Run a module of this interpreter; return what it prints. Checkers exit 1 for an error."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def mypy(programs: Path) -> list[Refusal]:
    """What ``mypy --strict`` refuses."""
    tools.require_module("mypy")
    files = [path.name for path in sorted(programs.glob("*.py"))]
    output = _run(programs, "mypy", "--output", "json", "--cache-dir", "cache", *files)
    errors = [json.loads(line) for line in output.splitlines()]
    return [
        Refusal(each["file"], each["line"], each["code"], each["message"])
        for each in errors
        if each["severity"] == "error"
    ]


@pytest.fixture(scope="module")
def pyright(programs: Path) -> list[Refusal]:
    """What pyright refuses: strictly in the correct programs, else as it does by default."""
    tools.require_module("pyright")
    output = _run(programs, "pyright", "--outputjson", "--pythonpath", sys.executable)
    report: dict[str, Any] = json.loads(output)
    return [
        Refusal(
            Path(each["file"]).name,
            each["range"]["start"]["line"] + 1,
            each.get("rule", ""),
            each["message"],
        )
        for each in report["generalDiagnostics"]
        if each["severity"] == "error"
    ]


@pytest.fixture(params=["mypy", "pyright"])
def refused(request: pytest.FixtureRequest) -> list[Refusal]:
    """What each checker refuses."""
    found: list[Refusal] = request.getfixturevalue(request.param)
    return found


def marks() -> dict[int, str]:
    """Return the code of each marked line of the wrong programs."""
    lines = enumerate(WRONG.read_text().splitlines(), 1)
    found = {number: re.search(r"  # wrong: ([\w-]+)$", line) for number, line in lines}
    return {number: mark[1] for number, mark in found.items() if mark}


def test_correct_programs_are_accepted(refused: list[Refusal]) -> None:
    """No line of the correct programs and of the examples is refused."""
    assert [each for each in refused if each.file != WRONG.name] == []


def test_wrong_programs_are_refused(refused: list[Refusal]) -> None:
    """Every marked line is refused for its reason, and no other line is."""
    wanted = marks()
    found: dict[int, set[str]] = {}
    for each in refused:
        if each.file == WRONG.name:
            found.setdefault(each.line, set()).add(each.rule)
    lines = WRONG.read_text().splitlines()
    accepted = [lines[number - 1].strip() for number in wanted if number not in found]
    assert accepted == []
    assert sorted(set(found) - set(wanted)) == []
    other = {
        lines[number - 1].strip(): rules
        for number, rules in found.items()
        if not rules & {wanted[number], *RULES[wanted[number]]}
    }
    assert other == {}


def test_every_line_is_a_wrong_program() -> None:
    """Every statement of the wrong programs is marked, and all marks are known to both checkers."""
    body = WRONG.read_text().partition("\ndef ")[2]
    unmarked = [
        line.strip()
        for line in body.splitlines()
        if re.match(r"    \S", line) and "# wrong: " not in line and '"""' not in line
    ]
    assert unmarked == []
    assert set(marks().values()) <= set(RULES)
