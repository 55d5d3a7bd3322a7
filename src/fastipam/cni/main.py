"""The process that a container runtime starts: environment and standard input to ``handle``."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_CHUNK = 1 << 16


def _log(text: str) -> None:
    _write(2, f"fastipam: {text}\n".encode("utf-8", "backslashreplace"))


def _write(descriptor: int, data: bytes) -> None:
    """All of it, or as much as a reader that goes away lets pass."""
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        pass


def _read_all(limit: int) -> bytes:
    """Standard input up to the end, or a little more than ``limit`` bytes of it."""
    parts = []
    size = 0
    while size <= limit:
        part = os.read(0, _CHUNK)
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def main() -> NoReturn:
    """Serve the one request of this process, and end it without tearing the interpreter down."""
    started_ns = time.time_ns()
    try:
        from fastipam.cni.document import LARGEST
        from fastipam.cni.handler import handle

        stdin = b""
        if os.environ.get("CNI_COMMAND", "VERSION") not in ("", "VERSION"):
            stdin = _read_all(LARGEST)
        status, stdout = handle(os.environ, stdin, log=_log, started_ns=started_ns)
    except Exception as error:
        status = 1
        stdout = _last_words(error)
    _write(1, stdout)
    os._exit(status)


def _last_words(error: Exception) -> bytes:
    """The error object when not even ``handle`` could run: standard input is gone, say."""
    from json import dumps

    if isinstance(error, OSError):
        return dumps({"cniVersion": "1.1.0", "code": 5, "msg": f"standard input: {error}"}).encode()
    message = f"fastipam cannot be loaded: {type(error).__name__}: {error}"
    hint = "run `fastipam install` again"
    return dumps({"cniVersion": "1.1.0", "code": 999, "msg": message, "details": hint}).encode()
