"""Print the output of commands: tables and JSON, one row at a time, and messages.

On a terminal a table has colours (rich's; ``NO_COLOR`` and ``TERM=dumb`` switch them off) and fits
the width. In a pipe a table is plain text, one row per line, and no cell is empty or cut. Rows are
written as they are read, so that a million rows need no memory.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from fastipam.cli import filters, layout, streams
from fastipam.cli.layout import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from rich.console import Console

_STYLES = {
    "": "bold",  # the headings
    filters.ASSIGNED: "green",
    filters.COOLING: "cyan",
    filters.RESERVED: "yellow",
    filters.FREE: "bright_black",
    "ok": "green",
    "warning": "yellow",
    "error": "red",
}


def is_terminal(stream: Any = None) -> bool:
    """Return whether a stream, by default standard output, is a terminal."""
    stream = sys.stdout if stream is None else stream
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def is_narrow(*, wide: bool) -> bool:
    """Return whether a table has to fit a terminal, with ages and without some columns."""
    return is_terminal() and not wide


def has_colours(stream: Any = None) -> bool:
    """Return whether a stream gets colours; see https://no-color.org."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def console(stream: Any = None) -> Console:
    """Return a console of rich for a stream, by default standard output."""
    from rich.console import Console

    stream = sys.stdout if stream is None else stream
    return Console(file=stream, highlight=False, no_color=not has_colours(stream), soft_wrap=True)


def say(text: str) -> None:
    """Print a line on standard output."""
    click.echo(text)


def note(text: str) -> None:
    """Print a line on standard error: a note for a person that is not part of the output.

    Nothing is printed if standard output has failed: one line at the end reports that.
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
    columns: Sequence[Column],
    documents: Iterable[Mapping[str, Any]],
    *,
    as_json: bool,
    wide: bool = False,
) -> bool:
    """Print documents as a JSON array or as a table, and return whether there were any."""
    return json_array(documents) if as_json else table(columns, documents, wide=wide)


def json_array(documents: Iterable[Mapping[str, Any]]) -> bool:
    """Print a JSON array, one document per line, and return whether there were any."""
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
    """Print a document as indented JSON."""
    from json import dumps

    say(dumps(document, indent=2))


def table(
    columns: Sequence[Column], documents: Iterable[Mapping[str, Any]], *, wide: bool = False
) -> bool:
    """Print headings and one row per document, and return whether there were any.

    On a terminal the table fits the width, unless ``wide`` is set.
    """
    write = sys.stdout.write
    written = 0  # the first line has the headings
    for line in lines(columns, documents, width=width_of(wide=wide), colours=has_colours()):
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
    return layout.lines(columns, documents, width=width, paint=_painter() if colours else None)


def width_of(*, wide: bool) -> int | None:
    """Return the greatest width of a line on standard output, or None for no limit."""
    return console().width if is_narrow(wide=wide) else None


def prose(text: str, *, before: str = "", indent: int = 2, wide: bool = False) -> None:
    """Print a text with ``before`` in front; on a terminal it is wrapped and indented."""
    for line in layout.wrapped(text, width_of(wide=wide), before=before, indent=indent):
        say(line)


def fitted(text: str, stream: Any = None) -> str:
    """Return a line, cut to the terminal's width if the stream is a terminal."""
    return layout.cut(text, console(stream).width) if is_terminal(stream) else text


def _painter() -> Callable[[str, str], str]:
    """Return a function (cell, text) that adds the terminal's codes to the text."""
    from rich.style import Style

    system = console()._color_system
    styles = {cell: Style.parse(name) for cell, name in _STYLES.items()}

    def paint(cell: str, text: str) -> str:
        style = styles.get(cell)
        return text if style is None else style.render(text, color_system=system)

    return paint
