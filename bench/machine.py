"""Facts about the machine, the versions and the date of a report."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("fastipam", "lmdb", "numpy", "bitarray", "pyroaring", "netaddr", "pytest-benchmark")
_ROOT = Path(__file__).parent.parent


def facts() -> dict[str, str]:
    """Return machine, system, versions, commit and date."""
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def footer(facts_: dict[str, str]) -> str:
    """Return the facts as two lines of text, for a picture."""
    first = f"{facts_['machine']}; {facts_['system']}; {facts_['python']}"
    return f"{first}\n{facts_['packages']}; commit {facts_['commit']}; {facts_['date']}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)


def _commit() -> str:
    """Return the abbreviated commit, with a plus sign if the sources have changed since."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short", "HEAD") or "unknown"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "bench")
    return f"{commit}+" if changed else commit
