"""Identify, find and enter network namespaces; identify mount namespaces.

A :class:`Netns` is a network namespace as a lease records it.
"""

from __future__ import annotations

import os
import stat

from fastipam import late_errors as errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

# Where runtimes mount the network namespaces of containers.
NETNS_DIRECTORIES = ("/run/netns", "/var/run/netns", "/run/docker/netns", "/run/cni/netns")
_CLONE_NEWNET = 0x40000000
_NS_GET_USERNS, _NS_GET_OWNER_UID = 0xB701, 0xB704  # ioctl_nsfs(2), from Linux 4.9 and 4.11 on
# No namespace of the kernel has a lower inode: its first namespaces have fixed inodes just below
# PROC_DYNAMIC_FIRST, all others have higher ones. A file with a lower inode, for example in a test,
# cannot be searched for.
_FIRST_INODE = 0xEFFFFFF0


class Netns:
    """A network namespace as a lease records it; unknown fields are empty or 0.

    ``path`` is the path of its file, ``inode`` the inode of that file, and ``born_ns`` the time
    when the file was made: the kernel reuses inodes, and the time tells two namespaces with the
    same inode apart. ``mount_ns`` is the inode of the mount namespace in which ``path`` is valid.
    Without an inode it is impossible to notice that the namespace has ended; :meth:`of` reads the
    inode. Raises ConfigError with the field.
    """

    __slots__ = ("born_ns", "inode", "mount_ns", "path")

    def __init__(self, path: str = "", inode: int = 0, mount_ns: int = 0, born_ns: int = 0) -> None:
        if type(path) is not str:
            raise errors.ConfigError(
                f"path must be a string, not {path!r}", field="path", value=path
            )
        if type(inode) is not int or not 0 <= inode < 1 << 64:
            raise _no_number("inode", inode, 64)
        if type(born_ns) is not int or not 0 <= born_ns < 1 << 64:
            raise _no_number("born_ns", born_ns, 64)
        if type(mount_ns) is not int or not 0 <= mount_ns < 1 << 32:
            raise _no_number("mount_ns", mount_ns, 32)
        self.path = path
        self.inode = inode
        self.mount_ns = mount_ns
        self.born_ns = born_ns

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Self:
        """Return a network namespace as the plugin records it, from the path of its file.

        ``path`` is for example ``/run/netns/name`` or ``/proc/1234/ns/net``. A lease with the
        result is swept when the namespace has ended. O(1). Raises ConfigError when there is no such
        file or this process cannot see it.
        """
        try:
            given = os.fspath(path)
            if not given:
                raise ValueError("the path is empty")
            text = os.path.abspath(given)
            if text.startswith("/proc/self/"):  # another process will read the lease
                text = f"/proc/{os.getpid()}/{text.removeprefix('/proc/self/')}"
            _, inode, born_ns = look(text)
            if os.path.isdir(text):
                import errno

                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except (OSError, TypeError, ValueError) as error:
            raise errors.ConfigError(
                f"{path!r} is not a network namespace that this process can see: {error}",
                field="path",
                value=path,
                hint="give the path of its file, such as /run/netns/NAME or /proc/PID/ns/net",
            ) from None
        return cls(text, inode, mount_namespace(), born_ns)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Netns):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, int, int, int]:
        return self.path, self.inode, self.mount_ns, self.born_ns

    def __repr__(self) -> str:
        path, inode, mount_ns, born_ns = self._key()
        return f"Netns({path!r}, inode={inode}, mount_ns={mount_ns}, born_ns={born_ns})"


def _no_number(field: str, given: object, bits: int) -> errors.ConfigError:
    return errors.ConfigError(
        f"{field} {given!r} is not a whole number of {bits} bits", field=field, value=given
    )


def look(path: str) -> tuple[int, int, int]:
    """Return (device, inode, born_ns) of a network namespace's file. Raises OSError, ValueError.

    The kernel soon reuses the inode of a namespace that has ended. ``born_ns`` tells the old and
    the new namespace apart: it is when the namespace's file was made. A file that is mounted at a
    path, as runtimes do it, keeps that time while it is mounted, and has the same time in every
    mount namespace. The file behind a link in /proc may be made anew at each access, so its time
    says nothing, and ``born_ns`` is 0.
    """
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        status = os.stat(path)
        return status.st_dev, status.st_ino, 0
    return status.st_dev, status.st_ino, max(0, status.st_mtime_ns)


def mount_namespace() -> int:
    """Return the inode of this process's mount namespace, or 0 when it cannot be read.

    It is read each time, because a process may enter another one.
    """
    try:
        return os.stat("/proc/self/ns/mnt").st_ino
    except OSError:
        return 0


def identity(path: str) -> tuple[int, int] | None:
    """Return (device, inode) of a namespace's file, or None when it cannot be seen."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def is_inode(inode: int) -> bool:
    """Return whether this can be the inode of a namespace."""
    return inode >= _FIRST_INODE


def device() -> int:
    """Return the device of the kernel's namespace files; 0 when it cannot be seen."""
    found = identity("/proc/self/ns/net")
    return found[0] if found else 0


def find(directories: Sequence[str] = NETNS_DIRECTORIES) -> tuple[dict[int, str], str, str]:
    """Return the network namespaces of this node's containers, and why some may be missing.

    Return (paths, blind, leftover). ``paths`` has a path of each namespace by inode, without this
    process's own namespace. ``blind`` says what could not be read, or is empty. ``leftover`` is a
    file in one of ``directories`` on which no namespace is mounted, at least not in this mount
    namespace; it is empty when there is no such file.

    A namespace in one of ``directories`` counts, no matter which user made it, because only root
    mounts there. A namespace that was found only by its processes counts if it belongs to the user
    namespace of root, or to one that root made; any other was made by a user (``unshare -Ur``), not
    by a runtime.
    """
    own = identity("/proc/self/ns/net")
    found: dict[int, str] = {}
    blind = leftover = ""
    for path in _mounted(directories):
        try:
            status = os.stat(path)
        except OSError as error:
            blind = blind or _unreadable(path, error)
            continue
        if own is not None and status.st_dev != own[0]:
            leftover = path
        elif (status.st_dev, status.st_ino) != own:
            found.setdefault(status.st_ino, path)
    strangers: set[int] = set()
    for name in os.listdir("/proc"):
        path = f"/proc/{name}/ns/net"
        try:
            if not name.isdecimal():
                continue
            status = os.stat(path)
            inode = status.st_ino
            if (status.st_dev, inode) == own or inode in found or inode in strangers:
                continue
            if is_roots(path):
                found[inode] = path
            else:
                strangers.add(inode)
        except OSError as error:
            # The kernel also answers EACCES for a process that ended a moment ago.
            if not _has_ended(name) and not _is_in_ours(name):
                blind = blind or _unreadable("/proc/PID/ns/net of a process", error)
    if not os.path.exists("/proc/1"):
        blind = blind or "/proc hides processes (hidepid)"
    return found, blind, leftover


def _mounted(directories: Sequence[str]) -> Iterator[str]:
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        yield from (os.path.join(directory, name) for name in names)


def _unreadable(path: str, error: OSError) -> str:
    """Return the reason why a namespace cannot be read, or an empty text when it has ended."""
    if isinstance(error, (FileNotFoundError, ProcessLookupError, NotADirectoryError)):
        return ""
    return f"{path} cannot be read: {error.strerror}"


def _has_ended(process: str) -> bool:
    """Return whether a process is gone, or a zombie, which has no namespaces."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def _is_in_ours(process: str) -> bool:
    """Return whether a process that may not be traced runs in this process's network namespace."""
    # /proc/PID/net shows the network namespace of the process. Its files have other inodes for each
    # namespace, and everybody may read these.
    there = identity(f"/proc/{process}/net/dev")
    return there is not None and there[1] == os.stat("/proc/self/net/dev").st_ino


def is_roots(path: str) -> bool:
    """Return whether a network namespace belongs to root's user namespace or one that root made.

    Raises OSError.
    """
    import fcntl
    from array import array

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            owner = fcntl.ioctl(descriptor, _NS_GET_USERNS)
        except OSError:
            return True  # it belongs to a user namespace above this one, or the kernel is too old
        try:
            user = array("I", [0])
            fcntl.ioctl(owner, _NS_GET_OWNER_UID, user)
        finally:
            os.close(owner)
    finally:
        os.close(descriptor)
    return user[0] in (0, os.geteuid())


def enter(descriptor: int) -> None:
    """Move this thread into the network namespace of an open file. Raises OSError."""
    setns = getattr(os, "setns", None)  # from Python 3.12 on
    if setns is not None:
        setns(descriptor, _CLONE_NEWNET)
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
