"""Search every process and every mount of this node for network namespaces.

A namespace exists as long as a process runs in it, a file of it is mounted somewhere, or a process
has that file open. So if an inode is found in none of these places, no network namespace has it any
more, and its containers are gone. That is a proof only if the search has seen everything:
:attr:`Found.blind` says what it could not see.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

INITIAL_PID_NS = 0xEFFFFFFC  # PROC_PID_INIT_INO: the inode of the kernel's first pid namespace
MAX_AGE_S = 1.0  # how long the result of a search is reused
_MOST_ROUNDS = 8  # the most listings of /proc; the last one should show no new process
_NSFS = b" - nsfs "
_GONE = (FileNotFoundError, ProcessLookupError, NotADirectoryError)


class Found:
    """The network namespaces that a search found.

    ``inodes`` says for each inode where it was found first. ``blind`` says why the search may have
    missed some, in one sentence, or is empty.
    """

    __slots__ = ("_began_ns", "_members", "_mounts", "_proc", "blind", "inodes")

    def __init__(
        self, inodes: dict[int, str], blind: str, proc: str = "/proc", began_ns: int = 0
    ) -> None:
        self.inodes = inodes
        self.blind = blind
        self._proc = proc
        self._began_ns = began_ns or time.time_ns()
        self._members: dict[int, list[str]] = {}  # directories in /proc, by inode
        self._mounts: dict[int, str] = {}  # a path to a mount, by inode

    def is_older_than(self, wall_ns: int) -> bool:
        """Return whether a namespace that was made at this wall clock time may be missing here.

        A time in the future was read before the clock was set back, and so before the search.
        """
        return self._began_ns <= wall_ns <= time.time_ns()

    def where(self, inode: int) -> str:
        """Return where a namespace was found, or an empty text when it was not found."""
        return self.inodes.get(inode, "")

    def paths(self) -> dict[int, str]:
        """Return :meth:`path` of every namespace that has one, by inode."""
        return {inode: self.path(inode) for inode in self._mounts.keys() | self._members.keys()}

    def path(self, inode: int) -> str:
        """Return a path to the file of a namespace, or an empty text.

        There is no path if no process runs in the namespace, and other mounts cover all its mounts.
        """
        if inode in self._mounts or inode not in self._members:
            return self._mounts.get(inode, "")
        return f"{self._members[inode][0]}/ns/net"

    def is_another(self, inode: int, born_ns: int) -> bool:
        """Return whether an inode now belongs to another namespace, made after ``born_ns``.

        The kernel takes the lowest free number, so a new namespace often has the inode of the last
        one that ended. The file of a mounted namespace was made when it was mounted first
        (``namespaces.look``). It is another namespace if its file was made after ``born_ns`` and no
        process in it is older than its file. The old namespace, if it was only mounted again, has
        older processes.
        """
        path = self._mounts.get(inode)
        if path is None or not born_ns:
            return False
        try:
            status = os.stat(path)
            if status.st_ino != inode or status.st_mtime_ns <= born_ns:
                return False
            members = self._members.get(inode, [])
            return all(_started_ns(one) >= status.st_mtime_ns for one in members)
        except (OSError, ValueError, IndexError):
            return False

    def look_into_descriptors(self, wanted: Collection[int]) -> None:
        """Add the inodes of ``wanted`` that a process has open. O(open files of all processes).

        If the open files of a process cannot be read, they are skipped: an open namespace file is
        rare, and a container counts as gone if no process runs in its namespace and no mount has
        it.
        """
        left = {inode for inode in wanted if inode not in self.inodes}
        if not left:
            return
        for pid in _pids(self._proc):
            directory = f"{self._proc}/{pid}"
            try:
                opened = os.listdir(f"{directory}/fd")
            except OSError:
                continue
            for one in opened:
                try:
                    inode = _opened(directory, one)
                except OSError:
                    continue
                if inode in left:
                    self.inodes.setdefault(inode, f"process {pid} has it open")


def search(node_pid_ns: Collection[int] = (), proc: str = "/proc") -> Found:
    """Return the network namespaces of all processes, their threads, and all mounts.

    From the kernel's first pid namespace, all processes are visible. From another pid namespace,
    only its own processes are. That is enough if the node is itself a container and runtimes run in
    that pid namespace: ``node_pid_ns`` are the inodes of the pid namespaces in which runtimes of
    this node are known to run.

    O(threads + lines of the mount tables); some ten milliseconds on a busy node.
    """
    began_ns = time.time_ns()
    run = _Search(proc)
    run.run()
    blind = _scope(proc, node_pid_ns, run) or run.blind
    found = Found(run.inodes, blind, proc, began_ns)
    found._members, found._mounts = run.members, run.mounts
    return found


class _Search:
    """One search; ``inodes`` and ``blind`` are those of :class:`Found`."""

    def __init__(self, proc: str) -> None:
        self._proc = proc
        self.inodes: dict[int, str] = {}
        self.blind = ""
        self.own = 0
        self.members: dict[int, list[str]] = {}
        self.mounts: dict[int, str] = {}
        self._unreadable: list[str] = []
        self._tables: set[int] = set()  # mount namespaces that were read

    def run(self) -> None:
        """Search all processes, until a listing of /proc shows no new one."""
        own = _inode(f"{self._proc}/self/ns/net")
        if own:
            self.own = own
            self.inodes[own] = "this process"
        self._read_mounts("self")
        # A process may start a child with a lower number and end before it is read. The rest of
        # the listing then has neither of them.
        seen: set[str] = set()
        for _ in range(_MOST_ROUNDS):
            new = [pid for pid in _pids(self._proc) if pid not in seen]
            if not new:
                break
            for pid in new:
                self._look(pid)
            seen.update(new)
        else:
            self.blind = "processes come and go faster than /proc can be read"
        self._judge_unreadable()

    def _look(self, pid: str) -> None:
        directory = f"{self._proc}/{pid}"
        try:
            inode = os.stat(f"{directory}/ns/net").st_ino
            self._note(inode, pid, directory)
        except _GONE:
            pass  # a zombie has no namespace; its threads may have one
        except OSError:
            self._unreadable.append(pid)
        try:
            # The link count of this directory is 2 plus the number of threads.
            if os.stat(f"{directory}/task").st_nlink > 3:
                self._look_at_threads(pid, f"{directory}/task")
            if _inode(f"{directory}/ns/mnt") not in self._tables:
                self._read_mounts(pid)
        except _GONE:
            pass
        except OSError as error:
            self.blind = self.blind or f"process {pid} cannot be inspected: {error.strerror}"

    def _look_at_threads(self, pid: str, directory: str) -> None:
        for thread in os.listdir(directory):
            try:
                inode = os.stat(f"{directory}/{thread}/ns/net").st_ino
            except OSError:
                continue  # it has ended, or cannot be read, like its process
            if thread != pid:
                self._note(inode, pid, f"{directory}/{thread}")

    def _note(self, inode: int, pid: str, directory: str) -> None:
        self.inodes.setdefault(inode, f"process {pid} runs in it")
        if inode != self.own:
            self.members.setdefault(inode, []).append(directory)

    def _read_mounts(self, pid: str) -> None:
        try:
            with open(f"{self._proc}/{pid}/mountinfo", "rb") as file:
                table = file.read()
        except OSError as error:
            if isinstance(error, _GONE) or error.errno == 22:  # EINVAL: it is ending
                return
            self.blind = self.blind or f"the mounts of process {pid} cannot be read"
            return
        number = _inode(f"{self._proc}/{pid}/ns/mnt")
        if number:
            self._tables.add(number)
        at = table.find(_NSFS)
        while at >= 0:
            # 36 35 0:4 net:[4026532183] /run/netns/a rw shared:1 - nsfs nsfs rw
            line = table[table.rfind(b"\n", 0, at) + 1 : at].split()
            root = line[3]
            if root.startswith(b"net:[") and root[5:-1].isdigit():
                inode, path = int(root[5:-1]), os.fsdecode(line[4])
                place = f"it is mounted at {path} (mounts of process {pid})"
                self.inodes.setdefault(inode, place)
                seen_at = f"{self._proc}/{pid}/root{path}"
                if inode not in self.mounts and _inode(seen_at) == inode:
                    self.mounts[inode] = seen_at  # no other mount lies over this one
            at = table.find(_NSFS, at + 1)

    def _judge_unreadable(self) -> None:
        """Set ``blind`` if an unreadable process may run in a namespace that was not found."""
        # /proc/PID/net shows the network namespace of the process, and reading it needs no
        # permission to trace the process. Its files have other inodes for each namespace.
        if not self._unreadable:
            return
        known = {_inode(f"{self._proc}/self/net/dev")} - {0}
        for pid in self._unreadable:
            try:
                inode = os.stat(f"{self._proc}/{pid}/net/dev").st_ino
            except (*_GONE, OSError) as error:
                if isinstance(error, _GONE) or error.errno == 22:
                    continue  # it has ended, or is about to
                inode = 0
            if inode not in known:
                self.blind = (
                    f"{self._proc}/{pid}/ns/net cannot be read: "
                    "it needs root and the capability CAP_SYS_PTRACE"
                )
                return


def _scope(proc: str, node_pid_ns: Collection[int], seen: _Search) -> str:
    """Return why this /proc may not show all processes of the node, or an empty text."""
    try:
        own = os.stat(f"{proc}/self/ns/pid").st_ino
        if os.readlink(f"{proc}/self") != str(os.getpid()):
            return f"{proc} shows the processes of another pid namespace"
    except OSError as error:
        return f"{proc} cannot be read: {error.strerror}"
    if own != INITIAL_PID_NS and (own not in node_pid_ns or not seen.members):
        return (
            "this process is in a pid namespace of its own and does not see the node's "
            "processes (of a pod: hostPID)"
        )
    if _hides(proc):
        return f"{proc} is mounted with hidepid, and may not show all processes"
    return ""


def _hides(proc: str) -> bool:
    """Return whether /proc is mounted so that processes are hidden from this one."""
    if _may_trace(proc):
        return False  # hidepid hides nothing from a process that may trace
    try:
        with open(f"{proc}/self/mountinfo", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return True
    where = os.fsencode(proc)
    for line in lines:
        words = line.split()
        if words[4] == where and b"hidepid=" in words[-1]:
            return b"hidepid=0" not in words[-1] and b"hidepid=off" not in words[-1]
    return False


def _may_trace(proc: str) -> bool:
    """Return whether this process has CAP_SYS_PTRACE."""
    try:
        with open(f"{proc}/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"CapEff:"):
                    return bool(int(line.split()[1], 16) >> 19 & 1)
    except OSError:
        pass
    return False


def _pids(proc: str) -> Iterable[str]:
    return [name for name in os.listdir(proc) if name.isdecimal()]


def _started_ns(directory: str) -> int:
    """Return when a process or thread started, by the wall clock, or now when it has ended.

    The time is rounded down to a clock tick. Raises OSError, ValueError, IndexError.
    """
    now_ns = time.time_ns()
    try:
        with open(f"{directory}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except _GONE:
        return now_ns
    started_ns = ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    return now_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME) + started_ns


def _opened(directory: str, descriptor: str) -> int:
    """Return the inode of an open file that may be a namespace's, else 0. Raises OSError."""
    link = os.readlink(f"{directory}/fd/{descriptor}")
    if not link.startswith(("/", "net:")):
        return 0  # a socket, a pipe
    # Not stat, which may wait forever if the file is on a network file system.
    with open(f"{directory}/fdinfo/{descriptor}", "rb") as file:
        for line in file:
            if line.startswith(b"ino:"):  # from Linux 5.14 on
                return int(line[4:])
    return int(link[5:-1]) if link.startswith("net:[") else 0


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


class Searches:
    """The searches of this process: at most one per second for all callers. Thread-safe.

    A call during a search waits for that search, and returns its result.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._lock = allocate_lock()
        self._last: tuple[float, frozenset[int], Found] | None = None

    def get(self, newest_ns: int = 0, node_pid_ns: Collection[int] = ()) -> Found:
        """Return the result of a search that began less than a second ago, or search again.

        The search began after ``newest_ns``, a time of the wall clock. If the last search began
        before that, wait until it is a second old, and search again.
        """
        known = frozenset(node_pid_ns)
        with self._lock:
            if self._last is not None:
                left_s = self._last[0] + MAX_AGE_S - self._clock()
                if left_s > 0 and self._last[1] == known:
                    if not self._last[2].is_older_than(newest_ns):
                        return self._last[2]
                    self._sleep(left_s)
            began = self._clock()
            found = search(known)
            self._last = began, known, found
            return found


_searches = Searches()


def look(wanted: Collection[int], newest_ns: int = 0, node_pid_ns: Collection[int] = ()) -> Found:
    """Return the result of a search that began after ``newest_ns``, less than a second ago.

    The open files of all processes were searched for ``wanted``, too.
    """
    found = _searches.get(newest_ns, node_pid_ns)
    found.look_into_descriptors(wanted)
    return found
