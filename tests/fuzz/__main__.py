"""``python -m tests.fuzz config|protocol|launcher [DIRECTORY] [options of libFuzzer]``: fuzz.

The configuration and the protocol are fuzzed by atheris, the launcher by libFuzzer with the
address and undefined-behaviour sanitizers. The directory keeps the corpus; without one the corpus
is thrown away. Ends with status 0 after ``-runs=N`` inputs, with 77 (libFuzzer's) and the input
when one broke a promise.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

ROOT = Path(__file__).parents[2]
SANITIZERS = "fuzzer,address,undefined"


def build_launcher(target: Path, source: Path = ROOT / "src" / "launcher.c") -> None:
    """Compile the launcher into its fuzzer. Raises CalledProcessError, FileNotFoundError."""
    command = ["clang", "-g", "-O1", f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all"]
    harness = Path(__file__).with_name("launcher_fuzz.c")
    define = f'-DSOURCE="{source}"'
    subprocess.run([*command, define, str(harness), "-o", str(target)], check=True)


def run_launcher(directory: Path, corpus: Path, options: list[str]) -> int:
    """Run the launcher's fuzzer; its exit status."""
    build_launcher(directory / "launcher_fuzz")
    argv = [str(directory / "launcher_fuzz"), *options, str(corpus)]
    # What a process leaves to its end is no leak: every input is a process to the launcher.
    env = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run(argv, env=env, check=False).returncode


def run_python(name: str, directory: Path, corpus: Path, options: list[str]) -> NoReturn:
    """Run one of atheris' fuzzers; it ends the process."""
    import atheris

    from .targets import TARGETS

    logging.disable(logging.CRITICAL)
    with TARGETS[name](directory) as target:
        argv = [sys.argv[0], *options, str(corpus)]
        atheris.Setup(argv, target, enable_python_coverage=True)
        atheris.Fuzz()
    raise SystemExit


def scratch() -> Path:
    """A directory that is gone after this process, however it ends: libFuzzer runs no handlers."""
    directory = Path(tempfile.mkdtemp(prefix="fastipam-fuzz-", dir=_fast()))
    reading, writing = os.pipe()
    if not os.fork():
        os.setsid()  # what is meant for the fuzzer's group is not meant for this one
        os.close(writing)
        os.read(reading, 1)  # until nobody can write: the fuzzer has ended
        shutil.rmtree(directory, ignore_errors=True)
        os._exit(0)
    os.close(reading)
    return directory


def main(name: str, options: list[str]) -> int:
    """Run a fuzzer."""
    directory = scratch()
    inputs = _inputs(instrumented=name != "launcher")
    corpora = [option for option in options if not option.startswith("-")]
    options = [option for option in options if option.startswith("-")]
    corpus = Path(corpora[0] if corpora else directory / "corpus")
    corpus.mkdir(parents=True, exist_ok=True)
    seeds: dict[str, Iterable[bytes]] = {
        "config": inputs.calls(),
        "protocol": (b"\0" + one for one in inputs.conversations()),
        "launcher": inputs.launches(),
    }
    for at, data in enumerate(seeds[name]):
        (corpus / f"seed-{at}").write_bytes(data)
    words = directory / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in inputs.WORDS))
    usual = [f"-dict={words}", "-max_len=4096", "-rss_limit_mb=0", *options]
    if name == "launcher":
        return run_launcher(directory, corpus, usual)
    run_python(name, directory, corpus, usual)


def _inputs(*, instrumented: bool) -> ModuleType:
    """The module; with it all of fastipam is loaded, and atheris has to see that."""
    if instrumented:
        import atheris

        with atheris.instrument_imports(include=["fastipam"]):
            from . import inputs, targets  # noqa: F401
    else:
        from . import inputs
    return inputs


def _escaped(word: str) -> str:
    return "".join(
        character if character.isalnum() else f"\\x{ord(character):02x}" for character in word
    )


def _fast() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
