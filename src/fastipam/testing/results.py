"""The content of an ADD's result, independent of the CNI version."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network

from fastipam.cni import versions
from fastipam.testing.requests import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.testing.requests import Result

_OLD = (0, 3, 0)  # older versions have one address for each family, with routes in the address


@dataclass(frozen=True)
class Contents:
    """The content of a result.

    ``addresses`` has pairs: an address with its prefix length, and a gateway or None. ``routes``
    are objects as in version 0.3.0 and later. Addresses are text in canonical form. IPv4 comes
    first; otherwise the order is the result's. Interfaces are left out: an IPAM plugin has none.
    """

    addresses: list[tuple[str, str | None]]
    routes: list[dict[str, Any]]
    dns: dict[str, Any]


def contents(result: Result) -> Contents:
    """Return the content of a result of any version. Raises AssertionError for an error object."""
    document = read(result)
    if _version(document) < _OLD:
        old = [document[key] for key in ("ip4", "ip6") if key in document]
        ips = [{"address": one["ip"], **one} for one in old]
        routes = [route for one in old for route in one.get("routes", ())]
    else:
        ips, routes = document.get("ips", []), document.get("routes") or []
    addresses = [(str(ip_interface(one["address"])), _gateway(one.get("gateway"))) for one in ips]
    return Contents(
        sorted(addresses, key=lambda one: ip_interface(one[0]).version),
        sorted(map(_route, routes), key=lambda one: ip_network(one["dst"]).version),
        document.get("dns") or {},
    )


def assert_same_result(actual: Result, expected: Result) -> None:
    """Compare two results of any versions: addresses, gateways, routes and DNS.

    If one of them is of a version before 0.3.0, only destination and gateway of routes are
    compared, because such a result has no other fields of routes. Raises AssertionError, with a
    line for each difference.
    """
    ours, theirs = contents(actual), contents(expected)
    if min(_version(read(actual)), _version(read(expected))) < _OLD:
        ours, theirs = _as_old(ours), _as_old(theirs)
    lines = []
    for field in ("addresses", "routes", "dns"):
        one, other = getattr(ours, field), getattr(theirs, field)
        if one != other:
            lines += [f"{field}: {one!r}", f"{' ' * len(field)}  expected {other!r}"]
    if lines:
        raise AssertionError("\n".join(["the results differ", *lines]))


def _version(document: dict[str, Any]) -> tuple[int, int, int]:
    return versions.parse(document.get("cniVersion", "")) or (0, 1, 0)


def _gateway(text: str | None) -> str | None:
    return str(ip_address(text)) if text else None


def _route(route: dict[str, Any]) -> dict[str, Any]:
    changed = {"dst": str(ip_network(route["dst"], strict=False))}
    if route.get("gw"):
        changed["gw"] = str(ip_address(route["gw"]))
    return {key: value for key, value in (route | changed).items() if value is not None}


def _as_old(said: Contents) -> Contents:
    kept: list[dict[str, Any]] = [
        {key: one[key] for key in one if key in ("dst", "gw")} for one in said.routes
    ]
    return replace(said, routes=kept)
