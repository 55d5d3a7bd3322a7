"""Assign an address to the container that uses it, even if the store names another owner.

After a backup was made, an address may have been assigned to another container. A store that was
restored from the backup then names an owner that no longer exists, and the running container is
right. Imported when a node of a cluster has lost its store.
"""

from __future__ import annotations

from fastipam.allocation import reservations, siblings
from fastipam.lease import FOUND, Requester
from fastipam.namespaces import Netns
from fastipam.storage import tables
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_record
from fastipam.storage.records.lease import ASSIGNED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam._ledger import Accounts
    from fastipam.allocation.ledger import Ledger
    from fastipam.storage.records.lease import Record


def adopt_running(
    ledger: Ledger, owner: Requester, family: int, value: int, allocated_ns: int
) -> Record | None:
    """Assign an address to its running container; return the lease that it replaces, or None.

    The owner of that lease keeps its other addresses. A sticky reservation of the address ends; a
    reservation by an operator stays, beside the lease. Raises AddressInUse when the store
    contradicts itself. The caller saves the ledger.
    """
    record = ledger.record(family, value)
    if record is not None and record.state == ASSIGNED:
        whose = siblings.ledger_of(ledger, record.network_id)
        _take_away(whose, record, family, value)
        whose.save()
    elif record is None and reservations.find(ledger, family, value) is not None:
        reservations.take(ledger, family, value)
        ledger.clear(family, value)
    ledger.tick()
    ledger.take_over(owner, family, value, allocated_ns)
    return record if record is not None and record.state == ASSIGNED else None


def name_found(
    ledger: Ledger, container_id: str, ifname: str, family: int, value: int, allocated_ns: int
) -> bool:
    """Replace the made-up owner of an address that was found in a namespace by the real container.

    The container's id is from another plugin's records. Return False when the address has no owner
    with a made-up id (``FOUND``). The lease keeps its namespace. The caller saves the ledger.
    """
    record = ledger.record(family, value)
    if record is None or record.state != ASSIGNED or not record.container_id.startswith(FOUND):
        return False
    netns = Netns(record.netns, record.inode, record.mount_ns, record.born_ns)
    owner = Requester(container_id, ifname, netns)
    adopt_running(ledger, owner, family, value, allocated_ns)
    return True


def _take_away(ledger: Accounts, record: Record, family: int, value: int) -> None:
    """Take one address away from its owner. The owner keeps its other addresses."""
    name = keys.owner_name(record.container_id, record.ifname)
    others = [one for one in ledger.held_by(name) if one != (family, value)]
    if others:
        ledger.write_owner(name, others)
    else:
        tables.OWNERS.delete(ledger.txn, ledger.owner_key(name))
    key = keys.address_key(ledger.state.pool_id, family, value)
    texts = lease_record.texts_of(tables.LEASES.get(ledger.txn, key) or record.pack())
    ledger.note(event_record.REPAIRED, record.generation, (family, value), texts)
    tables.LEASES.delete(ledger.txn, key)
    ledger.state.assigned -= 1
    ledger.clear(family, value)
