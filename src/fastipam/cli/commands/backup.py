"""The commands ``fastipam backup`` and ``fastipam restore``."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import click

import fastipam
from fastipam.cli import options, output, progress
from fastipam.cli.click_base import Failure
from fastipam.cli.click_base import command as _command
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.ipam import open_with


@_command(
    "backup", examples=(("fastipam backup /var/backups/fastipam.mdb", "while everything runs"),)
)
@click.argument("file", type=click.Path(readable=False))
@options.data_dir
@click.option("--force", is_flag=True, help="Replace FILE even if it is not a backup.")
@options.as_json
def command(file: str, data_dir: str, force: bool, as_json: bool) -> None:
    """Copy the store to FILE (mode 0600), as it is at one moment.

    Nothing has to be stopped. FILE gets its name when the copy is complete and on disk. An older
    backup of this name is replaced, another file only with --force. A file in a store's data
    directory is refused. A symbolic link is replaced, not followed.
    """
    from fastipam.backup import backup

    with (
        open_with(data_dir, create=False, count_boot=False) as ipam,
        progress.bar("bytes") as advance,
    ):
        size = backup(ipam.store, file, advance, force=force)
    if as_json:
        output.json_object({"file": file, "bytes": size})
    else:
        output.say(f"{file}: {size} bytes")


@_command(
    "restore",
    examples=(
        ("fastipam restore /var/backups/fastipam.mdb", "into a store that has nothing"),
        ("fastipam restore /var/backups/fastipam.mdb --replace", "in the place of what is there"),
    ),
)
@click.argument("file", type=click.Path(dir_okay=False))
@options.data_dir
@click.option(
    "--replace",
    is_flag=True,
    help="Replace a store that has leases: those that the backup lacks are lost.",
)
@options.as_json
def restore(file: str, data_dir: str, replace: bool, as_json: bool) -> None:
    """Put a backup in the place of the store's content, in one transaction.

    Nothing has to be stopped. The backup is verified first. Leases of an earlier boot are
    released, as after a reboot. Addresses assigned after the backup are forgotten, and may be
    assigned again while their pods still run.
    """
    from fastipam.backup import restore as put_back

    if not os.path.exists(file):  # before a store is created for it
        raise Failure(
            f"{file}: {os.strerror(errno.ENOENT)}",
            "give the FILE that `fastipam backup FILE` has written",
        )
    options.require_parent(Path(data_dir), "--data-dir", DEFAULT_DATA_DIR)
    with fastipam.open(data_dir) as ipam, progress.bar("records") as advance:
        records = put_back(ipam.store, file, replace=replace, progress=advance)
    if as_json:
        output.json_object({"file": file, "records": records})
    else:
        output.say(f"{data_dir}: {output.counted(records, 'record')} restored from {file}")
