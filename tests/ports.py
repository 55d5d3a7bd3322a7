"""TCP ports of loopback, each range of them for one process of tests.

A port that the kernel chooses may be given to somebody else between the test's look and the start
of the program that shall listen on it. So each process takes its ports from a range of its own
below the kernel's ephemeral ports. An abstract socket holds the range; it ends with the process.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIRST, _LAST, _PER_PROCESS = 20_000, 32_000, 200


@functools.cache
def _ports() -> tuple[socket.socket, Iterator[int]]:
    """The socket that holds the range, and its ports in turn."""
    for first in range(_FIRST, _LAST, _PER_PROCESS):
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0fastipam-tests-ports-{first}")
        except OSError:
            lock.close()
            continue
        return lock, itertools.cycle(range(first, first + _PER_PROCESS))
    raise AssertionError("every range of ports is taken by another process of tests")


def _is_free(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 on which nobody listens; each call returns others."""
    free = filter(_is_free, _ports()[1])
    return list(itertools.islice(free, count))
