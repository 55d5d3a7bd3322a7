"""The way into a network that needs no change before an address is assigned or released."""

from __future__ import annotations

from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records import policy as policy_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.allocation.ledger import Ledger
    from fastipam.network import Network
    from fastipam.storage.transaction import Transaction


def enter(network: Network, txn: Transaction) -> Ledger | None:
    """Return a network's records, or None when leases of an earlier boot are to be released first.

    Also when the store does not know the network, or whether this is another boot. Raises
    StoreError.
    """
    if txn.store.boot_doubt:
        return None
    ledger = network._books(txn)
    if ledger is None or ledger.state.swept != txn.store.boot:
        return None
    return ledger


def enter_to_assign(network: Network, txn: Transaction) -> Ledger | None:
    """Do the same, and return None also when the store remembers other ranges or another policy."""
    ledger = enter(network, txn)
    if ledger is None or network.pool is None or ledger.is_foreign or not ledger.state.generation:
        return None
    policy = tables.META.get(txn, keys.policy_key(ledger.network_id))
    return ledger if policy == policy_record.pack(network.policy) else None
