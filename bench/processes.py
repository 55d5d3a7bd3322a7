"""Subjects that are whole processes: CNI plugins as a runtime starts them, and bare starts.

Every sample is one process, from its spawn to its end. Standard input and output are files, so that
neither threads nor pipes of the benchmark disturb the sample.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.children import spawn
from bench.errors import Failed, Missing
from bench.sampling import Subject
from bench.stores import CONTAINER, IFNAME, NETWORK, SUBNET

HOST_LOCAL = Path("/usr/lib/cni/host-local")  # from Debian's containernetworking-plugins
STATIC = HOST_LOCAL.with_name("static")
HOST_LOCAL_LEASES = (0, 250, 1_000, 10_000)
_FIRST = 0x0A200002


def require_host_local() -> None:
    """Raise Missing when the real host-local is not installed."""
    _require(HOST_LOCAL)


def require_peers() -> None:
    """Raise Missing when host-local or static is not installed."""
    for binary in (HOST_LOCAL, STATIC):
        _require(binary)


def _require(binary: Path) -> None:
    if not os.access(binary, os.X_OK):
        raise Missing(
            f"the peer {binary.name} is missing: {binary} cannot be executed; "
            "install the package containernetworking-plugins"
        )


def install_plugin(directory: Path) -> Path:
    """Install the fastipam binary into ``directory`` and return its path. Raises Missing."""
    script = Path(sys.executable).with_name("fastipam")
    if not script.exists():
        raise Missing("the command fastipam is missing beside this Python: install the package")
    command = [str(script), "install", "--bin-dir", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    binary = directory / "fastipam"
    if done.returncode or not os.access(binary, os.X_OK):
        raise Missing(f"`fastipam install` gave no executable: {done.stderr.strip()[-400:]}")
    return binary


def run_python(code: str, *words: str, built: Path) -> None:
    """Run a line of Python that imports the build ``built``. Raises Missing when it fails."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(built)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Missing(done.stderr.strip()[-600:])


@dataclass(frozen=True)
class Plugin:
    """An IPAM plugin with its data directory."""

    name: str
    binary: Path
    data: Path
    scratch: Path
    socket: Path | None = None  # the agent's socket, or None for the plugin without an agent

    def __post_init__(self) -> None:
        ipam: dict[str, object] = {"type": self.binary.name, "dataDir": str(self.data)}
        if self.binary.name.startswith("fastipam"):
            ipam["subnet"] = SUBNET
        else:
            ipam["ranges"] = [[{"subnet": SUBNET}]]
        document = {"cniVersion": "1.0.0", "name": NETWORK, "type": "bridge", "ipam": ipam}
        self.input.write_text(json.dumps(document))

    @property
    def input(self) -> Path:
        """The file of the network configuration, which is the standard input of every call."""
        return self.scratch / f"{self.name.replace(' ', '-').replace(',', '')}.json"

    def environment(self, command: str, container: str = CONTAINER) -> dict[str, str]:
        """Return the variables of a call."""
        return {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": "/run/netns/bench",
            "CNI_IFNAME": IFNAME,
            "CNI_PATH": str(self.binary.parent),
            "PATH": os.environ.get("PATH", os.defpath),
            "FASTIPAM_SOCKET": str(self.socket or self.scratch / "no-agent.sock"),
        }

    def call(self, command: str, output: str = os.devnull) -> None:
        """Make one ADD or DEL. Raises Failed when the plugin fails."""
        environment = self.environment(command)
        status = spawn([str(self.binary)], environment, str(self.input), output)
        if status:
            raise Failed(f"{self.name}: {command} ended with status {status}")

    def try_out(self) -> None:
        """Make an ADD and a DEL, and check the answer. Raises Failed when there is no address."""
        answer = self.scratch / "answer"
        self.call("ADD", str(answer))
        address = json.loads(answer.read_text())["ips"][0]["address"]
        if not address.endswith("/12"):
            raise Failed(f"{self.name}: ADD gave {address}")
        self.call("DEL")

    def subjects(self) -> list[Subject]:
        """Return two subjects: ADD after an untimed DEL, and DEL after an untimed ADD."""
        return [
            Subject(f"{self.name}: ADD", 1, lambda: self.call("ADD"), lambda: self.call("DEL")),
            Subject(f"{self.name}: DEL", 1, lambda: self.call("DEL"), self._ensure),
        ]

    def _ensure(self) -> None:
        self.call("DEL")
        self.call("ADD")


def host_local(leases: int, scratch: Path) -> Plugin:
    """Return host-local with this many leases, which are files, one for each address."""
    data = scratch / f"host-local-{leases}"
    directory = data / NETWORK
    directory.mkdir(parents=True)
    for number in range(leases):
        value = _FIRST + number
        name = ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))
        (directory / name).write_text(f"{number:064x}\r\n{IFNAME}")
        if number == leases - 1:
            (directory / "last_reserved_ip.0").write_text(name)
    return Plugin(f"host-local, {leases:,} leases", HOST_LOCAL, data, scratch)


def start(name: str, *command: str) -> Subject:
    """Return the subject of a program's start, for a program that does nothing."""
    environment = {"PATH": os.environ.get("PATH", os.defpath)}

    def run() -> None:
        if spawn(list(command), environment, os.devnull, os.devnull):
            raise Failed(f"{name} failed")

    return Subject(name, 1, run)


def bare_starts() -> list[Subject]:
    """Return the subjects of bare starts: the cost of a process that does nothing."""
    true = shutil.which("true")
    if true is None:
        raise Missing("the program `true` is missing")
    return [
        start("/bin/true", true),
        start("python -I -S -c pass", sys.executable, "-I", "-S", "-c", "pass"),
    ]
