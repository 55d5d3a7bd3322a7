"""What is fuzzed, and what has to hold after every input.

An input that breaks a promise raises AssertionError; so does anything that nobody catches.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fastipam import cni
from fastipam.agent import batch, protocol
from fastipam.agent.lanes import Lanes, Work
from fastipam.agent.loop import Limits, Server
from fastipam.cni import handler, resolvconf
from fastipam.storage import open_stores, tables
from fastipam.storage.records import keys as records_keys
from fastipam.storage.store import Store
from fastipam.storage.transaction import Transaction

from .inputs import call

if TYPE_CHECKING:
    from types import TracebackType

_DEFAULTS = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_IFNAME": "eth0",
    "CNI_NETNS": "/nowhere",
    "CNI_PATH": "/opt/cni/bin",
}
_INTERNAL = 999
_LONGEST_ANSWER = 64 << 10
_PATIENCE_S = 60  # in slices: a machine that stands still meanwhile costs one of them


def split(data: bytes) -> tuple[dict[str, str], bytes]:
    """(variables, standard input) of an input; what it does not set has a usual value."""
    head, _, stdin = data.partition(b"\n\n")
    variables = dict(_DEFAULTS)
    for line in head.split(b"\n"):
        name, equals, value = line.partition(b"=")
        if equals:
            variables[os.fsdecode(name)] = os.fsdecode(value)
    return {name: value for name, value in variables.items() if "\0" not in name + value}, stdin


class _Confined:
    """Every configuration leads to one store, and no path of theirs is read or written."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory / "store", "relaxed")
        self._get = open_stores.get
        self._read = resolvconf.read

    def __enter__(self) -> Self:
        open_stores.get = self._one_store
        resolvconf.read = self._null
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        open_stores.get = self._get
        resolvconf.read = self._read
        self.store.close()

    def _one_store(self, data_dir: str, durability: str | None, **_: bool) -> Store:
        assert "\0" not in data_dir
        assert durability in (None, "durable", "relaxed")
        group = getattr(open_stores.thread, "batch", None)
        if group is not None:
            group.join(self.store)
        return self.store

    @staticmethod
    def _null(path: str) -> dict[str, Any]:
        assert isinstance(path, str)
        return resolvconf.parse("nameserver 10.0.0.1\nsearch a b\n")


def judge(status: int, output: bytes) -> None:
    """What every answer has to be, whatever was asked."""
    assert status in (0, 1), status
    assert len(output) < _LONGEST_ANSWER, len(output)
    if status == 0:
        assert not output or isinstance(json.loads(output), dict), output
        return
    body = json.loads(output)
    assert isinstance(body["code"], int), body
    assert body["code"] != _INTERNAL, body
    assert body["msg"], body
    assert "Traceback" not in body["msg"], body


class ConfigTarget(_Confined):
    """``cni.handle`` with any variables and any standard input, on a store with one lease in it.

    A failure changes nothing; after the input the store is put back to what it was.
    """

    def __enter__(self) -> Self:
        super().__enter__()
        variables, stdin = split(call("ADD", _PLAIN, container="c0"))
        status, output = cni.handle(variables, stdin)
        assert status == 0, output
        return self

    def __call__(self, data: bytes) -> None:
        """One input."""
        variables, stdin = split(data)
        transaction = Transaction(self.store, joined=True).__enter__()
        try:
            before = self._content(transaction)
            status, output = cni.handle(variables, stdin)
            judge(status, output)
            if status:
                assert self._content(transaction) == before, "a failure left something behind"
        finally:
            transaction.rollback()

    def _content(self, transaction: Any) -> list[list[tuple[bytes, bytes]]]:
        """All but the pools' clocks: a clock that stepped back is noted by failures, too."""
        watched = [one for one in tables.ALL if one is not tables.META]
        found = [list(table.scan(transaction)) for table in watched]
        return [*found, list(tables.MAIN.scan(transaction, records_keys.LOG_MARK))]


_PLAIN = {"cniVersion": "1.1.0", "name": "fuzz", "ipam": {"subnet": "10.1.2.0/24"}}


class ProtocolTarget(_Confined):
    """A server on a real socket. The first byte of an input says how it is cut into pieces.

    Every whole request gets its answer, in order; what is no request ends the connection; and
    when the client is gone the server serves the next one.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._path = str(directory / "s")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        self._listener.bind(self._path)
        self._listener.listen(16)
        self._lanes = Lanes(lambda _: Work(batch.Executor()))
        self._server = Server(self._listener, self._lanes, Limits(64, 3600.0))
        self._server.begin()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop(0.0)
        self._thread.join(_PATIENCE_S)
        self._lanes.stop(_PATIENCE_S)
        self._server.close()
        self._listener.close()
        super().__exit__(kind, error, trace)

    def _run(self) -> None:
        try:
            self._server.run()
        except BaseException as error:
            self._failure = error

    def __call__(self, data: bytes) -> None:
        """One input."""
        handler._services.known.clear()
        cut, sent = data[:1], data[1:]
        answers, ended = self._expected(sent)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            # Waits while the queue is full; with settimeout() it would fail at once.
            limit = struct.pack("ll", _PATIENCE_S, 0)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            client.connect(self._path)
            client.settimeout(1.0)
            self._send(client, sent, cut[0] if cut else 0)
            for _ in range(answers):
                status, output, messages = protocol.read_answer(
                    self._exactly(client, protocol.ANSWER.size)
                )
                judge(status, self._exactly(client, output))
                self._exactly(client, messages).decode()
            if ended:
                assert self._receive(client, 1) == b"", "more than was asked for"
        assert self._failure is None, repr(self._failure)

    @staticmethod
    def _expected(sent: bytes) -> tuple[int, bool]:
        """(whole requests, whether something follows that is none)."""
        answers = at = 0
        header = protocol.REQUEST.size
        while len(sent) - at >= header:
            magic, variables, size = protocol.REQUEST.unpack_from(sent, at)
            largest = (protocol.LARGEST_VARIABLES, protocol.LARGEST_INPUT)
            if magic != b"FIP1" or variables > largest[0] or size > largest[1]:
                return answers, True
            at += header + variables + size
            if at > len(sent):
                break
            answers += 1
        return answers, False

    @staticmethod
    def _send(client: socket.socket, sent: bytes, cut: int) -> None:
        pieces = [sent] if cut < 128 else [sent[: cut - 128], sent[cut - 128 :]]
        for piece in pieces:
            try:
                client.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                return  # it has been sent something that is no request, and closed

    def _exactly(self, client: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._receive(client, size - len(data))
            assert part, f"no answer; the server's end: {self._failure!r}"
            data += part
        return data

    def _receive(self, client: socket.socket, size: int) -> bytes:
        for _ in range(_PATIENCE_S):
            try:
                return client.recv(size)
            except ConnectionResetError:  # closed with something unread
                return b""
            except TimeoutError:
                continue
        frame = sys._current_frames().get(self._thread.ident or 0)
        where = "".join(traceback.format_stack(frame))
        raise AssertionError(f"no answer for {_PATIENCE_S} s; the server is at\n{where}")


TARGETS: dict[str, type[ConfigTarget | ProtocolTarget]] = {
    "config": ConfigTarget,
    "protocol": ProtocolTarget,
}
