"""``python -m bench.agent.cpu``: processor time a request, of the agent's parts and of py-lmdb.

It is processor time because that is the same on a busy machine. Each figure is the least of many
rounds of 64 ADDs and 64 DELs in this process, without a socket.
"""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from time import process_time_ns
from typing import TYPE_CHECKING

from bench.agent.clients import requests
from bench.agent.yardstick import TOGETHER, Yardstick
from bench.tables import duration, table
from fastipam.agent.batch import Executor
from fastipam.agent.client import Client
from fastipam.storage import open_stores

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.agent.requests import Request

_ROUNDS = 60


def _least(run: Callable[[], object]) -> float:
    """Return the nanoseconds of processor time a request."""
    taken = []
    for _ in range(_ROUNDS):
        before = process_time_ns()
        run()
        taken.append(process_time_ns() - before)
    return min(taken) / (2 * TOGETHER)


def _decode(client: Client, raw: bytes) -> Request:
    client.incoming += raw
    request = client.take_request()
    assert request is not None
    return request


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch, socket.socket() as unused:
        pairs = [
            requests(Path(scratch) / "store", f"c{place:063x}", 0) for place in range(TOGETHER)
        ]
        batches = [[pair[at] for pair in pairs] for at in (0, 1)]
        client = Client(unused, os.getpid())
        hand = Yardstick(Path(scratch) / "hand", 1)
        execute = Executor()

        def decode() -> list[list[Request]]:
            return [[_decode(client, raw) for raw in batch] for batch in batches]

        def serve() -> None:
            for batch in decoded:
                if any(answer.status for answer in execute(batch)):
                    raise RuntimeError("a request failed")

        decoded = decode()
        rows = [
            ("py-lmdb by hand, 64 a commit", _least(hand.run)),
            ("decode", _least(decode)),
            ("handle and commit, 64 at a time", _least(serve)),
        ]
        hand.close()
        open_stores.close_all()
    base = rows[0][1]
    head = ("processor time, ADD and DEL", "a request", "x by hand")
    print(table(head, [(name, duration(ns), f"{ns / base:.2f}") for name, ns in rows]))


if __name__ == "__main__":
    main()
