"""What the parts of a repair share: what was done, and the records they read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that was mended; ``kind`` a short name, ``where`` an address or a key."""

    kind: str
    network: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.network}: {self.where}: {self.text} ({self.kind})"
