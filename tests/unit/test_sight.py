"""What a look at a lease's namespace proves: every kind of path, and who is a witness of what."""

from __future__ import annotations

import os

import pytest

from fastipam import namespaces
from fastipam.lease import Lease
from fastipam.storage.records.lease import ASSIGNED, Record
from fastipam.sweep import evidence
from fastipam.sweep.evidence import GONE, Doubts, Place

HERE, ELSEWHERE, UNKNOWN = 5, 6, 0  # mount namespaces
NSFS, DISK = 4, 8  # devices: that of namespaces, and another
INODE, OTHER, BORN = 70, 71, 900

ELSE = "was recorded in another mount namespace"
NOBODY = "was recorded in an unknown place"
UNPROVEN = "this process cannot see whether it is gone"
NO_NAMESPACE = "and is not a network namespace here: mounts made there do not propagate here"


def _record(netns: str, *, inode: int = INODE, mount_ns: int = HERE) -> Record:
    return Record(ASSIGNED, 24, 0, 1, 1, 1, 0, inode, mount_ns, 0, BORN, 1, "c", "eth0", netns)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int, int] | OSError]:
    """What is at each path, (device, inode, born_ns) or an error; elsewhere there is nothing."""
    found: dict[str, tuple[int, int, int] | OSError] = {
        "/run/netns/alive": (NSFS, INODE, BORN),
        "/run/netns/other": (NSFS, OTHER, BORN),
        "/run/netns/plain": (DISK, OTHER, BORN),
        "/run/netns/shut": PermissionError(13, "Permission denied"),
        "/run/netns/file/x": NotADirectoryError(20, "Not a directory"),
    }

    def look(path: str) -> tuple[int, int, int]:
        at = found.get(path, FileNotFoundError(2, "No such file"))
        if isinstance(at, OSError):
            raise at
        return at

    monkeypatch.setattr(evidence, "look", look)
    monkeypatch.setattr(evidence, "mount_namespace", lambda: HERE)
    monkeypatch.setattr(namespaces, "device", lambda: NSFS)
    return found


@pytest.mark.parametrize(
    ("netns", "inode", "mount_ns", "seen"),
    [
        ("", INODE, HERE, "no network namespace was recorded"),
        ("netns/x", INODE, HERE, "netns/x is not an absolute path"),
        (
            "/run/netns/shut", INODE, HERE,
            "/run/netns/shut cannot be examined: [Errno 13] Permission denied",
        ),
        ("/run/netns/alive", INODE, HERE, (INODE, BORN)),
        ("/run/netns/alive", INODE, ELSEWHERE, (INODE, BORN)),
        ("/run/netns/alive", INODE, UNKNOWN, (INODE, BORN)),
        ("/run/netns/none", INODE, HERE, (GONE, 0)),
        ("/run/netns/file/x", INODE, HERE, (GONE, 0)),
        ("/run/netns/other", INODE, HERE, (OTHER, BORN)),
        ("/run/netns/plain", INODE, HERE, (OTHER, BORN)),
        ("/run/netns/other", 0, UNKNOWN, (OTHER, BORN)),
        ("/run/netns/none", INODE, ELSEWHERE, f"/run/netns/none {ELSE}: {UNPROVEN}"),
        ("/run/netns/other", INODE, ELSEWHERE, f"/run/netns/other {ELSE}: {UNPROVEN}"),
        ("/run/netns/other", 0, ELSEWHERE, f"/run/netns/other {ELSE}: {UNPROVEN}"),
        ("/run/netns/none", INODE, UNKNOWN, f"/run/netns/none {NOBODY}: {UNPROVEN}"),
        ("/run/netns/none", 0, UNKNOWN, f"/run/netns/none {NOBODY}: {UNPROVEN}"),
        ("/run/netns/other", INODE, UNKNOWN, f"/run/netns/other {NOBODY}: {UNPROVEN}"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("files")
def test_first_look(netns: str, inode: int, mount_ns: int, seen: tuple[int, int] | str) -> None:
    """Where a path was noted decides what its file, or its absence, says here."""
    assert Place().observe(_record(netns, inode=inode, mount_ns=mount_ns)) == seen


@pytest.mark.parametrize(
    ("netns", "mount_ns", "seen"),
    [
        ("/run/netns/none", ELSEWHERE, (GONE, 0)),
        ("/run/netns/other", ELSEWHERE, (OTHER, BORN)),
        ("/run/netns/plain", ELSEWHERE, f"/run/netns/plain {ELSE}, {NO_NAMESPACE}"),
        ("/run/netns/none", UNKNOWN, (GONE, 0)),
        ("/run/netns/other", UNKNOWN, (OTHER, BORN)),
        ("/run/netns/plain", UNKNOWN, f"/run/netns/plain {NOBODY}, {NO_NAMESPACE}"),
        (
            "/var/netns/none", ELSEWHERE,
            f"/var/netns/none {ELSE}: {UNPROVEN}",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("proof", [HERE, ELSEWHERE, UNKNOWN])
@pytest.mark.usefixtures("files")
def test_once_a_directory_is_proven(
    netns: str, mount_ns: int, seen: tuple[int, int] | str, proof: int
) -> None:
    """A living lease shows that its directory is the same here: what is missing there is gone."""
    place = Place()
    place.observe(_record("/run/netns/alive", mount_ns=proof))
    assert place.observe(_record(netns, mount_ns=mount_ns)) == seen


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("mount_ns", [HERE, UNKNOWN])
def test_where_nothing_is_known(mount_ns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot see its mount namespace does not take a path for one of its own."""
    monkeypatch.setattr(evidence, "mount_namespace", lambda: 0)
    assert UNPROVEN in str(Place().observe(_record("/run/netns/none", mount_ns=mount_ns)))


def test_device_of_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own file system; 0, which no file is on, where /proc is not there."""
    assert namespaces.device() == os.stat("/proc/self/ns/mnt").st_dev != 0

    def fail(_: str) -> os.stat_result:
        raise FileNotFoundError(2, "No such file")

    monkeypatch.setattr(os, "stat", fail)
    assert namespaces.device() == 0


# Doubts -----------------------------------------------------------------------------------------


def _lease(generation: int, born_ns: int, **changes: str) -> Lease:
    texts = {"container_id": f"c{generation}", "ifname": "eth0", "netns": "/run/netns/x"} | changes
    record = Record(ASSIGNED, 24, 0, 1, generation, 1, 0, INODE, HERE, 0, born_ns, 1, **texts)
    return Lease("n", 4, generation, None, record)


def _settle(*leases: tuple[Lease, int]) -> tuple[list[tuple[int, int]], list[int]]:
    """Generations of those that are gone, each with what was found, and of the living."""
    doubts = Doubts()
    for lease, seen in leases:
        doubts.note(lease, (lease.inode, seen))
    for lease, seen in leases:
        doubts.ask(lease, (lease.inode, seen))
    gone, living = doubts.settle()
    return [(one.generation, born) for one, born in gone], [one.generation for one, _ in living]


def test_witness() -> None:
    """The youngest lease that names the very file says that an older one's namespace is gone."""
    assert _settle((_lease(3, 10), 20), (_lease(5, 20), 20)) == ([(3, 20)], [])
    assert _settle((_lease(7, 20), 20), (_lease(6, 10), 20), (_lease(5, 20), 20)) == ([(6, 20)], [])


@pytest.mark.parametrize(
    "other",
    [
        _lease(2, 20),  # older
        _lease(3, 20, container_id="other"),  # as old
        _lease(5, 30),  # of another file
        _lease(5, 20, container_id="c3"),  # of the same container
        _lease(5, 20, ifname="net1"),  # may be in the same namespace
        _lease(5, 20, netns="/run/netns/y"),
    ],
)
def test_no_witness(other: Lease) -> None:
    """Any other lease leaves a doubted one alone."""
    seen = 30 if other.born_ns == 30 else 20
    gone, living = _settle((_lease(3, 10), 20), (other, seen))
    assert (gone, living) == ([], [3])


@pytest.mark.parametrize(
    ("lease", "seen", "doubted"),
    [
        (_lease(3, 10), (INODE, 20), True),
        (_lease(3, 10), (INODE, 10), False),
        (_lease(3, 10), (OTHER, 20), False),
        (_lease(3, 10), (INODE, 0), False),
        (_lease(3, 0), (INODE, 20), False),
    ],
)
def test_doubted(lease: Lease, seen: tuple[int, int], doubted: bool) -> None:
    """In doubt is whose path and inode are there, and whose file was made at another time."""
    doubts = Doubts()
    assert doubts.ask(lease, seen) is doubted
    assert doubts.settle() == ([], [(lease, "")] if doubted else [])
