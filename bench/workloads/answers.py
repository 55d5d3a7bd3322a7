"""Read the answers of plugins, and check that no address is given to two containers at once."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress

from bench.errors import Failed

_ROOM = 1 << 16  # more than an answer


class GivenTwice(Failed):
    """An address was given while another container had it."""


def addresses(said: str | bytes) -> list[str]:
    """Return the addresses in an answer without prefix lengths, or [] if it is not an answer."""
    try:
        return [str(one["address"]).partition("/")[0] for one in json.loads(said)["ips"]]
    except (ValueError, KeyError, TypeError):
        return []


class Held:
    """The addresses that a contender has given and has not been asked to release."""

    def __init__(self, contender: str) -> None:
        self._contender = contender
        self._owners: dict[str, str] = {}
        self._addresses: dict[str, list[str]] = {}

    def given(self, who: str, found: list[str]) -> None:
        """Record a container's addresses. Raises GivenTwice if another container has one."""
        for one in found:
            owner = self._owners.setdefault(one, who)
            if owner != who:
                raise GivenTwice(
                    f"{self._contender}: ADD gave {one} to container {who}, while container "
                    f"{owner} had it"
                )
        self._addresses[who] = found

    def released(self, who: str) -> None:
        """Remove a container's addresses, because its DEL begins."""
        for one in self._addresses.pop(who, ()):
            self._owners.pop(one, None)


class Pipe:
    """A pipe for the standard output of one process after the other, read when each has ended."""

    def __init__(self, room: int = _ROOM) -> None:
        self._readable, self.writable = os.pipe()
        os.set_blocking(self._readable, False)
        self._room = room
        if room != _ROOM:
            with suppress(OSError):  # the machine's limit is lower: the pipe keeps its size
                fcntl.fcntl(self.writable, fcntl.F_SETPIPE_SZ, room)
        self.path = f"/proc/self/fd/{self.writable}"

    def read(self) -> bytes:
        """Return the data that has been written so far."""
        with suppress(BlockingIOError):
            return os.read(self._readable, self._room)
        return b""

    def close(self) -> None:
        """Close both ends."""
        os.close(self._readable)
        os.close(self.writable)
