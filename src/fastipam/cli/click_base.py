"""Classes for commands and groups, derived from click's.

The module of a command is imported only when the command is used, so ``fastipam --help`` does not
get slower with every command. An error is printed as one line and a hint, never as a traceback.
Examples and exit statuses are attributes of the command; its help and its page in the reference
are made from them.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fastipam.errors import FastipamError

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

# The exit statuses of every command. A command overrides a text if the status means more for it.
EXITS = {
    0: "done",
    1: "an error; standard error says which, and what to do",
    2: "wrong usage; nothing was done",
}


class Entry(NamedTuple):
    """A command of a group: its place (``module:attribute``), section of the help, and summary."""

    place: str
    section: str
    summary: str


class Failure(click.ClickException):
    """An error that is printed with a hint on what to do next; exit status 1."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: Any = None) -> None:  # noqa: ARG002  # click's signature
        from fastipam.cli import output

        output.complain(self.message, self.hint)


class Command(click.Command):
    """A command with ``examples`` (command line, text) and ``exits`` (text by exit status)."""

    def __init__(
        self,
        *args: Any,
        examples: Sequence[tuple[str, str]] = (),
        exits: Mapping[int, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.examples = tuple(examples)
        self.exits = {**EXITS, **(exits or {})}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse like the base class, but refuse an empty value."""
        _refuse_empty(self, ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; if it raises ConfigError, set the error's field to the option as typed.

        If the field is a positional argument, it is removed: the message quotes the argument's
        value, and its name (NAME) adds nothing.
        """
        from fastipam.errors import ConfigError

        try:
            return super().invoke(ctx)
        except ConfigError as error:
            for one in self.params:
                if one.name == error.field:
                    error.field = one.opts[0] if isinstance(one, click.Option) else ""
            raise

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, then the exit statuses."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                indent = " " * formatter.current_indent
                for line, text in self.examples:
                    formatter.write(f"{indent}# {text}\n{indent}{line}\n")
        own = {code: text for code, text in self.exits.items() if EXITS.get(code) != text}
        shown = {**dict.fromkeys((0,), EXITS[0]), **own} if own else EXITS
        with formatter.section("Exit status"):
            formatter.write_dl([(str(code), text) for code, text in sorted(shown.items())])


def _refuse_empty(command: click.Command, ctx: click.Context, args: Sequence[str]) -> None:
    """Raise click's usage error for an empty value, which an unset shell variable gives.

    Treated as no value, it would select everything: ``--pod "$POD"`` would select all pods.
    """
    if ctx.resilient_parsing:  # a shell completes a word
        return
    given = command.make_parser(ctx).parse_args(list(args))[0]
    for one in command.params:
        value = given.get(one.name or "")
        if value == "" or (isinstance(value, (list, tuple)) and "" in value):
            raise click.BadParameter("the value is empty", ctx=ctx, param=one)


class Group(click.Group):
    """A group whose commands are in modules of their own, or added with click's decorators."""

    command_class = Command

    def __init__(
        self, *args: Any, entries: Mapping[str, Entry] | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.entries = dict(entries or {})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse like the base class, but refuse an empty value."""
        if args:  # without arguments the help is printed
            _refuse_empty(self, ctx, args)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands; those of ``entries`` come first, in their order."""
        return [*self.entries, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, whose module is imported now."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = entry.place.partition(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve like the base class, but suggest similar names for an unknown one."""
        name = args[0]
        known = self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(name, known, 3)
            hint = f"Did you mean {' or '.join(close)}?" if close else f"Try '{ctx.command_path}'."
            ctx.fail(f"No such command {name!r}. {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, without importing their modules."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.entries.items():
            sections.setdefault(entry.section, []).append((name, entry.summary))
        width = max((len(name) for name in self.entries), default=0)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in rows])
        if self.commands:
            limit = formatter.width - 6 - max(map(len, self.commands))
            own = [
                (name, self.commands[name].get_short_help_str(limit))
                for name in super().list_commands(ctx)
            ]
            with formatter.section("Commands"):
                formatter.write_dl(own)


class Root(Group):
    """The outermost group; it turns exceptions into messages and exit statuses."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write where to find more."""
        from fastipam.cli.topics import documents

        super().format_epilog(ctx, formatter)
        rows = [("fastipam help TOPIC", "a command, or a topic such as states, times, files")]
        if documents():
            rows.append((documents(), "the documents"))
        with formatter.section("More"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; print FastipamError and OSError as one line and a hint, status 1."""
        from fastipam.errors import FastipamError

        try:
            return super().invoke(ctx)
        except FastipamError as error:
            raise Failure(reason_of(error), _as_root(error.__cause__) or error.hint) from error
        except FileNotFoundError as error:
            raise _missing(error) from error
        except OSError as error:
            raise Failure(_reason(error), _as_root(error)) from error


def reason_of(error: FastipamError) -> str:
    """Return the text of an error as one line that begins with its field."""
    field = getattr(error, "field", "")
    return f"{field}: {error.message}" if field else error.message


def _reason(error: OSError) -> str:
    """Return an OSError as one line, with the file's name in front."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _as_root(error: BaseException | None) -> str | None:
    """Return a hint to use sudo when the error means missing permissions, else None."""
    refused = is_refusal(error) and os.geteuid() != 0
    return f"as root: {as_root()}" if refused else None


def as_root() -> str:
    """Return the typed command line with sudo in front, or "" when this user is root.

    The program has its whole path, because sudo does not search in a virtual environment.
    """
    if os.geteuid() == 0:
        return ""
    return shlex.join(["sudo", os.path.abspath(sys.argv[0]), *sys.argv[1:]])


def is_refusal(error: BaseException | None) -> bool:
    """Return whether an OSError or an error of LMDB means missing permissions."""
    code = getattr(error, "code", 0) or getattr(error, "errno", 0)
    return code in (errno.EACCES, errno.EPERM)


def _missing(error: FileNotFoundError) -> Failure:
    hint = None
    if error.strerror == "there is no store":
        hint = "the first ADD creates it; --data-dir or FASTIPAM_DATA_DIR names another one"
    return Failure(f"{error.filename}: {error.strerror}", hint)


def command(
    name: str, *, examples: Sequence[tuple[str, str]] = (), **attributes: Any
) -> Callable[[Callable[..., Any]], Command]:
    """Return a decorator that makes a :class:`Command`, as ``click.command`` does."""
    return click.command(name, cls=Command, examples=examples, **attributes)
