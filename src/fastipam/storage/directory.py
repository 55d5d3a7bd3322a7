"""Make the files of a data directory, and refuse those that are cut short or not our own."""

from __future__ import annotations

import os
import stat

from fastipam import late_errors as errors
from fastipam.storage.lmdb_errors import MAX_READERS, REPLACE_HINT

TYPE_CHECKING = False
if TYPE_CHECKING:
    import lmdb

DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"
MAKER_LOCK_FILE = "turn.lock"  # the name on disk, which every version has to share
# ``turn.lock`` begins with the inode of the data file, in so many bytes. The rest of the file is
# the disk space that is kept for releases.
_INODE_BYTES = 32
# A release changes at most 35 pages, in trees as deep as those of a million leases. The next
# release changes another 35 before LMDB reuses the pages that the first one has freed.
ROOM_BYTES = 72 * 4096
_PLAIN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE = "data.mdb.new"
# The size that LMDB gives its lock file: 64 bytes for each reader, and 192 for all.
_LOCK_BYTES = 64 * (MAX_READERS - 1) + 192


def make_directory(path: str) -> None:
    """Make the data directory with mode 0700 and its parents with the mode of the umask."""
    if os.path.isdir(path):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    else:
        os.chmod(path, 0o700)


def make_files(path: str) -> list[str]:
    """Make the lock files of a new store and return the names of those that were made.

    Their mode is 0600 whatever the umask. A file that exists is left as it is. LMDB would make its
    lock file as one hole and write to it through a memory map: on a full disk the process would
    get a SIGBUS instead of an error. So the blocks of the file are allocated here.
    """
    made = []
    for name, size in ((LOCK_FILE, _LOCK_BYTES), (MAKER_LOCK_FILE, 0)):
        file = os.path.join(path, name)
        try:
            status = os.lstat(file)
        except FileNotFoundError:
            try:
                make_file(file, size)
            except FileExistsError:  # another process has made it
                continue
            made.append(name)
        else:
            # It is empty when its maker has not allocated the blocks yet, or was killed before.
            if size and not status.st_size and stat.S_ISREG(status.st_mode):
                _allocate(os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), size)
    return made


def pair_lock_file(path: str) -> None:
    """Replace LMDB's lock file if it belongs to another data file.

    The caller holds the writer's lock. A writer of the data file that was replaced may still hold
    the mutex in the old lock file, for an unknown time. ``turn.lock`` records the inode of the data
    file that LMDB's lock file belongs to.
    """
    inode = b"%d" % os.stat(os.path.join(path, DATA_FILE)).st_ino
    descriptor = os.open(os.path.join(path, MAKER_LOCK_FILE), _PLAIN)
    try:
        found = os.pread(descriptor, _INODE_BYTES + 1, 0)  # one byte more: is any space kept?
        before = found[:_INODE_BYTES].rstrip(b"\0")
        if before != inode:
            if before:
                os.unlink(os.path.join(path, LOCK_FILE))
                make_files(path)
            try:  # noqa: SIM105  # contextlib costs the plugin a tenth of its start
                os.pwrite(descriptor, inode.ljust(_INODE_BYTES, b"\0"), 0)
            except OSError:  # the disk is full: the next process writes the inode
                pass
        if len(found) <= _INODE_BYTES:
            _keep_room(descriptor)
    finally:
        os.close(descriptor)


def keep_room(path: str) -> None:
    """Allocate the disk space kept for releases on a full disk, or as much of it as is left."""
    descriptor = os.open(os.path.join(path, MAKER_LOCK_FILE), _PLAIN)
    try:
        _keep_room(descriptor)
    finally:
        os.close(descriptor)


def _keep_room(descriptor: int) -> None:
    for size in range(ROOM_BYTES, 0, -ROOM_BYTES // 16):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            continue
        return


def give_room(path: str) -> None:
    """Free the disk space kept for releases, so that a release can use it on a full disk."""
    os.truncate(os.path.join(path, MAKER_LOCK_FILE), _INODE_BYTES)


def make_file(path: str, size: int = 0) -> None:
    """Make a file with mode 0600, whatever the umask, and ``size`` bytes on disk."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    _allocate(descriptor, size)


def _allocate(descriptor: int, size: int) -> None:
    """Allocate the blocks of a new file, and close it."""
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def is_new(path: str) -> bool:
    """Return whether there is no data file, or an empty one, which LMDB takes for a new one."""
    try:
        status = os.lstat(os.path.join(path, DATA_FILE))
    except FileNotFoundError:
        return True
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def lock_path(path: str) -> str:
    """Return the path of the file that a writer of the store locks.

    It is the data file itself: whatever becomes of the other files, or of the directory, one data
    file has one writer. While there is no data file, it is ``turn.lock``, for the process that
    makes the store.
    """
    return os.path.join(path, MAKER_LOCK_FILE if is_new(path) else DATA_FILE)


def is_store_directory(path: str) -> bool:
    """Return whether a directory is the data directory of a store."""
    # A directory that has only a copy of a data file is not one: a backup may replace that file.
    lock_files = (LOCK_FILE, MAKER_LOCK_FILE)
    return os.path.lexists(os.path.join(path, DATA_FILE)) and any(
        os.path.lexists(os.path.join(path, name)) for name in lock_files
    )


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Sync the entries of a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_names(path: str) -> None:
    """Sync a directory and all directories above it, up to the first that cannot be read."""
    while True:
        try:
            sync_directory(path)
        except PermissionError:
            return
        parent = os.path.dirname(path)
        if parent == path:
            return
        path = parent


def refuse_strangers(path: str) -> None:
    """Raise StoreUnavailable when another user owns, or may write to, the directory or its files.

    Such a user could make this process write to any file of the system, through a link, or kill it
    by truncating the file under its memory map.
    """
    trusted = (0, os.geteuid())
    link = os.lstat(path)
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in trusted:
        raise errors.StoreUnavailable(
            f"the store {path} is refused: it is a symbolic link of uid {link.st_uid}",
            path=path,
            hint="name the directory itself, or create the link again",
        )
    for name in ("", DATA_FILE, LOCK_FILE, MAKER_LOCK_FILE):
        file = os.path.join(path, name) if name else path
        try:
            # A trusted user may have made a link to the directory itself.
            status = os.lstat(file) if name else os.stat(file)
        except FileNotFoundError:
            continue
        if name and stat.S_ISLNK(status.st_mode):
            text = "is a symbolic link"
            hint = "move the file that it leads to here, or name its directory"
        elif status.st_uid not in trusted:
            text = f"belongs to uid {status.st_uid}"
            hint = f"chown it to uid {trusted[1]}, or run as uid {status.st_uid}"
        elif status.st_mode & stat.S_IWOTH:
            text = "can be written by every user"
            hint = f"chmod o-w {file}"
        else:
            continue
        raise errors.StoreUnavailable(
            f"the store {path} is not used: {file} {text}", path=path, hint=hint
        )


def refuse_truncated(env: lmdb.Environment, path: str) -> None:
    """Raise StoreCorrupt when the data file was cut short: using it would end in a SIGBUS."""
    page_bytes = env.stat()["psize"]
    file = os.path.join(path, DATA_FILE)
    if os.path.getsize(file) // page_bytes > env.info()["last_pgno"]:
        return
    from fastipam.storage.truncation import missing_page

    with env.begin(write=True):
        missing = missing_page(file, page_bytes)
    if missing is not None:
        raise errors.StoreCorrupt(
            f"{file} is truncated: page {missing} of {page_bytes} bytes, which is in use, lies "
            "after its end",
            path=path,
            hint=REPLACE_HINT,
        )


def path_of(path: str | os.PathLike[str], what: str) -> str:
    """Return a path as text. Raises ConfigError for a value that cannot be a path.

    ``what`` names in the error what the path should lead to.
    """
    given: object = path
    text = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    try:
        if isinstance(text, str) and text and b"\0" not in os.fsencode(text):
            return text
    except UnicodeEncodeError:  # half a surrogate pair
        pass
    raise errors.ConfigError(
        f"path must be the path of {what}, not {path!r}", field="path", value=path
    )
