"""Which documents there are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def _documents() -> list[Path]:
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    found.append(ROOT / "deploy" / "README.md")
    return sorted(path for path in found if "_build" not in path.parts)


DOCUMENTS = _documents()
