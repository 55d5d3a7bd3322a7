"""How the agent's HTTP server answers: what may be asked, by whom, and what an answer costs."""

from __future__ import annotations

import errno
import gzip
import http.client
import json
import os
import socket
import time
import urllib.parse
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fastipam
from fastipam.agent.web import heads, server
from fastipam.agent.web.server import Asked, Response, Route
from fastipam.errors import StoreClosed

from ..cni.plugin import Make
from .processes import Agent, ask, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Start


def _get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[Any, bytes]:
    """(the response, its body) of one request; a header's name is written with underscores."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store that the agent shows."""
    with fastipam.open(tmp_path / "store", "relaxed") as ipam:
        net = ipam.network("n", "10.32.0.0/16", cooldown_s=1000)
        net.allocate("c1", pod=("web", "web-1"))
        net.allocate("c2", pod=("web", "<script>alert(1)</script>"))
        net.release("c1")
        net.reserve("10.32.0.9", owner="web/db", reason="its own")
    return tmp_path / "store"


@pytest.fixture
def shown(start: Start, free_port: int, store: Path) -> Agent:
    """An agent that shows the store, which it opens with its first housekeeping."""
    agent = start("--http", str(free_port), "--data-dir", str(store))
    until(lambda: json.loads(_get(free_port, "/api/status")[1])["networks"], "it knows the store")
    return agent


def _query(store: Path, **more: str) -> str:
    return urllib.parse.urlencode({"data_dir": str(store), "network": "n", **more})


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/page/app.js", "/api/status", "/x"])
def test_headers(shown: Agent, free_port: int, path: str) -> None:
    """Every answer forbids what the page does not need, whatever it is."""
    response, _ = _get(free_port, path)
    policy = response.getheader("Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert response.getheader("X-Content-Type-Options") == "nosniff"
    assert response.getheader("Referrer-Policy") == "no-referrer"
    assert response.getheader("Cross-Origin-Resource-Policy") == "same-origin"
    assert "Python" not in response.getheader("Server")
    assert shown.is_ready()


def test_nothing_is_inline(shown: Agent, free_port: int) -> None:
    """The page has no script and no style of its own: the policy would stop them, and all else."""
    _, body = _get(free_port, "/")
    text = body.decode()
    assert "<style" not in text
    assert "style=" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>" not in text
    assert shown.is_ready()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_only_reading(shown: Agent, free_port: int, method: str) -> None:
    """Any other method is refused, on every path."""
    for path in ("/", "/api/status", "/metrics"):
        response, body = _get(free_port, path, method)
        assert response.status == 405
        assert response.getheader("Allow") == "GET, HEAD"
        assert body == b"only reading is possible\n"
    assert shown.is_ready()


def test_head(shown: Agent, free_port: int) -> None:
    """HEAD gives the headers of GET and no body."""
    response, body = _get(free_port, "/page/style.css", "HEAD")
    full, text = _get(free_port, "/page/style.css")
    assert (response.status, body) == (200, b"")
    assert response.getheader("Content-Length") == full.getheader("Content-Length")
    assert int(full.getheader("Content-Length")) == len(text)
    assert shown.is_ready()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200), ("127.0.0.1:9464", 200), ("[::1]:80", 200), ("localhost", 200),
        ("LOCALHOST:1", 200), (socket.gethostname(), 200), ("192.0.2.7", 200),
        ("attacker.example", 421), ("localhost.attacker.example", 421), ("", 421),
        ("127.0.0.1.attacker.example", 421),
    ],
)  # fmt: skip
def test_rebinding(shown: Agent, free_port: int, host: str, status: int) -> None:
    """A name that is not this machine's is refused, except for what names nobody."""
    assert _get(free_port, "/api/status", Host=host)[0].status == status
    assert _get(free_port, "/", Host=host)[0].status == status
    assert _get(free_port, "/metrics", Host=host)[0].status == 200
    assert _get(free_port, "/healthz", Host=host)[0].status == 200
    assert shown.is_ready()


def test_not_modified(shown: Agent, free_port: int, store: Path) -> None:
    """Who has the picture gets no body until the store has changed."""
    path = f"/api/picture?{_query(store)}"
    response, body = _get(free_port, path)
    tag = response.getheader("ETag")
    assert len(body) > 65536
    again, empty = _get(free_port, path, If_None_Match=tag)
    assert (again.status, empty) == (304, b"")
    with fastipam.open(store) as ipam:
        ipam.network("n").allocate("c3")

    def changed() -> bool:
        response, _ = _get(free_port, path, If_None_Match=tag)
        return bool(response.status == 200)

    until(changed, "the new picture is there")
    assert shown.is_ready()


def test_compression(shown: Agent, free_port: int, store: Path) -> None:
    """A large answer is compressed for who can read that."""
    path = f"/api/picture?{_query(store)}"
    plain, body = _get(free_port, path)
    packed, small = _get(free_port, path, Accept_Encoding="gzip, deflate")
    assert plain.getheader("Content-Encoding") is None
    assert packed.getheader("Content-Encoding") == "gzip"
    assert gzip.decompress(small) == body
    assert len(small) < len(body) / 10
    assert shown.is_ready()


def test_picture(shown: Agent, free_port: int, store: Path) -> None:
    """The header says what follows it: a byte an address, in address order."""
    _, body = _get(free_port, f"/api/picture?{_query(store)}")
    size = int.from_bytes(body[:4], "big")
    header = json.loads(body[4 : 4 + size])
    (panel,) = header["panels"]
    cells = np.frombuffer(body[4 + size :], dtype=np.uint8)
    assert (panel["cidr"], len(cells)) == ("10.32.0.0/16", 65536)
    states = [header["states"][cell & 7] for cell in cells[:12]]
    assert states == [
        "excluded", "excluded", "cooling", "assigned", *["free"] * 5, "reserved", "free", "free",
    ]  # fmt: skip
    assert shown.is_ready()


def test_address(shown: Agent, free_port: int, store: Path) -> None:
    """An address has its state, and its owner where it has one."""

    def about(address: str) -> Any:
        return json.loads(_get(free_port, f"/api/address?{_query(store, address=address)}")[1])

    assigned = about("10.32.0.3")
    assert (assigned["state"], assigned["pod_name"]) == ("assigned", "<script>alert(1)</script>")
    assert assigned["container_id"] == "c2"
    assert 0 <= assigned["age_s"] < 1000
    assert (about("10.32.0.2")["state"], about("10.32.0.2")["pod_name"]) == ("cooling", "web-1")
    reserved = about("10.32.0.9")
    assert (reserved["state"], reserved["owner"], reserved["reason"]) == (
        "reserved", "web/db", "its own",
    )  # fmt: skip
    assert about("10.32.0.77") == {"address": "10.32.0.77", "state": "free"}
    assert about("10.32.0.1")["state"] == about("10.99.0.1")["state"] == "never assigned"
    assert shown.is_ready()


def test_events(shown: Agent, free_port: int, store: Path) -> None:
    """The last events, newest first."""
    events = json.loads(_get(free_port, f"/api/events?{_query(store)}")[1])
    assert [(one["kind"], one["address"], one["pod"]) for one in events] == [
        ("reserved", "10.32.0.9", "web/db"),
        ("released", "10.32.0.2", "web/web-1"),
        ("assigned", "10.32.0.3", "web/<script>alert(1)</script>"),
        ("assigned", "10.32.0.2", "web/web-1"),
    ]
    assert shown.is_ready()


@pytest.mark.usefixtures("shown")
def test_a_store_that_is_moved_away(free_port: int, store: Path) -> None:
    """What is no longer under its path is shown no longer: nobody's requests use it."""
    picture = f"/api/picture?{_query(store)}"
    assert b'network="n"' in _get(free_port, "/metrics")[1]
    assert _get(free_port, picture)[0].status == 200
    store.rename(store.with_name("away"))
    assert json.loads(_get(free_port, "/api/status")[1])["networks"] == []
    assert b'network="n"' not in _get(free_port, "/metrics")[1]
    assert _get(free_port, picture)[0].status == 400
    store.with_name("away").rename(store)
    assert b'network="n"' in _get(free_port, "/metrics")[1]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/api/address", "data_dir: is missing"),
        ("/api/address?data_dir=/etc&network=n&address=10.0.0.1", "'/etc' does not exist"),
        ("/api/picture?data_dir={}&network=nothing", "'nothing' does not exist"),
        ("/api/address?data_dir={}&network=n&address=nonsense", "nonsense"),
        ("/api/address?data_dir={}&network=n", "address: is missing"),
        ("/api/events?data_dir={}&network=x", "'x' does not exist"),
    ],
)
def test_bad_questions(shown: Agent, free_port: int, store: Path, path: str, message: str) -> None:
    """What cannot be answered is a line that names the field; only open stores are looked at."""
    response, body = _get(free_port, path.format(store))
    assert response.status == 400
    assert message in body.decode()
    assert len(body.splitlines()) == 1
    assert shown.is_ready()


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"GET //attacker.example/%2e%2e/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: [\r\n\r\n",
    ],
)
def test_nonsense(shown: Agent, free_port: int, raw: bytes) -> None:
    """Bytes that are no request get an error or nothing; the agent goes on, its log is clean."""
    with socket.create_connection(("127.0.0.1", free_port), timeout=20) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except ConnectionError:
            pass
    assert b" 200 " not in answer.partition(b"\r\n")[0]
    assert _get(free_port, "/healthz")[0].status == 200
    assert shown.is_ready()


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET", b"GET / HTTP/1.1\r\nHost: localhost\r\n"],
    ids=["silent", "half a line", "half a head"],
)
def test_many_silent_clients(sent: bytes, shown: Agent, free_port: int, config: Make) -> None:
    """Connections without a whole request are bounded, and keep nobody from page and health."""
    with ExitStack() as stack:
        silent = []
        for _ in range(heads.MOST_SILENT_OF_AN_ADDRESS + 20):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", free_port)))
            one.sendall(sent)
            silent.append(one)
        for _ in range(5):
            assert _get(free_port, "/healthz")[0].status == 200
            assert _get(free_port, "/metrics")[0].status == 200
        assert ask(shown.path, "ADD", config(ipam={"subnet": "10.1.0.0/24"})).status == 0
        for one in silent[:20]:  # the oldest were closed for the others
            one.settimeout(20)
            assert one.recv(1) == b""
        silent[-1].sendall(b"GET /healthz HTTP/1.1\r\n\r\n" if not sent else b"\r\n")


def test_silent_clients_of_many_addresses(quiet: int) -> None:
    """All silent connections together are bounded, too."""
    with ExitStack() as stack:
        silent = []
        for number in range(heads.MOST_SILENT + 20):
            source = (f"127.0.{1 + number // 30}.1", 0)
            connection = socket.create_connection(("127.0.0.1", quiet), source_address=source)
            silent.append(stack.enter_context(connection))
        for one in silent[:20]:
            one.settimeout(20)
            assert one.recv(1) == b""
        assert _get(quiet, "/")[0].status == 200


def test_clients_that_do_not_read(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that leave long answers unread take the places of their address; health has its own.

    The places are free again after the time that an answer may take.
    """
    monkeypatch.setattr(server._Handler, "timeout", 3.0)
    large = Response(200, bytes(50_000_000), "application/octet-stream")
    routes = {
        "/": Route(lambda _: large),
        "/small": Route(lambda _: Response(200, b"x")),
        server.HEALTH: Route(lambda _: Response(200, b"ok")),
    }
    service = server.serve("127.0.0.1", free_port, routes)
    with ExitStack() as stack:
        stack.callback(service.stop)
        for number in range(server.MOST_REQUESTS):
            source = (f"127.0.0.{1 + number // server.MOST_OF_AN_ADDRESS}", 0)
            one = socket.create_connection(("127.0.0.1", free_port), source_address=source)
            stack.enter_context(one).sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(20):
            assert _get(free_port, server.HEALTH)[1] == b"ok"
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            _get(free_port, "/small")
        assert _get(free_port, server.HEALTH)[1] == b"ok"

        def is_served() -> bool:
            with suppress(http.client.HTTPException, ConnectionError):
                return _get(free_port, "/small")[1] == b"x"
            return False

        until(is_served, "the slow readers are let go")


def test_one_address_leaves_places_for_others(
    free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address has half of the places at most: others are served meanwhile."""
    monkeypatch.setattr(server._Handler, "timeout", 20.0)
    large = Response(200, bytes(50_000_000), "application/octet-stream")
    routes = {"/": Route(lambda _: large), "/small": Route(lambda _: Response(200, b"x"))}
    service = server.serve("127.0.0.1", free_port, routes)
    with ExitStack() as stack:
        stack.callback(service.stop)
        for _ in range(server.MOST_REQUESTS):
            one = socket.create_connection(
                ("127.0.0.1", free_port), source_address=("127.0.0.9", 0)
            )
            with suppress(ConnectionError):
                stack.enter_context(one).sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(10):
            assert _get(free_port, "/small")[1] == b"x"


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://[/", "localhost", 400),
        ("/?" + "a=b&" * 17, "localhost", 400),
        ("/", "[", 421),
        ("/", "", 421),
    ],
)
def test_what_cannot_be_read_is_answered(
    quiet: int, target: str, host: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Addresses and names that are none get a status, not a hang-up; nothing of it is logged."""
    with socket.create_connection(("127.0.0.1", quiet), timeout=20) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert connection.recv(65536).split()[1] == b"%d" % status
    assert not caplog.records


def test_trickling_client(quiet: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not keep a thread for longer than a request may take."""
    monkeypatch.setattr(server._Handler, "timeout", 0.3)
    with socket.create_connection(("127.0.0.1", quiet)) as connection:
        connection.settimeout(0.03)
        with suppress(ConnectionError):
            for _ in range(1000):
                connection.sendall(b"a")
                with suppress(TimeoutError):
                    assert connection.recv(1) == b""
                    return
            pytest.fail("thirty seconds, and it is still read")


def test_out_of_descriptors(quiet: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that cannot be taken is tried again after a pause, until it can."""
    refused = []
    accept = socket.socket.accept

    def full(_: socket.socket) -> Any:
        refused.append(time.monotonic())
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket.socket, "accept", full)
    with socket.create_connection(("127.0.0.1", quiet), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        until(lambda: len(refused) >= 4, "it was tried several times")
        monkeypatch.setattr(socket.socket, "accept", accept)
        assert connection.recv(65536).split()[1] == b"200"
    assert refused[3] - refused[0] > 0.2  # three pauses, and not as fast as it can


@pytest.fixture
def quiet() -> Iterator[int]:
    """A server that answers with nothing; its port."""
    service = server.serve("127.0.0.1", 0, {"/": Route(lambda _: Response(200, b""))})
    yield service.port
    service.stop()


@pytest.fixture
def failing() -> Iterator[int]:
    """A server whose answers fail in every way; its port."""

    def fail(asked: Asked) -> Response:
        kinds = {"store": StoreClosed("it was closed"), "disk": OSError(5, "Input/output error")}
        raise kinds.get(asked.query["how"], ValueError("a defect"))

    service = server.serve("127.0.0.1", 0, {"/": Route(fail)})
    yield service.port
    service.stop()


def test_failures(failing: int, caplog: pytest.LogCaptureFixture) -> None:
    """A store that is gone is 503; a defect is 500 with nothing of it but in the log."""
    assert _get(failing, "/?how=store")[0].status == 503
    assert _get(failing, "/?how=disk")[0].status == 503
    assert not caplog.records
    response, body = _get(failing, "/?how=x")
    assert response.status == 500
    assert b"defect" not in body
    assert "a defect" in caplog.text


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("192.0.2.1", False), ("node1", False)],
)  # fmt: skip
def test_loopback(address: str, loopback: bool) -> None:
    """What only this machine reaches."""
    assert server.is_loopback(address) == loopback


@pytest.mark.parametrize(
    ("options", "warned"),
    [(("--http", "0.0.0.0:{}"), True), (("--http", "0.0.0.0:{}", "--http-private"), False),
     (("--http", "{}"), False), (("--http", ":{}"), False), (("--http", "localhost:{}"), False)],
)  # fmt: skip
def test_open_to_the_network(
    start: Start, free_port: int, options: tuple[str, ...], warned: bool
) -> None:
    """Names shown to the network are worth a warning; without an address it is the loopback's."""
    agent = start(*(option.format(free_port) for option in options))
    assert _get(free_port, "/healthz")[0].status == 200
    assert ("shows the names of pods" in agent.log) == warned
