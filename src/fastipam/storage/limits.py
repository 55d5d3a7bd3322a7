"""Name the limit of this process, or of the system, that a call has reached.

Imported only when an error may come from such a limit. When the limit is that of open files, it
opens no file itself, because the process has no free descriptor.
"""

from __future__ import annotations

import errno
import os

_FILES = "LimitNOFILE= of the service, or `ulimit -n`, raises the limit"
_MEMORY = "LimitAS= of the service, or `ulimit -v`, raises the limit; the store's map is not memory"
_SIZE = "LimitFSIZE= of the service, or `ulimit -f`, raises the limit; nothing was changed"


def passing(code: int) -> tuple[str, str] | None:
    """Return (what is exhausted, what to do) for an errno that may be temporary, else None."""
    if code == errno.EMFILE:
        most = os.sysconf("SC_OPEN_MAX")
        return f"this process has {most} files open, as many as it may (ulimit -n)", _FILES
    if code == errno.ENFILE:
        return (
            "the system has as many files open as it may (fs.file-max)",
            "`sysctl fs.file-nr` shows them, `sysctl -w fs.file-max=…` raises the limit",
        )
    if code == errno.ENOMEM:
        most_bytes = _limit("Max address space")
        if most_bytes is None:
            return "the kernel has no memory left for it", "`free -m` shows what is in use"
        return f"this process may map {_size(most_bytes)} (ulimit -v)", _MEMORY
    return None


def file_size() -> tuple[str, str] | None:
    """Return (what is exceeded, what to do) when this process has a limit of file size."""
    most_bytes = _limit("Max file size")
    if most_bytes is None:
        return None
    return f"this process may write files of {_size(most_bytes)} (ulimit -f)", _SIZE


def _limit(name: str) -> int | None:
    """Return the soft limit of this process, or None when there is none, or it is not known."""
    try:
        with open("/proc/self/limits", encoding="ascii") as file:
            for line in file:
                if line.startswith(name):
                    soft = line[len(name) :].split()[0]
                    return int(soft) if soft.isdecimal() else None
    except (OSError, MemoryError):
        pass
    return None


def _size(count: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >> shift:
            return f"{count / (1 << shift):.3g} {unit}"
    return f"{count} bytes"
