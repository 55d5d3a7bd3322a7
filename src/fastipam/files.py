"""Write a file that gets its name only when it is complete, and never through a link."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastipam.storage.directory import sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def replacing(path: str | os.PathLike[str], mode: int = 0o600) -> Iterator[int]:
    """Yield a descriptor of a new file, which gets the name ``path`` when the block ends.

    The file is on disk before it has the name. It replaces a file or a symbolic link of this name.
    A link is not followed, because in a directory that every user may write to, another user may
    have made it. A directory, a device or a FIFO is left alone. ``mode`` is subject to the umask.
    When the block fails, no file is left. Raises OSError.
    """
    target = os.path.abspath(path)
    directory, name = os.path.split(target)
    _refuse_strangers_link(directory)
    refuse_other_kinds(target)
    temporary = os.path.join(directory, f".{name[:200]}.{secrets.token_hex(6)}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode)
    try:
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_directory(directory)


def refuse_other_kinds(path: str) -> None:
    """Raise OSError when something is at ``path`` that is neither a file nor a symbolic link."""
    try:
        kind = stat.S_IFMT(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if kind not in (stat.S_IFREG, stat.S_IFLNK):
        what = _KINDS.get(kind, "a device")
        raise FileExistsError(errno.EEXIST, f"there is {what} of this name, not a file", path)


_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


def _refuse_strangers_link(directory: str) -> None:
    """Raise PermissionError when the directory's name is a symbolic link of another user."""
    status = os.lstat(directory)
    if stat.S_ISLNK(status.st_mode) and status.st_uid not in (0, os.geteuid()):
        text = f"{directory} is a symbolic link of uid {status.st_uid}"
        raise PermissionError(errno.EACCES, text, directory)
