"""Repair a store that is not consistent, in one transaction.

When records disagree, leases that can be read count, then reservations. Owner entries, queue,
counters and pages are derived from them. An address whose lease is lost or cannot be read is
reserved for nobody: a repair never frees an address that somebody may still use. The operator
frees it with ``fastipam unreserve``.

Only networks with findings of ``verify`` are repaired. Then the whole store is verified again, and
the transaction is rolled back if there still are findings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam.addressing.ranges import Pool
from fastipam.errors import StoreCorrupt
from fastipam.repair.network import Action, NetworkRepair
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.within import Within
from fastipam.verify import MOST_NETWORKS, verify
from fastipam.verify.parts import BY_NETWORK, check_given

if TYPE_CHECKING:
    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Transaction
    from fastipam.verify import Finding
    from fastipam.verify.parts import Progress

__all__ = ["Action", "repair"]


def repair(store: Store, progress: Progress | None = None) -> list[Action]:
    """Repair everything that :func:`~fastipam.verify.verify` finds, and return what was done.

    A consistent store is only read. ``progress`` is called with the number of records read and the
    approximate number to read; a repaired store is read twice. O(records), in one transaction:
    other writers wait. Returns after the commit is on disk (durable mode). Raises StoreError, and
    StoreCorrupt when the repaired store would still have findings: then nothing was changed.
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
                f"{len(left)} contradictions are left, the first: {left[0]}; nothing was changed",
                path=store.path,
                hint="restore a backup",
            )
    return actions


class _Repairer:
    def __init__(self, txn: Transaction) -> None:
        self._txn = txn
        self._actions: list[Action] = []

    def run(self, found: list[Finding]) -> list[Action]:
        damaged = {one.network for one in found}
        networks = self._networks()
        for network_id, name in networks.items():
            if name in damaged:
                NetworkRepair(self._txn, network_id, name, self._actions).run()
        return self._actions

    def _did(self, kind: str, network: str, where: str, text: str) -> None:
        self._actions.append(Action(kind, network, where, text))

    def _networks(self) -> dict[int, str]:
        """Make names and ids agree, delete records of no network, and return names by id."""
        txn = self._txn
        names: dict[int, str] = {}
        nameless: list[bytes] = []
        for key, raw in list(tables.NETWORKS.scan(txn)):
            name = key.decode(keys.ENCODING, keys.ERRORS)
            network_id = keys.network_id_of(raw)
            if len(raw) < 4 or network_id in names or not 0 < network_id < MOST_NETWORKS:
                nameless.append(key)
                continue
            names[network_id] = name
            try:
                Pool.read(keys.read_network(raw)[1])
            except ValueError:
                tables.NETWORKS.put(txn, key, keys.pack_network(network_id, ""))
                self._did("ranges", name, key.hex(), "forgot ranges that could not be read")
        strays = self._strays(names)
        for key in nameless:
            name = key.decode(keys.ENCODING, keys.ERRORS)
            tables.NETWORKS.delete(txn, key)
            self._did("network", name, key.hex(), "removed an entry that led nowhere")
        for network_id in sorted(strays):
            # If exactly one name lacks an id and exactly one id lacks a name, pair them.
            alone = len(strays) == len(nameless) == 1
            key = nameless[0] if alone else f"recovered-{network_id}".encode()
            name = key.decode(keys.ENCODING, keys.ERRORS)
            tables.NETWORKS.put(txn, key, keys.pack_network(network_id, ""))
            names[network_id] = name
            self._did("network", name, key.hex(), f"named network {network_id}, which has leases")
            NetworkRepair(txn, network_id, name, self._actions).run()
        last = keys.network_id_of(tables.META.get(txn, tables.LAST_NETWORK_KEY))
        if (names and max(names) > last) or last >= MOST_NETWORKS:
            value = keys.network_prefix(max(names, default=0))
            tables.META.put(txn, tables.LAST_NETWORK_KEY, value)
            self._did("network", "", "last network", f"is {max(names, default=0)}, was {last}")
        return names

    def _strays(self, names: dict[int, str]) -> set[int]:
        """Return the ids without a name that have leases or reservations."""
        # Records of all other ids without a name are deleted.
        keep: set[int] = set()
        for table in (tables.LEASES, tables.RESERVATIONS):
            for key in table.scan_keys(self._txn):
                if keys.address_of(key) is not None:
                    keep.add(keys.network_id_of(key))
        keep -= names.keys()
        keep -= {0, MOST_NETWORKS}
        for what, table in BY_NETWORK:
            gone = [
                key
                for key in table.scan_keys(self._txn)
                if len(key) < 4 or not {keys.network_id_of(key)} & (names.keys() | keep)
            ]
            for key in gone:
                table.delete(self._txn, key)
                self._did(what, "", key.hex(), "removed: no network has its number")
        return keep
