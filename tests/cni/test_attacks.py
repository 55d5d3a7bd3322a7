"""Hostile input: one answer, soon, in little memory, and nothing in the store has changed.

Status 1 comes with one error object and never with code 999; no Python traceback is ever seen.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam.cni import handle
from fastipam.configuration import reader
from fastipam.storage import open_stores

from .plugin import COMMANDS, Call, Held, Make, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .plugin import Plugin

# Of a processor. Nothing here takes half of this.
SECONDS = 1.0
PEAK_MIB = 200
VALID = "cni.dev/valid-attachments"
MARKS = reader._MOST_MARKS - 100  # the most that is read, but for what surrounds it


def _full(store: Path) -> dict[str, Any]:
    """A configuration in which every key that means something has a value that is good."""
    return {
        "cniVersion": "1.1.0",
        "name": "mynet",
        "type": "bridge",
        "args": {"cni": {"ips": ["10.1.2.88"]}},
        "runtimeConfig": {
            "ips": ["2001:db8::88/64"],
            "ipRanges": [[{"subnet": "10.7.0.0/24", "rangeStart": "10.7.0.9"}]],
        },
        "prevResult": {
            "cniVersion": "1.1.0",
            "ips": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}],
            "ip4": {"ip": "10.1.2.3/24"},
        },
        VALID: [{"containerID": "c0", "ifname": "eth0"}],
        "ipam": {
            "type": "fastipam",
            "dataDir": str(store),
            "resolvConf": "/dev/null",
            "subnet": "10.1.2.0/24",
            "rangeStart": "10.1.2.3",
            "rangeEnd": "10.1.2.99",
            "gateway": "10.1.2.1",
            "ranges": [
                [{"subnet": "2001:db8::/64", "rangeEnd": "2001:db8::99", "gateway": "2001:db8::1"}]
            ],
            "routes": [
                {
                    "dst": "0.0.0.0/0",
                    "gw": "10.1.2.1",
                    "mtu": 1,
                    "advmss": 2,
                    "priority": 3,
                    "table": 4,
                    "scope": 5,
                }
            ],
            "exclude": ["10.1.2.4"],
            "cooldown": 30,
            "durability": "durable",
            "repeatAdd": "error",
        },
    }


def _other(store: Path) -> dict[str, Any]:
    """The same with whereabouts' keys."""
    made = _full(store)
    for key in ("subnet", "rangeStart", "rangeEnd", "ranges"):
        del made["ipam"][key]
    made["ipam"] |= {
        "range": "10.1.2.0/24",
        "range_start": "10.1.2.3",
        "range_end": "10.1.2.99",
        "ipRanges": [
            {
                "range": "2001:db8::/64",
                "range_start": "2001:db8::3",
                "range_end": "2001:db8::99",
                "exclude": ["2001:db8::4"],
                "gateway": "2001:db8::1",
            }
        ],
    }
    return made


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataDir that is missing or relative does not lead to anybody's own files."""
    monkeypatch.setattr(
        "fastipam.configuration.network.DEFAULT_DATA_DIR", str(tmp_path / "default")
    )
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store(tmp_path: Path, call: Call, config: Make) -> Path:
    """A store with a lease in it that no attack may touch."""
    assert call("ADD", config(ipam={"subnet": "10.1.2.0/24"}), "c0", args="IP=10.1.2.3").status == 0
    open_stores.close_all()
    return tmp_path / "store"


@pytest.fixture
def unchanged(store: Path) -> Iterator[Callable[[], None]]:
    """Assert, whenever it is called and at the end, that the store is byte by byte what it was."""

    def digest() -> str:
        return hashlib.sha256((store / "data.mdb").read_bytes()).hexdigest()

    before = digest()

    def check() -> None:
        assert digest() == before

    yield check
    check()


def _judge(status: int, stdout: bytes, about: object) -> int | None:
    """One document or none, as the status says; the error's code, or None."""
    assert status in (0, 1), about
    if not status:
        assert not stdout or isinstance(json.loads(stdout), dict), about
        return None
    body = json.loads(stdout)
    json.dumps(body, ensure_ascii=False).encode()  # a strict reader can read it, too
    assert isinstance(body["code"], int), about
    assert body["code"] != 999, (about, body)
    assert body["msg"], about
    assert len(stdout) < 20_000, about
    return int(body["code"])


# Through the real process ---------------------------------------------------------------------


def _repeated(unit: str, before: str = "[", after: str = "]", *, cost: int | None = None) -> bytes:
    """As many copies of a value as are read: as many as the marks, or the bytes, allow."""
    marks = cost or sum(map(unit.count, ",[{")) + 1
    many = min(MARKS // marks, (reader.LARGEST - 2000) // (len(unit.encode()) + 1))
    return f"{before}{','.join([unit] * many)}{after}".encode()


def _keys(value: str, width: int = 1) -> bytes:
    """An object of as many different keys as are read."""
    marks = sum(map(value.count, ",[{")) + 1
    many = min(MARKS // marks, (reader.LARGEST - 2000) // (len(value) + 4 + max(width, 6)))
    return b"{%s}" % b",".join(b'"%*x":%s' % (width, at, value.encode()) for at in range(many))


ROOM = reader.LARGEST - 2000
# Values for a key that nobody looks at: what they cost is the reading.
HUNGRY = {
    "empty lists": _repeated("[]"),
    "empty objects": _repeated("{}"),
    "lists of a list": _repeated("[[]]"),
    "lists of a number": _repeated("[0]"),
    "objects of a number": _repeated('{"":0}'),
    "objects of objects": _repeated('{"a":{"b":{}}}'),
    "objects of two": _repeated('{"a":1.5,"b":2.5}'),
    "objects of six": _repeated('{"a":0,"b":0,"c":0,"d":0,"e":0,"f":0}'),
    "long keys": _repeated('{"aaaaaaaaaaaaaa":[]}'),
    "floats": _repeated("123456.125"),
    "integers of 30 digits": _repeated("1" * 30),
    "texts of 30": _repeated('"%s"' % ("x" * 30)),
    "texts of wide characters": _repeated('"\U0001f600xxxxx"'),
    "keys": _keys("0", 16),
    "keys of lists": _keys("[]", 16),
    "keys of objects": _keys("{}", 16),
    "keys of texts": _keys('"x"', 24),
    "the same key": _repeated('"":[]', "{", "}", cost=2),
    "a long text": b'"%s"' % (b"x" * ROOM),
    "a long text of wide characters": '"{}"'.format("\U0001f600" * (ROOM // 4)).encode(),
    "a long text of escapes": b'"%s"' % (rb"\ud83d\ude00" * (ROOM // 12)),
    "a long text and lists": b'["%s",%s]' % (b"x" * (ROOM // 2), _repeated("[]")),
    "wide": b'["\xf0\x9f\x98\x80",%s]' % (b" " * (ROOM - 300_000) + _repeated("0")),
    "a long key": b'{"%s":0}' % ("\u0390" * (ROOM // 2)).encode(),
    "spaces": b"0" + b" " * ROOM,
    "digits": b"0." + b"1" * ROOM,
    "commas in a text": b'"%s"' % (b"," * MARKS),
}


def _within_bounds(plugin: Plugin, environ: dict[str, str], stdin: bytes) -> int | None:
    """Run it, and hold it to the bounds."""
    answer, seconds, peak_mib = plugin.measured(environ, stdin)
    assert seconds < SECONDS
    assert peak_mib < PEAK_MIB
    assert answer.code != 999, answer.document
    return answer.code


@pytest.mark.parametrize("shape", HUNGRY)
def test_just_below_the_limits(
    shape: str, plugin: Plugin, store: Path, unchanged: Callable[[], None]
) -> None:
    """What is just not too much to read is read, within the bounds of time and memory."""
    text = json.dumps(_full(store) | {"x": "HERE"}).encode()
    stdin = text.replace(b'"HERE"', HUNGRY[shape])
    assert len(stdin) <= reader.LARGEST
    assert _within_bounds(plugin, environment("CHECK", "c0"), stdin) is None
    unchanged()


@pytest.mark.parametrize(
    "stdin",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"name":"a","ipam":' + b'{"a":' * 100_000 + b"0" + b"}" * 100_001,
        b'{"name":"%s"}' % (b"x" * (10 << 20)),
        b'{"name":"a","x":[%s[]]}' % (b"[]," * (4 << 20)),
        b'{"name":"a","x":{%s"a":0}}' % (b'"a":0,' * ((10 << 20) // 6)),
        b'{"name":"a","x":%s}' % (b"1" * (10 << 20)),
        b'{"name":"a","x":%s}' % (b"1" * (4 << 20))[: reader.LARGEST - 100],
        b'{"name":"a","x":%s}' % (b"1" * 4301),
        b" " * (10 << 20),
        b"\0" * (10 << 20),
        b"\xff" * (4 << 20),
        b'"' * (4 << 20),
        b'{"' + b"\\" * (4 << 20),
        b'{"name":"a"}' * 100_000,
        random.Random(1).randbytes(1 << 20),
        b"",
    ],
    ids=range(18),
)
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_documents_that_are_none(
    command: str, stdin: bytes, plugin: Plugin, unchanged: Callable[[], None]
) -> None:
    """Depth, size and garbage end in code 6, within the bounds."""
    assert _within_bounds(plugin, environment(command), stdin) == 6
    unchanged()


def _numbered(form: str, many: int) -> list[str]:
    return [form.format(at // 256, at % 256) for at in range(many)]


SLOW: dict[str, dict[str, Any]] = {
    "ranges in a set": {
        "ranges": [[{"subnet": one} for one in _numbered("10.{}.{}.0/24", 1024)]],
        "exclude": _numbered("10.{}.{}.7", 4096)[:1024] + ["10.0.0.9"] * 3072,
    },
    "too many ranges": {"ranges": [[{"subnet": "10.0.0.0/24"}] * 40_000]},
    "range sets": {
        "ranges": [[{"subnet": one}] * 1 for one in _numbered("10.{}.{}.0/24", 256)],
        "exclude": [f"10.0.0.{at % 250 + 3}" for at in range(4096)],
    },
    "too many range sets": {"ranges": [[{"subnet": "10.0.0.0/24"}]] * 40_000},
    "empty range sets": {"ranges": [[]] * 60_000},
    "sets that overlap at the end": {
        "ranges": [[{"subnet": one}] for one in [*_numbered("10.{}.{}.0/24", 255), "10.0.254.0/25"]]
    },
    "routes": {"subnet": "10.1.2.0/24", "routes": [{"dst": "10.0.0.0/8", "gw": "10.0.0.1"}] * 4096},
    "too many routes": {"subnet": "10.1.2.0/24", "routes": [{"dst": "10.0.0.0/8"}] * 60_000},
    "exclusions": {"subnet": "10.0.0.0/8", "exclude": _numbered("10.{}.{}.0/31", 4096)},
    "overlapping exclusions": {
        "subnet": "10.0.0.0/8",
        "exclude": [f"10.0.0.{at % 200}-10.200.0.{at % 199}" for at in range(4096)],
    },
    "unknown keys": {"subnet": "10.1.2.0/24"} | {f"k{at}": 0 for at in range(100_000)},
    "whereabouts' ranges": {"ipRanges": [{"range": "10.0.0.0/8"}] * 256},
    "whereabouts' exclusions": {
        "ipRanges": [
            {"range": one, "exclude": ["10.0.0.0/32"] * 400}
            for one in _numbered("10.{}.{}.0/24", 256)
        ]
    },
}


@pytest.mark.parametrize("shape", SLOW)
@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_configurations_that_take_time(
    command: str, shape: str, plugin: Plugin, config: Make
) -> None:
    """Configurations that are as large as may be are served, and larger ones refused, in time."""
    made = config(ipam=SLOW[shape], name="other")
    made["prevResult"] = {
        "ips": [{"address": f"10.{at % 256}.{at // 256}.7"} for at in range(1024)]
    }
    made["args"] = {"cni": {"ips": _numbered("192.168.{}.{}", 1024)}} if command == "CHECK" else {}
    assert _within_bounds(plugin, environment(command), json.dumps(made).encode()) in (
        None,
        7,
        104,
    )


def test_requests_that_take_time(
    plugin: Plugin, config: Make, unchanged: Callable[[], None]
) -> None:
    """Many requested addresses against many ranges are refused in time."""
    ranges = [
        [{"subnet": one} for one in _numbered("10.{}.{}.0/24", 1024)[at::256]] for at in range(256)
    ]
    wanted = {"cni": {"ips": _numbered("192.168.{}.{}", 1024)}}
    stdin = json.dumps(config(ipam={"ranges": ranges}, args=wanted)).encode()
    assert _within_bounds(plugin, environment("ADD"), stdin) == 103
    unchanged()


@pytest.mark.parametrize(
    "variables",
    [
        {b"CNI_CONTAINERID": b"a\nb"},
        {b"CNI_CONTAINERID": b"\xff\xfe"},
        {b"CNI_CONTAINERID": b"a" * 120_000 + b"/"},
        {b"CNI_IFNAME": b"eth0\n"},
        {b"CNI_IFNAME": b"x" * 120_000},
        {b"CNI_IFNAME": b"\xe2\x80\xa8"},
        {b"CNI_ARGS": b"\xff"},
        {b"CNI_ARGS": b"IP=\xff"},
        {b"CNI_ARGS": b"\n;\n"},
        {b"CNI_ARGS": b";" * 120_000},
        {b"CNI_ARGS": b"a=b;" * 30_000 + b"c=d"},
        {b"CNI_COMMAND": b"\xff"},
        {b"CNI_COMMAND": b"ADD\n"},
        {b"CNI_COMMAND": b"x" * 120_000},
        {b"CNI_PATH": b""},
    ],
    ids=range(15),
)
def test_hostile_environment(
    variables: dict[bytes, bytes], plugin: Plugin, config: Make, unchanged: Callable[[], None]
) -> None:
    """Variables of any bytes and length are refused with code 4."""
    base = {key.encode(): value.encode() for key, value in environment("ADD").items()}
    stdin = json.dumps(config(ipam={"subnet": "10.1.2.0/24"})).encode()
    answer, seconds, peak_mib = plugin.measured(base | variables, stdin)
    assert answer.code == 4
    assert seconds < SECONDS
    assert peak_mib < PEAK_MIB
    unchanged()


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "variables",
    [
        {b"CNI_NETNS": b"\xff\n" * 50_000},
        {b"CNI_PATH": b"\xff\n" * 50_000},
        {b"CNI_IFNAME": b"\xff\xfe\x01"},
        {b"CNI_CONTAINERID": b"a" * 120_000},
        {b"CNI_ARGS": b"IgnoreUnknown=1;K8S_POD_NAME=\xff\n;K8S_POD_UID=" + b"x" * 50_000},
        {b"CNI_NETNS_OVERRIDE": b"\xff", b"PYTHONPATH": b"/nowhere", b"LC_ALL": b"\xff"},
        {b"PYTHONWARNINGS": b"error", b"PYTHONDEVMODE": b"1", b"PYTHONSTARTUP": b"/dev/null"},
    ],
    ids=range(7),
)
def test_odd_environment(
    variables: dict[bytes, bytes], plugin: Plugin, config: Make, held: Held
) -> None:
    """Variables that are only odd are served; DEL with the same ones frees, and the list works."""
    base = {key.encode(): value.encode() for key, value in environment("ADD").items()} | variables
    stdin = json.dumps(config(ipam={"subnet": "10.1.2.0/24"})).encode()
    answer = plugin.measured(base, stdin).answer
    assert answer.addresses == ["10.1.2.4/24"]
    assert len(held()) == 2
    assert plugin.measured(base | {b"CNI_COMMAND": b"CHECK"}, stdin).answer.status == 0
    assert plugin.measured(base | {b"CNI_COMMAND": b"DEL"}, stdin).answer.status == 0
    assert list(held()) == ["10.1.2.3"]


# In this process ------------------------------------------------------------------------------

TYPES: list[Any] = [None, True, False, 0, -1, 2**64, 1.5, 1e308, "", "x", "\0", "\ud800", [], {}]
TYPES += [[[]], [None], ["x"], [{}], {"": None}, {"x": "x"}, [[{}]], "10.1.2.5", "10.1.2.0/24"]
RAW = ["1e400", "-1e400", "1" + "0" * 4200, "-" + "9" * 4200, "1" + "0" * 5000, "NaN", "Infinity"]
RAW += ["-Infinity", "-0", "1e-400", "18446744073709551616", r'"\u0000"', r'"\udc80"', '"\x7f"']


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value below this one."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from _places(item, (*path, key))


def _replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with the value at one path replaced."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _replaced(value[path[0]], path[1:], new)
    return copy


PLACES = [(make, path) for make in (_full, _other) for path in _places(make(Path("/")))]


@pytest.mark.parametrize(
    ("make", "path"), PLACES, ids=[f"{make.__name__}{path}" for make, path in PLACES]
)
def test_wrong_types(make: Any, path: tuple[Any, ...], store: Path) -> None:
    """Each value of a full configuration replaced by each other kind: no 999, and no trace left.

    A refused ADD changes nothing; of an owner that has nothing a DEL changes nothing.
    """
    full = make(store)
    texts = [json.dumps(_replaced(full, path, value)) for value in TYPES]
    marked = json.dumps(_replaced(full, path, "MARK"))
    texts += [marked.replace('"MARK"', raw) for raw in RAW]
    for text in texts:
        stdin = text.encode()
        for command in ("ADD", "CHECK", "STATUS", "DEL"):
            before = (store / "data.mdb").read_bytes()
            code = _judge(*handle(environment(command, "c1"), stdin), (command, path, text))
            if command == "ADD" and code is None:
                before = b""
                _judge(*handle(environment("DEL", "c1"), stdin), (command, path, text))
            assert before in (b"", (store / "data.mdb").read_bytes()), (command, path, text)
        if path[0] != VALID:
            _judge(*handle(environment("GC"), stdin), ("GC", path, text))
    open_stores.close_all()
    with fastipam.open(store) as ipam:
        assert [str(one.address) for one in ipam.network("mynet").leases()] == ["10.1.2.3/24"]


def test_random_bytes(unchanged: Callable[[], None]) -> None:
    """Random bytes are code 6, whatever the command."""
    chance = random.Random(20261123)
    for _ in range(3000):
        stdin = chance.randbytes(chance.randrange(200))
        command = chance.choice(COMMANDS)
        assert _judge(*handle(environment(command), stdin), stdin) == 6
    unchanged()


def test_damaged_documents(store: Path) -> None:
    """A good document with some bytes changed, cut or doubled is refused or served, never worse."""
    chance = random.Random(20261124)
    good = json.dumps(_full(store)).encode()
    codes = set()
    for at in range(4000):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            start = chance.randrange(len(data))
            end = start + chance.randrange(1, 9)
            kind = chance.randrange(4)
            if kind == 0:
                data[start] = chance.randrange(256)
            elif kind == 1:
                del data[start:end]
            elif kind == 2:
                data[start:start] = data[start:end]
            else:
                data[start] = chance.choice(b'{}[]",:0123456789.-/\\ne')
        if str(store).encode() not in data:  # it would make a store in another place
            continue
        container_id = f"r{at}"
        command = chance.choice(COMMANDS)
        codes.add(_judge(*handle(environment(command, container_id), bytes(data)), bytes(data)))
        handle(environment("DEL", container_id), good)
    assert {6, 7, None} <= codes


def test_random_processes(plugin: Plugin, unchanged: Callable[[], None]) -> None:
    """Random bytes through the real process."""
    chance = random.Random(20261125)
    for size in (1, 10, 100, 1000, 10_000, 100_000):
        for command in ("ADD", "DEL"):
            assert plugin.raw(environment(command), chance.randbytes(size)).code == 6
    unchanged()


@pytest.mark.parametrize("bad", ["\0", "\n", "\ud800", "\u2028", "\x7f", "\ufeff"])
def test_odd_characters_in_variables(bad: str, config: Make, unchanged: Callable[[], None]) -> None:
    """A caller in process may pass what no process can: it is refused, or of no account."""
    stdin = json.dumps(config(ipam={"subnet": "10.1.2.0/24"})).encode()
    for name in ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"):
        for command in COMMANDS:
            environ = environment(command, "c1", args="IP=10.1.2.3")
            environ[name] = f"{environ[name]}{bad}"
            _judge(*handle(environ, stdin), (name, bad))
    unchanged()
