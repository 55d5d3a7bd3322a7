"""Fixed addresses from an annotation: the n-th address of each family is for the n-th pod.

The annotation is in the pod template of a StatefulSet, so all its pods have the same list. The
number at the end of a pod's name selects the pod's address, so nothing has to be stored.
"""

from __future__ import annotations

from fastipam.addressing.addresses import format_ip
from fastipam.cni.pod_annotations import ADDRESSES
from fastipam.errors import ConfigError, FastipamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Area = tuple[int, int, int]  # family, first, last address

_FIELD = f"pod annotation {ADDRESSES}"
_LONGEST = 253  # digits of a pod's number: a name has no more characters
_HINT = (
    "web-0 gets the first address of each family, web-1 the second: list one for every pod of "
    "the StatefulSet; a Deployment's pods have no ordinals"
)


def addresses(areas: Sequence[Area], pod_name: str) -> list[tuple[int, int]]:
    """Return the pod's (family, address) of each family in a list. O(areas).

    A pod without a number gets the only address of each family. Raises ConfigError when the pod's
    number is beyond the list, and when a pod has no number and the list has several addresses.
    """
    if not areas:
        return []
    number = ordinal(pod_name)
    found = []
    for family in dict.fromkeys(area[0] for area in areas):
        mine = [(first, last) for its_family, first, last in areas if its_family == family]
        count = sum(last - first + 1 for first, last in mine)
        if number is None and count > 1:
            why = (
                f"the name of pod {pod_name} does not end with an ordinal"
                if pod_name
                else "the request names no pod"
            )
            raise ConfigError(
                f"{count} IPv{family} addresses are listed, but {why}, which selects one of them",
                field=_FIELD,
                value=pod_name,
                hint=_HINT,
            )
        if number is not None and number >= count:
            raise ConfigError(
                f"the pod {pod_name} has ordinal {number}, but only {count} IPv{family} "
                f"address{'es are' if count > 1 else ' is'} listed "
                f"({'ordinal 0' if count == 1 else f'ordinals 0 to {count - 1}'})",
                field=_FIELD,
                value=number,
                hint=_HINT,
            )
        found.append((family, _nth(mine, number or 0)))
    return found


def name_annotation(error: FastipamError, listed: Sequence[tuple[int, int]]) -> None:
    """Name the annotation in an error about an address that comes from the annotation."""
    named = {word.rstrip(",;:") for word in error.message.split()}
    named.update(getattr(error, "addresses", ()))
    if not named.isdisjoint(format_ip(*one) for one in listed):
        error.message = f"{_FIELD}: {error.message}"
        error.args = (error.message,)


def ordinal(pod_name: str) -> int | None:
    """Return the number at the end of a pod's name, or None when there is none.

    >>> ordinal("web-12"), ordinal("web-7f9c4"), ordinal("web")
    (12, None, None)
    """
    _, dash, digits = pod_name.rpartition("-")
    if not dash or not (digits.isascii() and digits.isdigit()) or len(digits) > _LONGEST:
        return None
    return int(digits)


def _nth(areas: Sequence[tuple[int, int]], number: int) -> int:
    for first, last in areas:
        if number <= last - first:
            return first + number
        number -= last - first + 1
    raise AssertionError("there are fewer addresses than were counted")
