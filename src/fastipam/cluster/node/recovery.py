"""Recovery of a node that lost its store: read from the kernel which addresses are in use.

The node's pods may still run, and their addresses are in their network namespaces. So before the
node assigns any address of a found block, it reads in all namespaces which of them are in use.

A namespace is found by a file in the directories where runtimes mount namespaces, or by a process
that runs in it. For each one a thread enters the namespace and lists its addresses (RTM_GETADDR).
"""

from __future__ import annotations

from fastipam import processes, rtnetlink
from fastipam.addressing.addresses import format_ip
from fastipam.errors import AddressInUse
from fastipam.lease import FOUND, Requester
from fastipam.namespaces import (
    NETNS_DIRECTORIES,
    Netns,
    find,
    identity,
    is_roots,
    look,
    mount_namespace,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.cluster.node.node import Node
    from fastipam.cluster.schema import BlockId
    from fastipam.configuration.cluster import Settings
    from fastipam.lease import Lease

# The most searches for namespaces; one is repeated if a process ended or moved during it.
_MOST_ROUNDS = 8
_NEEDED = "it needs root with the capabilities CAP_SYS_PTRACE and CAP_SYS_ADMIN"


class NamespacesUnreadable(Exception):
    """A network namespace could not be entered, so its addresses are not known."""


def addresses_in(path: str, inode: int = 0) -> list[tuple[int, int]]:
    """Return (family, integer) of all addresses in a network namespace.

    Raises NamespacesUnreadable, and FileNotFoundError when the path is gone or leads to a namespace
    with another inode than ``inode``.
    """
    try:
        return rtnetlink.addresses_in(path, inode)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NamespacesUnreadable(_reason(path, error)) from error


def _reason(path: str, error: OSError) -> str:
    """Return why a namespace could not be read, in words."""
    return f"{path} cannot be entered: {error.strerror or error}; {_NEEDED}"


class Recovered:
    """The result of :func:`recover`.

    ``entered`` has the addresses in use, as (family, integer). ``remarks`` has a sentence for each
    address that the store had leased to another owner, and for each that is in several namespaces.
    """

    __slots__ = ("entered", "remarks")

    def __init__(self) -> None:
        self.entered: list[tuple[int, int]] = []
        self.remarks: list[str] = []


def recover(
    node: Node, found: Sequence[BlockId], directories: Sequence[str] = NETNS_DIRECTORIES
) -> Recovered:
    """Store leases for the addresses of these blocks that are in use, then activate the blocks.

    Each address that a namespace has becomes a lease of that namespace, even if an older copy of
    the store names another owner. A lease that already names the namespace is kept. A lease whose
    container the runtime no longer knows is released by ``fastipam sweep`` when the namespace is
    gone. Idempotent. Raises NamespacesUnreadable: then no address of these blocks is assigned.
    """
    done = Recovered()
    if not found:
        return done
    wanted = set(found)
    users: dict[tuple[int, int], list[Netns]] = {}
    for netns, addresses in _look_everywhere(directories):
        for address in set(addresses):  # several interfaces may have one, as those of ptp
            if _block_of(node.settings, *address) in wanted:
                users.setdefault(address, []).append(netns)
    for (family, value), there in users.items():
        _enter(node, family, value, there, done)
    for address in _of_the_node(node.settings, wanted) - users.keys():
        _enter_own(node, *address, done)
    node.confirm_found(found)
    return done


def _look_everywhere(directories: Sequence[str]) -> list[tuple[Netns, list[tuple[int, int]]]]:
    """Return each network namespace of this node with its addresses."""
    mount_ns = mount_namespace()
    seen: dict[int, tuple[Netns, list[tuple[int, int]]]] = {}
    for _ in range(_MOST_ROUNDS):
        paths = _find(directories)
        gone = ""
        for inode, path in paths.items():
            if inode in seen:
                continue
            try:
                netns = Netns(path, inode, mount_ns, look(path)[2])
                seen[inode] = netns, addresses_in(path, inode)
            except (FileNotFoundError, NamespacesUnreadable):
                there = identity(path)
                if there is not None and there[1] == inode:
                    raise
                gone = path  # that process has ended, or left; another may run in its namespace
        if not gone:
            return list(seen.values())
    raise NamespacesUnreadable(
        f"processes such as {gone} end, or enter another namespace, before they can be examined"
    )


def _find(directories: Sequence[str]) -> dict[int, str]:
    """Return a path of each network namespace of this node, by inode."""
    paths, blind, leftover = find(directories)
    if blind:
        raise NamespacesUnreadable(f"{blind}; {_NEEDED}")
    searched = processes.search()
    if leftover and searched.blind:
        raise NamespacesUnreadable(
            f"{leftover} is not a network namespace: nothing is mounted on that file here. Another "
            f"mount namespace may have one there, but that cannot be checked: {searched.blind}. "
            "Remove the file if it is a leftover"
        )
    # Add the namespaces in which only a thread runs, or that only another mount namespace has.
    own = identity("/proc/self/ns/net")
    for inode, path in searched.paths().items():
        if inode in paths or (own is not None and inode == own[1]):
            continue
        try:
            if is_roots(path):
                paths[inode] = path
        except FileNotFoundError:
            continue  # the process has ended
        except OSError as error:
            raise NamespacesUnreadable(_reason(path, error)) from error
    return paths


def _enter(node: Node, family: int, value: int, there: list[Netns], done: Recovered) -> None:
    """Store a lease of an address for a namespace that has the address."""
    text = format_ip(family, value)
    done.entered.append((family, value))
    if len(there) > 1:
        paths = ", ".join(one.path for one in there)
        done.remarks.append(f"{text} is in {len(there)} network namespaces: {paths}")
    lease = node.network._lookup((family, value))
    if lease is not None and any(_is_of(lease, one) for one in there):
        return
    netns = there[0]
    name = netns.path.strip("/").replace("/", "-")
    owner = Requester(f"{FOUND}{netns.inode}-{name}", "", netns)
    is_chosen = _is_chosen(node.settings, (family, value))
    if is_chosen and lease is not None and not lease.netns and len(there) == 1:
        # The lease comes from host-local, which knew the container. It lacks only the namespace.
        owner = Requester(lease.container_id, lease.ifname, netns)
    try:
        replaced = node.share.adopt_running(owner, family, value)
    except AddressInUse as error:  # whatever has the address, no pod gets it
        done.remarks.append(error.message)
        return
    if replaced is not None and replaced.container_id != owner.container_id:
        whose = f"{replaced.container_id} {replaced.ifname}".rstrip()
        done.remarks.append(
            f"{text} is in {netns.path}, although the store had leased it to {whose}"
        )


def _of_the_node(settings: Settings, wanted: set[BlockId]) -> set[tuple[int, int]]:
    """Return the node's own addresses in podCIDRs, such as host-local's gateway on a bridge."""
    if not settings.uses_node_cidrs:
        return set()
    gateways = {each.gateway for one in settings.pool.sets for each in one.ranges}
    return {
        one
        for one in own_addresses()
        if _is_chosen(settings, one) and one not in gateways and _block_of(settings, *one) in wanted
    }


def own_addresses() -> list[tuple[int, int]]:
    """Return (family, integer) of the addresses in this process's namespace (the node's)."""
    return rtnetlink.addresses()


def _is_chosen(settings: Settings, address: tuple[int, int]) -> bool:
    """Return whether an address is in a podCIDR: a block that this node did not choose."""
    pool = settings.geometry_of(*address)
    return pool is not None and not settings.may_claim(pool)


def _enter_own(node: Node, family: int, value: int, done: Recovered) -> None:
    """Store a lease of an address that the node itself has, so that no pod gets the address."""
    done.entered.append((family, value))
    try:
        node.share.adopt_running(Requester(f"{FOUND}on-the-node", ""), family, value)
    except AddressInUse as error:
        done.remarks.append(error.message)


def _is_of(lease: Lease, netns: Netns) -> bool:
    """Return whether a lease names this namespace, by inode and by path: inodes are reused."""
    there = identity(lease.netns) if lease.netns else None
    return lease.inode == netns.inode and there is not None and there[1] == netns.inode


def _block_of(settings: Settings, family: int, value: int) -> BlockId | None:
    pool = settings.geometry_of(family, value)
    if pool is None:
        return None
    number = pool.number(value)
    return None if number is None else (family, pool.address(number))
