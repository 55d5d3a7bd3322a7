"""Access to a network's records in the store, and the release of expired addresses."""

from __future__ import annotations

from fastipam import late_errors as errors
from fastipam.addressing.ranges import CUT
from fastipam.allocation.ledger import MOST_EXPIRED, Ledger
from fastipam.allocation.lookup import find, read_pool
from fastipam.configuration.policy import DEFAULT_POLICY, Policy
from fastipam.configuration.reader import LONGEST_NETWORK
from fastipam.lease import Lease
from fastipam.storage import tables
from fastipam.storage.records import keys, own_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from fastipam.addressing.ranges import Pool
    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Snapshot, Transaction

_BATCH = 256  # addresses freed in one transaction; other writers wait for it


def _encoded(field: str, what: str, name: str) -> bytes:
    encoded = keys.encode(field, name)
    if not 0 < len(encoded) <= LONGEST_NETWORK:
        raise errors.ConfigError(
            f"the {what} name {name[:32]!r} is not 1 to {LONGEST_NETWORK} bytes long",
            field=field,
            value=name,
        )
    return encoded


class Books:
    """A network's name and configuration, with access to its records in the store.

    ``before_first`` is called before the network's first address is assigned, and may raise.
    ``pool_name`` is the name of the network's pool, and ``names_pool`` says that the caller has
    chosen it. Without ``pool_name``, a network keeps the pool that it has in the store, and a new
    network gets a pool of its own name.
    """

    lease_type = Lease
    ledger_type = Ledger

    def __init__(
        self,
        store: Store,
        name: str,
        pool: Pool | None,
        *,
        policy: Policy = DEFAULT_POLICY,
        remember: bool = True,
        before_first: Callable[[], None] | None = None,
        pool_name: str | None = None,
        names_pool: bool = False,
    ) -> None:
        encoded = _encoded("name", "network", name)
        self.name = name
        self.pool = pool
        self.pool_key: bytes | None = None
        if pool_name is not None:
            self.pool_key = _encoded("pool", "pool", pool_name)
        self.names_pool = names_pool
        self.policy = policy
        self._store = store
        self._key = encoded
        self._remember = remember
        self._before_first = before_first
        self._read: Pool | None = None  # the ranges read last: reading them is slow
        # (the network's ranges as text, the pool's as text, the result of _assignable for these)
        self._spared: tuple[str, str, Pool] | None = None

    @property
    def store(self) -> Store:
        """The store of the network."""
        return self._store

    def within(self, txn: Transaction) -> Self:
        """Return this network for calls that are part of a transaction."""
        from fastipam.storage.within import Within

        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._store = Within(txn)
        return other

    def outside(self) -> Self:
        """Return this network for calls after the end of its transaction, and outside of it."""
        store: Any = self._store
        while store.nests:
            store = store._store
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._store = store
        return other

    def detach(self) -> None:
        """Make every later call raise StoreClosed: the network's :class:`Ipam` was closed."""
        from fastipam.storage.within import Closed

        self._store = Closed(self._store)

    def __repr__(self) -> str:
        return f"<Network {self.name!r} in {self._store.path}>"

    def _ranges_of(self, text: str) -> Pool:
        """Return the ranges that a text in the store describes. Raises StoreCorrupt."""
        for known in (self.pool, self._read):
            if known is not None and known.text == text:
                return known
        self._read = read_pool(text, self._store, self.name)
        return self._read

    def _find(self, txn: Transaction | Snapshot) -> tuple[int, int, str, bytes] | None:
        return find(txn, self._key)

    def _find_pool(self, txn: Transaction | Snapshot) -> tuple[int, int, str, bytes] | None:
        """Find the network's entry as :meth:`_find` does.

        For a new network in an existing pool, the result has the network id 0.
        """
        found = self._find(txn)
        if found is None and self.pool is not None and self.pool_key is not None:
            raw = tables.POOLS.get(txn, self.pool_key)
            return None if raw is None else (0, *keys.unpack_pool(raw), self.pool_key)
        return found

    def _own_ranges(self, txn: Transaction | Snapshot, found: tuple[int, int, str, bytes]) -> Pool:
        """Return the network's own ranges; its pool may also have those of other networks. O(1)."""
        if not found[0] and self.pool is not None:
            return self.pool
        raw = tables.META.get(txn, own_ranges.key(found[0]))
        own = None if raw is None else own_ranges.read(raw)
        return self._ranges_of(found[2] if own is None else own[1])

    def _ranges_in(self, ledger: Ledger) -> Pool:
        """Return the network's own ranges, in a write transaction. O(1)."""
        raw = tables.META.get(ledger.txn, own_ranges.key(ledger.network_id))
        own = None if raw is None else own_ranges.read(raw)
        return ledger.stored if own is None else self._ranges_of(own[1])

    def _to_assign(self, ledger: Ledger) -> Pool:
        """Return the ranges from which addresses are assigned now."""
        own, ids = self.pool or self._ranges_in(ledger), (ledger.network_id, ledger.state.pool_id)
        return self._assignable(ledger.txn, *ids, own, ledger.text)

    def _assignable(
        self, txn: Transaction | Snapshot, network_id: int, pool_id: int, own: Pool, text: str
    ) -> Pool:
        """Return a network's own ranges without the gateways of other networks of its pool.

        ``text`` are the ranges of the pool. O(1) when both are the same, or the network is known to
        share its pool; else O(networks of the store).
        """
        if own.text == text or CUT in text or self._is_alone(txn, network_id, pool_id):
            return own
        kept = self._spared
        if kept is None or kept[:2] != (own.text, text):
            from fastipam.addressing import union

            kept = self._spared = own.text, text, union.spare(own, self._ranges_of(text))
        return kept[2]

    @staticmethod
    def _is_alone(txn: Transaction | Snapshot, network_id: int, pool_id: int) -> bool:
        """Return whether a network is alone in its pool; False for the id 0, of a new network."""
        if not network_id or tables.META.get(txn, own_ranges.key(network_id)) is not None:
            return False
        from fastipam.allocation import pools

        return len(pools.members(txn, pool_id)) == 1

    def _pool_in(self, txn: Transaction | Snapshot) -> int | None:
        """Return the id of the network's pool, or None when the network was never used."""
        found = self._find(txn)
        return None if found is None else found[1]

    def _books(self, txn: Transaction) -> Ledger | None:
        """Return the network's records in a write transaction, or None when there are none."""
        found = find(txn, self._key)
        return None if found is None else Ledger(txn, self, *found[:3])

    def _enter(self, txn: Transaction) -> Ledger:
        """Return the network's records for an assignment; make them if the network is new.

        The ranges and the policy are stored, and some leases of an earlier boot are released.
        Raises ConfigError when neither the caller nor the store has ranges, when the ranges have no
        blocks although the store has the network as a cluster's, and when new ranges have a gateway
        that is assigned.
        """
        ledger, pool = self._books(txn), self.pool
        if ledger is None:
            if pool is None:
                raise self._without_ranges()
            if self._before_first is not None:
                self._before_first()
            ledger = Ledger.create(txn, self, self._key, pool)
            ledger.adopt_policy()
            return ledger
        if pool is not None and self.pool_key is not None:
            ledger = self._in_named_pool(txn, ledger, pool)
        if pool is not None and ledger.is_foreign:
            from fastipam.allocation import gateways

            pool_id = ledger.state.pool_id
            if CUT in ledger.text:
                from fastipam.allocation import cluster_ranges

                cluster_ranges.require_blocks(txn, self.name, pool_id, ledger.text, pool)
            gateways.require_free(txn, pool_id, pool)
        if pool is not None and self._remember:
            ledger.adopt_pool(self._key, pool)
            ledger.adopt_policy()
        if not (pool or self._ranges_in(ledger)).sets:
            raise self._without_ranges()
        if ledger.state.swept != self._store.boot:
            from fastipam.allocation import previous_boot

            previous_boot.step(ledger)
        return ledger

    def _in_named_pool(self, txn: Transaction, ledger: Ledger, pool: Pool) -> Ledger:
        """Move the network into the pool that it names; return its records there.

        Raises ConfigError when it has addresses in another pool.
        """
        found = self._find(txn)
        if found is None or self.pool_key is None or self.pool_key == found[3]:
            return ledger
        if not self.names_pool and tables.OWNERS.first(txn, keys.id_prefix(found[0])) is not None:
            return ledger  # a pool that was not chosen changes only while no address is assigned
        from fastipam.allocation import removal

        newest = ledger.state.generation
        removal.leave(txn, self, found, self.pool_key)
        ledger = Ledger.enter_pool(txn, self, self._key, found[0], pool)
        # In the network's history no generation may occur twice.
        ledger.state.generation = max(ledger.state.generation, newest)
        return ledger

    def _without_ranges(self) -> errors.ConfigError:
        return errors.ConfigError(
            f"the ranges of network {self.name} are not known and no ranges are given",
            field="ranges",
            value=None,
        )

    # Freeing what has expired ----------------------------------------------------------------

    def tidy(self, limit: int = _BATCH, *, cooled: bool = True) -> bool:
        """Free expired addresses. Return whether there were any: then call it again.

        Leases of an earlier boot come first (see :meth:`_sweep_reboot`). When none is left, up to
        ``limit`` expired sticky reservations end, and up to ``limit`` addresses whose cool-down is
        over become free, unless ``cooled`` is False. Assignments do the same for a few at a time;
        this is for a process that makes none. One transaction, which writes nothing when nothing
        has expired and the clock was not set. Raises StoreError.
        """
        with self._store.write() as txn:
            ledger = self._books(txn)
            if self._end_boots(txn, ledger):
                return True
            if ledger is None:
                return False
            # A call that fails changes nothing. If all calls fail until a cool-down is over, a step
            # of the wall clock has to be recorded here, or no cool-down would ever end.
            stepped = ledger.state.has_stepped(self._store.clock())
            ledger.tick()
            due = ledger.expire(limit) if cooled else ledger.expire_kept(limit)
            if due or stepped:
                ledger.save()
            return due > 0

    def _finds_room(self) -> bool:
        """Free expired addresses after a refusal; return whether a retry may succeed."""
        # Before an assignment fails, it has taken every address whose cool-down is over.
        return self.tidy(MOST_EXPIRED, cooled=False)

    def _note_clock(self) -> None:
        """Record in the pool's clock that the wall clock was set, if it was."""
        with self._store.write() as txn:
            ledger = self._books(txn)
            if ledger is not None and ledger.state.has_stepped(self._store.clock()):
                ledger.tick()
                ledger.save()

    def _sweep_reboot(self) -> bool:
        """Read some leases and release those of an earlier boot; return False when none is left.

        One transaction. Raises StoreError.
        """
        with self._store.write() as txn:
            return self._end_boots(txn, self._books(txn))

    def _end_boots(self, txn: Transaction, ledger: Ledger | None) -> bool:
        is_over = ledger is None or ledger.state.swept == self._store.boot
        if is_over and not self._store.unswept:
            return False
        from fastipam.allocation import previous_boot

        if ledger is None or is_over:
            previous_boot.note_end(txn)
            return False
        previous_boot.step(ledger, previous_boot.BATCH)
        ledger.save()
        return True

    def _end_earlier_boots(self) -> None:
        """Release some leases of an earlier boot before a read."""
        # While the boot is in doubt nothing is released, and a process that only reads counts no
        # boot. A read does not wait for a writer.
        if self._store.unswept and not self._store.boot_doubt and self._store.may_write_at_once:
            try:  # noqa: SIM105  # contextlib costs the plugin a tenth of its start
                self._sweep_reboot()
            except errors.StoreError:
                pass  # a store that cannot be written can still be read
