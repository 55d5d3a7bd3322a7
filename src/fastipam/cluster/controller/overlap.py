"""The rules that decide whether a pool can be accepted, alone and beside other pools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fastipam.addressing.addresses import format_cidr, format_ip, parse_cidr
from fastipam.cluster.controller.conditions import status_of
from fastipam.cluster.registries.kubernetes import objects
from fastipam.configuration.address_pools import AddressPool
from fastipam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastipam.cluster.controller.view import Owned

    Whole = tuple[int, int, int]


GATEWAY = "GatewayInUse"  # the reason of a refusal that ends when a block is given back

# Fields of an AddressPool that no node uses yet.
_NOT_LOOKED_AT = ("maxBlocksPerNode",)


class Refusal(NamedTuple):
    """Why a pool is not accepted: a word for programs, and a sentence with advice for people."""

    reason: str
    message: str


def wanted(pool: dict[str, Any]) -> AddressPool:
    """Return a pool as its spec describes it, in force or not. Raises ConfigError."""
    return AddressPool(objects.name_of(pool), pool["spec"])


def accepted_spec(pool: dict[str, Any]) -> dict[str, Any] | None:
    """Return the spec of a pool that is in force, or None if none is."""
    accepted = status_of(pool).get("accepted")
    spec = accepted.get("spec") if isinstance(accepted, dict) else None
    return spec if isinstance(spec, dict) else None


def own_fault(pool: dict[str, Any]) -> Refusal | None:
    """Return why a pool cannot be accepted, without regard to other pools; None if it can."""
    try:
        one = wanted(pool)
        before = accepted_spec(pool)
        old = None if before is None else _plain(objects.name_of(pool), before)
    except ConfigError as error:
        hint = f"; {error.hint}" if error.hint else ""
        return Refusal("Invalid", f"{error.field}: {error.message}{hint}")
    odd = _odd_exclusion(one)
    if odd:
        return Refusal("Invalid", odd)
    unknown = _not_supported(pool["spec"])
    if unknown:
        return Refusal(
            "Unsupported",
            f"this version of fastipam does not support {unknown}: leave it out, because nodes "
            "would ignore it",
        )
    if old is None:
        return None
    if one.block_length != old.block_length:
        return Refusal(
            "Invalid",
            f"blockSize cannot be changed from {old.block_length} to {one.block_length}: delete "
            "the pool, and make a new one when it is gone",
        )
    if not _contains(one.whole(), old.whole()):
        return Refusal(
            "Invalid",
            f"{one.cidr} does not contain {old.cidr}, which is in force: type a CIDR that contains "
            "it",
        )
    return None


def conflict(pool: AddressPool, other: dict[str, Any], spec: dict[str, Any]) -> Refusal | None:
    """Return why a pool and ``spec`` of another pool cannot both be in force, None if they can."""
    name = objects.name_of(other)
    try:
        there = _plain(name, spec)
    except ConfigError as error:  # the addresses that it covers are unknown
        return Refusal("Overlaps", f"the pool {name}, which is in force, cannot be read: {error}")
    if _overlap(pool.whole(), there.whole()):
        return Refusal(
            "Overlaps",
            f"{pool.cidr} overlaps {there.cidr} of the pool {name}: make a new pool with other "
            f"addresses, or delete {name}",
        )
    return None


def strays(pool: AddressPool, blocks: Iterable[Owned]) -> Refusal | None:
    """Return a refusal if a block lies in a pool but was not cut from it, else None. O(blocks).

    A finalizer keeps each pool until its last block is gone. So this happens only after somebody
    has removed a finalizer.
    """
    whole = pool.whole()
    for one in blocks:
        if _overlap(whole, one.whole) and (one.pool, one.length) != (pool.name, pool.block_length):
            return Refusal(
                "Overlaps",
                f"the block {one.cidr} lies in {pool.cidr}, but node {one.node} owns it as a part "
                f"of the pool {one.pool}: wait until it is released (kubectl get addressblocks)",
            )
    return None


def gateway_in_use(
    pool: AddressPool, pools: dict[str, dict[str, Any]], blocks: Iterable[Owned]
) -> Refusal | None:
    """Return why a pool cannot have its new gateway: a pod may have that address. None if it can.

    O(blocks). The API does not know which addresses pods have, but a pod has only addresses of
    owned blocks. So a gateway that lies in an owned block is refused, with two exceptions: the
    gateway of a pool in force was never assigned, and a new pool that takes over podCIDRs begins
    with owned blocks.
    """
    before = _in_force(pool.name, pools)
    router = pool.range.gateway
    if router is None or (before is not None and before.range.gateway == router):
        return None
    family, value = router
    for one in blocks:
        if one.whole[0] != family or not one.whole[1] <= value <= one.whole[2]:
            continue
        its_pool = _in_force(one.pool, pools)
        if (before is None and one.pool == pool.name) or (
            its_pool is not None and its_pool.range.gateway == router
        ):
            return None
        keep = ""
        if before is not None and before.range.gateway is not None:
            keep = f", or keep {format_ip(*before.range.gateway)}"
        return Refusal(
            GATEWAY,
            f"the gateway {format_ip(*router)} lies in the block {one.cidr}, which node {one.node} "
            "owns, so a pod may have it: type an address that lies in no block (kubectl get "
            f"addressblocks){keep}",
        )
    return None


def _in_force(name: str, pools: dict[str, dict[str, Any]]) -> AddressPool | None:
    """Return a pool as it is in force, None if it is not in force or cannot be read."""
    spec = accepted_spec(pools[name]) if name in pools else None
    try:
        return None if spec is None else AddressPool(name, spec)
    except ConfigError:
        return None


def _not_supported(spec: dict[str, Any]) -> str:
    """Return the first field of a pool that nodes ignore as yet, "" if there is none."""
    return next((field for field in _NOT_LOOKED_AT if spec.get(field)), "")


def _odd_exclusion(pool: AddressPool) -> str:
    """Return what is wrong with the first exclusion that must be a mistake, "" if none is.

    It has host bits, so a node would exclude the whole CIDR around an address; or it lies outside
    of the pool, and a node would exclude nothing.
    """
    for at, (text, hole) in enumerate(zip(pool.spec.get("exclude") or (), pool.holes, strict=True)):
        where = f"addresspool {pool.name}: spec.exclude[{at}]"
        address, slash, length = str(text).partition("/")
        if slash:
            first = format_cidr(hole[0], hole[1], int(length))
            if parse_cidr(str(text))[1] != hole[1]:
                return (
                    f"{where}: {text} has host bits: type {first} for all of it, or {address} for "
                    "one address"
                )
        if not _overlap(hole, pool.whole()):
            return f"{where}: {text} lies outside of {pool.cidr}: leave it out"
    return ""


def _plain(name: str, spec: dict[str, Any]) -> AddressPool:
    """Return a pool that has only the CIDR and the block size of a spec."""
    return AddressPool(name, {"cidr": spec.get("cidr"), "blockSize": spec.get("blockSize")})


def _overlap(one: Whole, other: Whole) -> bool:
    return one[0] == other[0] and one[1] <= other[2] and other[1] <= one[2]


def _contains(one: Whole, other: Whole) -> bool:
    return one[0] == other[0] and one[1] <= other[1] and other[2] <= one[2]
