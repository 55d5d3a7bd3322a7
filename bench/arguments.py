"""The code that the entry points share: command line, order of the parts, exit status."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import children
from bench.errors import Failed, Missing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# A directory that git ignores: a run replaces the figures of the documents only with
# --output docs/bench.
OUTPUT = Path("bench-report")


def parser(
    program: str, text: str | None, parts: Sequence[str], output: Path
) -> argparse.ArgumentParser:
    """Return a parser of ``--quick``, ``--only PART``, ``--output DIR`` and ``--scratch DIR``.

    ``output`` is the default of ``--output``, the directory of the report.
    """
    made = argparse.ArgumentParser(prog=f"python -m {program}", description=text)
    made.add_argument("--quick", action="store_true", help="fewer rounds")
    made.add_argument(
        "--only",
        action="append",
        choices=parts,
        help="measure this part only; may be given several times",
    )
    made.add_argument(
        "--output",
        type=Path,
        default=output,
        metavar="DIR",
        help="where report, samples and pictures go (default: %(default)s)",
    )
    made.add_argument(
        "--scratch", type=Path, help="a directory on the disk to measure (default: the system's)"
    )
    return made


def prepare(output: Path) -> None:
    """Create the directory of the report. Raises Missing when it cannot be written."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Missing(f"--output {output}: {error.strerror}") from error
    if not os.access(output, os.W_OK):
        raise Missing(f"--output {output} cannot be written")


def chosen(arguments: argparse.Namespace, parts: Sequence[str]) -> list[str]:
    """Return the parts to measure, in their order."""
    return [part for part in parts if part in (arguments.only or parts)]


def run(parts: Sequence[str], work: Mapping[str, Callable[[], object]]) -> None:
    """Measure the parts, and print how long each one took."""
    for part in parts:
        start = time.perf_counter()
        print(f"measuring: {part} … ", end="", file=sys.stderr, flush=True)
        work[part]()
        print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)


def to_its_end(main: Callable[[], int]) -> int:
    """Run ``main`` and return its exit status: 2 for Missing and Failed, 130 when interrupted.

    Ctrl-C and SIGTERM unwind the stack, so that processes, namespaces and directories are removed.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return main()
    except (Missing, Failed) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: no report was written", file=sys.stderr)
        return 130
    finally:
        children.end_all()  # an interruption may leave processes running
