"""Keys and values of the shared store: read back as written, and refused when they are foreign."""

from __future__ import annotations

import pytest

from fastipam.cluster import layout
from fastipam.cluster.errors import ClusterCorrupt

KEYS = layout.Keys("/fastipam/", "podnet")


@pytest.mark.parametrize(
    ("family", "base"),
    [(4, 0), (4, 0x0A200700), (4, 2**32 - 256), (6, 0xFD << 120), (6, 2**128 - 1)],
)
def test_block_key(family: int, base: int) -> None:
    """The key of a block, and of an entry of the list of a node's, names family and address."""
    assert layout.read_block_key(KEYS.block(family, base)) == (family, base)
    assert layout.read_block_key(KEYS.owned("a", family, base)) == (family, base)


FOREIGN_NAMES = (
    *("", "4", "4/", "4/10.0.0.0", "5/0a200700", "x/0a200700", "6/0a200700", "04/0a200700"),
    *("4/a200700", "4/10a200700", "4/0A200700", "4/0x200700", "4/+a200700", "4/0a_00700"),
    "4/-0a20070",
)


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_foreign_block_key(name: str) -> None:
    """A key that fastipam would not have written names no block."""
    with pytest.raises(ClusterCorrupt):
        layout.read_block_key(KEYS.blocks + name.encode())


def test_values() -> None:
    """Every value says the same when it is read back."""
    block = layout.BlockEntry("a", 3, 5, 7)
    node = layout.NodeEntry("0a", 3, "boot", ("192.0.2.1", "2001:db8::1"), agent=True)
    want = layout.Want(7, 2, 3, 6)
    assert layout.BlockEntry.read(b"", block.pack()).pack() == block.pack()
    assert layout.NodeEntry.read(b"", node.pack()).pack() == node.pack()
    assert layout.Want.read(b"", want.pack()).pack() == want.pack()


@pytest.mark.parametrize(
    "value",
    [b"", b"node", b"node=a epoch=x", b"incarnation=a epoch=1 addresses=here", b"\xff=\xff"],
)
def test_foreign_value(value: bytes) -> None:
    """A value that fastipam would not have written is said to be one, with its key."""
    for kind in (layout.BlockEntry, layout.NodeEntry, layout.Want):
        with pytest.raises(ClusterCorrupt, match="somewhere"):
            kind.read(b"somewhere", value)
