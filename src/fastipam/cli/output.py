"""Print what commands answer: tables and JSON, one row at a time, and messages.

On a terminal a table has colours (rich's; ``NO_COLOR`` and ``TERM=dumb`` switch them off) and is
cut to the width. In a pipe it is plain text, one row a line, and no cell is empty or cut. Rows are
written as they come, so that a million rows need no memory: the first ones decide the widths.
"""

from __future__ import annotations

import os
import sys
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from fastipam.cli import filters, streams

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import Console

_SAMPLE = 200  # rows that decide the widths; some screens full
_GAP = "  "
_EMPTY = "-"
_STYLES = {
    filters.ASSIGNED: "green",
    filters.COOLING: "cyan",
    filters.RESERVED: "yellow",
    filters.FREE: "bright_black",
    "ok": "green",
    "warning": "yellow",
    "error": "red",
}


class Column(NamedTuple):
    """A column: its heading, a row's key, its usual width, whether it is a number.

    ``least`` is the width to which a narrow terminal may cut it; a column with 0 is never cut.
    """

    heading: str
    key: str
    width: int = 0
    number: bool = False
    least: int = 0


def is_terminal(stream: Any = None) -> bool:
    """Return whether a stream, by default standard output, is a terminal."""
    stream = sys.stdout if stream is None else stream
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def has_colours(stream: Any = None) -> bool:
    """Return whether a stream gets colours: https://no-color.org."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def console(stream: Any = None) -> Console:
    """Return rich's console of a stream, by default standard output."""
    from rich.console import Console

    stream = sys.stdout if stream is None else stream
    return Console(file=stream, highlight=False, no_color=not has_colours(stream), soft_wrap=True)


def say(text: str) -> None:
    """Print a line on standard output."""
    click.echo(text)


def note(text: str) -> None:
    """Print a line on standard error, for a person: it is not part of the answer.

    Nothing is printed when the answer could not be: one line at the end says so.
    """
    if streams.failure() is None:
        click.echo(text, err=True)


def complain(message: str, hint: str | None) -> None:
    """Print an error in one line, and its hint."""
    colours = has_colours(sys.stderr)
    name = click.style("fastipam:", fg="red", bold=True) if colours else "fastipam:"
    click.echo(f"{name} {message}", err=True)
    if hint:
        click.echo(f"  hint: {hint}", err=True)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 address", "2 addresses"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def rows(
    columns: Sequence[Column], documents: Iterable[Mapping[str, Any]], *, as_json: bool
) -> bool:
    """Print documents as a JSON array or as a table; return whether there were any."""
    return json_array(documents) if as_json else table(columns, documents)


def json_array(documents: Iterable[Mapping[str, Any]]) -> bool:
    """Print an array, one document a line; return whether there were any."""
    from json import JSONEncoder

    encode = JSONEncoder().encode
    separator = "["
    write = sys.stdout.write
    for document in documents:
        write(f"{separator}\n{encode(document)}")
        separator = ","
        if streams.is_lost():
            break
    write("[]\n" if separator == "[" else "\n]\n")
    sys.stdout.flush()
    return separator != "["


def json_object(document: Mapping[str, Any]) -> None:
    """Print a document."""
    from json import dumps

    say(dumps(document, indent=2))


def table(columns: Sequence[Column], documents: Iterable[Mapping[str, Any]]) -> bool:
    """Print headings and a row a document; return whether there were any."""
    write = sys.stdout.write
    written = 0  # the first line has the headings
    for line in lines(columns, documents, width=_terminal_width(), colours=has_colours()):
        write(line + "\n")
        written += 1
        if streams.is_lost():
            break
    sys.stdout.flush()
    return written > 1


def lines(
    columns: Sequence[Column],
    documents: Iterable[Mapping[str, Any]],
    *,
    width: int | None = None,
    colours: bool = False,
) -> Iterator[str]:
    """Yield the lines of a table, not wider than ``width``."""
    keys = [column.key for column in columns]
    cells = ([_cell(document[key]) for key in keys] for document in documents)
    sample = list(islice(cells, _SAMPLE))
    widths = [
        max(column.width, len(column.heading), *(len(row[at]) for row in sample), 0)
        for at, column in enumerate(columns)
    ]
    if width is not None:
        _fit(widths, [column.least for column in columns], width)
    aligned = [(size, column.number) for size, column in zip(widths, columns, strict=True)]
    paint = _painter() if colours else None
    heading = _GAP.join(
        _align(column.heading, *how) for column, how in zip(columns, aligned, strict=True)
    )
    heading = heading.rstrip()
    yield heading if paint is None else paint("bold", heading)
    for row in chain(sample, cells):
        texts = [_align(text, *how) for text, how in zip(row, aligned, strict=True)]
        if width is not None:
            texts = [_cut(text, size) for text, size in zip(texts, widths, strict=True)]
        if paint is not None:
            texts = [
                paint(_STYLES.get(cell, ""), text) for cell, text in zip(row, texts, strict=True)
            ]
        yield _GAP.join(texts).rstrip()


def _cell(value: Any) -> str:
    """Return the text of a cell, with a placeholder if empty: awk finds one word per column."""
    return printable(str(value)) or _EMPTY


def printable(text: str) -> str:
    """Return a text without control characters, which could move a terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _align(text: str, width: int, number: bool) -> str:
    return text.rjust(width) if number else text.ljust(width)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _fit(widths: list[int], least: list[int], total: int) -> None:
    """Cut columns, those with the most to spare first, until all fit."""
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - total
    spare = [size - few if few else 0 for size, few in zip(widths, least, strict=True)]
    while excess > 0 and max(spare) > 0:
        at = spare.index(max(spare))
        widths[at] -= 1
        spare[at] -= 1
        excess -= 1


def _terminal_width() -> int | None:
    """Return the width of the terminal, or None for a pipe."""
    return console().width if is_terminal() else None


def _painter() -> Any:
    """Return a function (style, text) that returns the text with the terminal's codes."""
    from rich.style import Style

    system = console()._color_system
    styles: dict[str, Style] = {}

    def paint(name: str, text: str) -> str:
        if not name:
            return text
        style = styles.get(name)
        if style is None:
            style = styles[name] = Style.parse(name)
        return style.render(text, color_system=system)

    return paint
