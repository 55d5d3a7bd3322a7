"""Network namespaces that a test ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager

from fastipam.testing.clock import forget_looks
from fastipam.testing.stores import memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_LIVE = """
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).unshare(int(sys.argv[1])):
    sys.exit(os.strerror(ctypes.get_errno()))
os.write(1, b"it lives\\n")
os.read(0, 1)
"""


class TemporaryNetns:
    """A network namespace, or a file that stands for one. ``path`` is a value for ``CNI_NETNS``."""

    def __init__(self, path: str, end: Callable[[], object]) -> None:
        self.path: str = path
        self._end: Callable[[], object] | None = end

    def __fspath__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"<TemporaryNetns {self.path} {'exists' if self._end else 'is gone'}>"

    def die(self) -> None:
        """End the namespace, as if its container had died and the runtime had not called DEL.

        The next sweep notices that, and so does an ADD that finds the pool full. A second call does
        nothing.
        """
        end, self._end = self._end, None
        if end is not None:
            end()
            forget_looks()


@contextmanager
def temporary_netns(*, real: bool = False) -> Iterator[TemporaryNetns]:
    """Make a network namespace for the block.

    By default this is a file that stands for a namespace, which needs no privilege. A sweep cannot
    prove that the namespace of such a file is gone. So its lease is released by the second
    :meth:`TemporaryStore.sweep`, a minute after the first.

    With ``real`` this is a network namespace of the kernel, with a process in it. After it has
    ended, the next ADD that finds the pool full releases its lease, if this user can see all
    processes of the machine. Raises OSError when the kernel refuses to create a namespace: that
    needs root, or user namespaces for an ordinary user.
    """
    with _real() if real else _file() as netns:
        try:
            yield netns
        finally:
            netns.die()


@contextmanager
def _file() -> Iterator[TemporaryNetns]:
    # On a tmpfs inode numbers are small. A large number could be that of a real namespace, and a
    # sweep would search for that namespace.
    descriptor, path = tempfile.mkstemp(prefix="fastipam-netns-", dir=memory())
    os.close(descriptor)
    yield TemporaryNetns(path, lambda: os.unlink(path))


@contextmanager
def _real() -> Iterator[TemporaryNetns]:
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWNET | _CLONE_NEWUSER
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _LIVE, str(flags)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

    def end() -> None:
        process.kill()
        process.communicate()

    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        if not process.stdout.readline():
            reason = process.stderr.read().decode().strip()
            raise OSError(f"the kernel makes no network namespace for this user: {reason}")
        yield TemporaryNetns(f"/proc/{process.pid}/ns/net", end)
