"""Repair a store that is not consistent, in one transaction.

When records disagree, readable leases are trusted first, then readable reservations. Owner entries,
the cool-down queue, counters and pages are derived from them. An address whose lease is lost or
unreadable is reserved for nobody, because a repair never frees an address that a container may
still use. The operator frees it with ``fastipam unreserve``.

Only networks for which ``verify`` has findings are repaired. Then the whole store is verified
again, and the transaction is rolled back if findings are left.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from fastipam.addressing.ranges import Pool
from fastipam.errors import StoreCorrupt
from fastipam.repair.pool import Action, PoolRepair
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_record
from fastipam.storage.within import Within
from fastipam.verify import MOST_NETWORKS, strangers, verify
from fastipam.verify.parts import BY_NETWORK, BY_POOL, check_given

if TYPE_CHECKING:
    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Transaction
    from fastipam.verify import Finding
    from fastipam.verify.parts import Progress

__all__ = ["Action", "repair"]


def repair(store: Store, progress: Progress | None = None) -> list[Action]:
    """Repair everything that :func:`~fastipam.verify.verify` finds, and return what was done.

    A consistent store is only read. ``progress`` is called with the number of records read and the
    approximate number to read; a store that is repaired is read twice. O(records), in one write
    transaction: other writers wait. Returns after the commit is on disk (durable mode). Raises
    StoreError, and StoreCorrupt when the repaired store would still have findings: then nothing was
    changed.
    """
    check_given(store, progress)
    with store.write() as txn:
        # The records are read twice, or once when there are no findings.
        inside = Within(txn)
        found = verify(inside, progress and (lambda done, total: progress(done, 2 * total)))
        if not found:
            return []
        actions = _Repairer(txn).run(found)
        txn.flush()
        left = verify(inside, progress and (lambda done, total: progress(total + done, 2 * total)))
        if left:
            raise StoreCorrupt(
                f"findings that the repair leaves: {len(left)}, the first: {left[0]}; nothing was "
                "changed",
                path=store.path,
                hint="restore a backup",
            )
    return actions


class _Repairer:
    def __init__(self, txn: Transaction) -> None:
        self._txn = txn
        self._actions: list[Action] = []
        self._pool_names: set[bytes] = set()  # the pools that networks use

    def run(self, found: list[Finding]) -> list[Action]:
        damaged = {one.network for one in found}
        members: dict[int, list[tuple[bytes, int]]] = {}
        wrong: set[int] = set()
        for name, (network_id, pool_id, is_new) in self._networks().items():
            members.setdefault(pool_id, []).append((name, network_id))
            if is_new or _text(name) in damaged:
                wrong.add(pool_id)
        for pool_id, some in members.items():
            if pool_id in wrong:
                PoolRepair(self._txn, pool_id, sorted(some), self._actions).run()
        return self._actions

    def _did(self, kind: str, name: bytes, where: str, text: str) -> None:
        network = _text(name)
        self._actions.append(Action(kind, network, where, text))

    def _networks(self) -> dict[bytes, tuple[int, int, bool]]:
        """Make networks, pools and ids agree, and delete records that belong to none of them.

        Return (network id, pool id, whether records may be damaged) by the network's encoded name.
        """
        txn = self._txn
        used = self._used_pools()
        networks, odd = self._read_networks(used)
        homes = {pool_id for _, pool_id, _ in networks.values()}
        strays: dict[int, bytes] = {}  # by pool id: the names of pools with leases but no network
        for key, raw in list(tables.POOLS.scan(txn)):
            if key in self._pool_names:
                continue
            pool_id = keys.id_of(raw)
            is_stray = pool_id in used and pool_id not in homes and pool_id not in strays
            if is_stray and key not in networks:
                strays[pool_id] = key
            else:
                tables.POOLS.delete(txn, key)
                self._did("pool", key, key.hex(), "removed a pool that no network uses")
        for key in odd:
            tables.NETWORKS.delete(txn, key)
            text = "removed a network whose id or pool could not be recovered"
            self._did("network", key, key.hex(), text)
        nameless = sorted(used.keys() - homes - strays.keys())
        for pool_id in nameless:
            # If exactly one name lacks an id and exactly one id lacks a name, pair them.
            alone = len(nameless) == len(odd) == 1 and odd[0] not in strays.values()
            name = odd[0] if alone else f"recovered-{pool_id}".encode()
            while name in networks or name in strays.values():
                name += b"-"
            strays[pool_id] = name
        taken = {one[0] for one in networks.values()}
        for pool_id, name in strays.items():
            network_id = used[pool_id]
            if network_id in taken or not 0 < network_id < MOST_NETWORKS:
                network_id = max(taken, default=0) + 1
            taken.add(network_id)
            self._mend_pool(name, pool_id, tables.POOLS.get(txn, name))
            self._pool_names.add(name)
            entry = keys.pack_network(tables.SCHEMA, network_id, pool_id, name)
            tables.NETWORKS.put(txn, name, entry)
            text = f"restored with the id {network_id}, because its pool {pool_id} has leases"
            self._did("network", name, name.hex(), text)
            networks[name] = network_id, pool_id, True
        self._delete_orphans(networks)
        for what, key, ids in (
            ("network", tables.LAST_NETWORK_KEY, [one[0] for one in networks.values()]),
            ("pool", tables.LAST_POOL_KEY, [one[1] for one in networks.values()]),
        ):
            last, highest = keys.id_of(tables.META.get(txn, key)), max(ids, default=0)
            if highest > last or last >= MOST_NETWORKS:
                tables.META.put(txn, key, keys.id_prefix(highest))
                self._did(what, b"", f"last {what}", f"is {highest}, was {last}")
        return networks

    def _used_pools(self) -> dict[int, int]:
        """Return the pools with leases or reservations, by id.

        The value is the network that most of the pool's leases name, or 0 when none names one.
        """
        found: dict[int, Counter[int]] = {}
        for key, raw in tables.LEASES.scan(self._txn):
            if keys.address_of(key) is not None:
                named = found.setdefault(keys.id_of(key), Counter())
                with suppress(StoreCorrupt):
                    named[lease_record.network_of(raw)] += 1
        for key in tables.RESERVATIONS.scan_keys(self._txn):
            if keys.address_of(key) is not None:
                found.setdefault(keys.id_of(key), Counter())
        return {
            pool_id: named.most_common(1)[0][0] if named else 0
            for pool_id, named in found.items()
            if 0 < pool_id < MOST_NETWORKS
        }

    def _read_networks(
        self, used: dict[int, int]
    ) -> tuple[dict[bytes, tuple[int, int, bool]], list[bytes]]:
        """Repair the entries of networks and of their pools, as far as that is possible.

        Return the networks as :meth:`_networks` does, and the names that could not be repaired.
        When the two entries disagree on the pool's id, the id that has leases is kept. When the
        leases name another network id than the entry does, the id that has a history is kept.
        """
        networks: dict[bytes, tuple[int, int, bool]] = {}
        odd: list[bytes] = []
        taken: set[int] = set()  # the ids of networks
        homes: dict[int, bytes] = {}  # by pool id: the names of their pools
        # Of two entries with the same id, the one whose pool has the network's name comes first.
        entries = [
            (keys.unpack_network(raw) or (0, 0, 0, b""), key, raw)
            for key, raw in tables.NETWORKS.scan(self._txn)
        ]
        entries.sort(key=lambda one: one[0][3] != one[1])
        claimed = {one[0][1] for one in entries}
        for (_, called, named, shared), key, raw in entries:
            # A pool of another name is taken if it has the id that the entry names. It is also
            # taken if that id has leases and the pool of the network's name has another id.
            pool, own = (tables.POOLS.get(self._txn, one) if one else None for one in (shared, key))
            name = shared
            if not shared or (
                keys.id_of(pool) != named and (named not in used or keys.id_of(own) == named)
            ):
                name, pool = key, own
            noted = keys.id_of(pool)
            other = named not in used and noted in used and noted not in homes
            pool_id = noted if other else named
            told = used.get(pool_id, 0)
            other = told not in claimed and self._has_log(told) and not self._has_log(called)
            network_id = told if other else called
            if (
                not 0 < network_id < MOST_NETWORKS
                or not 0 < pool_id < MOST_NETWORKS
                or network_id in taken
                or homes.get(pool_id, name) != name
            ):
                odd.append(key)
                continue
            mended = keys.pack_network(tables.SCHEMA, network_id, pool_id, name)
            if mended != raw:
                tables.NETWORKS.put(self._txn, key, mended)
                text = _text(name)
                self._did("network", key, key.hex(), f"has the pool {text}, whose id is {pool_id}")
            was_wrong = self._mend_pool(name, pool_id, pool)
            networks[key] = network_id, pool_id, mended != raw or was_wrong
            taken.add(network_id)
            homes[pool_id] = name
        self._pool_names = set(homes.values())
        return networks, odd

    def _has_log(self, network_id: int) -> bool:
        return tables.MAIN.get(self._txn, keys.log_key(network_id)) is not None

    def _mend_pool(self, name: bytes, pool_id: int, raw: bytes | None) -> bool:
        """Repair a pool's entry; return whether it was wrong."""
        text = ""
        if raw is not None:
            try:
                text = keys.unpack_pool(raw)[1]
                Pool.read(text)
            except ValueError:
                text = ""
                self._did("ranges", name, name.hex(), "removed ranges that could not be read")
        mended = keys.pack_pool(pool_id, text)
        if mended == raw:
            return False
        tables.POOLS.put(self._txn, name, mended)
        if keys.id_of(raw) != pool_id:
            self._did("pool", name, name.hex(), f"is pool {pool_id}, was {keys.id_of(raw)}")
        return True

    def _delete_orphans(self, networks: dict[bytes, tuple[int, int, bool]]) -> None:
        for key in strangers(self._txn):
            tables.MAIN.delete(self._txn, key)
            self._did("main", b"", key.hex(), "removed: it is not a record of a store")
        known = {one[0] for one in networks.values()}
        pools = {one[1] for one in networks.values()}
        main = tables.MAIN
        kinds = [(what, table, b"", known, "network") for what, table in BY_NETWORK]
        kinds += [(what, table, b"", pools, "pool") for what, table in BY_POOL]
        kinds.append(("history", main, keys.LOG_MARK, known, "network"))
        kinds.append(("state", main, keys.STATE_MARK, pools, "pool"))
        for what, table, mark, ids, of in kinds:
            end = len(mark) + 4
            gone = [
                key
                for key in table.scan_keys(self._txn, mark)
                if len(key) < end or keys.id_of(key[len(mark) : end]) not in ids
            ]
            for key in gone:
                table.delete(self._txn, key)
                self._did(what, b"", key.hex(), f"removed: no {of} has its id")


def _text(key: bytes) -> str:
    return key.decode(keys.ENCODING, keys.ERRORS)
