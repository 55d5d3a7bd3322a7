"""The Hilbert curve: where on a square, or half of one, each number of a line lies.

Neighbours on the line are neighbours in the plane, and an aligned block of 4**n numbers is a
square: so a CIDR is a square (or two of them side by side), at any scale.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

MAX_BITS = 24  # 4096 x 4096 cells: 64 MiB of numbers


@lru_cache(maxsize=4)
def grid(bits: int) -> npt.NDArray[np.int32]:
    """The number that lies at each (row, column), for the numbers below ``2**bits``.

    The curve begins at the top left, runs over the top and ends at the bottom left. An odd number
    of bits is its first half, a rectangle twice as wide as high. O(2**bits), kept for the next
    call. The array cannot be written to.

    >>> grid(2).tolist()
    [[0, 1], [3, 2]]
    """
    if not 0 <= bits <= MAX_BITS:
        raise ValueError(f"{bits} bits are not within 0 and {MAX_BITS}")
    square = np.zeros((1, 1), dtype=np.int32)
    for done in range(0, bits, 2):
        # The first quadrant is the curve so far, mirrored at the one diagonal; the last one at the
        # other: thus each begins where the one before it ends.
        quarter = 1 << done
        top = np.hstack((square.T, square + quarter))
        if bits - done == 1:
            square = top
        else:
            below = np.hstack((square[::-1, ::-1].T + 3 * quarter, square + 2 * quarter))
            square = np.vstack((top, below))
    square.flags.writeable = False
    return square
