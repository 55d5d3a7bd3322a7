"""A load on the agent's socket: persistent clients in one epoll loop, each with one request open.

A client sends its next request after the answer to the one before, as a runtime does: ADD, then DEL
of the same container. Requests are packed beforehand, and only the exit status of an answer is
read, so that the load costs a fraction of the agent's work.
"""

from __future__ import annotations

import json
import select
import socket
from pathlib import Path
from time import monotonic_ns, perf_counter_ns

from bench.errors import Failed
from bench.stores import IFNAME, NETWORK, SUBNET
from fastipam.agent import protocol

NETNS = "/run/netns/cni-3f2c1d5a-0b1e-4c55-9a51-6f0a1f6cbb6e"
POD = ("default", "web-5d9c7b8f4d-x2x9k", "0b6a6f4e-8a5f-4d0f-9a44-6a8f6d1f0c11")
_ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={}".format(*POD)
# FASTIPAM_NETNS for a network namespace that is gone; the launcher's own; its mount namespace.
_SEEN = " ".join(
    ("", *(f"4:{Path(f'/proc/self/ns/{name}').stat().st_ino}" for name in ("net", "mnt")))
)
_HEADER = protocol.ANSWER.size


def requests(data: Path, container: str, cooldown: int | None) -> list[bytes]:
    """Return a container's ADD and DEL as the launcher sends them, for a store in ``data``."""
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


class _Client:
    """One connection and its two requests."""

    def __init__(self, pair: list[bytes]) -> None:
        self._requests = pair
        self.connection: socket.socket | None = None
        self.left = 0
        self._incoming = b""
        self._sent_ns = 0

    def connect(self, path: str) -> None:
        self.close()
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.connect(path)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def send(self) -> None:
        assert self.connection is not None
        self._sent_ns = perf_counter_ns()
        self.connection.sendall(self._requests[self.left % 2])

    def receive(self) -> int:
        """Return the nanoseconds that a complete answer took, or 0 when it is not complete yet."""
        assert self.connection is not None
        data = self.connection.recv(1 << 16)
        if not data:
            raise Failed("the agent closed the connection")
        self._incoming += data
        if len(self._incoming) < _HEADER:
            return 0
        status, output, messages = protocol.read_answer(self._incoming[:_HEADER])
        if len(self._incoming) < _HEADER + output + messages:
            return 0
        if status:
            raise Failed(f"the agent answered {self._incoming[_HEADER:]!r}")
        self._incoming = b""
        return perf_counter_ns() - self._sent_ns


class Clients:
    """Clients of one agent and store. A run adds the time of every answer to ``latencies``."""

    def __init__(
        self, agent: Path, data: Path, count: int, pairs: int, *, cooldown: int | None = 0
    ) -> None:
        self._path = str(agent)
        self._pairs = pairs
        self.latencies: list[float] = []
        # Ids that differ from those of a filled store, which count from 0.
        self._clients = [
            _Client(requests(data, f"c{number:063x}", cooldown)) for number in range(count)
        ]

    @property
    def requests(self) -> int:
        """The number of requests of a run."""
        return 2 * self._pairs * len(self._clients)

    def connect(self) -> None:
        """Open the connections again, because the agent closes idle ones."""
        for client in self._clients:
            client.connect(self._path)

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()

    def run(self) -> None:
        """Make the requests. Raises Failed when one fails."""
        with select.epoll() as epoll:
            by_descriptor = {}
            for client in self._clients:
                assert client.connection is not None
                by_descriptor[client.connection.fileno()] = client
                epoll.register(client.connection, select.EPOLLIN)
                client.left = 2 * self._pairs
                client.send()
            busy = len(by_descriptor)
            while busy:
                for descriptor, _ in epoll.poll():
                    client = by_descriptor[descriptor]
                    taken = client.receive()
                    if not taken:
                        continue
                    self.latencies.append(taken)
                    client.left -= 1
                    if client.left:
                        client.send()
                    else:
                        busy -= 1
