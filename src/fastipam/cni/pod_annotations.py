"""Read the annotations of a pod that choose its addresses, as the runtime passes them.

containerd and CRI-O put all annotations of a pod under ``runtimeConfig`` when the plugin's
configuration has the capability CAPABILITY, so no request to the Kubernetes API is needed. The
annotations differ from pod to pod. So they are cut out of the input, and the rest of the input,
which is the same for all pods, is decoded once. Only an ADD uses the annotations. This module is
imported only when a request has some.
"""

from __future__ import annotations

from fastipam import late_errors as errors
from fastipam.addressing.addresses import V4, V6, format_cidr, format_ip, parse_cidr
from fastipam.configuration import reader
from fastipam.configuration.pool_name import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CAPABILITY = "io.kubernetes.cri.pod-annotations"
# Annotation keys are compared with their case, as Kubernetes does.
ADDRESSES, POOL, FAMILIES = (f"fastipam.io/{one}" for one in ("addresses", "pool", "families"))
_KEY = f'"{CAPABILITY}"'.encode()
_SPACE = b" \t\n\r"
# A pod's annotations have 256 KiB at most; JSON's escapes can make them six times as long.
_LARGEST = 2 << 20
_MOST_POOLS = 64
_FAMILIES = {"v4": V4, "v6": V6}


class Choice:
    """The choices in annotations. Equal choices compare equal; an empty field chooses nothing.

    ``addresses`` has (family, first, last) for each address, CIDR or range, in the order of the
    annotation. ``pools`` are names of AddressPools, the preferred one first. ``families`` are the
    address families of which the pod gets an address.
    """

    __slots__ = ("addresses", "families", "pools")

    def __init__(
        self,
        addresses: tuple[tuple[int, int, int], ...] = (),
        pools: tuple[str, ...] = (),
        families: frozenset[int] = frozenset(),
    ) -> None:
        self.addresses = addresses
        self.pools = pools
        self.families = families

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choice) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self.addresses, self.pools, self.families


NOTHING = Choice()
SILENT = None, None, None  # the result of said() for annotations that choose nothing


def cut(stdin: bytes) -> tuple[bytes, dict[str, Any] | None]:
    """Return a request's input without the pod's annotations, and the annotations, or None.

    Annotations that cannot be read stay in the input; decoding the input raises the error later.
    """
    at = -1
    while (at := stdin.find(_KEY, at + 1)) >= 0:
        rest = stdin[at + len(_KEY) :].lstrip(_SPACE)
        if rest.startswith(b":") and (rest := rest[1:].lstrip(_SPACE)).startswith(b"{"):
            break  # otherwise it is the key in "capabilities", whose value is true
    if at < 0 or len(rest) > _LARGEST:
        return stdin, None
    try:
        found, size = reader.decode_first(rest)
    except errors.DecodingError:
        return stdin, None
    begin = len(stdin) - len(rest)
    return b"".join((stdin[:begin], b"{}", stdin[begin + size :])), found


def of_pod(document: dict[str, Any], raw: bytes, found: dict[str, Any] | None) -> dict[str, Any]:
    """Return a pod's annotations. ``found`` are those that :func:`cut` took from its request.

    ``raw`` is the input that :func:`cut` has left, and ``document`` is ``raw`` decoded. Annotations
    that were not cut are decoded again from ``raw``, because the keys in ``document`` are
    case-folded. Raises ConfigError.
    """
    runtime = document.get("runtimeconfig")
    if type(runtime) is dict and runtime.get(CAPABILITY) == {} and found is not None:
        return found
    if not reader.mapping(
        reader.mapping(document, "runtimeConfig", ""), CAPABILITY, "runtimeConfig"
    ):
        return {}
    import json

    left: Any = json.loads(raw)
    for key in ("runtimeConfig", CAPABILITY):
        wanted = key.casefold()
        left = [value for name, value in left.items() if name.casefold() == wanted][-1]
    return {key: value for key, value in left.items() if value is not None}


def said(found: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return the texts that choose addresses, pools and families, each None when it is absent."""
    return found.get(ADDRESSES), found.get(POOL), found.get(FAMILIES)


def choice(found: dict[str, Any], whose: str) -> Choice:
    """Return the choice in annotations. Raises ConfigError, with ``whose`` before their names."""
    if said(found) == SILENT:
        return NOTHING
    return Choice(
        _areas(found, whose),
        tuple(dict.fromkeys(pool_names(found, whose))),
        _families(found, whose),
    )


def pool_names(found: dict[str, Any], whose: str) -> list[str]:
    """Return the pools that the annotation names, in its order, or [] when it is absent."""
    field = f"{whose} {POOL}"
    words = _words(found, POOL, whose, _MOST_POOLS)
    for name in words:
        check_name(name, field)
    return words


def _families(found: dict[str, Any], whose: str) -> frozenset[int]:
    words = _words(found, FAMILIES, whose, len(_FAMILIES))
    for one in words:
        if one not in _FAMILIES:
            raise errors.ConfigError(
                f"{reader.show(one)} is not a valid address family",
                field=f"{whose} {FAMILIES}",
                value=one,
                hint="write v4, v6, or v4,v6",
            )
    return frozenset(_FAMILIES[one] for one in words)


def _areas(found: dict[str, Any], whose: str) -> tuple[tuple[int, int, int], ...]:
    """Return the listed addresses. Raises ConfigError if two pods would get the same address."""
    field = f"{whose} {ADDRESSES}"
    areas = tuple(_area(one, field) for one in _words(found, ADDRESSES, whose, reader.MOST_ENTRIES))
    last: tuple[int, int, int] = (0, 0, -1)
    for area in sorted(areas):
        if area[0] == last[0] and area[1] <= last[2]:
            text = format_ip(area[0], area[1])
            raise errors.ConfigError(
                f"{text} is listed twice, so two pods would get the same address",
                field=field,
                value=text,
            )
        last = area
    return areas


def _area(text: str, field: str) -> tuple[int, int, int]:
    """Return (family, first, last) of an address, a CIDR or a range."""
    family, low, high = reader.exclusion(text, field)
    if "/" in text:
        _, value, length = parse_cidr(text)
        address, _, written = text.partition("/")
        if written != str(length):  # a leading zero, which Kubernetes does not accept either
            raise errors.ConfigError(
                f"{text!r} has a prefix length with a leading zero",
                field=field,
                value=text,
                hint=f"write {address}/{length}",
            )
        if value != low:
            raise errors.ConfigError(
                f"{text!r} has host bits set: as a CIDR it would mean all of "
                f"{format_cidr(family, low, length)}",
                field=field,
                value=text,
                hint=f"write the address alone, or {format_cidr(family, low, length)}",
            )
    return family, low, high


def _words(found: dict[str, Any], key: str, whose: str, most: int) -> list[str]:
    """Return the comma-separated words of an annotation, or [] when it is absent."""
    field = f"{whose} {key}"
    text = found.get(key)
    if text is None:
        return []
    if not isinstance(text, str):
        raise reader.wrong(field, text, "a string")
    words = [one.strip() for one in text.split(",")]
    if len(words) > most:
        raise errors.ConfigError(
            f"{len(words)} entries are listed, but at most {most} are allowed",
            field=field,
            value=len(words),
        )
    if not all(words):
        what = (
            "the annotation is empty"
            if len(words) == 1
            else f"{reader.show(text)} has an empty entry"
        )
        raise errors.ConfigError(
            what,
            field=field,
            value=text,
            hint="remove the annotation, or write values with commas between them",
        )
    return words
