"""Where the fuzzers begin: one input of every kind that means something, and the words in them.

An input of the configuration's fuzzer is the variables of a call, one NAME=value a line, an empty
line, and standard input. One of the protocol's is what a client sends over its connection.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

from fastipam.agent import protocol

from ..cni.plugin import COMMANDS, VERSIONS, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST_LOCAL: dict[str, Any] = {
    "subnet": "10.1.2.0/24",
    "rangeStart": "10.1.2.3",
    "rangeEnd": "10.1.2.99",
    "gateway": "10.1.2.1",
    "ranges": [[{"subnet": "2001:db8::/64", "rangeEnd": "2001:db8::99", "gateway": "2001:db8::1"}]],
    "routes": [
        {"dst": "0.0.0.0/0", "gw": "10.1.2.1", "mtu": 1, "advmss": 2, "priority": 3, "scope": 5}
    ],
    "resolvConf": "/dev/null",
    "dataDir": "/fuzz",
    "exclude": ["10.1.2.4", "10.1.2.8/30", "10.1.2.20-10.1.2.22"],
    "cooldown": 30,
    "durability": "relaxed",
    "repeatAdd": "return",
}
WHEREABOUTS: dict[str, Any] = {
    "range": "10.1.2.0/24",
    "range_start": "10.1.2.3",
    "range_end": "10.1.2.99",
    "ipRanges": [{"range": "2001:db8::/64", "exclude": ["2001:db8::4"]}],
}
ELSEWHERE: dict[str, Any] = {
    "args": {"cni": {"ips": ["10.1.2.88", "2001:db8::88/64"]}},
    "runtimeConfig": {"ips": ["10.1.2.9/24"], "ipRanges": [[{"subnet": "10.7.0.0/24"}]]},
    "prevResult": {"ips": [{"address": "10.1.2.3/24"}], "ip4": {"ip": "10.1.2.3/24"}},
    "cni.dev/valid-attachments": [{"containerID": "c0", "ifname": "eth0"}],
}
_POLICIES: dict[str, Any] = {
    "cooldownPolicy": "strict",
    "sticky": "pod",
    "stickyTTL": 60,
    "history": 10,
    "historyAge": 60,
}
_ARGS = (
    "",
    "IP=10.1.2.7",
    "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;K8S_POD_UID=1-2",
    "IP=10.1.2.300;X=",
)
WORDS = sorted(
    {
        *(json.dumps(key) for part in (HOST_LOCAL, WHEREABOUTS, ELSEWHERE) for key in part),
        *(json.dumps(key) for key in _POLICIES),
        *(json.dumps(version) for version in VERSIONS),
        *(f"CNI_COMMAND={command}" for command in COMMANDS),
        *("CNI_CONTAINERID=", "CNI_IFNAME=", "CNI_ARGS=", "CNI_NETNS=", "CNI_PATH="),
        *("IgnoreUnknown=1;", "IP=", "K8S_POD_NAME=", "\n\n", "FIP1"),
        *("FASTIPAM_TIMEOUT=", "FASTIPAM_SOCKET="),
        *("10.1.2.0/24", "2001:db8::/64", "::ffff:1.2.3.4", "0.0.0.0", "/0", "/32", "/128"),
        *('{"', '":', "[[", "]]", "null", "true", "1e999", "-1", "\\u0000"),
    }
)


def call(command: str, document: object, args: str = "", container: str = "c1") -> bytes:
    """An input of the configuration's fuzzer."""
    variables = environment(command, container, args=args)
    head = "".join(f"{name}={value}\n" for name, value in variables.items())
    return head.encode() + b"\n" + json.dumps(document).encode()


def calls() -> Iterator[bytes]:
    """Every command with every kind of configuration."""
    for at, command in enumerate((*COMMANDS, "VERSION", "")):
        for version in VERSIONS:
            base = {"cniVersion": version, "name": "fuzz", "type": "bridge"}
            sections: list[dict[str, Any]] = [
                {"subnet": "10.1.2.0/24"},
                HOST_LOCAL,
                WHEREABOUTS,
                HOST_LOCAL | _POLICIES,
            ]
            for section in sections:
                document = base | {"ipam": {"type": "fastipam"} | section}
                yield call(command, document, _ARGS[at % len(_ARGS)])
            yield call(command, base | ELSEWHERE | {"ipam": HOST_LOCAL}, container="c0")
    yield b""
    yield b"\n\n"
    yield b"CNI_COMMAND=ADD\n\n[]"


def conversations() -> Iterator[bytes]:
    """What clients send: a request, several in a row, half of one, and what is none."""
    whole = []
    for command in COMMANDS:
        document = {"cniVersion": "1.1.0", "name": "fuzz", "ipam": {"subnet": "10.1.2.0/24"}}
        stdin = json.dumps(document | ELSEWHERE).encode()
        whole.append(protocol.pack_request(environment(command), stdin))
    whole.append(protocol.pack_request({"CNI_COMMAND": "VERSION"}, b""))
    yield from whole
    yield b"".join(whole)
    yield whole[0] + whole[1][:20]
    yield whole[0][:11]
    yield protocol.REQUEST.pack(b"FIP2", 0, 0)
    yield protocol.REQUEST.pack(protocol.MAGIC, protocol.LARGEST_VARIABLES + 1, 0)
    yield protocol.REQUEST.pack(protocol.MAGIC, 0, protocol.LARGEST_INPUT + 1)
    yield protocol.REQUEST.pack(protocol.MAGIC, 0, 0) * 40
    yield protocol.REQUEST.pack(protocol.MAGIC, 24, 2) + b"CNI_COMMAND=\xff\0=\0A\0CNI_=\0{}"


def launches() -> Iterator[bytes]:
    """Inputs of the launcher's fuzzer: variables, standard input and what the agent says."""
    good = protocol.pack_answer(0, b'{"cniVersion": "1.1.0"}', b"fastipam: a message\n")
    says = (
        good,
        good + b"more",
        good[:-1],
        good[:7],
        b"",
        protocol.pack_answer(1, b"x" * 20_000),
        protocol.ANSWER.pack(b"FIP2", 0, 0, 0),
        protocol.ANSWER.pack(protocol.MAGIC, 256, 0, 0),
        protocol.ANSWER.pack(protocol.MAGIC, 0, 17 << 20, 0),
        protocol.ANSWER.pack(protocol.MAGIC, 0, 0xFFFFFFFF, 0xFFFFFFFF),
    )
    settings: tuple[dict[str, str], ...] = (
        {},
        {"FASTIPAM_TIMEOUT": "1e-3"},
        {"FASTIPAM_SOCKET": "/" + "x" * 120},
    )
    for said in says:
        for command in ("ADD", "STATUS", "VERSION", ""):
            for more in settings:
                variables = environment(command) | more
                raw = b"".join(f"{name}={value}\0".encode() for name, value in variables.items())
                for stdin in (b'{"name": "fuzz"}', b"x" * 40_000):
                    for away in (0, 0x80):
                        high, low = divmod(len(raw), 256)
                        sizes = bytes([high | away, low]) + len(stdin).to_bytes(2, "big")
                        yield sizes + raw + stdin + said


def mutations(seeds: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """A few thousand damaged inputs for the short form, always the same ones."""
    chance = random.Random(seed)
    words = [word.encode() for word in WORDS]
    for _ in range(count):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(data) + 1)
            kind = chance.randrange(5)
            if kind == 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            elif kind == 1:
                data[at:at] = chance.choice(words)
            elif kind == 2:
                del data[at : at + chance.randrange(1, 30)]
            elif kind == 3:
                other = chance.choice(seeds)
                start = chance.randrange(len(other) + 1)
                data[at:at] = other[start : start + chance.randrange(1, 60)]
            elif data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
        yield bytes(data)
