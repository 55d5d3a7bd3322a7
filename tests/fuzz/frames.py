"""Random frames of requests, as a launcher sends them: most are what runtimes send, the others odd.

A frame is made of parts that are bytes already, because millions of them are made.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fastipam.agent import protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

_USUAL = 0.8  # the share of frames without anything odd
_IN_TURN = (
    0.9  # the share of those that are the ADD of an owner without, or the DEL of one with addresses
)
_WITH_RESULT = 0.5  # the share of DELs, and others, that say what the ADD has answered
_OWNERS = 12
_STAMPED = 1024  # frames that begin at one moment
_COMMANDS = (b"ADD", b"ADD", b"DEL", b"DEL", b"DEL", b"CHECK", b"STATUS", b"VERSION", b"GC")
_ODD_COMMANDS = (b"", b"add", b"ADD ", b"ADDED", b"UPDATE", b"D\xffL")
_ODD_IDS = (
    b"", b"-x", b"_y", b".z", b"a.b-c_d", b"a/b", b"a b", b"a\n", b"0", b"x" * 300, b"x" * 3000,
    b"\xc3\xa9", b"\xff", b"a=b", b"a;b",
)  # fmt: skip
_IFNAMES = (b"eth0", b"net1")
_ODD_IFNAMES = (
    b"", b".", b"..", b"...", b"a:b", b"a/b", b"a b", b"a\x1f", b"a\x01", b"e" * 15, b"e" * 16,
    b"eth0.1", b"\xc3\xa9", b"\xff", b"=", b"~!", b"-", b"\xc2\xa0",
)  # fmt: skip
_ODD_NETNS = (
    b"", b" ", b"/x=y", b"/run/netns/\xc3\xa9", b"/\xff", b"relative", b"/" + b"n" * 900,
    b"/proc/self/ns/net",
)  # fmt: skip
_PODS = tuple(
    b"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-%d;K8S_POD_UID=%d-2-3" % (at, at)
    for at in range(4)
)
_PIECES = (
    b"IgnoreUnknown=1", b"IgnoreUnknown=1", b"IgnoreUnknown=0", b"IgnoreUnknown=true",
    b"IgnoreUnknown=TRUE", b"IgnoreUnknown=False", b"IgnoreUnknown=", b"IgnoreUnknown=2",
    b"IgnoreUnknown=11", b"IgnoreUnknown", b"ignoreunknown=1", b"IgnoreUnknown =1",
    b"K8S_POD_NAMESPACE=d", b"K8S_POD_NAMESPACE=", b"K8S_POD_NAME=p", b"K8S_POD_NAME=q",
    b"K8S_POD_UID=u", b"K8S_POD_UID=" + b"u" * 700, b"K8S_POD_INFRA_CONTAINER_ID=c1", b"IP=",
    b"IP=10.7.0.9", b"IP=10.7.0.300", b"IPS=1", b"X=1", b"X", b"=", b"=1", b"A=b=c", b"A==", b"",
    b"Z=\xc3\xa9", b"Z=\xff", b" ", b"K8S_POD_NAME=a b",
)  # fmt: skip
_ODD_SEEN = (
    b"", b"x", b" ", b"   ", b"    ", b" 4:5  0", b"4:77 4:1 4:2", b"4:77 4:1 4:2 ",
    b"4:1 4:1 4:2 0",
    b"4:077 4:1 4:2 5", b"0:0 4:1 4:2 7", b"4:0 4:1 4:2 7", b"4:77  4:2 7", b"4:77 4:1  7",
    b"5:1 4:1 4:2 7", b"4:77 4:1 4:2 18446744073709551615", b"4:77 4:1 4:2 18446744073709551616",
    b"4:18446744073709551615 4:1 4:2 0", b"4:99999999999999999999 4:1 4:2 7",
    b"4:77 4:1 4:4294967295 7", b"4:77 4:1 4:4294967296 7", b"4:77 4:1 4:2 000000000000000000009",
    b"4:77 4:1 4:2 00000000000000000009", b"4:77 4:1 4:2 -1", b"4:77 4:1 4:2 +1",
    b"4:77 4:1 4:2 1_0", b"4:77 4:1 4:2 7 8", b"4:77:1 4:1 4:2 7", b"477 41 42 7", b"4: 4:1 4:2 7",
    b":7 4:1 4:2 7",
    b" 4:1 4:2 99", b"4:77 4:1 4:2 \xd9\xa1", b"4:77 4:1 4:2 \xb2", b"4:77\t4:1 4:2 7",
)  # fmt: skip
_ODD_STARTED = (b"", b"0", b"-1", b"x", b"9" * 19, b"9" * 20, b"\xd9\xa1")
_EXTRA = (
    b"CNI_NETNS_OVERRIDE=1", b"CNI_NETNS_OVERRIDE=", b"CNI_NETNS_OVERRIDE=TRUE", b"CNI_FOO=1",
    b"CNI_", b"=", b"", b"x", b"CNI_ARGS", b"CNI_COMMAND", b"cni_command=DEL", b"CNI_COMMAND =DEL",
    b"\xff=\xff",
)  # fmt: skip


# What stands before the type of a configuration that has it: "prevResult", as libcni writes it, and
# as nobody does.
_RESULTS = tuple(
    b'"prevResult":{"cniVersion":"1.0.0","dns":{},"interfaces":[{"mac":"6e:a0:3c:%02x:7e:1f",'
    b'"name":"eth0","sandbox":"/run/netns/c%d"}],"ips":[{"address":"10.7.0.%d/24","interface":2}],'
    b'"routes":[{"dst":"0.0.0.0/0","mtu":-1}]},' % (at, at, at)
    for at in range(40)
)
_ODD_RESULTS = (
    b'"prevResult": {} ,', b'"prevResult":null,', b'"prevResult" : [ ] ,',
    b'"prevResult":[[[{}]]],',
    b'"prevResult":' + b"[" * 40 + b"]" * 40 + b",", b'"prevResult":' + b"9" * 30 + b",",
    b'"prevResult":1.5,', b'"prevResult":01,', b'"prevResult":-,', b'"prevResult":{,},',
    b'"prevResult":{"a" 1},', b'"prevResult":{"a":1,},', b'"prevResult":[1,],',
    b'"prevResult":[1 2],',
    b'"prevResult":"\\u00e9",', b'"prevResult":"\xc3\xa9",', b'"prevResult":"\xff",',
    b'"prevResult":"\n",', b'"prevResult":tru,', b'"prevResult":trueish,',
    b'"prevResult":true false,',
    b'"prevresult":{"a":1},', b'"prevResult":{"a":"}"},', b'"prevResult":{"a":"]","b":[{}]},',
    b'"x":{"prevResult":{"a":1},"b":2},', b'"prevResult":{"a":1},"prevResult":{"b":2},',
    b'"name":"other","prevResult":{"a":1},', b'"prevResult":{"a":1},"name":"other",',
    b'"prevResult":{"a":"\\""},', b'"prevResult":,', b'"prevResult":{"a":1}', b'"prevResult":]},',
)  # fmt: skip
_TYPE = b'"type": "bridge", '


class Frames:
    """An endless supply of frames for some configurations.

    ``inputs`` are the configurations, each with a name of its network. ``own`` is the launcher's
    network namespace and ``mount`` its mount namespace, as inodes. The ``path`` of the store stays
    as it is: another one would be made.
    """

    def __init__(
        self,
        random: Random,
        inputs: Sequence[tuple[str, bytes]],
        path: bytes,
        own: int,
        mount: int,
    ) -> None:
        self._random = random.random
        self._inputs = inputs
        self._path = path
        self._held: set[tuple[str, bytes, bytes]] = set()
        self._taken = 0
        self._stamp = b""
        self._owners = [b"c%063d" % at for at in range(_OWNERS)]
        self._seen = [
            b"4:%d 4:%d 4:%d %d" % (4026532000 + at, own, mount, at * 10**9) for at in range(4)
        ]
        self._seen.append(b" 4:%d 4:%d 0" % (own, mount))

    def _one_of(self, choices: Sequence[bytes]) -> bytes:
        return choices[int(self._random() * len(choices))]

    def take(self) -> bytes:
        """Return the next frame."""
        if self._taken % _STAMPED == 0:
            self._stamp = b"FASTIPAM_STARTED=%d" % time.monotonic_ns()
        self._taken += 1
        network, stdin = self._inputs[int(self._random() * len(self._inputs))]
        owner = self._one_of(self._owners)
        ifname = self._one_of(_IFNAMES)
        command = self._command(network, owner, ifname)
        if command != b"ADD" and self._random() < _WITH_RESULT:
            usual = self._random() < _USUAL
            result = self._one_of(_RESULTS if usual else _ODD_RESULTS)
            stdin = stdin.replace(_TYPE, result + _TYPE)
        variables = [
            b"CNI_COMMAND=" + command,
            b"CNI_CONTAINERID=" + owner,
            b"CNI_NETNS=/run/netns/" + owner[-4:],
            b"CNI_IFNAME=" + ifname,
            b"CNI_ARGS=" + self._one_of(_PODS),
            b"CNI_PATH=/opt/cni/bin",
            self._stamp,
            b"FASTIPAM_NETNS=" + self._one_of(self._seen),
        ]
        if self._random() < _USUAL:
            raw = b"\0".join(variables) + b"\0"
        else:
            raw, stdin = self._odd(variables, stdin)
        return protocol.REQUEST.pack(protocol.MAGIC, len(raw), len(stdin)) + raw + stdin

    def _command(self, *attachment: Any) -> bytes:
        if self._random() > _IN_TURN:
            return self._one_of(_COMMANDS)
        if attachment in self._held:
            self._held.discard(attachment)
            return b"DEL"
        self._held.add(attachment)
        return b"ADD"

    def _odd(self, variables: list[bytes], stdin: bytes) -> tuple[bytes, bytes]:
        """Change one to three things."""
        raw = b""
        for _ in range(1 + int(self._random() * 3)):
            kind = int(self._random() * 16)
            if kind < len(_CHANGES):
                place, name, values = _CHANGES[kind]
                variables[place] = name + self._one_of(values)
            elif kind == 7:
                pieces = [self._one_of(_PIECES) for _ in range(1 + int(self._random() * 4))]
                variables[4] = b"CNI_ARGS=" + b";".join(pieces)
            elif kind == 8:
                variables.append(self._one_of(variables))
            elif kind == 9:
                variables[int(self._random() * len(variables))] = self._one_of(_EXTRA)
            elif kind == 10:
                variables.insert(int(self._random() * 8), self._one_of(_EXTRA))
            elif kind == 11:
                variables.sort(key=lambda _: self._random())
            elif kind == 12:
                at = int(self._random() * len(variables))
                variables.insert(at, self._one_of(variables).partition(b"=")[0] + b"=other")
            elif kind == 13:
                stdin = self._damaged(stdin)
            else:
                raw = b"\0".join(variables) + b"\0"
                at = int(self._random() * len(raw))
                raw = raw[:at] + bytes([int(self._random() * 256)]) + raw[at + 1 :]
        if not raw:
            raw = b"\0".join(variables) + b"\0"
        if self._random() < 0.02:
            raw = raw[:-1]
        return raw, stdin

    def _damaged(self, stdin: bytes) -> bytes:
        at = int(self._random() * len(stdin))
        path_at = stdin.find(self._path)
        if path_at <= at < path_at + len(self._path):
            return stdin
        return stdin[:at] + bytes([int(self._random() * 256)]) + stdin[at + 1 :]


# The place of a variable, its beginning, and what it may be.
_CHANGES = (
    (0, b"CNI_COMMAND=", _ODD_COMMANDS),
    (1, b"CNI_CONTAINERID=", _ODD_IDS),
    (2, b"CNI_NETNS=", _ODD_NETNS),
    (3, b"CNI_IFNAME=", _ODD_IFNAMES),
    (7, b"FASTIPAM_NETNS=", _ODD_SEEN),
    (6, b"FASTIPAM_STARTED=", _ODD_STARTED),
    (5, b"CNI_PATH=", (b"", b"\xff", b"x")),
)
