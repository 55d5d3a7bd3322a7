"""Run the plugin as a process: hand environment and standard input to ``handle``."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_CHUNK = 1 << 16
# lmdb would compile another implementation of itself, which fastipam does not work with.
_FORCED = "LMDB_FORCE_CFFI"


def log(text: str) -> None:
    _write(2, f"fastipam: {text}\n".encode("utf-8", "backslashreplace"))


def _write(descriptor: int, data: bytes) -> OSError | None:
    """Write everything; return the error of a reader that went away, or None."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # a full pipe that somebody set to non-blocking
            os.set_blocking(descriptor, True)
        except OSError as error:
            return error
    return None


def fill_gaps(input_mode: int = os.O_RDONLY) -> set[int]:
    """Open those of the descriptors 0 to 2 that are closed, and return them.

    Otherwise the next file to be opened would get the number, and the answer would be written into
    the store. Standard output stays one that cannot be written. Standard input is empty, unless its
    mode is ``O_WRONLY``: then it stays one that cannot be read.
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
    """Return standard input to its end, or slightly more than ``limit`` bytes of it."""
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
    """Return the nanoseconds since the launcher began (FASTIPAM_STARTED), or 0 when unknown.

    A process that runs because its agent went away may have begun seconds after the launcher. An
    agent in another time namespace than the launcher has another monotonic clock.
    """
    if not (started.isdecimal() and len(started) < _LONGEST_STAMP):
        return 0
    age = time.monotonic_ns() - int(started)
    if 0 <= age <= _USUAL_NS:
        return age
    age -= _monotonic_offset_ns()
    return age if 0 <= age <= _OLDEST_NS else 0


def _wait_less(age: int) -> None:
    """Subtract what the caller has waited for an agent from what a call waits for a writer."""
    from fastipam.storage import lmdb_errors, open_stores

    open_stores.patience_s = max(_LEAST_PATIENCE_S, lmdb_errors.PATIENCE_S - age / 1e9)


_LONG_NS = 10**9  # a launcher that has found no agent is younger
_LEAST_PATIENCE_S = 0.5
_LONGEST_STAMP = 20
_USUAL_NS = 60 * 10**9  # longer than an agent waits for a launcher, and a launcher for an agent
_OLDEST_NS = 3600 * 10**9  # the launcher does not wait longer, so an older stamp is not its own


def _monotonic_offset_ns() -> int:
    """Return what this process's time namespace adds to the monotonic clock."""
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
    """Return when the process began: what the wall clock said, and what it would say now of then.

    It may have been set while input was read. GC spares leases that are younger, and releases none
    that was assigned meanwhile, before or after the step.
    """
    return wall_ns, time.time_ns() - (time.monotonic_ns() - monotonic_ns)


def main(installed_for: str = "") -> NoReturn:
    """Serve the request of this process, then end it without the interpreter's shutdown.

    ``installed_for`` is the version of Python that installed the entry point.
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
    """Return the error object for a failure outside of ``handle``, such as a lost input."""
    import errno  # built in: no file is opened for it

    code = 50 if os.environ.get("CNI_COMMAND") == "STATUS" else 11
    details = ""
    if isinstance(error, KeyboardInterrupt):
        message = "interrupted"
    elif isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        message = f"this process has met a limit: {error}"
        details = "`ulimit -a`, and Limit…= of the service, name the limits"
    elif isinstance(error, MemoryError):
        message, details = "not enough memory to start", "see `ulimit -v` and `free -m`"
    elif isinstance(error, OSError):
        code, message = 5, f"standard input: {error}"
    else:
        message, details = why_not_loaded(error, installed_for)
    more = f', "details": {_quoted(details)}' if details else ""
    return f'{{"cniVersion": "1.1.0", "code": {code}, "msg": {_quoted(message)}{more}}}'.encode()


def _quoted(text: str) -> str:
    """Return a text as JSON, without an import: what has failed may be one, for want of memory."""
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
    """Return (message, hint) for an error that comes while fastipam is imported."""
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
