"""The addresses at which other nodes reach this one."""

from __future__ import annotations

from fastipam.addressing.addresses import format_ip, parse_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.configuration.cluster import Settings


def own_addresses(settings: Settings, towards: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    """Return the addresses of this node: those in the settings, if there are any.

    Otherwise return the address from which this node reaches the shared store (``towards``). If the
    pools have the other family too, an address of that family is added when the same interface has
    one.
    """
    if settings.addresses:
        return settings.addresses
    found = towards()
    families = {parse_ip(one)[0] for one in found}
    if len(families) != 1 or families.issuperset(one.family for one in settings.geometries):
        return found
    from fastipam import rtnetlink  # importing it takes longer than a claim in one family

    try:
        other = rtnetlink.beside(*parse_ip(found[0]))
    except OSError:
        return found
    return found if other is None else (*found, format_ip(*other))
