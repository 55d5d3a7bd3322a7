"""Retry an ADD that was refused, after the leases of dead containers that block it are released.

An ADD is refused when a pool is full, or when the same owner has a lease, or the requested address
is assigned already. Without the retry the runtime would have to wait for the sweeper, and without
an agent for ever. This module is imported only when an ADD was refused.
"""

from __future__ import annotations

from fastipam.addressing.addresses import parse_ip
from fastipam.errors import AddressInUse, DuplicateAllocation, PoolExhausted, TryLater
from fastipam.sweep import DEFAULT_GRACE_S, waits_s
from fastipam.sweep.evidence import LIVES, Place, is_lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastipam.cni.services import Services
    from fastipam.configuration.network import Config
    from fastipam.configuration.pool_lines import Lines
    from fastipam.lease import Lease, Requester
    from fastipam.network import Network
    from fastipam.sweep import Report

    Address = tuple[int, int]
    Refusal = AddressInUse | DuplicateAllocation | PoolExhausted


def allocate_again(
    services: Services,
    config: Config,
    network: Network,
    owner: Requester,
    refusal: Refusal,
    allocate: Callable[[Network], Lease],
    lines: Lines | None = None,
) -> Lease:
    """Serve an ADD that was refused: release leases of dead containers, or get another block.

    ``lines`` are the pools that the ADD has chosen. Raises the refusal, which then names the leases
    in doubt; TryLater when another sandbox of the same pod has the address; and in cluster mode
    NoBlock.
    """
    try:
        return _without_the_dead(services, network, refusal, allocate)
    except AddressInUse as error:
        _await_other_sandbox(services, config, network, owner, error)
        raise
    except PoolExhausted:
        if config.cluster is None:
            raise
    from fastipam.cni import more_blocks

    services.waiting = False
    who = f"{owner.container_id} {owner.ifname}"
    return more_blocks.allocate_again(services, config, network.store, who, allocate, lines)


def _await_other_sandbox(
    services: Services, config: Config, network: Network, owner: Requester, refusal: AddressInUse
) -> None:
    """Raise TryLater when another sandbox of the same pod has the requested address.

    A runtime that has crashed may make a new sandbox of a pod before it ends the old one, whose DEL
    comes soon. An agent handles the request again until then.
    """
    lease = network._lookup(parse_ip(refusal.address), of_pool=True)
    pod = owner.pod_texts[:2]  # without the UID: a pod that is created again has the same name
    if (
        lease is None
        or not all(pod)
        or pod != (lease.pod_namespace, lease.pod_name)
        or lease.container_id == owner.container_id
    ):
        return
    if config.cluster is not None:
        services.wait(config.cluster.timeout_s)
    raise TryLater(
        f"another sandbox of pod {'/'.join(pod)} has not ended yet: {refusal.message}",
        hint="the runtime ends it with DEL, and then this pod gets the address; if the runtime "
        f"does not know that sandbox any more (crictl pods), type: fastipam release "
        f"{refusal.address}",
    ) from None


def _without_the_dead(
    services: Services, network: Network, refusal: Refusal, allocate: Callable[[Network], Lease]
) -> Lease:
    only = _in_the_way(refusal)
    if only is not None and not _has_lost_any(network, only):
        raise refusal
    report = services.release_dead(network, only)
    if report is None:
        raise refusal
    if report.released:
        try:
            return allocate(network)
        except (AddressInUse, DuplicateAllocation, PoolExhausted) as again:
            refusal = again
    raise _explained(network, refusal, report, only is not None)


def _in_the_way(refusal: Refusal) -> tuple[Address, ...] | None:
    """Return the addresses whose leases block the ADD, or None when any lease may be released."""
    if isinstance(refusal, PoolExhausted):
        return None
    if isinstance(refusal, DuplicateAllocation):
        return tuple(parse_ip(text) for text in refusal.addresses)
    return (parse_ip(refusal.address),)


def _has_lost_any(network: Network, addresses: Sequence[Address]) -> bool:
    """Return whether the netns path of one of these leases no longer leads to its namespace."""
    place = Place()
    for address in addresses:
        lease = network._lookup(address, of_pool=True)
        if lease is not None:
            seen = place.observe(lease.record)
            if isinstance(seen, str) or is_lost(lease, seen):
                return True
    return False


def _explained(network: Network, refusal: Refusal, report: Report, of_one: bool) -> Refusal:
    """Add to a refusal which leases wait for a second check or cannot be judged; return it."""
    texts = []
    waits = [waits_s(network.store, network, lease, DEFAULT_GRACE_S) for lease in report.missing]
    known = [seconds for seconds in waits if seconds is not None]
    if known:
        whose = "its network namespace" if len(known) == 1 else f"{len(known)} network namespaces"
        texts.append(
            f"{whose} may be gone; if a second check, in "
            f"{min(known)} s at the earliest, the lease is released"
        )
    for why, _ in report.reasons():
        if of_one:
            texts.append(why)
            break
        if not why.endswith(LIVES):  # a container that lives is not in doubt
            # No number of leases: the report may have been made for an earlier ADD.
            texts.append(f"leases are kept although their containers may have ended: {why}")
            break
    if texts:
        refusal.message = "; ".join((refusal.message, *texts))
        refusal.args = (refusal.message,)
    return refusal
