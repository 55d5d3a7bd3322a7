"""Two stores that serve the same frames: one in Python, the other in native code where it can.

After every batch the answers are the same, and so is every record.
"""

from __future__ import annotations

import json
import os
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import fastipam
from fastipam.agent import batch
from fastipam.agent.batch import Executor
from fastipam.agent.client import Client
from fastipam.agent.requests import Observer, Request
from fastipam.cni.services import Services
from fastipam.configuration import network as network_configuration
from fastipam.errors import ConfigError, UnknownNetwork
from fastipam.namespaces import mount_namespace
from fastipam.network import Network
from fastipam.storage import open_stores, tables
from fastipam.testing import Clock, places
from fastipam.verify import verify

from ..cni.plugin import VERSIONS
from .frames import Frames

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fastipam.agent.requests import Answer

TOGETHER = 64  # frames of a commit, at most
_DISTURBED = 0.1  # the share of batches before which something else changes the stores
_OWN = 4026531840
_STEPS_S = (0, 0, 0, 1, 31, 3700, -20)
Dump = list[list[tuple[bytes, bytes]]]
# LMDB's own records of the databases in the main one; when the machine began, by its own clock.
_NOT_COMPARED = {tables.BOOT_BEGAN_KEY, *(table.name.encode() for table in tables.ALL)}


class _Standing(Clock):
    """A clock that stands while a batch is served, however often it is read."""

    def tick(self) -> int:
        """Return the time."""
        return self.now_ns


class _Alone(Services):
    """Services of a node on which nobody can be proven dead: to look takes milliseconds."""

    def release_dead(self, *_: object) -> None:
        """Release nothing."""


class Counter(Observer):
    """Keeps what an observer is told, but the seconds."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def request(
        self,
        verb: str,
        status: int,
        output: bytes,
        seconds: float,
        asked: Request | None = None,  # noqa: ARG002
    ) -> None:
        """Keep it."""
        self.told.append((verb, status, len(output), seconds > 0))

    def batch(self, size: int, commit_seconds: float) -> None:
        """Keep the size."""
        self.told.append((size, commit_seconds >= 0))

    def take(self) -> list[object]:
        """Return what was told since the last call."""
        told, self.told = self.told, []
        return told


class Twin:
    """One of the two: a store and an executor."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.counter = Counter()
        self.services = _Alone()
        self._place = places.Place(path, clock)
        places.register(self._place)
        self._execute = Executor(self.counter)
        self._execute._services = self.services
        self._client = Client(-1, os.getpid())
        fastipam.open(path, "relaxed").close()
        self.store = open_stores.get(str(path), None)

    def close(self) -> None:
        """Leave the store, which :func:`open_stores.close_all` closes."""
        places.unregister(self._place)

    def serve(self, frames: Sequence[bytes], now_ns: int) -> list[Answer]:
        """Return the answers to a batch."""
        # What a configuration without dataDir means.
        vars(network_configuration)["DEFAULT_DATA_DIR"] = str(self.path)
        return self._execute([self._request(one, now_ns) for one in frames])

    def _request(self, frame: bytes, now_ns: int) -> Request:
        self._client.incoming += frame
        request = self._client.take_request()
        assert request is not None
        request.arrived_ns = now_ns
        return request

    def dump(self) -> Dump:
        """Return every record of every database."""
        files = self.store.files
        assert files is not None
        with files.env.begin() as txn:
            return [
                [one for one in txn.cursor(database) if one[0] not in _NOT_COMPARED]
                for database in files.databases
            ]


class Twins:
    """Both, with the frames that they serve."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory = directory
        self._random = random.Random(seed)
        self.frames = self.native = 0

    def __enter__(self) -> Self:
        self._serve = vars(batch)["serve"]
        vars(batch)["serve"] = self._count
        self._default = vars(network_configuration)["DEFAULT_DATA_DIR"]
        self._clock = _Standing()
        self._slow = Twin(self._directory / "a", self._clock)
        self._fast = Twin(self._directory / "b", self._clock)
        self._paths = [str(one.path).encode() for one in (self._slow, self._fast)]
        inputs = [
            (one["name"], json.dumps(one).encode()) for one in configurations(str(self._slow.path))
        ]
        inputs += [("", one) for one in BROKEN]
        self._supply = Frames(self._random, inputs, self._paths[0], _OWN, mount_namespace())
        return self

    def __exit__(self, *_: object) -> None:
        vars(batch)["serve"] = self._serve
        vars(network_configuration)["DEFAULT_DATA_DIR"] = self._default
        found = [one for twin in (self._slow, self._fast) for one in verify(twin.store)]
        open_stores.close_all()
        self._slow.close()
        self._fast.close()
        assert found == []

    def _count(
        self, frames: list[bytes], answers: list[Any], touched: object, known: object, *more: Any
    ) -> None:
        if known is self._slow.services.known:
            return
        before = len(answers)
        self._serve(frames, answers, touched, known, *more)
        self.native += len(answers) - before

    def step(self) -> None:
        """Serve one batch in both, and compare them. Raises AssertionError."""
        self._clock.now_ns += int(self._random.choice(_STEPS_S) * 1e9) + 1
        if self._random.random() < _DISTURBED:
            self._disturb()
        slow, fast = self._paths
        count = 1 + int(self._random.random() * TOGETHER)
        frames = [self._supply.take() for _ in range(count)]
        same = [one.replace(slow, fast) for one in frames]
        now_ns = self._clock.now_ns
        wanted = self._slow.serve(frames, now_ns)
        found = self._fast.serve(same, now_ns)
        for frame, one, other in zip(frames, wanted, found, strict=True):
            assert _told(one) == _told(other).replace(fast, slow), (frame, one, other)
        assert self._slow.counter.take() == self._fast.counter.take()
        self._compare()
        self.frames += count

    def _disturb(self) -> None:
        """Change both stores by other means than requests."""
        name = self._random.choice(_IPAM)[1]
        address = f"10.7.0.{self._random.randrange(2, 20)}"
        owner = self._random.choice(("", "default/web-1", f"c{7:063d}"))
        kind = self._random.randrange(4)
        for twin in (self._slow, self._fast):
            network = Network(twin.store, name, None)
            with suppress(UnknownNetwork, ConfigError):  # it is not there yet
                if kind == 0:
                    network.reserve(address, owner=owner)
                elif kind == 1:
                    network.release_address(address)
                elif kind == 2:
                    network.tidy()
                else:
                    network.unreserve("10.7.0.0/24")

    def _compare(self) -> None:
        slow, fast = self._slow.dump(), self._fast.dump()
        if slow != fast:
            raise AssertionError("\n".join(_differences(slow, fast)))


def _told(answer: Answer) -> bytes:
    return b"%d %s %s" % (answer.status, answer.output, answer.messages)


def _differences(slow: Dump, fast: Dump) -> Iterator[str]:
    for at, records in enumerate(slow):
        one, other = set(records), set(fast[at])
        for sign, only in (("-", one - other), ("+", other - one)):
            yield from (f"{sign} {at} {key.hex()}: {value!r}" for key, value in sorted(only))


# Configurations --------------------------------------------------------------------------------

_V4, _V6 = {"subnet": "10.7.0.0/24"}, {"subnet": "fd00:7::/64"}
_SPLIT = [
    {"subnet": "10.8.0.0/24", "rangeEnd": "10.8.0.9"},
    {"subnet": "10.9.0.0/24", "gateway": "10.9.0.9"},
]
_ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "fd01::/64", "gw": "fd00:7::1", "mtu": 1400}]
_IPAM: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("1.0.0", "plain", _V4),
    ("1.1.0", "plain", _V4),
    ("0.4.0", "plain", _V4 | {"routes": _ROUTES}),
    ("0.3.1", "dual", {"ranges": [[_V4], [_V6]], "routes": _ROUTES}),
    ("0.2.0", "dual", {"ranges": [[_V6], [_V4]], "routes": _ROUTES}),
    ("0.1.0", "six", _V6),
    ("0.3.0", "split", {"ranges": [_SPLIT, [_V6]], "cooldown": 0}),
    ("1.0.0", "split", {"ranges": [_SPLIT, [_V6]], "cooldown": 0, "history": 0}),
    ("1.0.0", "small", {"subnet": "10.5.0.0/29", "cooldown": 5, "cooldownPolicy": "strict"}),
    ("1.0.0", "tiny", {"subnet": "10.6.0.0/29", "cooldown": 60, "history": 20}),
    ("1.0.0", "again", _V4 | {"repeatAdd": "return"}),
    ("1.0.0", "sticky", _V4 | {"sticky": "pod", "stickyTTL": 60}),
    ("1.0.0", "odd", _V4 | {"unknown": 1, "exclude": ["10.7.0.4/30"]}),
    ("1.0.0", "old", _V4 | {"history": 30, "historyAge": 40}),
    ("1.0.0", "wide", {"subnet": "10.64.0.0/12"}),
)  # fmt: skip
_MORE: tuple[dict[str, Any], ...] = (
    {"runtimeConfig": {"ips": ["10.7.0.77"]}},
    {"args": {"cni": {"ips": []}}},
    {"prevResult": {"ips": [{"address": "10.7.0.3/24"}]}},
    {"cni.dev/valid-attachments": [{"containerID": f"c{1:063d}", "ifname": "eth0"}]},
    {"ipam": {"type": "fastipam", **_V4}},
    {"ipam": {"type": "fastipam", "subnet": "nonsense"}},
    {"cniVersion": "9.9.9"},
    {"name": ""},
)
BROKEN = (b"", b"{", b"[]", b'{"cniVersion": "1.0.0", "name": "\xff"}')


def configurations(path: str) -> Iterator[dict[str, Any]]:
    """Yield configurations of a store in ``path``: usual ones several times, and odd ones."""
    for version, name, section in _IPAM:
        ipam = {"type": "fastipam", "dataDir": path, "durability": "relaxed", "history": 40}
        ipam |= section
        for _ in range(4):
            yield {"cniVersion": version, "name": name, "type": "bridge", "ipam": ipam}
    base = {"cniVersion": "1.1.0", "name": "plain", "type": "bridge"}
    for more in _MORE:
        yield {**base, "ipam": {"type": "fastipam", "dataDir": path, **_V4}, **more}
    assert {one for one, _, _ in _IPAM} == set(VERSIONS)
