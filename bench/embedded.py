"""``python -m bench.embedded``: attach a container by one process, or by two, in one table.

The same work in three ways: the example plugin, which embeds fastipam; the real ``bridge`` with
``host-local``; the real ``bridge`` with fastipam and its agent. Each makes a veth pair between a
bridge and a network namespace, assigns an address, and sets the default route. Everything is in
network namespaces of the benchmark; it needs root.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, NamedTuple

import fastipam
import fastipam.ipam
from bench import machine
from bench.agent.service import Agent
from bench.arguments import prepare, to_its_end
from bench.children import spawn
from bench.errors import Failed, Missing
from bench.processes import install_plugin
from bench.sampling import Samples, Subject, interleave, ratio
from fastipam.agent import protocol
from fastipam.cli import streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "bridge_plugin.py"
CNI_BIN = Path("/usr/lib/cni")  # the directory of Debian's containernetworking-plugins
PREFIX = "fastipam-bench"
BASE = "bridge + host-local"
WARM = "example, launcher and warm parent"


class Way(NamedTuple):
    """A way to attach a container: its name, and a function that makes one CNI call."""

    name: str
    call: Callable[[str], int]
    server: int = 0  # the id of the process that does the work, if it is not a child of this one


class Place:
    """The bridge, network, container namespace and store of one subject."""

    def __init__(self, scratch: Path, number: int, plugin: str, ipam: str, leases: int) -> None:
        # Each place has its own /12, because all bridges are in one namespace.
        self.subnet = f"10.{16 * number}.0.0/12"
        self.gateway = f"10.{16 * number}.0.1"
        self.netns = f"/run/netns/{PREFIX}-{os.getpid()}-c{number}"
        self.data = scratch / f"data-{number}"
        self.output = str(scratch / f"answer-{number}")
        self.input = str(scratch / f"config-{number}.json")
        self.document = {
            "cniVersion": "1.0.0",
            "name": "podnet",
            "type": plugin,
            "bridge": f"bench{number}",
            "isGateway": True,
            "ipam": {
                "type": ipam,
                "dataDir": str(self.data),
                "ranges": [[{"subnet": self.subnet}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        Path(self.input).write_text(json.dumps(self.document))
        fill = _fill_host_local if ipam == "host-local" else _fill
        fill(self.data, self.subnet, leases)

    def environment(self, command: str, path: Path, agent: Path) -> dict[str, str]:
        """Return the variables of a call."""
        return {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"{0:064x}",
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(path),
            "PATH": os.environ.get("PATH", os.defpath),
            "FASTIPAM_SOCKET": str(agent),
        }


def _fill(data: Path, subnet: str, leases: int) -> None:
    with fastipam.open(data) as ipam:
        network = ipam.network("podnet", subnet)
        network.allocate_many((f"{number + 1:064x}", "eth0") for number in range(leases))


def _fill_host_local(data: Path, subnet: str, leases: int) -> None:
    directory = data / "podnet"
    directory.mkdir(parents=True)
    for number in range(leases):
        name = str(ip_network(subnet)[2 + number])
        (directory / name).write_text(f"{number + 1:064x}\r\neth0")
        (directory / "last_reserved_ip.0").write_text(name)


def process(command: list[str], place: Place, path: Path, agent: Path) -> Callable[[str], int]:
    """Return a function that makes a call by a whole process, as a runtime does."""
    return lambda verb: spawn(
        command, place.environment(verb, path, agent), place.input, place.output
    )


def in_process(handle: Any, place: Place) -> Callable[[str], int]:
    """Return a function that makes a call in this process, as a daemon's thread does."""
    stdin = Path(place.input).read_bytes()

    def call(verb: str) -> int:
        status, output = handle(place.environment(verb, Path("/none"), Path("/none")), stdin)
        Path(place.output).write_bytes(output)
        return int(status)

    return call


def forked(handle: Any, place: Place) -> Callable[[str], int]:
    """Return a function that makes a call in a forked child, which has everything imported."""
    call = in_process(handle, place)

    def in_child(verb: str) -> int:
        child = os.fork()
        if not child:
            status = 70
            with suppress(BaseException):
                status = call(verb)
            os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return in_child


@contextmanager
def warm_parent(handle: Any, path: Path) -> Iterator[int]:
    """Start a process that has imported the plugin and serves the launcher; return its id."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(16)
        server = os.fork()
        if not server:
            # The child must never leave the parent's ``with`` blocks, because these clean up.
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            gc.freeze()  # as the agent does
            try:
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(Exception):
                        _answer(handle, connection)
            finally:
                os._exit(1)
        try:
            yield server
        finally:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)


def _answer(handle: Any, connection: socket.socket) -> None:
    with connection.makefile("rb") as stream:
        variables, size = protocol.request_size(stream.read(protocol.REQUEST.size))
        environ = protocol.read_variables(stream.read(variables))
        status, output = handle(environ, stream.read(size))
    connection.sendall(protocol.pack_answer(status, output))


@contextmanager
def namespaces(places: int) -> Iterator[None]:
    """Put this process into a new network namespace, and make one for each place."""
    from pyroute2.netns import setns

    names = [
        f"{PREFIX}-{os.getpid()}-{part}" for part in ("host", *(f"c{n}" for n in range(places)))
    ]
    with open("/proc/thread-self/ns/net") as home, ExitStack() as stack:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
            delete = ["ip", "netns", "delete", name]
            stack.callback(subprocess.run, delete, check=False, capture_output=True)
        with open(f"/run/netns/{names[0]}") as host:
            setns(host.fileno())
        stack.callback(setns, home.fileno())
        yield


def load_example() -> Any:
    """Import the example plugin. Raises Missing when pyroute2 is not installed."""
    spec = importlib.util.spec_from_file_location("bridge_plugin", EXAMPLE)
    if spec is None or spec.loader is None:
        raise Missing(f"the example is missing: {EXAMPLE}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise Missing(f"{error.name} is missing: pip install --group examples") from None
    return module


def require() -> None:
    """Raise Missing when a requirement is missing, before anything is measured."""
    if os.geteuid():
        raise Missing("network namespaces need root")
    for plugin in ("bridge", "host-local"):
        if not os.access(CNI_BIN / plugin, os.X_OK):
            raise Missing(f"{CNI_BIN / plugin} is missing: apt install containernetworking-plugins")


def measure(scratch: Path, rounds: int, leases: int) -> tuple[Samples, Samples]:
    """Measure the ADDs of all ways alternately.

    Return their times, and the processor times of all processes. The DEL before each ADD is in
    neither.
    """
    example = load_example()
    handle = partial(example.Request.serve, commands=example.COMMANDS)
    with ExitStack() as stack:
        stack.enter_context(namespaces(7))
        plugins = scratch / "bin"
        install_plugin(plugins)
        (plugins / "bridge").symlink_to(CNI_BIN / "bridge")
        (launch := scratch / "launch").mkdir()
        launcher = launch / "fastipam"
        launcher.write_bytes((plugins / "fastipam").read_bytes())  # without the entry point
        launcher.chmod(0o755)
        service = stack.enter_context(Agent(scratch))
        agent, serving = service.socket, service.process_id
        nobody, warm = scratch / "nobody.sock", scratch / "warm.sock"
        parent = stack.enter_context(warm_parent(handle, warm))
        real, own = str(CNI_BIN / "bridge"), str(EXAMPLE)
        kinds = [("bridge", "host-local"), *[("bridge", "fastipam")] * 2, *[("b", "fastipam")] * 4]
        places = [
            Place(scratch, number, plugin, ipam, leases)
            for number, (plugin, ipam) in enumerate(kinds)
        ]
        ways = [
            Way(BASE, process([real], places[0], CNI_BIN, nobody)),
            Way("bridge + fastipam, agent", process([real], places[1], plugins, agent), serving),
            Way("bridge + fastipam, no agent", process([real], places[2], plugins, nobody)),
            Way(WARM, process([str(launcher)], places[3], launch, warm), parent),
            Way("example, a fork of the warm parent", forked(handle, places[4])),
            Way("example, a call in the warm parent", in_process(handle, places[5])),
            Way("example, cold start", process([sys.executable, own], places[6], plugins, nobody)),
        ]
        for way, place in zip(ways, places, strict=True):
            _try_out(way, place)
        used: Samples = {way.name: [] for way in ways}
        taken = interleave([_subject(way, used[way.name]) for way in ways], rounds)
        # Drop the first round, as interleave does.
        return taken, {name: values[1:] for name, values in used.items()}


def _run(way: Way, verb: str) -> None:
    status = way.call(verb)
    if status:
        raise Failed(f"{way.name}: {verb} ended with status {status}")


def _subject(way: Way, used: list[float]) -> Subject:
    def add() -> None:
        before = processor_ns(way.server)
        _run(way, "ADD")
        used.append(processor_ns(way.server) - before)

    return Subject(way.name, 1, add, lambda: _run(way, "DEL"))


def processor_ns(server: int) -> float:
    """Return the processor time of this process, of its ended children, and of a server."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    total = sum(one.ru_utime + one.ru_stime for one in spent) * 1e9
    if server:
        total += int(Path(f"/proc/{server}/schedstat").read_text().split()[0])
    return total


def _try_out(way: Way, place: Place) -> None:
    """Make an ADD, and check that the container can reach the gateway. Raises Failed."""
    try:
        _run(way, "ADD")
    except Failed as error:
        raise Failed(f"{error}: {Path(place.output).read_text()[-800:]}") from None
    ping = ["nsenter", f"--net={place.netns}", "ping", "-n", "-q", "-c1", "-w5", place.gateway]
    done = subprocess.run(ping, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{way.name}: the gateway does not answer: {done.stdout}{done.stderr}")
    _run(way, "DEL")


def table(samples: Samples, used: Samples) -> str:
    """Return the figures as Markdown."""
    lines = [
        "| ADD by | median | 90 % below | times the first | processor | times the first |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, values in samples.items():
        ninety = quantiles(values, n=10)[-1]
        times = ratio(samples, name, BASE)
        cells = (
            name,
            f"{median(values) / 1e6:.1f} ms",
            f"{ninety / 1e6:.1f} ms",
            f"{times:.2f}",
            f"{median(used[name]) / 1e6:.1f} ms",
            f"{ratio(used, name, BASE):.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure and print; return 1 when the warm example costs more than the first way, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.embedded", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--leases", type=int, default=0, help="leases that are there beforehand")
    parser.add_argument("--output", type=Path, help="a Markdown file for the table")
    parser.add_argument("--scratch", type=Path, help="a directory on the disk to measure")
    options = parser.parse_args(argv)
    require()
    if options.output:
        prepare(options.output.parent)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.scratch) as scratch:
        samples, used = measure(Path(scratch), options.rounds, options.leases)
    facts = machine.facts()
    about = ", ".join(facts[key] for key in ("machine", "system", "python", "date"))
    command = f"python -m bench.embedded --rounds {options.rounds} --leases {options.leases}"
    text = f"{table(samples, used)}\n\n`{command}`, commit {facts['commit']}; {about}\n"
    print(text)
    if options.output:
        options.output.write_text(text)
    return int(max(ratio(samples, WARM, BASE), ratio(used, WARM, BASE)) >= 1)


if __name__ == "__main__":
    streams.run(lambda: to_its_end(main))
