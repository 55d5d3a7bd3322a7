"""Native code serves a request only if Python would, with the same answer and the same records."""

from __future__ import annotations

import logging
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fastipam._ledger import parse_request, take_frame, without_result
from fastipam.agent import protocol
from fastipam.agent.requests import Request
from fastipam.cni import environment
from fastipam.configuration import reader
from fastipam.errors import DecodingError
from fastipam.lease import Requester
from fastipam.namespaces import Netns
from fastipam.storage.records import keys
from fastipam.testing.stores import memory

from ..options import options
from .__main__ import ROOT
from .frames import Frames
from .twins import Twins

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.campaign

FRAMES = 10_000_000 if options.long else 6_000
_READ = 50_000  # frames that are only read
_LEAST_NATIVE = 0.25  # of the frames: else the comparison would be Python's with itself
_TELL_S = 60


@pytest.fixture(params=["fixed", "random"])
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of the options, and one that nobody knows; both are shown when a test fails."""
    chosen = options.seed if request.param == "fixed" else secrets.randbits(32)
    print(f"seed={chosen}")
    return chosen


def _read_in_python(frame: bytes) -> tuple[object, ...]:
    """What parse_request returns of a plain frame, by the functions that serve it in Python."""
    end = protocol.REQUEST.size + protocol.request_size(frame[: protocol.REQUEST.size])[0]
    variables = protocol.read_variables(frame[protocol.REQUEST.size : end])
    started, seen = (variables.pop(name, "") for name in (protocol.STARTED, protocol.NETNS))
    asked = environment.Variables(variables)
    theirs, device, inode, mount, born_ns = None, 0, 0, 0, 0
    if asked.netns:
        reported = environment.read_reported(seen)
        assert reported is not None
        theirs, own, mount, born_ns = reported
        assert theirs is None or theirs != own
    if theirs is None:
        mount = born_ns = 0
    else:
        device, inode = theirs
    name = texts = keys.owner_name(asked.container_id, asked.ifname)
    if asked.command == environment.ADD:
        arguments = environment.Arguments(asked.args)
        assert not arguments.address
        pod = arguments.pod_namespace, arguments.pod_name, arguments.pod_uid
        netns = Netns(asked.netns, inode, mount, born_ns)
        texts = Requester(asked.container_id, asked.ifname, netns, pod).texts
    else:
        assert asked.command == environment.DEL
    return (
        *(asked.command, name, texts, frame[end:], device, inode, mount, born_ns),
        os.fsencode(started),
    )


def test_frames_are_read_as_in_python(seed: int) -> None:
    """What is plain means the same to both; most frames that runtimes send are plain."""
    supply = Frames(random.Random(seed), [("net", b"{}"), ("net", b"")], b"/path", 1, 2)
    plain = 0
    for _ in range(_READ):
        frame = supply.take()
        found = parse_request(frame)
        if found is not None:
            plain += 1
            assert found == _read_in_python(frame), frame
    assert plain > 0.7 * _READ


def test_one_variable_is_read_as_all_are(seed: int) -> None:
    """A variable that is looked for in the bytes is the one that decoding them all gives."""
    supply = Frames(random.Random(seed), [("net", b"{}"), ("net", b"")], b"/path", 1, 2)
    for _ in range(_READ // 5):
        frame = supply.take()
        end = protocol.REQUEST.size + protocol.request_size(frame[: protocol.REQUEST.size])[0]
        wanted = protocol.read_variables(frame[protocol.REQUEST.size : end])
        framed = take_frame(bytearray(frame), Request, 1, 2)
        assert framed is not None
        for name in ("CNI_COMMAND", protocol.STARTED, "CNI_ARGS", "CNI_FOO", ""):
            assert framed.text(name.encode()) == wanted.get(name, "")
        assert framed.command == wanted.get("CNI_COMMAND", "")
        assert framed.stdin == frame[end:]
        assert framed.seen_netns == wanted.pop(protocol.NETNS, "")
        wanted.pop(protocol.STARTED, "")
        assert framed.variables == wanted


def test_every_prefix_is_no_request() -> None:
    """A frame that is cut anywhere is not plain, and nothing behind its end is read."""
    frame = Frames(random.Random(1), [("net", b"{}")], b"/path", 1, 2).take()
    assert parse_request(frame) is not None
    assert not any(parse_request(frame[:end]) for end in range(len(frame)))
    assert parse_request(frame + b"\0") is None


def test_configuration_without_its_result(seed: int) -> None:
    """What is left without ``prevResult`` is the same document: what was cut out is a member."""
    document = b'{"cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipam": {}}'
    supply = Frames(random.Random(seed), [("net", document)], b"/path", 1, 2)
    cut = 0
    for _ in range(_READ):
        frame = supply.take()
        end = protocol.REQUEST.size + protocol.request_size(frame[: protocol.REQUEST.size])[0]
        rest = without_result(frame[end:])
        if rest != frame[end:]:
            try:
                left = reader.decode(rest)
            except DecodingError:
                continue  # nobody finds it among those that were read
            cut += 1
            whole = reader.decode(frame[end:])
            whole.pop("prevresult", None)
            left.pop("prevresult", None)
            assert list(whole.items()) == list(left.items()), frame[end:]
    assert cut > 0.15 * _READ


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory in memory."""
    with tempfile.TemporaryDirectory(prefix="fastipam-", dir=memory()) as made:
        yield Path(made)


def compare(directory: Path, seed: int, frames: int) -> tuple[int, int]:
    """Serve so many frames twice; how many were served, and how many of them in native code."""
    logging.disable(logging.CRITICAL)
    told = time.monotonic()
    try:
        with Twins(directory, seed) as twins:
            while twins.frames < frames:
                twins.step()
                if time.monotonic() > told + _TELL_S:
                    told = time.monotonic()
                    print(f"seed={seed} frames={twins.frames} native={twins.native}", flush=True)
    finally:
        logging.disable(logging.NOTSET)
    assert twins.native > _LEAST_NATIVE * twins.frames, (twins.native, twins.frames)
    return twins.frames, twins.native


def test_served_as_in_python(directory: Path, seed: int) -> None:
    """Answers, what observers hear and all records are the same, batch by batch."""
    if options.long:
        in_processes(directory, seed, FRAMES // 2)
    else:
        compare(directory, seed, FRAMES // 2)


def in_processes(directory: Path, seed: int, frames: int) -> None:
    """Compare in a process for each processor, each with a seed of its own."""
    count = len(os.sched_getaffinity(0))
    program = "import sys; from tests.fuzz import test_serve; test_serve.main(*sys.argv[1:])"
    workers = []
    for at in range(count):
        made = directory / str(at)
        made.mkdir()
        argv = [sys.executable, "-c", program, str(made), str(seed + at), str(frames // count)]
        workers.append(subprocess.Popen(argv, cwd=ROOT))
    assert [one.wait() for one in workers] == [0] * count


def main(directory: str, seed: str, frames: str) -> None:
    """Run one process of the long form."""
    began = time.monotonic()
    done, native = compare(Path(directory), int(seed), int(frames))
    print(f"seed={seed} frames={done} native={native} {time.monotonic() - began:.0f} s", flush=True)
