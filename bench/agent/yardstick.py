"""The yardstick of the agent: the puts and deletes of its commits, in a Python loop on py-lmdb.

A commit has 64 assignments, and the next commit 64 releases. They have the keys of fastipam, and
values of the sizes of its records (:mod:`bench.by_hand`). Records that fastipam writes once in a
commit are written once. There are no reads, no search, no checks and no protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import by_hand
from bench.agent.clients import NETNS, POD

if TYPE_CHECKING:
    from pathlib import Path

TOGETHER = 64


class Yardstick(by_hand.Hand):
    """A store in ``path`` that is written by hand. A run makes ``batches`` pairs of commits.

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
        self._held: list[bytes] = []
        self._pages: set[bytes] = set()

    @property
    def requests(self) -> int:
        """The number of assignments and releases in a run."""
        return 2 * len(self._owners) * self._batches

    def run(self) -> None:
        """Assign and release, ``together`` at a time."""
        for _ in range(self._batches):
            self.assign()
            self.release()

    def assign(self) -> None:
        """Make a commit of assignments."""
        addresses = [self._addresses.take() for _ in self._owners]
        self._held = [by_hand.lease_key(address) for address in addresses]
        self._pages = {by_hand.page_key(address) for address in addresses}
        leases, owners, events = (self._db[name] for name in ("leases", "owners", "events"))
        lease, add = self._lease, self._log.add
        with self._env.begin(write=True) as txn:
            for owner, key in zip(self._owners, self._held, strict=True):
                txn.put(key, lease, db=leases)
                txn.put(owner, key, db=owners)
                add(txn, events)
            self._add_to_pages(txn, self._pages)
            self._save(txn)

    def release(self) -> None:
        """Make a commit that releases what the last :meth:`assign` has assigned, if anything."""
        leases, owners, events = (self._db[name] for name in ("leases", "owners", "events"))
        add = self._log.add
        held, self._held = self._held, []
        if not held:
            return
        with self._env.begin(write=True) as txn:
            for owner, key in zip(self._owners, held, strict=True):
                txn.delete(key, db=leases)
                txn.delete(owner, db=owners)
                add(txn, events)
            self._take_from_pages(txn, self._pages)
            self._save(txn)
