"""The command ``fastipam install``."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import click

from fastipam.cli import options, output
from fastipam.cli.click_base import Failure, is_refusal
from fastipam.cli.click_base import command as _command

_READ_ONLY = (
    "--bin-dir must name a directory that can be written; in a pod the volume needs readOnly: false"
)
# Root is refused by security modules or chattr +i only: the mode does not matter for root.
_ROOT_REFUSED = (
    "SELinux, AppArmor or the directory's attributes refuse root: type "
    "`ausearch -m avc -ts recent` and `lsattr -d`; a pod needs seLinuxOptions: {type: spc_t}"
)


@_command(
    "install",
    examples=(
        ("fastipam install", "where containerd, CRI-O and the kubelet look"),
        ("fastipam install --bin-dir /usr/lib/cni", "Debian's directory, podman's"),
        (
            "fastipam install --name host-local --replace",
            "in the place of host-local, for a program that insists on the name",
        ),
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
    "--replace",
    is_flag=True,
    help="Replace another plugin of this name. Without this option, that is refused.",
)
@click.option(
    "--launcher-only",
    is_flag=True,
    help="Without the Python entry point, for a host that has no Python: the agent has to run.",
)
def command(bin_dir: Path, name: str, replace: bool, launcher_only: bool) -> None:
    """Put the CNI plugin into the runtime's plugin directory.

    It installs the launcher and, beside it, the Python entry point that serves calls when no agent
    does. Each file is replaced in one step: containers may start meanwhile. After an upgrade,
    install again. Only the last part of --bin-dir may be missing.
    """
    from fastipam.cli.commands.install import executables, targets

    options.require_parent(bin_dir, "--bin-dir", options.DEFAULT_BIN_DIR)
    is_new = not bin_dir.exists()
    try:
        path = executables.install(bin_dir, name, launcher_only=launcher_only, replace=replace)
    except OSError as error:
        if error.errno == errno.EROFS:
            raise Failure(f"{error.filename}: {error.strerror}", _READ_ONLY) from error
        if is_refusal(error) and os.geteuid() == 0:
            raise Failure(f"{error.filename}: {error.strerror}", _ROOT_REFUSED) from error
        raise
    if is_new:
        output.note(f"created the directory {bin_dir}")
    output.say(f"installed {path}")
    if not launcher_only:
        direct = path.with_name(targets.DIRECT)
        output.say(f"installed {direct}, which serves calls when no agent does")
