"""Renew the leases of an owner that comes again: it keeps its addresses, and is in another place.

Imported when an ADD returns addresses that its owner has already (``repeatAdd``).
"""

from __future__ import annotations

from fastipam.lease import Requester
from fastipam.namespaces import Netns
from fastipam.storage import tables
from fastipam.storage.records import event as event_record
from fastipam.storage.records import lease as lease_record
from fastipam.storage.records.lease import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.allocation.ledger import Ledger


def renew(ledger: Ledger, owner: Requester, held: list[tuple[int, int]]) -> None:
    """Write the namespace, the pod and the time of this call into the leases of an owner.

    Each gets a new generation: a GC that began before, or a sweep that has seen the old namespace
    gone, then means the lease as it was. What the call does not name, namespace or pod, stays. The
    caller saves the ledger. O(addresses of the owner). Raises StoreCorrupt.
    """
    ledger.tick()
    state = ledger.state
    for key, raw, address in ledger.leases_of(owner.name, held):
        its_owner = _complete(owner, Record.read(raw))
        state.generation += 1
        stamp = ledger.store.boot, state.generation, ledger.wall_ns
        sticky_s = ledger.policy.sticky_s if its_owner.pod else 0
        length, index = lease_record.length_of(raw), ledger.number_of(*address)
        renewed = lease_record.pack_assigned(
            ledger.network_id, its_owner, length, index, stamp, sticky_s
        )
        tables.LEASES.put(ledger.txn, key, renewed)
        ledger.note(event_record.ASSIGNED, state.generation, address, its_owner.texts)


def _complete(owner: Requester, before: Record) -> Requester:
    """Return the owner with what only its lease says of it."""
    has_netns = owner.netns.path or owner.netns.inode
    has_pod = owner.pod_texts != ("", "", "")
    if has_netns and has_pod:
        return owner
    netns = owner.netns
    if not has_netns:
        netns = Netns(before.netns, before.inode, before.mount_ns, before.born_ns)
    pod = owner.pod_texts
    if not has_pod:
        pod = before.pod_namespace, before.pod_name, before.pod_uid
    return Requester(owner.container_id, owner.ifname, netns, pod)
