"""The records of a cluster block, and of this node as a member of its cluster."""

from __future__ import annotations

from struct import Struct

from fastipam.addressing.addresses import BITS, format_cidr
from fastipam.errors import CHECK_HINT, StoreCorrupt
from fastipam.storage.records.keys import network_prefix

# Who may move a block from state to state: docs/cluster.md, "Claims".
CLAIMING = 1  # an intent: the shared store may, or may not, name this node as its owner
ACTIVE = 2  # owned: the only state in which addresses are assigned from it
RELEASING = 3  # wholly free, on its way back: never active again before it was free
FOUND = 4  # owned, but this store knows nothing of its addresses: they are looked for first
LOST = 5  # somebody took it away: addresses in use stay until they are given back
STATES = {
    CLAIMING: "claiming",
    ACTIVE: "active",
    RELEASING: "releasing",
    FOUND: "found",
    LOST: "lost",
}
_BLOCK = Struct("<BQQQ")
_MEMBER = Struct("<QQQQQ")


class Block:
    """The record of a block. ``revision`` is that of its key in the shared store, once known.

    ``claimed_ns`` is wall clock time, ``epoch`` the node's when it was claimed.
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
        """The record of a value. StoreCorrupt when it is none."""
        if len(raw) != _BLOCK.size or raw[0] not in STATES:
            raise StoreCorrupt(
                f"the record of block {base:#x} cannot be read: {raw.hex()}", hint=CHECK_HINT
            )
        state, claimed_ns, epoch, revision = _BLOCK.unpack(raw)
        return cls(family, base, state, claimed_ns, epoch, revision)

    def pack(self) -> bytes:
        """The value that :meth:`read` reads."""
        return _BLOCK.pack(self.state, self.claimed_ns, self.epoch, self.revision)

    def __repr__(self) -> str:
        return f"<Block {format_cidr(self.family, self.base, BITS[self.family])} {self.state}>"


class Member:
    """This node, as its store remembers it: what a claim has to prove.

    ``revision`` is that of the node's key in the shared store; 0: not registered, or removed.
    ``inode`` is the store's file: a store that was copied or restored has another, and what it says
    of blocks is believed only after the shared store has confirmed it. ``fencing``: ownership has
    to be proven in time.
    """

    __slots__ = ("epoch", "fencing", "incarnation", "inode", "mark", "node", "revision", "settings")

    def __init__(
        self,
        node: str,
        incarnation: str,
        settings: str,
        *,
        epoch: int = 0,
        revision: int = 0,
        inode: int = 0,
        mark: int = 0,
        fencing: bool = False,
    ) -> None:
        self.node = node
        self.incarnation = incarnation
        self.settings = settings
        self.epoch = epoch
        self.revision = revision
        self.inode = inode
        self.mark = mark  # the number of its last wanted mark
        self.fencing = fencing

    @classmethod
    def read(cls, raw: bytes) -> Member:
        """The record of a value. StoreCorrupt when it is none."""
        try:
            epoch, revision, inode, mark, fencing = _MEMBER.unpack_from(raw)
            node, incarnation, settings = raw[_MEMBER.size :].decode().split("\0")
        except Exception as error:
            raise StoreCorrupt(
                f"what the store says of its node cannot be read: {raw.hex()}", hint=CHECK_HINT
            ) from error
        return cls(
            node,
            incarnation,
            settings,
            epoch=epoch,
            revision=revision,
            inode=inode,
            mark=mark,
            fencing=bool(fencing),
        )

    def pack(self) -> bytes:
        """The value that :meth:`read` reads."""
        numbers = _MEMBER.pack(self.epoch, self.revision, self.inode, self.mark, self.fencing)
        return numbers + "\0".join((self.node, self.incarnation, self.settings)).encode()


def block_key(network_id: int, family: int, base: int) -> bytes:
    """The key of a block's record."""
    return b"%sb%c%s" % (
        network_prefix(network_id),
        family,
        base.to_bytes(BITS[family] // 8, "big"),
    )
