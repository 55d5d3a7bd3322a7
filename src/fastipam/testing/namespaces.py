"""Network namespaces that end when the test says so."""

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
    """A network namespace, or a file that stands for one; its path is for ``CNI_NETNS``."""

    def __init__(self, path: str, end: Callable[[], object]) -> None:
        self.path: str = path
        self._end: Callable[[], object] | None = end

    def __fspath__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"<TemporaryNetns {self.path} {'lives' if self._end else 'is dead'}>"

    def die(self) -> None:
        """End the namespace, as if its container had died and nobody called DEL.

        The next look of a sweep, or of an ADD that finds the pool full, sees it. A second call does
        nothing.
        """
        end, self._end = self._end, None
        if end is not None:
            end()
            forget_looks()


@contextmanager
def temporary_netns(*, real: bool = False) -> Iterator[TemporaryNetns]:
    """Make a network namespace for the block.

    Usually it is a file that passes for a namespace, which needs no right. Nobody can prove that
    the namespace of such a file is gone: it is released by the second look of
    :meth:`TemporaryStore.sweep`, a minute after the first. With ``real`` it is a network namespace
    of the kernel, with a process in it. When that has died, a full pool's next ADD releases its
    lease, if this user can see all processes of the machine. Raises OSError when the kernel refuses
    it: it takes root, or user namespaces for others.
    """
    with _real() if real else _file() as netns:
        try:
            yield netns
        finally:
            netns.die()


@contextmanager
def _file() -> Iterator[TemporaryNetns]:
    # The inodes of a tmpfs are small; a large one could be a namespace's, and be searched for.
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
