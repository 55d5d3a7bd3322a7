"""Take over the leases of host-local, on a node that changes to fastipam while its pods run.

As long as a pool says ``claims: NodeCIDRs``, host-local may have assigned addresses of the node's
block until a moment ago. So each ADD first enters the leases in host-local's files into the store,
under host-local's lock. Each DEL in a cluster's network deletes the file of its container, as a DEL
of host-local would.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from fastipam import host_local
from fastipam.errors import AddressInUse, AddressNotInRange
from fastipam.lease import Requester

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastipam.network import Network


def directories(network: str, data_dir: str) -> list[str]:
    """Return host-local's directories of a network: in ``dataDir``, and in its default tree."""
    places = dict.fromkeys((data_dir, host_local.DEFAULT_TREE))
    return [one for each in places if os.path.isdir(one := os.path.join(each, network))]


def has_leases(network: str, data_dir: str) -> bool:
    """Return whether host-local has a lease of a network. O(files)."""
    for directory in directories(network, data_dir):
        with suppress(OSError):
            for name in host_local.file_names(directory):
                with suppress(ValueError):
                    host_local.address_of(name)
                    return True
    return False


def enter_new(network: Network, data_dir: str, log: Callable[[str], None]) -> int:
    """Enter the leases of host-local that the store does not have; return how many. Idempotent.

    Files from before the last boot are left out, because their containers are gone. O(files).
    Raises StoreError.
    """
    entered = 0
    since_ns = host_local.booted_ns()
    for directory in directories(network.name, data_dir):
        with locked(directory):
            for name in host_local.file_names(directory):
                try:
                    entered += enter_file(network, os.path.join(directory, name), since_ns)
                except (AddressInUse, AddressNotInRange) as error:
                    log(f"{directory}/{name}: {error.message}")
                except (OSError, ValueError):
                    continue  # a cursor, a file of another program, or a lease just released
    return entered


def enter_file(network: Network, path: str, since_ns: int) -> bool:
    """Enter the lease of a file of host-local, and return whether it was entered.

    It is not entered if the store has it already, or if the file is older than ``since_ns``. Raises
    AddressInUse, AddressNotInRange, StoreError, OSError; ValueError when the file has no lease.
    """
    family, value = host_local.address_of(os.path.basename(path))
    container_id, ifname = host_local.owner_of(host_local.read(path))
    changed_ns = os.stat(path).st_mtime_ns
    if changed_ns < since_ns:
        return False
    lease = network._lookup((family, value))
    if lease is not None and (lease.container_id, lease.ifname) == (container_id, ifname):
        return False
    return network._adopt(Requester(container_id, ifname), family, value, changed_ns)


def forget(network: str, data_dir: str, container_id: str, ifname: str) -> None:
    """Delete the files of host-local that name this container. O(files). Raises nothing."""
    for directory in directories(network, data_dir):
        with suppress(OSError), locked(directory):
            for name in host_local.file_names(directory):
                path = os.path.join(directory, name)
                with suppress(OSError, ValueError):
                    host_local.address_of(name)
                    owner = host_local.owner_of(host_local.read(path))
                    # Files of host-local before 0.7 name no interface.
                    if owner in ((container_id, ifname), (container_id, "")):
                        os.unlink(path)


@contextmanager
def locked(directory: str | os.PathLike[str], *, create: bool = False) -> Iterator[None]:
    """Hold host-local's lock on a network. Without the lock's file, hold nothing.

    With ``create`` the file is made if it is missing.
    """
    import fcntl

    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    try:
        descriptor = os.open(os.path.join(directory, host_local.LOCK), flags, 0o600)
    except OSError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
