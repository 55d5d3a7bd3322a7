"""The rules of masquerading as a text that the program ``nft`` reads."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import TYPE_CHECKING

from fastipam.addressing.addresses import V4, V6

if TYPE_CHECKING:
    from collections.abc import Iterable

    Prefix = tuple[int, int, int]  # family, first address, length

FAMILIES = {V4: "ip", V6: "ip6"}
NAME = "fastipam"  # the name of the tables; no other table is read or changed
# After the chains of kube-proxy and of other plugins (srcnat is 100): their decisions stay.
_PRIORITY = "srcnat + 5"
_TYPES = {V4: "ipv4_addr", V6: "ipv6_addr"}
# Destinations, besides the pools, to which no packet is masqueraded: loopback, link-local,
# multicast and broadcast addresses. ``nft`` prints them in this order.
_SPARED = {
    V4: "127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4, 255.255.255.255",
    V6: "::1, fe80::/10, ff00::/8",
}


def spared(family: int, prefixes: Iterable[Prefix]) -> list[str]:
    """Return the pools' addresses of one family as the smallest list of CIDRs, in order."""
    if family == V4:
        four = (IPv4Network((base, length)) for its, base, length in prefixes if its == V4)
        return [str(one) for one in collapse_addresses(four)]
    six = (IPv6Network((base, length)) for its, base, length in prefixes if its == V6)
    return [str(one) for one in collapse_addresses(six)]


def table(family: int, cidrs: Iterable[str]) -> str:
    """Return the table of one family, as ``nft -s list table`` prints it."""
    word = FAMILIES[family]
    listed = ", ".join(cidrs)
    rule = f"{word} saddr @pools {word} daddr != @pools {word} daddr != {{ {_SPARED[family]} }}"
    return f"""table {word} {NAME} {{
	set pools {{
		type {_TYPES[family]}
		flags interval
		elements = {{ {listed} }}
	}}

	chain postrouting {{
		type nat hook postrouting priority {_PRIORITY}; policy accept;
		{rule} masquerade
	}}
}}
"""


def change(tables: dict[int, str]) -> str:
    """Return the commands that replace the tables of these families; "" if there are none."""
    lines = []
    for family, text in sorted(tables.items()):
        # ``delete`` fails without a table, and ``destroy`` is too new for the nodes' kernels.
        lines.append(f"add table {FAMILIES[family]} {NAME}")
        lines.append(f"delete table {FAMILIES[family]} {NAME}")
        lines.append(text)
    return "\n".join(lines) + "\n"


def plain(listed: str) -> str:
    """Return a table in a normal form, so that equal tables compare equal."""
    return " ".join(listed.split())
