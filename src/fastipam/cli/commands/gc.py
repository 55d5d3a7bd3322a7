"""The command ``fastipam gc``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import click

import fastipam
from fastipam.addressing.addresses import format_ip
from fastipam.cli import attachments as lists
from fastipam.cli import columns, options, output, rows
from fastipam.cli.click_base import Failure
from fastipam.cli.click_base import command as _command
from fastipam.cli.times import MOMENT, SPAN, Moment
from fastipam.ipam import open_with
from fastipam.network import gc
from fastipam.storage.records import keys

if TYPE_CHECKING:
    from collections.abc import Iterable

_COLUMNS = (columns.IP, columns.POD, columns.CONTAINER, columns.INTERFACE, columns.NETWORK)
# A list is made some time before it is read. This margin is longer than a pipe, the start of an
# interpreter or the writing of a file takes. A stale lease can wait for the next call.
_MARGIN = "1m"
_ALLOW_UNKNOWN = "if the list is right, type --allow-unknown"


@_command(
    "gc",
    examples=(
        ("crictl pods -q | fastipam gc --network podnet --dry-run -", "what has no pod any more"),
        ("fastipam gc --network podnet attachments.json", "from a file"),
        ("fastipam gc --network podnet --before 14:05 attachments.json", "a list of that time"),
    ),
    exits={1: "the list was refused and nothing was released, or an error"},
)
@click.argument("attachments", metavar="FILE|-", type=click.Path(dir_okay=False, allow_dash=True))
@options.data_dir
@click.option("--network", metavar="NAME", required=True, help="The network of the list.")
@click.option(
    "--before",
    type=MOMENT,
    metavar="TIME",
    help="When the list was made: only leases from before that time are released.",
)
@click.option(
    "--older-than",
    "least_age_ns",
    type=SPAN,
    metavar="DURATION",
    default=_MARGIN,
    show_default=True,
    help="Without --before: release only leases that were at least this old when the list was last "
    "changed (a file), or when this command started (a pipe).",
)
@click.option("--allow-empty", is_flag=True, help="Accept an empty list: nothing is attached.")
@click.option(
    "--allow-unknown",
    is_flag=True,
    help="Accept a list in which no container or interface has a lease, or with shortened ids.",
)
@options.dry_run("Say what would be released; change nothing.")
@options.whole
@options.as_json
@click.pass_context
def command(
    ctx: click.Context,
    attachments: str,
    data_dir: str,
    network: str,
    before: Moment | None,
    least_age_ns: int,
    allow_empty: bool,
    allow_unknown: bool,
    dry_run: bool,
    wide: bool,
    as_json: bool,
) -> None:
    """Release every lease of a network whose container is not in a list, as CNI's GC does.

    The list has a line for each container: its whole id, and an interface name if only that
    interface is meant. Or it is JSON: an array of {"containerID", "ifname"}, or a document with
    "cni.dev/valid-attachments". Leases that are younger than the list are spared.

    An empty list is refused, because a program that failed has probably written it. A list with
    shortened ids is refused, too, and so is a list that names no container of the network, or that
    names only interfaces without a lease for a container that has a lease on another interface.
    """
    started_ns = time.time_ns()
    if (
        before
        and ctx.get_parameter_source("least_age_ns") == click.core.ParameterSource.COMMANDLINE
    ):
        raise click.UsageError("--before and --older-than cannot be used together")
    if before and before.start_ns > started_ns:
        # Leases that were added after the list would be released: none would count as young.
        raise click.UsageError("--before is in the future")
    listed = lists.read(attachments, started_ns)
    with open_with(data_dir, create=False, count_boot=False) as ipam:
        rows.names(ipam, network)  # raises ConfigError for a network that is not there
    if not listed.valid and not allow_empty:
        raise Failure(
            f"{lists.name_of(attachments)} has no attachment: every lease of {network} would be "
            "released",
            "type --allow-empty if that is what you want",
        )
    before_ns = before.start_ns if before else listed.made_ns - least_age_ns
    with open_with(data_dir, create=False, count_boot=not dry_run) as ipam:
        (name,) = rows.names(ipam, network)
        where = ipam.network(name)
        valid = _with_interfaces(where, listed.valid)
        judged = _judge(where, valid, before_ns)
        if listed.valid and not allow_unknown:
            _refuse_unknown(listed.valid, judged, name)
        stale = judged.stale
        if not dry_run:
            freed = {format_ip(*one) for one in where._retain(valid, before_ns)}
            stale = [row for row in stale if row["address"] in freed]
    shown = columns.fitting(_COLUMNS, narrow=output.is_narrow(wide=wide), several=False)
    output.rows(shown, stale, as_json=as_json, wide=wide)
    if not as_json:
        for line in _summary(len(stale), listed.containers, judged, dry_run=dry_run):
            output.note(line)


class _Judged(NamedTuple):
    """The leases of a network after a comparison with a list.

    Containers with a lease are in ``known`` if the list names them, else in ``unlisted``.
    ``misnamed`` has the containers of which the list names only interfaces without a lease; its
    values are the interfaces that do have one. ``stale`` has a row for each lease to release,
    ``young`` counts the leases that are spared because they are younger than the list.
    """

    known: set[str]
    unlisted: set[str]
    misnamed: dict[str, str]
    stale: list[dict[str, Any]]
    young: int


def _judge(network: fastipam.Network, valid: set[tuple[str, str]], before_ns: int) -> _Judged:
    known: set[str] = set()
    unlisted: set[str] = set()
    listed: set[str] = set()
    others: dict[str, str] = {}
    stale: list[dict[str, Any]] = []
    young = 0
    containers = {container_id for container_id, _ in valid}
    age = gc.Age(before_ns, network.store.clock)
    for key, record, verdict in gc.judge(network._raw_leases(), valid, age):
        (known if record.container_id in containers else unlisted).add(record.container_id)
        if verdict == gc.LISTED:
            listed.add(record.container_id)
        elif record.container_id in containers:
            others[record.container_id] = record.ifname
        if verdict == gc.STALE:
            stale.append(rows.lease_row(network.name, keys.read_address_key(key)[1:], record))
        young += verdict == gc.YOUNG
    misnamed = {one: ifname for one, ifname in others.items() if one not in listed}
    return _Judged(known, unlisted, misnamed, stale, young)


def _refuse_unknown(listed: set[tuple[str, str]], judged: _Judged, network: str) -> None:
    """Raise Failure for a list that cannot be a list of this network's containers."""
    for container_id, ifname in sorted(listed):
        if container_id in judged.misnamed:
            # If the word after an id is not an interface but, for example, the container's name,
            # the container's addresses would be released.
            raise Failure(
                f"the list has container {container_id} with {ifname!r}, but its interface here "
                f"is {judged.misnamed[container_id]!r}: nothing was released",
                f"list the ids alone, or each with its interface; {_ALLOW_UNKNOWN}",
            )
    shortened = _shortened({one for one, _ in listed} - judged.known, judged.unlisted)
    if shortened is not None:
        raise Failure(
            f"{shortened[0]!r} is a part of the id of container {shortened[1]}: the list has "
            "shortened ids, and nothing was released",
            f"list whole ids, for example with `podman ps -q --no-trunc`; {_ALLOW_UNKNOWN}",
        )
    if judged.unlisted and not judged.known:
        raise Failure(
            f"no container of the list has a lease in network {network}, which has leases of "
            f"{output.counted(len(judged.unlisted), 'other container')}: nothing was released",
            f"`fastipam list --network {network}` shows whole ids; {_ALLOW_UNKNOWN}",
        )


def _shortened(unknown: Iterable[str], ids: Iterable[str]) -> tuple[str, str] | None:
    """Return (part, id) for the first of ``unknown`` that is a part of one of ``ids``, or None."""
    text = "\n".join(sorted(ids))  # one search in a long text is faster than one in each id
    for part in sorted(unknown):
        at = text.find(part)
        if at >= 0:
            end = text.find("\n", at)
            return part, text[text.rfind("\n", 0, at) + 1 : end if end >= 0 else None]
    return None


def _summary(released: int, listed: set[str], judged: _Judged, *, dry_run: bool) -> Iterable[str]:
    """Yield lines with counts: addresses released, addresses spared, containers in the list."""
    what = "would be released" if dry_run else "released"
    yield (
        f"{output.counted(released, 'address')} {what}; the list names "
        f"{output.counted(len(listed), 'container')}, {len(judged.known)} of them with leases here"
    )
    if judged.young:
        yield f"{output.counted(judged.young, 'address')} not released: younger than the list"


def _with_interfaces(
    network: fastipam.Network, valid: set[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Return the pairs; containers listed without an interface get all of their interfaces."""
    whole = {container_id for container_id, ifname in valid if not ifname}
    if not whole:
        return valid
    return valid | {
        (record.container_id, record.ifname)
        for _, _, record, _ in network._records()
        if record.container_id in whole
    }
