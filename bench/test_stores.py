"""Tests for pytest-benchmark: a pair in the store, by fastipam and by hand in py-lmdb."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench import by_hand, stores

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("side", [0, 1], ids=["fastipam", "by hand"])
@pytest.mark.parametrize("cooldown", [True, False], ids=["cool-down", "no cool-down"])
@pytest.mark.parametrize("durability", ["relaxed", "durable"])
def test_pair(
    benchmark: BenchmarkFixture,
    tmp_path: Path,
    durability: stores.Durability,
    cooldown: bool,
    side: int,
) -> None:
    """Time a pair: assign an address and release it, in two transactions."""
    beside = by_hand.Beside(tmp_path / "stores", durability, cooldown=cooldown)
    try:
        subject = beside.subjects(100 if durability == "relaxed" else 10)[side]
        benchmark.group = f"store pair, {subject.name.partition(':')[0]}"
        benchmark.extra_info.update(subject=subject.name, calls=subject.calls)
        benchmark(subject.run)
    finally:
        beside.close()
