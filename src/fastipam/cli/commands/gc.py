"""``fastipam gc``."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import click

import fastipam
from fastipam.addressing.addresses import format_ip
from fastipam.cli import options, output, rows
from fastipam.cli.click_base import Failure
from fastipam.cli.click_base import command as _command
from fastipam.cli.times import MOMENT, Moment
from fastipam.configuration.reader import is_id
from fastipam.errors import ConfigError
from fastipam.storage.records import keys

_COLUMNS = (rows.IP, rows.POD, rows.CONTAINER, rows.INTERFACE, rows.WHOLE_NETWORK)
_KEY = "cni.dev/valid-attachments"


@_command(
    "gc",
    examples=(
        ("crictl pods -q | fastipam gc --network podnet --dry-run -", "what has no pod any more"),
        ("fastipam gc --network podnet attachments.json", "from a file"),
    ),
)
@click.argument("attachments", metavar="FILE|-", type=click.Path(dir_okay=False, allow_dash=True))
@options.data_dir
@click.option("--network", metavar="NAME", required=True, help="The network that the list is of.")
@click.option(
    "--before",
    type=MOMENT,
    metavar="TIME",
    help="When the list was made: later leases are spared. Default: the time of the file's last "
    "change; of standard input, the start of this command.",
)
@click.option("--allow-empty", is_flag=True, help="An empty list means that nothing is attached.")
@options.dry_run("Say what would be released; change nothing.")
@options.as_json
def command(
    attachments: str,
    data_dir: str,
    network: str,
    before: Moment | None,
    allow_empty: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Give back every lease of a network whose container is not in a list (CNI's GC by hand).

    The list has a line for each container: its id, and an interface where only that counts. Or it
    is JSON: an array of {"containerID", "ifname"}, or a document with "cni.dev/valid-attachments".
    An empty list is refused: a program that failed has written it, most likely.
    """
    started_ns = time.time_ns()
    text, changed_ns = _read(attachments)
    valid = _parse(text)
    if not valid and not allow_empty:
        raise Failure(
            f"{attachments} lists no attachment: every lease of {network} would go",
            "if that is what you want, say --allow-empty",
        )
    before_ns = before.start_ns if before else changed_ns or started_ns
    with fastipam.open(data_dir, create=False) as ipam:
        (name,) = rows.names(ipam, network)
        where = ipam.network(name)
        whole = _with_interfaces(where, valid)
        stale = [
            rows.lease_row(name, keys.read_address_key(key)[1:], record)
            for key, record in where.unlisted(whole, before_ns)
        ]
        if not dry_run:
            freed = {format_ip(*one) for one in where.retain(whole, before_ns)}
            stale = [row for row in stale if row["address"] in freed]
    output.rows(_COLUMNS, stale, as_json=as_json)
    if not as_json:
        what = "would be released" if dry_run else "released"
        output.note(f"{len(stale)} addresses {what}, {len(valid)} attachments are valid")


def _read(path: str) -> tuple[str, int]:
    """Return the list, and when it was last changed, 0 if that is not known."""
    if path == "-":
        return sys.stdin.buffer.read().decode("utf-8", "surrogateescape"), 0
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read(), os.fstat(file.fileno()).st_mtime_ns


def _parse(text: str) -> set[tuple[str, str]]:
    """Return (container id, interface) pairs; an empty interface means all of the container."""
    if text.lstrip()[:1] in ("[", "{"):
        return _parse_json(text)
    valid = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        # A line that no runtime writes is an error: all leases would be released for it.
        if len(words) > 2 or not is_id(words[0]):
            raise ConfigError(
                f"{line.strip()!r} is not a container id and an interface",
                field=f"line {number}",
                value=line,
            )
        valid.add((words[0], words[1] if len(words) == 2 else ""))
    return valid


def _parse_json(text: str) -> set[tuple[str, str]]:
    import json

    from fastipam.configuration.network import valid_attachments
    from fastipam.configuration.reader import fold

    try:
        document: Any = json.loads(text, object_pairs_hook=fold)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"it is no JSON: {error}", field="FILE", value=text[:32]) from error
    return valid_attachments({_KEY: document} if isinstance(document, list) else document)


def _with_interfaces(
    network: fastipam.Network, valid: set[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Return the pairs, with all interfaces of the containers that were listed without one."""
    whole = {container_id for container_id, ifname in valid if not ifname}
    if not whole:
        return valid
    return valid | {
        (record.container_id, record.ifname)
        for _, _, record, _ in network.records()
        if record.container_id in whole
    }
