"""Diagnose a store: permissions, disk, consistency, readers, pools, namespaces, clock."""

from __future__ import annotations

import os
import shlex
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import fastipam
from fastipam import host_local
from fastipam.allocation import counts, history
from fastipam.allocation import pools as node_pools
from fastipam.cli import output, rows
from fastipam.cli.apart import apart
from fastipam.cli.click_base import as_root, is_refusal
from fastipam.cli.commands.doctor import surroundings
from fastipam.cli.commands.doctor.diagnosis import OK, PROBLEM, WARNING, Diagnosis
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.ipam import open_with
from fastipam.storage.lmdb_errors import MAX_READERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fastipam.ipam import Ipam

# A store with more addresses in use is not verified here: the diagnosis names the command.
MOST_VERIFIED = 200_000
MOST_BEHIND = 10_000  # commits: about a minute on a node that starts pods as fast as it can
_FULL = 0.9
_LITTLE_BYTES = 1 << 30
_TOO_LITTLE_BYTES = 64 << 20
_CLOCK_SLACK_NS = 5 * 10**9
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.glusterfs", "lustre")


def command(words: str, data_dir: str) -> str:
    """Return the command line ``fastipam WORDS`` for a store."""
    own = "" if data_dir == DEFAULT_DATA_DIR else f" --data-dir {shlex.quote(data_dir)}"
    return f"fastipam {words}{own}"


def look(
    data_dir: str,
    files: Mapping[str, Path] | None = None,
    *,
    now_ns: int | None = None,
    most: int = MOST_VERIFIED,
) -> Iterator[Diagnosis]:
    """Yield every diagnosis of the store in a directory. ``now_ns`` is the wall clock time.

    ``files`` has the configuration file of each network that has one.
    """
    try:
        if surroundings.lacks(data_dir):
            text = surroundings.not_mounted(data_dir, "the store cannot be examined")
            yield Diagnosis("store", WARNING, text)
            return
        if not exists(data_dir):
            yield Diagnosis("store", OK, f"{data_dir}: no store yet; the first ADD creates one")
            yield from disk(nearest(data_dir))
            return
        yield from permissions(data_dir)
        yield from disk(data_dir)
        found, error, cause = apart(lambda: _inside(data_dir, files, now_ns, most), data_dir)
        yield from found
        if error is not None:
            raise error from cause
    except (fastipam.FastipamError, OSError) as error:
        refused = isinstance(error, PermissionError) or is_refusal(error.__cause__)
        if refused and os.geteuid() != 0:
            text = f"{data_dir} cannot be read by this user: the store was not examined"
            yield Diagnosis("store", WARNING, text, as_root())
            return
        hint = getattr(error, "hint", None)
        text = f"{error} ({hint})" if hint else str(error)
        yield Diagnosis("store", PROBLEM, text, f"ls -la {shlex.quote(data_dir)}")


def _inside(
    data_dir: str, files: Mapping[str, Path] | None, now_ns: int | None, most: int
) -> tuple[list[Diagnosis], Exception | None, BaseException | None]:
    """Return the diagnoses of an open store, and the error that ended them, with its cause."""
    found: list[Diagnosis] = []
    try:
        with open_with(data_dir, create=False, count_boot=False) as ipam:
            found.extend(contents(ipam, most))
            found.extend(pools(ipam, files))
            found.extend(overlaps(ipam))
            found.extend(namespaces(ipam, most))
            found.extend(clock(ipam, time.time_ns() if now_ns is None else now_ns))
    except (fastipam.FastipamError, OSError) as error:
        return found, error, error.__cause__
    return found, None, None


def exists(data_dir: str) -> bool:
    """Return whether the store exists. Raises OSError when this user may not read the directory."""
    try:
        os.lstat(os.path.join(data_dir, "data.mdb"))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def nearest(path: str) -> str:
    """Return the nearest existing directory above a path; the path would be on its file system."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def permissions(data_dir: str) -> Iterator[Diagnosis]:
    """Diagnose whether other users can read the store, which contains names of pods."""
    wide = []
    for path in (data_dir, *(os.path.join(data_dir, one) for one in sorted(os.listdir(data_dir)))):
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & 0o077:
            wide.append((path, mode))
    for path, mode in wide:
        text = f"{path} has mode {mode:04o}: other users can read it"
        yield Diagnosis("store", WARNING, text, f"chmod go= {shlex.quote(path)}")


def disk(data_dir: str) -> Iterator[Diagnosis]:
    """Diagnose the free space, and whether the file system has the locks that a store needs."""
    room = os.statvfs(data_dir)
    available = room.f_bavail * room.f_frsize
    kind = surroundings.mount_of(data_dir)[1]
    look_at = f"df -h {shlex.quote(data_dir)}"
    if kind in _REMOTE:
        text = f"{data_dir} is on {kind}: the store's locks work on local file systems only"
        yield Diagnosis("disk", PROBLEM, text, f"findmnt --target {shlex.quote(data_dir)}")
    text = f"{available / (1 << 20):.0f} MiB are free for {data_dir} ({kind})"
    if available < _TOO_LITTLE_BYTES:
        yield Diagnosis("disk", PROBLEM, text, look_at)
    elif available < _LITTLE_BYTES:
        yield Diagnosis("disk", WARNING, text, look_at)
    else:
        yield Diagnosis("disk", OK, text)
    if room.f_files and not room.f_favail:
        yield Diagnosis("disk", PROBLEM, f"no inode is free for {data_dir}", f"df -i {data_dir}")


def contents(ipam: Ipam, most: int = MOST_VERIFIED) -> Iterator[Diagnosis]:
    """Diagnose whether the store is consistent and writable, and its size and readers."""
    ipam.store.require_writable()
    path = ipam.path
    earlier = rows.earlier_boots(ipam)  # count first: a call may release some of them
    with ipam.store.read() as txn:
        counted = node_pools.used(txn)
    used = sum(counted.values())
    if used > most:
        text = f"{path}: {used} addresses are in use, too many to verify them all here"
        yield Diagnosis("store", OK, text, command("check", path))
    else:
        from fastipam.verify import verify

        wrong = verify(ipam.store)
        if wrong:
            text = f"{path}: {output.counted(len(wrong), 'contradiction')}, the first: {wrong[0]}"
            mend = f"{command('backup FILE', path)} && {command('check --repair', path)}"
            yield Diagnosis("store", PROBLEM, text, mend)
        else:
            yield Diagnosis("store", OK, f"{path}: {_used(counted)}; consistent")
    size = ipam.store.file_bytes() / (1 << 20)
    networks = output.counted(len(ipam.networks()), "network")
    text = f"{path}: {size:.1f} MiB, {ipam.durability}, {networks}"
    yield Diagnosis("store", OK, text)
    yield from readers(ipam)
    if ipam.store.boot_doubt:
        text = f"{path}: leases of an earlier boot may be left: {ipam.store.boot_doubt}"
        yield Diagnosis("store", WARNING, text)
    if earlier:
        text = f"{path}: {output.counted(earlier, 'lease')} from before the last reboot: "
        text += "each call releases some of them"
        yield Diagnosis("store", WARNING, text, command("sweep", path))


def _used(used: Mapping[str, int]) -> str:
    """Return a text with the number of addresses of all pools in each state."""
    return "addresses: " + ", ".join(f"{count} {state}" for state, count in used.items())


def readers(ipam: Ipam, most: int = MOST_BEHIND) -> Iterator[Diagnosis]:
    """Diagnose long read transactions, because LMDB cannot reuse the pages that they read."""
    found = ipam.store.readers()
    late: dict[int, int] = {}
    for process, behind in found:
        if behind > most:
            late[process] = max(behind, late.get(process, 0))
    for process, behind in late.items():
        text = (
            f"{ipam.path}: process {process} holds a read transaction that is "
            f"{output.counted(behind, 'commit')} old: the file grows"
        )
        yield Diagnosis("store", WARNING, text, f"ps -fp {process}")
    if len(found) > MAX_READERS * _FULL:
        text = f"{ipam.path}: {len(found)} of {MAX_READERS} reader slots are taken"
        yield Diagnosis("store", WARNING, text, "fuser -v " + shlex.quote(ipam.path + "/lock.mdb"))


def overlaps(ipam: Ipam) -> Iterator[Diagnosis]:
    """Diagnose pools that overlap although no configuration allows it."""
    told: set[frozenset[str]] = set()
    with ipam.store.read() as txn:
        for pool in node_pools.names(txn):
            for one in node_pools.overlaps(txn, pool):
                pair = frozenset((pool, one[0]))
                if pair not in told:
                    told.add(pair)
                    text = node_pools.line(pool, *one)
                    yield Diagnosis("pool", WARNING, text, command("stats", ipam.path))


def pools(ipam: Ipam, files: Mapping[str, Path] | None = None) -> Iterator[Diagnosis]:
    """Diagnose each range set of each network: how full it is."""
    for name in ipam.networks():
        who = command(f"list --network {shlex.quote(name)}", ipam.path)
        stats = ipam.network(name).stats().to_dict()
        if stats["other_range_sets"]:
            shown = [
                ",".join(counts.text_of(each) for one in sets for each in one["ranges"])
                for sets in (stats["range_sets"], stats["other_range_sets"])
            ]
            text = (
                f"network {name!r} is used with two configurations in turn, {shown[0]} and "
                f"{shown[1]}: give each its own network name"
            )
            yield Diagnosis("pool", WARNING, text, f"grep -rn '\"{name}\"' /etc/cni")
        for one in (*stats["range_sets"], *stats["other_range_sets"]):
            size, left = one["size"], one["free"] + one["cooling"]
            ranges = ",".join(map(counts.text_of, one["ranges"]))
            text = f"network {name!r}, {ranges}: {left} of {size} addresses are left"
            if one["full"] and "blocks" in one:
                text += (
                    f" in {output.counted(one['blocks'], 'block')} of this node: the next ADD "
                    "claims another block"
                )
                file = (files or {}).get(name)
                own = f" -c {shlex.quote(str(file))}" if file else ""
                status = command(f"cluster status{own} --network {shlex.quote(name)}", ipam.path)
                yield Diagnosis("pool", WARNING, text, status)
            elif one["full"]:
                if left:
                    text += ", all of them cooling"
                yield Diagnosis("pool", PROBLEM, text, who)
            elif left < size * (1 - _FULL):
                yield Diagnosis("pool", WARNING, text, who)
            else:
                yield Diagnosis("pool", OK, text)


def namespaces(ipam: Ipam, most: int = MOST_VERIFIED) -> Iterator[Diagnosis]:
    """Diagnose leases whose network namespace is gone, or cannot be seen by this process."""
    from fastipam.sweep import sweep

    leases = sum(ipam.network(name).stats().assigned for name in ipam.networks())
    if leases > most:
        text = f"{leases} leases: too many to check the namespace of each here"
        yield Diagnosis("namespaces", OK, text, command("sweep --dry-run", ipam.path))
        return
    report = sweep(ipam, dry_run=True)
    reasons = report.reasons()
    gone = len(report.missing) + len(report.released)
    dry_run = command("sweep --dry-run", ipam.path)
    if gone:
        text = f"leases without their network namespace: {gone} of {report.looked}"
        yield Diagnosis("namespaces", WARNING, text, dry_run)
    for why, count in reasons:
        text = f"{count} of {report.looked} leases skipped: {why}"
        text += "; if the container is dead, release its address"
        first = next(lease for lease, one in report.unknown if one.partition("; ")[0] == why)
        release = command(f"release {first.address.ip} --dry-run", ipam.path)
        yield Diagnosis("namespaces", WARNING, text, release)
    if not gone and not reasons:
        text = f"{output.counted(report.looked, 'lease')}, each with its network namespace"
        yield Diagnosis("namespaces", OK, text)


def clock(ipam: Ipam, now_ns: int) -> Iterator[Diagnosis]:
    """Diagnose whether the last event is in the future, which means that the clock was set back."""
    ahead = 0
    for name in ipam.networks():
        with ipam.store.read() as txn:
            found = ipam.network(name)._find(txn)
            if found is not None:
                for event in history.last(txn, found[0], 1):
                    ahead = max(ahead, event.wall_ns - now_ns)
    if ahead > _CLOCK_SLACK_NS:
        text = f"{ipam.path}: the last event lies {ahead / 1e9:.0f} s in the future"
        text += "; addresses are safe, but times in the history are not"
        yield Diagnosis("clock", WARNING, text, "timedatectl")
    else:
        yield Diagnosis("clock", OK, f"{ipam.path}: no event is in the future")


def leftovers(tree: Path, data_dirs: list[str]) -> Iterator[Diagnosis]:
    """Diagnose leases of this boot that host-local has and that were not imported into a store."""
    held: dict[str, list[tuple[int, int]]] = {}
    booted_ns = host_local.booted_ns()
    try:
        for directory in sorted(one for one in tree.iterdir() if one.is_dir()):
            held[directory.name] = [one for one, _ in host_local.leases(directory, booted_ns)]
    except FileNotFoundError:
        if surroundings.lacks(tree):
            text = surroundings.not_mounted(tree, "this directory may have leases of host-local")
            yield Diagnosis("host-local", WARNING, text)
            return
    except OSError as error:
        text = f"{tree} cannot be read: {error.strerror}"
        yield Diagnosis("host-local", WARNING, text, f"ls -la {shlex.quote(str(tree))}")
        return
    held = {name: addresses for name, addresses in held.items() if addresses}
    if not held:
        yield Diagnosis("host-local", OK, f"{tree} has no leases from this boot")
    for name, addresses in held.items():
        lacking = len(addresses) - max(
            (_known(one, name, addresses) for one in data_dirs), default=0
        )
        if lacking:
            text = f"{tree / name}: leases that are in no store: {lacking} of {len(addresses)}"
            move = f"fastipam import host-local --dry-run {shlex.quote(str(tree))}"
            yield Diagnosis("host-local", WARNING, text, move)
        else:
            text = f"{tree / name}: leases: {len(addresses)}, all in the store"
            yield Diagnosis("host-local", OK, text)


def _known(data_dir: str, name: str, addresses: list[tuple[int, int]]) -> int:
    """Return how many of these addresses are assigned in a store."""
    try:
        with open_with(data_dir, create=False, count_boot=False) as ipam:
            if name not in ipam.networks():
                return 0
            network = ipam.network(name)
            return sum(network._lookup(one) is not None for one in addresses)
    except (fastipam.FastipamError, OSError):
        return 0
