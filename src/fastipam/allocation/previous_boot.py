"""Release the leases of an earlier boot, because no container outlives a boot.

Opening a store after a reboot only increments the boot number. After that, every write to a network
reads a few of the pool's leases, in address order, until all have been read; the pool's record says
which lease is the next. Reservations stay, and sticky addresses become reserved for their pods.
"""

from __future__ import annotations

from fastipam.errors import StoreCorrupt
from fastipam.storage import tables
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam._ledger import Accounts
    from fastipam.allocation.ledger import Ledger
    from fastipam.storage.transaction import Transaction

BESIDE_A_CALL = 32  # leases that a call reads besides its own work: this doubles its cost
BATCH = 1024  # leases read in a transaction of their own; other writers wait for it


def step(ledger: Ledger, limit: int = BESIDE_A_CALL) -> None:
    """Read up to ``limit`` leases and release those of an earlier boot. O(limit).

    The caller saves the ledger.
    """
    state, store = ledger.state, ledger.store
    before = state.swept
    if before == store.boot:
        return
    ledgers = _Ledgers(ledger)
    stale: dict[tuple[int, bytes], None] = {}  # by network and owner
    prefix = state.prefix
    start = keys.address_key(state.pool_id, *state.sweep) if state.sweep[0] else prefix
    state.sweep, state.swept = (0, 0), store.boot  # unless the limit comes first
    for looked, (key, raw) in enumerate(tables.LEASES.scan(ledger.txn, prefix, start)):
        if looked == limit:
            state.sweep, state.swept = keys.read_address_key(key)[1:], before
            break
        name = _stale_owner(ledgers, raw)
        if name:
            stale[lease_record.network_of(raw), name] = None
    for network_id, name in stale:
        ledgers[network_id].release(name, event_record.REBOOTED)


class _Ledgers(dict[int, "Accounts"]):
    """The ledgers of a pool's networks, by network id; each is made when it is first needed."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._first = ledger
        self.boot = ledger.store.boot
        self[ledger.network_id] = ledger

    def __missing__(self, network_id: int) -> Accounts:
        from fastipam.allocation import siblings

        found = self[network_id] = siblings.ledger_of(self._first, network_id)
        return found


def _stale_owner(ledgers: _Ledgers, raw: bytes) -> bytes:
    """Return the owner of a packed lease if it is of an earlier boot, else an empty name."""
    # A damaged lease keeps its address until `fastipam check --repair`, and does not stop any call.
    try:
        if not lease_record.is_assigned(raw) or lease_record.boot_of(raw) == ledgers.boot:
            return b""
        name = lease_record.name_of(raw)
        whose = ledgers[lease_record.network_of(raw)]
        whose.leases_of(name, whose.held_by(name))
    except StoreCorrupt:
        return b""
    return name


def note_end(txn: Transaction) -> None:
    """Record in the store that no lease of an earlier boot is left, if that is so. O(pools)."""
    txn.store.require_schema(txn)
    txn.flush()
    for _, raw in tables.POOLS.scan(txn):
        if txn.pool_state(keys.id_of(raw)).swept != txn.store.boot:
            return
    txn.store.note_swept(txn)
