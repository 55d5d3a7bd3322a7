"""Format a number of addresses for people."""

from __future__ import annotations

from math import log2

_LONGEST = 1 << 32  # no IPv4 pool has more addresses; a longer row of digits is hard to read


def power(number: int) -> str:
    """Return a number in digits, or as a power of two if it is larger than any IPv4 pool.

    The sign ~ says that the power is rounded.

    >>> power(1048573), power(2**64), power(2**64 - 2), power(3 * 2**62)
    ('1048573', '2^64', '~2^64', '~2^63.6')
    """
    if number < _LONGEST:
        return str(number)
    if number & number - 1 == 0:
        return f"2^{number.bit_length() - 1}"
    return f"~2^{round(log2(number), 1):g}"


def grouped(number: int) -> str:
    """Return a number like :func:`power`, its digits in groups of three: ``1,048,573``."""
    return f"{number:,}" if number < _LONGEST else power(number)
