"""The contenders: plugins and libraries that assign addresses to containers and release them.

A contender is made for one workload, with its own store.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import fastipam
from bench import children, processes
from bench.errors import Failed, Missing
from bench.stores import BATCH, IFNAME, NETWORK
from bench.workloads.answers import Held, Pipe, addresses
from bench.workloads.traces import ADD, DEL, Step, container
from fastipam.ipam import open_with

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.agent.service import Agent
    from bench.workloads.guests import Guest
    from bench.workloads.traces import Workload

NETNS = "/run/netns/bench"
_ERRORS = 1 << 20  # bytes of standard error that are kept
NOT_STATED = "not stated"
# CNI_ARGS, in which a runtime names the pod.
POD = "IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=pod-{}"


class TakesNoPart(Exception):
    """A contender cannot do the workload; the text says why."""


class Contender(ABC):
    """The base class of contenders. ``seed`` and ``close`` are not timed."""

    own = False  # whether it is fastipam
    durability = NOT_STATED  # what an answer promises after a crash

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def seed(self, leases: int, give_up: Callable[[], bool]) -> int:
        """Assign addresses to ``leases`` containers, or until ``give_up``; return how many."""

    @abstractmethod
    def call(self, step: Step) -> float:
        """Make one call and return its nanoseconds. Raises Failed when the call fails."""

    @abstractmethod
    def close(self) -> None:
        """Close everything that the contender has open."""


class Library(Contender):
    """A contender in this process. ``add`` and ``delete`` are called with container ids."""

    def __init__(
        self,
        name: str,
        add: Callable[[str], object],
        delete: Callable[[str], object],
        close: Callable[[], object] | None = None,
        many: Callable[[int], object] | None = None,
    ) -> None:
        super().__init__(name)
        self.own = name.startswith("fastipam")
        self.durability = (
            "keeps nothing: a dictionary in the process"
            if close is None
            else "synced to the disk before the call returns"
            if name.endswith("durable")
            else "survives the process; synced to the disk later"
        )
        self._add, self._delete, self._close, self._many = add, delete, close, many

    def seed(self, leases: int, give_up: Callable[[], bool]) -> int:
        if self._many is not None:
            self._many(leases)
            return leases
        for number in range(leases):
            if not number % 64 and give_up():
                return number
            self._add(container(number))
        return leases

    def call(self, step: Step) -> float:
        work = self._add if step.verb == ADD else self._delete
        begun = perf_counter_ns()
        work(step.container)
        return perf_counter_ns() - begun

    def close(self) -> None:
        if self._close is not None:
            self._close()


class Plugin(Contender):
    """A CNI plugin. Every call is a process, timed from its spawn to its end."""

    keeps = True  # whether it gives an address to one container at a time

    def __init__(
        self,
        name: str,
        binary: Path,
        ipam: dict[str, Any],
        scratch: Path,
        socket: Path | None = None,
    ) -> None:
        super().__init__(name)
        self.binary, self.ipam = binary, ipam
        self._held = Held(name)
        self._pipe: Pipe | None = None
        scratch.mkdir(parents=True, exist_ok=True)
        self._input = scratch / "config.json"
        document = {"cniVersion": "1.0.0", "name": NETWORK, "type": "bridge", "ipam": ipam}
        self._input.write_text(json.dumps(document))
        self._base = {
            "CNI_NETNS": NETNS,
            "CNI_IFNAME": IFNAME,
            "CNI_PATH": str(binary.parent),
            "PATH": os.environ.get("PATH", os.defpath),
            "FASTIPAM_SOCKET": str(socket or scratch / "no-agent.sock"),
        }

    def _environment(self, step: Step) -> dict[str, str]:
        return self._base | {
            "CNI_COMMAND": step.verb,
            "CNI_CONTAINERID": step.container,
            "CNI_ARGS": POD.format(step.container[-16:]),
        }

    def begin(self, step: Step, output: str = os.devnull) -> int:
        """Start the process of a call and return its id."""
        source = str(self._input)
        if step.verb == DEL:
            self._held.released(step.container)
        return children.begin(
            [str(self.binary)], self._environment(step), source, output, quiet=True
        )

    def check(self, step: Step, said: bytes) -> None:
        """Check the answer of a call that succeeded.

        Raises GivenTwice when another container has the address, Failed when there is none.
        """
        if step.verb != ADD:
            return
        found = addresses(said)
        if not found:
            heard = said[:400].decode(errors="replace")
            raise Failed(
                f"{self.name}: ADD for container {step.container} ended with status 0 and answered "
                f"without an address: {heard!r}"
            )
        if self.keeps:
            self._held.given(step.container, found)

    def call(self, step: Step) -> float:
        if self._pipe is None:
            self._pipe = Pipe()
        with children.patience(f"{self.name}: {step.verb}"):
            begun = perf_counter_ns()
            status = children.wait(self.begin(step, self._pipe.path))
            taken = perf_counter_ns() - begun
        said = self._pipe.read()
        if status:
            self.fail(step, status)
        self.check(step, said)
        return taken

    def seed(self, leases: int, give_up: Callable[[], bool]) -> int:
        for number in range(leases):
            if give_up():
                return number
            self.call(Step(ADD, container(number)))
        return leases

    def close(self) -> None:
        """Close the pipe for the answers. Everything else is in the contender's directory."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def try_out(self, wanted: int) -> None:
        """Make an ADD and a DEL, and check that the answer has ``wanted`` addresses.

        Raises Missing when it has not, TakesNoPart when it has one instead of two, and Failed when
        there is no answer.
        """
        step = Step(ADD, "f" * 64)
        status, said, errors = self._ask(step)
        found = len(addresses(said))
        if not status and (found, wanted) == (1, 2):
            self.call(Step(DEL, step.container))
            raise TakesNoPart("gives one address, not one of each family")
        if status or found != wanted:
            count = "an address" if wanted == 1 else f"{wanted} addresses"
            raise Missing(
                f"{self.name}: ADD ended with status {status}; it has to answer with {count}, and "
                f"answered {_heard(said, errors)}"
            )
        self.call(Step(DEL, step.container))

    def attempt(self, step: Step) -> tuple[int, list[str]]:
        """Make a call that may be refused; return its exit status and the addresses given."""
        status, said, _ = self._ask(step)
        return status, [] if status else addresses(said)

    def collect(self) -> int:
        """Call the plugin with GC and no valid attachments; return its exit status."""
        document = json.loads(self._input.read_text())
        document |= {"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
        source = self._input.with_name("gc.json")
        source.write_text(json.dumps(document))
        environment = {key: self._base[key] for key in ("CNI_PATH", "PATH", "FASTIPAM_SOCKET")}
        command = [str(self.binary)]
        return children.ask(
            f"{self.name}: GC", command, environment | {"CNI_COMMAND": "GC"}, str(source)
        )[0]

    def kill_service(self) -> bool:
        """Kill the process behind the plugin; return False when there is none."""
        return False

    def start_service(self) -> None:
        """Start the process that ``kill_service`` has killed."""

    def reboot(self) -> str:
        """Simulate a reboot for the plugin, and return how."""
        return "no boot id that could be changed for this binary"

    def fail(self, step: Step, status: int) -> None:
        """Make a failed call again, and raise Failed with the plugin's answer."""
        code, (again, said, errors) = os.waitstatus_to_exitcode(status), self._ask(step)
        why = f": {_heard(said, errors)}" if again else "; the same call, made again, succeeded"
        raise Failed(f"{self.name}: {step.verb} ended with status {code}{why}")

    def _ask(self, step: Step) -> tuple[int, str, str]:
        """Make a call; return exit status, standard output and standard error."""
        command, source = [str(self.binary)], str(self._input)
        what = f"{self.name}: {step.verb}"
        errors = Pipe(_ERRORS)
        try:
            status, said = children.ask(
                what, command, self._environment(step), source, errors=errors.writable
            )
            return status, said, errors.read().decode(errors="replace").strip()
        finally:
            errors.close()


def _heard(said: str, errors: str) -> str:
    more = f"; the end of its standard error: {errors[-400:]!r}" if errors else ""
    return f"{said[:400]!r}{more}"


class HostLocal(Plugin):
    """Debian's host-local. Its leases are written directly, as one file for each address."""

    durability = "written to files that are not synced: a power failure may lose them"

    def __init__(self, workload: Workload, scratch: Path) -> None:
        self._directory = scratch / "data" / NETWORK
        self._directory.mkdir(parents=True)
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": pool}] for pool in workload.pools],
            "dataDir": str(scratch / "data"),
        }
        super().__init__("host-local", processes.HOST_LOCAL, ipam, scratch)
        self._dual = workload.dual

    def seed(self, leases: int, give_up: Callable[[], bool]) -> int:
        for number in range(leases):
            if not number % 1024 and give_up():
                return number
            text = f"{container(number)}\r\n{IFNAME}"
            for name in self._names(number):
                (self._directory / name).write_text(text)
        for index, name in enumerate(self._names(leases - 1) if leases else ()):
            (self._directory / f"last_reserved_ip.{index}").write_text(name)
        return leases

    def _names(self, number: int) -> list[str]:
        value = 0x0A200002 + number
        names = [".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))]
        # On Linux host-local's file names have the colons of an address.
        return [*names, f"2001:db8::{number + 2:x}"] if self._dual else names


class Static(Plugin):
    """Debian's static, which stores nothing and prints its configuration: the least work."""

    durability = "keeps nothing: it prints the address of its configuration"
    keeps = False

    def __init__(self, workload: Workload, scratch: Path) -> None:
        texts = ["10.32.0.5/12", "2001:db8::5/64"][: len(workload.pools)]
        ipam = {"type": "static", "addresses": [{"address": text} for text in texts]}
        super().__init__("static", processes.STATIC, ipam, scratch)

    def seed(self, leases: int, give_up: Callable[[], bool]) -> int:  # noqa: ARG002
        return leases  # it stores no leases


class Fastipam(Plugin):
    """fastipam as a process, with or without an agent. Its leases are made with the library."""

    own = True
    durability = "synced to the disk before the answer"

    def __init__(
        self, name: str, binary: Path, workload: Workload, scratch: Path, agent: Agent | None
    ) -> None:
        self._data = scratch / "data"
        self._pools = [[{"subnet": pool}] for pool in workload.pools]
        self._agent = agent
        ipam = {"type": "fastipam", "ranges": self._pools, "dataDir": str(self._data)}
        super().__init__(name, binary, ipam, scratch, agent.socket if agent else None)

    def seed(self, leases: int, give_up: Callable[[], bool]) -> int:  # noqa: ARG002
        with fastipam.open(self._data) as ipam:
            fill_network(ipam.network(NETWORK, self._pools), leases)
        return leases

    def kill_service(self) -> bool:
        if self._agent is not None:
            self._agent.kill()
        return self._agent is not None

    def start_service(self) -> None:
        if self._agent is not None:
            self._agent.start()
            self._agent.wait_ready()

    def reboot(self) -> str:
        self.kill_service()
        with open_with(self._data, "durable", boot_id=lambda: "the boot after") as ipam:
            ipam.network(NETWORK).stats()
        self.start_service()
        return "another boot id in the store" + (", the agent started again" * bool(self._agent))


class Other(Plugin):
    """Another IPAM binary, with the ``ipam`` section that the user of the benchmark wrote."""

    def __init__(self, guest: Guest, workload: Workload, scratch: Path) -> None:
        data = scratch / "data"
        data.mkdir(parents=True)
        self.durability = guest.durability
        super().__init__(guest.name, guest.binary, guest.section(workload.pools, data), scratch)


def fill_network(network: fastipam.Network, leases: int) -> None:
    """Assign addresses to the containers below ``leases``, many in a transaction."""
    for first in range(0, leases, BATCH):
        last = min(first + BATCH, leases)
        network.allocate_many((container(number), IFNAME) for number in range(first, last))
