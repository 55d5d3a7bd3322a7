"""Release leases whose network namespace is gone.

When a container dies together with its runtime, nobody calls DEL. But its network namespace is
deleted, and the lease records the namespace's path and inode. A lease is released when its
namespace was missing in two checks, for the same reason, at least the grace time apart. The first
check is recorded in the table ``missing``, so different processes may make the two checks.

A lease is not released if

* the inode of its namespace is found in a process, a mount or an open file;
* that search could not see everything (``fastipam.processes``);
* it was made after the check began;
* it has no path, or its path means nothing in this mount namespace (``evidence.Place``);
* another namespace got its path after the first check: the lease is now missing for a different
  reason, which needs two checks of its own. (The lease of the new namespace has its own
  generation.)

``evidence.Doubts`` handles a new namespace that has path and inode of one that is gone.

An ADD that finds no free address, or whose container id or requested address belongs to a lease
whose namespace is missing, cannot wait for the second check. With ``at_once`` a lease is released
at the first check if the search has proven that its namespace is gone.
"""

from __future__ import annotations

from itertools import chain

from fastipam import processes
from fastipam.allocation import previous_boot
from fastipam.errors import ConfigError, UnknownNetwork
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_record
from fastipam.sweep.report import Report, add_up
from fastipam.sweep.sweeper import DEFAULT_GRACE_S, Sweeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from fastipam.ipam import Ipam
    from fastipam.lease import Lease
    from fastipam.network import Network
    from fastipam.storage.store import Store
    from fastipam.sweep.sweeper import Look

    Progress = Callable[[int], None]

__all__ = [
    "DEFAULT_GRACE_S", "Report", "Sweeper", "add_up", "finish_reboot", "give_back", "missing_count",
    "release_dead", "sweep", "waits_s",
]  # fmt: skip


def give_back(
    store: Store,
    network: Network,
    *,
    grace_s: float = DEFAULT_GRACE_S,
    look: Look = processes.look,
) -> Iterator[Report]:
    """Release everything that is no longer in use, a few hundred leases at each step.

    It releases the leases of an earlier boot, then addresses whose cool-down or whose sticky
    reservation is over, then leases whose network namespace is gone. No transaction is open between
    two steps, and nothing is written when there is nothing to release. ``look`` is that of
    :class:`Sweeper`. Raises StoreError.
    """
    while network.tidy():
        yield Report(0, [], [], [])
    yield from Sweeper(store, network, grace_s=grace_s, dry_run=False, look=look)


def sweep(
    ipam: Ipam,
    *,
    grace_s: float = DEFAULT_GRACE_S,
    network: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Check the namespace of every lease, and release leases whose namespace is gone long enough.

    ``network`` limits the sweep to one network. ``dry_run`` changes nothing, so it does not count
    as a first check either. ``progress`` is called with the number of leases checked so far.
    O(leases). A transaction changes up to 256 leases, and none is open while namespaces are
    checked. Raises StoreError, and ConfigError for a network that the store does not have.
    """
    from fastipam.network.arguments import read_seconds

    _check_given(ipam, progress)
    grace_s = read_seconds(grace_s, "grace_s")
    if network is not None:
        ipam.network(network)
    parts = (
        Sweeper(ipam.store, ipam.network(name), grace_s=grace_s, dry_run=dry_run)
        for name in ipam.networks()
        if network in (None, name)
    )
    return add_up(chain.from_iterable(parts), progress)


def _check_given(ipam: object, progress: object) -> None:
    from fastipam.verify.parts import check_progress

    check_progress(progress)
    if not hasattr(ipam, "networks"):
        raise ConfigError(
            f"ipam is {ipam!r}, not what fastipam.open returns", field="ipam", value=ipam
        )


def release_dead(
    network: Network,
    only: Collection[tuple[int, int]] | None = None,
    *,
    grace_s: float = DEFAULT_GRACE_S,
) -> Report:
    """Release leases of a network at the first check when their namespace is proven gone.

    A lease without that proof is checked as in a sweep. ``only`` limits the check to these
    (family, address) pairs. If a lease's path does not lead to its namespace, all processes and
    mounts are searched. O(leases). Raises StoreError.
    """
    return add_up(
        Sweeper(network.store, network, grace_s=grace_s, dry_run=False, at_once=True, only=only)
    )


def waits_s(store: Store, network: Network, lease: Lease, grace_s: float) -> int | None:
    """Return the seconds until a second check may release a lease, or None without a first one."""
    with store.read() as txn:
        pool_id = network._pool_in(txn)
        if pool_id is None:
            return None
        raw = tables.MISSING.get(txn, keys.address_key(pool_id, lease.family, lease.value))
    first = lease_record.read_missing(raw)
    if first[0] != lease.generation:
        return None
    return max(0, -int(-(grace_s - (store.boottime() - first[1]) / 1e9) // 1))


def missing_count(store: Store) -> int:
    """Return the number of leases that wait for a second check. O(1)."""
    with store.read() as txn:
        return tables.MISSING.count(txn)


def finish_reboot(ipam: Ipam, progress: Progress | None = None) -> int:
    """Release all leases of earlier boots, and return the approximate number of leases read.

    A transaction reads up to 1024 leases. O(leases) once after a reboot, O(1) at other times.
    """
    _check_given(ipam, progress)
    looked = 0
    if not ipam.store.unswept or ipam.store.boot_doubt:
        return looked
    for name in ipam.networks():
        try:
            network = ipam.network(name)
        except UnknownNetwork:
            continue  # a backup that does not have this network was restored meanwhile
        while network._sweep_reboot():
            looked += previous_boot.BATCH
            if progress is not None:
                progress(looked)
    with ipam.store.write() as txn:
        previous_boot.note_end(txn)
    return looked
