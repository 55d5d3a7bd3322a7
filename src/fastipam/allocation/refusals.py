"""The errors for an address that cannot be assigned. Imported when one is raised."""

from __future__ import annotations

from fastipam.addressing.addresses import format_cidr, format_ip
from fastipam.addressing.ranges import Pool
from fastipam.allocation import cooldown
from fastipam.allocation.lookup import read_record
from fastipam.errors import AddressInUse, AddressNotInRange, DuplicateAllocation, PoolExhausted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastipam._ledger import Accounts
    from fastipam.addressing.ranges import RangeSet
    from fastipam.lease import Requester
    from fastipam.storage.records.lease import Record
    from fastipam.storage.records.reservation import Reservation


def exhausted(accounts: Accounts, index: int, range_set: RangeSet, wanted: int) -> PoolExhausted:
    """Return the error for a range set that has fewer free addresses than are wanted."""
    many = f" ({wanted} were wanted)" if wanted > 1 else ""
    wait_s = cooldown.next_due_s(accounts, index, range_set) if accounts.policy.strict else None
    due = "" if wait_s is None else f"; the first cooling address is free in {wait_s} s"
    why = _why_full(accounts, index, range_set)
    return PoolExhausted(
        f"no address is free in range set {range_set} of network {accounts.name}{many}{why}{due}",
        network=accounts.name,
        ranges=str(range_set),
        wanted=wanted,
        retry_after_s=wait_s,
        hint=(
            f"`fastipam list --network {accounts.name}` shows the owners of the addresses, "
            "`fastipam sweep --dry-run` shows the leases of dead containers, and `fastipam sweep` "
            'releases them; or add a range to "ranges" in the configuration'
        ),
    )


def _why_full(accounts: Accounts, index: int, range_set: RangeSet) -> str:
    """Return what the addresses of a full set are used for, as ": 3 assigned, 2 reserved"."""
    if accounts.is_foreign and range_set.block_length:
        return ""
    from fastipam.allocation import counts
    from fastipam.allocation.states import ASSIGNED, COOLING, RESERVED

    accounts.txn.flush()
    # The counts are typed for a snapshot, but can read a write transaction as well.
    txn: Any = accounts.txn
    at = txn, accounts.network_id, accounts.state
    if accounts.is_foreign:  # the ranges are a container's own, or other networks share the pool
        found = counts.of_all(*at, Pool([range_set]), "")[1][0]
    else:
        found = counts.of_sets(*at, accounts.stored)[index]
    assigned, cooling, reserved = (found.counts[one] for one in (ASSIGNED, COOLING, RESERVED))
    kept, whose = _kept(accounts, range_set) if reserved else (0, "")
    parts = [f"{assigned} assigned"]
    if cooling:
        parts.append(f"{cooling} cooling down")
    if kept:
        parts.append(f"{kept} kept sticky for {whose}")
    if reserved > kept:
        parts.append(f"{reserved - kept} reserved")
    if found.excluded:
        parts.append(f"{found.excluded} never assigned (excluded, or a gateway)")
    if found.static is not None:
        parts.append(f"{found.static['size']} static (assigned on request only)")
    if found.blocks is not None:
        parts.append(
            f"the others in blocks that this node does not own (owned blocks: {found.blocks})"
        )
    return f": {', '.join(parts)}"


def _kept(accounts: Accounts, range_set: RangeSet) -> tuple[int, str]:
    """Return how many addresses of a set have a sticky reservation, and the names of the pods.

    At most ``_MOST_NAMED`` pods are named.
    """
    from fastipam.allocation import reservations

    count = 0
    whose: list[str] = []
    for one in reservations.read_all(accounts.txn, accounts.state.pool_id):
        is_kept = one.until and one.family == range_set.family and one.value in range_set
        at = accounts.pool_id, one.family, one.value
        if is_kept and read_record(accounts.txn, *at) is None:
            count += 1
            if len(whose) < _MOST_NAMED:
                whose.append(one.owner)
    more = ", …" if count > len(whose) else ""
    return count, f"{', '.join(whose)}{more}"


_MOST_NAMED = 3  # pods in a message


def doubtful(accounts: Accounts, range_set: RangeSet, wanted: int, doubt: str) -> PoolExhausted:
    """Return the error for a node that cannot be certain that it still owns its blocks."""
    return PoolExhausted(
        f"no address of network {accounts.name} can be assigned now: {doubt}",
        network=accounts.name,
        ranges=str(range_set),
        wanted=wanted,
    )


def of_another_node(range_set: RangeSet, value: int) -> AddressNotInRange:
    """Return the error for a requested address in a block that this node does not own."""
    from fastipam.allocation import blocks

    family = range_set.family
    text = format_ip(family, value)
    base = blocks.base_of(range_set, value)
    return AddressNotInRange(
        f"the requested address {text} lies in block "
        f"{format_cidr(family, base, blocks.length_of(range_set, base))}, which this node does not "
        "own",
        addresses=(text,),
        hint="only the node that owns the block can assign the address: `fastipam cluster blocks` "
        "shows the owner of each block",
    )


def in_use(accounts: Accounts, family: int, value: int, record: Record) -> AddressInUse:
    """Return the error for a requested address that is assigned, maybe in another network."""
    text = format_ip(family, value)
    owner = record.container_id, record.ifname
    where = ""
    if record.network_id != accounts.network_id:
        from fastipam.allocation import pools

        other = pools.name_of(accounts.txn, record.network_id)
        where = f" in network {other}, which has the same pool"
    return AddressInUse(
        f"the requested address {text} is assigned to {' '.join(owner).rstrip()}{where}",
        address=text,
        owner=owner,
        hint=f"`fastipam show {text}` shows its owner; if that container is dead, type "
        f"`fastipam release {text}`",
    )


def reserved(family: int, value: int, reservation: Reservation | None) -> AddressInUse:
    """Return the error for a requested address that is reserved for another owner, or nobody."""
    text = format_ip(family, value)
    whom = f" for {reservation.owner}" if reservation and reservation.owner else ""
    why = f": {reservation.reason}" if reservation and reservation.reason else ""
    return AddressInUse(
        f"the requested address {text} is reserved{whom}{why}",
        address=text,
        hint=f"request another address, or type `fastipam unreserve {text}`",
    )


def duplicate(
    name: str,
    owner: Requester,
    held: Sequence[tuple[int, int]],
    wanted: Sequence[tuple[int, int]] = (),
) -> DuplicateAllocation:
    """Return the error for an owner that has addresses in the network already."""
    texts = tuple(format_ip(*one) for one in held)
    verb = "is" if len(texts) == 1 else "are"
    others = [format_ip(*one) for one in wanted if one not in held]
    asked = f", and this ADD requests {', '.join(others)}" if others else ""
    return DuplicateAllocation(
        f"{', '.join(texts)} {verb} already assigned to {owner.container_id} "
        f"{owner.ifname} in network {name}{asked}",
        addresses=texts,
        owner=(owner.container_id, owner.ifname),
        hint="call DEL before an ADD with another address"
        if others
        else 'call DEL before a second ADD, or set "repeatAdd": "return"',
    )
