"""A pod's annotations in ``runtimeConfig``: how they are read, and what they do not change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastipam.addressing.parsing import parse_exclusion
from fastipam.cni import handler, pod_annotations
from fastipam.cni.pod_annotations import CAPABILITY, NOTHING, Choice
from fastipam.cni.services import Services
from fastipam.configuration import reader
from fastipam.errors import ConfigError

from .plugin import Call, Held, Make

IPAM: dict[str, Any] = {"subnet": "10.1.0.0/24"}
# What the kubelet gives every pod, and what kubectl apply does: with quotes, braces and umlauts.
USUAL = {
    "kubernetes.io/config.seen": "2026-01-01T00:00:00Z",
    "kubectl.kubernetes.io/last-applied-configuration": '{"a":"}","ü":[1,{"b":"\\""}]}\n',
}


BLUE = {pod_annotations.POOL: "blue"}


def read(rest: bytes, cut: dict[str, Any] | None) -> Choice:
    """What annotations choose that were cut out of a request, of which the rest was left."""
    found = pod_annotations.of_pod(reader.decode(rest), rest, cut)
    return pod_annotations.choice(found, "pod annotation")


def request(found: Any, **more: Any) -> bytes:
    """The input of a request as libcni writes it: the keys in order, without blanks."""
    document = {
        "capabilities": {CAPABILITY: True, "portMappings": True},
        "cniVersion": "1.1.0",
        "ipam": {"type": "fastipam"},
        "name": "n",
        "runtimeConfig": {CAPABILITY: found, "portMappings": []},
        **more,
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "found", [{}, USUAL, {**USUAL, pod_annotations.POOL: "a,b"}, {"n": {"m": {}}}]
)
@pytest.mark.parametrize("indent", [None, 4])
def test_cut(found: dict[str, Any], indent: int | None) -> None:
    """What is left is the same input whatever the annotations are, and they are all there."""
    plain, annotated = (json.loads(request(one)) for one in ({}, found))
    whole = json.dumps(annotated, indent=indent, ensure_ascii=False).encode()
    rest, cut = pod_annotations.cut(whole)
    assert rest == json.dumps(plain, indent=indent, ensure_ascii=False).encode()
    assert cut == reader.decode(json.dumps(found).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b'{"name":"n"}',
        b'{"capabilities":{"io.kubernetes.cri.pod-annotations":true}}',
        b'{"runtimeConfig":{"io.kubernetes.cri.pod-annotations":null}}',
        b'{"runtimeConfig":{"io.kubernetes.cri.pod-annotations":["a"]}}',
        b'{"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":"b"',
        b'{"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":"\xff"}}}',
        b'{"note":"\\"io.kubernetes.cri.pod-annotations\\":{}"}',
        b'{"runtimeConfig":{"io.kubernetes.cri.pod-annotations":' + b'{"a":' * 3000,
        b'{"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":"'
        + b"x" * (2 << 20)
        + b'"}}}',
    ],
)
def test_nothing_to_cut(raw: bytes) -> None:
    """What is no object of annotations, or cannot be read, stays where it is."""
    assert pod_annotations.cut(raw) == (raw, None)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ({}, NOTHING),
        (USUAL, NOTHING),
        ({pod_annotations.POOL: "blue"}, Choice(pools=("blue",))),
        ({pod_annotations.POOL: " b , a,b"}, Choice(pools=("b", "a"))),
        ({pod_annotations.FAMILIES: "v4"}, Choice(families=frozenset((4,)))),
        ({pod_annotations.FAMILIES: "v6, v4"}, Choice(families=frozenset((4, 6)))),
        (
            {pod_annotations.ADDRESSES: "10.0.0.5, fd00::/124,10.0.0.7-10.0.0.9"},
            Choice(
                addresses=tuple(
                    map(parse_exclusion, ("10.0.0.5", "fd00::/124", "10.0.0.7-10.0.0.9"))
                )
            ),
        ),
    ],
)
def test_read(found: dict[str, str], wanted: Choice) -> None:
    """Each of the three is read, cut out of the input or still in it."""
    whole = request(found)
    assert read(*pod_annotations.cut(whole)) == wanted
    assert read(whole, None) == wanted


def test_elsewhere() -> None:
    """Only those in ``runtimeConfig`` are a pod's."""
    raw = json.dumps({"args": {CAPABILITY: {pod_annotations.POOL: "blue"}}}).encode()
    assert read(*pod_annotations.cut(raw)) == NOTHING
    both = json.dumps(
        {"args": {CAPABILITY: {"a": "b"}}, "runtimeConfig": {CAPABILITY: BLUE}}
    ).encode()
    assert read(*pod_annotations.cut(both)) == Choice(pools=("blue",))


@pytest.mark.parametrize("key", ["Fastipam.io/pool", "fastipam.io/Pool", "FASTIPAM.IO/POOL"])
def test_other_capitals(key: str) -> None:
    """Kubernetes tells keys of other capital letters apart; a pod may have both."""
    whole = request({key: "red"})
    assert read(*pod_annotations.cut(whole)) == NOTHING
    assert read(whole, None) == NOTHING
    whole = request({**BLUE, key: "red"})
    assert read(*pod_annotations.cut(whole)) == Choice(pools=("blue",))
    assert read(whole, None) == Choice(pools=("blue",))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pool", "", "the annotation is empty"),
        ("pool", "a,,b", "'a,,b' has an empty entry"),
        ("pool", "Blue", "'Blue' is not a valid AddressPool name"),
        ("pool", "-a", "'-a' is not a valid AddressPool name"),
        ("pool", "a" * 64, f"'{'a' * 64}' is not a valid AddressPool name"),
        ("pool", ",".join(["a"] * 65), "65 entries are listed, but at most 64 are allowed"),
        ("pool", 7, "this is a number, not a string: 7"),
        ("pool", ["a"], "this is a list, not a string"),
        ("families", "ipv4", "'ipv4' is not a valid address family"),
        ("families", "v4,v6,v4", "3 entries are listed, but at most 2 are allowed"),
        ("addresses", "10.0.0.300", "'10.0.0.300' is not an IP address"),
        (
            "addresses",
            "10.0.0.5/24",
            "'10.0.0.5/24' has host bits set: as a CIDR it would mean all of",
        ),
        ("addresses", "10.0.0.5-fd00::1", "'10.0.0.5-fd00::1' is not a valid range"),
        ("addresses", "10.9.0.16-", "'10.9.0.16-' is not a range of addresses"),
        ("addresses", "10.9.0.1, -10.9.0.16", "'-10.9.0.16' is not a range of addresses"),
        ("addresses", "10.9.0.16/029", "'10.9.0.16/029' has a prefix length with a leading zero"),
        ("addresses", "fd00::/00", "'fd00::/00' has a prefix length with a leading zero"),
    ],
)
def test_refused(key: str, value: Any, message: str) -> None:
    """What has no meaning is refused with the name of the annotation and the value."""
    whole = request({f"fastipam.io/{key}": value})
    with pytest.raises(ConfigError) as caught:
        read(*pod_annotations.cut(whole))
    assert caught.value.field == f"pod annotation fastipam.io/{key}"
    assert caught.value.message.startswith(message)


def test_other_requests(
    call: Call, config: Make, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEL, CHECK and STATUS need nothing of them; one configuration is read for all pods."""
    monkeypatch.setattr(handler, "_services", Services())
    for number in range(3):
        found = {**USUAL, "kubernetes.io/config.seen": str(number), pod_annotations.POOL: "No Pool"}
        made = config(ipam=IPAM, runtimeConfig={CAPABILITY: found})
        assert call("STATUS", made).status == 0
        assert call("ADD", made, f"c{number}").status == 0
        assert call("CHECK", made, f"c{number}").status == 0
    assert len(handler._services.known) == 1
    assert len(held()) == 3
    for number in range(3):
        found = {pod_annotations.POOL: str(number)}
        result = {"ips": [{"address": f"10.1.0.{number}/24"}]}
        made = {"prevResult": result, **config(ipam=IPAM, runtimeConfig={CAPABILITY: found})}
        assert call("DEL", made, f"c{number}").status == 0
    assert held() == {}
    assert len(handler._services.known) == 1, "what the ADD has answered makes no other one"
