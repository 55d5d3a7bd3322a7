"""The command ``fastipam status``."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from fastipam.agent import protocol
from fastipam.cli import agent_client, layout, options, output
from fastipam.cli.click_base import Failure, reason_of
from fastipam.cli.click_base import command as _command
from fastipam.cli.commands.doctor import surroundings
from fastipam.cli.layout import Column
from fastipam.cni import configs as cni_configs
from fastipam.errors import FastipamError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION = "1.1.0"  # the first CNI version with STATUS; it works for any network
_COLUMNS = (
    Column("NETWORK", "network", least=10, middle=True),
    Column("READY", "ready"),
    Column("CODE", "code"),
    Column("ANSWERED BY", "answered_by", drop=1),
    Column("FILE", "file", least=12, middle=True),
)
_MESSAGE = Column("MESSAGE", "message")


class Readiness(NamedTuple):
    """The answer of STATUS for a network.

    ``code`` is the code of the error object, or 0 when the network is ready. ``message`` is the
    message of the error, or the notes of STATUS about a ready network, such as that it is full.
    """

    network: str
    file: str
    answered_by: str
    ready: bool
    code: int
    message: str
    details: str


@_command(
    "status",
    examples=(
        ("fastipam status", "every network that the runtime has configured"),
        ("fastipam status --agent", "a readiness probe: the agent itself has to answer"),
        ("fastipam status --conf-dir /etc/cni/net.d --json", "for a program"),
    ),
    exits={
        0: "every network can be served (or none is configured, and the agent answers if asked to)",
        1: "a network cannot be served, the agent does not answer, or an error",
    },
)
@options.conf_dir
@options.socket
@click.option("--agent", "by_agent", is_flag=True, help="Fail when the agent does not answer.")
@options.whole
@options.as_json
def command(conf_dir: Path, socket_path: Path, by_agent: bool, wide: bool, as_json: bool) -> None:
    """Can an ADD be served now? Asks STATUS for each network of the runtime's configurations.

    The question goes the way of a runtime's call: to the agent, and to the plugin itself when no
    agent answers. A network whose store cannot be written is not ready (51). A network with a full
    range is ready, unless its configuration says "statusWhenFull": "unavailable" (50). With --agent
    the last line says which one failed: no agent answers, or the agent answers and a network cannot
    be served.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(agent_client.TIMEOUT_S)
        agent = _connect(connection, socket_path, by_agent)
        _require_directory(conf_dir)
        try:
            found = list(ask_all(conf_dir, agent))
        except OSError as error:
            if agent is None:
                raise
            raise Failure(
                f"the agent on {socket_path} runs, but does not answer STATUS: "
                f"{error.strerror or error}",
                "`fastipam doctor` says more",
            ) from error
    if not found:
        output.note(f'no file in {conf_dir} has "type": "fastipam" in an ipam section')
    if as_json:
        output.json_array(one._asdict() for one in found)
    elif found:
        _print(found, wide=wide)
    if by_agent:
        for one in found:
            if not one.ready:
                what = f"network {one.network}" if one.network else one.file
                output.note(f"the agent runs, but cannot serve {what}: {one.message}")
    if not all(one.ready for one in found):
        raise SystemExit(1)


def _require_directory(directory: Path) -> None:
    """Raise Failure when the directory of configurations does not exist."""
    # A readiness probe in a container without this mount must not report success.
    if not directory.is_dir():
        raise Failure(
            f"{directory}: this directory does not exist",
            "type --conf-dir DIRECTORY, the runtime's directory of network configurations; in a "
            "container the host's must be mounted there",
        )


def _connect(connection: socket.socket, path: Path, needed: bool) -> socket.socket | None:
    """Return the connection if an agent answers on it, else None.

    Raises Failure instead if an agent is ``needed``.
    """
    try:
        connection.connect(str(path))
        agent_client.ask(connection, "VERSION")
    except OSError as error:
        if needed:
            raise _silent(path, error) from error
        return None
    return connection


def _silent(path: Path, error: OSError) -> Failure:
    reason = error.strerror or error
    start = "systemctl start fastipam-agent.socket"
    if surroundings.in_kubernetes():
        start = "the log of the container `agent` says why: kubectl logs"
    hint = f"{start}; `fastipam doctor` says more"
    return Failure(f"no agent answers on {path}: {reason}", hint)


def ask_all(directory: Path, agent: socket.socket | None) -> Iterator[Readiness]:
    """Yield an answer for each plugin of ipam type fastipam, and for each unusable file."""
    for path in cni_configs.files(directory):
        try:
            plugins = [
                one for one in cni_configs.with_ipam(path) if one["ipam"]["type"] == "fastipam"
            ]
        except FastipamError as error:
            yield _unusable(path, error.cni_code, reason_of(error))
        except OSError as error:
            yield _unusable(path, StoreError.cni_code, f"the file cannot be read: {error.strerror}")
        else:
            for plugin in plugins:
                yield _ask(path, plugin, agent)


def _unusable(path: Path, code: int, message: str) -> Readiness:
    """Return the answer for a file that no runtime can use."""
    return Readiness("", str(path), "", False, code, message, "")


def _ask(path: Path, plugin: dict[str, Any], agent: socket.socket | None) -> Readiness:
    question = json.dumps({**plugin, "cniversion": _VERSION}).encode()
    variables = agent_client.variables("STATUS")
    if agent is None:
        from fastipam import cni

        answered_by = "direct"
        lines: list[str] = []
        status, raw = cni.handle(variables, question, log=lines.append)
    else:
        answered_by = "agent"
        status, raw, messages = protocol.converse(agent, variables, question)
        lines = messages.decode("utf-8", "replace").splitlines()
    notes = "; ".join(line.removeprefix("fastipam: ") for line in lines)
    told = json.loads(raw) if status else {}
    return Readiness(
        str(plugin.get("name", "")),
        str(path),
        answered_by,
        status == 0,
        told.get("code", 0),
        told.get("msg", notes),
        told.get("details", ""),
    )


def _print(found: list[Readiness], *, wide: bool) -> None:
    """Print a row for each network; on a terminal the whole messages come below the table."""
    rows = [
        {**one._asdict(), "ready": "yes" if one.ready else "no", "code": one.code or ""}
        for one in found
    ]
    if not output.is_narrow(wide=wide):
        output.table((*_COLUMNS, _MESSAGE), rows, wide=wide)
        return
    output.table(_COLUMNS, rows)
    for one in found:
        if one.message:
            output.prose(layout.printable(f"{one.network or one.file}: {one.message}"))
