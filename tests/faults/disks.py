"""Small file systems that fill up, turn read-only or fail, for the length of a test."""

from __future__ import annotations

import fcntl
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING

import pytest

from ..e2e import tools

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
_DISCARD_LOG = Struct("I").pack(2)  # EXT4_GOING_FLAGS_NOLOGFLUSH: nothing more reaches the disk
_BALLAST = "ballast"


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"


def _mount(*argv: str) -> None:
    """Skip, with mount's own words, where it is not allowed."""
    done = subprocess.run(["mount", *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted: {done.stderr.strip()}")


class Disk:
    """A mounted file system; ``path`` is where."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Take every byte that is left."""
        with (self.path / _BALLAST).open("wb", buffering=0) as file:
            size = 1 << 20
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2

    def empty(self) -> None:
        """Give it back."""
        (self.path / _BALLAST).unlink()

    def resize(self, size: int) -> None:
        """Give a tmpfs another size."""
        _run("mount", "-o", f"remount,size={size}", str(self.path))

    def make_read_only(self) -> None:
        """Nothing may be written here any more, not by root either. Nobody may be writing."""
        _run("mount", "-o", "remount,ro,bind", str(self.path))

    def make_writable(self) -> None:
        """Undo it."""
        _run("mount", "-o", "remount,rw,bind", str(self.path))


class Ext4(Disk):
    """An ext4 in a file, which can fail as a disk does that is pulled out, and be mounted anew."""

    def __init__(self, path: Path, image: Path) -> None:
        super().__init__(path)
        self._image = image
        self.mount()

    def mount(self) -> None:
        """Mount it: after a failure its journal is replayed."""
        _mount("-o", "loop", str(self._image), str(self.path))

    def unmount(self) -> None:
        """Nobody may have a file open."""
        _run("umount", str(self.path))

    def fail(self) -> None:
        """From now on every write is an input/output error; what was not synced is lost."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _DISCARD_LOG)
        finally:
            os.close(descriptor)


@contextmanager
def tmpfs(path: Path, size: str = "2m") -> Iterator[Disk]:
    """A tmpfs; its size is that of its content."""
    path.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size}", "fastipam-test", str(path))
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextmanager
def ext4(path: Path, image: Path, megabytes: int = 16) -> Iterator[Ext4]:
    """An ext4."""
    tools.require_tools("mkfs.ext4")
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    _run("mkfs.ext4", "-q", str(image))
    disk = Ext4(path, image)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
