"""The record of a lease, and the sweeper's note on a lease whose network namespace is gone."""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error

from fastipam.errors import CHECK_HINT, StoreCorrupt
from fastipam.storage.records.keys import ENCODING, ERRORS, UNREADABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from fastipam.namespaces import Netns

    class Described(Protocol):
        """What a lease records of its owner."""

        netns: Netns
        texts: bytes


ASSIGNED = 1
COOLING = 2

_LEASE = Struct("<BBHIQQQQIIQI")
# Where a packed record has ``allocated_ns``, for those who read a million of them.
ALLOCATED_AT = slice(16, 24)
_ASSIGNED_BYTE = bytes((ASSIGNED,))
_COOLING_BYTE = bytes((COOLING,))
# Where a packed record has the numbers that are read alone.
_SET_AT, _BOOT_AT, _GENERATION_AT, _RELEASED_AT, _STICKY_AT, _NETWORK_AT = 2, 4, 8, 24, 44, 56
_MISSING = Struct("<QQQ")
_U16, _U32, _U64 = Struct("<H"), Struct("<I"), Struct("<Q")


class Record:
    """The record of an assigned or cooling address: who has it, or had it last.

    ``state`` is ASSIGNED or COOLING. ``length`` is the prefix length of the assignment,
    ``set_index`` the range set that served it or, while it cools, that has its address; ``boot``
    the number of the boot in this store, ``generation`` a number that no other assignment of this
    pool has. Times are in nanoseconds: ``allocated_ns`` is wall clock; ``released`` is on the
    pool's own clock (see :class:`PoolState`) and 0 while assigned. ``sticky_s`` is the number
    of seconds for which the address stays reserved for its pod after its release. ``netns``,
    ``inode``, ``mount_ns`` and ``born_ns`` are those of :class:`Netns`. ``network_id`` is the id of
    the network whose owner it is: a lease is found by its pool.
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
        return _LEASE.pack(
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
        ) + "\0".join(texts).encode(ENCODING, ERRORS)

    @classmethod
    def read(cls, raw: bytes) -> Record:
        """Return the record of a value. Raises StoreCorrupt."""
        try:
            texts = raw[_LEASE.size :].decode(ENCODING, ERRORS).split("\0")
            if len(texts) != 6 or raw[0] not in (ASSIGNED, COOLING):
                raise ValueError(raw)
            return cls(*_LEASE.unpack_from(raw), *texts)
        except UNREADABLE as error:
            raise StoreCorrupt(f"a lease cannot be read: {raw.hex()}", hint=CHECK_HINT) from error


# A lease is written, and begins to cool, for every pod. These functions work on the packed record,
# in a tenth of the time that a Record takes. ``name`` is an :func:`owner_name`.


def pack_assigned(
    network_id: int,
    owner: Described,
    length: int,
    set_index: int,
    stamp: tuple[int, int, int],
    sticky_s: int,
) -> bytes:
    """Return what :meth:`Record.pack` returns of an address that is assigned to ``owner``.

    ``stamp`` is the assignment's: boot, generation, wall clock.
    """
    netns = owner.netns
    return (
        _LEASE.pack(
            ASSIGNED,
            length,
            set_index,
            *stamp,
            0,
            netns.inode,
            netns.mount_ns,
            sticky_s,
            netns.born_ns,
            network_id,
        )
        + owner.texts
    )


def is_assigned_to(raw: bytes, name: bytes) -> bool:
    """Return whether a packed record is assigned to exactly this owner."""
    return raw[:1] == _ASSIGNED_BYTE and raw.startswith(name + b"\0", _LEASE.size)


def is_assigned(raw: bytes) -> bool:
    """Return whether a packed record is assigned."""
    return raw[:1] == _ASSIGNED_BYTE


def is_cooling_since(raw: bytes, released: int) -> bool:
    """Return whether a packed record is cooling since exactly this time."""
    return raw[:1] == _COOLING_BYTE and _number(_U64, raw, _RELEASED_AT) == released


def _number(form: Struct, raw: bytes, at: int) -> int:
    """Return a number of a packed record. Raises StoreCorrupt when the record is too short."""
    try:
        return form.unpack_from(raw, at)[0]  # type: ignore[no-any-return]
    except struct_error as error:
        raise StoreCorrupt(f"a lease cannot be read: {raw.hex()}", hint=CHECK_HINT) from error


def length_of(raw: bytes) -> int:
    """Return the prefix length of a packed record."""
    return raw[1]


def generation_of(raw: bytes) -> int:
    """Return the generation of a packed record."""
    return _number(_U64, raw, _GENERATION_AT)


def boot_of(raw: bytes) -> int:
    """Return the boot of a packed record."""
    return _number(_U32, raw, _BOOT_AT)


def sticky_of(raw: bytes) -> int:
    """Return the seconds for which the address stays reserved after its release."""
    return _number(_U32, raw, _STICKY_AT)


def network_of(raw: bytes) -> int:
    """Return the id of the network whose owner has the address, of a packed record."""
    return _number(_U32, raw, _NETWORK_AT)


def texts_of(raw: bytes) -> bytes:
    """Return the texts of a packed record."""
    return raw[_LEASE.size :]


def name_of(raw: bytes) -> bytes:
    """Return the :func:`owner_name` of a packed record. Raises StoreCorrupt."""
    texts = raw[_LEASE.size :]
    end = texts.find(b"\0", texts.find(b"\0") + 1)
    if end < 0:
        raise StoreCorrupt(f"a lease cannot be read: {raw.hex()}", hint=CHECK_HINT)
    return texts[:end]


def cool(raw: bytes, released: int, set_index: int) -> bytes:
    """Return a packed record with the state cooling, since this time of the pool's clock.

    ``set_index`` is the number of the range set that has the address now.
    """
    length, rest = raw[1:_SET_AT], raw[_BOOT_AT:_RELEASED_AT]
    head = _COOLING_BYTE + length + _U16.pack(set_index) + rest + _U64.pack(released)
    return head + raw[_RELEASED_AT + 8 :]


def with_boot(raw: bytes, boot: int) -> bytes:
    """Return a packed record with another boot."""
    return raw[:_BOOT_AT] + _U32.pack(boot) + raw[_BOOT_AT + _U32.size :]


# A note in ``missing``: the sweeper has found the network namespace of a lease gone, once.


def pack_missing(generation: int, first_ns: int, inode: int) -> bytes:
    """Return a note: the lease's generation, the pool's clock at the check, the inode found."""
    return _MISSING.pack(generation, first_ns, inode)


def is_missing(raw: bytes) -> bool:
    """Return whether this can be a note of the sweeper."""
    return len(raw) == _MISSING.size


def read_missing(raw: bytes | None) -> tuple[int, int, int]:
    """Return (generation, clock, inode) of a note; zeros, which are of no lease, without one."""
    if raw is None or not is_missing(raw):
        return 0, 0, 0
    generation, first_ns, inode = _MISSING.unpack(raw)
    return generation, first_ns, inode
