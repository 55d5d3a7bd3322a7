"""Lay out a table: which columns have room on a terminal, and how wide each of them is.

A row is never wider than the terminal. The least important columns are left out first, then long
cells are cut. Without a width, as in a pipe or with ``--wide``, every column is printed and no cell
is cut.
"""

from __future__ import annotations

from itertools import chain, islice
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from fastipam.addressing.sizes import power

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

SAMPLE = 200  # rows that decide the widths: a few screens
EXTRA = 10  # columns with a ``drop`` of this or more are left out first
_GAP = "  "
_EMPTY = "-"
_FEWEST = 4  # characters: the least width of a cut cell that is still of use
_LAST = -9  # no ``drop`` is lower
_LEAST_TEXT = 20  # characters of a wrapped text, however far it is indented


class Column(NamedTuple):
    """A column: its heading, the key in a row, its usual width, whether it has numbers.

    On a narrow terminal the column with the highest ``drop`` is left out first. A column whose
    ``drop`` is 0 is never left out. A column with EXTRA or more is left out before any column with
    0 is cut; a column with a negative ``drop`` is left out only when cutting the others is not
    enough. ``least`` is the width to which a column is cut while other columns can be left out; 0
    means that the column is never cut. ``middle`` cuts the
    middle out of a text whose end matters too.
    """

    heading: str
    key: str
    width: int = 0
    number: bool = False
    least: int = 0
    drop: int = 0
    middle: bool = False


def lines(
    columns: Sequence[Column],
    documents: Iterable[Mapping[str, Any]],
    *,
    width: int | None = None,
    paint: Callable[[str, str], str] | None = None,
) -> Iterator[str]:
    """Yield the lines of a table, not wider than ``width``.

    The first rows decide the widths, so that a million rows need no memory. ``paint(cell, text)``
    is called with a cell, or "" for the headings, and its padded text, and returns the text with
    the terminal's codes.
    """
    documents = iter(documents)
    sample = list(islice(documents, SAMPLE))
    cells = [[_cell(one[column.key], width) for column in columns] for one in sample]
    natural = [
        max(column.width, len(column.heading), *(len(row[at]) for row in cells), 0)
        for at, column in enumerate(columns)
    ]
    kept = _kept(columns, natural, width)
    columns = [columns[at] for at in kept]
    sizes = _fit(columns, [natural[at] for at in kept], width)
    heading = _GAP.join(
        _align(column.heading, size, column.number)
        for column, size in zip(columns, sizes, strict=True)
    ).rstrip()
    yield paint("", heading) if paint else heading
    rest = ([_cell(one[column.key], width) for column in columns] for one in documents)
    for row in chain(([row[at] for at in kept] for row in cells), rest):
        texts = _texts(columns, row, sizes, width)
        if paint:
            texts = [paint(cell, text) for cell, text in zip(row, texts, strict=True)]
        yield _GAP.join(texts).rstrip()


def printable(text: str) -> str:
    """Return a text without control characters, which could move a terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def wrapped(text: str, width: int | None, *, before: str = "", indent: int = 2) -> list[str]:
    """Return the lines of a text with ``before`` in front; all lines but the first are indented.

    Words that are longer than a line are broken. Without a width there is only one line.
    """
    if width is None:
        return [before + text]
    found = wrap(
        text,
        max(width, indent + _LEAST_TEXT),
        initial_indent=before,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    )
    return found or [before.rstrip()]


def cut(text: str, width: int, *, middle: bool = False) -> str:
    """Return a text of at most ``width`` characters; an ellipsis replaces the part cut out."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2 if middle else 0
    return text[: width - 1 - end] + "…" + text[len(text) - end :]


def _cell(value: Any, width: int | None) -> str:
    """Return the text of a cell, or a placeholder for an empty one, so that awk finds a word."""
    if width is not None and isinstance(value, int):
        return power(value)
    return printable(str(value)) or _EMPTY


def _kept(columns: Sequence[Column], natural: Sequence[int], width: int | None) -> list[int]:
    """Return the indices of the columns for which there is room."""
    kept = list(range(len(columns)))
    if width is None:
        return kept
    for lowest, staying_whole, fewest in ((EXTRA, True, 0), (1, False, 0), (_LAST, False, _FEWEST)):
        needs = [
            min(size, fewest or column.least)
            if column.least and (column.drop > 0 or not staying_whole)
            else size
            for size, column in zip(natural, columns, strict=True)
        ]
        while sum(needs[at] + len(_GAP) for at in kept) - len(_GAP) > width:
            leaving = [at for at in kept if columns[at].drop and columns[at].drop >= lowest]
            if not leaving:
                break
            kept.remove(max(leaving, key=lambda at: columns[at].drop))
    return kept


def _fit(columns: Sequence[Column], sizes: Sequence[int], width: int | None) -> list[int]:
    """Return the widths of the columns: those with the most to spare are cut until all fit."""
    sizes = list(sizes)
    if width is None:
        return sizes
    excess = sum(sizes) + len(_GAP) * (len(sizes) - 1) - width
    for fewest in (None, _FEWEST):  # cut below ``least`` only when nothing else helps
        spare = [
            size - (fewest or column.least) if column.least else 0
            for size, column in zip(sizes, columns, strict=True)
        ]
        while excess > 0 and max(spare) > 0:
            at = spare.index(max(spare))
            sizes[at] -= 1
            spare[at] -= 1
            excess -= 1
    return sizes


def _texts(
    columns: Sequence[Column], row: Sequence[str], sizes: Sequence[int], width: int | None
) -> list[str]:
    """Return the aligned cells of a row, cut to their columns if the table has a width."""
    if width is not None and any(
        len(cell) > size and not column.least
        for cell, size, column in zip(row, sizes, columns, strict=True)
    ):
        # A cell that must not be cut is longer than all cells of its column in the first rows,
        # which decided the widths, for example an IPv6 address after many IPv4 addresses. So cut
        # the other cells of this row more.
        sizes = _fit(
            columns,
            [
                size if column.least else max(size, len(cell))
                for cell, size, column in zip(row, sizes, columns, strict=True)
            ],
            width,
        )
    return [
        _align(
            cell if width is None or not column.least else cut(cell, size, middle=column.middle),
            size,
            column.number,
        )
        for cell, size, column in zip(row, sizes, columns, strict=True)
    ]


def _align(text: str, width: int, number: bool) -> str:
    return text.rjust(width) if number else text.ljust(width)
