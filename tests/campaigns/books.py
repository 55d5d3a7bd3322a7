"""The ledger outside: who was told what, kept by those who asked, and compared with the store."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from fastipam.verify import verify

if TYPE_CHECKING:
    from fastipam.ipam import Ipam


class Books:
    """Owner -> address of everything that was acknowledged; an owner's name is used once.

    ``wrong`` are the contradictions that were met. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self.doubtful: set[str] = set()
        self.wrong: list[str] = []
        self.calls: Counter[str] = Counter()

    def acknowledged(self, owner: str, address: str) -> None:
        """An owner was told its address: nobody else may have been told the same."""
        with self._lock:
            other = self._owners.get(address)
            if other is not None:
                self.wrong.append(f"{address} was given to {owner}, and is {other}'s")
            self._owners[address] = owner
            self._held[owner] = address

    def releasing(self, owner: str) -> None:
        """A release begins: from now on the address may be somebody else's."""
        with self._lock:
            address = self._held.pop(owner, None)
            if address is not None:
                del self._owners[address]

    def doubt(self, owner: str) -> None:
        """Nobody has heard what became of this owner's call."""
        with self._lock:
            self.doubtful.add(owner)

    def count(self, what: str) -> None:
        """One more call that ended like that."""
        with self._lock:
            self.calls[what] += 1

    def held(self) -> dict[str, str]:
        """A copy: owner -> address."""
        with self._lock:
            return dict(self._held)

    def audit(self, ipam: Ipam, name: str, *, exact: bool = False) -> list[str]:
        """What is wrong with the store, while others go on working (``exact``: while nobody does).

        Whoever was told an address before the look, and has not given it back after it, has to be
        found with it; exactly: nobody else has anything.
        """
        before = self.held()
        found: dict[str, str] = {}
        wrong = [str(finding) for finding in verify(ipam.store)]
        for lease in ipam.network(name).leases():
            address = str(lease.address.ip)
            if address in found.values():
                wrong.append(f"{address} is in the store twice")
            found[lease.container_id] = address
        after = self.held()
        for owner, address in before.items():
            if after.get(owner) == address and found.get(owner) != address:
                wrong.append(f"{owner} was told {address}, the store has {found.get(owner)}")
        if exact:
            wrong += [
                f"{owner} has {found[owner]} unasked" for owner in found.keys() - before.keys()
            ]
        with self._lock:
            return wrong + self.wrong
