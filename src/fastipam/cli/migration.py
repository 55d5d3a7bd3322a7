"""Import leases from a host-local tree, and export them into one.

An imported network gets its ranges from the first ADD, because the tree does not have them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from fastipam import host_local
from fastipam.addressing.addresses import format_ip, parse_ip
from fastipam.configuration.reader import is_id
from fastipam.errors import AddressInUse, AddressNotInRange, ConfigError
from fastipam.lease import Requester
from fastipam.network import Network
from fastipam.storage.directory import sync_directory
from fastipam.storage.records.lease import ASSIGNED
from fastipam.takeover import locked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastipam.cli.progress import Progress
    from fastipam.ipam import Ipam
    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Transaction

_STEP = 64  # files between two reports of progress

DONE = "done"
WOULD = "would"  # in a dry run: it would be done
OLDER = "older"  # from before the last boot: the container is gone
PRESENT = "present"
SKIPPED = "skipped"
CONFLICT = "conflict"


class Item(NamedTuple):
    """A file in a tree and its ``outcome``: DONE, WOULD, OLDER, PRESENT, SKIPPED or CONFLICT."""

    network: str
    name: str
    outcome: str
    text: str


class _DryRun(Exception):
    """Raised at the end of a dry run, to abort its transaction."""


def require_tree(tree: Path) -> None:
    """Raise ConfigError unless the tree is host-local's: a directory for each network."""
    default = f"{host_local.DEFAULT_TREE} by default, with a directory for each network"
    hint = f"it is the dataDir of host-local's configuration, {default}"
    if not tree.is_dir():
        what = "is not a directory" if tree.exists() else "does not exist"
        raise ConfigError(f"{tree} {what}", field="DIR", value=str(tree), hint=hint)
    if host_local.is_tree(tree):
        return
    if host_local.is_network(tree):
        message = f"{tree} is the directory of one network: name the directory above it"
        hint = f"fastipam import host-local {tree.resolve().parent}"
    else:
        message = f"{tree} is not a directory of host-local: no directory in it has addresses"
    raise ConfigError(message, field="DIR", value=str(tree), hint=hint)


def import_host_local(
    ipam: Ipam,
    tree: Path,
    *,
    dry_run: bool = False,
    since_ns: int | None = None,
    progress: Progress | None = None,
) -> list[Item]:
    """Import a tree into the store: every network, with its leases and cursors. Idempotent.

    The import is one transaction and does not change the tree. A lease that the store already has
    is PRESENT. An address that the store has assigned to another owner is a CONFLICT and keeps that
    owner. An empty or unreadable file, which no DEL could match, is SKIPPED. A lease from before
    ``since_ns`` (wall clock time, by default the last boot) is OLDER, and not imported.

    ``dry_run`` does not change the store either, and reports WOULD in place of DONE.
    ``progress(done, total)`` is called after every 64 files. Raises ConfigError (no such tree),
    StoreError, OSError.
    """
    require_tree(tree)
    since_ns = host_local.booted_ns() if since_ns is None else since_ns
    items: list[Item] = []
    total = 0 if progress is None else sum(len(files) for _, _, files in os.walk(tree))
    try:
        with ipam.transaction() as txn:
            for directory in sorted(tree.iterdir()):
                if directory.is_dir() and not directory.is_symlink():
                    with locked(directory):
                        for item in _import_network(ipam.store, txn, directory, since_ns):
                            items.append(item)
                            if progress is not None and len(items) % _STEP == 0:
                                progress(len(items), total)
                else:
                    items.append(Item("", directory.name, SKIPPED, "not a network's directory"))
            if dry_run:
                raise _DryRun
    except _DryRun:
        items = [
            Item(network, name, WOULD if outcome == DONE else outcome, text)
            for network, name, outcome, text in items
        ]
    return items


def _import_network(
    store: Store, txn: Transaction, directory: Path, since_ns: int
) -> Iterator[Item]:
    name = directory.name
    if not is_id(name):
        yield Item(name, "", SKIPPED, f"{name!r} is not a valid network name")
        return
    if not host_local.is_network(directory):
        yield Item(name, "", SKIPPED, f"no file in the directory {name} has the name of an address")
        return
    network = Network(store, name, None).within(txn)
    for file_name in host_local.file_names(directory):
        try:
            yield _import_file(network, directory / file_name, since_ns)
        except (AddressInUse, AddressNotInRange) as error:
            yield Item(name, file_name, CONFLICT, error.message)
        except (OSError, ValueError) as error:
            yield Item(name, file_name, SKIPPED, str(error))


def _import_file(network: Network, path: Path, since_ns: int) -> Item:
    content = host_local.read(path)
    index = host_local.set_of_cursor(path.name)
    if index is not None:
        moved = network._start_from(index, *parse_ip(content))
        return Item(network.name, path.name, DONE if moved else PRESENT, content)
    address = host_local.address_of(path.name)
    owner = host_local.owner_of(content)
    whose = " ".join(owner).strip()
    changed_ns = path.stat().st_mtime_ns
    if changed_ns < since_ns:
        return Item(network.name, path.name, OLDER, f"{whose}, from before the last boot")
    added = network._adopt(Requester(*owner), *address, changed_ns)
    return Item(network.name, path.name, DONE if added else PRESENT, whose)


def export_host_local(ipam: Ipam, tree: Path) -> list[Item]:
    """Export the assigned addresses and the cursors of the store into a tree. Idempotent.

    Cooling addresses are not exported: host-local has no cool-down. A file that exists with another
    content is a CONFLICT and stays as it is. The files are on disk when this returns.
    Raises StoreError, OSError.
    """
    items: list[Item] = []
    for name in ipam.networks():
        if not is_id(name):
            items.append(Item(name, "", SKIPPED, "this is not a valid name of a directory"))
            continue
        directory = tree / name
        if directory.is_symlink():
            items.append(Item(name, "", CONFLICT, f"{directory} is a symbolic link"))
            continue
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        with locked(directory, create=True):
            items += _export_network(Network(ipam.store, name, None), directory)
            sync_directory(directory)
    return items


def _export_network(network: Network, directory: Path) -> Iterator[Item]:
    for family, value, record, _ in network._records():
        address = format_ip(family, value)
        if record.state != ASSIGNED:
            continue
        lines = [record.container_id, record.ifname] if record.ifname else [record.container_id]
        yield _write(network.name, directory / address, host_local.LINE_BREAK.join(lines))
    for index, cursor in enumerate(network._cursors()):
        if cursor is not None:
            path = directory / f"{host_local.CURSOR}{index}"
            path.unlink(missing_ok=True)  # overwrite the cursor, as host-local does at each ADD
            yield _write(network.name, path, format_ip(*cursor))


def _write(network: str, path: Path, content: str) -> Item:
    """Write a new file, which gets its name only when complete: an empty file is no lease."""
    data = content.encode("utf-8", "surrogateescape")
    if path.is_symlink():
        return Item(network, path.name, CONFLICT, "a symbolic link has this name")
    if path.exists():
        if path.read_bytes().split() == data.split():
            return Item(network, path.name, PRESENT, content.replace(host_local.LINE_BREAK, " "))
        return Item(network, path.name, CONFLICT, "the file exists with another content")
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # left by an export that was killed
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Item(network, path.name, DONE, content.replace(host_local.LINE_BREAK, " "))
