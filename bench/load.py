"""Measure the load by other processes, for a warning in a report whose figures it disturbed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

QUIET = 0.15  # the share of all processors that others may use without a warning in the report
_NAMED = 3  # commands that a warning names


class Load(NamedTuple):
    """The load average of the last minute, and the processors' use by others in a measurement."""

    average: float
    processors: int
    busy: float  # the share of all processors
    names: tuple[str, ...]  # the busiest commands


def look(seconds: float = 1.0) -> Load:
    """Measure the load for ``seconds``, during which this process sleeps."""
    busy, before = _ticks(), _processes()
    begun = time.monotonic()
    time.sleep(seconds)
    processors = os.cpu_count() or 1
    possible = (time.monotonic() - begun) * processors * os.sysconf("SC_CLK_TCK")
    used = {one: ticks - before.get(one, 0) for one, ticks in _processes().items()}
    names = [name for (_, name), ticks in sorted(used.items(), key=lambda one: -one[1]) if ticks]
    share = min(1.0, max(0.0, (_ticks() - busy) / possible))
    return Load(os.getloadavg()[0], processors, share, tuple(dict.fromkeys(names))[:_NAMED])


def warning(looks: Mapping[str, Load]) -> str:
    """Return a sentence if others used the machine in one of the measurements, else ""."""
    said = [
        f"{load.busy:.0%} of {load.processors} processors {when}"
        + f" (load average {load.average:.1f}"
        + (f"; mostly {', '.join(load.names)})" if load.names else ")")
        for when, load in looks.items()
        if load.busy > QUIET
    ]
    if not said:
        return ""
    return (
        f"Other processes used {' and '.join(said)}. So the times are longer than on an idle "
        "machine, and vary more: compare contenders, not times."
    )


def _ticks() -> int:
    """Return the number of ticks in which the processors were not idle."""
    fields = [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4]


def _processes() -> dict[tuple[int, str], int]:
    """Return the number of ticks that each process has used."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = stat.read_text().rpartition(")")
        except OSError:
            continue
        process, _, name = before.partition(" (")
        fields = after.split()
        found[int(process), name] = int(fields[11]) + int(fields[12])
    return found
