"""Build the result of an ADD in the shape of each version of the specification.

An IPAM plugin's result is abbreviated (CNI 1.1.0, "Delegated plugins"): no ``interfaces``, and no
``interface`` index on an address.
"""

from __future__ import annotations

from fastipam.addressing.addresses import V4, V6, format_ip
from fastipam.configuration import reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any

    from fastipam.configuration.network import Route, Version
    from fastipam.lease import Lease

    Address = tuple[int, str, str | None]  # family, CIDR, gateway


class Answers:
    """Encodes the results of one configuration, which differ only in their addresses."""

    __slots__ = ("_routes", "_texts", "_version")

    def __init__(self, version: Version, routes: Sequence[Route]) -> None:
        self._version = version
        self._routes = routes
        # The texts before, between and after the addresses, by the gateways of the leases.
        self._texts: dict[tuple[tuple[int, int] | None, ...], list[str]] = {}

    def of_families(self, families: Collection[int]) -> Answers:
        """Return an encoder for results with the routes of these families only."""
        return Answers(self._version, [one for one in self._routes if one[0] in families])

    def encode(self, leases: Sequence[Lease], dns: dict[str, Any]) -> bytes:
        """Return the encoded result. O(leases), and O(routes) for gateways not seen before."""
        # ``dns`` comes from a file and may change; old results leave out some leases.
        if dns or self._version < (0, 3, 0):
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
        """Return the texts before, between and after the addresses of a result without ``dns``.

        ``sets`` has the family and the gateway of each address.
        """
        blanks = [
            (family, "\0", None if router is None else format_ip(*router))
            for family, router in sets
        ]
        return reader.encode(_build(self._version, blanks, self._routes, {})).split(_BLANK)


_MOST_TEXTS = 64
_BLANK = "\\u0000"  # NUL in JSON, the placeholder of an address: no gateway or route contains it


def build(
    version: Version, leases: Sequence[Lease], routes: Sequence[Route], dns: dict[str, Any]
) -> dict[str, Any]:
    """Return the result object, its keys in libcni's order."""
    return _build(version, [(one.family, one.cidr, one.router_text) for one in leases], routes, dns)


def _build(
    version: Version, addresses: Sequence[Address], routes: Sequence[Route], dns: dict[str, Any]
) -> dict[str, Any]:
    result: dict[str, Any] = {"cniVersion": ".".join(map(str, version))}
    if version < (0, 3, 0):
        for family, key in ((V4, "ip4"), (V6, "ip6")):
            address = next((one for one in addresses if one[0] == family), None)
            if address is not None:
                its_routes = [one for one in routes if one[0] == family]
                result[key] = _old_address(address, its_routes)
        result["dns"] = dns
        return result
    if version < (1, 0, 0):
        result["ips"] = [{"version": str(one[0]), **_address(one)} for one in addresses]
        if routes:
            result["routes"] = [route_object(one, _ROUTE_KEYS_0_3) for one in routes]
        result["dns"] = dns
        return result
    if dns:
        result["dns"] = dns
    result["ips"] = [_address(one) for one in addresses]
    if routes:
        result["routes"] = [route_object(one) for one in routes]
    return result


_ROUTE_KEYS = ("advmss", "dst", "gw", "mtu", "priority", "scope", "table")
_ROUTE_KEYS_0_3 = ("dst", "gw", "mtu", "advmss", "priority", "table", "scope")


def route_object(route: Route, keys: tuple[str, ...] = _ROUTE_KEYS) -> dict[str, str | int]:
    """Return those of ``keys`` that the route has, in their order."""
    shown = route[1]
    return {key: shown[key] for key in keys if key in shown}


def _address(address: Address) -> dict[str, Any]:
    _, cidr, gateway = address
    return {"address": cidr} if gateway is None else {"address": cidr, "gateway": gateway}


def _old_address(address: Address, routes: Sequence[Route]) -> dict[str, Any]:
    _, cidr, gateway = address
    shown: dict[str, Any] = {"ip": cidr}
    if gateway is not None:
        shown["gateway"] = gateway
    if routes:
        shown["routes"] = [route_object(one, ("dst", "gw")) for one in routes]
    return shown
