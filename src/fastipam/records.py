"""The store's layout: what each key and value looks like, byte by byte.

Keys are big-endian, so that LMDB's order is address order; values are little-endian. Texts
inside a value are UTF-8 with undecodable bytes kept (``surrogateescape``), divided by NUL, which
no environment variable can contain.

==============  ================================================  ===============================
database        key                                               value
==============  ================================================  ===============================
meta            a word                                            see store.py
networks        name                                              id (4 bytes), text of the pool
states          network id                                        :class:`NetworkState`
pages           network id, family, level, page index (4 or 16)   64 words of 64 bits
leases          network id, family, address (4 or 16)             :class:`Record`
owners          network id, digest of container id, interface     family, address; …
cooldown        network id, set, released at, family, address     nothing
reservations    network id, family, address                       reason, NUL, owner key
==============  ================================================  ===============================
"""

from __future__ import annotations

from struct import Struct

from fastipam.addresses import BITS, V4
from fastipam.errors import ConfigError, StoreCorrupt

try:  # the module that hashlib wraps: a quarter of a bare start is spared
    from _blake2 import blake2b
except ImportError:  # pragma: no cover  # an interpreter that builds it in another way
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA = 1

ASSIGNED = 1
COOLING = 2

_ID = Struct(">I")
_ADDRESS_KEY = {4: Struct(">IBI"), 6: Struct(">IB16s")}
_LEASE = Struct("<BBHIQQQQ")
_STATE = Struct("<QQQQQQq")
_CURSOR = Struct("<B16s")
_COOLDOWN = Struct(">IHQB")
_ASSIGNED_BYTE = bytes((ASSIGNED,))
_DIGEST_BYTES = 16
ENCODING = "utf-8"
ERRORS = "surrogateescape"


def network_prefix(network_id: int) -> bytes:
    """What every key of this network begins with."""
    return _ID.pack(network_id)


def pages_prefix(network_id: int, family: int) -> bytes:
    """What every page key of this network and family begins with."""
    return _ID.pack(network_id) + bytes((family,))


def page_index_bytes(family: int) -> int:
    """How many bytes of a page key are the page index."""
    return BITS[family] // 8


def address_key(network_id: int, family: int, value: int) -> bytes:
    """The key of an address in ``leases`` and ``reservations``."""
    if family == V4:
        return _ADDRESS_KEY[4].pack(network_id, family, value)
    return _ADDRESS_KEY[6].pack(network_id, family, value.to_bytes(16, "big"))


def read_address_key(key: bytes) -> tuple[int, int, int]:
    """The inverse of :func:`address_key`: (network id, family, address)."""
    return _ID.unpack_from(key)[0], key[4], int.from_bytes(key[5:], "big")


def encode(field: str, text: str) -> bytes:
    """A text as the store keeps it. ConfigError for half a surrogate pair (JSON can spell one)."""
    try:
        return text.encode(ENCODING, ERRORS)
    except UnicodeEncodeError as error:
        message = f"{field} {text!r} is no text: {error}"
        raise ConfigError(message, field=field, value=text) from None


def owner_name(container_id: str, ifname: str) -> bytes:
    """How a lease begins its texts, and what the owner's digest is of."""
    return encode("container_id or ifname", f"{container_id}\0{ifname}")


def owner_key(prefix: bytes, name: bytes) -> bytes:
    """The key of an owner: a container id has no limit of length, an LMDB key has 511 bytes.

    16 bytes of BLAKE2b: among 2**40 owners, two collide with a probability of 2**-49; a lease names
    its owner in full, and that is compared before anything is released.
    """
    return prefix + blake2b(name, digest_size=_DIGEST_BYTES).digest()


def pack_addresses(addresses: Sequence[tuple[int, int]]) -> bytes:
    """An owner's value: its (family, address) pairs, in the order of the range sets."""
    return b"".join(
        bytes((family,)) + value.to_bytes(BITS[family] // 8, "big") for family, value in addresses
    )


def read_addresses(raw: bytes) -> list[tuple[int, int]]:
    """The inverse of :func:`pack_addresses`."""
    if len(raw) == 5 and raw[0] == V4:  # nearly all of them
        return [(V4, int.from_bytes(raw[1:], "big"))]
    found = []
    at = 0
    while at < len(raw):
        family = raw[at]
        size = BITS[family] // 8 if family in BITS else 0
        if not size or at + 1 + size > len(raw):
            raise StoreCorrupt(f"an owner's addresses cannot be read: {raw.hex()}", hint=CHECK_HINT)
        found.append((family, int.from_bytes(raw[at + 1 : at + 1 + size], "big")))
        at += 1 + size
    return found


CHECK_HINT = "run `fastipam check`"


class Record:
    """What ``leases`` holds of an address whose bit is set: who has it, or had it last.

    ``state`` is ASSIGNED or COOLING. ``length`` is the prefix length it was given with,
    ``set_index`` the range set that served it, ``boot`` the number of the boot (see store.py),
    ``generation`` a number that no other assignment of this network has. Times are in nanoseconds:
    ``allocated_ns`` is wall clock; ``released`` is on the network's own clock (see
    :class:`NetworkState`) and 0 while assigned. ``inode`` is that of the network namespace, 0
    when it was not known.
    """

    __slots__ = (
        "allocated_ns",
        "boot",
        "container_id",
        "generation",
        "ifname",
        "inode",
        "length",
        "netns",
        "pod_name",
        "pod_namespace",
        "pod_uid",
        "released",
        "set_index",
        "state",
    )

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
        self.container_id = container_id
        self.ifname = ifname
        self.netns = netns
        self.pod_namespace = pod_namespace
        self.pod_name = pod_name
        self.pod_uid = pod_uid

    def pack(self) -> bytes:
        """The value that :meth:`read` reads."""
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
        ) + "\0".join(texts).encode(ENCODING, ERRORS)

    @classmethod
    def read(cls, raw: bytes) -> Record:
        """The record of a value. StoreCorrupt when it is none."""
        try:
            texts = raw[_LEASE.size :].decode(ENCODING, ERRORS).split("\0")
            if len(texts) != 6 or raw[0] not in (ASSIGNED, COOLING):
                raise ValueError(raw)
            return cls(*_LEASE.unpack_from(raw), *texts)
        except Exception as error:
            raise StoreCorrupt(f"a lease cannot be read: {raw.hex()}", hint=CHECK_HINT) from error

    def is_owned_by(self, container_id: str, ifname: str) -> bool:
        """Whether it is assigned to exactly this owner."""
        return (
            self.state == ASSIGNED and self.container_id == container_id and self.ifname == ifname
        )


# A lease is written, and cools, for every pod: these do it to the packed form, a tenth of the time
# that a Record takes. ``name`` is an :func:`owner_name`.


def pack_assigned(
    length: int,
    set_index: int,
    boot: int,
    generation: int,
    allocated_ns: int,
    inode: int,
    texts: bytes,
) -> bytes:
    """What :meth:`Record.pack` makes of an assigned address; ``texts`` is the owner's."""
    return (
        _LEASE.pack(ASSIGNED, length, set_index, boot, generation, allocated_ns, 0, inode) + texts
    )


def is_assigned_to(raw: bytes, name: bytes) -> bool:
    """Whether a packed record is assigned to exactly this owner."""
    return raw[:1] == _ASSIGNED_BYTE and raw.startswith(name + b"\0", _LEASE.size)


def generation_of(raw: bytes) -> int:
    """The generation of a packed record."""
    return int(_LEASE.unpack_from(raw)[4])


def cool(raw: bytes, released: int) -> tuple[int, bytes]:
    """The range set that served a packed record, and the record as it is from now on, cooling."""
    _, length, set_index, boot, generation, allocated_ns, _, inode = _LEASE.unpack_from(raw)
    head = _LEASE.pack(COOLING, length, set_index, boot, generation, allocated_ns, released, inode)
    return set_index, head + raw[_LEASE.size :]


def check_owner(container_id: str, ifname: str) -> None:
    """Refuse what a record cannot hold. Raises ConfigError."""
    strings = type(container_id) is str and type(ifname) is str
    if strings and container_id and "\0" not in container_id and "\0" not in ifname:
        return
    for field, text in (("container_id", container_id), ("ifname", ifname)):
        if not isinstance(text, str):
            raise ConfigError(f"{field} has to be a text, not {text!r}", field=field, value=text)
        if "\0" in text:
            raise ConfigError(f"{field} {text!r} contains NUL", field=field, value=text)
    if not container_id:
        raise ConfigError("container_id is empty", field="container_id", value=container_id)


def cooldown_key(network_id: int, set_index: int, released: int, family: int, value: int) -> bytes:
    """The place in the queue: per range set, by release time."""
    return _COOLDOWN.pack(network_id, set_index, released, family) + value.to_bytes(
        BITS[family] // 8, "big"
    )


def cooldown_prefix(network_id: int, set_index: int) -> bytes:
    """What the queue of one range set begins with."""
    return _COOLDOWN.pack(network_id, set_index, 0, 0)[:6]


def read_cooldown_key(key: bytes) -> tuple[int, int, int, int, int]:
    """(network id, set index, released, family, address)."""
    return (*_COOLDOWN.unpack_from(key), int.from_bytes(key[_COOLDOWN.size :], "big"))


class NetworkState:
    """The numbers of a network that change with every transaction, in one record.

    ``generation`` counts assignments. ``assigned``, ``cooling`` and ``reserved`` count addresses
    by state, ``outside`` those of them that the configured ranges do not (any longer) contain.
    ``cursors`` holds, packed, family and address of the last automatic or requested assignment of
    each range set; family 0: none yet.

    ``clock`` is the network's own clock, in nanoseconds: wall clock plus ``offset``, which grows
    when the wall clock steps back, so that it never does. Cool-down is measured on it: a step
    back freezes nothing, a step forward of n seconds ends a cool-down at most n seconds early.
    """

    __slots__ = (
        "assigned",
        "clock",
        "cooling",
        "cursors",
        "generation",
        "network_id",
        "offset",
        "outside",
        "prefix",
        "reserved",
    )

    def __init__(self, network_id: int, raw: bytes | None) -> None:
        self.network_id = network_id
        self.prefix = _ID.pack(network_id)
        if raw is None:
            self.cursors = b""
            self.generation = self.assigned = self.cooling = self.reserved = self.outside = 0
            self.clock = self.offset = 0
            return
        if len(raw) < _STATE.size or (len(raw) - _STATE.size) % _CURSOR.size:
            raise StoreCorrupt(f"a network's state cannot be read: {raw.hex()}", hint=CHECK_HINT)
        (
            self.generation,
            self.assigned,
            self.cooling,
            self.reserved,
            self.outside,
            self.clock,
            self.offset,
        ) = _STATE.unpack_from(raw)
        self.cursors = raw[_STATE.size :]

    def pack(self) -> bytes:
        """The value that the constructor reads."""
        head = _STATE.pack(
            self.generation,
            self.assigned,
            self.cooling,
            self.reserved,
            self.outside,
            self.clock,
            self.offset,
        )
        return head + self.cursors

    @property
    def used(self) -> int:
        """Addresses whose bit is set."""
        return self.assigned + self.cooling + self.reserved

    def cursor(self, set_index: int, family: int) -> int | None:
        """Where the round robin of this range set stands."""
        at = set_index * _CURSOR.size
        if at < len(self.cursors) and self.cursors[at] == family:
            return int.from_bytes(self.cursors[at + 1 : at + _CURSOR.size], "big")
        return None

    def all_cursors(self) -> list[tuple[int, int] | None]:
        """(family, address) of each range set's cursor, None where there is none yet."""
        found = _CURSOR.iter_unpack(self.cursors)
        return [(family, int.from_bytes(raw, "big")) if family else None for family, raw in found]

    def move_cursor(self, set_index: int, family: int, value: int) -> None:
        """The next assignment of this range set begins behind ``value``."""
        at = set_index * _CURSOR.size
        before = self.cursors[:at].ljust(at, b"\0")
        packed = _CURSOR.pack(family, value.to_bytes(16, "big"))
        self.cursors = before + packed + self.cursors[at + _CURSOR.size :]

    def tick(self, wall_ns: int) -> int:
        """Advance the network's clock to the wall clock's ``wall_ns`` and return it.

        No two calls give the same time: what is queued by it has an order even while the wall clock
        stands or steps back.
        """
        now = wall_ns + self.offset
        if now <= self.clock:
            self.offset += self.clock + 1 - now
            now = self.clock + 1
        self.clock = now
        return now
