"""The result of ADD in the shape that each version of the specification gives it.

An IPAM plugin's result is abbreviated (CNI 1.1.0, "Delegated plugins"): no ``interfaces``, and no
``interface`` index on an address.
"""

from __future__ import annotations

from fastipam.addressing.addresses import V4, V6, format_ip
from fastipam.configuration import reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastipam.configuration.network import Route, Version
    from fastipam.lease import Lease


class Answers:
    """The results of one configuration, which differ only in their addresses."""

    __slots__ = ("_routes", "_texts", "_version")

    def __init__(self, version: Version, routes: Sequence[Route]) -> None:
        self._version = version
        self._routes = routes
        # By the gateways of the leases: the text before, between and after their addresses.
        self._texts: dict[tuple[tuple[int, int] | None, ...], list[str]] = {}

    def encode(self, leases: Sequence[Lease], dns: dict[str, Any]) -> bytes:
        """Return the encoded result. O(leases); O(routes) for gateways that are new."""
        if dns or self._version < (0, 3, 0):  # a file says it; not every lease has a place
            return reader.encode(build(self._version, leases, self._routes, dns)).encode()
        gateways = tuple([lease._router for lease in leases])
        texts = self._texts.get(gateways)
        if texts is None:
            if len(self._texts) >= _MOST_TEXTS:
                self._texts.clear()
            texts = self._texts[gateways] = self.around(
                [(one.family, one._router) for one in leases]
            )
        text = texts[0]
        for lease, behind in zip(leases, texts[1:], strict=True):
            text += lease.cidr + behind
        return text.encode()

    def around(self, sets: Sequence[tuple[int, tuple[int, int] | None]]) -> list[str]:
        """Return the texts before, between and behind the addresses of a result without ``dns``.

        ``sets`` has the family and the gateway of each address.
        """
        blanks = [_Blank(*one) for one in sets]
        return reader.encode(build(self._version, blanks, self._routes, {})).split(_BLANK)


_MOST_TEXTS = 64
_BLANK = "\\u0000"  # NUL as JSON spells it: no address, gateway or route has one


class _Blank:
    """A lease with a blank in place of its address."""

    __slots__ = ("_router", "cidr", "family", "router_text")

    def __init__(self, family: int, router: tuple[int, int] | None) -> None:
        self.family = family
        self.cidr = "\0"
        self._router = router
        self.router_text = None if router is None else format_ip(*router)


def build(
    version: Version, leases: Sequence[Lease | _Blank], routes: Sequence[Route], dns: dict[str, Any]
) -> dict[str, Any]:
    """Return the result object, its keys in libcni's order."""
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
        result["routes"] = [route.document(ROUTE_KEYS) for route in routes]
    return result


_ROUTE_KEYS_0_3 = ("dst", "gw", "mtu", "advmss", "priority", "table", "scope")
ROUTE_KEYS = ("advmss", "dst", "gw", "mtu", "priority", "scope", "table")


def _address(lease: Lease | _Blank) -> dict[str, Any]:
    reader = {"address": lease.cidr}
    if lease._router is not None:
        reader["gateway"] = lease.router_text or ""
    return reader


def _old_address(lease: Lease | _Blank, routes: Sequence[Route]) -> dict[str, Any]:
    reader: dict[str, Any] = {"ip": lease.cidr}
    if lease._router is not None:
        reader["gateway"] = lease.router_text
    if routes:
        reader["routes"] = [route.document(("dst", "gw")) for route in routes]
    return reader
