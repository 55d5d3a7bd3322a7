"""Why an address is not assigned: the errors, each with whose it is and when it may be had.

Imported when a call is refused.
"""

from __future__ import annotations

from fastipam.addressing.addresses import format_ip
from fastipam.allocation import cooldown
from fastipam.errors import AddressInUse, DuplicateAllocation, PoolExhausted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.addressing.ranges import RangeSet
    from fastipam.allocation.ledger import Ledger
    from fastipam.lease import Owner
    from fastipam.storage.records.lease import Record
    from fastipam.storage.records.reservation import Reservation


def exhausted(ledger: Ledger, index: int, range_set: RangeSet, wanted: int) -> PoolExhausted:
    """A range set has fewer addresses than are wanted."""
    many = f" ({wanted} were wanted)" if wanted > 1 else ""
    wait_s = cooldown.next_due_s(ledger, index, range_set) if ledger.policy.strict else None
    due = "" if wait_s is None else f"; one that is cooling down is free in {wait_s} s"
    return PoolExhausted(
        f"no address is free in range set {range_set} of network {ledger.name}{many}{due}",
        network=ledger.name,
        ranges=str(range_set),
        wanted=wanted,
        retry_after_s=wait_s,
        hint="look for leases that nobody uses, or give the network more ranges",
    )


def in_use(family: int, value: int, record: Record) -> AddressInUse:
    """The address that is asked for has an owner."""
    text = format_ip(family, value)
    owner = record.container_id, record.ifname
    return AddressInUse(
        f"the requested address {text} is assigned to {' '.join(owner).rstrip()}",
        address=text,
        owner=owner,
    )


def reserved(family: int, value: int, reservation: Reservation | None) -> AddressInUse:
    """The address that is asked for is kept, for another owner or for nobody."""
    text = format_ip(family, value)
    whom = f" for {reservation.owner}" if reservation and reservation.owner else ""
    why = f": {reservation.reason}" if reservation and reservation.reason else ""
    return AddressInUse(f"the requested address {text} is reserved{whom}{why}", address=text)


def duplicate(name: str, owner: Owner, held: Sequence[tuple[int, int]]) -> DuplicateAllocation:
    """An owner has addresses in the network of this name already."""
    texts = tuple(format_ip(*one) for one in held)
    return DuplicateAllocation(
        f"{', '.join(texts)} is assigned to {owner.container_id} {owner.ifname} "
        f"in network {name} already",
        addresses=texts,
        owner=(owner.container_id, owner.ifname),
        hint='DEL comes before a second ADD; or set "repeatAdd": "return"',
    )
