"""Decide whether a view of the boot that a store does not know is a new boot.

A view is the pair of boot id and node (``boot.read_node``). It is a new boot

* when the id is the kernel's own, the store has never seen it, and the kernel did not start at the
  time that is recorded for the last boot;
* when the id is new and the kernel's clock is behind the value recorded at the last boot;
* when the node is itself a container, another init than before runs in the runtime's pid namespace,
  and no path in a lease leads to that lease's network namespace.

It is not a new boot when the kernel is the same and the store is also used outside of containers,
because then the view is one from inside a container. A view that cannot be decided is not counted
as a new boot: the leases are kept, ``boot_doubt`` says why, and each transaction decides again.
"""

from __future__ import annotations

import os
import time
from struct import Struct

from fastipam import namespaces
from fastipam.errors import StoreCorrupt
from fastipam.storage import boot, tables
from fastipam.storage.records.lease import ASSIGNED, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastipam.storage.boot import Access, Get
    from fastipam.storage.environment import Environment
    from fastipam.storage.transaction import Transaction

FIRST = str(boot.FIRST_PID_NS)
# The kernel's start by the wall clock, and CLOCK_BOOTTIME when the last boot was counted.
_BEGAN = Struct(">QQ")
_MOST_IDS, _MOST_NODES = 32, 64
# How far two readings of one kernel's start may differ: the wall clock is adjusted all the time.
_SAME_START_NS = 2 * 10**9
_ROUNDED_TICKS = 2  # an init's start time is rounded differently in each time namespace

COVERED = f"another boot id is mounted over {boot.BOOT_ID} here, which may hide a reboot"
OUTSIDE = "this process runs outside of the container that is the store's node"
UNKNOWN_NODE = (
    "this process runs in a pid namespace that the store does not know; whether the node has "
    "started again shows at the next ADD of its runtime"
)


def see_plugin(pid: int) -> bool:
    """Set ``boot.saw_plugin`` if the plugin process ``pid`` runs in this process's pid namespace.

    Return whether it was set now. ``NSpid`` lists the ids of the plugin process from the pid
    namespace of this /proc down to its own: a single id means that both are the same namespace.
    Reading it needs no permission to trace the process.
    """
    if boot.saw_plugin or not pid:
        return False
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"NSpid:"):
                    boot.saw_plugin = len(line.split()) == 2
                    break
    except OSError:
        pass
    return boot.saw_plugin


class _Known:
    """The records of a store about its boots."""

    def __init__(self, get: Get) -> None:
        def text(key: bytes) -> str:
            return (get(key) or b"").decode("ascii", "replace")

        self.boot_id = text(tables.BOOT_KEY)
        self.number = int.from_bytes(get(tables.BOOT_NUMBER_KEY) or b"", "big")
        self.ids = text(tables.BOOT_IDS_KEY).split()
        self.nodes = text(tables.BOOT_NODES_KEY).split()
        raw = get(tables.BOOT_BEGAN_KEY) or b""
        self.began_ns, self.clock_ns = _BEGAN.unpack(raw) if len(raw) == _BEGAN.size else (0, 0)


def note(store: Environment, view: tuple[str, str], access: Access, *, may_count: bool) -> None:
    """Implement :meth:`Store.note_boot` for a view that the store does not know."""
    get, _, leases = access
    known = _Known(get)
    boot_id, node = view
    injected = store.boot_id is not boot.read_boot_id
    new, doubt = not known.number, ""  # the first boot of a new store
    if new:
        pass
    elif injected and known.boot_id:
        new = known.boot_id != boot_id
    elif known.boot_id:  # else the store was made without an id, and takes the first one
        new, doubt = _judge(known, boot_id, node, leases)
    store.boot = known.number + new
    store.boot_doubt = doubt
    if not may_count:
        # A process that only reads treats the leases as an earlier boot's, but records nothing.
        store.boot_doubt = doubt or (boot.UNCOUNTED if new else "")
    elif not doubt and _write(known, view, access, new=new, injected=injected):
        store.boot_doubt = boot.UNCOUNTED  # until the transaction has committed


def settle(txn: Transaction) -> None:
    """Decide again whether a view in doubt is a new boot, when a write transaction begins.

    This transaction may be rolled back. So the doubt lasts until a later transaction reads what
    this one has written.
    """
    store = txn.store
    access: Access = (
        lambda key: tables.META.get(txn, key),
        lambda key, value: tables.META.put(txn, key, value),
        lambda: (raw for _, raw in tables.LEASES.scan(txn)),
    )
    store.note_boot(access, may_count=True)
    swept = int.from_bytes(tables.META.get(txn, tables.SWEPT_KEY) or b"", "big")
    store.unswept = swept != store.boot


def _judge(
    known: _Known, boot_id: str, node: str, leases: Callable[[], Iterable[bytes]]
) -> tuple[bool, str]:
    """Return whether a view is a new boot, and the reason if that cannot be decided, else ""."""
    if known.boot_id != boot_id and boot_id not in known.ids:
        now_ns = boot.boottime_ns()
        if known.began_ns and now_ns < known.clock_ns and _has_first_clock():
            return True, ""
        began_ns = time.time_ns() - now_ns
        if not known.began_ns or abs(began_ns - known.began_ns) > _SAME_START_NS:
            if not _is_covered():
                return True, ""
            if ":" not in node:
                return False, COVERED
    new, doubt = _judge_node(known, node)
    if new and any(_leads_to_its_namespace(raw, known.number) for raw in leases()):
        new = False  # its containers still run: the node has not started again
    return new, doubt


def _judge_node(known: _Known, node: str) -> tuple[bool, str]:
    """Return whether the node has started again within the kernel's boot, and a reason or "".

    The reason says why that cannot be decided.
    """
    nodes = [one.removesuffix(boot.RUNTIME) for one in known.nodes]
    if not nodes or not node or node in nodes or FIRST in nodes:
        return False, ""
    if node == FIRST:
        return False, OUTSIDE
    inode, _, started = node.partition(":")
    for one in known.nodes:
        other, _, before = one.removesuffix(boot.RUNTIME).partition(":")
        if other == inode:
            if abs(int(before) - int(started)) <= _ROUNDED_TICKS:
                return False, ""
            if one.endswith(boot.RUNTIME):
                # Another namespace has this inode now. So the runtime's namespace has ended, and
                # with it all its processes.
                return True, ""
    if boot.runs_beside_runtime():
        return any(one.endswith(boot.RUNTIME) for one in known.nodes), ""
    return False, UNKNOWN_NODE


def _has_first_clock() -> bool:
    """Return whether no time namespace changes this process's clocks."""
    try:
        return os.stat("/proc/self/ns/time").st_ino == boot.FIRST_TIME_NS
    except FileNotFoundError:
        return True  # before Linux 5.6
    except OSError:
        return False


def _is_covered() -> bool:
    """Return whether something is mounted over the kernel's boot id."""
    try:
        return os.stat(boot.BOOT_ID).st_dev != os.stat("/proc/self/stat").st_dev
    except OSError:
        return True


def _leads_to_its_namespace(raw: bytes, number: int) -> bool:
    """Return whether the path in a packed lease of boot ``number`` leads to its own namespace."""
    try:
        record = Record.read(raw)
        if (record.state, record.boot) != (ASSIGNED, number) or not record.born_ns:
            return False
        _, inode, born_ns = namespaces.look(record.netns)
    except (StoreCorrupt, OSError, ValueError):
        return False
    return (inode, born_ns) == (record.inode, record.born_ns)


def _write(
    known: _Known, view: tuple[str, str], access: Access, *, new: bool, injected: bool
) -> bool:
    """Record the view, as another view of the last boot or as the first view of a new one.

    Return whether anything had to be written.
    """
    boot_id, node = view
    get, put, _ = access
    changes: dict[bytes, bytes] = {}
    if known.boot_id != boot_id or not known.number:
        if new or injected or not known.boot_id or not _is_covered():
            changes[tables.BOOT_KEY] = boot_id.encode()
        ids = _first((boot_id, known.boot_id, *known.ids), _MOST_IDS)
        changes[tables.BOOT_IDS_KEY] = " ".join(ids).encode()
    number = known.number + new
    if new:
        changes[tables.BOOT_NUMBER_KEY] = number.to_bytes(4, "big")
    if number == 1 and new:
        changes[tables.SWEPT_KEY] = number.to_bytes(4, "big")
    if new or (not known.began_ns and not injected):
        # An injected boot id (of a test) says nothing about the kernel.
        now_ns = boot.boottime_ns()
        began = (0, 0) if injected else (max(0, time.time_ns() - now_ns), max(0, now_ns))
        changes[tables.BOOT_BEGAN_KEY] = _BEGAN.pack(*began)
    nodes = [] if new else known.nodes
    if node and FIRST not in nodes:
        beside = ":" in node and boot.runs_beside_runtime()
        nodes = _first((node + boot.RUNTIME * beside, *nodes), _MOST_NODES)
    changes[tables.BOOT_NODES_KEY] = " ".join(nodes).encode()
    changed = {key: value for key, value in changes.items() if get(key) != value}
    for key, value in changed.items():
        put(key, value)
    return bool(changed)


def _first(words: Iterable[str], most: int) -> list[str]:
    return [word for word in dict.fromkeys(words) if word][:most]
