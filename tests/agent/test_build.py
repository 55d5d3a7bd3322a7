"""What the launcher is as a file, and what a strict compiler says of its source."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

import fastipam

from ..e2e import tools
from .conftest import SOURCE

LAUNCHER = Path(fastipam.__file__).parent / "launcher"
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wformat=2", "-fanalyzer")
PT_LOAD, PT_INTERP = 1, 3


def segment_types(image: bytes) -> list[int]:
    """The types of an ELF file's program headers (64 bit, little endian)."""
    assert image[:6] == b"\x7fELF\x02\x01"
    (offset,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    return [struct.unpack_from("<I", image, offset + at * size)[0] for at in range(count)]


def test_static() -> None:
    """No loader and no shared library is needed to start it, on any distribution."""
    types = segment_types(LAUNCHER.read_bytes())
    assert PT_LOAD in types
    assert PT_INTERP not in types


def test_size() -> None:
    """It stays below 1 MiB, libc included."""
    assert LAUNCHER.stat().st_size < 1 << 20


@pytest.mark.parametrize("optimise", ["-Os", "-O2"])
def test_no_warnings(optimise: str, tmp_path: Path) -> None:
    """A strict compiler and its static analyser have nothing to say."""
    compiler = tools.require_compiler()
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")

    def compile_(source: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        command = [compiler, "-c", str(source), "-o", str(tmp_path / "o"), "-Werror", *flags]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    known = [flag for flag in WARNINGS if compile_(tmp_path / "empty.c", flag).returncode == 0]
    assert "-Wall" in known
    done = compile_(SOURCE, optimise, *known)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
