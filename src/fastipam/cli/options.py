"""The options that several commands share."""

from __future__ import annotations

from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastipam.agent.protocol import DEFAULT_SOCKET
from fastipam.cli.click_base import Failure
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.ipam import open_with

if TYPE_CHECKING:
    from collections.abc import Callable

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class _DataDir(click.Option):
    """The option ``--data-dir``, accepted after the command or before it.

    Without the option, the environment variable applies.
    """

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        before: str | None = ctx.find_root().params.get("data_dir")
        return before or super().resolve_envvar_value(ctx)


class Seconds(click.FloatRange):
    """A number of seconds within bounds."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number of seconds. Raises click's usage error."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = nan
        if self.min is None or self.max is None or not self.min <= seconds <= self.max:
            self.fail(
                f"{str(value)!r} is not a number of seconds from {self.min:.10g} to "
                f"{self.max:.10g}",
                param,
                ctx,
            )
        return seconds


class Count(click.IntRange):
    """A whole number within bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number. Raises click's usage error."""
        try:
            number = int(value)
        except ValueError:
            number = -1
        if self.min is None or self.max is None or not self.min <= number <= self.max:
            self.fail(
                f"{str(value)!r} is not a whole number from {self.min} to {self.max}", param, ctx
            )
        return number


_MOST_DIGITS = 9  # a longer number is refused without being parsed
SMALLEST_MTU, SMALLEST_MTU_V6, LARGEST_MTU = 576, 1280, 65535  # RFC 791, RFC 8200, a datagram


class Mtu(click.ParamType[int | None]):
    """The MTU of pods in bytes. With ``auto`` the word "auto" is allowed too, and means None."""

    name = "bytes"

    def __init__(self, *, auto: bool = False) -> None:
        self._auto = auto

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Return the number of bytes. Raises click's usage error."""
        if self._auto and value == "auto":
            return None
        text = str(value)
        is_number = text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
        if not is_number or not SMALLEST_MTU <= int(text) <= LARGEST_MTU:
            word = ", and not the word auto" if self._auto else ""
            self.fail(
                f"{text!r} is not a number of bytes from {SMALLEST_MTU} to {LARGEST_MTU}{word}: "
                "type 1450, for example",
                param,
                ctx,
            )
        return int(text)


data_dir = click.option(
    "--data-dir",
    cls=_DataDir,
    type=click.Path(file_okay=False, readable=False),  # opening the store reports it with a hint
    default=DEFAULT_DATA_DIR,
    show_default=True,
    envvar="FASTIPAM_DATA_DIR",
    show_envvar=True,
    help="The directory of the store.",
)

socket = click.option(
    "--socket",
    "socket_path",
    type=click.Path(dir_okay=False, readable=False, path_type=Path),
    default=Path(DEFAULT_SOCKET),
    show_default=True,
    envvar="FASTIPAM_SOCKET",
    show_envvar=True,
    help="Where the launcher finds the agent.",
)

DEFAULT_BIN_DIR = Path("/opt/cni/bin")
bin_dir = click.option(
    "--bin-dir",
    type=click.Path(file_okay=False, readable=False, path_type=Path),
    default=DEFAULT_BIN_DIR,
    show_default=True,
    help="The runtime's directory of CNI plugins.",
)

conf_dir = click.option(
    "--conf-dir",
    type=click.Path(file_okay=False, readable=False, path_type=Path),
    default=Path("/etc/cni/net.d"),
    show_default=True,
    help="The runtime's directory of network configurations.",
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

wide = click.option(
    "--wide",
    is_flag=True,
    help="On a terminal: every column, whole, with times instead of ages. A pipe always gets them.",
)

whole = click.option(
    "--wide",
    is_flag=True,
    help="On a terminal: every column and every name, whole. A pipe always gets them.",
)


def require_parent(directory: Path, named_by: str, default: str | Path) -> None:
    """Raise Failure when the parent of a directory is missing, because the path may have a typo.

    ``named_by`` is the option or argument. The ``default`` is accepted: it has no typo.
    """
    if not directory.parent.is_dir() and directory != Path(default):
        raise Failure(
            f"{directory.parent}: this directory does not exist",
            f"type `mkdir -p {directory}`, or check the spelling of {named_by}",
        )


def _networks(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the networks whose names begin with ``incomplete``, or [] if there is no store."""
    import fastipam

    before = ctx.find_root().params.get("data_dir")
    directory = ctx.params.get("data_dir") or before or DEFAULT_DATA_DIR
    try:
        with open_with(directory, create=False, count_boot=False) as ipam:
            return [name for name in ipam.networks() if name.startswith(incomplete)]
    except (fastipam.FastipamError, OSError):
        return []


def network(text: str = "Only this network.") -> Decorator:
    """Return the option ``--network NAME``; a shell completes it from the store."""
    return click.option("--network", metavar="NAME", help=text, shell_complete=_networks)


def dry_run(text: str = "Say what would happen; change nothing.") -> Decorator:
    """Return the option ``--dry-run``."""
    return click.option("--dry-run", is_flag=True, help=text)
