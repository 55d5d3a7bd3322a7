"""Which file the container's network namespace is, and that it is not the plugin's own."""

from __future__ import annotations

import os

from fastipam.cni.error_codes import OWN_NETNS, CniError
from fastipam.namespaces import look, mount_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.cni.environment import Request

    Identity = tuple[int, int]  # device, inode
    Seen = tuple[Identity | None, Identity | None, int, int]

_LONGEST_NUMBER = 20
_NO_NUMBER = 1 << 64


def identify(asked: Request, own_path: str, said: str = "") -> tuple[int, int, int]:
    """(inode of ``CNI_NETNS``, of the mount namespace where that path means it, born_ns).

    0: unknown; what ``born_ns`` is, :func:`fastipam.namespaces.look` says.

    ``said`` is what the launcher has seen (see :func:`read`): it runs where the runtime does, and
    an agent in a container may see other files, or none. Without it this process looks, and
    ``own_path`` is the caller's namespace. Raises CniError 8 when the two are one: whoever calls
    like that is mistaken.
    """
    theirs, own, mount, born_ns = read(said) or _look(asked, own_path)
    if theirs is None:
        return 0, 0, 0
    if theirs == own and not asked.netns_override:
        raise CniError(
            OWN_NETNS,
            f"CNI_NETNS: {asked.netns} is the network namespace of the plugin itself",
            "CNI_NETNS_OVERRIDE=1 allows it",
        )
    here = mount_namespace()
    if mount != here and _identity(asked.netns) == theirs:
        mount = here  # the path means the same where this process is
    return theirs[1], mount, born_ns


def read(said: str) -> Seen | None:
    """FASTIPAM_NETNS: the container's network namespace, the launcher's, its mount namespace, born.

    ``device:inode`` each, and a number, divided by blanks; empty: it could not be seen, 0: not
    known, and may be missing. None when it says nothing or is malformed: then it is as if the
    launcher had not said anything.

    >>> read("4:7 4:5 4:6 9"), read(" 4:5  0"), read("4:5")
    (((4, 7), (4, 5), 6, 9), (None, (4, 5), 0, 0), None)
    """
    fields = said.split(" ")
    if len(fields) == 3:
        fields.append("0")  # of a launcher that is older than this
    if len(fields) != 4:
        return None
    found: list[Identity | None] = []
    for field in fields[:3]:
        if not field:
            found.append(None)
            continue
        device, _, inode = field.partition(":")
        identity = _number(device), _number(inode)
        if min(identity) < 0:
            return None
        found.append(identity)
    theirs, own, mount = found
    born_ns = _number(fields[3])
    if born_ns < 0:
        return None
    return theirs, own, mount[1] if mount else 0, born_ns


def _number(text: str) -> int:
    """A number of 64 bits in decimal, -1 when it is none."""
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER):
        return -1
    number = int(text)
    return number if number < _NO_NUMBER else -1


def _look(asked: Request, own_path: str) -> Seen:
    try:
        device, inode, born_ns = look(asked.netns)
    except (OSError, ValueError):
        return None, None, 0, 0
    own = None if asked.netns_override else _identity(own_path)
    return (device, inode), own, mount_namespace(), born_ns


def _identity(path: str) -> Identity | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
