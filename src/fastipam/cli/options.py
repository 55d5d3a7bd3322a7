"""Options that several commands share; each means the same everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fastipam.store import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from collections.abc import Callable

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class _DataDir(click.Option):
    """A command's ``--data-dir``: as given there, else before the command, else the variable's."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        before: str | None = ctx.find_root().params.get("data_dir")
        return before or super().resolve_envvar_value(ctx)


data_dir = click.option(
    "--data-dir",
    cls=_DataDir,
    type=click.Path(file_okay=False, readable=False),  # what refuses it has a hint
    default=DEFAULT_DATA_DIR,
    show_default=True,
    envvar="FASTIPAM_DATA_DIR",
    show_envvar=True,
    help="The directory of the store.",
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _networks(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The names that begin so, for the shell; nothing when the store cannot be read."""
    import fastipam

    before = ctx.find_root().params.get("data_dir")
    directory = ctx.params.get("data_dir") or before or DEFAULT_DATA_DIR
    try:
        with fastipam.open(directory, create=False) as ipam:
            return [name for name in ipam.networks() if name.startswith(incomplete)]
    except (fastipam.FastipamError, OSError):
        return []


def network(text: str = "Only this network.") -> Decorator:
    """``--network NAME``, completed from the store."""
    return click.option("--network", metavar="NAME", help=text, shell_complete=_networks)


def dry_run(text: str = "Say what would happen; change nothing.") -> Decorator:
    """``--dry-run``."""
    return click.option("--dry-run", is_flag=True, help=text)
