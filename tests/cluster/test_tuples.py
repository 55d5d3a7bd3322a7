"""The named tuples of cluster mode do what those of ``typing`` do."""

from __future__ import annotations

import pickle
import typing
from typing import Any

import pytest

from fastipam.cluster import tuples


def _both() -> list[Any]:
    class Ours(tuples.NamedTuple):
        one: int
        two: str
        three: float = 1.5

    class Theirs(typing.NamedTuple):
        one: int
        two: str
        three: float = 1.5

    return [Ours, Theirs]


BOTH = _both()


class Kept(tuples.NamedTuple):
    """One that pickle finds again."""

    one: int
    two: str = "b"


def test_they_say_the_same() -> None:
    """Fields, defaults, unpacking, equality, hash, text, dictionary, a changed copy."""
    ours, theirs = (each(1, two="b") for each in BOTH)
    assert ours == theirs == (1, "b", 1.5)
    assert hash(ours) == hash(theirs)
    assert (ours.one, ours.two, ours.three) == tuple(ours)
    assert repr(ours).replace("Ours", "Theirs") == repr(theirs)
    assert ours._fields == theirs._fields
    assert ours._asdict() == theirs._asdict()
    assert ours._replace(one=9) == theirs._replace(one=9) == (9, "b", 1.5)


@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((1,), {}), ((1, "b", 2.0, 4), {}), ((1, "b"), {"four": 4}), ((1, "b"), {"one": 1})],
)
def test_they_refuse_the_same(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Too few, too many, unknown and doubled fields are type errors."""
    for each in BOTH:
        with pytest.raises(TypeError):
            each(*values, **named)


def test_pickle() -> None:
    """One that went through pickle is equal, and of its class."""
    one = Kept(3)
    again = pickle.loads(pickle.dumps(one))
    assert again == one == (3, "b")
    assert type(again) is Kept
