"""Release leases whose network namespace is gone.

When a container dies together with its runtime, nobody calls DEL. But its network namespace is
deleted, and the lease records the namespace's path and inode. A lease is released when its
namespace was missing in two checks, for the same reason, at least the grace time apart. The first
check is noted in the table ``missing``, so different processes may make the two checks.

A lease is not released if

* it was made after the check began;
* it has no path, or its path means nothing in this mount namespace (``evidence.Place``);
* another namespace got its path after the first check: that is another reason, so it needs two
  checks as well. (The lease of the new namespace has its own generation.)

``evidence.Doubts`` handles a new namespace that has path and inode of one that is gone.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from fastipam.allocation import previous_boot
from fastipam.errors import StoreCorrupt
from fastipam.lease import Lease
from fastipam.storage import tables
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_record
from fastipam.storage.records.lease import ASSIGNED
from fastipam.sweep.evidence import GONE, Doubts, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from fastipam.ipam import Ipam
    from fastipam.network import Network
    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Snapshot, Transaction

    Progress = Callable[[int], None]

DEFAULT_GRACE_S = 60.0
_BATCH = 256  # leases that are checked together and changed in one transaction


class Report(NamedTuple):
    """The result of a sweep.

    ``looked`` is the number of leases checked. Leases in ``missing`` have no namespace and wait for
    the second check. Leases in ``released`` were released, or would have been without ``dry_run``.
    ``unknown`` has the leases that cannot be checked, each with the reason.
    """

    looked: int
    missing: list[Lease]
    released: list[Lease]
    unknown: list[tuple[Lease, str]]

    def reasons(self) -> list[tuple[str, int]]:
        """Return the reasons why leases cannot be judged, and how often each occurs, most first.

        A path loses its last part, which differs from lease to lease.
        """
        return Counter(_general(why) for _, why in self.unknown).most_common()


def _general(why: str) -> str:
    words = why.split()
    if words and words[0].startswith("/"):
        words[0] = words[0].rpartition("/")[0] + "/…"
    return " ".join(words)


def add_up(parts: Iterable[Report], progress: Progress | None = None) -> Report:
    """Return the reports as one. ``progress`` is called with the leases looked at so far."""
    looked = 0
    missing: list[Lease] = []
    released: list[Lease] = []
    unknown: list[tuple[Lease, str]] = []
    for part in parts:
        looked += part.looked
        missing += part.missing
        released += part.released
        unknown += part.unknown
        if progress is not None:
            progress(looked)
    return Report(looked, missing, released, unknown)


def give_back(
    store: Store, network: Network, *, grace_s: float = DEFAULT_GRACE_S
) -> Iterator[Report]:
    """Release all that nobody needs any longer, a few hundred leases at each step.

    First the leases of an earlier boot, then addresses whose cool-down or whose sticky reservation
    is over, then leases whose network namespace is gone. No transaction is open between two steps,
    and with nothing to release nothing is written. Raises StoreError.
    """
    while network.tidy():
        yield Report(0, [], [], [])
    yield from Sweeper(store, network, grace_s=grace_s, dry_run=False)


def sweep(
    ipam: Ipam,
    *,
    grace_s: float = DEFAULT_GRACE_S,
    network: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Check the network namespace of every lease, and release those that are gone long enough.

    ``network`` limits the sweep to one network. ``dry_run`` changes nothing, so it does not count
    as a first check either. ``progress`` is called with the number of leases checked so far.
    O(leases). A transaction changes up to 256 leases, and none is open while namespaces are
    checked. Raises StoreError.
    """
    parts = (
        Sweeper(ipam.store, ipam.network(name), grace_s=grace_s, dry_run=dry_run)
        for name in ipam.networks()
        if network in (None, name)
    )
    return add_up(chain.from_iterable(parts), progress)


class Sweeper:
    """The sweep of one network. Each step of the iteration checks up to 256 leases.

    No transaction is open between two steps. Raises StoreError.
    """

    def __init__(
        self, store: Store, network: Network, *, grace_s: float = DEFAULT_GRACE_S, dry_run: bool
    ) -> None:
        self._store = store
        self._network = network
        self._grace_ns = int(grace_s * 1e9)
        self._dry_run = dry_run

    def __iter__(self) -> Iterator[Report]:
        place, doubts = Place(), Doubts()
        # The leases are read twice, because a living lease shows something about its directory
        # that counts for leases before it.
        for batch in self._batches():
            for lease in batch:
                doubts.note(lease, place.observe(lease.record))
            yield Report(0, [], [], [])
        for batch in self._batches():
            yield self._step(batch, place, doubts)
        gone, living = doubts.settle()
        for at in range(0, max(len(gone), len(living)), _BATCH):
            yield self._report(0, gone[at : at + _BATCH], living[at : at + _BATCH], [])
        if not self._dry_run:
            self._forget()

    def _batches(self) -> Iterator[list[Lease]]:
        """Yield the leases in address order, up to 256 a transaction."""
        start: tuple[int, int] | None = (0, 0)
        while start is not None:
            batch, start = self._next(start)
            if batch:
                yield batch

    def _next(self, start: tuple[int, int]) -> tuple[list[Lease], tuple[int, int] | None]:
        batch: list[Lease] = []
        with self._store.read() as txn:
            network_id = self._network.id_in(txn)
            if network_id is None:
                return [], None
            prefix = keys.network_prefix(network_id)
            first = keys.address_key(network_id, *start) if start[0] else prefix
            for key, raw in tables.LEASES.scan(txn, prefix, first):
                address = keys.read_address_key(key)[1:]
                if len(batch) == _BATCH:
                    return batch, address
                record = _readable(key, raw)
                if record and record.state == ASSIGNED and record.boot == self._store.boot:
                    batch.append(Lease(self._network.name, *address, None, record))
        return batch, None

    def _step(self, batch: list[Lease], place: Place, doubts: Doubts) -> Report:
        gone: list[tuple[Lease, int]] = []
        living: list[Lease] = []
        unknown: list[tuple[Lease, str]] = []
        for lease in batch:
            seen = place.observe(lease.record)
            if isinstance(seen, str):
                unknown.append((lease, seen))
            elif seen[0] == GONE or (lease.inode and seen[0] != lease.inode):
                gone.append((lease, seen[0]))
            elif not doubts.ask(lease, seen):
                living.append(lease)
        return self._report(len(batch), gone, living, unknown)

    def _report(
        self,
        looked: int,
        gone: list[tuple[Lease, int]],
        living: list[Lease],
        unknown: list[tuple[Lease, str]],
    ) -> Report:
        missing: list[Lease] = []
        released: list[Lease] = []
        for lease, due in self._judge(gone, living):
            (released if due else missing).append(lease)
        return Report(looked, missing, released, unknown)

    def _judge(
        self, gone: list[tuple[Lease, int]], living: list[Lease]
    ) -> list[tuple[Lease, bool]]:
        """Note a first check, release after a second; return each lease and whether it was due."""
        marked = self._marked([lease for lease, _ in gone] + living)
        if not gone and not marked:
            return []
        judged: list[tuple[Lease, bool]] = []
        with self._store.write() as txn:
            network_id = self._network.id_in(txn)
            if network_id is None:
                return []  # a backup without this network was restored meanwhile
            if not self._dry_run:
                self._network.note_clock()
            now = self._now(network_id)
            for lease, seen in gone:
                judged += self._judge_one(txn, network_id, lease, seen, now)
            if not self._dry_run:
                for lease in living:
                    key = keys.address_key(network_id, lease.family, lease.value)
                    if key in marked:
                        tables.MISSING.delete(txn, key)
        return judged

    def _judge_one(
        self, txn: Transaction, network_id: int, lease: Lease, seen: int, now: int
    ) -> list[tuple[Lease, bool]]:
        """Do the same for one lease; its owner's other leases are released with it."""
        key = keys.address_key(network_id, lease.family, lease.value)
        raw = tables.LEASES.get(txn, key)
        if (
            raw is None
            or not lease_record.is_assigned(raw)
            or lease_record.generation_of(raw) != lease.generation
        ):
            return []  # released, or assigned again, since it was read
        first = lease_record.read_missing(tables.MISSING.get(txn, key))
        same = (first[0], first[2]) == (lease.generation, seen)
        due = same and now - first[1] >= self._grace_ns
        if self._dry_run:
            return [(lease, due)]
        if not due:
            if not same:
                value = lease_record.pack_missing(lease.generation, now, seen)
                tables.MISSING.put(txn, key, value)
            return [(lease, False)]
        tables.MISSING.delete(txn, key)
        given = self._network.release_address(
            (lease.family, lease.value), generation=lease.generation, kind=event_record.SWEPT
        )
        return [] if given is None else [(one, True) for one in given.siblings]

    def _forget(self) -> None:
        """Delete the notes on leases that were released in another way."""
        with self._store.read() as txn:
            stale = list(self._outdated(txn))
        for at in range(0, len(stale), _BATCH):
            with self._store.write() as txn:
                for key in stale[at : at + _BATCH]:
                    tables.MISSING.delete(txn, key)

    def _outdated(self, txn: Snapshot) -> Iterator[bytes]:
        network_id = self._network.id_in(txn)
        if network_id is None:
            return
        prefix = keys.network_prefix(network_id)
        for key, raw in tables.MISSING.scan(txn, prefix):
            lease = tables.LEASES.get(txn, key)
            generation = lease_record.read_missing(raw)[0]
            if (
                lease is None
                or not lease_record.is_assigned(lease)
                or lease_record.generation_of(lease) != generation
            ):
                yield key

    def _marked(self, leases: list[Lease]) -> set[bytes]:
        """Return the keys of these leases that have a note of a first check."""
        with self._store.read() as txn:
            network_id = self._network.id_in(txn)
            if network_id is None:
                return set()
            looked = [keys.address_key(network_id, one.family, one.value) for one in leases]
            return {key for key in looked if tables.MISSING.get(txn, key) is not None}

    def _now(self, network_id: int) -> int:
        """Return the network's clock, which never steps back: no grace time becomes shorter."""
        with self._store.read() as txn:
            return txn.state(network_id).at(self._store.clock())


def _readable(key: bytes, raw: bytes) -> lease_record.Record | None:
    """Return the record of a lease, or None if it is damaged; `fastipam check` reports that."""
    try:
        return lease_record.Record.read(raw) if keys.is_address_key(key) else None
    except StoreCorrupt:
        return None


def missing_count(store: Store) -> int:
    """Return the number of leases that wait for a second check. O(1)."""
    with store.read() as txn:
        return tables.MISSING.count(txn)


def finish_reboot(ipam: Ipam, progress: Progress | None = None) -> int:
    """Release all leases of earlier boots, and return the approximate number of leases read.

    A transaction reads up to 1024 leases. O(leases) once after a reboot, O(1) at other times.
    """
    looked = 0
    if not ipam.store.unswept:
        return looked
    for name in ipam.networks():
        network = ipam.network(name)
        while network.sweep_reboot():
            looked += previous_boot.BATCH
            if progress is not None:
                progress(looked)
    with ipam.store.write() as txn:
        previous_boot.note_end(txn)
    return looked
