"""Read the arguments of a caller of the library, and refuse ambiguous ones.

Imported with the library (``fastipam.ipam``), and not by the plugin. Every refusal is a ConfigError
with the argument, the place in it, and the value. A method reads its arguments before it changes
anything.
"""

from __future__ import annotations

from fastipam.addressing.addresses import format_cidr, format_ip, parse_cidr, prefix_bounds
from fastipam.configuration.reader import LONGEST_IFNAME
from fastipam.errors import ConfigError, shown
from fastipam.lease import NO_POD, Requester
from fastipam.namespaces import Netns
from fastipam.network.reading import parse_wanted, text_of
from fastipam.owners import Owner, Pod, fault_of, is_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

    from fastipam.network.reading import Address, Target

# Names of interfaces, without their digits. A pair whose first item is such a name is in the wrong
# order, and is refused.
_INTERFACES = frozenset(("bond", "br", "enp", "eno", "ens", "eth", "lo", "net", "veth", "wlan"))
_DIGITS = "0123456789"
_OWNER_HINT = "an owner is fastipam.Owner(container_id, ifname), or that pair as a tuple"
_POD_HINT = 'write fastipam.Pod("namespace", "name", "uid")'


def read_owners(owners: Iterable[Owner | tuple[str, str]], argument: str) -> list[Owner]:
    """Return the owners that a caller lists. O(owners).

    Each is an :class:`Owner`, or a plain tuple that is clearly (container id, interface).
    """
    given: object = owners
    if isinstance(given, (str, bytes, dict, type, Owner)) or not hasattr(given, "__iter__"):
        raise ConfigError(
            f"{argument} must list owners, not {shown(owners)}",
            field=argument,
            value=owners,
            hint=f"write {argument}=[fastipam.Owner(container_id, ifname)]",
        )
    found: list[Owner] = []
    for one in owners:
        if type(one) is Owner:
            found.append(one)
            continue
        if type(one) is not tuple or len(one) != 2:
            _refuse(one, argument, len(found), "is not an owner")
        container_id, ifname = one
        if not is_text(container_id) or not container_id or "\0" in container_id:
            _refuse(one, argument, len(found), "has no container id as its first item")
        if type(ifname) is not str or not ifname.isalnum() or len(ifname) > LONGEST_IFNAME:
            fault = fault_of(ifname)
            if fault:
                _refuse(one, argument, len(found), f"has no interface as its second item ({fault})")
        if container_id.rstrip(_DIGITS) in _INTERFACES:
            _refuse(
                one, argument, len(found), f"has an interface, {container_id!r}, as its first item"
            )
        found.append(tuple.__new__(Owner, one))
    return found


def _refuse(one: object, argument: str, at: int, fault: str) -> NoReturn:
    place = f"{argument}[{at}]"
    raise ConfigError(f"{place} {fault}: {shown(one)}", field=place, value=one, hint=_OWNER_HINT)


def read_pod(
    pod: Pod | tuple[str, str] | None, argument: str = "pod"
) -> Pod | tuple[str, str, str]:
    """Return namespace, name and UID of a pod, or empty texts for None."""
    if pod is None:
        return NO_POD
    if type(pod) is Pod:
        return pod
    if type(pod) is tuple and len(pod) == 2:
        return Pod(*pod)
    raise ConfigError(
        f"{argument} is not a pod: {shown(pod)}", field=argument, value=pod, hint=_POD_HINT
    )


def read_netns(netns: Netns | None) -> Netns | None:
    """Return a network namespace, or None when the caller names none."""
    if netns is None or type(netns) is Netns:
        return netns
    raise ConfigError(
        f"netns is not a Netns: {shown(netns)}",
        field="netns",
        value=netns,
        hint="write netns=fastipam.Netns.of(path)",
    )


def read_requesters(
    owners: Iterable[Owner | tuple[str, str]],
    pods: Sequence[Pod | tuple[str, str] | None] | None,
    netns: Netns | None,
) -> list[Requester]:
    """Return the owners that request addresses, each with its pod. O(owners).

    ``netns`` is the network namespace of all of them.
    """
    listed, place = read_owners(owners, "owners"), read_netns(netns)
    if pods is None:
        return [Requester(*owner, place) for owner in listed]
    if not isinstance(pods, (list, tuple)) or len(pods) != len(listed):
        raise ConfigError(
            f"pods must list one entry for each of {len(listed)} owners, not {shown(pods):.200}",
            field="pods",
            value=pods,
            hint="an entry is a fastipam.Pod, or None",
        )
    known = [read_pod(pod, f"pods[{at}]") for at, pod in enumerate(pods)]
    return [Requester(*owner, place, pod) for owner, pod in zip(listed, known, strict=True)]


def read_addresses(addresses: Iterable[Address]) -> list[tuple[int, int]]:
    """Return the (family, integer) pairs of the addresses that a caller lists."""
    given: object = addresses
    if isinstance(given, (str, bytes, dict, type)) or not (
        hasattr(given, "__iter__") and hasattr(given, "__len__")  # a network of ipaddress has none
    ):
        raise ConfigError(
            f"addresses must list addresses, not {shown(addresses)}",
            field="addresses",
            value=addresses,
            hint=f"give a list: addresses=[{shown(addresses)}]",
        )
    return [parse_wanted(one, f"addresses[{at}]") for at, one in enumerate(addresses)]


def read_target(target: Target) -> str:
    """Return the text of an address, a network or "a-b"."""
    if isinstance(target, str):
        _require_prefix(target)
        return target
    import ipaddress

    if isinstance(target, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return str(target)
    return text_of(target, "target")


def _require_prefix(target: str) -> None:
    """Raise ConfigError for a CIDR with host bits: it may mean the address, or the prefix."""
    try:
        family, value, length = parse_cidr(target)
    except ValueError:
        return  # not a CIDR: the caller parses it, and its error says what is wrong
    first, _ = prefix_bounds(family, value, length)
    if value != first:
        one, prefix = format_ip(family, value), format_cidr(family, first, length)
        raise ConfigError(
            f"target {target!r} is neither an address nor a prefix: it has host bits",
            field="target",
            value=target,
            hint=f"write {one!r} for the address, {prefix!r} for all of its prefix",
        )


def read_name(name: object, field: str = "name") -> str:
    """Return the name of a network, or of a pool."""
    if isinstance(name, str) and name and "\0" not in name:
        return str.__str__(name)  # exactly a str, also for an object of a derived class
    raise ConfigError(
        f"{field} must be a string that is not empty and has no NUL, not {shown(name)}",
        field=field,
        value=name,
        hint="write network(name, ranges)",
    )


# The options of a network that are numbers, and whether they must be whole numbers.
_NUMBERS = {"cooldown_s": False, "sticky_s": True, "history": True, "history_age_s": False}


def check_options(given: dict[str, Any]) -> None:
    """Raise ConfigError for an option of a network that must be a number and is not."""
    for field, whole in _NUMBERS.items():
        number = given.get(field, 0)
        if isinstance(number, bool) or not isinstance(number, int if whole else (int, float)):
            kind = "a whole number" if whole else "a number"
            raise ConfigError(
                f"{field} has to be {kind}, not {shown(number)}", field=field, value=number
            )


def read_texts(given: Iterable[str], field: str) -> tuple[str, ...]:
    """Return a list of texts as a tuple."""
    listed: list[str] = []
    if isinstance(given, (str, bytes, dict, type)) or not hasattr(given, "__iter__"):
        remedy = f"{field}=[{given!r}]" if isinstance(given, str) else f"{field}=[]"
        raise ConfigError(
            f"{field} is {shown(given)}, not a list of strings",
            field=field,
            value=given,
            hint=f"write {remedy}",
        )
    for one in given:
        text: object = one
        if not isinstance(text, str):
            place = f"{field}[{len(listed)}]"
            raise ConfigError(f"{place} must be a string, not {shown(one)}", field=place, value=one)
        listed.append(one)
    return tuple(listed)


def read_seconds(given: float, field: str) -> float:
    """Return a number of seconds as a float."""
    number: object = given
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < 1e9:
        raise ConfigError(
            f"{field} is {shown(given)}, not a number of seconds", field=field, value=given
        )
    return float(number)


def check_generation(generation: object) -> None:
    """Raise ConfigError unless this is a whole number, as a generation is."""
    if type(generation) is not int:
        raise ConfigError(
            f"generation must be a whole number, not {shown(generation)}",
            field="generation",
            value=generation,
            hint="Lease.generation is one",
        )


def read_text(text: object, field: str) -> str:
    """Return a text that can be stored in a record: a string without NUL."""
    if not isinstance(text, str):
        raise ConfigError(f"{field} must be a string, not {shown(text)}", field=field, value=text)
    if "\0" in text:
        raise ConfigError(f"{field} contains NUL", field=field, value=text)
    return str.__str__(text)
