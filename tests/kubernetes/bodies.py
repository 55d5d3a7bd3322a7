"""Objects of fastipam.io as the tests write them, each complete and valid."""

from __future__ import annotations

import ipaddress
from typing import Any

VERSION = "fastipam.io/v1alpha1"
_WINDOW_BITS = 8


def block_name(cidr: str) -> str:
    """The name of a block's object."""
    return cidr.replace(".", "-").replace(":", "-").replace("/", "-")


def pool(name: str, cidr: str, block_size: int, **spec: Any) -> dict[str, Any]:
    """An AddressPool."""
    return _object("AddressPool", name, {"cidr": cidr, "blockSize": block_size, **spec})


def block(cidr: str, node: str, **spec: Any) -> dict[str, Any]:
    """An AddressBlock that the node claims in its first epoch."""
    network = ipaddress.ip_network(cidr)
    window = network.supernet(new_prefix=max(network.prefixlen - _WINDOW_BITS, 0))
    told = {"cidr": cidr, "pool": "default", "window": str(window), "node": node, "epoch": 1}
    return _object("AddressBlock", block_name(cidr), told | spec)


def node(name: str, **spec: Any) -> dict[str, Any]:
    """An AddressNode in its first epoch."""
    return _object("AddressNode", name, {"incarnation": "store-1", "epoch": 1, **spec})


def request(name: str, **spec: Any) -> dict[str, Any]:
    """An AddressRequest for one block."""
    told = {"number": 1, "pool": "default", "blocks": 1, "epoch": 1}
    return _object("AddressRequest", name, told | spec)


def lease(name: str) -> dict[str, Any]:
    """A Lease, held by whom it is named after."""
    spec = {"holderIdentity": name, "leaseDurationSeconds": 120}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": spec,
    }


def answered(by: str, *blocks: str) -> dict[str, Any]:
    """The status of a request that a node has answered."""
    return {"answeredBy": by, "blocks": list(blocks)}


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
