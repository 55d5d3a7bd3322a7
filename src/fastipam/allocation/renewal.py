"""Renew the leases of an owner whose ADD is repeated: same addresses, maybe another namespace.

Imported when an ADD returns addresses that its owner has already (``repeatAdd``).
"""

from __future__ import annotations

from fastipam._ledger import ASSIGNED, Requester, pack_lease
from fastipam.namespaces import Netns
from fastipam.storage import tables
from fastipam.storage.records import event as event_record
from fastipam.storage.records.lease import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.allocation.ledger import Ledger


def renew(ledger: Ledger, owner: Requester, held: list[tuple[int, int]]) -> None:
    """Write the namespace, the pod and the time of this call into the leases of an owner.

    Each lease gets a new generation, so that a GC or a sweep that has read the old lease does not
    release the new one. If the call names no namespace or no pod, the old one stays. The caller
    saves the ledger. O(addresses of the owner). Raises StoreCorrupt.
    """
    ledger.tick()
    state = ledger.state
    for key, raw, address in ledger.leases_of(owner.name, held):
        record = Record.read(raw)
        its_owner = _complete(owner, record)
        netns = its_owner.netns or Netns()
        state.generation += 1
        renewed = pack_lease(
            ASSIGNED,
            record.length,
            ledger.number_of(*address),
            ledger.store.boot,
            state.generation,
            ledger.wall_ns,
            0,
            netns.inode,
            netns.mount_ns,
            ledger.policy.sticky_s if its_owner.pod else 0,
            netns.born_ns,
            ledger.network_id,
            its_owner.texts,
        )
        tables.LEASES.put(ledger.txn, key, renewed)
        ledger.note(event_record.ASSIGNED, state.generation, address, its_owner.texts)


def _complete(owner: Requester, before: Record) -> Requester:
    """Return the owner, with the namespace and the pod of its lease where the call names none."""
    has_netns = owner.netns is not None and (owner.netns.path or owner.netns.inode)
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
