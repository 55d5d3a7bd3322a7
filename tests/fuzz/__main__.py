"""``python -m tests.fuzz config|protocol [options of libFuzzer]``: atheris, until it finds one.

The corpus is kept in the directory FASTIPAM_CORPUS, else in one that is removed at the end. Ends
with status 0 after ``-runs=N`` inputs, 77 with the input that broke a promise.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fastipam"]):
    from . import inputs
    from .targets import TARGETS


def main(name: str, options: list[str]) -> None:
    """Run the fuzzer; it ends the process."""
    logging.disable(logging.CRITICAL)
    directory = Path(tempfile.mkdtemp(prefix="fastipam-fuzz-", dir=_fast()))
    corpus = Path(os.environ.get("FASTIPAM_CORPUS", str(directory / "corpus")))
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = inputs.calls() if name == "config" else (b"\0" + one for one in inputs.conversations())
    for at, data in enumerate(seeds):
        (corpus / f"seed-{at}").write_bytes(data)
    words = directory / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in inputs.WORDS))
    with TARGETS[name](directory) as target:
        argv = [sys.argv[0], f"-dict={words}", "-max_len=4096", "-rss_limit_mb=0", *options]
        atheris.Setup([*argv, str(corpus)], target, enable_python_coverage=True)
        atheris.Fuzz()


def _escaped(word: str) -> str:
    return "".join(
        character if character.isalnum() else f"\\x{ord(character):02x}" for character in word
    )


def _fast() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
