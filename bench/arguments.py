"""The command line that the entry points have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCS = Path(__file__).parent.parent / "docs" / "bench"


def parser(
    program: str, text: str | None, parts: Sequence[str], output: Path
) -> argparse.ArgumentParser:
    """``--quick``, ``--only PART``, ``--output DIR``, ``--scratch DIR``."""
    made = argparse.ArgumentParser(prog=f"python -m {program}", description=text)
    made.add_argument("--quick", action="store_true", help="fewer rounds")
    made.add_argument(
        "--only",
        action="append",
        choices=parts,
        help="measure this part only; may be given several times",
    )
    made.add_argument(
        "--output", type=Path, default=output, help="where the report, samples and pictures go"
    )
    made.add_argument(
        "--scratch", type=Path, help="a directory on the disk to measure (default: the system's)"
    )
    return made


def chosen(arguments: argparse.Namespace, parts: Sequence[str]) -> list[str]:
    """The parts to measure, in their order."""
    return [part for part in parts if part in (arguments.only or parts)]
