"""What the agent imports: all of it before it is ready, since its package may be upgraded later."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import urllib.parse
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import fastipam

from ..cni.plugin import COMMANDS, Make, environment
from .processes import Client, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# An agent that prints, when it ends, what it has imported since it was ready.
_PROGRAM = """
import logging, sys
from pathlib import Path
from fastipam.agent.main import Options, run
logging.basicConfig(level=logging.DEBUG, filename="/dev/null")
path, port, store, *clusters = sys.argv[1:]
page = ("127.0.0.1", int(port)) if port != "0" else None
options = Options(Path(path), page, data_dirs=(store,), sweep_interval_s=0.1, grace_s=0)
ready = set()
run(options, lambda _: ready.update(sys.modules))
print(*sorted(set(sys.modules) - ready))
"""


def _documents(config: Make, tmp_path: Path, port: int) -> Iterator[dict[str, Any]]:
    """Yield configurations of every kind: good, wrong, changed, of whereabouts, of a cluster."""
    subnet = {"subnet": "10.1.2.0/28"}
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.3\n")
    yield config(ipam={**subnet, "resolvConf": str(tmp_path / "resolv.conf")})
    yield config(ipam={"ranges": [[subnet, {"subnet": "10.1.3.0/28"}], [{"subnet": "fd00::/64"}]]})
    yield config(ipam={**subnet, "exclude": ["10.1.2.4/31"], "cooldown": 1, "sticky": True})
    yield config(ipam={**subnet, "repeatAdd": "return", "history": 10, "cooldownPolicy": "strict"})
    yield config(name="wa", ipam={"range": "10.4.0.0-10.4.0.9/24", "exclude": ["10.4.0.1/32"]})
    yield config(name="full", ipam={"rangeStart": "10.5.0.2", "rangeEnd": "10.5.0.2"} | subnet)
    yield config(name="full", ipam={"subnet": "10.5.0.0/30"})
    yield config(name="wrong", ipam={"subnet": "10.1.2.0/33"})
    yield config(name="wrong", ipam=[])
    yield config(name="wrong", version="9.9.9", ipam=subnet)
    yield config(name="wrong", ipam={**subnet, "durability": "durable"})
    yield config(name="wrong", ipam={**subnet, "dataDir": "relative"})
    yield config(name="wrong", ipam={**subnet, "dataDir": str(tmp_path / "resolv.conf")})
    yield config(name="wrong", ipam={**subnet, "resolvConf": "/nonexistent"})
    for endpoint in (f"http://127.0.0.1:{port}", f"https://127.0.0.1:{port}", "nonsense"):
        own = {"pool": "10.9.0.0/16", "endpoints": [endpoint], "timeout": 0.3}
        yield config(name="shared", ipam={"cluster": own})


def _requests(config: Make, tmp_path: Path, port: int) -> Iterator[tuple[dict[str, str], bytes]]:
    for document in _documents(config, tmp_path, port):
        if "cluster" in document["ipam"]:  # each waits for an engine that does not answer
            yield from ((environment(one), json.dumps(document).encode()) for one in COMMANDS)
            continue
        for command in (*COMMANDS, "ADD", "ADD", "DEL", "NONSENSE"):
            more = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
            stdin = json.dumps(document | (more if command == "GC" else {})).encode()
            for container in ("c1", "c/3"):
                yield environment(command, container), stdin
        pod = "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;IP=10.1.2.9"
        yield environment("ADD", "c4", args=pod), stdin
        yield environment("DEL", "c4"), stdin
        yield environment("ADD", "c5", args="IP=nonsense"), stdin
        yield environment("ADD", "c6", args=pod), stdin
        yield environment("ADD", "c6", args="IP=10.1.2.10"), stdin  # reserved
    for raw in (b"", b"{", b"[]", b"\xff", b'{"a": 1, "a": NaN}', "ü".encode() * 100):
        yield environment("ADD"), raw
    yield {"CNI_COMMAND": "VERSION"}, b""
    yield {}, b""


def _page(port: int, store: Path) -> None:
    """Ask for every page, and for pages that do not exist."""
    query = urllib.parse.urlencode({"data_dir": store, "network": "mynet", "address": "10.1.2.3"})
    paths = ["/", "/metrics", "/healthz", "/nothing", "/page/app.js", "/api/status"]
    for name in ("series", "picture", "address", "events"):
        paths += [f"/api/{name}?{query}", f"/api/{name}", f"/api/{name}?{query}&network=x"]
    for path in paths:
        for method in ("GET", "HEAD", "POST"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            openmetrics = {"Accept": "application/openmetrics-text", "Accept-Encoding": "gzip"}
            for headers in ({}, openmetrics, {"Host": "elsewhere.example"}):
                connection.request(method, path, headers=headers)
                response = connection.getresponse()
                response.read()
                connection.close()
    for raw in (b"nonsense\r\n\r\n", b"GET http://[ HTTP/1.1\r\n\r\n", b"\x16\x03\x01"):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(raw)
            client.shutdown(socket.SHUT_WR)
            client.recv(65536)


def _listens(path: Path) -> bool:
    with suppress(OSError), Client(path):
        return True
    return False


@pytest.mark.parametrize("page", [True, False])
def test_nothing_is_imported_after_ready(
    page: bool, run_dir: Path, free_port: int, config: Make, tmp_path: Path
) -> None:
    """No request of any kind, no sweep and no page imports a module: an upgrade may replace it."""
    store, path = tmp_path / "store", run_dir / "s"
    with fastipam.open(store, "relaxed") as ipam:
        ipam.network("mynet", "10.1.2.0/28").reserve("10.1.2.10", owner="a/b")
    port = free_port if page else 0
    command = [sys.executable, "-c", _PROGRAM, str(path), str(port), str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: _listens(path), "it listens")
            with Client(path) as client:
                for variables, stdin in _requests(config, tmp_path, free_port):
                    client.send(variables, stdin)
                    assert b"internal error" not in client.receive().output
                client.socket.sendall(b"GET / HTTP/1.1")
                assert client.is_closed()
            if page:
                _page(free_port, store)
        finally:
            process.terminate()
        late = process.communicate(timeout=20)[0].split()
        assert not late, late
