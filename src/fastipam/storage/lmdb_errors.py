"""Translate errors of LMDB and of the system into errors of fastipam."""

from __future__ import annotations

import os

import lmdb

from fastipam import late_errors as errors

# Address space, not memory: the file grows as it is filled. 64 GiB hold about 200 million leases.
MAP_SIZE = 64 << 30
# How long a writer waits for other writers. A runtime gives up after a minute or more, so it gets
# the reason before that.
PATIENCE_S = 8.0
# Each takes 64 bytes of the lock file. LMDB's default, 126, is too few for a node that starts many
# pods at once.
MAX_READERS = 1022
REPLACE_HINT = "restore a backup, or move data.mdb and lock.mdb away to start with an empty store"

_DAMAGED = (
    lmdb.InvalidError,
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.IncompatibleError,  # a plain key stands where a database should be
    lmdb.NotFoundError,  # one of our databases is missing: get() returns None and never raises it
)


def translate(error: Exception, path: str, map_size: int = MAP_SIZE) -> errors.StoreError:
    """Return the fastipam error for an error of LMDB or of the system, with what to do."""
    import errno

    code = getattr(error, "code", 0) or getattr(error, "errno", 0) or 0
    if isinstance(error, lmdb.MapFullError):
        return errors.StoreFull(
            f"the store {path} has reached its largest size, {_size(map_size)}",
            path=path,
            hint="use another data directory for some of the networks"
            if map_size >= MAP_SIZE
            else "open it with a larger map_size",
        )
    if isinstance(error, lmdb.MapResizedError):
        return errors.StoreBusy(
            f"the store {path} has grown beyond the {_size(map_size)} that this process has opened",
            path=path,
            hint="try again: the next call opens it again",
        )
    if code in (errno.EIO, errno.EFBIG):  # LMDB reports a short write as EIO
        from fastipam.storage import limits

        met = limits.file_size()
        if met is not None:
            return errors.StoreFull(
                f"the store {path} cannot grow: {met[0]}", path=path, hint=met[1]
            )
    if code == errno.EIO and is_disk_full(path):
        code = errno.ENOSPC
    if isinstance(error, TimeoutError):  # from the writers' lock
        from fastipam.storage.holders import describe_holders

        holders = describe_holders(str(error.filename))
        return errors.StoreBusy(
            f"the store {path} is locked: {holders} has held the writers' lock for longer than "
            "this call waits",
            path=path,
            hint="try again; end that process, or continue it with `kill -CONT` if it is stopped",
        )
    if code == errno.EDEADLK:
        return transaction_is_open(path)
    if code == errno.EAGAIN and isinstance(error, lmdb.Error):
        # LMDB marks the readers of a process by a lock on the byte whose number is its process id.
        return errors.StoreBusy(
            f"the store {path} is in use by another program whose process id is {os.getpid()}, too:"
            " both are in process namespaces of their own",
            path=path,
            hint="run the programs that share a store in one process namespace (hostPID: true, "
            "--pid=host), or start one of them under a process id other than 1",
        )
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return errors.StoreFull(
            f"no space is left for the store {path}: {os.strerror(code)}",
            path=path,
            hint="free disk space; nothing was changed",
        )
    if isinstance(error, lmdb.ReadersFullError):
        return errors.StoreBusy(
            f"all {MAX_READERS} reader slots of the store {path} are taken",
            path=path,
            hint="try again; if that does not help, end programs that keep read transactions open",
        )
    if isinstance(error, _DAMAGED):
        return errors.StoreCorrupt(
            f"{path} does not hold a usable LMDB file: {error}", path=path, hint=REPLACE_HINT
        )
    if isinstance(error, lmdb.VersionMismatchError):
        return errors.StoreVersion(
            f"{path} was written by another version of LMDB: {error}", path=path
        )
    if code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        from fastipam.storage import limits

        met = limits.passing(code)
        if met is not None:
            text = f"the store {path} cannot be opened now: {met[0]}"
            if code == errno.ENOMEM:
                text += f", and the store needs {_size(map_size)}"
            return errors.StoreBusy(text, path=path, hint=met[1])
    reason = os.strerror(code) if code > 0 else str(error)
    return errors.StoreUnavailable(
        f"the store {path} cannot be used: {reason}",
        path=path,
        hint="the data directory must be a directory that this user can write",
    )


def transaction_is_open(path: str) -> errors.TransactionOpen:
    """Return the error for a change by a thread that has a transaction open."""
    return errors.TransactionOpen(
        f"a transaction of this thread is open in the store {path}: this call would wait for it",
        path=path,
        hint="in a block, use its handle (`with ipam.transaction() as txn: txn.network(…)`); in a "
        "signal handler, set a flag",
    )


def _size(count: int) -> str:
    """Return a number of bytes as text, in the largest unit that leaves a whole number.

    >>> _size(64 << 30), _size(3 << 19), _size(1000)
    ('64 GiB', '1536 KiB', '1000 bytes')
    """
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count and count % (1 << shift) == 0:
            return f"{count >> shift} {unit}"
    return f"{count} bytes"


def is_disk_full(path: str) -> bool:
    """Return whether the disk has less room than LMDB writes at once."""
    try:
        status = os.statvfs(path)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < 1 << 20
