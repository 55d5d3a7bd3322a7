"""The objects of fastipam.io as a node reads and writes them.

=================  ==================  =========================================================
AddressPool        chosen by users     the spec that is in force: ``status.accepted``
AddressBlock       ``10-32-7-0-24``    the owner of a block; a block without an object is free
AddressNode        the Node's name     who the node is: incarnation, epoch, boot, addresses
AddressRequest     the Node's name     a node in need, and the node that has answered it
=================  ==================  =========================================================

An object that cannot be read raises ClusterCorrupt: the server checks each object, so somebody has
changed the CRDs. deploy/chart/files/crds.yaml describes every field.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from fastipam.addressing.addresses import BITS, format_cidr, parse_cidr
from fastipam.cluster.errors import ClusterCorrupt
from fastipam.cluster.registries.kubernetes.calls import Kind
from fastipam.cluster.registry import Request
from fastipam.cluster.schema import BlockEntry, Mark, NodeEntry
from fastipam.configuration.address_pools import DELETING, AddressPool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastipam.cluster.registry import Condition
    from fastipam.cluster.schema import BlockId

VERSION = "fastipam.io/v1alpha1"
_GROUP = f"/apis/{VERSION}"
POOLS = Kind(_GROUP, "addresspools")
# A node uses a new block only if it has read the pools within this time (I9). A pool that is being
# deleted is kept for longer, so that the controller reads the block before the pool is gone.
POOLS_FRESH_S = 5.0
BLOCKS = Kind(_GROUP, "addressblocks")
NODES = Kind(_GROUP, "addressnodes")
REQUESTS = Kind(_GROUP, "addressrequests")
MACHINES = Kind("/api/v1", "nodes")  # Node objects, which the kubelets write
NAMESPACES = Kind("/api/v1", "namespaces")
# The namespace of the Leases: the manifests set it in a pod, and an operator in a shell.
NAMESPACE = os.environ.get("FASTIPAM_NAMESPACE") or "fastipam-system"
LEASES = Kind("/apis/coordination.k8s.io/v1", "leases", NAMESPACE)
EVENTS = Kind("/api/v1", "events", "default")  # the namespace of cluster-scoped objects' events
REMOVED = "fastipam.io/removed"  # an annotation of a tombstone: when it was written
_LONGEST_MESSAGE = 1024  # of a condition, in characters
WINDOW_BITS = 8  # a window: the aligned 256 blocks around a block
_ODD = (KeyError, TypeError, ValueError, AttributeError)


def block_name(cidr: str) -> str:
    """Return the name of a block's object."""
    return cidr.replace(".", "-").replace(":", "-").replace("/", "-")


def window_of(family: int, base: int, length: int) -> str:
    """Return the CIDR of the window that a block of this prefix length lies in."""
    wide = max(0, length - WINDOW_BITS)
    low = BITS[family] - wide
    return format_cidr(family, base >> low << low, wide)


def version_of(found: dict[str, Any]) -> int:
    """Return the version of an object as a number; the API's are integers that grow."""
    try:
        return int(found["metadata"]["resourceVersion"])
    except _ODD:
        raise _corrupt(found, "metadata.resourceVersion") from None


def name_of(found: dict[str, Any]) -> str:
    """Return the name of an object."""
    try:
        return str(found["metadata"]["name"])
    except _ODD:
        raise _corrupt(found, "metadata.name") from None


def uid_of(found: dict[str, Any]) -> str:
    """Return the uid of an object: an object that was created again has another uid."""
    return str(found.get("metadata", {}).get("uid") or "")


def identity_of(found: dict[str, Any]) -> tuple[str, int]:
    """Return uid and generation of an object; a write of its spec changes one of them."""
    return uid_of(found), int(found.get("metadata", {}).get("generation") or 0)


def _object(kind: str, name: str, version: int = 0) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if version:
        metadata["resourceVersion"] = str(version)
    return {"apiVersion": VERSION, "kind": kind, "metadata": metadata}


# Blocks ---------------------------------------------------------------------------------------


class Place:
    """A block as the API names it: its CIDR, its pool, its window.

    ``is_gone``: the pool is not in force any more.
    """

    __slots__ = ("cidr", "family", "is_gone", "pool", "window")

    def __init__(
        self, family: int, base: int, length: int, pool: str, *, is_gone: bool = False
    ) -> None:
        self.family = family
        self.is_gone = is_gone
        self.cidr = format_cidr(family, base, length)
        self.pool = pool
        self.window = window_of(family, base, length)

    @property
    def name(self) -> str:
        """The name of its object."""
        return block_name(self.cidr)


def block(
    place: Place,
    node: str,
    epoch: int,
    claimed_ns: int,
    *,
    via: Sequence[str] = (),
    grant: dict[str, Any] | None = None,
    version: int = 0,
) -> dict[str, Any]:
    """Return the object of a block; with ``version`` it replaces the one that has this version."""
    made = _object("AddressBlock", place.name, version)
    made["spec"] = {
        "cidr": place.cidr,
        "pool": place.pool,
        "window": place.window,
        "node": node,
        "epoch": epoch,
        "claimed": claimed_ns,
        "via": list(via),
    }
    if grant:
        made["spec"]["grant"] = grant
    return made


def stamped(found: dict[str, Any], epoch: int, via: Sequence[str]) -> dict[str, Any]:
    """Return a block's object with another epoch and address of its owner."""
    made = _object("AddressBlock", name_of(found), version_of(found))
    made["spec"] = {**found["spec"], "epoch": epoch, "via": list(via)}
    return made


def read_block(found: dict[str, Any]) -> tuple[BlockId, BlockEntry]:
    """Return a block and its owner. Raises ClusterCorrupt."""
    try:
        spec = found["spec"]
        family, base, _ = parse_cidr(spec["cidr"])
        grant = spec.get("grant") or {}
        entry = BlockEntry(
            str(spec["node"]),
            int(spec["epoch"]),
            int(spec.get("claimed") or 0),
            int(grant.get("number") or 0),
            version_of(found),
            via=tuple(map(str, spec.get("via") or ())),
        )
    except _ODD:
        raise _corrupt(found, "spec") from None
    return (family, base), entry


def length_of(found: dict[str, Any]) -> int:
    """Return the prefix length of a block that :func:`read_block` could read."""
    return parse_cidr(found["spec"]["cidr"])[2]


def pod_cidrs(machine: dict[str, Any]) -> tuple[str, ...]:
    """Return the podCIDRs of a Node object, one of each family at most."""
    spec = machine.get("spec") or {}
    listed = spec.get("podCIDRs") or [spec.get("podCIDR")]
    found = []
    for one in listed:
        with suppress(ValueError, TypeError, AttributeError):
            parse_cidr(one)
            found.append(one)
    return tuple(found)


# Nodes ----------------------------------------------------------------------------------------


def node(
    name: str, entry: NodeEntry, *, machine_uid: str = "", lease: str = "", version: int = 0
) -> dict[str, Any]:
    """Return the object of a node; with ``version`` it replaces the one that has this version.

    ``machine_uid`` is the uid of the Node object, ``lease`` the uid of the node's Lease.
    """
    made = _object("AddressNode", name, version)
    made["spec"] = {
        "incarnation": entry.incarnation,
        "epoch": entry.epoch,
        "boot": entry.boot,
        "addresses": list(entry.addresses),
        "agent": entry.agent,
    }
    if machine_uid:
        made["spec"]["nodeUID"] = machine_uid
    if lease:
        made["spec"]["lease"] = lease
    return made


def lease_of(found: dict[str, Any]) -> str:
    """Return the uid of the Lease that a node's entry names, "" without fencing."""
    return str(found.get("spec", {}).get("lease") or "")


def machine_of(found: dict[str, Any]) -> str:
    """Return the uid of the Node object that a node's entry names, "" when it names none."""
    return str(found.get("spec", {}).get("nodeUID") or "")


def tombstone(name: str, entry: NodeEntry, removed_s: float, *, version: int = 0) -> dict[str, Any]:
    """Return the entry of a node that was removed at ``removed_s``, in seconds since 1970."""
    made = node(name, entry, version=version)
    made["metadata"]["annotations"] = {REMOVED: stamp(removed_s)}
    return made


def stamp(seconds: float) -> str:
    """Return a time, in seconds since 1970, as the API writes it: to the second, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def read_stamp(text: object) -> float | None:
    """Return a time as seconds since 1970, None when the text is not a time."""
    from calendar import timegm  # only the controller reads one

    try:
        return float(timegm(time.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return None


def read_node(found: dict[str, Any]) -> NodeEntry:
    """Return a node's entry. Raises ClusterCorrupt."""
    try:
        spec = found["spec"]
        return NodeEntry(
            str(spec["incarnation"]),
            int(spec["epoch"]),
            str(spec.get("boot") or ""),
            tuple(map(str, spec.get("addresses") or ())),
            agent=bool(spec.get("agent")),
        )
    except _ODD:
        raise _corrupt(found, "spec") from None


def usage(uses: dict[str, tuple[int, int, int]]) -> dict[str, Any]:
    """Return a node's status; ``uses`` has blocks, used and free addresses by the pool's name."""
    blocks, used, free = (sum(one[at] for one in uses.values()) for at in range(3))
    return {
        "blocks": blocks,
        "used": used,
        "free": free,
        "state": "Active" if blocks else "Joining",
        "pools": [
            {"name": name, "blocks": one[0], "used": one[1], "free": one[2]}
            for name, one in sorted(uses.items())
        ],
    }


def condition(kind: str, told: Condition, since: str) -> dict[str, Any]:
    """Return a condition; ``since`` is when its status last changed."""
    is_so, reason, message = told
    return {
        "type": kind,
        "status": "True" if is_so else "False",
        "reason": reason,
        "message": message[:_LONGEST_MESSAGE],
        "lastTransitionTime": since,
    }


def read_uses(found: dict[str, Any]) -> tuple[tuple[str, int, int], ...]:
    """Return pool, used and free addresses from a node's status; nothing if it is malformed."""
    try:
        listed = (found.get("status") or {}).get("pools") or ()
        return tuple((str(one["name"]), int(one["used"]), int(one["free"])) for one in listed)
    except _ODD:
        return ()


# Requests -------------------------------------------------------------------------------------


def request(name: str, mark: Mark, cidrs: Sequence[str] = ()) -> dict[str, Any]:
    """Return the object of a request; ``cidrs`` are the blocks that it names."""
    made = _object("AddressRequest", name)
    made["spec"] = {
        "number": mark.number,
        "pool": mark.pool,
        "blocks": mark.blocks,
        "epoch": mark.epoch,
    }
    if cidrs:
        made["spec"]["cidrs"] = list(cidrs)
    return made


def as_told(told: Request) -> dict[str, Any]:
    """Return the metadata of a request that was read, for replacing its status."""
    made = _object("AddressRequest", told.needy, told.revision)
    made["metadata"]["uid"] = told.uid
    return made


def answered_by(found: dict[str, Any]) -> str:
    """Return the node that has answered a request, "" while none has."""
    status = found.get("status")
    return str(status.get("answeredBy") or "") if isinstance(status, dict) else ""


def given(found: dict[str, Any]) -> list[str]:
    """Return the names of the blocks with which a request was answered."""
    status = found.get("status")
    listed = status.get("blocks") if isinstance(status, dict) else None
    return [str(one) for one in listed or ()]


def answer(found: dict[str, Any], donor: str, names: Sequence[str]) -> dict[str, Any]:
    """Return a request with its answer, for replacing its status."""
    return {**found, "status": {"answeredBy": donor, "blocks": list(names)}}


def read_request(found: dict[str, Any], families: dict[str, int]) -> Request:
    """Return a request; ``families`` has the family of each pool. Raises ClusterCorrupt."""
    try:
        spec = found["spec"]
        mark = Mark(
            int(spec["number"]),
            int(spec["blocks"]),
            int(spec["epoch"]),
            families.get(str(spec["pool"]), 0),
            tuple(parse_cidr(one)[:2] for one in spec.get("cidrs") or ()),
            str(spec["pool"]),
        )
    except _ODD:
        raise _corrupt(found, "spec") from None
    return Request(name_of(found), mark, version_of(found), uid_of(found))


# Pools ----------------------------------------------------------------------------------------


def read_pool(found: dict[str, Any]) -> AddressPool | None:
    """Return a pool as it is in force, None before it was accepted. Raises ConfigError.

    A pool that is being deleted gives no new address.
    """
    status = found.get("status")
    accepted = status.get("accepted") if isinstance(status, dict) else None
    if not isinstance(accepted, dict) or not isinstance(accepted.get("spec"), dict):
        return None
    spec = dict(accepted["spec"])
    if found["metadata"].get("deletionTimestamp"):
        spec[DELETING] = True
    return AddressPool(name_of(found), spec)


def own_address(texts: Sequence[str], family: int) -> list[str]:
    """Return a node's first address of a family, else its first one, as the list ``via``."""
    for text in texts:
        if (":" in text) == (family == 6):
            return [text]
    return list(texts[:1])


def _corrupt(found: object, field: str) -> ClusterCorrupt:
    return ClusterCorrupt(
        f"an object of the Kubernetes API cannot be read, {field}: {found!r:.200}",
        hint="upgrade the CRDs to this version: upgrade the chart, or kubectl apply "
        "--server-side -f deploy/kubernetes/fastipam.yaml",
    )
