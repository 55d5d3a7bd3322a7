"""The contenders: everything that assigns addresses to a container and releases them.

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
from bench.workloads.traces import ADD, DEL, Step, container

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.workloads.traces import Workload

NETNS = "/run/netns/bench"


class TakesNoPart(Exception):
    """The contender cannot do the workload; the text says why."""


class Contender(ABC):
    """A contender. ``seed`` and ``close`` are not timed."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def seed(self, leases: int, give_up: Callable[[], bool]) -> int:
        """Assign addresses to containers 0 to ``leases``; return how many, within the limit."""

    @abstractmethod
    def call(self, step: Step) -> float:
        """Make one call and return its nanoseconds. Raises Failed when it fails."""

    @abstractmethod
    def close(self) -> None:
        """Release everything that is open."""


class Library(Contender):
    """A contender in this process; ``add`` and ``delete`` are called with container ids."""

    def __init__(
        self,
        name: str,
        add: Callable[[str], object],
        delete: Callable[[str], object],
        close: Callable[[], object] | None = None,
        many: Callable[[int], object] | None = None,
    ) -> None:
        super().__init__(name)
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

    def __init__(
        self,
        name: str,
        binary: Path,
        ipam: dict[str, Any],
        scratch: Path,
        socket: Path | None = None,
    ) -> None:
        super().__init__(name)
        self.binary = binary
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
        return self._base | {"CNI_COMMAND": step.verb, "CNI_CONTAINERID": step.container}

    def begin(self, step: Step) -> int:
        """Start the process of a call and return its id."""
        source = str(self._input)
        return children.begin([str(self.binary)], self._environment(step), source, os.devnull)

    def call(self, step: Step) -> float:
        with children.patience(f"{self.name}: {step.verb}"):
            begun = perf_counter_ns()
            status = children.wait(self.begin(step))
            taken = perf_counter_ns() - begun
        if status:
            self.fail(step, status)
        return taken

    def seed(self, leases: int, give_up: Callable[[], bool]) -> int:
        for number in range(leases):
            if give_up():
                return number
            self.call(Step(ADD, container(number)))
        return leases

    def close(self) -> None:
        """Do nothing: everything is in the directory."""

    def try_out(self, addresses: int) -> None:
        """Make an ADD and a DEL, and check the answer.

        Raises Missing when there is no address, Failed when there is no answer, TakesNoPart when
        there is one address instead of two.
        """
        step = Step(ADD, "f" * 64)
        status, said = self._ask(step)
        try:
            found = len(json.loads(said)["ips"])
        except (ValueError, KeyError, TypeError):
            found = -1
        if not status and (found, addresses) == (1, 2):
            self.call(Step(DEL, step.container))
            raise TakesNoPart("gives one address, not one of each family")
        if status or found != addresses:
            raise Missing(
                f"{self.name}: ADD ended with status {status} and gave not {addresses} "
                f"address(es) but: {said[:400]!r}"
            )
        self.call(Step(DEL, step.container))

    def fail(self, step: Step, status: int) -> None:
        """Make the call again, and raise Failed with what the plugin says."""
        code, (_, said) = os.waitstatus_to_exitcode(status), self._ask(step)
        raise Failed(f"{self.name}: {step.verb} ended with status {code}: {said[:400]!r}")

    def _ask(self, step: Step) -> tuple[int, str]:
        command, source = [str(self.binary)], str(self._input)
        return children.ask(f"{self.name}: {step.verb}", command, self._environment(step), source)


class HostLocal(Plugin):
    """Debian's host-local. Leases are made as it stores them, one file an address."""

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
        # On Linux host-local keeps colons in file names.
        return [*names, f"2001:db8::{number + 2:x}"] if self._dual else names


class Static(Plugin):
    """Debian's static, which stores nothing and prints its configuration: the least possible."""

    def __init__(self, workload: Workload, scratch: Path) -> None:
        texts = ["10.32.0.5/12", "2001:db8::5/64"][: len(workload.pools)]
        ipam = {"type": "static", "addresses": [{"address": text} for text in texts]}
        super().__init__("static (keeps nothing)", processes.STATIC, ipam, scratch)

    def seed(self, leases: int, give_up: Callable[[], bool]) -> int:  # noqa: ARG002
        return leases  # it stores no leases


class Fastipam(Plugin):
    """fastipam as a process, with an agent or without. Leases are made with the library."""

    def __init__(
        self, name: str, binary: Path, workload: Workload, scratch: Path, socket: Path | None
    ) -> None:
        self._data = scratch / "data"
        self._pools = [[{"subnet": pool}] for pool in workload.pools]
        ipam = {"type": "fastipam", "ranges": self._pools, "dataDir": str(self._data)}
        super().__init__(name, binary, ipam, scratch, socket)

    def seed(self, leases: int, give_up: Callable[[], bool]) -> int:  # noqa: ARG002
        with fastipam.open(self._data) as ipam:
            fill_network(ipam.network(NETWORK, self._pools), leases)
        return leases


class Other(Plugin):
    """Another IPAM binary, with the ``ipam`` section that its user wrote."""

    def __init__(
        self,
        name: str,
        binary: Path,
        kind: str,
        section: str | None,
        workload: Workload,
        scratch: Path,
    ) -> None:
        data = scratch / "data"
        data.mkdir(parents=True)
        if section is None:
            ranges = [[{"subnet": pool}] for pool in workload.pools]
            ipam: dict[str, Any] = {"ranges": ranges, "dataDir": str(data)}
        else:
            ipam = json.loads(section.replace("{data}", str(data)))
        super().__init__(name, binary, ipam | {"type": kind}, scratch)


def fill_network(network: fastipam.Network, leases: int) -> None:
    """Assign addresses to containers 0 to ``leases``, many a transaction."""
    for first in range(0, leases, BATCH):
        last = min(first + BATCH, leases)
        network.allocate_many((container(number), IFNAME) for number in range(first, last))
