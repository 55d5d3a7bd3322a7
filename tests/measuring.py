"""Line coverage and sanitizers of processes that tests start in an environment of their own.

`scripts/test --coverage` runs it with coverage.py's ``patch = subprocess``, which puts its settings
into a variable that every process inherits, unless it is started in another environment, as a
runtime does. In `scripts/campaign sanitize` it is the sanitizers' runtimes that variables preload,
and the extensions need them.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

_VARIABLE = "COVERAGE_PROCESS_CONFIG"
MEASURING = _VARIABLE in os.environ
_PRELOAD = "LD_PRELOAD"
_SANITIZED: dict[str, str] = {}
if "libasan" in os.environ.get(_PRELOAD, ""):
    for _name in (_PRELOAD, "ASAN_OPTIONS", "UBSAN_OPTIONS", "PYTHONMALLOC"):
        _SANITIZED[_name] = os.environ[_name]


def passed_on() -> dict[str, str]:
    """The variables that a Python process needs in such a run; nothing in an ordinary one."""
    return _SANITIZED | ({_VARIABLE: os.environ[_VARIABLE]} if MEASURING else {})


def not_passed_on() -> dict[str, str]:
    """What keeps a process from measuring itself; nothing in an ordinary run."""
    return {_VARIABLE: ""} if MEASURING else {}


def instrument(entry_point: Path) -> None:
    """Let an installed entry point measure itself: it runs without site-packages and variables.

    Nothing is changed in an ordinary run.
    """
    if not MEASURING:
        return
    _begin(
        entry_point,
        f"os.environ[{_VARIABLE!r}] = {os.environ[_VARIABLE]!r}\n"
        f"sys.path.append({sysconfig.get_path('purelib')!r})\n"
        "import coverage\n"
        "coverage.process_startup()\n"
        f"del os.environ[{_VARIABLE!r}]\n",
    )


def sanitize(entry_point: Path) -> None:
    """Let an installed entry point start anew with the sanitizers' runtimes, and hide that.

    Nothing is changed in an ordinary run.
    """
    if not _SANITIZED:
        return
    _begin(
        entry_point,
        f"if {_PRELOAD!r} not in os.environ:\n"
        f"    os.environ.update({_SANITIZED!r})\n"
        "    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])\n"
        f"for name in {tuple(_SANITIZED)!r}:\n"
        "    os.environ.pop(name, None)\n",
    )


def _begin(entry_point: Path, lines: str) -> None:
    """Let an entry point begin with these lines, which may use os and sys."""
    marker = "import sys\n"
    text = entry_point.read_text()
    assert text.count(marker) == 1
    entry_point.write_text(text.replace(marker, f"{marker}import os\n{lines}"))
