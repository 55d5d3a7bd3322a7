"""The curve: a path through every cell, in which a CIDR is a square."""

from __future__ import annotations

import numpy as np
import pytest

from fastipam.picture import hilbert


def _slow(bits: int, number: int) -> tuple[int, int]:
    """(row, column) of a number: the textbook's loop, one bit pair at a time."""
    row = column = 0
    for level in range(bits // 2):
        low, high = number >> 2 * level & 1, number >> 2 * level + 1 & 1
        right, down = high ^ low, high
        side = 1 << level
        if not down and not right:
            row, column = column, row
        elif down and not right:
            row, column = side - 1 - column, side - 1 - row
        row, column = row + side * down, column + side * right
    return row, column


@pytest.mark.parametrize("bits", range(0, 13, 2))
def test_textbook(bits: int) -> None:
    """The array is the inverse of the curve as it is defined, number by number."""
    grid = hilbert.grid(bits)
    assert grid.shape == (1 << bits // 2, 1 << bits // 2)
    assert all(grid[_slow(bits, number)] == number for number in range(1 << bits))


@pytest.mark.parametrize("bits", range(21))
def test_path(bits: int) -> None:
    """Every number is there once, and each is beside the one before it."""
    grid = hilbert.grid(bits)
    rows, columns = np.unravel_index(np.argsort(grid, axis=None), grid.shape)
    assert (grid[rows, columns] == np.arange(1 << bits)).all()
    assert (np.abs(np.diff(rows)) + np.abs(np.diff(columns)) == 1).all()


@pytest.mark.parametrize("bits", [8, 9, 12, 13])
def test_blocks_are_squares(bits: int) -> None:
    """An aligned block of 4**n numbers fills a square, where a coarser curve has it."""
    grid = hilbert.grid(bits)
    for size in range(0, bits, 2):
        coarse = hilbert.grid(bits - size)
        side = 1 << size // 2
        assert (coarse.repeat(side, axis=0).repeat(side, axis=1) == grid >> size).all()


def test_bounds() -> None:
    """More cells than fit into memory are refused."""
    for bits in (-1, hilbert.MAX_BITS + 1):
        with pytest.raises(ValueError, match="bits are not within"):
            hilbert.grid(bits)
