"""The yardstick of the agent: the puts and deletes of its commits, in a Python loop on py-lmdb.

A commit has 64 assignments, the next one 64 releases, with the keys of fastipam and values of the
sizes of its records (:mod:`bench.by_hand`). What fastipam writes once a commit is written once.
There are no reads, no search, no checks and no protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench import by_hand
from bench.agent.clients import NETNS, POD

if TYPE_CHECKING:
    from pathlib import Path

TOGETHER = 64


class Yardstick(by_hand.Hand):
    """A store in ``path``. A run makes ``batches`` pairs of commits.

    A commit has ``together`` assignments or releases.
    """

    def __init__(
        self, path: Path, batches: int, together: int = TOGETHER, *, full: bool = False
    ) -> None:
        containers = [f"c{place:063x}" for place in range(together)]
        owner = by_hand.texts(containers[0], netns=NETNS, pod=POD)
        super().__init__(path, "durable", owner, full=full)
        self._batches = batches
        self._owners = [by_hand.owner_key(one) for one in containers]
        self._addresses = by_hand.Addresses(full=full)

    @property
    def requests(self) -> int:
        """The number of assignments and releases of a run."""
        return 2 * len(self._owners) * self._batches

    def run(self) -> None:
        """Assign and release, ``together`` at a time."""
        for _ in range(self._batches):
            addresses = [self._addresses.take() for _ in self._owners]
            held = [by_hand.lease_key(address) for address in addresses]
            pages = {by_hand.page_key(address) for address in addresses}
            with self._env.begin(write=True) as txn:
                self._assign(txn, held, pages)
            with self._env.begin(write=True) as txn:
                self._release(txn, held, pages)

    def _assign(self, txn: Any, held: list[bytes], pages: set[bytes]) -> None:
        leases, owners, events = (self._db[name] for name in ("leases", "owners", "events"))
        lease, add = self._lease, self._log.add
        for owner, key in zip(self._owners, held, strict=True):
            txn.put(key, lease, db=leases)
            txn.put(owner, key, db=owners)
            add(txn, events)
        self._add_to_pages(txn, pages)
        self._save(txn)

    def _release(self, txn: Any, held: list[bytes], pages: set[bytes]) -> None:
        leases, owners, events = (self._db[name] for name in ("leases", "owners", "events"))
        add = self._log.add
        for owner, key in zip(self._owners, held, strict=True):
            txn.delete(key, db=leases)
            txn.delete(owner, db=owners)
            add(txn, events)
        self._take_from_pages(txn, pages)
        self._save(txn)
