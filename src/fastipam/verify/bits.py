"""Compare the bitmap of a network with its records, and each level with the one below.

Keys are big-endian, so pages, leases and reservations are read in address order and merged while
they are read. Only the numbers of full pages are kept in memory, one for 4096 addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam._bitmap import page_bits
from fastipam.addressing.addresses import BITS, format_ip
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.walk import Walk
from fastipam.verify import kept, leases

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fastipam.storage.tables import Table
    from fastipam.verify.parts import Finding, NetworkCheck


class Bits:
    """The bitmap check of one family of a network. :meth:`findings` also counts the records."""

    def __init__(self, network: NetworkCheck, family: int) -> None:
        self._network = network
        self._family = family
        # The merged generators append findings here, and each step of the merge yields them.
        self._pending: list[Finding] = []

    def findings(self) -> Iterator[Finding]:
        """Compare every level with the one below it, and level 0 with the records."""
        network, family = self._network, self._family
        below: Iterable[int] = self._addresses()
        for level in range(keys.LEVELS):
            full: list[int] = []
            bits = self._bits(level, full)
            for number, in_page, in_below in _merge(bits, below):
                yield from self._flush()
                if in_page == in_below:
                    continue
                if level == 0:
                    kind = "bit-without-record" if in_page else "record-without-bit"
                    text = "the address's bit is set, but it has neither a lease nor a reservation"
                    if in_below:
                        text = "the address has a lease or a reservation, but its bit is clear"
                    where = (
                        format_ip(family, number) if number >> BITS[family] == 0 else hex(number)
                    )
                    yield network.finding(kind, where, text)
                else:
                    yield network.finding(
                        "page-parent",
                        self._page(level - 1, number),
                        "the page is full, but the page above does not mark it as full"
                        if in_below
                        else "the page is not full, but the page above marks it as full",
                    )
            yield from self._flush()
            below = full
        for number in below:
            yield network.finding(
                "page-parent",
                f"page {number}",
                "the page is full, and there is no level above to mark it",
            )

    def _flush(self) -> Iterator[Finding]:
        if self._pending:
            yield from self._pending
            self._pending.clear()

    def _page(self, level: int, index: int) -> str:
        return f"page {index:#x} of level {level}, IPv{self._family}"

    def _found(self, kind: str, where: str, text: str) -> None:
        self._pending.append(self._network.finding(kind, where, text))

    def _bits(self, level: int, full: list[int]) -> Iterator[int]:
        """Yield the set bits of a level, ascending; add the numbers of full pages to ``full``."""
        network, family = self._network, self._family
        prefix = keys.page_key_prefix(network.pool_id, family, level)
        index_bytes = keys.page_index_bytes(family)
        for key, raw in network.items(tables.PAGES, prefix):
            if len(key) != len(prefix) + index_bytes:
                self._found("page-key", key.hex(), "this is not a valid key for a page")
                continue
            index = keys.page_index_of(key)
            where = self._page(level, index)
            if len(raw) != keys.PAGE_BYTES:
                self._found(
                    "page-length", where, f"the page has {len(raw)} bytes, not {keys.PAGE_BYTES}"
                )
                continue
            bits = page_bits(raw, index * keys.PAGE_BITS)
            if not bits:
                self._found("page-empty", where, "the page is stored, but has no bit set")
            if len(bits) == keys.PAGE_BITS:
                full.append(index)
            yield from bits

    def _addresses(self) -> Iterator[int]:
        """Yield every address with a lease or a reservation, ascending, and check its records."""
        network, family = self._network, self._family
        leased_ones = self._keyed(tables.LEASES, "lease")
        reserved_ones = self._keyed(tables.RESERVATIONS, "reservation")
        for value, leased, reserved in _merge(leased_ones, reserved_ones):
            if leased:
                self._pending += leases.judge(network, family, value)
            else:
                network.counts["reserved"] += 1
            if reserved:
                network.counts["kept"] += 1
                self._pending += kept.judge(network, family, value)
            network.counts["outside"] += network.outside(family, value)
            yield value

    def _keyed(self, table: Table, what: str) -> Iterator[int]:
        prefix = keys.family_prefix(self._network.pool_id, self._family)
        for key, _ in self._network.items(table, prefix):
            address = keys.address_of(key)
            if address is not None:
                yield address[1]
            else:
                self._found(f"{what}-key", key.hex(), f"this is not a valid key for a {what}")


def other_families(network: NetworkCheck) -> Iterator[Finding]:
    """Yield a finding for each key of a family or level that does not exist."""
    for what, table, levels in (
        ("page", tables.PAGES, keys.LEVELS),
        ("lease", tables.LEASES, 256),
        ("reservation", tables.RESERVATIONS, 256),
    ):
        start = prefix = network.prefix
        with Walk(network.txn, table) as walk:
            while walk.seek(start) and walk.key().startswith(prefix):
                key = walk.key()
                known = len(key) > 5 and key[4] in BITS and key[5] < levels
                if not known:
                    text = f"this is not a valid key for a {what}"
                    yield network.finding(f"{what}-key", key.hex(), text)
                    start = key + b"\0"
                else:
                    # Skip what was checked: the rest of a family, or the known levels of pages.
                    family = key[:5]
                    start = family + bytes((levels,)) if levels < 256 else _behind(family)


def _merge(left: Iterable[int], right: Iterable[int]) -> Iterator[tuple[int, bool, bool]]:
    """Merge two ascending sequences: yield (number, is in left, is in right)."""
    lefts, rights = iter(left), iter(right)
    one, other = next(lefts, None), next(rights, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one < other):
            assert one is not None
            yield one, True, False
            one = next(lefts, None)
        elif one is None or other < one:
            yield other, False, True
            other = next(rights, None)
        else:
            yield one, True, True
            one, other = next(lefts, None), next(rights, None)


def _behind(prefix: bytes) -> bytes:
    """Return the first key after those that begin with ``prefix``, which must not end in 255."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))
