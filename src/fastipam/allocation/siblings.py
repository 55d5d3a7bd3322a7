"""Make the ledger of another network of the same pool, to release a lease of that network.

A call for one network also finds leases of an earlier boot, leases without a namespace and cooling
addresses of the pool's other networks. Imported when a lease of another network has to be released.
"""

from __future__ import annotations

from fastipam import late_errors as errors
from fastipam.allocation import pools
from fastipam.allocation.lookup import read_pool
from fastipam.lease import Lease
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records import policy as policy_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam._ledger import Accounts
    from fastipam.addressing.ranges import Pool
    from fastipam.storage.transaction import Transaction


class Sibling:
    """Another network of a pool, with what the store records of it."""

    lease_type = Lease
    pool = None
    pool_key = None
    names_pool = False

    def __init__(self, txn: Transaction, network_id: int, name: str) -> None:
        self.name = name
        self.policy = policy_record.read(tables.META.get(txn, keys.policy_key(network_id)))
        self._store = txn.store

    def _ranges_of(self, text: str) -> Pool:
        return read_pool(text, self._store, self.name)


def ledger_of(ledger: Accounts, network_id: int) -> Accounts:
    """Return the ledger of a network of the same pool, in the same transaction.

    Raises StoreCorrupt when the pool has no such network.
    """
    if network_id == ledger.network_id:
        return ledger
    for key, one in pools.members(ledger.txn, ledger.pool_id):
        if one == network_id:
            sibling = Sibling(ledger.txn, network_id, pools.text_of(key))
            other = type(ledger)(ledger.txn, sibling, network_id, ledger.pool_id, ledger.text)
            other.wall_ns = ledger.wall_ns
            return other
    raise errors.StoreCorrupt(
        f"a lease names the network with id {network_id}, which does not use the pool of network "
        f"{ledger.name}",
        path=ledger.store.path,
        hint=errors.CHECK_HINT,
    )
