"""The commands and their options; what they do is in the modules beside this one."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import fastipam
from fastipam.agent.protocol import DEFAULT_SOCKET
from fastipam.cli import install as installation
from fastipam.cli import listing, migration
from fastipam.errors import ConfigError, FastipamError
from fastipam.store import DEFAULT_DATA_DIR
from fastipam.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class _Group(click.Group):
    """A group whose errors end in one line and a hint, never in a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FastipamError as error:
            field = getattr(error, "field", "")
            message = f"{field}: {error.message}" if field else error.message
            raise _Failure(message, error.hint) from error
        except FileNotFoundError as error:
            raise _Failure(f"{error.filename}: {error.strerror}", None) from error
        except BrokenPipeError:
            # Whoever read this went away (head, say): no reason for a message.
            sys.stderr.close()
            raise SystemExit(1) from None
        except OSError as error:
            raise _Failure(str(error), None) from error


class _Failure(click.ClickException):
    """An error with what to do next; exit status 1."""

    def __init__(self, message: str, hint: str | None) -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: Any = None) -> None:  # noqa: ARG002  # click's signature
        click.echo(f"fastipam: {self.message}", err=True)
        if self.hint:
            click.echo(f"  hint: {self.hint}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fastipam.__version__, prog_name="fastipam")
def cli() -> None:
    """IP address management for container networks."""


def _data_dir(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False),
        default=DEFAULT_DATA_DIR,
        show_default=True,
        envvar="FASTIPAM_DATA_DIR",
        help="The directory of the store.",
    )(command)


def _as_json(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def _print_json(rows: Iterable[dict[str, Any]]) -> None:
    """An array, one row a line, written as the rows come."""
    separator = "["
    for row in rows:
        click.echo(f"{separator}\n{json.dumps(row)}", nl=False)
        separator = ","
    click.echo("[]" if separator == "[" else "\n]")


@cli.command()
@click.option(
    "--bin-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/opt/cni/bin"),
    show_default=True,
    help="The runtime's directory of CNI plugins.",
)
@click.option(
    "--name",
    default="fastipam",
    show_default=True,
    help="The plugin's name there; host-local for programs that insist on it.",
)
@click.option(
    "--launcher-only",
    is_flag=True,
    help="Without the Python entry point, for a host that has no Python: the agent has to run.",
)
def install(bin_dir: Path, name: str, launcher_only: bool) -> None:
    """Put the CNI plugin into the runtime's plugin directory."""
    path = installation.install(bin_dir, name, launcher_only=launcher_only)
    click.echo(f"installed {path}")


@cli.command()
@click.option(
    "--socket",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(DEFAULT_SOCKET),
    show_default=True,
    envvar="FASTIPAM_SOCKET",
    help="Where the launcher finds the agent.",
)
@click.option("--http", metavar="ADDR:PORT", help="Serve /metrics and /healthz there.")
@click.option("--max-connections", default=1024, show_default=True, type=click.IntRange(1, 65536))
@click.option(
    "--client-timeout",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0.1, 3600),
    help="Seconds that a client may take to send a request or read an answer.",
)
@click.option(
    "--log-level",
    default="warning",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="debug: one line a request.",
)
def agent(
    socket: Path, http: str | None, max_connections: int, client_timeout: float, log_level: str
) -> None:
    """Serve the plugin calls of this node, many in one commit; SIGTERM ends it."""
    from fastipam.agent import main as process
    from fastipam.agent.server import Limits

    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s level=%(levelname)s %(message)s"
    )
    limits = Limits(max_connections, client_timeout)
    process.run(process.Settings(socket, _host_and_port(http), limits))


def _host_and_port(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(
            f"{text!r} is not ADDRESS:PORT", field="--http", value=text, hint="127.0.0.1:9464, say"
        )
    return host.strip("[]"), int(port)


@cli.command("list")
@_data_dir
@click.option("--network", metavar="NAME", help="Only this network.")
@click.option("--all", "with_free", is_flag=True, help="Free addresses, too.")
@_as_json
def list_(data_dir: str, network: str | None, with_free: bool, as_json: bool) -> None:
    """Print IP, STATUS and POD of every used address."""
    with fastipam.open(data_dir, create=False) as ipam:
        rows = listing.rows(ipam, network, with_free=with_free)
        if as_json:
            _print_json(rows)
        else:
            _print_table(listing.COLUMNS, rows)


@cli.command()
@_data_dir
@click.option("--network", metavar="NAME", help="Only this network.")
@_as_json
def stats(data_dir: str, network: str | None, as_json: bool) -> None:
    """Print how many addresses of each network are in which state."""
    with fastipam.open(data_dir, create=False) as ipam:
        rows = listing.stats(ipam, network)
        if as_json:
            _print_json(rows)
        else:
            _print_table(listing.STATS_COLUMNS, rows)


def _print_table(columns: tuple[tuple[str, str, int], ...], rows: Iterable[dict[str, Any]]) -> None:
    """Rows under headings, as they come: the widths are fixed, a million rows need no memory."""
    for line in _lines(columns, rows):
        click.echo(line)


def _lines(
    columns: tuple[tuple[str, str, int], ...], rows: Iterable[dict[str, Any]]
) -> Iterator[str]:
    heading = " ".join(f"{heading:<{width}}" for heading, _, width in columns).rstrip()
    for row in rows:
        if heading:  # not before the first row: until then the command may still fail
            yield heading
            heading = ""
        yield " ".join(f"{row[key]!s:<{width}}" for _, key, width in columns).rstrip()
    if heading:
        yield heading


@cli.command()
@_data_dir
@_as_json
def check(data_dir: str, as_json: bool) -> None:
    """Compare all that the store holds with itself; print what disagrees.

    Exit status 0: consistent; 1: findings were printed. Changes nothing.
    """
    with fastipam.open(data_dir, create=False) as ipam:
        findings = [asdict(finding) for finding in verify(ipam.store)]
    if as_json:
        _print_json(findings)
    else:
        for finding in findings:
            click.echo(f"{finding['network']}: {finding['where']}: {finding['text']}")
        if not findings:
            click.echo(f"{data_dir}: consistent")
    if findings:
        raise SystemExit(1)


@cli.group("import")
def import_() -> None:
    """Take over the leases of another IPAM plugin."""


@cli.group()
def export() -> None:
    """Hand the leases over to another IPAM plugin."""


_tree = click.argument(
    "tree",
    metavar="[DIR]",
    type=click.Path(file_okay=False, path_type=Path),
    default=migration.DEFAULT_TREE,
)


@import_.command("host-local")
@_tree
@_data_dir
@click.option("--dry-run", is_flag=True, help="Say what would happen; change nothing.")
@_as_json
def import_host_local(tree: Path, data_dir: str, dry_run: bool, as_json: bool) -> None:
    """Read host-local's leases from DIR (default /var/lib/cni/networks), every network.

    Do it before the configuration's type changes: the DELs of running pods go to the new type.
    Exit status 1: an address belongs to somebody else here; it was left as it is.
    """
    with fastipam.open(data_dir) as ipam:
        items = migration.import_host_local(ipam, tree, dry_run=dry_run)
    _report(items, as_json)


@export.command("host-local")
@_tree
@_data_dir
@_as_json
def export_host_local(tree: Path, data_dir: str, as_json: bool) -> None:
    """Write the leases to DIR (default /var/lib/cni/networks) as host-local keeps them.

    Exit status 1: a file is there with another content; it was left as it is.
    """
    with fastipam.open(data_dir, create=False) as ipam:
        items = migration.export_host_local(ipam, tree)
    _report(items, as_json)


def _report(items: list[migration.Item], as_json: bool) -> None:
    """What became of each file, and in one line how many of each kind."""
    if as_json:
        _print_json(item._asdict() for item in items)
    else:
        for item in items:
            click.echo(f"{item.outcome:<8} {item.network}/{item.name}: {item.text}")
        counts = Counter(item.outcome for item in items)
        summary = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        click.echo(summary or "nothing there")
    if any(item.outcome == migration.CONFLICT for item in items):
        raise SystemExit(1)
