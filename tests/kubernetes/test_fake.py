"""What only the fake can do: faults, servers that are behind, and what it counts."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .bodies import block, block_name, node, pool
from .fake import CONTROLLER, FakeServer, Fault
from .fake.cel import CelError
from .fake.cel import compile as compile_cel
from .fake.requests import Counted
from .rest import BLOCKS, NODES, POOLS, Rest

CIDR = "10.32.7.0/24"
AT = f"{BLOCKS}/{block_name(CIDR)}"
LOST = (OSError, http.client.HTTPException)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeServer]:
    """A fake of this test's own."""
    with FakeServer(tmp_path) as server:
        yield server


@pytest.fixture
def admin(fake_api: FakeServer) -> Rest:
    """The API as an administrator may use it."""
    return fake_api.admin


def _version(body: dict[str, Any]) -> str:
    return str(body["metadata"]["resourceVersion"])


class Watcher:
    """A watch in a thread: its events, and how it ended."""

    def __init__(self, fake: FakeServer, path: str, port: int = 0, /, **query: str) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.ended = ""
        self.began = threading.Event()
        self.changed = threading.Condition()
        text = "&".join(f"{key}={value}" for key, value in {"watch": "1", **query}.items())
        context = ssl.create_default_context(cafile=str(fake.ca))
        self.connection = http.client.HTTPSConnection(
            "127.0.0.1", fake.ports[port], context=context, timeout=60
        )
        headers = {"Authorization": f"Bearer {fake.admin_token}"}
        self.connection.request("GET", f"{path}?{text}", headers=headers)
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        try:
            answer = self.connection.getresponse()
            self.began.set()
            # http.client takes a cut stream for one that has ended, so chunks are read here.
            while size := int(answer.fp.readline(), 16):
                event = json.loads(answer.fp.read(size))
                answer.fp.readline()
                with self.changed:
                    self.events.append((event["type"], event["object"]))
                    self.changed.notify_all()
            self.ended = "in order"
        except (*LOST, ValueError) as error:
            self.ended = type(error).__name__
        finally:
            self.began.set()
            self.connection.close()

    def wait(self, number: int) -> list[tuple[str, dict[str, Any]]]:
        """Return the events as soon as there are so many."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.events) >= number, 30), self.events
            return list(self.events)

    def end(self) -> str:
        """Return how it ended."""
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.ended


# Faults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [429, 500, 503, 504])
def test_refused_before(fake_api: FakeServer, admin: Rest, code: int) -> None:
    """Nothing is done; the next one is served."""
    fault = fake_api.fault(Fault("answer", "POST", code=code, retry_after_s=3))
    answer = admin.create(BLOCKS, block(CIDR, "a"))
    assert (answer.status, answer.body["code"], fault.hits) == (code, code, 1)
    if code == 429:
        assert answer.body["details"]["retryAfterSeconds"] == 3
    assert fake_api.objects("addressblocks") == {}
    admin.create(BLOCKS, block(CIDR, "a")).done()


@pytest.mark.parametrize("code", [500, 504])
def test_refused_after(fake_api: FakeServer, admin: Rest, code: int) -> None:
    """It is done, and the answer says that something went wrong."""
    fake_api.fault(Fault("answer_after", "POST", code=code))
    assert admin.create(BLOCKS, block(CIDR, "a")).status == code
    assert list(fake_api.objects("addressblocks")) == [block_name(CIDR)]


@pytest.mark.parametrize(
    ("do", "done"), [("lose_request", False), ("lose_answer", True), ("half_answer", True)]
)
def test_lost(fake_api: FakeServer, admin: Rest, do: Any, done: bool) -> None:
    """The client has no answer; whether it is done depends."""
    fake_api.fault(Fault(do, "POST"))
    with pytest.raises(LOST):
        admin.create(BLOCKS, block(CIDR, "a"))
    assert (admin.get(AT).status == 200) == done


@pytest.mark.parametrize(("do", "done"), [("silent", False), ("mute", True)])
def test_silence(fake_api: FakeServer, admin: Rest, do: Any, done: bool) -> None:
    """The connection stays, and nothing comes, until it is cut."""
    fault = fake_api.fault(Fault(do, "POST"))
    with ThreadPoolExecutor(1) as pool_:
        answer = pool_.submit(admin.create, BLOCKS, block(CIDR, "a"))
        assert fault.wait()
        assert not answer.done()
        assert (admin.get(AT).status == 200) == done
        fake_api.cut()
        with pytest.raises(LOST):
            answer.result(30)


@pytest.mark.parametrize("do", ["slow_body", "late_answer", "late_request"])
def test_late(fake_api: FakeServer, admin: Rest, do: Any) -> None:
    """The answer is whole, and comes later."""
    fake_api.fault(Fault(do, "POST", delay_s=0.3))
    began = time.monotonic()
    admin.create(BLOCKS, block(CIDR, "a")).done()
    assert time.monotonic() - began >= 0.3


def test_delivered_twice(fake_api: FakeServer, admin: Rest) -> None:
    """A deletion comes again after somebody has made the object anew."""
    admin.create(BLOCKS, block(CIDR, "a")).done()
    fake_api.fault(Fault("twice", "DELETE", "addressblocks"))
    admin.delete(AT).done()
    made = admin.create(BLOCKS, block(CIDR, "b")).done()
    assert admin.get(AT).done() == made
    assert fake_api.deliver() == 1
    assert admin.get(AT).status == 404
    assert fake_api.deliver() == 0


def test_second_delivery_with_a_precondition(fake_api: FakeServer, admin: Rest) -> None:
    """A version protects what was made anew."""
    made = admin.create(BLOCKS, block(CIDR, "a")).done()
    fake_api.fault(Fault("twice", "DELETE"))
    admin.delete(AT, version=_version(made)).done()
    admin.create(BLOCKS, block(CIDR, "b")).done()
    fake_api.deliver()
    assert admin.get(AT).done()["spec"]["node"] == "b"


def test_held(fake_api: FakeServer, admin: Rest) -> None:
    """A request that was given up arrives all the same: on command, or after a time."""
    for delay_s in (0.0, 0.2):
        fake_api.fault(Fault("hold", "POST", delay_s=delay_s))
        with pytest.raises(LOST):
            admin.create(BLOCKS, block(CIDR, "a"))
        assert fake_api.deliver() == (0 if delay_s else 1)
        end = time.monotonic() + 30
        while admin.get(AT).status == 404:
            assert time.monotonic() < end
        admin.delete(AT).done()


def test_which_request(fake_api: FakeServer) -> None:
    """A fault is for a method, kind, name, node and number."""
    who, other = fake_api.node("a"), fake_api.node("b")
    refused = Fault("answer", "POST", "addressblocks", block_name(CIDR), node="a", nth=2, code=503)
    fake_api.fault(refused)
    other.create(BLOCKS, block(CIDR, "b")).done()
    other.delete(AT).done()
    who.create(NODES, node("a")).done()
    who.create(BLOCKS, block("10.32.8.0/24", "a")).done()
    who.create(BLOCKS, block(CIDR, "a")).done()
    assert who.create(BLOCKS, block(CIDR, "a")).status == 503
    assert who.create(BLOCKS, block(CIDR, "a")).status == 409
    assert (refused.seen, refused.hits) == (3, 1)


# 410 --------------------------------------------------------------------------------------------


def test_expired_on_command(fake_api: FakeServer, admin: Rest) -> None:
    """A list's status, a watch's event."""
    for query in ({"resourceVersion": "0"}, {"limit": "1"}):
        fake_api.fault(Fault("expired", "LIST"))
        assert admin.get(BLOCKS, **query).body["reason"] == "Expired"
    fake_api.fault(Fault("expired", "LIST", flag="continue"))
    for third in range(3):
        admin.create(BLOCKS, block(f"10.32.{third}.0/24", "a")).done()
    page = admin.get(BLOCKS, limit="1").done()
    answer = admin.get(BLOCKS, limit="1", **{"continue": page["metadata"]["continue"]})
    assert (answer.status, answer.body["reason"]) == (410, "Expired")
    rest = admin.get(BLOCKS, **{"continue": answer.body["metadata"]["continue"]}).done()
    assert len(rest["items"]) == 2
    fake_api.fault(Fault("expired", "WATCH"))
    watch = Watcher(fake_api, BLOCKS, resourceVersion="0")
    ((what, status),) = watch.wait(1)
    assert (what, status["code"], watch.end()) == ("ERROR", 410, "in order")


def test_compaction(fake_api: FakeServer, admin: Rest) -> None:
    """The next page, an old exact list and an old watch: 410. An open watch goes on."""
    for third in range(4):
        admin.create(BLOCKS, block(f"10.32.{third}.0/24", "a")).done()
    page = admin.get(BLOCKS, limit="2").done()
    old = _version(page)
    watch = Watcher(fake_api, BLOCKS, resourceVersion=old)
    assert watch.began.wait(30)
    admin.create(BLOCKS, block("10.32.9.0/24", "a")).done()
    fake_api.compact()
    answer = admin.get(BLOCKS, limit="2", **{"continue": page["metadata"]["continue"]})
    assert (answer.status, answer.body["reason"]) == (410, "Expired")
    again = admin.get(BLOCKS, **{"continue": answer.body["metadata"]["continue"]}).done()
    assert len(again["items"]) == 3
    exact = admin.get(BLOCKS, resourceVersion=old, resourceVersionMatch="Exact")
    assert exact.status == 410
    assert Watcher(fake_api, BLOCKS, resourceVersion=old).wait(1)[0][1]["code"] == 410
    assert watch.wait(1)[0][0] == "ADDED"
    fake_api.end_watches()
    assert watch.end() == "in order"


def test_restart(fake_api: FakeServer, admin: Rest) -> None:
    """All is as it was; connections are cut; a watch from before the last change is refused."""
    old = _version(admin.create(BLOCKS, block(CIDR, "a")).done())
    watch = Watcher(fake_api, BLOCKS, resourceVersion=old)
    assert watch.began.wait(30)
    last = _version(admin.create(NODES, node("a")).done())
    fake_api.restart()
    assert watch.end() != "in order"
    assert _version(admin.get(AT).done()) == old
    assert Watcher(fake_api, BLOCKS, resourceVersion=old).wait(1)[0][1]["code"] == 410
    watch = Watcher(fake_api, BLOCKS, resourceVersion=last)
    assert watch.began.wait(30)
    admin.delete(AT).done()
    assert watch.wait(1)[0][0] == "DELETED"
    fake_api.down()
    with pytest.raises(ConnectionRefusedError):
        admin.get(AT)
    fake_api.up()
    assert admin.get(AT).status == 404
    assert watch.end() != "in order"


def test_half_an_event(fake_api: FakeServer, admin: Rest) -> None:
    """A watch breaks within a line."""
    fake_api.fault(Fault("half_answer", "WATCH"))
    watch = Watcher(fake_api, BLOCKS, resourceVersion="0")
    assert watch.began.wait(30)
    admin.create(BLOCKS, block(CIDR, "a")).done()
    assert watch.end() != "in order"
    assert watch.events == []


# Watches that only the fake makes quick ---------------------------------------------------------


def test_initial_events(fake_api: FakeServer, admin: Rest) -> None:
    """sendInitialEvents: everything there is, a bookmark that says so, then what happens."""
    admin.create(BLOCKS, block(CIDR, "a")).done()
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    query |= {"allowWatchBookmarks": "true", "timeoutSeconds": "60"}
    watch = Watcher(fake_api, BLOCKS, **query)
    (added, (what, mark)) = watch.wait(2)
    assert (added[0], what) == ("ADDED", "BOOKMARK")
    assert mark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(_version(mark)) >= int(_version(added[1]))
    admin.delete(AT).done()
    assert watch.wait(3)[2][0] == "DELETED"
    fake_api.api.watch_list = False
    try:
        ((what, status),) = Watcher(fake_api, BLOCKS, **query).wait(1)
        assert (what, status["code"]) == ("ERROR", 500)
    finally:
        fake_api.api.watch_list = True
    fake_api.end_watches()
    assert watch.end() == "in order"


def test_bookmarks(fake_api: FakeServer, admin: Rest) -> None:
    """Carry the version on when other objects changed; to those that allow them."""
    old = _version(admin.get(BLOCKS).done())
    watch = Watcher(fake_api, BLOCKS, resourceVersion=old, allowWatchBookmarks="true")
    plain = Watcher(fake_api, BLOCKS, resourceVersion=old)
    assert watch.began.wait(30)
    assert plain.began.wait(30)
    version = _version(admin.create(NODES, node("a")).done())
    fake_api.bookmark()
    ((what, mark),) = watch.wait(1)
    assert (what, mark["kind"], _version(mark)) == ("BOOKMARK", "AddressBlock", version)
    fake_api.end_watches()
    assert (watch.end(), plain.end()) == ("in order", "in order")
    assert plain.events == []


# A server that is behind ------------------------------------------------------------------------


def test_one_is_behind(fake: FakeServer) -> None:
    """Its cache and its watches are old; what asks for no version is not."""
    ahead, behind = fake.rest(fake.admin_token), fake.rest(fake.admin_token, port=1)
    first = ahead.create(BLOCKS, block("10.32.1.0/24", "a")).done()
    fake.lag(2)
    watch = Watcher(fake, BLOCKS, 1, resourceVersion=_version(first))
    assert watch.began.wait(30)
    bodies = [ahead.create(BLOCKS, block(f"10.32.{n}.0/24", "a")).done() for n in (2, 3, 4)]
    assert [body for _what, body in watch.wait(1)] == bodies[:1]
    assert len(behind.get(BLOCKS, resourceVersion="0").done()["items"]) == 2
    assert len(behind.get(BLOCKS).done()["items"]) == 4
    at = f"{BLOCKS}/10-32-4-0-24"
    assert behind.get(at, resourceVersion="0").status == 404
    assert behind.get(at).done() == bodies[2]
    with ThreadPoolExecutor(1) as pool_:
        waits = pool_.submit(behind.get, BLOCKS, resourceVersion=_version(bodies[2]))
        while not fake.count("LIST", flag="cache"):
            time.sleep(0.01)
        fake.lag(0)
        assert len(waits.result(30).done()["items"]) == 4
    assert [body for _what, body in watch.wait(3)] == bodies
    fake.lag(0, hold=True)
    ahead.delete(at).done()
    assert behind.get(at, resourceVersion="0").status == 200
    assert behind.get(at).status == 404


# Put back ---------------------------------------------------------------------------------------


def test_put_back(fake: FakeServer) -> None:
    """Objects and versions go back; what a client knows is of the future."""
    admin = fake.admin
    admin.create(BLOCKS, block("10.32.1.0/24", "a")).done()
    saved = fake.snapshot()
    made = admin.create(BLOCKS, block(CIDR, "a")).done()
    fake.put_back(saved)
    found = admin.get(BLOCKS).done()
    assert int(_version(found)) < int(_version(made))
    assert [item["spec"]["cidr"] for item in found["items"]] == ["10.32.1.0/24"]
    query = {"resourceVersion": _version(made), "resourceVersionMatch": "Exact"}
    assert admin.get(BLOCKS, **query).status == 504
    again = admin.create(BLOCKS, block(CIDR, "b")).done()
    assert _version(again) == _version(made)


def test_put_back_with_later_versions(fake: FakeServer) -> None:
    """Objects go back, versions do not: all that is older counts as compacted."""
    admin = fake.admin
    saved = fake.snapshot()
    made = admin.create(BLOCKS, block(CIDR, "a")).done()
    fake.put_back(saved, bump=1000)
    found = admin.get(BLOCKS).done()
    assert int(_version(found)) == int(_version(made)) + 1000
    assert found["items"] == []
    events = Watcher(fake, BLOCKS, resourceVersion=_version(made)).wait(1)
    assert events[0][1]["code"] == 410


# Tokens and certificates ------------------------------------------------------------------------


def test_tokens_expire(fake_api: FakeServer) -> None:
    """After their seconds, or on command; a pod's with the pod. 401."""
    brief = fake_api.rest(fake_api.token(CONTROLLER, seconds=0.2))
    long = fake_api.rest(fake_api.token(CONTROLLER))
    bound = fake_api.node("a")
    assert long.get(BLOCKS).status == bound.get(BLOCKS).status == 200
    end = time.monotonic() + 30
    while brief.get(BLOCKS).status == 200:
        assert time.monotonic() < end
    fake_api.admin.delete("/api/v1/namespaces/fastipam-system/pods/agent-a").done()
    assert bound.get(BLOCKS).status == 401
    fake_api.expire_tokens()
    assert long.get(BLOCKS).status == 401
    assert fake_api.admin.get(BLOCKS).status == 200


def test_authority_changes(fake: FakeServer) -> None:
    """New connections see a certificate of an authority that the old file does not know."""
    before = fake.admin
    old = fake.ca.read_bytes()
    fake.rotate_ca()
    with pytest.raises(ssl.SSLCertVerificationError):
        before.get(BLOCKS)
    assert fake.admin.get(BLOCKS).status == 200
    assert fake.ca.read_bytes() != old
    new = fake.ca.read_bytes()
    fake.rotate_ca(keep_old=True)
    assert fake.ca.read_bytes().startswith(new)
    assert fake.admin.get(BLOCKS).status == 200


def test_user_by_certificate(fake: FakeServer) -> None:
    """A kubeconfig may have a certificate in a token's place."""
    context = ssl.create_default_context(cafile=str(fake.ca))
    context.load_cert_chain(fake.authority.user("kubernetes-admin", ["system:masters"]))
    stranger = ssl.create_default_context(cafile=str(fake.ca))
    stranger.load_cert_chain(fake.authority.user("somebody"))
    for one, code in ((context, 200), (stranger, 403)):
        connection = http.client.HTTPSConnection("127.0.0.1", fake.ports[0], context=one)
        connection.request("GET", BLOCKS)
        assert connection.getresponse().status == code
        connection.close()


# Counting ---------------------------------------------------------------------------------------


def test_counts(fake_api: FakeServer) -> None:
    """By method, resource, where a read came from, and node."""
    who = fake_api.node("a")
    fake_api.reset_counts()
    assert fake_api.count() == 0
    who.get(BLOCKS)
    who.get(BLOCKS, resourceVersion="0")
    who.get(BLOCKS, resourceVersion="1", resourceVersionMatch="NotOlderThan")
    who.get(BLOCKS, resourceVersion="1", timeoutSeconds="1", watch="1")
    who.get(AT)
    fake_api.admin.get(AT)
    assert fake_api.count() == 6
    assert fake_api.count("LIST", "addressblocks") == 3
    assert [fake_api.count("LIST", flag=flag) for flag in ("", "0", "cache")] == [1, 1, 1]
    assert fake_api.count("WATCH", flag="resume", node="a") == 1
    assert fake_api.requests[Counted("GET", "addressblocks", "", "a")] == 1
    assert fake_api.requests[Counted("GET", "addressblocks", "", "")] == 1
    assert [line.split()[2] for line in fake_api.log][-2:] == ["a", "GET"]


# As a process -----------------------------------------------------------------------------------


def test_process(tmp_path: Path) -> None:
    """Commands over HTTP: faults, counts, snapshots."""
    command = [sys.executable, "-m", "tests.kubernetes.fake", str(tmp_path), "--port=0"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        port = int(said["urls"][0].rpartition(":")[2])
        admin = Rest(port, Path(said["ca"]), said["token"])

        def command_(name: str, **given: Any) -> Any:
            return admin.create(f"/fake/{name}", given).done()["result"]

        assert command_("snapshot") == 0
        assert command_("faults", do="answer", method="POST", resource="addressblocks")["nth"] == 1
        assert admin.create(BLOCKS, block(CIDR, "a")).status == 500
        admin.create(BLOCKS, block(CIDR, "a")).done()
        assert ["POST", "addressblocks", "", "", 2] in admin.get("/fake/requests").body["result"]
        assert list(admin.get("/fake/objects/addressblocks").body["result"]) == [block_name(CIDR)]
        agent = Rest(port, Path(said["ca"]), command_("token", node="a"))
        assert agent.create("/fake/faults", {}).status == 403
        with pytest.raises(LOST):
            command_("put_back", snapshot=0)
        end = time.monotonic() + 30
        while True:
            try:
                assert admin.get(AT).status == 404
                break
            except OSError:
                assert time.monotonic() < end
    finally:
        process.communicate(timeout=30)
    assert process.returncode == 0


# The language of rules --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3 == 7 && !(2 > 3)", True),
        ("x.a == 'b' ? x.n / 2 : 0", 2),
        ("-7 / 2 == -3 && -7 % 2 == -1", True),
        ("x.none == 1 || true", True),
        ("false && x.none == 1", False),
        ("has(x.a) && !has(x.none)", True),
        ("x.?none.orValue('c') + x[?'a'].orValue('d')", "cb"),
        ("x.?none.more[0].hasValue()", False),
        ("x.list.all(i, i > 0) && x.list.exists(i, i == 2)", True),
        ("x.list.filter(i, i > 1).map(i, i * 2)", [4, 6]),
        ("'a' in ['a', 'b'] && !('n' in {})", None),
        ("'it\\'s'.size() == 4 && size(x.list) == 3", True),
        ("cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')", True),
        ("cidr('10.0.0.1/8') == cidr('10.0.0.1/8').masked()", False),
        ("isCIDR('10.0.0.0/08') || isCIDR('::ffff:1.2.3.4/100') || isIP('1.2.3')", False),
        ("ip.isCanonical('FD00::1')", False),
    ],
)
def test_cel(text: str, value: Any) -> None:
    """What rules may say, with CEL's meaning of errors."""
    scope = {"x": {"a": "b", "n": 4, "list": [1, 2, 3]}}
    if value is None:
        with pytest.raises(SyntaxError):
            compile_cel(text)
        return
    assert compile_cel(text)(scope) == value


@pytest.mark.parametrize("text", ["x.none", "cidr('x')", "1 / 0", "x.a && true", "x.n + 'a'", "y"])
def test_cel_without_a_value(text: str) -> None:
    """An error is not false: who asks decides what it means."""
    with pytest.raises(CelError):
        compile_cel(text)({"x": {"a": "b", "n": 4}})


# Load -------------------------------------------------------------------------------------------


def test_five_hundred_clients(fake: FakeServer) -> None:
    """Each registers, claims and reads back; each first place is taken once."""

    def client(number: int, ask: Callable[..., Any]) -> bool:
        name = f"n{number}"
        ask("POST", NODES, node(name))
        made = ask("POST", BLOCKS, block(f"10.{number // 256}.{number % 256}.0/24", name))
        return bool(ask("GET", f"{BLOCKS}/{made['metadata']['name']}", None) == made)

    def some(first: int) -> int:
        context = ssl.create_default_context(cafile=str(fake.ca))
        good = 0
        for number in range(first, first + 50):
            token = fake.token(node=f"n{number}")
            kept = http.client.HTTPSConnection("127.0.0.1", fake.ports[0], context=context)

            def ask(method: str, path: str, body: Any, kept: Any = kept, token: str = token) -> Any:
                headers = {"Authorization": f"Bearer {token}"}
                kept.request(method, path, json.dumps(body) if body else None, headers)
                answer = kept.getresponse()
                assert answer.status in (200, 201), answer.read()
                return json.loads(answer.read())

            good += client(number, ask)
            kept.close()
        return good

    with ThreadPoolExecutor(10) as workers:
        assert sum(workers.map(some, range(0, 500, 50))) == 500
    assert fake.count("POST", "addressblocks") == 500
    assert len(fake.objects("addressblocks")) == 500


def test_pool_is_open(fake_api: FakeServer, admin: Rest) -> None:
    """Who edits by hand what agents keep is warned; a pool is anybody's to write."""
    assert admin.create(BLOCKS, block(CIDR, "a")).warnings
    assert not admin.create(POOLS, pool("p", "10.32.0.0/12", 24)).warnings
    assert list(fake_api.objects("addresspools")) == ["p"]
