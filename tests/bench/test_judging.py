"""When a subject counts as slower: intervals of medians, limits, noise; the command's verdict."""

from __future__ import annotations

import json
from math import comb, inf
from random import Random
from statistics import median
from typing import TYPE_CHECKING

import pytest
from bench.judging import FEWEST, Change, from_rounds, from_samples, interval, slower

from bench import compare

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(FEWEST, 1, 6), (8, 1, 8), (9, 2, 8), (15, 4, 12), (20, 6, 15), (25, 8, 18)],
)
def test_interval(count: int, low: int, high: int) -> None:
    """The order statistics are those of the tables of the sign test at 5 %."""
    assert interval(list(range(1, count + 1))) == (low, high)


def test_interval_of_few() -> None:
    """Of fewer than six samples nothing can be said."""
    assert interval([1.0] * (FEWEST - 1)) == (0.0, inf)


def test_interval_holds_the_median() -> None:
    """In at least 95 of 100 draws from a skewed distribution the true median is inside."""
    chance = Random(1)
    inside = 0
    for _ in range(400):
        low, high = interval([chance.lognormvariate(0, 1) for _ in range(15)])  # its median is 1
        inside += low <= 1 <= high
    assert inside / 400 >= 0.95


@pytest.mark.parametrize("count", [401, 1_000, 10_000, 20_001])
def test_interval_of_many(count: int) -> None:
    """It is of all samples, in which every 25th differs from the others; and holds 95 %."""
    values = [100.0 + 0.0001 * at if at % 25 else 1.0 for at in range(count)]
    low, high = interval(values)
    assert low <= median(values) <= high
    low, high = interval([float(at) for at in range(count)])
    assert count - 1 - low == high
    outside = _binomials(count, int(low))
    assert 0.03 < 2 * (outside * 10**6 // 2**count) / 10**6 <= 0.05


def _binomials(count: int, last: int) -> int:
    """The sum of ``comb(count, at)`` for ``at`` from 0 to ``last``, each made of the one before."""
    term = total = 1
    for at in range(last):
        term = term * (count - at) // (at + 1)
        total += term
    assert term == comb(count, last)
    return total


def _noisy(chance: Random, factor: float, count: int = 15) -> Change:
    """Rounds of a machine whose speed wanders by half."""
    speed = [chance.uniform(1, 1.5) for _ in range(count)]
    base = [one * chance.uniform(0.97, 1.03) for one in speed]
    head = [one * factor * chance.uniform(0.97, 1.03) for one in speed]
    return from_rounds("x", base, head)


def test_noise_is_not_slower() -> None:
    """The same code is never called slower, however the machine wanders."""
    chance = Random(2)
    assert not any(slower(_noisy(chance, 1.0), 1.1) for _ in range(200))


def test_slower_is_found() -> None:
    """A fifth more is found each time, and a tenth of a limit of a tenth is judged by the limit."""
    chance = Random(3)
    assert all(slower(_noisy(chance, 1.2), 1.1) for _ in range(200))
    assert not any(slower(_noisy(chance, 1.05), 1.1) for _ in range(200))


def test_few_rounds_are_no_proof() -> None:
    """Far above the limit, but from too few rounds to be sure: not slower."""
    assert not slower(from_rounds("x", [1, 1, 1], [2, 2, 2]), 1.1)


def test_two_runs() -> None:
    """Separate runs are compared by both medians' intervals, at their worst."""
    base, head = [float(one) for one in range(10, 30)], [float(one) for one in range(20, 40)]
    found = from_samples("x", base, head)
    assert (found.base_ns, found.head_ns) == (median(base), median(head))
    assert found.ratio == median(head) / median(base)
    assert (found.low, found.high) == (25 / 24, 34 / 15)


def _file(path: Path, name: str, factor: float) -> Path:
    chance = Random(name)
    samples = {
        "steady": [chance.uniform(90, 110) for _ in range(30)],
        "changed": [factor * chance.uniform(90, 110) for _ in range(30)],
    }
    document = {"facts": {"machine": "m"}, "samples": samples, "peers": {}}
    (path / name).write_text(json.dumps(document))
    return path / name


@pytest.mark.parametrize(
    ("factor", "options", "status", "verdict"),
    [
        (1.0, [], 0, " - "),
        (1.3, [], 1, "SLOWER"),
        (1.3, ["--limit", "1.5"], 0, " - "),
        (0.7, [], 0, "faster"),
    ],
)
def test_command(
    factor: float,
    options: list[str],
    status: int,
    verdict: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two files: the exit status says whether the head is slower; the table says where."""
    files = [str(_file(tmp_path, "base", 1.0)), str(_file(tmp_path, "head", factor))]
    assert compare.main([*files, *options]) == status
    printed = capsys.readouterr()
    lines = {line.split("|")[1].strip(): line for line in printed.out.splitlines()}
    assert verdict in lines["changed"]
    assert "SLOWER" not in lines["steady"]
    assert ("changed" in printed.err) is bool(status)


def test_command_without_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A baseline that is not there is status 2, with its name."""
    base = tmp_path / "none.json"
    assert compare.main([str(base), str(base)]) == 2
    assert str(base) in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        "[]",
        '{"facts": {}, "samples": [1], "peers": {}}',
        '{"facts": {}, "samples": {"a": ["x"]}, "peers": {}}',
        '{"facts": {}, "samples": {"a": [0, 0, 0]}, "peers": {}}',
        '{"facts": {}, "samples": {"a": 3}, "peers": {}}',
    ],
)
def test_command_with_another_file(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is no run's samples is status 2 with its name, whatever is in it."""
    base = tmp_path / "base.json"
    base.write_text(text)
    assert compare.main([str(base), str(base)]) == 2
    assert f"{base} cannot be read as a run's samples.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [[], ["one.json"], ["a", "b", "--base", "HEAD"], ["--base", "x", "--limit", "0.9"]]
)
def test_command_misused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Neither two files nor a base: the usage."""
    with pytest.raises(SystemExit) as caught:
        compare.main(words)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err
