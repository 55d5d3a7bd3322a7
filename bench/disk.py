"""Facts about the disk of a run's stores: file system, kind of device, time of a sync."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter_ns

from bench.judging import interval
from bench.tables import duration

_SYNCS = 60
_PAGE = bytes(4096)


def facts(directory: Path) -> dict[str, str]:
    """Return file system, device and time of a sync, for which a file is written there."""
    system, source = _mounted(directory.resolve())
    return {
        "filesystem": f"{system} ({source})",
        "device": _device(directory),
        "sync": _sync(directory),
    }


def _mounted(directory: Path) -> tuple[str, str]:
    """Return the type and the source of the file system that a directory is on."""
    best, system, source = "", "unknown", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4].replace("\\040", " ")
        if directory.is_relative_to(point) and len(point) >= len(best):
            best, (system, source, *_) = point, right.split()
    return system, source


def _device(directory: Path) -> str:
    number = directory.stat().st_dev
    found = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not found.exists():
        return "not a block device of its own (memory, an overlay or a network)"
    found = found.resolve()
    disk = found if (found / "queue").exists() else found.parent
    rotates = (disk / "queue" / "rotational").read_text().strip() == "1"
    return f"{disk.name}; the kernel calls it {'rotating' if rotates else 'solid state'}"


def _sync(directory: Path) -> str:
    taken = []
    with TemporaryDirectory(dir=directory) as here, open(Path(here, "page"), "wb") as file:
        for _ in range(_SYNCS):
            begun = perf_counter_ns()
            os.pwrite(file.fileno(), _PAGE, 0)
            os.fdatasync(file.fileno())
            taken.append(perf_counter_ns() - begun)
    low, high = interval(taken)
    return (
        f"{duration(median(taken))} for 4 KiB and fdatasync "
        f"(median of {_SYNCS}; 95 %: {duration(low)} to {duration(high)})"
    )
