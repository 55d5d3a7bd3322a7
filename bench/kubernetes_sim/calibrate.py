"""Measure the cost of requests on a real API server and its etcd: the input of the simulator.

A client sends the quiet server each kind of request in turn, which gives the proportions of the
costs. The processor time of server and etcd in the run itself, divided by its requests, gives their
size.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kubernetes.rest import Rest

from fastipam.addressing.addresses import parse_cidr
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.access import Access, parse_server
from fastipam.cluster.registries.kubernetes.client import Client
from fastipam.cluster.registries.kubernetes.objects import Place
from fastipam.cluster.schema import NodeEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tests.kubernetes.server import ApiServer

_TICKS_S = 100  # ticks in a second, in /proc/stat


def processor_s(pids: Iterable[int]) -> float:
    """Return the processor time of these processes so far, in seconds."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except OSError:  # the thread has ended
                continue
    return total / 1e9


def idle_s() -> float:
    """Return the idle time of all processors of this machine so far, in seconds."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / _TICKS_S


def pids_of(api: ApiServer) -> list[int]:
    """Return the processes of the server and of its etcd."""
    return [api.pid, *(one.process.pid for one in api.etcd.members if one.process is not None)]


def probe(api: ApiServer, rounds: int = 100) -> dict[str, float]:
    """Return the processor time of server and etcd, in ms, for a request of each kind."""
    pids = pids_of(api)
    rest = api.node("probe")

    def connected() -> Client:
        return Client(Access([parse_server(api.url)], ca=str(api.ca), token=rest.token))

    client = connected()
    entry = NodeEntry("probe", 1, "boot-1", ("192.0.2.1",), agent=True)
    client.create(objects.NODES, objects.node("probe", entry), deadline_s=30)
    places = []
    for at in range(rounds):
        family, base, length = parse_cidr(f"10.47.{at}.0/24")
        places.append(Place(family, base, length, "default"))
    made: list[dict[str, Any]] = []
    bodies = [objects.block(one, "probe", 1, 1, via=["192.0.2.1"]) for one in places]

    def spent(work: Callable[[int], object]) -> float:
        before, began = processor_s(pids), time.monotonic()
        for at in range(rounds):
            work(at)
        seconds = time.monotonic() - began
        return 1000 * (processor_s(pids) - before - quiet * seconds) / rounds

    before, began = processor_s(pids), time.monotonic()
    time.sleep(2)
    quiet = (processor_s(pids) - before) / (time.monotonic() - began)
    front = Rest(api.port, api.ca, rest.token)
    new = spent(lambda _: front.get("/livez"))  # each request has a connection of its own
    found = {
        "get": spent(lambda _: client.get(objects.NODES, "probe", deadline_s=30)),
        "list": spent(lambda _: client.list(objects.POOLS, from_cache=True, deadline_s=30)),
        "post": spent(
            lambda at: made.append(client.create(objects.BLOCKS, bodies[at], deadline_s=30))
        ),
        "put": spent(
            lambda at: client.replace(
                objects.BLOCKS, objects.stamped(made[at], 1, ["192.0.2.2"]), deadline_s=30
            )
        ),
        "delete": spent(lambda at: client.delete(objects.BLOCKS, places[at].name, deadline_s=30)),
    }
    client.close()

    def ask_once(_: int) -> None:
        once = connected()
        once.get(objects.NODES, "probe", deadline_s=30)
        once.close()

    found["tls"] = max(0.0, spent(ask_once) - found["get"])
    found["refuse"] = max(0.1, min(new - found["tls"], found["get"]))
    return {name: round(value, 3) for name, value in found.items()}


def scaled(
    costs: Mapping[str, float],
    requests: Mapping[str, int],
    connections: int,
    postponed: int,
    used_s: float,
) -> dict[str, float]:
    """Return the costs times one factor, so that these requests cost ``used_s`` seconds together.

    ``postponed`` of the requests were answered 429.
    """
    mean = (costs["get"] + costs["post"]) / 2  # the cost of a request that was not postponed
    expected = connections * costs["tls"] - postponed * (mean - costs["refuse"])
    for what, count in requests.items():
        method = what.partition(" ")[0].lower().replace("patch", "put")
        expected += count * costs[method]
    factor = 1000 * used_s / expected
    return {name: round(value * factor, 3) for name, value in costs.items()}


def phase_s(api: ApiServer, moment: float) -> float:
    """Return the seconds from a moment (time.time) until the server distributes its seats again."""
    local = time.localtime(moment)
    now_s = local.tm_hour * 3600 + local.tm_min * 60 + local.tm_sec + moment % 1
    for line in (api.directory / "apiserver.log").read_text(errors="replace").splitlines():
        if "periodic rebalancing" in line:  # a line of klog: I1129 13:00:00.123456 …
            hours, minutes, seconds = line.split()[1].split(":")
            began_s = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
            return round(10 - (now_s - began_s) % 10, 3)
    raise LookupError("the server's log does not say when it began to share out its seats")
