"""The local store's records of a cluster's blocks, and of this node as a member of the cluster.

The record of a block in the shared store is in ``cluster/schema.py``, and the keys are in
docs/store-format.md.
"""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error

from fastipam.addressing.addresses import BITS, format_cidr
from fastipam.errors import CHECK_HINT, StoreCorrupt
from fastipam.storage.records.keys import UNREADABLE, id_prefix

TYPE_CHECKING = False
if TYPE_CHECKING:
    Address = tuple[int, int]  # family, integer

# docs/cluster.md, "Claims", says which process may move a block from state to state.
CLAIMING = 1  # an intent: the cluster's store may, or may not, name this node as the owner
ACTIVE = 2  # owned: the only state in which addresses are assigned from the block
RELEASING = 3  # no address is in use; it is being released, and cannot become active before that
FOUND = 4  # owned, but the addresses in use are not known yet: they are searched for first
LOST = 5  # another node owns it: addresses in use stay until they are released
STATES = {
    CLAIMING: "claiming",
    ACTIVE: "active",
    RELEASING: "releasing",
    FOUND: "found",
    LOST: "lost",
}
_BLOCK = Struct("<BQQQ")
_MEMBER = Struct("<QQQQB3xI")
_FENCING, _STEADY = 1, 2  # flags of a member
_PROOF = Struct("<IQ")
_HEARD = Struct("<QQ")
_OPEN = Struct(">4scBI")
_KEY_BYTES = {family: 6 + bits // 8 for family, bits in BITS.items()}


class Block:
    """The record of a block.

    ``revision`` is that of the block's key in the cluster's store, or 0 while it is not known.
    ``claimed_ns`` is the wall clock at the claim, ``epoch`` the node's epoch then.
    """

    __slots__ = ("base", "claimed_ns", "epoch", "family", "revision", "state")

    def __init__(
        self, family: int, base: int, state: int, claimed_ns: int, epoch: int, revision: int = 0
    ) -> None:
        self.family = family
        self.base = base
        self.state = state
        self.claimed_ns = claimed_ns
        self.epoch = epoch
        self.revision = revision

    @classmethod
    def read(cls, family: int, base: int, raw: bytes) -> Block:
        """Return the record of a value. Raises StoreCorrupt."""
        if len(raw) != _BLOCK.size or raw[0] not in STATES:
            raise StoreCorrupt(
                f"the record of block {base:#x} cannot be read: the bytes are {raw.hex()}",
                hint=CHECK_HINT,
            )
        state, claimed_ns, epoch, revision = _BLOCK.unpack(raw)
        return cls(family, base, state, claimed_ns, epoch, revision)

    def pack(self) -> bytes:
        """Return the value that :meth:`read` reads."""
        return _BLOCK.pack(self.state, self.claimed_ns, self.epoch, self.revision)

    def __repr__(self) -> str:
        return f"<Block {format_cidr(self.family, self.base, BITS[self.family])} {self.state}>"


# What the ``file`` of a Member says when it is not the number of a data file.
NO_FILE = 0  # it never registered
RESTORED = (1 << 64) - 1  # the records come from a backup
COPIED = (1 << 64) - 2  # the same, but the incarnation is this store's: kept, or chosen since then


class Member:
    """The record of this node as a member of its cluster: what a claim has to prove.

    ``revision`` is that of the node's key in the cluster's store, or 0 when the node is not
    registered or was removed. ``file``, ``boot`` and ``machine`` say where the blocks were last
    confirmed: the number of the store's data file (``blocks.file_of``), the number of the boot, and
    the id of the machine. A store that was copied, or whose machine has started again since then,
    assigns nothing before the cluster's store has confirmed the blocks again. With ``fencing`` the
    node has to prove in time that it owns its blocks. With ``steady`` its blocks serve after a boot
    of the same machine even before they are confirmed. ``mark`` is the number of the last mark by
    which it asked other nodes for a block.
    """

    __slots__ = (
        "boot", "epoch", "fencing", "file", "incarnation", "machine", "mark", "node", "revision",
        "settings", "steady",
    )  # fmt: skip

    def __init__(
        self,
        node: str,
        incarnation: str,
        settings: str,
        machine: str = "",
        *,
        epoch: int = 0,
        revision: int = 0,
        file: int = NO_FILE,
        mark: int = 0,
        fencing: bool = False,
        steady: bool = False,
        boot: int = 0,
    ) -> None:
        self.node = node
        self.incarnation = incarnation
        self.settings = settings
        self.machine = machine
        self.epoch = epoch
        self.revision = revision
        self.file = file
        self.mark = mark
        self.fencing = fencing
        self.steady = steady
        self.boot = boot

    @classmethod
    def read(cls, raw: bytes) -> Member:
        """Return the record of a value. Raises StoreCorrupt."""
        try:
            epoch, revision, file, mark, flags, boot = _MEMBER.unpack_from(raw)
            # A store of the previous development version has no machine, and 0 for the boot.
            node, incarnation, settings, *rest = raw[_MEMBER.size :].decode().split("\0")
            (machine,) = rest or ("",)
        except (*UNREADABLE, struct_error) as error:
            raise StoreCorrupt(
                f"the node's record cannot be read: the bytes are {raw.hex()}", hint=CHECK_HINT
            ) from error
        return cls(
            node,
            incarnation,
            settings,
            machine,
            epoch=epoch,
            revision=revision,
            file=file,
            mark=mark,
            fencing=bool(flags & _FENCING),
            steady=bool(flags & _STEADY),
            boot=boot,
        )

    def pack(self) -> bytes:
        """Return the value that :meth:`read` reads."""
        flags = _FENCING * self.fencing | _STEADY * self.steady
        numbers = _MEMBER.pack(self.epoch, self.revision, self.file, self.mark, flags, self.boot)
        texts = (self.node, self.incarnation, self.settings, self.machine)
        return numbers + "\0".join(texts).encode()


def is_active(raw: bytes | None) -> bool:
    """Return whether a packed :class:`Block` says that addresses may be assigned from it."""
    return bool(raw and raw[0] == ACTIVE)  # an empty record is damaged; verify reports it


def read_standing(raw: bytes) -> tuple[int, int, bool, int]:
    """Return (revision, file, fencing, boot) of a packed :class:`Member`.

    Every ADD needs these four, so the rest is not read. Raises StoreCorrupt when the record is too
    short.
    """
    if len(raw) < _MEMBER.size:
        raise StoreCorrupt(
            f"the member record cannot be read: the bytes are {raw.hex()}", hint=CHECK_HINT
        )
    _, revision, file, _, flags, boot = _MEMBER.unpack_from(raw)
    return revision, file, bool(flags & _FENCING), boot


def pack_proof(boot: int, until_ns: int) -> bytes:
    """Return the value that :func:`read_proof` reads."""
    return _PROOF.pack(boot, until_ns)


def read_proof(raw: bytes) -> tuple[int, int] | None:
    """Return until when ownership is proven, as (boot, time on that boot's clock), or None."""
    return _PROOF.unpack(raw) if len(raw) == _PROOF.size else None


class Heard:
    """The last known state of the cluster's store.

    ``identity`` and ``revision`` are the store's, or 0 when they are not known. ``era`` is the
    value of its key ``history``, "" when it had none, or None when the key was not read yet.
    """

    __slots__ = ("era", "identity", "revision")

    def __init__(self, identity: int = 0, revision: int = 0, era: str | None = None) -> None:
        self.identity = identity
        self.revision = revision
        self.era = era

    @classmethod
    def read(cls, raw: bytes) -> Heard:
        """Return the record of a value. Raises StoreCorrupt."""
        if len(raw) < _HEARD.size:
            raise StoreCorrupt(
                f"the record of the cluster's state cannot be read: the bytes are {raw.hex()}",
                hint=CHECK_HINT,
            )
        era = raw[_HEARD.size :].decode("utf-8", "replace")
        identity, revision = _HEARD.unpack_from(raw)
        return cls(identity, revision, era[1:] if era else None)

    def pack(self) -> bytes:
        """Return the value that :meth:`read` reads."""
        era = "" if self.era is None else f"={self.era}"
        return _HEARD.pack(self.identity, self.revision) + era.encode()


class Founding:
    """The founding record: which shared store a network's blocks come from.

    The agent writes it and plugins read it. ``engine`` is the name of the shared store in the
    settings, ``node`` this node's name in the cluster, ``pools`` the pools that are in force
    (``configuration/address_pools.py``).
    """

    __slots__ = ("engine", "node", "pools")

    def __init__(self, engine: str, node: str, pools: str) -> None:
        self.engine = engine
        self.node = node
        self.pools = pools

    @classmethod
    def read(cls, raw: bytes) -> Founding:
        """Return the record of a value. Raises StoreCorrupt."""
        try:
            engine, node, pools = raw.decode().split("\0")
        except UNREADABLE as error:
            raise StoreCorrupt(
                f"the cluster's record cannot be read: the bytes are {raw.hex()}", hint=CHECK_HINT
            ) from error
        return cls(engine, node, pools)

    def pack(self) -> bytes:
        """Return the value that :meth:`read` reads."""
        return "\0".join((self.engine, self.node, self.pools)).encode()


# Keys -----------------------------------------------------------------------------------------


def blocks_prefix(pool_id: int) -> bytes:
    """Return the prefix of the keys of a pool's blocks."""
    return id_prefix(pool_id) + b"b"


def block_key(pool_id: int, family: int, base: int) -> bytes:
    """Return the key of a block's record."""
    return b"%sb%c%s" % (
        id_prefix(pool_id),
        family,
        base.to_bytes(BITS[family] // 8, "big"),
    )


def read_block_key(key: bytes) -> Address:
    """Return (family, first address) of a :func:`block_key`. Raises StoreCorrupt for others."""
    if len(key) < 6 or len(key) != _KEY_BYTES.get(key[5]):
        raise StoreCorrupt(f"{key.hex()} is not the key of a block", hint=CHECK_HINT)
    return key[5], int.from_bytes(key[6:], "big")


def open_prefix(pool_id: int, family: int | None = None) -> bytes:
    """Return the key prefix of a pool's open list, or of one family of it.

    The open list has the blocks with free addresses.
    """
    return id_prefix(pool_id) + (b"o" if family is None else b"o%c" % family)


def open_key(pool_id: int, family: int, free: int, base: int) -> bytes:
    """Return the key under which the open list has a block with ``free`` free addresses."""
    prefix = _OPEN.pack(id_prefix(pool_id), b"o", family, free)
    return prefix + base.to_bytes(BITS[family] // 8, "big")


def read_open_key(key: bytes) -> int:
    """Return the first address of the block in an :func:`open_key`."""
    return int.from_bytes(key[_OPEN.size :], "big")


def read_any(key: bytes, raw: bytes) -> Block | None:
    """Return the block of a record, or None for a record of one of the five other kinds.

    Raises StoreCorrupt when the key is of none of the six kinds, or the record cannot be read.
    """
    kind, family = key[4:5], key[5] if len(key) > 5 else 0
    if kind == b"b":
        return Block.read(*read_block_key(key), raw)
    if key[4:] == b"n":
        Member.read(raw)
    elif key[4:] == b"h":
        Heard.read(raw)
    elif key[4:] == b"f":
        Founding.read(raw)
    elif not (
        (key[4:] == b"p" and read_proof(raw))
        or (kind == b"o" and len(key) - 4 == _KEY_BYTES.get(family) and not raw)
    ):
        raise StoreCorrupt(f"{key.hex()} is not a record of a cluster", hint=CHECK_HINT)
    return None


def member_key(pool_id: int) -> bytes:
    """Return the key of the :class:`Member`."""
    return id_prefix(pool_id) + b"n"


def is_member_key(key: bytes) -> bool:
    """Return whether a key is that of a :class:`Member`."""
    return key[4:] == b"n"


def heard_key(pool_id: int) -> bytes:
    """Return the key of the record :class:`Heard`."""
    return id_prefix(pool_id) + b"h"


def founding_key(pool_id: int) -> bytes:
    """Return the key of the :class:`Founding`."""
    return id_prefix(pool_id) + b"f"


def proof_key(pool_id: int) -> bytes:
    """Return the key of the proof of ownership."""
    return id_prefix(pool_id) + b"p"
