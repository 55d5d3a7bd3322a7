"""Read the files in which host-local keeps its leases.

host-local's tree has one directory per network, and in it one file per address. The file is named
after the address, and has the container id and (since 0.7) the interface, separated by CR LF. The
file ``last_reserved_ip.<set>`` is the round-robin cursor of a range set, and ``lock`` is the file
that host-local locks. The tree does not say which ranges a network has.
"""

from __future__ import annotations

import os
import time

from fastipam.addressing.addresses import format_ip, parse_ip
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.errors import ConfigError
from fastipam.storage import boot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_TREE = "/var/lib/cni/networks"
LOCK = "lock"
CURSOR = "last_reserved_ip."
LINE_BREAK = "\r\n"
_UNREADABLE = "."
_LAST_SET = 255  # far more range sets than a configuration has; a pool stores a cursor for each


def file_names(directory: str | os.PathLike[str]) -> list[str]:
    """Return the names of a network's files, sorted, except the lock's. Raises OSError."""
    return sorted(name for name in os.listdir(directory) if name != LOCK)


def booted_ns() -> int:
    """Return when the machine was started: wall clock, nanoseconds since the epoch."""
    return time.time_ns() - boot.boottime_ns()


def leases(
    directory: str | os.PathLike[str], since_ns: int
) -> Iterator[tuple[tuple[int, int], str]]:
    """Yield (address, container id) of every lease of a network made at ``since_ns`` or later.

    An address is (family, integer). The container id is empty when this user may not read the file.
    An empty file is no lease, because no DEL could match it. Raises OSError.
    """
    for name in file_names(directory):
        path = os.path.join(directory, name)
        try:
            address = address_of(name)
            status = os.lstat(path)
            if status.st_mtime_ns < since_ns or not status.st_size:
                continue
            yield address, owner_of(read(path))[0]
        except PermissionError:
            yield address, ""
        except (FileNotFoundError, ValueError):
            continue  # a cursor, a file of another program, or a lease that was just released


def refuse_unimported(network: str, data_dir: str, since_ns: int | None = None) -> None:
    """Raise ConfigError when host-local has leases of a network that the store does not know.

    Two trees are searched: the tree in ``data_dir``, and host-local's default. Leases from before
    ``since_ns``, by default the start of the machine, are ignored, because their containers are
    gone.
    """
    since_ns = booted_ns() if since_ns is None else since_ns
    for tree in dict.fromkeys((data_dir, DEFAULT_TREE)):
        directory = os.path.join(tree, network)
        try:
            found = next(leases(directory, since_ns), None)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _unimported(
                f"{directory} cannot be read ({error.strerror}), and may have leases of host-local",
                network,
                tree,
                data_dir,
            ) from error
        if found is not None:
            address, container_id = found
            whose = f" of container {container_id}" if container_id else ""
            raise _unimported(
                f"host-local has leases of this network in {directory} (for example "
                f"{format_ip(*address)}{whose}) that this store does not know and could "
                "assign a second time",
                network,
                tree,
                data_dir,
            )


def _unimported(message: str, network: str, tree: str, data_dir: str) -> ConfigError:
    command = "fastipam import host-local"
    if tree != DEFAULT_TREE:
        command += f" {tree}"
    if data_dir != DEFAULT_DATA_DIR:
        command += f" --data-dir {data_dir}"
    return ConfigError(
        message,
        field="name",
        value=network,
        hint=f"`{command}` imports them; if their containers are gone, remove the directory, or "
        'set "ignoreHostLocal": true in the ipam section',
    )


def address_of(name: str) -> tuple[int, int]:
    """Return (family, integer) of the address that names a file. Raises ValueError."""
    return parse_ip(name.replace("_", ":"))


def read(path: str | os.PathLike[str]) -> str:
    """Return the content of a file. Raises OSError, and ValueError when the path is not a file."""
    if os.path.islink(path) or not os.path.isfile(path):
        raise ValueError("this is not a file")
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().strip()


def owner_of(content: str) -> tuple[str, str]:
    """Return (container id, interface) from an address' file; the interface may be empty.

    Raises ValueError when there is no container id.
    """
    container_id, _, ifname = content.partition("\n")
    if not container_id.strip():
        raise ValueError("the file is empty: the owner of the address is unknown")
    return container_id.strip(), ifname.strip()


def is_tree(tree: str | os.PathLike[str]) -> bool:
    """Return whether this can be host-local's tree. Raises OSError.

    One of its directories has a file of host-local, or all of them are empty.
    """
    found = [_names(entry.path) for entry in os.scandir(tree)]
    return not any(found) or any(_is_name(name) for names in found for name in names)


def is_network(directory: str | os.PathLike[str]) -> bool:
    """Return whether a directory is empty, or has a file with a name that host-local gives."""
    names = _names(directory)
    return not names or any(map(_is_name, names))


def _names(directory: str | os.PathLike[str]) -> list[str]:
    """Return the names in a directory, or [_UNREADABLE] when they cannot be listed."""
    try:
        return os.listdir(directory)
    except OSError:
        return [_UNREADABLE]


def _is_name(name: str) -> bool:
    if name == LOCK or name.startswith(CURSOR):
        return True
    try:
        address_of(name)
    except ValueError:
        return False
    return True


def set_of_cursor(name: str) -> int | None:
    """Return the number of the range set that a cursor file belongs to, or None for another file.

    Raises ValueError when the name begins like a cursor file's but does not end with a set number.
    """
    if not name.startswith(CURSOR):
        return None
    number = name.removeprefix(CURSOR)
    if not number.isascii() or not number.isdigit() or int(number) > _LAST_SET:
        raise ValueError(f"{number!r} is not the number of a range set")
    return int(number)
