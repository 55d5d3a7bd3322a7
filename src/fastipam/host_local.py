"""Read the files in which host-local keeps its leases.

host-local keeps, in a directory a network, one file an address: named by the address, holding the
container id and (since 0.7) the interface, divided by CR LF; ``last_reserved_ip.<set>`` is its
round-robin cursor and ``lock`` what it locks. The tree says nothing about ranges.
"""

from __future__ import annotations

import os

from fastipam.addressing.addresses import parse_ip

DEFAULT_TREE = "/var/lib/cni/networks"
LOCK = "lock"
CURSOR = "last_reserved_ip."
LINE_BREAK = "\r\n"
_LAST_SET = 255  # far more range sets than a configuration has; the cursors are stored in a row


def file_names(directory: str | os.PathLike[str]) -> list[str]:
    """Return the names of a network's files, sorted, without the lock. Raises OSError."""
    return sorted(name for name in os.listdir(directory) if name != LOCK)


def addresses(directory: str | os.PathLike[str]) -> list[tuple[int, int]]:
    """Return (family, integer) of every address that a network has a file of. Raises OSError."""
    found = []
    for name in file_names(directory):
        try:
            found.append(address_of(name))
        except ValueError:
            continue  # a cursor, or nothing of host-local's
    return found


def address_of(name: str) -> tuple[int, int]:
    """Return (family, integer) of the address that names a file. Raises ValueError."""
    return parse_ip(name.replace("_", ":"))


def read(path: str | os.PathLike[str]) -> str:
    """Return the content of a file of the tree. Raises ValueError when it is none, OSError."""
    if os.path.islink(path) or not os.path.isfile(path):
        raise ValueError("this is no file")
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().strip()


def owner_of(content: str) -> tuple[str, str]:
    """Return (container id, interface) from an address' file; the interface may be empty.

    Raises ValueError when there is no container id.
    """
    container_id, _, ifname = content.partition("\n")
    if not container_id.strip():
        raise ValueError("the file is empty: whose address this is, nobody can know")
    return container_id.strip(), ifname.strip()


def set_of_cursor(name: str) -> int | None:
    """Return the number of the range set whose cursor a file has, or None when it has none.

    Raises ValueError when the name says that it is a cursor's and has no such number.
    """
    if not name.startswith(CURSOR):
        return None
    number = name.removeprefix(CURSOR)
    if not number.isascii() or not number.isdigit() or int(number) > _LAST_SET:
        raise ValueError(f"{number!r} is no number of a range set")
    return int(number)
