"""A figure that a first page quotes is in the report that it names, and the same on each page."""

from __future__ import annotations

import re

import pytest

from tests.docs.documents import ROOT

_FIGURE = re.compile(r"(?<![\d.,])\d[\d.,]* m?s\b")
_RATE = re.compile(r"(\d+) calls a second|`host-local` (\d+) a second")
_SETTINGS = {"30 s"}  # the cool-down
_REPORT = ROOT / "docs" / "bench" / "report.md"


@pytest.mark.parametrize("page", ["index.md", "why.md"])
def test_as_in_the_readme(page: str) -> None:
    """What the first pages say about time, README.md says, too: it is changed in one go."""
    found = set(_FIGURE.findall((ROOT / "docs" / page).read_text()))
    assert len(found) > 3
    assert found - set(_FIGURE.findall((ROOT / "README.md").read_text())) == set()


def test_in_the_report() -> None:
    """Each time and rate that README.md quotes is a cell of the report that it links."""
    text, report = (ROOT / "README.md").read_text(), _REPORT.read_text()
    assert "(docs/bench/report.md)" in text
    cells = {cell.strip() for line in report.splitlines() for cell in line.split("|")}
    times = set(_FIGURE.findall(text)) - _SETTINGS
    rates = {one or other for one, other in _RATE.findall(text)}
    assert len(times) > 5
    assert len(rates) == 2
    assert (times | rates) - cells == set()


def test_a_third_more() -> None:
    """How much more a call takes with a million leases is said as the report has it."""
    row = re.search(r"\| ADD \+ DEL, p50 .*\n.*\n\| fastipam, agent (.*)", _REPORT.read_text())
    assert row
    cells = [float(one.removesuffix(" ms")) for one in map(str.strip, row[1].split("|")) if one]
    assert 1.28 < cells[-1] / cells[0] < 1.39
    for page in ("README.md", "docs/index.md", "docs/performance.md", "docs/troubleshooting.md"):
        said = " ".join((ROOT / page).read_text().split())
        assert re.search(r"about a third more (with a million leases )?than with none", said)


@pytest.mark.parametrize("name", ["report.md", "agent/report.md"])
def test_bars_of_a_report(name: str) -> None:
    """A report whose bars are those of an older commit says so, with that commit."""
    text = (_REPORT.parent / name).read_text()
    commit = re.search(r"^- commit: (\w+)", text, re.MULTILINE)
    assert commit
    assert f"This run and its bars are of commit {commit[1]}." in text.partition("## Bars")[0]
