"""Write the reference of all commands, as Markdown or man pages, from the sources of their help.

``python -m fastipam.cli.reference`` prints docs/commands.md; ``--man DIR`` writes man pages.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

import fastipam
from fastipam import files
from fastipam.cli import streams
from fastipam.cli.click_base import EXITS, SETTINGS, Command, Group

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTRODUCTION = """\
# Commands

Written by `scripts/reference`, from what `fastipam COMMAND --help` is made of;
`scripts/reference --man DIR` writes the same as man pages. Every command takes `-h` and `--help`.

- Rows and JSON come on standard output, notes and errors on standard error. Into a pipe a table is
  plain text, no cell of it empty; `NO_COLOR` and `TERM=dumb` switch the colours off.
- An error is one line that says what is wrong, and a hint that says what to do.
- Exit statuses are these, unless a command says more below:

{exits}
"""

# Characters that roff would interpret, or print as another character that a shell does not accept.
_ROFF = {
    "\\": "\\e",
    "-": "\\-",
    "'": "\\(aq",
    "`": "\\(ga",
    "^": "\\(ha",
    "~": "\\(ti",
    '"': "\\(dq",
}
_OPTION = re.compile(r"`[^`]*`|(?<![\w-])(--[a-z][a-z-]*)")  # text in backquotes is not changed


class Page(NamedTuple):
    """The page of a command: its words after ``fastipam``, click's object and context."""

    words: tuple[str, ...]
    command: click.Command
    context: click.Context

    @property
    def name(self) -> str:
        """The command as it is typed, such as ``fastipam import host-local``."""
        return " ".join(("fastipam", *self.words))


def pages() -> Iterator[Page]:
    """Yield a page for the root, every group and every command, in the order of the help."""
    from fastipam.cli.commands import cli

    yield from _pages(Page((), cli, click.Context(cli, info_name="fastipam", **SETTINGS)))  # type: ignore[arg-type]


def _pages(page: Page) -> Iterator[Page]:
    yield page
    if isinstance(page.command, click.Group):
        for name in page.command.list_commands(page.context):
            child = page.command.get_command(page.context, name)
            assert child is not None
            context = click.Context(child, page.context, name, **SETTINGS)  # type: ignore[arg-type]
            yield from _pages(Page((*page.words, name), child, context))


def usage(page: Page) -> str:
    """Return the usage of a command in one line."""
    return " ".join((page.name, *page.command.collect_usage_pieces(page.context)))


def paragraphs(page: Page) -> list[str]:
    """Return the paragraphs of a command's help, each as one line."""
    text = (page.command.help or "").partition("\f")[0]
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip("\b \n")]


def options(page: Page) -> list[tuple[str, str]]:
    """Return (names and metavar, help) for each option except ``--help``."""
    records = [
        one.get_help_record(page.context)
        for one in page.command.get_params(page.context)
        if isinstance(one, click.Option) and "--help" not in one.opts
    ]
    return [record for record in records if record is not None]


def exits(page: Page) -> dict[int, str]:
    """Return the meaning of each exit status."""
    return page.command.exits if isinstance(page.command, Command) else EXITS


def children(page: Page) -> list[tuple[str, str]]:
    """Return (name, summary) of each command of a group."""
    group = page.command
    if not isinstance(group, click.Group):
        return []
    entries = group.entries if isinstance(group, Group) else {}
    found = []
    for name in group.list_commands(page.context):
        child = group.get_command(page.context, name)
        assert child is not None
        text = entries[name].summary if name in entries else child.get_short_help_str(200)
        found.append((name, text))
    return found


def markdown() -> str:
    """Return the content of docs/commands.md."""
    usual = _table(("status", ""), [(str(code), text) for code, text in EXITS.items()])
    return _INTRODUCTION.format(exits=usual) + "".join(map(_markdown, pages()))


def _markdown(page: Page) -> str:
    parts: list[str] = []
    if page.words:
        parts.append(f"{'#' * (1 + len(page.words))} {page.name}")
        parts += [_plain(one) for one in paragraphs(page)]
        parts.append(f"```text\n{usage(page)}\n```")
    below = children(page)
    if below:
        rows = []
        for name, text in below:
            full = f"{page.name} {name}"
            rows.append((f"[`{full}`](#{full.replace(' ', '-')})", _plain(text)))
        parts.append(_table(("command", "what it is for"), rows))
    found = options(page)
    if found:
        parts.append(
            _table(
                ("option", ""), [(f"`{_cell(one)}`", _plain(_cell(text))) for one, text in found]
            )
        )
    if isinstance(page.command, Command) and page.command.examples:
        lines = [f"# {text}\n{line}" for line, text in page.command.examples]
        parts.append("```text\n{}\n```".format("\n".join(lines)))
    own = {code: text for code, text in exits(page).items() if EXITS.get(code) != text}
    if own:
        rows = [(str(code), _plain(_cell(own[code]))) for code in sorted(own)]
        parts.append(_table(("exit status", ""), rows))
    return "".join(f"\n{part}\n" for part in parts)


def _table(heading: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [heading, ("---", "---"), *rows]
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _plain(text: str) -> str:
    """Return a text with Markdown's characters escaped and options as code."""
    for character in "<>*_[]":
        text = text.replace(character, f"\\{character}")
    return _OPTION.sub(lambda found: f"`{found[1]}`" if found[1] else found[0], text)


def man(page: Page) -> str:
    """Return the man page of a command, section 1, in groff's man macros."""
    title = page.name.replace(" ", "-")
    texts = paragraphs(page)
    lines = [
        f'.TH "{_roff(title.upper())}" 1 "" "fastipam {fastipam.__version__}" "fastipam"',
        ".SH NAME",
        f"{_roff(title)} \\- {_roff(page.command.get_short_help_str(200).rstrip('.'))}",
        ".SH SYNOPSIS",
        f'.B "{_roff(page.name)}"',
        *(_roff(" ".join(page.command.collect_usage_pieces(page.context))).splitlines()),
        ".SH DESCRIPTION",
    ]
    for number, text in enumerate(texts):
        lines += [*([".PP"] if number else []), _roff(text)]
    for heading, rows in (
        ("COMMANDS", children(page)),
        ("OPTIONS", options(page)),
        ("EXIT STATUS", [(str(code), text) for code, text in sorted(exits(page).items())]),
    ):
        if rows:
            lines.append(f".SH {heading}")
        for name, text in rows:
            lines += [".TP", f'.B "{_roff(name)}"', _roff(text)]
    if isinstance(page.command, Command) and page.command.examples:
        lines.append(".SH EXAMPLES")
        for line, text in page.command.examples:
            lines += [".TP", _roff(text), ".EX", _roff(line), ".EE"]
    others = [one.name.replace(" ", "-") for one in _around(page)]
    if others:
        lines.append(".SH SEE ALSO")
        lines += [f".BR {_roff(one)} (1)," for one in others[:-1]]
        lines.append(f".BR {_roff(others[-1])} (1)")
    return "\n".join(lines) + "\n"


def _around(page: Page) -> list[Page]:
    """Return the page of the group that contains a command, and the pages of its own commands."""
    size = len(page.words)
    return [
        one
        for one in pages()
        if (one.words == page.words[:-1] and page.words)
        or (len(one.words) == size + 1 and one.words[:size] == page.words)
    ]


def _roff(text: str) -> str:
    """Return a text escaped for roff, in ASCII, which every version of roff can read."""
    text = "".join(_ROFF.get(one, one) if one.isascii() else f"\\[u{ord(one):04X}]" for one in text)
    return f"\\&{text}" if text.startswith(".") else text


def write_man(directory: Path) -> list[Path]:
    """Write all man pages, ``fastipam-list.1`` and so on. Idempotent. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for page in pages():
        path = directory / f"{page.name.replace(' ', '-')}.1"
        with files.replacing(path, 0o666) as descriptor:
            os.write(descriptor, man(page).encode())
        written.append(path)
    return written


@click.command(context_settings=SETTINGS)
@click.option(
    "--man",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write man pages into this directory instead.",
)
def main(directory: Path | None) -> None:
    """Print the reference of all commands as Markdown."""
    if directory is None:
        click.echo(markdown(), nl=False)
    else:
        for path in write_man(directory):
            click.echo(str(path))


if __name__ == "__main__":
    streams.run(main)
