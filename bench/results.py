"""The results of a run, and the file in which they are kept."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from bench.bars import Bar, Verdict
from bench.errors import Missing

if TYPE_CHECKING:
    from pathlib import Path

    from bench.sampling import Samples


@dataclass
class Results:
    """Raw samples in nanoseconds per call, and the verdicts drawn from them.

    ``samples`` are from subjects that were measured alternately. ``peers`` are from
    pytest-benchmark, which measures one after the other; their keys are those of :func:`peer_key`.
    """

    facts: dict[str, str]
    samples: Samples = field(default_factory=dict)
    peers: Samples = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    plugins: str = ""  # the report of the workloads, which has files of its own

    def add(self, samples: Samples) -> Samples:
        """Add samples to the results, and return the samples."""
        self.samples.update(samples)
        return samples

    def judge(self, bar: Bar, figure: float) -> None:
        """Compare a figure with its bar, and keep the verdict."""
        self.verdicts.append(Verdict(bar, figure))

    def median(self, name: str) -> float | None:
        """Return the median of a subject in nanoseconds, or None if it was not measured."""
        return median(self.samples[name]) if name in self.samples else None

    def peer(self, peer: str, prefix: int, fill: float) -> float | None:
        """Return the median of a peer's pair in nanoseconds, or None if it was not measured."""
        found = self.peers.get(peer_key(peer, prefix, fill))
        return median(found) if found else None

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        document: dict[str, dict[str, object]] = {
            "facts": {**self.facts},
            "verdicts": {
                one.bar.name: {
                    "figure": round(one.figure, 3),
                    "limit": round(one.bar.limit, 3),
                    "unit": one.bar.unit,
                    "met": one.met,
                }
                for one in self.verdicts
            },
            "samples": _rounded(self.samples),
            "peers": _rounded(self.peers),
        }
        path.write_text(_dump(document))


def _rounded(samples: Samples) -> dict[str, object]:
    return {name: [round(one, 1) for one in values] for name, values in samples.items()}


def _dump(document: dict[str, dict[str, object]]) -> str:
    """Return JSON with one line for each entry of a group, so that a diff is readable."""
    groups = []
    for name, group in document.items():
        entries = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in group.items())
        groups.append(f" {json.dumps(name)}: {{\n" + ",\n".join(entries) + "\n }")
    return "{\n" + ",\n".join(groups) + "\n}\n"


def peer_key(peer: str, prefix: int, fill: float) -> str:
    """Return the name of a peer's pair, by which its samples are kept."""
    return f"{peer} /{prefix} {fill:.2%}"


def read(path: Path) -> Results:
    """Read the results of an earlier run. Raises Missing if the file cannot be read as one."""
    try:
        document = json.loads(path.read_text())
        facts, samples, peers = (document[key] for key in ("facts", "samples", "peers"))
        found = Results(dict(facts), _checked(samples), _checked(peers))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Missing(f"{path} cannot be read as a run's samples.json: {error}") from error
    return found


def _checked(samples: Samples) -> Samples:
    for name, values in samples.items():
        if min(values, default=1.0) <= 0:
            raise ValueError(f"{name!r} has samples that are not above 0")
    return samples
