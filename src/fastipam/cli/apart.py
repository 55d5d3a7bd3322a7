"""Read a store in a process of its own, because LMDB ends a process that reads a damaged page."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from typing import TYPE_CHECKING

from fastipam.errors import StoreCorrupt
from fastipam.storage.lmdb_errors import REPLACE_HINT

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, TypeVar

    Result = TypeVar("Result")

_CRASHES = (signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV)


def apart(function: Callable[[], Result], path: str) -> Result:
    """Call ``function``, which opens the store at ``path``, in a child process; return its result.

    The result, or the exception that the function raises, comes back pickled. Raises StoreCorrupt
    when LMDB has ended the child.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _answer(function, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            answer = pipe.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if -code in _CRASHES:
        raise StoreCorrupt(
            f"{path} holds a damaged page: LMDB ended with {signal.Signals(-code).name}",
            path=path,
            hint=REPLACE_HINT,
        )
    if code:
        raise SystemExit(1)
    result: Result
    error, cause, result = pickle.loads(answer)
    if error is not None:
        raise error from cause
    return result


def _answer(function: Callable[[], object], writing: int) -> NoReturn:
    """Call the function, write its result or exception, and end the process."""
    try:
        try:
            answer = pickle.dumps((None, None, function()))
        except Exception as error:
            answer = pickle.dumps((error, error.__cause__, None))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(answer)
        sys.stderr.flush()
    except BaseException:  # Ctrl-C, which the parent has received too
        os._exit(1)
    os._exit(0)
