"""The client of the Kubernetes API on the wire: what each answer and each fault means."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.certificates import Certificates, make_certificates
from tests.scripted import (
    STREAM,
    Cut,
    Line,
    Request,
    Scene,
    Scripted,
    answer,
    chunk,
    cut,
    events,
    refusal,
    silence,
    status_of,
)

import fastipam
from fastipam.cluster.engine import (
    Compacted,
    EngineDenied,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
)
from fastipam.cluster.registries.kubernetes import stream
from fastipam.cluster.registries.kubernetes.access import Access, parse_server
from fastipam.cluster.registries.kubernetes.client import (
    AlreadyExists,
    Behind,
    Client,
    Conflict,
    Invalid,
    Kind,
    NotFound,
    Refused,
    ends_initial,
)

BLOCKS = Kind("/apis/fastipam.io/v1alpha1", "addressblocks")
LEASES = Kind("/apis/coordination.k8s.io/v1", "leases", "fastipam-system")
S = 20.0  # a deadline that no test reaches
B = {"metadata": {"name": "b", "resourceVersion": "7"}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of an authority."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


class Sleeper:
    """Remembers the pauses, and takes none."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def server(files: Certificates) -> Iterator[Scripted]:
    """A server whose script is empty."""
    with Scripted(files.server) as running:
        yield running


@pytest.fixture
def sleeper() -> Sleeper:
    """The pauses of the client."""
    return Sleeper()


@pytest.fixture
def client(server: Scripted, files: Certificates, sleeper: Sleeper) -> Iterator[Client]:
    """A client of that server, with a token."""
    access = Access([parse_server(server.url)], ca=files.ca, token="secret")
    with contextlib.closing(Client(access, sleep=sleeper, chance=lambda: 0.5)) as running:
        yield running


def changes(client: Client, deadline_s: float = S) -> list[Callable[[], object]]:
    """Every call that changes something."""
    return [
        lambda: client.create(BLOCKS, B, deadline_s=deadline_s),
        lambda: client.replace(BLOCKS, B, deadline_s=deadline_s),
        lambda: client.delete(BLOCKS, "b", version="7", deadline_s=deadline_s),
        lambda: client.patch_status(BLOCKS, "b", {"status": {}}, deadline_s=deadline_s),
    ]


def reading(client: Client, deadline_s: float = S) -> Callable[[], object]:
    """A call that changes nothing."""
    return lambda: client.get(BLOCKS, "b", deadline_s=deadline_s)


# What is sent.


def test_requests_on_the_wire(server: Scripted, client: Client) -> None:
    """Each call is one request with its method, path, headers and body; all on one connection."""
    server.play(*[answer(200, B)] * 6)
    assert client.get(BLOCKS, "b", deadline_s=S) == B
    assert client.create(BLOCKS, B, deadline_s=S) == B
    assert client.replace(LEASES, B, deadline_s=S) == B
    client.replace(BLOCKS, B, "status", deadline_s=S)
    client.patch_status(BLOCKS, "b", {"status": {"used": 1}}, deadline_s=S)
    assert client.delete(BLOCKS, "b", "uid-1", "7", deadline_s=S) is True
    path = "/apis/fastipam.io/v1alpha1/addressblocks"
    lease = "/apis/coordination.k8s.io/v1/namespaces/fastipam-system/leases/b"
    assert [(one.method, one.target) for one in server.requests] == [
        ("GET", f"{path}/b"),
        ("POST", path),
        ("PUT", lease),
        ("PUT", f"{path}/b/status"),
        ("PATCH", f"{path}/b/status"),
        ("DELETE", f"{path}/b"),
    ]
    get, post, _, _, patch, delete = server.requests
    assert get.body == b""
    assert "content-type" not in get.headers
    assert "accept-encoding" not in get.headers
    assert get.headers["user-agent"] == f"fastipam/{fastipam.__version__}"
    assert get.headers["authorization"] == "Bearer secret"
    assert get.headers["accept"] == "application/json"
    assert json.loads(post.body) == B
    assert post.headers["content-type"] == "application/json"
    assert patch.headers["content-type"] == "application/merge-patch+json"
    assert json.loads(patch.body) == {"status": {"used": 1}}
    options = json.loads(delete.body)
    assert options["preconditions"] == {"uid": "uid-1", "resourceVersion": "7"}
    assert options["propagationPolicy"] == "Background"
    assert server.connections == 1
    assert client.requests["PUT", "addressblocks"] == client.requests["PUT", "leases"] == 1
    assert client.requests["LIST", "addressblocks"] == 0


def test_replace_needs_a_version(client: Client) -> None:
    """Without a version a PUT would overwrite what somebody else has written."""
    with pytest.raises(ValueError, match="resourceVersion"):
        client.replace(BLOCKS, {"metadata": {"name": "b"}}, deadline_s=S)


# Definite answers.


@pytest.mark.parametrize(
    ("scene", "error", "reason"),
    [
        (refusal(409, "AlreadyExists"), AlreadyExists, "AlreadyExists"),
        (refusal(409, "Conflict"), Conflict, "Conflict"),
        (refusal(422, "Invalid"), Invalid, "Invalid"),
        (refusal(422, "Forbidden"), Invalid, "Forbidden"),
        (refusal(400, "BadRequest"), Refused, "BadRequest"),
        (refusal(413, "RequestEntityTooLarge"), Refused, "RequestEntityTooLarge"),
    ],
)
def test_definite_no(
    server: Scripted, client: Client, scene: bytes, error: type[Refused], reason: str
) -> None:
    """A Status that refuses is raised at once, by its reason, and nothing is repeated."""
    for each in changes(client):
        server.play(scene)
        with pytest.raises(error) as caught:
            each()
        assert type(caught.value) is error
        assert caught.value.reason == reason
        assert ": no (4" in str(caught.value)
    assert len(server.requests) == 4


def test_absent(server: Scripted, client: Client) -> None:
    """A 404 that names the object: None, False or NotFound."""
    server.play(*[refusal(404, "NotFound", "no b", name="b", kind="addressblocks")] * 4)
    assert client.get(BLOCKS, "b", deadline_s=S) is None
    assert client.delete(BLOCKS, "b", deadline_s=S) is False
    for each in changes(client)[1::2]:
        with pytest.raises(NotFound):
            each()


@pytest.mark.parametrize(
    "scene",
    [answer(404, "404 page not found\n"), refusal(404, "NotFound", "no such resource")],
)
def test_kind_is_missing(server: Scripted, client: Client, scene: bytes) -> None:
    """A server without the kind never means that an object is absent."""
    server.play(*[scene] * 5)
    calls = [reading(client), *changes(client)]
    for each in calls:
        with pytest.raises(
            EngineUnavailable, match="does not know the kind addressblocks"
        ) as caught:
            each()
        assert "kubectl apply" in str(caught.value.hint)
    assert len(server.requests) == 5


def test_namespace_is_missing(server: Scripted, client: Client) -> None:
    """What cannot be created because its namespace is missing is NotFound."""
    server.play(refusal(404, "NotFound", "no such namespace", name="fastipam-system"))
    with pytest.raises(NotFound, match="namespace"):
        client.create(LEASES, B, deadline_s=S)


def test_forbidden(server: Scripted, client: Client) -> None:
    """403 is the operator's."""
    server.play(*[refusal(403, "Forbidden", "not allowed")] * 5)
    for each in [reading(client), *changes(client)]:
        with pytest.raises(EngineDenied, match="not allowed"):
            each()
    assert len(server.requests) == 5


def test_unauthorized_once(server: Scripted, files: Certificates, tmp_path: Path) -> None:
    """After a 401 the token's file is read again, even if it seems unchanged; then it is denied."""
    token = tmp_path / "token"
    token.write_text("old")
    access = Access([parse_server(server.url)], ca=files.ca, token_file=str(token))
    with contextlib.closing(Client(access)) as client:
        stamp = token.stat().st_mtime_ns

        def refuse(line: Line, request: Request) -> None:
            del request
            token.write_text("new")  # as large, as old, in the same inode
            os.utime(token, ns=(stamp, stamp))
            line.send(refusal(401, "Unauthorized"))

        server.play(answer(200, B), refuse, answer(201, B))
        client.get(BLOCKS, "b", deadline_s=S)
        assert client.create(BLOCKS, B, deadline_s=S) == B
        tokens = [one.headers["authorization"] for one in server.requests]
        assert tokens == ["Bearer old", "Bearer old", "Bearer new"]
        server.play(*[refusal(401, "Unauthorized", "expired")] * 2)
        with pytest.raises(EngineDenied, match="expired") as caught:
            client.create(BLOCKS, B, deadline_s=S)
        assert "new" not in f"{caught.value} {caught.value.hint}"
        assert len(server.requests) == 5


# Nothing was changed, try later.


@pytest.mark.parametrize("by", ["header", "status"])
def test_retry_after_is_respected(
    server: Scripted, client: Client, sleeper: Sleeper, by: str
) -> None:
    """A 429 is repeated after the pause that it asks for, stretched by up to half."""
    busy = (
        answer(429, "Too many requests", Retry_After="3")
        if by == "header"
        else refusal(429, "TooManyRequests", retryAfterSeconds=3)
    )
    for each in changes(client):
        server.play(busy, answer(200, B))
        sleeper.pauses.clear()
        each()
        assert sleeper.pauses == [3.75]
    assert len(server.requests) == 8


def test_a_long_retry_after_is_not_waited_for(
    server: Scripted, client: Client, sleeper: Sleeper
) -> None:
    """A server asks for up to 32 s, and has room long before: the pause is 5 s, stretched."""
    server.play(answer(429, "Too many requests", Retry_After="16"), answer(200, B))
    client.create(BLOCKS, B, deadline_s=S)
    assert sleeper.pauses == [6.25]


def test_retry_after_the_deadline(server: Scripted, client: Client, sleeper: Sleeper) -> None:
    """A pause that ends after the deadline is the caller's: it is told how long."""
    server.play(answer(429, "busy", Retry_After="30"))
    with pytest.raises(EngineUnavailable, match="429") as caught:
        client.create(BLOCKS, B, deadline_s=5)
    assert caught.value.retry_after_s == 30
    assert sleeper.pauses == []
    server.play(answer(429, "busy", Retry_After="Sun, 06 Nov 1994 08:49:37 GMT"))
    with pytest.raises(EngineUnavailable) as caught:
        client.create(BLOCKS, B, deadline_s=1)
    assert caught.value.retry_after_s == 1


def test_unavailable(server: Scripted, client: Client, sleeper: Sleeper) -> None:
    """A 503 did nothing: it is repeated, with growing pauses, until the deadline."""
    server.play(*[answer(503, "starting")] * 3, answer(201, B))
    assert client.create(BLOCKS, B, deadline_s=S) == B
    assert sleeper.pauses == [0.05 * 1.25, 0.1 * 1.25, 0.2 * 1.25]
    server.play(*[answer(503, "starting")] * 100)
    with pytest.raises(EngineUnavailable, match="starting"):
        client.create(BLOCKS, B, deadline_s=0.3)


def test_refused_connection(files: Certificates) -> None:
    """Without a server a change fails at once, a read at its deadline; both changed nothing."""
    with Scripted(files.server) as gone:
        url = gone.url
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(seconds)

    client = Client(Access([parse_server(url)], ca=files.ca), sleep=sleep)
    for each in changes(client):
        with pytest.raises(EngineUnavailable, match="refused"):
            each()
    assert not pauses
    began = time.monotonic()
    with pytest.raises(EngineUnavailable, match="refused"):
        client.get(BLOCKS, "b", deadline_s=0.5)
    assert pauses
    assert time.monotonic() - began < 10


def test_a_pause_that_ends_after_the_deadline(files: Certificates) -> None:
    """The error says what was wrong before the pause."""
    with Scripted(files.server) as gone:
        url = gone.url
    access = Access([parse_server(url)], ca=files.ca)
    client = Client(access, sleep=lambda _: time.sleep(0.6), chance=lambda: 0.5)
    with pytest.raises(EngineUnavailable, match="refused"):
        client.get(BLOCKS, "b", deadline_s=0.5)


def test_a_change_whose_pause_ends_after_the_deadline(
    server: Scripted, files: Certificates
) -> None:
    """The error says what the server had answered."""
    access = Access([parse_server(server.url)], ca=files.ca, token="secret")
    server.play(answer(503, "starting"))
    with (
        contextlib.closing(
            Client(access, sleep=lambda _: time.sleep(3.1), chance=lambda: 0.5)
        ) as client,
        pytest.raises(EngineUnavailable, match="starting"),
    ):
        client.create(BLOCKS, B, deadline_s=3.0)


# Unknown.

HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"


def half(line: Line, request: Request) -> None:
    """Half an answer."""
    del request
    line.send(HALF)
    raise Cut


def slow(line: Line, request: Request) -> None:
    """A body that takes longer than anybody waits."""
    del request
    line.send(HALF)
    line.slowly(b" " * 99, 0.2)


UNKNOWN: dict[str, Scene] = {
    "500": refusal(500, "InternalError"),
    "502": answer(502, "bad gateway"),
    "504": refusal(504, "Timeout"),
    "foreign 404": answer(404, "<html>nginx</html>"),
    "foreign 409": answer(409, "<html>nginx</html>"),
    "redirect": answer(302, "", Location="https://elsewhere"),
    "cut": cut,
    "half": half,
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no JSON": answer(200, "<html>"),
    "no object": answer(200, [B]),
    "nothing": answer(200, ""),
    "not UTF-8": answer(200, b'{"a": "\xff"}'),
    "gzip": answer(200, b"\x1f\x8b", Content_Encoding="gzip"),
    "nested": answer(200, "[" * 100_000),
    "no length": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "huge": b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n",
    "huge chunk": STREAM + b"ffffffffff\r\n",
    "headers": b"HTTP/1.1 200 OK\r\n" + b"".join(b"h%d: 1\r\n" % at for at in range(999)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_outcome(server: Scripted, client: Client, name: str) -> None:
    """What says nothing about a change is ambiguous, and never sent again; a read is repeated."""
    for each in changes(client):
        server.play(UNKNOWN[name])
        with pytest.raises(EngineTimeout) as caught:
            each()
        assert caught.value.ambiguous
    assert len(server.requests) == 4
    server.play(UNKNOWN[name], answer(200, B))
    assert client.get(BLOCKS, "b", deadline_s=S) == B
    assert len(server.requests) == 6


@pytest.mark.parametrize("scene", [silence, slow], ids=["silence", "slow body"])
def test_deadline(server: Scripted, client: Client, scene: Scene) -> None:
    """The deadline is that of the whole call, however the bytes drip."""
    for change in (True, False):
        server.play(scene)
        began = time.monotonic()
        call = changes(client, 0.6)[0] if change else reading(client, 0.6)
        with pytest.raises(EngineTimeout) as caught:
            call()
        assert caught.value.ambiguous is change
        assert 0.5 < time.monotonic() - began < 5


def test_endless_answer_is_bounded(server: Scripted, client: Client) -> None:
    """An answer without end is given up after 4 MiB."""
    sent = 0

    def endless(line: Line, request: Request) -> None:
        nonlocal sent
        del request
        line.send(STREAM)
        while True:
            line.send(chunk(b" " * (1 << 16)))
            sent += 1 << 16

    server.play(endless, answer(200, B))
    assert client.get(BLOCKS, "b", deadline_s=S) == B
    assert sent < 16 << 20


# Several servers, certificates.


def test_broken_server_is_left_for_the_next(files: Certificates) -> None:
    """One that refuses, one that is not trusted and one that is silent do not stop a read."""
    with Scripted(files.server) as gone:
        pass
    with (
        Scripted(files.stranger) as stranger,
        Scripted(files.server, *[silence] * 9) as mute,
        Scripted(files.server, *[answer(200, B)] * 9) as good,
    ):
        urls = [gone.url, stranger.url, mute.url, good.url]
        client = Client(Access([parse_server(one) for one in urls], ca=files.ca))
        with contextlib.closing(client):
            for _ in range(3):
                assert client.get(BLOCKS, "b", deadline_s=6) == B
            assert len(mute.requests) <= 1, "a server that failed is asked last for a while"


def test_change_is_sent_to_one_server(files: Certificates) -> None:
    """A change that was sent is not sent to another server; one that could not be sent is."""
    with (
        Scripted(files.server, cut) as broken,
        Scripted(files.server, answer(201, B)) as good,
    ):
        client = Client(Access([parse_server(one.url) for one in (broken, good)], ca=files.ca))
        with contextlib.closing(client):
            client._pool.endpoints.sort(key=lambda one: one.server.text != broken.url)
            with pytest.raises(EngineTimeout, match="not answered"):
                client.create(BLOCKS, B, deadline_s=S)
            assert not good.requests
            client._pool.endpoints[0].worked()
            broken.__exit__(None, None, None)
            assert client.create(BLOCKS, B, deadline_s=S) == B
            assert len(good.requests) == 1


def test_untrusted_server(files: Certificates) -> None:
    """A certificate of another authority: the message names the file to look at."""
    with Scripted(files.stranger) as stranger:
        client = Client(Access([parse_server(stranger.url)], ca=files.ca))
        with pytest.raises(EngineDenied, match="not trusted") as caught:
            client.create(BLOCKS, B, deadline_s=S)
        assert files.ca in str(caught.value.hint)
        assert not stranger.requests


def test_untrusted_server_is_not_waited_for(files: Certificates, sleeper: Sleeper) -> None:
    """A read says so at once, too: no time mends it."""
    with Scripted(files.stranger) as stranger:
        access = Access([parse_server(stranger.url)], ca=files.ca)
        client = Client(access, sleep=sleeper)
        with pytest.raises(EngineDenied, match="not trusted"):
            client.get(BLOCKS, "b", deadline_s=S)
        assert sleeper.pauses == []


def test_server_that_wants_tls(sleeper: Sleeper) -> None:
    """What Go's server answers to plain HTTP: a read and a change say so at once."""
    text = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
    with Scripted("", text, text) as plain:
        client = Client(Access([parse_server(plain.url)]), sleep=sleeper)
        for call in (reading(client), changes(client)[0]):
            with pytest.raises(EngineDenied, match="speaks TLS") as caught:
                call()
            assert "https://" in str(caught.value.hint)
    assert sleeper.pauses == []


def test_rotated_authority(files: Certificates, tmp_path: Path) -> None:
    """New connections trust what the CA's file says now; half a file changes nothing."""
    ca = tmp_path / "ca.crt"
    ca.write_bytes(Path(files.ca).read_bytes())
    with (
        Scripted(files.server, *[answer(200, B, Connection="close")] * 3) as first,
        Scripted(files.stranger, answer(200, B)) as second,
    ):
        access = Access([parse_server(first.url)], ca=str(ca))
        with contextlib.closing(Client(access)) as client:
            client.get(BLOCKS, "b", deadline_s=S)
            ca.write_text("half a file")
            client.get(BLOCKS, "b", deadline_s=S)
            ca.unlink()
            client.get(BLOCKS, "b", deadline_s=S)
            (tmp_path / "new").write_bytes(Path(files.stranger_ca).read_bytes())
            (tmp_path / "new").rename(ca)
            with pytest.raises(EngineDenied, match="not trusted"):
                client.create(BLOCKS, B, deadline_s=S)
        access.servers = (parse_server(second.url),)
        with contextlib.closing(Client(access)) as client:
            assert client.get(BLOCKS, "b", deadline_s=S) == B


def test_ipv6_and_a_base_path(files: Certificates) -> None:
    """A server with an IPv6 address, behind a proxy that has a path."""
    with Scripted(files.server, answer(200, B), host="::1") as server:
        access = Access([parse_server(server.url)], ca=files.ca, base="/k8s/clusters/c-1")
        with contextlib.closing(Client(access)) as client:
            assert client.get(BLOCKS, "b", deadline_s=S) == B
        assert server.requests[0].target.startswith("/k8s/clusters/c-1/apis/fastipam.io/")
        assert server.requests[0].headers["host"] == f"[::1]:{server.port}"


def test_closed(client: Client) -> None:
    """A closed client serves nobody."""
    client.close()
    client.close()
    with pytest.raises(EngineUnavailable, match="closed"):
        client.get(BLOCKS, "b", deadline_s=S)


# Lists.


def block(name: str, version: int = 1) -> dict[str, Any]:
    """An object."""
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "spec": {"n": [1, "]}"]}}


def page(names: list[str], version: str, more: str = "", *, first: bool = False) -> bytes:
    """A page of a list, its metadata before or after the objects."""
    metadata = {"resourceVersion": version, "continue": more}
    items = [block(each) for each in names]
    order = {"kind": "L", "metadata": metadata, "items": items}
    if not first:
        order = {"apiVersion": "x", "items": items, "kind": "L", "metadata": metadata}
    return answer(200, json.dumps(order, indent=2 if first else None))


def names(found: Iterator[dict[str, Any]]) -> list[str]:
    """The names of objects."""
    return [each["metadata"]["name"] for each in found]


@pytest.mark.parametrize("first", [True, False], ids=["metadata first", "metadata last"])
def test_pages(server: Scripted, client: Client, first: bool) -> None:
    """A list is read by pages of 500, each when the iterator comes to it, at one version."""
    server.play(
        page(["a", "b"], "9", "t+/=", first=first),
        page(["c"], "9", "u", first=first),
        page([], "9", first=first),
    )
    found, version = client.list(BLOCKS, "spec.node=n 1", deadline_s=S)
    assert version == "9"
    assert len(server.requests) == 1
    assert names(found) == ["a", "b", "c"]
    path = "/apis/fastipam.io/v1alpha1/addressblocks?fieldSelector=spec.node%3Dn%201&limit=500"
    assert [one.target for one in server.requests] == [
        path,
        path + "&continue=t%2B%2F%3D",
        path + "&continue=u",
    ]
    assert client.requests["LIST", "addressblocks"] == 3


def test_list_from_the_cache(server: Scripted, client: Client) -> None:
    """From the cache, and from the cache at a version, which an old server serves without limit."""
    server.play(page(["a"], "9"), page(["a"], "9"))
    client.list(BLOCKS, from_cache=True, deadline_s=S)
    client.list(BLOCKS, at_least="8", deadline_s=S)
    path = "/apis/fastipam.io/v1alpha1/addressblocks?resourceVersion="
    assert [one.target for one in server.requests] == [
        path + "0&resourceVersionMatch=NotOlderThan&limit=500",
        path + "8&resourceVersionMatch=NotOlderThan",
    ]


def test_empty_list(server: Scripted, client: Client) -> None:
    """A server may write null for no items."""
    server.play(answer(200, {"items": None, "metadata": {"resourceVersion": "4"}}))
    found, version = client.list(BLOCKS, deadline_s=S)
    assert (names(found), version) == ([], "4")


def test_expired_page(server: Scripted, client: Client) -> None:
    """A continue token that the server has forgotten: Compacted, from the iterator."""
    server.play(page(["a"], "9", "t"), refusal(410, "Expired"))
    found, _ = client.list(BLOCKS, deadline_s=S)
    assert next(found)["metadata"]["name"] == "a"
    with pytest.raises(Compacted):
        next(found)


def test_list_that_is_behind(server: Scripted, client: Client) -> None:
    """A server that has not come to the version is asked again until the deadline."""
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    server.play(refusal(504, "Timeout", causes=causes), page(["a"], "9"))
    assert client.list(BLOCKS, at_least="9", deadline_s=S)[1] == "9"
    server.play(*[refusal(504, "Timeout", causes=causes)] * 100)
    with pytest.raises(Behind):
        client.list(BLOCKS, at_least="9", deadline_s=0.2)


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{}",
        '{"items": []}',
        '{"metadata": {"resourceVersion": "1"}}',
        '{"metadata": {}, "items": []}',
        '{"metadata": 7, "items": []}',
        '{"items": [{}], "metadata": {"resourceVersion": "1"}}',
        '{"items": [1], "metadata": {"resourceVersion": "1"}}',
        '{"items": [{"metadata": {}} {"metadata": {}}], "metadata": {"resourceVersion": "1"}}',
        '{"items": {}, "metadata": {"resourceVersion": "1"}}',
        '{"items": [',
        '{"kind": "L" "items": []}',
        "",
        "   ",
        '{"items": ' + "[" * 100_000,
    ],
)
def test_answer_that_is_no_list(server: Scripted, client: Client, body: str) -> None:
    """What is no list is read again, elsewhere or later."""
    server.play(answer(200, body), page(["a"], "9"))
    found, version = client.list(BLOCKS, deadline_s=S)
    assert (names(found), version) == (["a"], "9")


def test_damaged_list(server: Scripted, client: Client) -> None:
    """A list that is damaged behind its metadata is an error of the iterator."""
    server.play(
        answer(200, '{"metadata": {"resourceVersion": "1"}, "items": [{"metadata": {}}, 7]}')
    )
    found, _ = client.list(BLOCKS, deadline_s=S)
    next(found)
    with pytest.raises(EngineUnavailable, match="damaged"):
        next(found)


def test_list_is_decoded_in_turn(server: Scripted, client: Client) -> None:
    """A long list from the cache does not become as many objects at once."""
    server.play(page([f"b{at}" for at in range(20_000)], "9"))
    tracemalloc.start()
    try:
        found, _ = client.list(BLOCKS, at_least="5", deadline_s=S)
        assert sum(1 for _ in found) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20, f"{peak >> 20} MiB for a text of 1.7 MB"


# Watches.

MARK = {"metadata": {"resourceVersion": "12"}}


def test_watch(server: Scripted, client: Client) -> None:
    """Events come one by one, whatever the chunks, and end when the server ends them."""
    whole = events(("ADDED", block("a", 10)), ("MODIFIED", block("a", 11)), ("BOOKMARK", MARK))

    def pieces(line: Line, request: Request) -> None:
        del request
        line.send(STREAM)
        body = b"".join(
            json.dumps({"type": kind, "object": one}).encode() + b"\n"
            for kind, one in (("ADDED", block("ä", 10)), ("DELETED", block("ä", 11)))
        )
        for at in range(0, len(body), 7):
            line.send(chunk(body[at : at + 7]))
        line.send(chunk(b""))

    server.play(whole, pieces)
    found = list(client.watch(BLOCKS, "9", "metadata.name=a", deadline_s=90))
    assert [kind for kind, _ in found] == ["ADDED", "MODIFIED", "BOOKMARK"]
    assert found[1][1] == block("a", 11)
    assert server.requests[0].target == (
        "/apis/fastipam.io/v1alpha1/addressblocks?watch=1&allowWatchBookmarks=true"
        "&fieldSelector=metadata.name%3Da&resourceVersion=9&timeoutSeconds=90"
    )
    found = list(client.watch(BLOCKS, "9", deadline_s=90))
    assert [(kind, one["metadata"]["name"]) for kind, one in found] == [
        ("ADDED", "ä"),
        ("DELETED", "ä"),
    ]
    assert client.requests["WATCH", "addressblocks"] == 2


def test_initial_events(server: Scripted, client: Client) -> None:
    """The state as events ends with a bookmark that says so."""
    end = {
        "metadata": {
            "resourceVersion": "9",
            "annotations": {"k8s.io/initial-events-end": "true"},
        }
    }
    server.play(events(("ADDED", block("a")), ("BOOKMARK", end), ("BOOKMARK", MARK)))
    found = list(client.watch(BLOCKS, "", initial=True, deadline_s=90))
    assert [ends_initial(one) for _, one in found] == [False, True, False]
    target = server.requests[0].target
    assert "sendInitialEvents=true&resourceVersionMatch=NotOlderThan" in target
    assert "resourceVersion=" not in target


def test_no_initial_events(server: Scripted, client: Client) -> None:
    """A server whose etcd is too old for initial events says 500, and would do so for ever."""
    server.play(events(("ERROR", gone(500))))
    with pytest.raises(Refused):
        list(client.watch(BLOCKS, "", initial=True, deadline_s=90))


def gone(code: int) -> dict[str, Any]:
    """The Status of an event of type ERROR."""
    return status_of(code, {410: "Expired"}.get(code, "InternalError"))


@pytest.mark.parametrize(
    ("scene", "error"),
    [
        (events(("ERROR", gone(410))), Compacted),
        (events(("ERROR", gone(500))), EngineUnavailable),
        (events(("ERROR", gone(403))), EngineDenied),
        (events(("ERROR", {})), EngineUnavailable),
        (events(("SOMETHING", block("a"))), EngineUnavailable),
        (events(("ADDED", {})), EngineUnavailable),
        (STREAM + chunk(b"not JSON\n"), EngineUnavailable),
        (STREAM + chunk(b"[]\n"), EngineUnavailable),
        (STREAM + chunk(b'{"type": "ADDED"') + chunk(b""), EngineUnavailable),
        (STREAM + b"zz\r\n", EngineUnavailable),
        (refusal(410, "Expired"), Compacted),
        (refusal(422, "Invalid"), Invalid),
    ],
)
def test_watch_that_fails(
    server: Scripted, client: Client, scene: bytes, error: type[EngineError]
) -> None:
    """Each way in which a watch can fail, and that it closes its connection then."""
    server.play(scene)
    with pytest.raises(error):
        list(client.watch(BLOCKS, "9", deadline_s=90))
    assert not client._watches


def test_watch_that_breaks(server: Scripted, client: Client) -> None:
    """What came before the break is told."""

    def broken(line: Line, request: Request) -> None:
        del request
        line.send(events(("ADDED", block("a")), end=False))
        raise Cut

    server.play(broken)
    watch = client.watch(BLOCKS, "9", deadline_s=90)
    assert next(watch)[0] == "ADDED"
    with pytest.raises(EngineUnavailable, match="broke"):
        next(watch)
    assert list(watch) == []


def test_quiet_watch(server: Scripted, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for an event ends in time, and one that the server does not end is given up."""

    def quiet(line: Line, request: Request) -> None:
        del request
        line.send(events(("ADDED", block("a")), end=False)[:-3])  # within a chunk
        line.over.wait(0.5)
        line.send(events(("ADDED", block("a")), end=False)[-3:])
        line.hang()

    monkeypatch.setattr("fastipam.cluster.registries.kubernetes.client._GRACE_S", 0.0)
    server.play(quiet)
    watch = client.watch(BLOCKS, "9", deadline_s=2)
    assert watch.wait(0.1) is None
    assert watch.wait(5) == ("ADDED", block("a"))
    with pytest.raises(EngineUnavailable, match="did not end a watch"):
        list(watch)


def test_close_ends_a_watch(server: Scripted, client: Client) -> None:
    """Who waits for an event learns at once that the client was closed."""

    def quiet(line: Line, request: Request) -> None:
        del request
        line.send(events(end=False))
        line.hang()

    server.play(quiet)
    watch = client.watch(BLOCKS, "9", deadline_s=90)
    threading.Timer(0.2, client.close).start()
    began = time.monotonic()
    with pytest.raises(EngineUnavailable):
        watch.wait(60)
    assert time.monotonic() - began < 30
    assert watch.is_over


def test_event_without_end(server: Scripted, client: Client) -> None:
    """An event of more than 4 MiB is given up."""
    huge = STREAM + b"".join([chunk(b" " * (1 << 20))] * 6)
    server.play(huge)
    with pytest.raises(EngineUnavailable, match="a line of more than"):
        list(client.watch(BLOCKS, "9", deadline_s=90))
    assert stream._LARGEST_EVENT == 4 << 20
