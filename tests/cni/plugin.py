"""Run the installed plugin as a runtime does."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Answer(NamedTuple):
    """What a plugin process left behind; ``document`` is None when it printed nothing."""

    status: int
    document: Any
    stderr: str

    @property
    def code(self) -> int | None:
        """The error object's code."""
        return self.document["code"] if self.status and self.document else None

    @property
    def message(self) -> str:
        """The error object's text."""
        return str(self.document["msg"])

    @property
    def addresses(self) -> list[str]:
        """The result's addresses, from 0.3.0 on."""
        return [one["address"] for one in self.document["ips"]]


def environment(
    command: str,
    container_id: str = "c1",
    ifname: str = "eth0",
    netns: str = "/some/where",
    args: str = "",
) -> dict[str, str]:
    """The variables of a call; an empty one is not set."""
    values = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id,
        "CNI_IFNAME": ifname,
        "CNI_NETNS": netns,
        "CNI_ARGS": args,
        "CNI_PATH": "/opt/cni/bin",
    }
    return {key: value for key, value in values.items() if value}


class Plugin:
    """The executable that ``fastipam install`` made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def raw(self, environ: Mapping[str, str], stdin: bytes) -> Answer:
        """One process; standard output has to be one JSON document or nothing."""
        base = {"PATH": os.environ["PATH"], "FASTIPAM_SOCKET": "/nonexistent/agent.sock"}
        done = subprocess.run(
            [self.path], env=base | dict(environ), input=stdin, capture_output=True, check=False
        )
        text = done.stdout.decode()
        document = json.loads(text) if text else None
        if done.returncode:
            assert document is not None, f"status {done.returncode} and no error object"
            assert {"code", "msg"} <= document.keys(), document
        return Answer(done.returncode, document, done.stderr.decode())

    def __call__(
        self, command: str, config: Mapping[str, Any], container_id: str = "c1", **variables: str
    ) -> Answer:
        """One process with a configuration and the usual variables."""
        stdin = json.dumps(config).encode()
        return self.raw(environment(command, container_id, **variables), stdin)
