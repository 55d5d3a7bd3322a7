"""The directory of a demo: each run replaces it, and refuses a directory that is not a demo's."""

from __future__ import annotations

import fcntl
import shlex
import shutil
import socket
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import Failed

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARK = ".made-by-scripts-demo"
_PEER = struct.Struct("3i")  # SO_PEERCRED: process, user and group


@dataclass(frozen=True)
class Places:
    """The paths in the directory of a demo."""

    top: Path

    @property
    def store(self) -> Path:
        """The store that is left behind."""
        return self.top / "store"

    @property
    def plugins(self) -> Path:
        """The directory of CNI plugins."""
        return self.top / "bin"

    @property
    def configurations(self) -> Path:
        """The directory of network configurations."""
        return self.top / "net.d"

    @property
    def socket(self) -> Path:
        """The socket of an agent that the user starts after the demo."""
        return self.top / "agent.sock"

    @property
    def scratch(self) -> Path:
        """The directory of temporary files, which is removed at the end."""
        return self.top / "scratch"

    @contextmanager
    def prepared(self) -> Iterator[bool]:
        """Empty the directory, and lock it for a ``with`` block.

        The value is whether the directory of an earlier run was replaced. Raises Failed when the
        directory is not a demo's, or when a demo or an agent uses it.
        """
        try:
            replaces = self._remove()
            for path in (self.plugins, self.configurations, self.scratch):
                path.mkdir(parents=True)
            mark = (self.top / _MARK).open("w")
        except OSError as error:
            raise Failed(f"{error.filename or self.top}: {error.strerror}") from error
        with mark:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield replaces

    def _remove(self) -> bool:
        if not self.top.exists() or not any(self.top.iterdir()):
            return False
        if not (self.top / _MARK).exists():
            raise Failed(
                f"{self.top} is not empty and was not made by this demo; "
                "remove it, or choose another with --directory"
            )
        with (self.top / _MARK).open() as mark:
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Failed(f"another demo is running in {self.top}; wait for its end") from None
            process = _listener(self.socket)
            if process is not None:
                raise Failed(
                    f"an agent serves the store of the last demo, {self.store}; "
                    f"end it with: kill {process}"
                )
            shutil.rmtree(self.top)
        return True


def _listener(path: Path) -> int | None:
    """Return the process that listens on a socket, or None."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(shown(path))
        except OSError:
            return None
        said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        return int(_PEER.unpack(said)[0])


def shown(path: Path) -> str:
    """Return a path as a user would type it: relative if it is below the current directory."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def typed(path: Path) -> str:
    """Return a path quoted for a shell."""
    return shlex.quote(shown(path))
