"""Tests for pytest-benchmark: a pair in memory, of fastipam and peers, at every size and fill.

A timed call makes ``calls`` pairs; ``python -m bench`` divides by them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bench import memory

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("fill", memory.FILLS, ids=lambda fill: f"{fill:.2%}")
@pytest.mark.parametrize("prefix", memory.PREFIXES, ids=lambda prefix: f"/{prefix}")
@pytest.mark.parametrize("peer", memory.PEERS)
def test_pair(benchmark: BenchmarkFixture, peer: str, prefix: int, fill: float) -> None:
    """Time a pair: allocate the next free address and release it."""
    subject = memory.pair(peer, prefix, fill)
    benchmark.group = f"pair /{prefix} {fill:.2%}"
    benchmark.extra_info.update(peer=peer, prefix=prefix, fill=fill, calls=subject.calls)
    benchmark(subject.run)


@pytest.mark.parametrize("name", ["empty method", "allocate", "allocate_many"])
def test_call(benchmark: BenchmarkFixture, name: str) -> None:
    """Time calls on a fresh /12, which is made untimed before each round."""
    subject = next(one for one in memory.calls_of_a_bitmap() if one.name == name)
    benchmark.group = "calls"
    benchmark.extra_info.update(peer=name, calls=subject.calls)

    def set_up() -> None:
        if subject.before is not None:
            subject.before()

    timed: Any = benchmark
    timed.pedantic(subject.run, setup=set_up, rounds=20, warmup_rounds=1)
