"""The Hilbert curve, which maps numbers to the cells of a square, or of half a square.

Neighbouring numbers are neighbours in the plane, and an aligned block of 4**n numbers is a square.
So a CIDR is a square, or two squares side by side, at any scale.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

MAX_BITS = 24  # 4096 x 4096 cells: 64 MiB of numbers


@lru_cache(maxsize=4)
def grid(bits: int) -> npt.NDArray[np.int32]:
    """Return the number at each (row, column), for the numbers below ``2**bits``.

    The curve begins at the top left and ends at the bottom left. With an odd number of bits the
    result is its first half, a rectangle twice as wide as high. O(2**bits); the result is cached
    and read-only.

    >>> grid(2).tolist()
    [[0, 1], [3, 2]]
    """
    if not 0 <= bits <= MAX_BITS:
        raise ValueError(f"{bits} bits are not within 0 and {MAX_BITS}")
    square = np.zeros((1, 1), dtype=np.int32)
    for done in range(0, bits, 2):
        # The first quadrant is the curve so far, mirrored at one diagonal; the last quadrant is
        # mirrored at the other diagonal. So each quadrant begins where the quadrant before it ends.
        quarter = 1 << done
        top = np.hstack((square.T, square + quarter))
        if bits - done == 1:
            square = top
        else:
            below = np.hstack((square[::-1, ::-1].T + 3 * quarter, square + 2 * quarter))
            square = np.vstack((top, below))
    square.flags.writeable = False
    return square
