"""The record of a lease, and the sweeper's note on a lease whose network namespace is gone."""

from __future__ import annotations

from struct import Struct

from fastipam import _ledger
from fastipam._ledger import pack_lease, read_lease
from fastipam.errors import CHECK_HINT, StoreCorrupt
from fastipam.storage.records.keys import ENCODING, ERRORS, UNREADABLE

# Hot records are packed in native code.
ASSIGNED = _ledger.ASSIGNED
COOLING = _ledger.COOLING
boot_of = _ledger.boot_of
generation_of = _ledger.generation_of
is_assigned = _ledger.is_assigned
is_assigned_to = _ledger.is_assigned_to
network_of = _ledger.network_of
texts_of = _ledger.texts_of
with_boot = _ledger.with_boot

# Where ``allocated_ns`` is in a packed record, for loops over a million records.
ALLOCATED_AT = slice(16, 24)
_MISSING = Struct("<QQQ")


class Record:
    """The record of an assigned or cooling address: who has it, or had it last.

    ``state`` is ASSIGNED or COOLING. ``length`` is the prefix length of the assignment.
    ``set_index`` is the range set that served it; while the address cools, the range set that
    contains it. ``boot`` is the number of the boot in this store, ``generation`` a number that no
    other assignment of this pool has. Times are in nanoseconds: ``allocated_ns`` is wall clock;
    ``released`` is on the pool's own clock (see :class:`PoolState`) and 0 while assigned.
    ``sticky_s`` is the number of seconds for which the address stays reserved for its pod after its
    release. ``netns``, ``inode``, ``mount_ns`` and ``born_ns`` are those of :class:`Netns`.
    ``network_id`` is the id of the owner's network; the key of the record has only the pool.
    """

    __slots__ = (
        "allocated_ns", "boot", "born_ns", "container_id", "generation", "ifname", "inode",
        "length", "mount_ns", "netns", "network_id", "pod_name", "pod_namespace", "pod_uid",
        "released", "set_index", "state", "sticky_s",
    )  # fmt: skip

    def __init__(
        self,
        state: int,
        length: int,
        set_index: int,
        boot: int,
        generation: int,
        allocated_ns: int,
        released: int,
        inode: int,
        mount_ns: int,
        sticky_s: int,
        born_ns: int,
        network_id: int,
        container_id: str,
        ifname: str,
        netns: str = "",
        pod_namespace: str = "",
        pod_name: str = "",
        pod_uid: str = "",
    ) -> None:
        self.state = state
        self.length = length
        self.set_index = set_index
        self.boot = boot
        self.generation = generation
        self.allocated_ns = allocated_ns
        self.released = released
        self.inode = inode
        self.mount_ns = mount_ns
        self.sticky_s = sticky_s
        self.born_ns = born_ns
        self.network_id = network_id
        self.container_id = container_id
        self.ifname = ifname
        self.netns = netns
        self.pod_namespace = pod_namespace
        self.pod_name = pod_name
        self.pod_uid = pod_uid

    def pack(self) -> bytes:
        """Return the value that :meth:`read` reads."""
        texts = (
            self.container_id,
            self.ifname,
            self.netns,
            self.pod_namespace,
            self.pod_name,
            self.pod_uid,
        )
        return pack_lease(
            self.state,
            self.length,
            self.set_index,
            self.boot,
            self.generation,
            self.allocated_ns,
            self.released,
            self.inode,
            self.mount_ns,
            self.sticky_s,
            self.born_ns,
            self.network_id,
            "\0".join(texts).encode(ENCODING, ERRORS),
        )

    @classmethod
    def read(cls, raw: bytes) -> Record:
        """Return the record of a value. Raises StoreCorrupt."""
        try:
            numbers, packed = read_lease(raw)
            texts = packed.decode(ENCODING, ERRORS).split("\0")
            if len(texts) != 6 or raw[0] not in (ASSIGNED, COOLING):
                raise ValueError(raw)
            return cls(*numbers, *texts)
        except UNREADABLE as error:
            raise StoreCorrupt(
                f"a lease's record cannot be read: the bytes are {raw.hex()}", hint=CHECK_HINT
            ) from error


def name_of(raw: bytes) -> bytes:
    """Return the name of the owner (:func:`keys.owner_name`) of a packed record.

    Raises StoreCorrupt.
    """
    parts = texts_of(raw).split(b"\0", 2)
    if len(parts) < 3:
        raise StoreCorrupt(
            f"a lease's record cannot be read: the bytes are {raw.hex()}", hint=CHECK_HINT
        )
    return b"\0".join(parts[:2])


# A note in ``missing``: the sweeper has found the network namespace of a lease gone, once.


def pack_missing(generation: int, first_ns: int, inode: int) -> bytes:
    """Return a record of a missing network namespace.

    It has the lease's generation, CLOCK_BOOTTIME at the check, and the inode found.
    """
    return _MISSING.pack(generation, first_ns, inode)


def is_missing(raw: bytes) -> bool:
    """Return whether this can be a record of a missing network namespace."""
    return len(raw) == _MISSING.size


def read_missing(raw: bytes | None) -> tuple[int, int, int]:
    """Return (generation, time, inode) of a note; zeros, which match no lease, without one."""
    if raw is None or not is_missing(raw):
        return 0, 0, 0
    generation, first_ns, inode = _MISSING.unpack(raw)
    return generation, first_ns, inode
