"""The command ``fastipam uninstall``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastipam.agent import listening
from fastipam.cli import options, output
from fastipam.cli.click_base import Failure
from fastipam.cli.click_base import command as _command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.cli.commands.uninstall.removal import Outcome

_PAUSE_S = 0.1  # between two checks whether the agent has ended
_DEFAULT_CONFLIST = Path("/etc/cni/net.d/10-fastipam.conflist")


@_command(
    "uninstall",
    examples=(
        ("fastipam uninstall --dry-run", "what would be removed"),
        ("fastipam uninstall", "on a node that was drained and whose agent has ended"),
        (
            "fastipam uninstall --force --conflist /host/etc/cni/net.d/10-fastipam.conflist "
            "--bin-dir /host/opt/cni/bin",
            "in a container of the node, when its network is removed from the whole cluster",
        ),
        ("fastipam uninstall --purge --yes", "and delete the store"),
    ),
    exits={
        0: "everything was removed, except what the output says was kept",
        1: "refused and nothing was removed, or a part could not be removed",
    },
)
@click.option(
    "--conflist",
    "conflist",
    metavar="FILE",
    type=click.Path(readable=False, path_type=Path),
    default=_DEFAULT_CONFLIST,
    show_default=True,
    help="The network configuration; it is removed if its ipam type is fastipam.",
)
@options.bin_dir
@click.option(
    "--name", default="fastipam", show_default=True, help="The plugin's name in --bin-dir."
)
@options.socket
@options.data_dir
@click.option("--purge", is_flag=True, help="Delete the store, with all leases and the history.")
@click.option("--yes", is_flag=True, help="Do not ask before --purge.")
@click.option(
    "--force",
    is_flag=True,
    help="Even while containers have addresses, or an agent runs.",
)
@click.option(
    "--wait",
    "wait_s",
    type=options.Seconds(0, 3600),
    help="Wait up to this many seconds for the agent to end. If it still runs, the command is "
    "refused, with --force too.",
)
@options.dry_run("Say what would be removed; change nothing.")
@options.as_json
def command(
    conflist: Path,
    bin_dir: Path,
    name: str,
    socket_path: Path,
    data_dir: str,
    purge: bool,
    yes: bool,
    force: bool,
    wait_s: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove fastipam from this node, with its routes and nftables tables. The store stays.

    The network configuration is removed first: the kubelet then reports the node as not ready, and
    gets no new pod. The command is refused while containers have addresses, because the runtime
    needs the plugin to end them, and while an agent runs, because the agent would set its routes
    again. It asks for confirmation only with --purge, and may be run again.

    On a node of a cluster, run `fastipam cluster leave` before --purge. Otherwise the node owns its
    blocks until it is removed from the cluster.
    """
    from fastipam.cli.commands.install.targets import require_name
    from fastipam.cli.commands.uninstall import removal

    require_name(name)
    ended = wait_s is None or _wait(socket_path, wait_s)
    count, unknown = removal.holders(data_dir)
    if not ended:
        _refuse_agent(socket_path, wait_s)
    if not force:
        _refuse(count, unknown, data_dir, socket_path)
    if purge and not dry_run:
        _ask(data_dir, count, socket_path, yes=yes)
    to_purge = data_dir if purge else ""
    done = _remove(conflist, (bin_dir, name), socket_path, to_purge, dry_run=dry_run)
    store = "" if purge or not Path(data_dir).is_dir() else str(Path(data_dir).absolute())
    if as_json:
        output.json_object(
            {
                "dry_run": dry_run,
                "containers": None if unknown else count,
                "store": store or None,
                "parts": [each._asdict() for each in done],
            }
        )
    else:
        _print(done, store, dry_run=dry_run)
    if count and not dry_run:
        containers = output.counted(count, "container")
        output.note(f"{containers} had addresses of fastipam when the plugin was removed")
    if any(each.became == removal.FAILED for each in done):
        raise SystemExit(1)


def _remove(
    conflist: Path, plugin: tuple[Path, str], socket_path: Path, store: str, *, dry_run: bool
) -> list[Outcome]:
    """Remove every part, and the store if one is given; return the outcome for each path."""
    from fastipam.cli.commands.uninstall.removal import Removal

    one = Removal(dry_run=dry_run)
    done = [*one.conflist(conflist.absolute()), *one.plugin(plugin[0].absolute(), plugin[1])]
    done += [*one.routes(), *one.masquerading(), *one.socket(socket_path.absolute())]
    return [*done, *one.store(Path(store).absolute())] if store else done


def _refuse(count: int, unknown: str, data_dir: str, socket_path: Path) -> None:
    """Raise Failure while the node still needs the plugin."""
    if unknown:
        raise Failure(
            f"{data_dir}: cannot tell whether containers have addresses: {unknown}",
            "`fastipam check` says more; --force removes the plugin anyway",
        )
    if count:
        raise Failure(
            f"{output.counted(count, 'container')} of this node {_hold(count)} addresses of "
            "fastipam: without the plugin they cannot be deleted",
            "`fastipam list` shows these addresses; drain the node first; `fastipam sweep` "
            "releases the addresses of containers that are gone; --force removes the plugin anyway",
        )
    if listening.is_served(socket_path):
        _refuse_agent(socket_path)


def _refuse_agent(socket_path: Path, waited_s: float | None = None) -> None:
    """Raise Failure, because a running agent would undo the removal.

    ``waited_s`` is the time of --wait after which the agent still runs.
    """
    still, without = "", ""
    if waited_s is not None:
        still, without = f"after {waited_s:g} seconds of --wait ", " without --wait"
    raise Failure(
        f"{still}an agent serves {socket_path}: it sets its routes again, and writes the network "
        "configuration when it is started again",
        "stop it first: systemctl disable --now fastipam-agent.socket fastipam-agent.service, "
        f"or delete its DaemonSet; --force{without} removes the plugin anyway",
    )


def _wait(socket_path: Path, seconds: float) -> bool:
    """Wait until no agent serves the socket, for ``seconds`` at most; return whether none does."""
    end = time.monotonic() + seconds
    while listening.is_served(socket_path):
        if time.monotonic() >= end:
            return False
        time.sleep(_PAUSE_S)
    return True


def _hold(count: int) -> str:
    return "still has" if count == 1 else "still have"


def _ask(data_dir: str, count: int, socket_path: Path, *, yes: bool) -> None:
    """Ask the operator before a store is deleted. Raises Failure, click.Abort."""
    if listening.is_served(socket_path):
        raise Failure(
            f"{data_dir} is not deleted while an agent serves {socket_path}: the agent would "
            "create it again",
            "stop the agent first, or leave --purge out",
        )
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(
            f"the store {data_dir} would be deleted, and there is no terminal to confirm on",
            "check with --dry-run, then pass --yes",
        )
    output.note(f"{data_dir} has the addresses of {output.counted(count, 'container')}")
    click.confirm(f"Delete the store {data_dir}?", abort=True, err=True)


def _print(done: Sequence[Outcome], store: str, *, dry_run: bool) -> None:
    """Print a line for each path; failures go to standard error."""
    from fastipam.cli.commands.uninstall import removal

    for each in done:
        if each.became == removal.FAILED:
            output.complain(f"{each.path}: {each.reason}", None)
        elif each.became == removal.KEPT:
            output.prose(f"kept {each.path}: {each.reason}")
        elif each.became == removal.REMOVED:
            would = "would remove" if dry_run else "removed"
            output.prose(f"{would} {each.path} ({each.what})")
    if all(each.became == removal.ABSENT for each in done):
        output.say("nothing of fastipam is installed here")
    if store:
        output.say(f"kept {store}: the store; --purge deletes it")
