"""Something that is no etcd answers on an endpoint: every call ends in an EngineError, in time."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from fastipam.cluster.engine import EngineError, EngineTimeout, Put
from fastipam.cluster.engines.etcd.engine import EtcdEngine

from .etcd import open_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

S = 0.1  # a deadline: what is asked again is asked for so long
CALLS: dict[str, Callable[[EtcdEngine], object]] = {
    "get": lambda engine: engine.get(b"key", deadline_s=S),
    "list": lambda engine: engine.list(b"key", deadline_s=S),
    "transact": lambda engine: engine.transact([], [Put(b"key", b"")], deadline_s=S),
    "open_session": lambda engine: engine.open_session(5, deadline_s=S),
    "keep_session": lambda engine: engine.keep_session(5, deadline_s=S),
}
BODIES = (
    b"",
    b"{",
    b"[]",
    b"5",
    b'"ok"',
    b"null",
    b'{"kvs": 5, "result": 5, "responses": 5}',
    b'{"kvs": [{}], "header": {}, "ID": "one", "result": {"TTL": {}}}',
    b'{"header": {"revision": "many"}, "kvs": [{"key": "a"}], "ID": [], "result": []}',
    b"[" * 100_000,
    b"<html>Welcome to the proxy</html>",
)


class Answering(BaseHTTPRequestHandler):
    """Whatever is asked, the server's ``body``."""

    def do_POST(self) -> None:
        """Answer without a look at the question."""
        self.rfile.read(int(self.headers["Content-Length"]))
        body = self.server.body  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody wants to know."""


@contextlib.contextmanager
def foreign(body: bytes, username: str = "") -> Iterator[EtcdEngine]:
    """An engine on a server that always gives this answer."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.body = body  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        with contextlib.closing(open_engine([endpoint], username=username)) as engine:
            yield engine
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("body", BODIES)
def test_foreign_answers(body: bytes) -> None:
    """What cannot be understood is no answer: nothing is taken for read or written."""
    with foreign(body) as engine:
        for name, call in CALLS.items():
            with pytest.raises(EngineError) as caught:
                call(engine)
            assert getattr(caught.value, "ambiguous", False) == (name == "transact")


@pytest.mark.parametrize("body", BODIES)
def test_foreign_watch(body: bytes) -> None:
    """A watch of it hears nothing, or is told that nobody can serve it."""
    with foreign(body) as engine, contextlib.suppress(EngineError):
        assert engine.watch(b"key", 7, deadline_s=S) == ([], 7)


def test_a_login_without_a_token() -> None:
    """As if nobody had answered the login."""
    with foreign(b"{}", "node") as engine, pytest.raises(EngineTimeout, match="token"):
        engine.get(b"key", deadline_s=10 * S)
