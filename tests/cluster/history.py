"""What the nodes have answered, put together: was any address two nodes' at one moment?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Report:
    """What the histories of all nodes say."""

    answers: int = 0
    unserved: list[str] = field(default_factory=list)
    worst_ms: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)


def read(histories: dict[str, Path]) -> Report:
    """Read each node's history, and look for moments at which two had the same address.

    A node has an address from the line that says so to the line before its release. What was
    assigned and never told (the node was killed in between) is told after its next start.
    """
    report = Report()
    events: list[tuple[int, int, str, str]] = []
    for node, path in histories.items():
        for line in path.read_text().splitlines():
            parts = line.split(" ")
            if len(parts) != 4:
                continue  # the last line of one that was killed
            at, what, address, more = parts
            if what == "has":
                events.append((int(at), 1, address, node))
                if more != "kept":
                    report.answers += 1
                    report.worst_ms = max(report.worst_ms, float(more))
            elif what == "gone":
                events.append((int(at), 0, address, node))
            elif what == "none":
                report.unserved.append(f"{node}: {more}")
            else:
                for word in more.split(","):
                    name, _, count = word.partition("=")
                    report.counts[name] = report.counts.get(name, 0) + int(count)
    holders: dict[str, str] = {}
    for moment, has, address, node in sorted(events):
        holder = holders.get(address)
        if not has:
            if holder == node:
                del holders[address]
        elif holder not in {None, node}:
            report.conflicts.append(f"{address} at {moment}: {holder} and {node}")
        else:
            holders[address] = node
    return report
