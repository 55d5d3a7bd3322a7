"""Read what identifies a boot of the node: the kernel's boot id, and the node's init process.

The leases of an earlier boot are released, because no container outlives its boot. So a boot that
is counted by mistake frees the addresses of running containers. The kernel's boot id alone does not
tell boots apart: a container manager may mount another id over it, and when a node that is itself a
container starts again, the id stays the same. ``boot_change`` decides whether a boot id and an init
that a store does not know are a new boot; it is imported only then.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeAlias

    # How a write transaction of a store reads and writes the boot: ``get`` and ``put`` of the
    # table META, and a function that returns the values of LEASES.
    Get: TypeAlias = Callable[[bytes], bytes | None]
    Put: TypeAlias = Callable[[bytes, bytes], object]
    Access: TypeAlias = tuple[Get, Put, Callable[[], Iterable[bytes]]]

BOOT_ID = "/proc/sys/kernel/random/boot_id"
MACHINE_ID = "/etc/machine-id"  # machine-id(5)
FIRST_PID_NS = 0xEFFFFFFC  # PROC_PID_INIT_INO: the inode of the kernel's first pid namespace
FIRST_TIME_NS = 0xEFFFFFFA  # PROC_TIME_INIT_INO
_NANOSECONDS = 10**9

UNCOUNTED = "this boot is not recorded yet"  # a store's ``boot_doubt`` until a commit
RUNTIME = ":r"  # suffix of a ``read_node`` text: the runtime starts plugins in that pid namespace

saw_plugin = False  # whether a plugin process was seen in this process's pid namespace
_offset: tuple[int, int] = (0, 0)  # process id, offset of its time namespace in nanoseconds


def read_boot_id() -> str:
    """Return the kernel's boot id, or an empty text when it cannot be read."""
    try:
        with open(BOOT_ID) as file:
            return file.read().strip()
    except OSError:
        return ""


def read_machine() -> str:
    """Return the id of this machine, or "" where there is none: in a container, for example."""
    try:
        with open(MACHINE_ID, encoding="ascii", errors="replace") as file:
            text = file.read(64).strip()
    except OSError:
        return ""
    return text if len(text) == 32 else ""  # it may say "uninitialized"


def boottime_ns() -> int:
    """Return the nanoseconds since the kernel started, including the time it was suspended.

    Nobody can set this clock, and it is the same in all time namespaces.
    """
    global _offset  # noqa: PLW0603  # a process has one time namespace
    if _offset[0] != os.getpid():
        _offset = os.getpid(), time_offset_ns()
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - _offset[1]


def time_offset_ns() -> int:
    """Return the nanoseconds that this process's time namespace adds to CLOCK_BOOTTIME."""
    try:
        own = os.stat("/proc/self/ns/time").st_ino
        # The file has the offsets for children; they are usually this process's offsets too.
        if own == FIRST_TIME_NS or own != os.stat("/proc/self/ns/time_for_children").st_ino:
            return 0
        with open("/proc/self/timens_offsets") as file:
            for line in file:
                clock, seconds, nanoseconds = line.split()
                if clock in ("boottime", "7"):
                    return int(seconds) * _NANOSECONDS + int(nanoseconds)
    except (OSError, ValueError):
        pass
    return 0


def read_node() -> str:
    """Return what identifies the init of this process's pid namespace, or an empty text.

    The text is the namespace's inode. Unless that is the kernel's first namespace, the start time
    of its init follows, in clock ticks: the kernel reuses inodes, but no two inits of namespaces
    with one inode start in the same tick.
    """
    try:
        inode = os.stat("/proc/self/ns/pid").st_ino
        if inode == FIRST_PID_NS:
            return str(inode)
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""  # this /proc is another namespace's: its process 1 is another init
        with open("/proc/1/stat", "rb") as file:
            started = int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return ""
    return f"{inode}:{started - time_offset_ns() * os.sysconf('SC_CLK_TCK') // _NANOSECONDS}"


def runtime_pid_ns(nodes: bytes | None) -> frozenset[int]:
    """Return the inode of this process's pid namespace if a runtime runs in it, else an empty set.

    ``nodes`` is the value of BOOT_NODES_KEY. An earlier namespace with the same inode does not
    count.
    """
    own = read_node()
    if own and own + RUNTIME in (nodes or b"").decode("ascii", "replace").split():
        return frozenset((int(own.partition(":")[0]),))
    return frozenset()


def runs_beside_runtime() -> bool:
    """Return whether this process runs in the runtime's pid namespace, as far as is known.

    A runtime starts the plugin as its own child. An agent is not that child, so it has to see a
    plugin process first (``boot_change.see_plugin``).
    """
    return saw_plugin or "CNI_COMMAND" in os.environ
