#!/usr/bin/env python3
"""A daemon that serves addresses on a unix socket: asyncio, a thread, and children that it forks.

A request is a line of JSON, and so is its answer::

    {"do": "take", "who": "vm-1"}    {"address": "10.32.0.1/16", "gateway": null}
    {"do": "give", "who": "vm-1"}    {"released": 1}
    {"do": "report"}                 {"assigned": 1, "free": 65533}

Who takes again keeps the address. Who does not do so within ``--ttl`` seconds loses it. What is
refused is answered with the error object of CNI, whose codes every error has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import signal
import threading
import time
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import fastipam
from fastipam import cni

NETWORK = "daemon"


class Daemon:
    """One open store for the event loop and the thread; a child opens it itself."""

    def __init__(self, path: Path, subnet: str, ttl_s: float) -> None:
        self.path, self.subnet, self.ttl_s = path, subnet, ttl_s
        self.ipam = fastipam.open(path)
        self.network = self.ipam.network(NETWORK, subnet)
        self.ending = threading.Event()

    async def serve(self, socket: Path) -> None:
        """Serve until SIGTERM or SIGINT. The handlers only set an event, and call no library."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        expiry = threading.Thread(target=self.expire, name="expiry")
        expiry.start()
        async with await asyncio.start_unix_server(self.client, socket):
            await ended.wait()
        self.ending.set()
        await asyncio.to_thread(expiry.join)
        self.ipam.close()

    def expire(self) -> None:
        """Release what is older than the time to live: a thread that uses the network as it is."""
        while not self.ending.wait(min(self.ttl_s / 4, 1)):
            with suppress(fastipam.StoreBusy):  # the next round does it
                self.network.retain((), before_ns=time.time_ns() - int(self.ttl_s * 1e9))

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a client's lines until it goes away."""
        with suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(json.dumps(await self.answer(line)).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def answer(self, line: bytes) -> dict[str, Any]:
        """Return the answer to a line, whatever it is."""
        try:
            asked = json.loads(line)
            if asked["do"] == "report":
                return await asyncio.to_thread(self.report)
            # A transaction may wait for another process. A worker thread waits, and no coroutine.
            call = {"take": self.take, "give": self.give}[asked["do"]]
            return await self.ipam.run(partial(call, who=asked["who"]))
        except Exception as error:
            return cni.error_object(error)

    def take(self, txn: fastipam.Transaction, who: str) -> dict[str, Any]:
        """Assign an address, or renew the one that is there."""
        lease = txn.network(NETWORK, self.subnet).allocate(who, existing="return")
        gateway = lease.gateway
        return {"address": str(lease.address), "gateway": gateway and str(gateway)}

    def give(self, txn: fastipam.Transaction, who: str) -> dict[str, Any]:
        """Release the address."""
        return {"released": len(txn.network(NETWORK, self.subnet).release(who))}

    def report(self) -> dict[str, Any]:
        """Let a child count every lease, which takes long in a large network."""
        fork = multiprocessing.get_context("fork")
        ours, theirs = fork.Pipe(duplex=False)
        child = fork.Process(target=self.count, args=(theirs,))
        child.start()
        theirs.close()
        try:
            counts: dict[str, Any] = ours.recv()
            return counts
        finally:
            child.join()
            ours.close()

    def count(self, answer: Connection) -> None:
        """Count in a child. Its parent's Ipam is useless here: it opens the store itself."""
        try:
            with fastipam.open(self.path) as ipam:
                network = ipam.network(NETWORK, self.subnet)
                assigned = sum(1 for _ in network.leases())
                answer.send({"assigned": assigned, "free": network.stats().free})
        except Exception as error:
            answer.send(cni.error_object(error))


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("socket", type=Path)
    parser.add_argument("--subnet", default="10.32.0.0/16")
    parser.add_argument("--ttl", type=float, default=3600)
    options = parser.parse_args()
    options.socket.unlink(missing_ok=True)
    asyncio.run(Daemon(options.data_dir, options.subnet, options.ttl).serve(options.socket))


if __name__ == "__main__":
    main()
