"""The keys of the shared store, and their values.

All keys of a network begin with its prefix (``/fastipam/NETWORK/``). A value is a list of
``name=value`` separated by spaces, so that an operator can read what ``etcdctl get`` shows.

=====================  ==================================================================
``settings``           the pools and their block size; written once, by ``cluster init``
``nodes/NODE``         the node's entry: incarnation, epoch, boot, addresses
``sessions/NODE``      the sign of life: exists while the node keeps its session
``blocks/4/0a200700``  the owner of a block; absent: the block is free
``owned/NODE/4/…``     the same value again, to list one node's blocks without reading all
``wanted/NODE``        the mark of a node in need: how many blocks it wants; deleted when the
                       node's session ends
``restored``           exists for a while after a node noticed that changes were lost:
                       meanwhile no node claims a block that it did not have before
``history``            the era: a random number that is written with ``restored``; a node
                       that knows another number compares its blocks again
=====================  ==================================================================

Every transaction that changes ``blocks`` changes ``owned`` in the same way. The owner of a block
also has a record of it in its local store: ``storage/records/block.py``.
"""

from __future__ import annotations

from fastipam.addressing.addresses import BITS, parse_ip
from fastipam.cluster.errors import ClusterCorrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastipam.cluster.engine import KeyValue

    BlockId = tuple[int, int]  # family, first address

SETTINGS = b"settings"
_HINT = "another program writes below the cluster's prefix: find it before you remove its key"


class Keys:
    """The keys of one network, below the prefix of a cluster."""

    __slots__ = (
        "blocks", "history", "nodes", "owned_lists", "prefix", "restored", "sessions", "settings",
        "wanted",
    )  # fmt: skip

    def __init__(self, prefix: str, network: str) -> None:
        self.prefix = f"{prefix}{network}/".encode()
        self.settings = self.prefix + SETTINGS
        self.blocks = self.prefix + b"blocks/"
        self.history = self.prefix + b"history"
        self.restored = self.prefix + b"restored"
        self.nodes = self.prefix + b"nodes/"
        self.owned_lists = self.prefix + b"owned/"
        self.sessions = self.prefix + b"sessions/"
        self.wanted = self.prefix + b"wanted/"

    def block(self, family: int, base: int) -> bytes:
        """Return the key of a block's owner."""
        return self.blocks + _block_name(family, base)

    def blocks_of(self, family: int, base: int, shared_bits: int) -> bytes:
        """Return the key prefix of the blocks with the same first ``shared_bits`` as ``base``."""
        name = _block_name(family, base)
        return self.blocks + name[: 2 + shared_bits // 4]

    def node(self, name: str) -> bytes:
        """Return the key of a node's entry."""
        return self.nodes + name.encode()

    def session(self, name: str) -> bytes:
        """Return the key of a node's sign of life."""
        return self.sessions + name.encode()

    def mark(self, name: str) -> bytes:
        """Return the key of a node's mark, its request for blocks."""
        return self.wanted + name.encode()

    def owned_by(self, name: str) -> bytes:
        """Return the prefix of the keys that list a node's blocks."""
        return self.owned_lists + name.encode() + b"/"

    def owned(self, name: str, family: int, base: int) -> bytes:
        """Return the key that lists a block as this node's."""
        return self.owned_by(name) + _block_name(family, base)


def _block_name(family: int, base: int) -> bytes:
    return f"{family}/{base:0{BITS[family] // 4}x}".encode()


def read_block_key(key: bytes) -> BlockId:
    """Return the block of a key below ``blocks`` or ``owned``. Raises ClusterCorrupt."""
    try:
        _, family_text, digits = key.rsplit(b"/", 2)
        family, base = int(family_text), int(digits, 16)
    except ValueError:
        family, base = 0, 0
    # A key that writes the same numbers in another way would be a second key of the block.
    if (
        family not in BITS
        or base >> BITS[family]
        or not key.endswith(b"/" + _block_name(family, base))
    ):
        raise ClusterCorrupt(f"the key {_text(key)} does not name a block", hint=_HINT)
    return family, base


def name_of(key: bytes) -> str:
    """Return the node that a key below ``nodes``, ``sessions`` or ``wanted`` names."""
    return _text(key.rpartition(b"/")[2])


def pack(**words: object) -> bytes:
    """Return a value: ``pack(node="a", epoch=3)`` → ``b"node=a epoch=3"``."""
    return " ".join(f"{name}={value}" for name, value in words.items()).encode()


def read(key: bytes, value: bytes) -> dict[str, str]:
    """Read a value that :func:`pack` has written. Raises ClusterCorrupt."""
    words = {}
    for word in value.decode("utf-8", "replace").split(" "):
        name, equals, text = word.partition("=")
        if not equals:
            raise _corrupt(key, value)
        words[name] = text
    return words


def _number(text: str) -> int:
    """Read a number of at most 63 bits, as the local store can hold it. Raises ValueError."""
    number = int(text)
    if not 0 <= number < 1 << 63:
        raise ValueError(text)
    return number


def _corrupt(key: bytes, value: bytes) -> ClusterCorrupt:
    return ClusterCorrupt(f"the value of {_text(key)} is {value!r}", hint=_HINT)


def _text(key: bytes) -> str:
    return key.decode("utf-8", "replace")


class BlockEntry:
    """The owner of a block.

    ``claimed_ns`` is wall clock time. ``grant`` is the number of the mark that a donor answered
    with this block, or 0 when the node claimed it itself. ``revision`` is the key's revision.
    ``via`` has the owner's addresses if the shared store has them in the block.
    """

    __slots__ = ("claimed_ns", "epoch", "grant", "node", "revision", "via")

    def __init__(
        self,
        node: str,
        epoch: int,
        claimed_ns: int,
        grant: int = 0,
        revision: int = 0,
        *,
        via: tuple[str, ...] = (),
    ) -> None:
        self.node = node
        self.epoch = epoch
        self.claimed_ns = claimed_ns
        self.grant = grant
        self.revision = revision
        self.via = via

    def pack(self) -> bytes:
        """Return the value that :meth:`read` reads."""
        return pack(node=self.node, epoch=self.epoch, claimed=self.claimed_ns, grant=self.grant)

    @classmethod
    def read(cls, key: bytes, value: bytes, revision: int = 0) -> BlockEntry:
        """Read a value. Raises ClusterCorrupt."""
        words = read(key, value)
        try:
            return cls(
                words["node"],
                _number(words["epoch"]),
                _number(words["claimed"]),
                _number(words.get("grant", "0")),
                revision,
            )
        except (KeyError, ValueError):
            raise _corrupt(key, value) from None


def read_blocks(listed: Iterable[KeyValue]) -> dict[BlockId, BlockEntry]:
    """Read a listing of ``blocks`` or ``owned``. Raises ClusterCorrupt."""
    return {
        read_block_key(one.key): BlockEntry.read(one.key, one.value, one.mod_revision)
        for one in listed
    }


class NodeEntry:
    """The entry of a node: its identity in the cluster.

    ``incarnation`` changes with the node's local store, ``boot`` with its kernel's boot. ``epoch``
    increases when the node is removed or registers with another store. An empty incarnation: the
    node was removed. ``agent``: the node kept a session when it wrote this entry.
    """

    __slots__ = ("addresses", "agent", "boot", "epoch", "incarnation")

    def __init__(
        self,
        incarnation: str,
        epoch: int,
        boot: str,
        addresses: tuple[str, ...] = (),
        *,
        agent: bool = False,
    ) -> None:
        self.incarnation = incarnation
        self.epoch = epoch
        self.boot = boot
        self.addresses = addresses
        self.agent = agent

    def pack(self) -> bytes:
        """Return the value that :meth:`read` reads."""
        return pack(
            incarnation=self.incarnation,
            epoch=self.epoch,
            boot=self.boot,
            addresses=",".join(self.addresses),
            agent=int(self.agent),
        )

    @classmethod
    def read(cls, key: bytes, value: bytes) -> NodeEntry:
        """Read a value. Raises ClusterCorrupt."""
        words = read(key, value)
        addresses = tuple(filter(None, words.get("addresses", "").split(",")))
        try:
            for each in addresses:
                parse_ip(each)
            return cls(
                words["incarnation"],
                _number(words["epoch"]),
                words.get("boot", ""),
                addresses,
                agent=words.get("agent") == "1",
            )
        except (KeyError, ValueError):
            raise _corrupt(key, value) from None


class SignOfLife:
    """The sign of life of a node: which of its incarnations is alive, in which boot.

    ``session`` is the session that the key is tied to, or 0 when the value does not name it.
    ``ttl_s`` is the time to live that the node requested for the session.
    """

    __slots__ = ("boot", "incarnation", "session", "ttl_s")

    def __init__(self, incarnation: str, boot: str, session: int, ttl_s: int) -> None:
        self.incarnation = incarnation
        self.boot = boot
        self.session = session
        self.ttl_s = ttl_s

    def is_of(self, incarnation: str, boot: str) -> bool:
        """Return whether the sign of life is of this incarnation, in this boot."""
        return self.incarnation == incarnation and self.boot in ("", boot)

    def pack(self) -> bytes:
        """Return the value that :meth:`read` reads."""
        return pack(
            incarnation=self.incarnation, boot=self.boot, session=self.session, ttl=self.ttl_s
        )

    @classmethod
    def read(cls, key: bytes, value: bytes) -> SignOfLife:
        """Read a value. Raises ClusterCorrupt."""
        words = read(key, value)
        try:
            return cls(
                words["incarnation"],
                words.get("boot", ""),
                _number(words.get("session", "0")),
                _number(words.get("ttl", "0")),
            )
        except (KeyError, ValueError):
            raise _corrupt(key, value) from None


class Mark:
    """The mark by which a node in need asks for blocks.

    ``blocks`` is how many it wants; ``number`` distinguishes the marks of one node. ``named`` lists
    the only blocks that it wants, of any family. If ``named`` is empty, the node wants any blocks
    of ``family`` and of the AddressPool ``pool``. Only marks in the Kubernetes API have ``named``
    and ``pool``.
    """

    __slots__ = ("blocks", "epoch", "family", "named", "number", "pool")

    def __init__(
        self,
        number: int,
        blocks: int,
        epoch: int,
        family: int,
        named: tuple[BlockId, ...] = (),
        pool: str = "",
    ) -> None:
        self.number = number
        self.blocks = blocks
        self.epoch = epoch
        self.family = family
        self.named = named
        self.pool = pool

    def pack(self) -> bytes:
        """Return the value that :meth:`read` reads."""
        return pack(number=self.number, blocks=self.blocks, epoch=self.epoch, family=self.family)

    @classmethod
    def read(cls, key: bytes, value: bytes) -> Mark:
        """Read a value. Raises ClusterCorrupt."""
        words = read(key, value)
        try:
            family = _number(words["family"])
            if family not in BITS:
                raise ValueError(family)
            return cls(
                _number(words["number"]), _number(words["blocks"]), _number(words["epoch"]), family
            )
        except (KeyError, ValueError):
            raise _corrupt(key, value) from None
