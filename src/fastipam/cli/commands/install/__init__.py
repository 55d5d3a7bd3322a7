"""``fastipam install``."""

from __future__ import annotations

from pathlib import Path

import click

from fastipam.cli import options, output
from fastipam.cli.click_base import command as _command


@_command(
    "install",
    examples=(
        ("fastipam install", "where containerd, CRI-O and the kubelet look"),
        ("fastipam install --bin-dir /usr/lib/cni", "Debian's directory, podman's"),
        ("fastipam install --name host-local", "for a program that insists on host-local"),
    ),
)
@options.bin_dir
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
def command(bin_dir: Path, name: str, launcher_only: bool) -> None:
    """Put the CNI plugin into the runtime's plugin directory.

    Each file is replaced in one step: containers may start meanwhile. After an upgrade, again.
    """
    from fastipam.cli.commands.install import executables

    path = executables.install(bin_dir, name, launcher_only=launcher_only)
    output.say(f"installed {path}")
