"""The command ``fastipam doctor``."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from fastipam.cli import layout, options, output
from fastipam.cli.click_base import command as _command
from fastipam.cli.commands.doctor.diagnosis import LEVELS, OK, PROBLEM, WARNING, Diagnosis
from fastipam.host_local import DEFAULT_TREE

if TYPE_CHECKING:
    from collections.abc import Iterator

_GIVEN = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT)


@_command(
    "doctor",
    examples=(
        ("fastipam doctor", "the whole node; run it as root, because others do not see all of it"),
        ("fastipam doctor --bin-dir /usr/lib/cni", "Debian's directory of plugins"),
        ("fastipam doctor --quiet", "only what is wrong"),
        ("fastipam doctor --json", "for a program"),
    ),
    exits={
        0: "no problem was found; warnings may have been",
        1: "a problem was found, or an error",
    },
)
@options.bin_dir
@options.conf_dir
@options.socket
@click.option(
    "--host-local",
    "tree",
    type=click.Path(file_okay=False, readable=False, path_type=Path),
    default=Path(DEFAULT_TREE),
    show_default=True,
    help="Where host-local keeps its leases.",
)
@options.data_dir
@click.option("--quiet", is_flag=True, help="Print only problems and warnings, if there are any.")
@options.as_json
@click.pass_context
def command(
    ctx: click.Context,
    bin_dir: Path,
    conf_dir: Path,
    socket_path: Path,
    tree: Path,
    data_dir: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Look at this node and say what is wrong with it, and what to type; problems come first.

    Plugin, agent, configurations, the stores that they name, network namespaces, leftovers of
    host-local, clock and disk are checked. Nothing is changed.
    """
    given = ctx.get_parameter_source("data_dir") in _GIVEN
    places = Places(bin_dir, conf_dir, socket_path, tree, data_dir, given)
    found = sorted(_look(places), key=lambda diagnosis: LEVELS.index(diagnosis.level))
    counts = Counter(diagnosis.level for diagnosis in found)
    if quiet:
        found = [diagnosis for diagnosis in found if diagnosis.level != OK]
    if as_json:
        output.json_array(diagnosis._asdict() for diagnosis in found)
    else:
        for number, diagnosis in enumerate(found):
            if output.is_terminal() and number and diagnosis.level == OK != found[number - 1].level:
                output.say("")  # a blank line after the problems and warnings
            _print(diagnosis)
        if found:
            output.prose(_summary(counts, quiet=quiet))
    if counts[PROBLEM]:
        raise SystemExit(1)


def _summary(counts: Counter[str], *, quiet: bool) -> str:
    """Return the last line, with counts; on a terminal it says that problems come first."""
    line = f"problems: {counts[PROBLEM]}, warnings: {counts[WARNING]}"
    if quiet or not output.is_terminal() or not (counts[PROBLEM] or counts[WARNING]):
        return line
    return f"{line} (printed first; --quiet prints nothing else)"


class Places(NamedTuple):
    """Where the parts of a node are. ``given`` says that the operator named the data directory."""

    bin_dir: Path
    conf_dir: Path
    socket: Path
    host_local: Path
    data_dir: str
    given: bool


def _look(places: Places) -> Iterator[Diagnosis]:
    """Yield every diagnosis. Each part of a node comes after the parts that it depends on."""
    from fastipam.cli.commands.doctor import (
        agent,
        configuration,
        masquerading,
        plugin,
        store,
        surroundings,
    )

    yield from surroundings.look()
    yield from plugin.look(places.bin_dir)
    diagnoses, process = agent.look(
        places.socket, needed=not plugin.has_entry_point(places.bin_dir)
    )
    yield from diagnoses
    diagnoses, networks = configuration.look(places.conf_dir)
    yield from diagnoses
    data_dirs = _distinct([one.data_dir for one in networks])
    is_known = any(_is_same(one, places.data_dir) for one in data_dirs)
    if not is_known and (places.given or not data_dirs):
        data_dirs.insert(0, places.data_dir)
    if process:
        files = [str(Path(one) / "data.mdb") for one in data_dirs]
        yield from agent.same_files(process, [*files, "/run/netns", "/var/run/netns"])
        if networks:
            yield from agent.networks(places.socket, places.conf_dir)
        yield from masquerading.look(process, data_dirs)
    for one in data_dirs:
        files_of = {each.network: each.file for each in networks if _is_same(each.data_dir, one)}
        yield from store.look(one, files_of)
    yield from store.leftovers(places.host_local, data_dirs)


def _distinct(directories: list[str]) -> list[str]:
    """Return each directory once, in its first spelling: relative, absolute or by a link."""
    first: dict[str, str] = {}
    for one in directories:
        first.setdefault(os.path.realpath(one), one)
    return list(first.values())


def _is_same(one: str, other: str) -> bool:
    return one == other or os.path.realpath(one) == os.path.realpath(other)


_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}
_INDENT = 23  # columns before the text and the command of a diagnosis


def _print(diagnosis: Diagnosis) -> None:
    """Print level, check and text, and below the command. On a terminal long texts are wrapped."""
    text = layout.printable(diagnosis.text)
    typed = f"$ {layout.printable(diagnosis.command)}"
    before = _INDENT
    if output.is_terminal():
        # A long command begins further left, because a wrapped command is hard to read.
        before = max(0, min(_INDENT, output.console().width - len(typed)))
    level = f"{diagnosis.level:<8}"
    if output.has_colours():
        level = click.style(level, fg=_COLOURS[diagnosis.level])
    first, *rest = layout.wrapped(
        text, output.width_of(wide=False), before=" " * _INDENT, indent=_INDENT
    )
    for line in (f"{level} {diagnosis.check:<13} {first[_INDENT:]}", *rest):
        output.say(line)
    if diagnosis.command:
        output.say(" " * before + typed)
