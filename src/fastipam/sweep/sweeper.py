"""Sweep one network: check the namespaces of its leases, and release leases without one."""

from __future__ import annotations

from fastipam import namespaces, processes
from fastipam.allocation import pools
from fastipam.errors import StoreCorrupt
from fastipam.lease import Lease
from fastipam.storage import tables
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_record
from fastipam.storage.records.lease import ASSIGNED
from fastipam.sweep.evidence import LIVES, Doubts, FoundAddresses, Place, is_lost
from fastipam.sweep.report import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from fastipam.network import Network
    from fastipam.processes import Found
    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Snapshot, Transaction

    Look = Callable[[Collection[int], int, Collection[int]], Found | None]

DEFAULT_GRACE_S = 60.0
_BATCH = 256  # leases that are checked together and changed in one transaction


class Sweeper:
    """The sweep of one network. Each step of the iteration checks up to 256 leases.

    No transaction is open between two steps. ``look`` searches the node for the inodes of
    namespaces (``processes.look``); the search must begin after the given time of the wall clock.
    An agent, which must not wait, passes a function that returns None until the search is done; it
    is called again at the next step. With ``at_once`` a lease is released at the first check if its
    namespace is proven gone. ``only`` limits the sweep to these (family, address) pairs. Raises
    StoreError.
    """

    def __init__(
        self,
        store: Store,
        network: Network,
        *,
        grace_s: float = DEFAULT_GRACE_S,
        dry_run: bool,
        look: Look = processes.look,
        at_once: bool = False,
        only: Collection[tuple[int, int]] | None = None,
    ) -> None:
        self._look = look
        self._at_once = at_once
        self._only = only
        self._store = store
        self._network = network
        self._grace_ns = int(grace_s * 1e9)
        self._dry_run = dry_run
        self._found_addresses = FoundAddresses()

    def __iter__(self) -> Iterator[Report]:
        place, doubts = Place(), Doubts()
        lost: set[int] = set()
        newest_ns = 0
        # The leases are read twice, because a lease whose namespace exists may prove that its
        # directory is the same here, which counts for leases before it as well.
        for batch in self._witnesses():
            for lease in batch:
                seen = place.observe(lease.record)
                doubts.note(lease, seen)
                if is_lost(lease, seen) and namespaces.is_inode(lease.inode):
                    lost.add(lease.inode)
                    newest_ns = max(newest_ns, lease.allocated_ns)
            yield Report(0, [], [], [])
        found: Found | None = None
        while lost and found is None:
            found = self._look(lost, newest_ns, self._store.runtime_pid_ns())
            if found is None:
                yield Report(0, [], [], [])
        for batch in self._batches():
            yield self._step(batch, place, doubts, found, lost)
        settled, living = doubts.settle()
        gone = [(lease, seen, False) for lease, seen in settled]
        for at in range(0, max(len(gone), len(living)), _BATCH):
            some = living[at : at + _BATCH]
            found_elsewhere = [(lease, _lives(lease, where)) for lease, where in some if where]
            alive = [lease for lease, _ in some]
            yield self._report(0, gone[at : at + _BATCH], alive, found_elsewhere)
        if not self._dry_run and self._only is None:
            self._forget()

    def _witnesses(self) -> Iterator[list[Lease]]:
        """Yield the leases of the first pass: every lease, or those of ``only``.

        If one of ``only`` is judged by its path alone, every lease has to be read.
        """
        if self._only is not None:
            these = self._these(self._only)
            if all(namespaces.is_inode(lease.inode) for lease in these):
                yield these
                return
        yield from self._every_batch()

    def _batches(self) -> Iterator[list[Lease]]:
        """Yield the leases to be checked, up to 256 per transaction."""
        if self._only is not None:
            yield self._these(self._only)
        else:
            yield from self._every_batch()

    def _every_batch(self) -> Iterator[list[Lease]]:
        """Yield the leases in address order, up to 256 per transaction."""
        start: tuple[int, int] | None = (0, 0)
        while start is not None:
            batch, start = self._next(start)
            if batch:
                yield batch

    def _next(self, start: tuple[int, int]) -> tuple[list[Lease], tuple[int, int] | None]:
        batch: list[Lease] = []
        with self._store.read() as txn:
            pool_id = self._network._pool_in(txn)
            if pool_id is None:
                return [], None
            prefix = keys.id_prefix(pool_id)
            first = keys.address_key(pool_id, *start) if start[0] else prefix
            names = self._names(txn, pool_id)
            for key, raw in tables.LEASES.scan(txn, prefix, first):
                address = keys.read_address_key(key)[1:]
                if len(batch) == _BATCH:
                    return batch, address
                batch += self._assigned(key, raw, address, names)
        return batch, None

    def _names(self, txn: Snapshot, pool_id: int) -> dict[int, str]:
        """Return the names of the networks whose leases are checked, by id. O(networks).

        For an ADD (``at_once``) these are all networks of the pool, because the pool may be full of
        the dead leases of any of them.
        """
        return {
            network_id: name
            for name, network_id in pools.named_members(txn, pool_id)
            if self._at_once or name == self._network.name
        }

    def _these(self, addresses: Collection[tuple[int, int]]) -> list[Lease]:
        """Return the leases of these addresses."""
        batch: list[Lease] = []
        with self._store.read() as txn:
            pool_id = self._network._pool_in(txn)
            names = {} if pool_id is None else self._names(txn, pool_id)
            for address in addresses if pool_id is not None else ():
                key = keys.address_key(pool_id or 0, *address)
                raw = tables.LEASES.get(txn, key)
                if raw is not None:
                    batch += self._assigned(key, raw, address, names)
        return batch

    def _assigned(
        self, key: bytes, raw: bytes, address: tuple[int, int], names: dict[int, str]
    ) -> list[Lease]:
        """Return a list with the lease of this record.

        The list is empty if the record is damaged, is not assigned, is of an earlier boot, or is of
        a network that is not checked.
        """
        record = _readable(key, raw)
        if record and record.state == ASSIGNED and record.boot == self._store.boot:
            name = names.get(record.network_id)
            return [] if name is None else [Lease(name, *address, None, record)]
        return []

    def _step(
        self,
        batch: list[Lease],
        place: Place,
        doubts: Doubts,
        found: Found | None,
        searched: set[int],
    ) -> Report:
        gone: list[tuple[Lease, int, bool]] = []
        living: list[Lease] = []
        unknown: list[tuple[Lease, str]] = []
        for lease in batch:
            seen = place.observe(lease.record)
            if isinstance(seen, str):
                unknown.append((lease, seen))
            elif not is_lost(lease, seen):
                if not doubts.ask(lease, seen):
                    living.append(lease)
            elif not namespaces.is_inode(lease.inode):
                gone.append((lease, seen[0], False))
            elif (
                found is None
                or lease.inode not in searched
                or found.is_older_than(lease.allocated_ns)
            ):
                pass  # it has lost its path since the search: the next sweep searches for it
            elif found.is_another(lease.inode, lease.born_ns):
                gone.append((lease, seen[0], True))
            elif self._found_addresses.lack(lease, found):
                gone.append((lease, seen[0], False))
            elif found.where(lease.inode):
                doubts.doubt(lease, found.where(lease.inode))
            elif found.blind:
                unknown.append((lease, _untold(lease, found.blind)))
            else:
                gone.append((lease, seen[0], True))
        return self._report(len(batch), gone, living, unknown)

    def _report(
        self,
        looked: int,
        gone: list[tuple[Lease, int, bool]],
        living: list[Lease],
        unknown: list[tuple[Lease, str]],
    ) -> Report:
        # ``gone`` has (lease, what was found instead of its namespace, whether it is proven that
        # the namespace is gone).
        missing: list[Lease] = []
        released: list[Lease] = []
        for lease, due in self._judge(gone, living):
            (released if due else missing).append(lease)
        return Report(looked, missing, released, unknown)

    def _judge(
        self, gone: list[tuple[Lease, int, bool]], living: list[Lease]
    ) -> list[tuple[Lease, bool]]:
        """Record first checks, and release leases whose second check is due.

        Return each lease, and whether its release was due.
        """
        marked = self._marked([lease for lease, _, _ in gone] + living)
        if not gone and not marked:
            return []
        judged: list[tuple[Lease, bool]] = []
        with self._store.write() as txn:
            pool_id = self._network._pool_in(txn)
            if pool_id is None:
                return []  # a backup that does not have this network was restored meanwhile
            for lease, seen, proven in gone:
                judged += self._judge_one(txn, pool_id, lease, seen, proven and self._at_once)
            if not self._dry_run:
                for lease in living:
                    key = keys.address_key(pool_id, lease.family, lease.value)
                    if key in marked:
                        tables.MISSING.delete(txn, key)
        return judged

    def _judge_one(
        self, txn: Transaction, pool_id: int, lease: Lease, seen: int, at_once: bool
    ) -> list[tuple[Lease, bool]]:
        """Do the work of :meth:`_judge` for one lease.

        If it is released, its owner's other leases are released with it.
        """
        key = keys.address_key(pool_id, lease.family, lease.value)
        raw = tables.LEASES.get(txn, key)
        if (
            raw is None
            or not lease_record.is_assigned(raw)
            or lease_record.generation_of(raw) != lease.generation
        ):
            return []  # released, or assigned again, since it was read
        first = lease_record.read_missing(tables.MISSING.get(txn, key))
        # A time in the future is a time of the pool's clock, which older versions recorded.
        now = self._store.boottime()
        same = (first[0], first[2]) == (lease.generation, seen) and first[1] <= now
        due = at_once or (same and now - first[1] >= self._grace_ns)
        if self._dry_run:
            return [(lease, due)]
        if not due:
            if not same:
                value = lease_record.pack_missing(lease.generation, now, seen)
                tables.MISSING.put(txn, key, value)
            return [(lease, False)]
        tables.MISSING.delete(txn, key)
        network = self._network
        if lease.network != network.name:
            network = type(network)(self._store, lease.network, None)
            network.policy = network._remembered_policy()
        given = network.within(txn)._release_at(
            (lease.family, lease.value), generation=lease.generation, kind=event_record.SWEPT
        )
        return [] if given is None else [(one, True) for one in given.siblings]

    def _forget(self) -> None:
        """Delete the first-check records of leases that something else has released."""
        with self._store.read() as txn:
            stale = list(self._outdated(txn))
        for at in range(0, len(stale), _BATCH):
            with self._store.write() as txn:
                self._store.require_schema(txn)
                for key in stale[at : at + _BATCH]:
                    tables.MISSING.delete(txn, key)

    def _outdated(self, txn: Snapshot) -> Iterator[bytes]:
        pool_id = self._network._pool_in(txn)
        if pool_id is None:
            return
        prefix = keys.id_prefix(pool_id)
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
        """Return the keys of the leases in ``leases`` that have a first-check record."""
        with self._store.read() as txn:
            pool_id = self._network._pool_in(txn)
            if pool_id is None:
                return set()
            looked = [keys.address_key(pool_id, one.family, one.value) for one in leases]
            return {key for key in looked if tables.MISSING.get(txn, key) is not None}


def _lives(lease: Lease, where: str) -> str:
    return f"{lease.netns} {LIVES}; {where}"


def _untold(lease: Lease, blind: str) -> str:
    return f"{lease.netns} does not lead to its namespace, which may exist elsewhere: {blind}"


def _readable(key: bytes, raw: bytes) -> lease_record.Record | None:
    """Return the record of a lease, or None if it is damaged; `fastipam check` reports that."""
    try:
        return lease_record.Record.read(raw) if keys.is_address_key(key) else None
    except StoreCorrupt:
        return None
