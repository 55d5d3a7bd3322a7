"""Load the agent's socket with requests as the launcher sends them.

The program that sends them is in C (``clients.c``), and the requests are packed beforehand, so that
the load costs a fraction of the agent's work.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from array import array
from pathlib import Path
from time import monotonic_ns

from bench.children import spawn
from bench.errors import Failed, Missing
from bench.stores import IFNAME, NETWORK, SUBNET
from fastipam.agent import protocol

NETNS = "/run/netns/cni-3f2c1d5a-0b1e-4c55-9a51-6f0a1f6cbb6e"
POD = ("default", "web-5d9c7b8f4d-x2x9k", "0b6a6f4e-8a5f-4d0f-9a44-6a8f6d1f0c11")
_ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={}".format(*POD)
# FASTIPAM_NETNS: the container's network namespace (gone, so empty), the launcher's network and
# mount namespaces, and an unknown time of birth (0).
_SEEN = " ".join(
    ("", *(f"4:{Path(f'/proc/self/ns/{name}').stat().st_ino}" for name in ("net", "mnt")), "0")
)


def requests(data: Path, container: str, cooldown: int | None) -> list[bytes]:
    """Return the ADD and DEL of a container as the launcher sends them, for a store in ``data``."""
    ipam: dict[str, object] = {"type": "fastipam", "subnet": SUBNET, "dataDir": str(data)}
    if cooldown is not None:
        ipam["cooldown"] = cooldown
    document = {"cniVersion": "1.0.0", "name": NETWORK, "type": "bridge", "ipam": ipam}
    config = json.dumps(document).encode()
    return [
        protocol.pack_request(
            {
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": container,
                "CNI_NETNS": NETNS,
                "CNI_IFNAME": IFNAME,
                "CNI_ARGS": _ARGS,
                "CNI_PATH": "/opt/cni/bin",
                protocol.STARTED: str(monotonic_ns()),
                protocol.NETNS: _SEEN,
            },
            config,
        )
        for command in ("ADD", "DEL")
    ]


def build(scratch: Path, name: str = "clients") -> Path:
    """Compile a C program of this directory and return its path. Raises Missing."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Missing("a C compiler is missing: install the package gcc")
    program = scratch / name
    command = [compiler, "-O2", "-o", str(program), str(Path(__file__).with_name(f"{name}.c"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"{name}.c cannot be compiled: {done.stderr.strip()[-600:]}")
    return program


class Clients:
    """A load of ``count`` clients of one agent and store, each with one request at a time.

    A client connects for every request, as the launcher does. In a run each client makes ``pairs``
    ADDs and DELs. The latency of every request is added to ``latencies``.
    """

    def __init__(
        self,
        program: Path,
        agent: Path,
        data: Path,
        count: int,
        pairs: int,
        *,
        cooldown: int | None = 0,
    ) -> None:
        self._command = [str(program), str(agent), str(count), str(pairs)]
        self.requests = 2 * pairs * count
        self.latencies: list[float] = []
        self._frames = program.with_name(f"{data.name}-{count}.frames")
        self._output = program.with_name(f"{data.name}-{count}.latencies")
        with self._frames.open("wb") as file:
            for number in range(count):
                # These ids differ from those in a filled store, which are numbers from 0.
                for frame in requests(data, f"c{number:063x}", cooldown):
                    file.write(len(frame).to_bytes(4, "big") + frame)

    def run(self) -> None:
        """Send the requests. Raises Failed when a request fails."""
        if spawn(self._command, {}, str(self._frames), str(self._output)):
            raise Failed("the clients of the agent failed")
        self.latencies += array("Q", self._output.read_bytes())
