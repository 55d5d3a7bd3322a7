"""Choose the frames of a picture: the CIDRs of the address space that it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fastipam.addressing.addresses import BITS, format_cidr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.addressing.ranges import Pool

# Of a subnet with more than 2**WHOLE_BITS addresses only the parts with used addresses are drawn,
# because one used address of a whole /64 would be too small to see.
WHOLE_BITS = 32
LEAST_BITS = 12  # the smallest part: one page of the bitmap
APART_PAGES = 256  # pages further apart than this are in different parts
MOST_PARTS = 4
_PAGE_BITS = 12


class Frame(NamedTuple):
    """An aligned block of ``2**bits`` addresses from ``first``, drawn in cells of ``2**shift``."""

    family: int
    first: int
    bits: int
    shift: int
    subnet: str  # the CIDR of the configured subnets that the frame shows, whole or in part

    @property
    def last(self) -> int:
        """The last address."""
        return self.first + (1 << self.bits) - 1

    @property
    def cell_bits(self) -> int:
        """The frame's number of cells is ``2**cell_bits``."""
        return self.bits - self.shift

    @property
    def cidr(self) -> str:
        """The frame's addresses as a CIDR."""
        return format_cidr(self.family, self.first, BITS[self.family] - self.bits)

    def part(self, number: int, parts_bits: int) -> str:
        """Return the CIDR of one of ``2**parts_bits`` equal parts."""
        bits = self.bits - parts_bits
        return format_cidr(self.family, self.first + (number << bits), BITS[self.family] - bits)


def frames(pool: Pool, touched: dict[int, Sequence[int]], max_bits: int) -> tuple[list[Frame], int]:
    """Return the frames of a pool, and the number of parts of large subnets that are left out.

    A frame has at most ``2**max_bits`` cells. ``touched`` has the indices of the bitmap's stored
    pages, ascending, for each family. O(ranges + pages).
    """
    found: list[Frame] = []
    left_out = 0
    for family in dict.fromkeys(each.family for each in pool.sets):
        subnets = [
            (one.network, BITS[family] - one.length)
            for each in pool.sets
            if each.family == family
            for one in each.ranges
        ]
        for first, bits in _joined(subnets):
            text = format_cidr(family, first, BITS[family] - bits)
            parts = [(first, bits)]
            if bits > WHOLE_BITS:
                low, high = first >> _PAGE_BITS, (first + (1 << bits) - 1) >> _PAGE_BITS
                pages = [number for number in touched.get(family, ()) if low <= number <= high]
                parts = _parts(pages) or [(first, LEAST_BITS)]
                left_out += max(0, len(parts) - MOST_PARTS)
            found += [
                Frame(family, start, size, max(0, size - max_bits), text)
                for start, size in parts[:MOST_PARTS]
            ]
    return found, left_out


def _joined(subnets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join (first address, bits) blocks that are close to each other into larger blocks."""
    # First address, bits, and how many of the block's addresses are in subnets.
    joined: list[tuple[int, int, int]] = []
    for first, bits in sorted(set(subnets), key=lambda one: (one[0], -one[1])):
        last = first + (1 << bits) - 1
        if joined and last < joined[-1][0] + (1 << joined[-1][1]):
            continue  # this block lies in the previous one
        joined.append((first, bits, 1 << bits))
        while len(joined) > 1:
            (low, _, wanted), (_, _, more) = joined[-2:]
            cover = _cover(low, last)
            if 1 << cover > 4 * (wanted + more):
                break
            joined[-2:] = [(low >> cover << cover, cover, wanted + more)]
    return [(first, bits) for first, bits, _ in joined]


def _cover(low: int, high: int) -> int:
    """Return the bits of the smallest aligned block that contains both addresses."""
    return (low ^ high).bit_length()


def _parts(pages: Sequence[int]) -> list[tuple[int, int]]:
    """Return blocks (first address, bits) that contain these pages; close pages share a block."""
    groups: list[list[int]] = []
    for number in pages:
        if groups and number - groups[-1][-1] <= APART_PAGES and _is_snug(groups[-1][0], number):
            groups[-1].append(number)
        else:
            groups.append([number])
    parts = []
    for group in groups:
        bits = _cover(group[0], group[-1])
        parts.append((group[0] >> bits << bits + _PAGE_BITS, bits + _PAGE_BITS))
    return parts


def _is_snug(low: int, high: int) -> bool:
    """Return whether the smallest block with both pages is at most four times their distance."""
    return 1 << _cover(low, high) <= 4 * max(APART_PAGES, high - low)
