"""Line coverage of processes that tests start in an environment of their own.

`scripts/test --coverage` runs it with coverage.py's ``patch = subprocess``, which puts its settings
into a variable that every process inherits, unless it is started in another environment, as a
runtime does.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

_VARIABLE = "COVERAGE_PROCESS_CONFIG"
MEASURING = _VARIABLE in os.environ


def passed_on() -> dict[str, str]:
    """The variable that makes a Python process measure itself; nothing in an ordinary run."""
    return {_VARIABLE: os.environ[_VARIABLE]} if MEASURING else {}


def not_passed_on() -> dict[str, str]:
    """What keeps a process from measuring itself; nothing in an ordinary run."""
    return {_VARIABLE: ""} if MEASURING else {}


def instrument(entry_point: Path) -> None:
    """Let an installed entry point measure itself: it runs without site-packages and variables.

    Nothing is changed in an ordinary run.
    """
    if not MEASURING:
        return
    marker = "import sys\n"
    text = entry_point.read_text()
    assert text.count(marker) == 1
    start = (
        f"{marker}"
        "import os\n"
        f"os.environ[{_VARIABLE!r}] = {os.environ[_VARIABLE]!r}\n"
        f"sys.path.append({sysconfig.get_path('purelib')!r})\n"
        "import coverage\n"
        "coverage.process_startup()\n"
        f"del os.environ[{_VARIABLE!r}]\n"
    )
    entry_point.write_text(text.replace(marker, start))
