"""Check after the commit that this node still owns the addresses of an answer (fencing).

With fencing a node may assign from its blocks only while it has proven that it owns them. A commit
may take longer than the proof is valid (a slow disk, a stopped process), and then another node may
own the block when the answer is given. So the code that gives the answer settles its promises as
the last step. Imported when a cluster's network assigns or returns an address.
"""

from __future__ import annotations

from fastipam.addressing.addresses import format_cidr, format_ip
from fastipam.allocation import blocks
from fastipam.errors import FastipamError, TryLater
from fastipam.storage.records import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fastipam.allocation.ledger import Ledger
    from fastipam.lease import Lease
    from fastipam.network.books import Books
    from fastipam.storage.transaction import Promise as Settled
    from fastipam.storage.transaction import Snapshot, Transaction


class Promise:
    """The promise that a call's leases are in blocks of this node when the call is answered.

    ``is_new`` says that the call has assigned the leases: they are released if the promise cannot
    be kept.
    """

    __slots__ = ("_is_new", "_leases", "_network")

    def __init__(self, network: Books, leases: Sequence[Lease], *, is_new: bool) -> None:
        self._network = network.outside()
        self._leases = leases
        self._is_new = is_new

    def settle(self) -> FastipamError | None:
        """Return None if this node owns the addresses now, else the error to answer with.

        With the error, new leases are released. O(leases). Call it outside of transactions.
        """
        try:
            with self._network.store.read() as txn:
                pool_id = self._network._pool_in(txn)
                fault = "the network was removed meanwhile"
                if pool_id is not None:
                    fault = _fault(txn, self._network, pool_id, self._leases)
        except FastipamError as error:
            return error
        if not fault:
            return None
        shown = ", ".join(format_ip(one.family, one.value) for one in self._leases[:4])
        if self._is_new:
            try:
                self._give_back()
            except FastipamError as error:
                fault += f"; {error.message}"  # the runtime's DEL releases it
        return TryLater(
            f"{shown} of network {self._network.name} cannot be assigned: {fault}",
            hint=(
                "the address was released; the same call gets another address when this node "
                "reaches the cluster's store"
            ),
        )

    def _give_back(self) -> None:
        """Release the leases; a later lease of the same owner stays. One transaction."""
        newest = {(one.container_id, one.ifname): one.generation for one in self._leases}
        with self._network.store.write() as txn:
            ledger = self._network._books(txn)
            if ledger is not None:
                for owner, generation in newest.items():
                    ledger.release(keys.owner_name(*owner), newest=generation)


def give(
    ledger: Ledger, network: Books, leases: Sequence[Lease], promises: list[Promise] | None
) -> None:
    """Promise leases that this call has assigned. Without fencing, do nothing.

    The promise is added to ``promises``, or to those of the transaction if ``promises`` is None.
    """
    _add(ledger, Promise(network, leases, is_new=True), promises)


def give_again(
    ledger: Ledger, network: Books, leases: Sequence[Lease], promises: list[Promise] | None
) -> None:
    """Promise leases that were assigned earlier and are returned to their owner.

    Raises PoolExhausted unless this node owns the blocks of all of them.
    """
    fault = _fault(ledger.txn, network, ledger.state.pool_id, leases)
    if fault:
        from fastipam.allocation import refusals

        raise refusals.doubtful(ledger, (network.pool or ledger.stored).sets[0], 1, fault)
    _add(ledger, Promise(network, leases, is_new=False), promises)


def _add(ledger: Ledger, promise: Promise, promises: list[Promise] | None) -> None:
    if not blocks.is_fenced(ledger.txn, ledger.state.pool_id):
        return
    if promises is None:
        ledger.txn.promises = (*ledger.txn.promises, promise)
    else:
        promises.append(promise)


def _fault(
    txn: Transaction | Snapshot, network: Books, pool_id: int, leases: Sequence[Lease]
) -> str:
    """Return why another node may own an address by now, or an empty text."""
    # The clock is read after the snapshot was taken, so the proof in the snapshot is valid now.
    doubt = blocks.doubt(txn, pool_id)
    if doubt or network.pool is None:
        return doubt
    for lease in leases:
        each = blocks.set_of(network.pool.sets, lease.family, lease.value)
        if each is None:
            continue
        base = blocks.base_of(each, lease.value)
        if not blocks.is_active(txn, pool_id, lease.family, base):
            where = format_cidr(lease.family, base, blocks.length_of(each, base))
            return f"block {where} of {format_ip(lease.family, lease.value)} is not this node's"
    return ""


def settle(promises: Iterable[Settled]) -> FastipamError | None:
    """Settle all promises; return the first error, or None."""
    errors = [error for one in promises if (error := one.settle()) is not None]
    return errors[0] if errors else None
