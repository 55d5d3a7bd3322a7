"""Convert IP addresses between text and (family, integer), without an import.

The rules are those of Go's ``net.ParseIP`` and ``net.ParseCIDR``, because every CNI runtime and
host-local read addresses with them: no leading zeros, no zone, and an IPv4-mapped IPv6 address
*is* the IPv4 address. ``ipaddress`` is used only where a library caller sees an address: the plugin
is started for every pod, and importing ``ipaddress`` takes a third of an interpreter's start.

Every function takes O(1) time and raises :class:`ValueError` with a text that names the value.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

V4 = 4
V6 = 6
BITS = {V4: 32, V6: 128}
_MAPPED_PREFIX = 0xFFFF << 32  # ::ffff:0:0/96, RFC 4291 section 2.5.5.2
_CLASSES: dict[int, type[IPv4Address | IPv6Address]] = {}  # by family; filled by the first to_ip
_HEX = frozenset("0123456789abcdefABCDEF")
_DECIMAL = frozenset("0123456789")
LOOPBACK, MULTICAST = "loopback", "multicast"
# The addresses that no interface can have: ascending (first, last) pairs; _KINDS has their kinds.
# 240.0.0.0/4 is not among them, because Linux can use it, and some clouds give it to pods.
UNUSABLE = {
    V4: (
        (0, 0),
        (127 << 24, (128 << 24) - 1),
        (224 << 24, (240 << 24) - 1),
        ((1 << 32) - 1, (1 << 32) - 1),
    ),
    V6: ((0, 0), (1, 1), (0xFF << 120, (1 << 128) - 1)),
}
_KINDS = {
    V4: ("unspecified", LOOPBACK, MULTICAST, "broadcast"),
    V6: ("unspecified", LOOPBACK, MULTICAST),
}


def _parse_v4(text: str) -> int | None:
    parts = text.split(".")
    if len(parts) != 4:
        return None
    value = 0
    for part in parts:
        if not 0 < len(part) <= 3 or not _DECIMAL.issuperset(part):
            return None
        if part[0] == "0" and len(part) > 1:
            return None
        octet = int(part)
        if octet > 255:
            return None
        value = value << 8 | octet
    return value


def _parse_groups(text: str) -> list[int] | None:
    """Return the 16-bit groups on one side of a ``::``; the last may be a dotted quad."""
    if not text:
        return []
    groups: list[int] = []
    parts = text.split(":")
    for position, part in enumerate(parts):
        if "." in part and position == len(parts) - 1:
            quad = _parse_v4(part)
            if quad is None:
                return None
            groups += (quad >> 16, quad & 0xFFFF)
        elif 0 < len(part) <= 4 and _HEX.issuperset(part):
            groups.append(int(part, 16))
        else:
            return None
    return groups


def _parse_v6(text: str) -> int | None:
    head_text, gap, tail_text = text.partition("::")
    head = _parse_groups(head_text)
    tail = _parse_groups(tail_text)
    if head is None or tail is None or (gap and "." in head_text):
        return None
    missing = 8 - len(head) - len(tail)
    if (gap and missing < 1) or (not gap and missing):
        return None
    value = 0
    for group in head + [0] * missing + tail:
        value = value << 16 | group
    return value


def parse_ip(text: str) -> tuple[int, int]:
    """Return (family, value) of an address. An IPv4-mapped IPv6 address counts as IPv4.

    >>> parse_ip("10.1.2.3"), parse_ip("::ffff:10.1.2.3") == parse_ip("10.1.2.3")
    ((4, 167838211), True)
    """
    if ":" in text:
        value = _parse_v6(text)
        if value is not None:
            if value >> 32 << 32 == _MAPPED_PREFIX:
                return V4, value & 0xFFFFFFFF
            return V6, value
    else:
        value = _parse_v4(text)
        if value is not None:
            return V4, value
    raise ValueError(f"{text!r} is not an IP address")


def parse_value(family: int, text: str) -> int:
    """Return the integer of a text that :func:`format_ip` made for this family.

    Unlike :func:`parse_ip`, an IPv4-mapped IPv6 address stays an IPv6 address.
    """
    value = _parse_v4(text) if family == V4 else _parse_v6(text)
    if value is None:
        raise ValueError(f"{text!r} is not an IPv{family} address")
    return value


def parse_cidr(text: str) -> tuple[int, int, int]:
    """Return (family, value, length) of a CIDR: ``(4, 0x0a010203, 8)`` for ``"10.1.2.3/8"``.

    The value keeps its host bits: the caller decides whether they are an error. An IPv4-mapped
    prefix is refused, because its address and its mask have different families.
    """
    address, slash, length = text.partition("/")
    if not slash:
        raise ValueError(f"{text!r} is not a CIDR: the /length is missing")
    try:
        family, value = parse_ip(address)
    except ValueError:
        raise ValueError(f"{text!r} is not a CIDR") from None
    if family == V4 and ":" in address:
        raise ValueError(f"{text!r} mixes an IPv4 address with an IPv6 mask")
    if not 0 < len(length) <= 3 or not _DECIMAL.issuperset(length):
        raise ValueError(f"{text!r} is not a CIDR: the length {length!r} is not a number")
    bits = int(length)
    if bits > BITS[family]:
        raise ValueError(f"{text!r} is not a CIDR: the length exceeds {BITS[family]}")
    return family, value, bits


def format_ip(family: int, value: int) -> str:
    """Return the text of an address, as RFC 5952, Go and the kernel write it.

    >>> format_ip(4, 0x0a010203), format_ip(6, 0x20010db8 << 96 | 1)
    ('10.1.2.3', '2001:db8::1')
    """
    if family == V4:
        return f"{value >> 24}.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}"
    groups = [value >> shift & 0xFFFF for shift in range(112, -1, -16)]
    best_at, best_length, at = 0, 1, 0  # RFC 5952 section 4.2.2: one zero group is not shortened
    while at < 8:
        end = at
        while end < 8 and groups[end] == 0:
            end += 1
        if end - at > best_length:
            best_at, best_length = at, end - at
        at = end + 1
    texts = [f"{group:x}" for group in groups]
    if best_length < 2:
        return ":".join(texts)
    return ":".join(texts[:best_at]) + "::" + ":".join(texts[best_at + best_length :])


def format_cidr(family: int, value: int, length: int) -> str:
    """Return the text of a CIDR: ``"10.0.0.0/8"`` for ``(4, 0x0a000000, 8)``."""
    return f"{format_ip(family, value)}/{length}"


def prefix_bounds(family: int, value: int, length: int) -> tuple[int, int]:
    """Return the first and the last address of the prefix that holds ``value``."""
    host_bits = BITS[family] - length
    first = value >> host_bits << host_bits
    return first, first + (1 << host_bits) - 1


def unusable(family: int, value: int) -> str:
    """Return the kind of an address that no interface can have, or an empty text for any other.

    >>> unusable(4, 0xE0000001), unusable(4, 0x0A000001)
    ('multicast', '')
    """
    for at, (low, high) in enumerate(UNUSABLE[family]):
        if low <= value <= high:
            return _KINDS[family][at]
    return ""


def to_ip(family: int, value: int) -> IPv4Address | IPv6Address:
    """Return an address as an object of ``ipaddress``."""
    if not _CLASSES:
        import ipaddress

        _CLASSES.update({V4: ipaddress.IPv4Address, V6: ipaddress.IPv6Address})
    return _CLASSES[family](value)
