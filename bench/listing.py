"""Time ``list`` and ``stats`` on a full /12, and on one lease: ``python -m bench.listing``.

Processes on the two stores alternate, so that other work on the machine affects both. Figures are
medians of wall clock time, from the start of the process to its first row. The second store has one
lease, because an empty list has no first row.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import fastipam
from bench import stores

ROUNDS = 9
_CODE = "from fastipam.cli.main import main; main()"


def _first_line(data_dir: Path, *words: str) -> float:
    """Return the seconds from the start of a process to its first row (its second line)."""
    start = time.perf_counter()
    command = [sys.executable, "-c", _CODE, *words, "--data-dir", str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        row = process.stdout.readline()
        seconds = time.perf_counter() - start
        process.kill()
    assert b"podnet" in row, row
    return seconds


def main() -> None:
    """Fill a /12, and print the table."""
    with tempfile.TemporaryDirectory() as directory:
        full, empty = Path(directory, "full"), Path(directory, "empty")
        stores.fill(full, "relaxed")
        with fastipam.open(empty, "relaxed") as ipam:
            ipam.network(stores.NETWORK, stores.SUBNET).allocate(stores.CONTAINER)
        print(f"{'command':<24} {'one s':>9} {'full s':>9} {'more s':>9} {'ratio':>7}")
        for words in (["list"], ["list", "--json"], ["stats"], ["stats", "--json"]):
            pairs = [(_first_line(empty, *words), _first_line(full, *words)) for _ in range(ROUNDS)]
            none, all_ = (median(column) for column in zip(*pairs, strict=True))
            name = " ".join(words)
            print(f"{name:<24} {none:9.3f} {all_:9.3f} {all_ - none:9.3f} {all_ / none:7.2f}")
        start = time.perf_counter()
        command = [sys.executable, "-c", _CODE, "list", "--data-dir", str(full)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            count = sum(1 for _ in process.stdout)
        print(f"{count - 1} rows of list in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
