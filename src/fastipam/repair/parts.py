"""What the steps of a repair share: the action that says what was done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Action:
    """One change of a repair. ``kind`` is a short name, ``where`` an address or a key."""

    kind: str
    network: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.network}: {self.where}: {self.text} ({self.kind})"
