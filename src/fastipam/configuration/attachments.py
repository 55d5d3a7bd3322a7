"""Read the parts of a request that only GC and CHECK use: valid attachments, ``prevResult``."""

from __future__ import annotations

from fastipam import late_errors as errors
from fastipam.configuration import reader
from fastipam.configuration.network import MOST_ADDRESSES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UNTOUCHED = "nothing was released"


def valid_attachments(document: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the valid attachments that the runtime lists (CNI 1.1.0, "GC"). Raises ConfigError.

    An empty list means that no attachment is valid, and so does null, which a runtime without
    attachments sends. A missing list is refused, because it must never release a whole network. An
    entry that names no attachment is refused too: the attachment that it stands for would be
    released.
    """
    key = reader.ATTACHMENTS
    if key not in document:
        raise errors.ConfigError(
            f"the list of valid attachments is missing: {_UNTOUCHED}",
            field=key,
            value=None,
            hint=f'"{key}": [{{"containerID": "…", "ifname": "eth0"}}, …]; [] means none',
        )
    value = document[key]
    if value is None:
        return set()
    if not isinstance(value, list):
        raise reader.wrong(key, value, "a list")
    valid = set()
    for at, one in enumerate(value):
        path = f"{key}[{at}]"
        if not isinstance(one, dict):
            raise reader.wrong(path, one, "an object with containerID and ifname")
        container_id = reader.text(one, "containerID", path)
        if not reader.is_id(container_id):
            raise _names_nobody(f"{path}.containerID", container_id, "a container id")
        ifname = reader.text(one, "ifname", path)
        if reader.fault_of_ifname(ifname):
            raise _names_nobody(f"{path}.ifname", ifname, "an interface's name")
        valid.add((container_id, ifname))
    return valid


def _names_nobody(field: str, value: str, wanted: str) -> errors.ConfigError:
    message = f"{value!r:.80} is not {wanted}" if value else f"{wanted} is missing"
    return errors.ConfigError(
        f"{message}: {_UNTOUCHED}",
        field=field,
        value=value,
        hint="every entry has a containerID and an ifname, as the ADD had them",
    )


def previous_addresses(document: dict[str, Any]) -> list[tuple[int, int]]:
    """Return the addresses in ``prevResult``, or [] when it is missing."""
    previous = reader.mapping(document, "prevResult", "")
    found = []
    for key in ("ip4", "ip6"):  # the shape before 0.3.0
        old = reader.mapping(previous, key, "prevResult")
        address = reader.address(
            reader.text(old, "ip", f"prevResult.{key}"), f"prevResult.{key}.ip"
        )
        if address is not None:
            found.append(address)
    for at, one in enumerate(reader.listed(previous, "ips", "prevResult", MOST_ADDRESSES)):
        path = f"prevResult.ips[{at}]"
        if not isinstance(one, dict):
            raise reader.wrong(path, one, "an object")
        address = reader.address(reader.text(one, "address", path), f"{path}.address")
        if address is not None:
            found.append(address)
    return found
