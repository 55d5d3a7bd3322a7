"""The result of ADD in the shape that each version of the specification gives it.

An IPAM plugin's result is abbreviated (CNI 1.1.0, "Delegated plugins"): no ``interfaces``, and no
``interface`` index on an address.
"""

from __future__ import annotations

from fastipam.addresses import V4, V6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastipam.cni.config import Route
    from fastipam.cni.versions import Version
    from fastipam.lease import Lease


def build(
    version: Version, leases: Sequence[Lease], routes: Sequence[Route], dns: dict[str, Any]
) -> dict[str, Any]:
    """The result object, keys in libcni's order."""
    result: dict[str, Any] = {"cniVersion": ".".join(map(str, version))}
    if version < (0, 3, 0):
        for family, key in ((V4, "ip4"), (V6, "ip6")):
            lease = next((one for one in leases if one.family == family), None)
            if lease is not None:
                result[key] = _old_address(lease, [one for one in routes if one.family == family])
        result["dns"] = dns
        return result
    if version < (1, 0, 0):
        result["ips"] = [{"version": str(lease.family), **_address(lease)} for lease in leases]
        if routes:
            result["routes"] = [route.document(_ROUTE_KEYS_0_3) for route in routes]
        result["dns"] = dns
        return result
    if dns:
        result["dns"] = dns
    result["ips"] = [_address(lease) for lease in leases]
    if routes:
        result["routes"] = [route.document(_ROUTE_KEYS_1_0) for route in routes]
    return result


_ROUTE_KEYS_0_3 = ("dst", "gw", "mtu", "advmss", "priority", "table", "scope")
_ROUTE_KEYS_1_0 = ("advmss", "dst", "gw", "mtu", "priority", "scope", "table")


def _address(lease: Lease) -> dict[str, Any]:
    document = {"address": lease.cidr}
    if lease.router is not None:
        document["gateway"] = lease.router_text or ""
    return document


def _old_address(lease: Lease, routes: Sequence[Route]) -> dict[str, Any]:
    document: dict[str, Any] = {"ip": lease.cidr}
    if lease.router is not None:
        document["gateway"] = lease.router_text
    if routes:
        document["routes"] = [route.document(("dst", "gw")) for route in routes]
    return document
