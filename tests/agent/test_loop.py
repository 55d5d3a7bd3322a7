"""The loop against clients that are slow, silent, rude or many; what it serves is made up."""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from fastipam._ledger import accept
from fastipam.agent import protocol
from fastipam.agent.lanes import Lanes, Work
from fastipam.agent.loop import _IDLE_S, Limits, Server
from fastipam.agent.requests import LATER, Answer, Request
from fastipam.configuration.reader import LARGEST

from .processes import Client, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Self

LATER_ONCE = b"later"  # a request that waits for something when it comes first
SHORT_S = 0.3  # what a client may take in these tests


class Accepting:
    """What the server calls to accept. There is no descriptor while ``full`` is set."""

    full = False
    refused = 0

    def __call__(self, listener: int) -> tuple[int, int, int, bytes | None] | None:
        """Accept, if there is a descriptor."""
        if self.full:
            self.refused += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return accept(listener)


class Served:
    """A server in a thread; it answers a request with its own input, and keeps the batches."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.batches: list[list[Request]] = []
        self.hold = threading.Event()  # cleared: a batch takes until it is set
        self.hold.set()
        self.busy = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(4096)
        self.lanes = Lanes(lambda _: Work(self._serve))
        self.server = Server(self.listener, self.lanes, limits)
        self.server.begin()
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()

    def _serve(self, requests: Sequence[Request]) -> list[Answer]:
        self.batches.append(list(requests))
        self.busy.set()
        assert self.hold.wait(20)
        return [
            LATER if one.stdin == LATER_ONCE and self._is_first(one) else Answer(0, one.stdin, b"")
            for one in requests
        ]

    def _is_first(self, request: Request) -> bool:
        return sum(request in batch for batch in self.batches) == 1

    def client(self) -> Client:
        """A new connection."""
        return Client(self.path)

    def close(self) -> None:
        """End it; twice is once."""
        self.hold.set()
        if self.thread.is_alive():
            self.server.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()
        assert self.lanes.stop(20)
        self.listener.close()


@pytest.fixture
def serve(run_dir: Path) -> Iterator[Callable[..., Served]]:
    """Start a server: ``serve(connections, seconds)``."""
    started: list[Served] = []

    def begin(connections: int = 64, seconds: float = 20) -> Served:
        started.append(Served(run_dir / "s", Limits(connections, seconds)))
        return started[-1]

    yield begin
    for one in started:
        one.close()
        one.server.close()


def _ask(client: Client, text: bytes) -> bytes:
    client.send({"A": "B"}, text)
    return client.receive().output


def test_byte_by_byte(serve: Callable[..., Served]) -> None:
    """A request may come in pieces of any size; others are served between them."""
    served = serve()
    raw = protocol.pack_request({"NAME": "value=x", "EMPTY": ""}, b"input")
    with served.client() as slow, served.client() as quick:
        for at in range(len(raw)):
            slow.socket.sendall(raw[at : at + 1])
            assert _ask(quick, b"%d" % at) == b"%d" % at
        assert slow.receive().output == b"input"
    variables = [
        one.variables for batch in served.batches for one in batch if one.stdin == b"input"
    ]
    assert variables == [{"NAME": "value=x", "EMPTY": ""}]


def test_in_a_row(serve: Callable[..., Served]) -> None:
    """A connection carries any number of requests."""
    served = serve(seconds=SHORT_S)
    with served.client() as client:
        for at in range(50):
            assert _ask(client, b"%d" % at) == b"%d" % at
            time.sleep(0.01)  # together they take longer than one may


@pytest.mark.parametrize("size", [0, 10, 100_000])
def test_pipelined(size: int, serve: Callable[..., Served]) -> None:
    """Requests sent without waiting are answered in their order, one in each batch."""
    served = serve()
    with served.client() as client:
        raw = b"".join(protocol.pack_request({}, b"%d" % at + bytes(size)) for at in range(40))
        sender = threading.Thread(target=client.socket.sendall, args=(raw,))
        sender.start()
        for at in range(40):
            assert client.receive().output == b"%d" % at + bytes(size)
        sender.join()
    assert [len(batch) for batch in served.batches] == [1] * 40


def test_pipelined_behind_a_large_answer(serve: Callable[..., Served]) -> None:
    """A request that came before a large answer was read is served once it has been."""
    served = serve()
    large = bytes(LARGEST)
    with served.client() as client:
        client.send({}, large)
        client.send({}, b"next")
        until(lambda: served.batches, "the first is served")
        time.sleep(0.05)
        assert client.receive().output == large
        assert client.receive().output == b"next"


def test_batch(serve: Callable[..., Served]) -> None:
    """What arrives while a batch is served is one batch: the next."""
    served = serve()
    with ExitStack() as stack:
        clients = [stack.enter_context(served.client()) for _ in range(30)]
        served.hold.clear()
        clients[0].send({}, b"0")
        assert served.busy.wait(20)
        for at, client in enumerate(clients[1:], 1):
            client.send({}, b"%d" % at)
        until(lambda: all(one.ticket for one in _known(served)), "all requests have arrived")
        served.hold.set()
        for at, client in enumerate(clients):
            assert client.receive().output == b"%d" % at
    assert [len(batch) for batch in served.batches] == [1, 29]


def test_half_closed(serve: Callable[..., Served]) -> None:
    """A client that will send no more gets its answer."""
    with serve().client() as client:
        client.send({}, b"x")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.receive().output == b"x"
        assert client.is_closed()


def test_client_that_goes_away(serve: Callable[..., Served]) -> None:
    """Clients that leave at any point of the exchange disturb nobody."""
    served = serve()
    raw = protocol.pack_request({"A": "B"}, bytes(300_000))
    for sent in (0, 1, 12, 20, 1000, len(raw)):
        with served.client() as client:
            client.socket.sendall(raw[:sent])
    with served.client() as client:
        assert _ask(client, b"x") == b"x"


MALFORMED = {
    "no request": b"GET / HTTP/1.1\r\n\r\n",
    "another version": b"FIP2" + bytes(8),
    "variables too large": protocol.REQUEST.pack(b"FIP1", (256 << 10) + 1, 0),
    "input too large": protocol.REQUEST.pack(b"FIP1", 0, LARGEST + 2),
    "all ones": b"\xff" * 12,
    "zeros": bytes(12),
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_header(raw: bytes, serve: Callable[..., Served]) -> None:
    """A header that is none closes its connection at once, and only that."""
    served = serve()
    with served.client() as bad, served.client() as good:
        bad.socket.sendall(raw)
        assert bad.is_closed()
        assert _ask(good, b"x") == b"x"
        good.socket.sendall(raw)  # behind a good one, too
        assert good.is_closed()
    assert len(served.batches) == 1


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", {}),
        (b"\0\0\0", {}),
        (b"A=1\0A=2\0", {"A": "1"}),
        (b"=x\0A\0", {"": "x"}),
        (b"A=\xff", {"A": "\udcff"}),
        (b"A=b=c", {"A": "b=c"}),
    ],
)
def test_odd_variables(raw: bytes, expected: dict[str, str], serve: Callable[..., Served]) -> None:
    """Variables are what ``os.environ`` would make of them."""
    served = serve()
    with served.client() as client:
        client.socket.sendall(protocol.REQUEST.pack(b"FIP1", len(raw), 1) + raw + b"x")
        assert client.receive().output == b"x"
    assert served.batches[0][0].variables == expected


# Limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"F", protocol.pack_request({"A": "B"}, b"xyz")[:-1]])
def test_silent_client(sent: bytes, serve: Callable[..., Served]) -> None:
    """A client that stops sending is let go after its time; others are served meanwhile."""
    served = serve(seconds=SHORT_S)
    begun = time.monotonic()
    with served.client() as silent, served.client() as good:
        silent.socket.sendall(sent)
        for _ in range(5):
            assert _ask(good, b"x") == b"x"
        assert silent.is_closed()
        assert SHORT_S * 0.9 <= time.monotonic() - begun < 5


def test_trickling_client(serve: Callable[..., Served]) -> None:
    """A byte now and then does not buy more time."""
    served = serve(seconds=SHORT_S)
    raw = protocol.pack_request({}, bytes(1000))

    def trickle(client: Client) -> None:
        for at in range(len(raw)):
            client.socket.sendall(raw[at : at + 1])
            time.sleep(0.03)

    begun = time.monotonic()
    with served.client() as client, pytest.raises(BrokenPipeError):
        trickle(client)
    assert time.monotonic() - begun < 5


def test_client_that_does_not_read(serve: Callable[..., Served]) -> None:
    """A client that leaves a large answer unread is let go; others are served meanwhile."""
    served = serve(seconds=SHORT_S)
    with served.client() as rude, served.client() as good:
        rude.send({}, bytes(LARGEST))
        until(lambda: served.batches, "it is served")
        for _ in range(5):
            assert _ask(good, b"x") == b"x"
        time.sleep(SHORT_S * 2)
        with pytest.raises(EOFError):
            rude.receive()


@pytest.mark.parametrize("when", ["answer unread", "answer awaited"])
def test_gone_with_an_answer_under_way(when: str, serve: Callable[..., Served]) -> None:
    """A client that leaves its answer behind is forgotten; when its time would be over, too."""
    served = serve(seconds=SHORT_S)
    with served.client() as client:
        client.send({}, LATER_ONCE if when == "answer awaited" else bytes(LARGEST))
        until(lambda: served.batches, "it is served")
    time.sleep(SHORT_S * 2)
    with served.client() as good:
        good.socket.settimeout(20)
        assert _ask(good, b"x") == b"x"


def test_stalled_batch_is_nobodys_fault(serve: Callable[..., Served]) -> None:
    """Who sent while a batch took longer than a client may is answered, not let go."""
    served = serve(seconds=SHORT_S)
    with ExitStack() as stack:
        clients = [stack.enter_context(served.client()) for _ in range(20)]
        for client in clients:
            assert _ask(client, b"hello") == b"hello"
        served.busy.clear()
        served.hold.clear()
        clients[0].send({}, b"0")
        assert served.busy.wait(20)
        for at, client in enumerate(clients[1:], 1):
            client.send({}, b"%d" % at)
        time.sleep(SHORT_S * 1.5)
        served.hold.set()
        for at, client in enumerate(clients):
            assert client.receive().output == b"%d" % at


def test_flood(serve: Callable[..., Served]) -> None:
    """At the limit further connections wait; they are served when silent ones are let go."""
    served = serve(connections=20, seconds=SHORT_S)
    with ExitStack() as stack:
        first = stack.enter_context(served.client())
        assert _ask(first, b"x") == b"x"
        silent = [stack.enter_context(served.client()) for _ in range(100)]
        assert _ask(first, b"y") == b"y"
        last = stack.enter_context(served.client())
        assert _ask(last, b"z") == b"z"
        assert all(client.is_closed() for client in silent)


_SILENT = """
import socket, sys, time
connections = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[2]))]
for connection in connections:
    connection.connect(sys.argv[1])
    connection.sendall(bytes.fromhex(sys.argv[3]))
    connection.setblocking(False)
print("connected", flush=True)
sys.stdin.read()
closed = 0
for connection in connections:
    try:
        closed += connection.recv(1) == b""
    except BlockingIOError:
        pass
    except ConnectionError:
        closed += 1
print(closed)
"""


@contextmanager
def _silent(path: Path, count: int, sent: bytes) -> Iterator[subprocess.Popen[str]]:
    """A process with so many connections, on each of which it has sent this and waits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(16384, hard), hard))
    command = [sys.executable, "-IS", "-c", _SILENT, str(path), str(count), sent.hex()]
    try:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            yield process
            process.kill()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "sent", [b"", b"FIP1", protocol.pack_request({"A": "B"}, bytes(100))[:-1]],
    ids=["silent", "half a header", "half a request"],
)  # fmt: skip
def test_a_process_with_thousands_of_connections(
    sent: bytes, serve: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    """A process keeps as many connections as one may have; others are served meanwhile."""
    served = serve(connections=1024, seconds=60)
    with served.client() as good, _silent(served.path, 6000, sent) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        for number in range(50):
            assert _ask(good, b"%d" % number) == b"%d" % number
            _ask_anew(served)
        assert process.stdout.readline() == "connected\n"
        _ask_anew(served)
        until(lambda: len(served.server._clients) <= 257, "the rest is closed")
        process.stdin.close()
        assert int(process.stdout.read()) == 6000 - 256
    assert "has more than 256 connections" in caplog.text
    assert caplog.text.count("has more than") < 100


def _ask_anew(served: Served) -> None:
    """Ask over a new connection, which waits for a place in the listener's queue as a launcher."""
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 20, 0))
        waiting.connect(str(served.path))
        waiting.sendall(protocol.pack_request({}, b"x"))
        assert waiting.recv(100).endswith(b"x")


def test_idle_connections_make_room(serve: Callable[..., Served]) -> None:
    """When all places are taken, the longest idle connections are closed for new ones."""
    served = serve(connections=40, seconds=60)
    with ExitStack() as stack:
        used = stack.enter_context(served.client())
        assert _ask(used, b"x") == b"x"
        idle = [stack.enter_context(served.client()) for _ in range(39)]
        new = [stack.enter_context(served.client()) for _ in range(20)]
        for client in new:
            assert _ask(client, b"y") == b"y"
        assert all(client.is_closed() for client in idle[:20])
        assert _ask(used, b"x") == b"x", "one that has asked something is kept"
        for client in idle[20:]:
            assert _ask(client, b"z") == b"z"


def test_served_clients_are_not_closed_for_others(serve: Callable[..., Served]) -> None:
    """A client whose request is served keeps its connection; the new ones wait for a place."""
    served = serve(connections=8, seconds=60)
    with ExitStack() as stack:
        served.hold.clear()
        clients = [stack.enter_context(served.client()) for _ in range(8)]
        for client in clients:
            client.send({}, b"x")
        assert served.busy.wait(20)
        until(lambda: sum(one.ticket is not None for one in _known(served)) == 8, "all are served")
        new = stack.enter_context(served.client())
        new.send({}, b"new")
        time.sleep(_IDLE_S * 2)
        served.hold.set()
        assert [client.receive().output for client in clients] == [b"x"] * 8
        assert new.receive().output == b"new"


def test_incomplete_requests_are_bounded_together(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest incomplete requests are forgotten when all of them take too much memory."""
    monkeypatch.setattr("fastipam.agent.loop._LARGEST_UNFINISHED", 3_500_000)
    served = serve(seconds=60)
    with ExitStack() as stack:
        small = stack.enter_context(served.client())
        raw = protocol.pack_request({}, bytes(1_000_000))
        small.socket.sendall(raw[:1000])
        large = [stack.enter_context(served.client()) for _ in range(4)]
        for client in large:
            with suppress(ConnectionError):
                client.socket.sendall(raw[:-1])
        until(lambda: len(served.server._clients) == 4, "one of them is closed")
        small.socket.sendall(raw[1000:])
        assert len(small.receive().output) == 1_000_000


def _known(served: Served) -> list[Any]:
    return list(served.server._clients.values())


@pytest.mark.parametrize("others", [0, 1])
def test_out_of_descriptors(
    others: int,
    serve: Callable[..., Served],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A connection that cannot be taken is tried again after a pause; the log says so once."""
    accepting = Accepting()
    monkeypatch.setattr("fastipam.agent.loop.accept", accepting)
    served = serve()
    with ExitStack() as stack:
        clients = [stack.enter_context(served.client()) for _ in range(others)]
        for client in clients:
            assert _ask(client, b"x") == b"x"
        accepting.full = True
        begun = time.monotonic()
        with served.client() as late:
            late.send({}, b"late")
            until(lambda: accepting.refused >= 4, "it was tried several times")
            assert time.monotonic() - begun > 0.2  # three pauses, and not as fast as it can
            for client in clients:
                assert _ask(client, b"y") == b"y"
            accepting.full = False
            assert late.receive().output == b"late"
    assert caplog.text.count("accept() on the agent's socket failed") == 1


def test_a_request_that_waits_is_the_only_one(serve: Callable[..., Served]) -> None:
    """What a client sends behind a request that waits is left in the socket, and served after it.

    A client that says that it will send no more is not one that has gone away.
    """
    served = serve()
    with served.client() as client:
        client.send({}, LATER_ONCE)
        client.send({}, b"second")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.receive().output == LATER_ONCE
        assert client.receive().output == b"second"


def test_nobody_waits_any_longer(serve: Callable[..., Served]) -> None:
    """A request whose client has gone away before a batch began is in no batch."""
    served = serve()
    with served.client() as first, served.client() as stays, served.client() as asks:
        served.hold.clear()
        first.send({}, b"first")
        assert served.busy.wait(20)
        with served.client() as leaves:
            leaves.send({}, b"leaves")
            until(lambda: len(served.server._clients) == 4, "it is accepted")
        stays.send({}, b"stays")
        until(lambda: len(served.server._clients) == 3, "it is known to have left")
        until(
            lambda: sum(one.ticket is not None for one in _known(served)) == 2,
            "both others are served",
        )
        served.hold.set()
        assert first.receive().output == b"first"
        assert stays.receive().output == b"stays"
        assert _ask(asks, b"last") == b"last"
    assert [one.stdin for batch in served.batches for one in batch] == [b"first", b"stays", b"last"]


def test_flood_of_requests(serve: Callable[..., Served]) -> None:
    """Many times the limit of connections with a request each: all are served."""
    served = serve(connections=20)
    answers: list[bytes] = []

    def work(name: int) -> None:
        for at in range(10):
            with served.client() as client:
                answers.append(_ask(client, b"%d %d" % (name, at)))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == sorted(
        b"%d %d" % (name, at) for name in range(60) for at in range(10)
    )
    assert max(len(batch) for batch in served.batches) <= 20


# Who serves -----------------------------------------------------------------------------------


class Several:
    """A server of several stores: a request names its own as NAME, and is answered with its input.

    ``threads`` are those that served, by name. A request of the store "hangs" takes until ``free``
    is set.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.threads: list[str] = []
        self.free = threading.Event()
        self.busy = threading.Event()
        self.failures: list[BaseException] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self.lanes = Lanes(self._work, lambda request: request.variables.get("NAME"))
        self.server = Server(self._listener, self.lanes)
        self.server.begin()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.server.run()
        except BaseException as error:
            self.failures.append(error)

    def _work(self, path: str | None) -> Work:
        def serve(requests: Sequence[Request]) -> list[Answer]:
            self.threads.append(threading.current_thread().name)
            if path == "hangs":
                self.busy.set()
                assert self.free.wait(20)
            if requests[0].stdin == b"defect":
                raise ValueError("a defect")
            return [Answer(0, one.stdin, b"") for one in requests]

        return Work(serve)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.free.set()
        self.server.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()
        assert self.lanes.stop(20)
        self.server.close()
        self._listener.close()

    def ask(self, store: str, text: bytes = b"x") -> None:
        """Make a request over a new connection."""
        with Client(self.path) as client:
            client.send({"NAME": store}, text)
            assert client.receive().output == text

    def ask_in_front(self, store: str) -> Client:
        """Return a client whose request is served by the thread that has read it, or was.

        The first request of a store may not be, nor one on a machine that has no time for threads.
        """
        for _ in range(100):
            self.free.clear()
            self.busy.clear()
            client = Client(self.path)
            client.send({"NAME": store}, b"x")
            if store == "hangs":
                assert self.busy.wait(20)
            else:
                assert client.receive().output == b"x"
            if self.threads[-1] == "loop":
                return client
            self.free.set()
            if store == "hangs":
                assert client.receive().output == b"x"
            client.socket.close()
        raise AssertionError("no request is served by the thread that reads it")


def test_a_request_alone_is_served_where_it_is_read(run_dir: Path) -> None:
    """No other thread is woken for it."""
    with Several(run_dir / "s") as several, several.ask_in_front("quick"):
        pass


def test_a_store_that_hangs_in_front(run_dir: Path) -> None:
    """Another thread reads meanwhile: other stores are served, and afterwards all is as before."""
    with Several(run_dir / "s") as several, ExitStack() as stack:
        for _ in range(3):
            waiting = [stack.enter_context(several.ask_in_front("hangs"))]
            for number in range(20):
                several.ask(f"other {number % 4}")
                several.ask("quick")
                with Client(several.path) as client:  # of no store
                    client.send({}, b"none")
                    assert client.receive().output == b"none"
            assert "loop" not in several.threads[-60:]
            for _ in range(2):
                waiting.append(stack.enter_context(Client(several.path)))
                waiting[-1].send({"NAME": "hangs"}, b"y")
            several.free.set()
            assert [one.receive().output for one in waiting] == [b"x", b"y", b"y"]


def test_stop_while_a_store_hangs_in_front(run_dir: Path) -> None:
    """The end does not wait for it, and what is sent to nobody does no harm."""
    with Several(run_dir / "s") as several, several.ask_in_front("hangs") as client:
        several.server.stop(SHORT_S)
        several.thread.join(20)
        assert not several.thread.is_alive()
        assert not several.lanes.stop(0.0), "a thread still uses the store"
        assert client.is_closed()


def test_a_defect_in_front(run_dir: Path) -> None:
    """It ends the server, as one in a lane does."""
    several = Several(run_dir / "s")
    with several, several.ask_in_front("quick") as client:
        client.send({"NAME": "quick"}, b"defect")
        assert client.is_closed()
        several.thread.join(20)
        assert not several.thread.is_alive()
    assert [str(one) for one in several.failures] == ["a defect"]


# The end --------------------------------------------------------------------------------------


def test_stop_serves_the_queue(serve: Callable[..., Served]) -> None:
    """Requests of connections that were not even accepted are answered before the end."""
    served = serve(connections=2000)
    with ExitStack() as stack:
        served.hold.clear()
        first = stack.enter_context(served.client())
        first.send({}, b"first")
        assert served.busy.wait(20)
        waiting = [stack.enter_context(served.client()) for _ in range(300)]
        for at, client in enumerate(waiting):
            client.send({}, b"%d" % at)
        served.server.stop()
        served.close()
        assert first.receive().output == b"first"
        for at, client in enumerate(waiting):
            assert client.receive().output == b"%d" % at


def test_stop_has_an_end(serve: Callable[..., Served]) -> None:
    """A client that never completes its request, or never reads its answer, is not waited for."""
    served = serve()
    with served.client() as half, served.client() as rude, served.client() as good:
        half.socket.sendall(b"FIP1")
        rude.send({}, bytes(LARGEST))
        until(lambda: served.batches, "one is served")
        assert _ask(good, b"x") == b"x"
        begun = time.monotonic()
        served.server.stop(SHORT_S)
        served.thread.join(20)
        assert SHORT_S * 0.9 <= time.monotonic() - begun < 5
        assert half.is_closed()


def test_stop_twice(serve: Callable[..., Served]) -> None:
    """Asking again, from another thread, is harmless; so is asking when it has ended."""
    served = serve()
    for _ in range(3):
        served.server.stop()
    served.close()
    served.server.stop()
