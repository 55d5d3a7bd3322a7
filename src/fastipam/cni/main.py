"""Run the plugin as a process: hand environment and standard input to ``handle``."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_CHUNK = 1 << 16
# With this variable lmdb would use another implementation, which fastipam does not work with.
_FORCED = "LMDB_FORCE_CFFI"


def log(text: str) -> None:
    _write(2, f"fastipam: {text}\n".encode("utf-8", "backslashreplace"))


def _write(descriptor: int, data: bytes) -> OSError | None:
    """Write all of ``data``; return the error if the reader has closed the pipe, or None."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # the pipe is full, and another process set it to non-blocking
            os.set_blocking(descriptor, True)
        except OSError as error:
            return error
    return None


def fill_gaps(input_mode: int = os.O_RDONLY) -> set[int]:
    """Open the descriptors 0, 1 and 2 on /dev/null where they are closed, and return those.

    Otherwise the next file that is opened, such as the store, would get such a number, and the
    answer would be written into it. Writing to a standard output that was closed still fails.
    Reading from standard input returns nothing, or fails if ``input_mode`` is ``O_WRONLY``.
    """
    closed = set()
    for descriptor, mode in ((0, input_mode), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)
            closed.add(descriptor)
    return closed


def _read_all(limit: int) -> bytes:
    """Return all of standard input, or slightly more than ``limit`` bytes of a longer one."""
    parts = []
    size = 0
    while size <= limit:
        try:
            part = os.read(0, _CHUNK)
        except BlockingIOError:
            os.set_blocking(0, True)
            continue
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def age_ns(started: str) -> int:
    """Return the nanoseconds since the launcher started (FASTIPAM_STARTED), or 0 when unknown.

    The launcher may have waited for an agent for seconds before it started this process. The
    result is also right if the launcher runs in another time namespace, where the monotonic clock
    differs.
    """
    if not (started.isdecimal() and len(started) < _LONGEST_STAMP):
        return 0
    age = time.monotonic_ns() - int(started)
    if 0 <= age <= _USUAL_NS:
        return age
    age -= _monotonic_offset_ns()
    return age if 0 <= age <= _OLDEST_NS else 0


def _wait_less(age: int) -> None:
    """Shorten the wait for a writer by the time that the caller has already waited for an agent."""
    from fastipam.storage import lmdb_errors, open_stores

    open_stores.patience_s = max(_LEAST_PATIENCE_S, lmdb_errors.PATIENCE_S - age / 1e9)


_LONG_NS = 10**9  # a launcher that finds no agent starts this process sooner
_LEAST_PATIENCE_S = 0.5
_LONGEST_STAMP = 20
_USUAL_NS = 60 * 10**9  # more than an agent and a launcher wait for each other
_OLDEST_NS = 3600 * 10**9  # no launcher waits that long, so an older time is not the launcher's


def _monotonic_offset_ns() -> int:
    """Return the nanoseconds that this process's time namespace adds to the monotonic clock."""
    try:
        with open("/proc/self/timens_offsets") as file:
            for line in file:
                clock, seconds, nanoseconds = line.split()
                if clock in ("monotonic", "1"):
                    return int(seconds) * 10**9 + int(nanoseconds)
    except (OSError, ValueError):
        pass
    return 0


def _started(wall_ns: int, monotonic_ns: int) -> tuple[int, int]:
    """Return the start of the process twice: by the wall clock as it was then, and as it is now.

    The wall clock may have been set while the input was read. With both times GC spares every lease
    that was assigned since the start, before or after the clock was set.
    """
    return wall_ns, time.time_ns() - (time.monotonic_ns() - monotonic_ns)


def main(installed_for: str = "") -> NoReturn:
    """Serve the request of this process, then exit without the interpreter's shutdown.

    ``installed_for`` is the version of Python for which the entry point was installed.
    """
    age = age_ns(os.environ.get("FASTIPAM_STARTED", ""))
    wall_ns, monotonic_ns = time.time_ns() - age, time.monotonic_ns() - age
    try:
        if 1 in fill_gaps() and os.environ.get("CNI_COMMAND") == "ADD":
            log("standard output is closed: nothing was assigned, because the answer would be lost")
            os._exit(1)
        refuse_forced()
        from fastipam.cni.handler import handle
        from fastipam.configuration.reader import LARGEST

        if age > _LONG_NS:
            _wait_less(age)
        stdin = b""
        if os.environ.get("CNI_COMMAND", "VERSION") not in ("", "VERSION"):
            stdin = _read_all(LARGEST)
        started_ns = _started(wall_ns, monotonic_ns)
        status, stdout = handle(os.environ, stdin, log=log, started_ns=started_ns)
    except (Exception, KeyboardInterrupt) as error:
        status = 1
        stdout = _last_words(error, installed_for)
    lost = _write(1, stdout)
    if lost is not None:
        # After a failed ADD the runtime calls DEL, which releases the address.
        log(f"the answer could not be written to standard output: {lost.strerror}")
        status = 1
    os._exit(status)


def _last_words(error: BaseException, installed_for: str) -> bytes:
    """Return the error object for a failure outside of ``handle``, such as unreadable input."""
    import errno  # a built-in module: the import opens no file

    code = 50 if os.environ.get("CNI_COMMAND") == "STATUS" else 11
    details = ""
    if isinstance(error, KeyboardInterrupt):
        message = "interrupted"
    elif isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        message = f"this process has reached a resource limit: {error}"
        details = "`ulimit -a` and the Limit…= settings of the service show the limits"
    elif isinstance(error, MemoryError):
        message, details = "not enough memory to start", "see `ulimit -v` and `free -m`"
    elif isinstance(error, OSError):
        code, message = 5, f"standard input cannot be read: {error}"
    else:
        message, details = why_not_loaded(error, installed_for)
    more = f', "details": {_quoted(details)}' if details else ""
    return f'{{"cniVersion": "1.1.0", "code": {code}, "msg": {_quoted(message)}{more}}}'.encode()


def _quoted(text: str) -> str:
    """Return a text as JSON, without importing ``json``: imports may fail for lack of memory."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    plain = "".join(
        one if one.isprintable() else f"\\u{min(ord(one), 0xFFFD):04x}" for one in escaped
    )
    return '"' + plain.encode("utf-8", "replace").decode() + '"'


def refuse_forced() -> None:
    """Raise ImportError when the environment forces an lmdb that fastipam cannot use."""
    if _FORCED in os.environ:
        raise ImportError(f"the variable {_FORCED} is set")


def why_not_loaded(error: BaseException, installed_for: str = "") -> tuple[str, str]:
    """Return (message, hint) for an error during the import of fastipam."""
    import sys

    running = ".".join(map(str, sys.version_info[:2]))
    message = f"fastipam cannot be loaded by Python {running}"
    if installed_for:
        message += f" (it was installed for Python {installed_for})"
    message += f": {type(error).__name__}: {error}"
    hint = "run `fastipam install` again, with the Python that fastipam is installed in"
    if _FORCED in os.environ:
        hint = f"remove {_FORCED} from the environment; if that does not help, {hint}"
    return message, hint
