"""Reading the document on standard input: what is JSON, what is the same key, what is too much."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastipam.configuration import reader

from .plugin import COMMANDS, Call, Make

SUBNET = {"subnet": "10.1.2.0/24"}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b" \n\t",
        b"{",
        b"nope",
        b"[]",
        b'"text"',
        b"5",
        b"null",
        b"true",
        b'{"name": "a"} x',
        b'{"name": "a"}{"name": "a"}',
        b'{"name": "a",}',
        b"{'name': 'a'}",
        b'{"name": NaN}',
        b'{"name": Infinity}',
        b'{"name": -Infinity}',
        b'{"name": "a", "x": 1' + b"0" * 5000 + b"}",
        b'{"name": 01}',
        b'{"name": "a\nb"}',
        b'{"name": "a\0b"}',
        b'{"name": "\xff"}',
        b'{"name": "\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"name": "a"}',
        '{"name": "a"}'.encode("utf-16"),
        b'{"name": ' + b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"\0",
        b'{"name": "\\x41"}',
        b'{"name": "\\ud8"}',
    ],
    ids=range(30),
)
def test_no_json_object(command: str, stdin: bytes, call: Call) -> None:
    """What is no JSON object is code 6 for every command, and the message says that it is not."""
    answer = call(command, stdin)
    assert answer.code == 6
    assert answer.document["cniVersion"] == "1.1.0"
    assert answer.message.startswith("the network configuration ")


def test_where_it_is_wrong(call: Call) -> None:
    """The message says in which line and column."""
    assert "line 2 column 9" in call("ADD", b'{"a": 1,\n"name": nope}').message
    assert "line 2 column 10" in call("ADD", b'{"a": 1,\n"name": "\xff"}').message


@pytest.mark.parametrize("name", [None, ""])
@pytest.mark.parametrize("command", COMMANDS)
def test_missing_name(command: str, name: str | None, call: Call) -> None:
    """A configuration without a network name is code 7."""
    answer = call(command, {"cniVersion": "1.1.0", "name": name})
    assert answer.code == 7
    assert answer.message.startswith("name:")


@pytest.mark.parametrize("name", ["a/b", "..", ".a", "_a", "a b", "ä", "a\0", "a\n", "\ud800"])
def test_characters_of_the_name(name: str, call: Call) -> None:
    """A network name obeys the rule for container ids, else code 7."""
    answer = call("DEL", {"cniVersion": "1.1.0", "name": name})
    assert answer.code == 7
    assert answer.message.startswith("name:")


@pytest.mark.parametrize("value", [5, 1.5, True, [], {}, ["a"]])
def test_type_of_the_name(value: Any, call: Call) -> None:
    """A network name that is no text cannot be decoded: code 6."""
    assert call("DEL", {"cniVersion": "1.1.0", "name": value}).code == 6


@pytest.mark.parametrize("value", [5, True, [], {}])
@pytest.mark.parametrize("command", COMMANDS)
def test_type_of_the_version(command: str, value: Any, call: Call) -> None:
    """A version that is no text cannot be decoded: code 6."""
    assert call(command, {"cniVersion": value, "name": "a"}).code == 6


def test_name_of_255_bytes(call: Call, config: Make) -> None:
    """A network name has up to 255 bytes, as a directory's has."""
    assert call("ADD", config(name="n" * 255, ipam=SUBNET)).status == 0
    assert call("ADD", config(name="n" * 256, ipam=SUBNET)).code == 7
    assert call("DEL", config(name="n" * 256, ipam=SUBNET)).code == 7


@pytest.mark.parametrize("turn", [str.lower, str.upper, str.title, str.swapcase])
def test_case_of_keys(turn: Any, call: Call, config: Make) -> None:
    """Keys match whatever their case, at every depth."""

    def fold(value: Any) -> Any:
        if isinstance(value, dict):
            return {turn(key): fold(item) for key, item in value.items()}
        return [fold(item) for item in value] if isinstance(value, list) else value

    made = config(
        ipam={
            "ranges": [[{"subnet": "10.1.3.0/24", "rangeStart": "10.1.3.9"}]],
            "subnet": "10.1.2.0/24",
            "rangeEnd": "10.1.2.90",
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}],
        },
        args={"cni": {"ips": ["10.1.2.90"]}},
        runtimeConfig={"ips": ["10.1.4.5"], "ipRanges": [[{"subnet": "10.1.4.0/24"}]]},
    )
    answer = call("ADD", fold(made))
    assert answer.addresses == ["10.1.4.5/24", "10.1.2.90/24", "10.1.3.9/24"]
    assert answer.document["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}]


def test_the_last_of_equal_keys_counts(call: Call, config: Make) -> None:
    """Of keys that are equal, or differ only in case, the last one counts, but a null does not."""
    text = json.dumps(config(ipam=SUBNET))
    assert '"subnet": "10.1.2.0/24"' in text
    several = '"subnet": "10.9.0.0/24", "SUBNET": "10.1.5.0/24", "subnet": null'
    answer = call("ADD", text.replace('"subnet": "10.1.2.0/24"', several).encode())
    assert answer.addresses == ["10.1.5.2/24"]


def test_null_is_absent(call: Call, config: Make) -> None:
    """A null stands for nothing at every key that may be missing."""
    nothing = dict.fromkeys(
        (
            "rangeStart",
            "rangeEnd",
            "gateway",
            "ranges",
            "routes",
            "resolvConf",
            "exclude",
            "cooldown",
            "durability",
            "repeatAdd",
            "range",
            "range_start",
            "ipRanges",
            "sticky",
            "cluster",
            "type",
            "unknown",
        )
    )
    made = config(ipam=SUBNET | nothing, args=None, runtimeConfig=None, prevResult=None)
    answer = call("ADD", made)
    assert answer.addresses == ["10.1.2.2/24"]
    assert not answer.stderr
    inner = {"args": {"cni": None}, "runtimeConfig": {"ips": None, "ipRanges": None}}
    assert call("ADD", made | inner, "c2").status == 0
    assert call("ADD", made | {"args": {"cni": {"ips": None}}}, "c3").status == 0


def test_space_and_escapes(call: Call, config: Make) -> None:
    """White space around the document, and escapes in it, change nothing."""
    text = json.dumps(config(ipam=SUBNET), indent=2).replace("mynet", "\\u006d\\u0079net")
    assert call("ADD", f"\r\n\t {text} \n\n".encode()).addresses == ["10.1.2.2/24"]


def test_largest_document(call: Call, config: Make) -> None:
    """A document of 4 MiB is read, one of a byte more is code 6."""
    made = config(ipam=SUBNET, note="")
    room = reader.LARGEST - len(json.dumps(made))
    assert call("ADD", made | {"note": "x" * room}).status == 0
    answer = call("ADD", made | {"note": "x" * (room + 1)}, "c2")
    assert answer.code == 6
    assert "4 MiB" in answer.message


def test_largest_gc_request(call: Call, config: Make) -> None:
    """As many attachments as 4 MiB hold, with ids of 64 characters, are no too many values."""
    valid = [{"containerID": f"{at:064x}", "ifname": "eth0"} for at in range(40_000)]
    made = config(ipam=SUBNET) | {"cni.dev/valid-attachments": valid}
    stdin = json.dumps(made, separators=(",", ":")).encode()
    assert reader.LARGEST * 9 // 10 < len(stdin) <= reader.LARGEST
    assert call("GC", stdin).status == 0


@pytest.mark.parametrize("unit", [b"[]", b"{}", b"0", b'{"a":[]}'])
def test_too_many_values(unit: bytes, call: Call) -> None:
    """More values than any configuration has are refused before they take memory."""
    stdin = b'{"name":"a","x":[' + b",".join([unit] * 140_000) + b"]}"
    answer = call("DEL", stdin)
    assert answer.code == 6
    assert "values" in answer.message


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
def test_depth(opened: str, closed: str, call: Call, config: Make) -> None:
    """Nesting that nothing asks for is ignored up to 256 levels, and refused beyond.

    The limit is the same in every version of Python.
    """
    for depth in (10, 255, 256, 500, 900, 990, 1000, 2000, 20_000, 60_000):
        deep = opened * depth + "0" + closed * depth
        text = json.dumps(config(ipam=SUBNET, x="DEEP")).replace('"DEEP"', deep)
        answer = call("ADD", text.encode(), f"{depth}-{len(opened)}")
        # The document itself is a level.
        assert answer.code == (None if depth < 256 else 6), depth
        if depth > 255:
            assert "256 levels" in answer.message


@pytest.mark.parametrize("key", ["sticky", "cluster", "ranges", "subnet", "unknown", "cooldown"])
def test_depth_at_known_keys(key: str, call: Call, config: Make) -> None:
    """Deep nesting at a known key is refused for what it is, not by a failure to describe it."""
    for depth in (100, 200, 253, 254, 255, 800, 990):
        deep = "[" * depth + "]" * depth
        text = json.dumps(config(ipam={"subnet": "10.1.2.0/24", key: "DEEP"}))
        answer = call("ADD", text.replace('"DEEP"', deep).encode(), f"c{depth}")
        assert answer.code in (2, 6, 7) or key == "unknown", answer
        assert answer.code != 999


def test_quoted_values_are_bounded(call: Call, config: Make) -> None:
    """An error quotes what is wrong, but not megabytes of it."""
    answer = call("ADD", config(ipam={"subnet": "x" * 3_000_000}))
    assert answer.code == 7
    assert len(answer.message) < 2000
    answer = call("ADD", config(ipam=SUBNET | {"k" * 3_000_000: 1}))
    assert answer.status == 0
    assert len(answer.stderr) < 2000
    many = call("ADD", config(ipam=SUBNET | {f"k{at}": 1 for at in range(10_000)}), "c2")
    assert many.status == 0
    assert len(many.stderr) < 2000
    assert "have no effect: 9992" in many.stderr
