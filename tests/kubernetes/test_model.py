"""The protocol between nodes and the Kubernetes API, checked by spin: ``model/protocol.pml``.

Each way of removal is searched completely; a search that is cut short fails. A model that cannot
fail shows nothing, so each guard is taken away in turn, and the checker has to find which promise
that breaks.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.options import options

MODEL = Path(__file__).parent / "model" / "protocol.pml"
DEPTH = 100_000  # steps of one run: the deepest that was seen is below 500
MEMORY_MIB = 2048
HANG_S = 1800

pytestmark = pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("gcc") is None,
    reason="needs spin and gcc (apt-get install spin gcc)",
)

# Removed: a machine that is off; LIVE: a node that runs; FENCED: one that runs, with fencing.
# The long form has a crash and a fault in one run everywhere; the short one where that is cheap.
BOTH = ("FAULTS=1", "CRASHES=1")
EITHER = (("FAULTS=1", "CRASHES=0"), ("FAULTS=0", "CRASHES=1"))
LARGE = (("HANDOVER",), ("LIVE", "HANDOVER"), ("FENCED", "HANDOVER"))
COMPLETE = [
    *((*mode, *BOTH) for mode in ((), ("LIVE",), ("FENCED",))),
    *((*mode, *budget) for mode in LARGE for budget in ((BOTH,) if options.long else EITHER)),
]

# What is taken away, where, and the promise that the checker finds broken first.
WITHOUT = [
    ("NO_CREATE", ("FAULTS=0", "CRASHES=0"), "TWO"),
    ("NO_VERSION", ("FAULTS=1", "CRASHES=1"), "TWO"),
    ("NO_RELEASING", ("HANDOVER", "FAULTS=0", "CRASHES=0"), "TWO"),
    ("NO_DEFINITE_NO", ("HANDOVER", "FAULTS=1", "CRASHES=0"), "TWO"),
    ("NO_TOMBSTONE_FIRST", ("FAULTS=0", "CRASHES=1"), "TWO"),
    ("NO_REREAD", ("FAULTS=0", "CRASHES=1"), "TWO"),
    ("NO_ENTRY_FIRST", ("FAULTS=0", "CRASHES=1"), "REMOVED"),
    ("NO_ENTRY_FIRST", ("FENCED", "FAULTS=0", "CRASHES=0"), "REMOVED"),
    ("NO_LEASE_IN_ENTRY", ("FENCED", "FAULTS=0", "CRASHES=1"), "REMOVED"),
    ("NO_CLOCK", ("FENCED", "FAULTS=0", "CRASHES=0"), "REMOVED"),
    ("NO_CONFIRM", ("LIVE", "FAULTS=0", "CRASHES=0"), "TWO"),
    ("NO_CONFIRM_FOUND", ("LIVE", "HANDOVER", "FAULTS=0", "CRASHES=0"), "REMOVED"),
    ("NO_STAMP", ("FAULTS=0", "CRASHES=1"), "TWO"),
    ("NO_EPOCH", ("HANDOVER", "FAULTS=1", "CRASHES=1"), "TWO"),
    ("NO_ORPHANS", ("FAULTS=1", "CRASHES=1"), "LOST"),
]


def check(directory: Path, *defines: str, optimize: str = "-O0") -> str:
    """Search the model with these switches; return what spin's verifier says.

    A verifier that finds its counterexample at once takes longer to compile than to run.
    """
    command = ["spin", "-a", *(f"-D{name}" for name in ("WORK=1", *defines)), str(MODEL)]
    made = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    flags = [optimize, "-w", "-DSAFETY", "-DVECTORSZ=512", f"-DMEMLIM={MEMORY_MIB}"]
    if options.long:
        flags += ["-DCOLLAPSE"]  # half the memory, and half as fast again
    subprocess.run(["gcc", *flags, "-o", "pan", "pan.c"], cwd=directory, check=True)
    done = subprocess.run(
        ["./pan", f"-m{DEPTH}"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    return done.stdout + done.stderr


def broken(said: str) -> str:
    """Return which promise of the model the verifier found broken, or what else it says."""
    found = re.search(r"^pan:1: (.*)", said, re.MULTILINE)
    if found is None or not found[1].startswith("assertion violated"):
        return said
    if "block.owner" in found[1]:
        return "LOST"
    return "REMOVED" if "incarnation==255" in found[1] else "TWO"


@pytest.mark.parametrize("defines", COMPLETE, ids="-".join)
def test_protocol(tmp_path: Path, defines: tuple[str, ...]) -> None:
    """No block is active on two nodes, no removed node assigns, no block is lost for ever."""
    said = check(tmp_path, *defines, optimize="-Og")
    assert "errors: 0\n" in said, said
    for cut_short in ("max search depth too small", "Search not completed", "out of memory"):
        assert cut_short not in said, said
    states = re.search(r"(\d+) states, stored", said)
    seconds = re.search(r"elapsed time ([\d.]+) seconds", said)
    assert states is not None, said
    assert seconds is not None, said
    print(f"{' '.join(defines)}: {int(states[1]):,} states, {seconds[1]} s")


@pytest.mark.parametrize(
    ("guard", "defines", "promise"), WITHOUT, ids=[f"{g}-{'-'.join(d)}" for g, d, _ in WITHOUT]
)
def test_without_a_guard(
    tmp_path: Path, guard: str, defines: tuple[str, ...], promise: str
) -> None:
    """The checker finds what a guard that is missing breaks."""
    assert broken(check(tmp_path, guard, *defines)) == promise


def test_every_guard_is_taken_away() -> None:
    """The table names each switch of the model."""
    switches = set(re.findall(r"\bNO_[A-Z_]+", MODEL.read_text()))
    assert switches == {guard for guard, _, _ in WITHOUT}
