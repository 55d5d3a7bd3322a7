"""The outside ledger of the campaign "everything": who was answered what, by those who asked.

It knows nothing of the store but what ``tests/raw_reader.py`` reads of it.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .. import raw_reader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST_WAIT_S = 10.0
EVENT = "---"  # what a line of the log begins with that tells what happened to all
_LOG_LINES = 400
_EVENT_LINES = 30


class Ledger:
    """Owner -> address of everything that was answered; an owner's name is used once.

    ``wrong`` are the contradictions that were met, ``log`` the last operations, ``events`` the last
    of those that happened to all. Safe to use from several threads.
    """

    def __init__(self, network: str) -> None:
        self._network = network
        self._lock = threading.Lock()
        self._held: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._asked: set[str] = set()
        self._began = time.monotonic()
        self.wrong: list[str] = []
        self.calls: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}
        self.log: deque[str] = deque(maxlen=_LOG_LINES)
        self.events: deque[str] = deque(maxlen=_EVENT_LINES)

    def say(self, text: str) -> None:
        """Note an operation."""
        line = f"{time.monotonic() - self._began:9.3f} {text}"
        self.log.append(line)
        if text.startswith(EVENT):
            self.events.append(line)

    def fail(self, text: str) -> None:
        """Note a contradiction."""
        self.say(f"WRONG {text}")
        self.wrong.append(text)

    @contextmanager
    def timed(self, what: str, limit_s: float = LONGEST_WAIT_S) -> Iterator[None]:
        """Measure a caller's wait."""
        begun = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - begun
            self.slowest[what] = max(took, self.slowest.get(what, 0.0))
            if took > limit_s:
                self.fail(f"{what} waited for {took:.1f} s")

    def ask(self, owner: str) -> None:
        """A call for an owner begins: a runtime knows the container from here on."""
        with self._lock:
            self._asked.add(owner)

    def told(self, owner: str, address: str) -> None:
        """An owner was told its address: nobody else may have been told the same."""
        with self._lock:
            other = self._owners.get(address)
            self._owners[address] = owner
            self._held[owner] = address
        self.say(f"{owner} has {address}")
        if other is not None:
            self.fail(f"{address} was given to {owner}, and is {other}'s")

    def releasing(self, owner: str) -> None:
        """A release begins, or a namespace goes: the address may be somebody else's from now on."""
        with self._lock:
            address = self._held.pop(owner, None)
            if address is not None:
                del self._owners[address]
        self.say(f"{owner} gives back {address}")

    def gone(self, owner: str) -> None:
        """The runtime does not know the container any more."""
        with self._lock:
            self._asked.discard(owner)

    def count(self, what: str) -> None:
        """One more call that ended like that."""
        with self._lock:
            self.calls[what] += 1

    def held(self) -> dict[str, str]:
        """A copy: owner -> address."""
        with self._lock:
            return dict(self._held)

    def known(self) -> set[str]:
        """The containers that a runtime would list: those with a call under way among them."""
        with self._lock:
            return set(self._asked)

    def audit(self, store: Path) -> None:
        """Compare with the store, while others go on working.

        Whoever was told an address before the look, and has not given it back after it, has to be
        found with it.
        """
        before = self.held()
        raw = raw_reader.load(store)
        after = self.held()
        for finding in raw_reader.check(raw):
            self.fail(f"the raw reader says: {finding}")
        found = owners_in(raw, self._network)
        for owner, address in before.items():
            if after.get(owner) == address and found.get(address) != owner:
                self.fail(f"{owner} was told {address}, the store has {found.get(address)} there")
        self.count("audits")


def owners_in(raw: raw_reader.Raw, network: str) -> dict[str, str]:
    """Address -> container of the assigned leases of a network."""
    entry = raw["networks"].get(network.encode())
    if entry is None:
        return {}
    found = {}
    for key, value in raw["leases"].items():
        lease = raw_reader.read_lease(value)
        if key[:4] == entry[5:9] and lease.state == 1:  # of its pool
            family, number = raw_reader.read_address(key[4:])
            kind = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
            found[str(kind(number))] = lease.texts[0].decode()
    return found
