"""What the shared store's keys and values say, and what is said of those that are not ours."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastipam.cluster import schema
from fastipam.cluster.errors import ClusterCorrupt
from fastipam.cluster.schema import BlockEntry, Keys, Mark, NodeEntry

KEYS = Keys("/fastipam/", "podnet")
NUMBER = st.integers(0, (1 << 63) - 1)
HINT = "another program writes below the cluster's prefix: find it before you remove its key"


def _fields(entry: Any) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__slots__}


@given(st.sampled_from([4, 6]), st.integers(0, (1 << 128) - 1))
def test_block_keys(family: int, base: int) -> None:
    """A block's key, among all or among a node's, says which block it is."""
    base &= (1 << (32 if family == 4 else 128)) - 1
    for key in (KEYS.block(family, base), KEYS.owned("node-1", family, base)):
        assert schema.read_block_key(key) == (family, base)


@pytest.mark.parametrize(
    "name",
    [
        "4/0a20000", "4/0a2000000", "4/0A200000", "4/-a200000", "4/0a20_000", "4/ a200000",
        "4/1000000000", "5/0a200000", "6/0a200000", "-4/0a200000", "04/0a200000", "4/", "4", "",
        "4/xyz", "x/0a200000", "4/0a200000/",
    ],
)  # fmt: skip
def test_key_of_no_block(name: str) -> None:
    """What is not to the letter what fastipam writes is no block, and is shown."""
    with pytest.raises(ClusterCorrupt) as caught:
        schema.read_block_key(KEYS.blocks + name.encode())
    assert caught.value.message == f"the key /fastipam/podnet/blocks/{name} does not name a block"
    assert caught.value.hint == HINT


@given(NUMBER, NUMBER, NUMBER)
def test_block_entry(epoch: int, claimed_ns: int, grant: int) -> None:
    """An owner's entry is read back as it was written; without a grant it is the node's own."""
    entry = BlockEntry("node-1", epoch, claimed_ns, grant, 7)
    assert _fields(BlockEntry.read(b"k", entry.pack(), 7)) == _fields(entry)
    old = f"node=node-1 epoch={epoch} claimed={claimed_ns}".encode()
    assert BlockEntry.read(b"k", old).grant == 0


@pytest.mark.parametrize("addresses", [(), ("10.0.0.1",), ("10.0.0.1", "fd00::1")])
@pytest.mark.parametrize("agent", [True, False])
def test_node_entry(addresses: tuple[str, ...], agent: bool) -> None:
    """A node's entry is read back as it was written; an empty incarnation says it was removed."""
    for incarnation in ("i-1", ""):
        entry = NodeEntry(incarnation, 3, "b-1", addresses, agent=agent)
        assert _fields(NodeEntry.read(b"k", entry.pack())) == _fields(entry)
    old = NodeEntry.read(b"k", b"incarnation=i-1 epoch=3")
    assert (old.boot, old.addresses, old.agent) == ("", (), False)


@given(NUMBER, NUMBER, NUMBER, st.sampled_from([4, 6]))
def test_mark(number: int, blocks: int, epoch: int, family: int) -> None:
    """A mark is read back as it was written."""
    mark = Mark(number, blocks, epoch, family)
    assert _fields(Mark.read(b"k", mark.pack())) == _fields(mark)


BLOCK, NODE, MARK = BlockEntry.read, NodeEntry.read, Mark.read


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (BLOCK, b""),
        (BLOCK, b"hello"),
        (BLOCK, b"\xff"),
        (BLOCK, b"node=a epoch=1"),
        (BLOCK, b"epoch=1 claimed=1"),
        (BLOCK, b"node=a epoch=x claimed=1"),
        (BLOCK, b"node=a epoch=-1 claimed=1"),
        (BLOCK, b"node=a epoch=1 claimed=-1"),
        (BLOCK, b"node=a epoch=1 claimed=9223372036854775808"),
        (BLOCK, b"node=a epoch=1 claimed=1 grant=-1"),
        (BLOCK, b"node=a epoch=1 claimed=1 grant"),
        (NODE, b"epoch=1"),
        (NODE, b"incarnation=a"),
        (NODE, b"incarnation=a epoch=1.5"),
        (NODE, b"incarnation=a epoch=-1"),
        (MARK, b"blocks=1 epoch=1 family=4"),
        (MARK, b"number=1 epoch=1 family=4"),
        (MARK, b"number=1 blocks=1 family=4"),
        (MARK, b"number=1 blocks=1 epoch=1"),
        (MARK, b"number=1 blocks=-1 epoch=1 family=4"),
        (MARK, b"number=1 blocks=1 epoch=1 family=5"),
    ],
)
def test_value_that_is_none(read: Any, value: bytes) -> None:
    """A value that fastipam did not write is refused before it is reckoned with, and is shown."""
    with pytest.raises(ClusterCorrupt) as caught:
        read(KEYS.node("node-\xe4"), value)
    assert caught.value.message == f"the value of /fastipam/podnet/nodes/node-\xe4 is {value!r}"
    assert caught.value.hint == HINT


def test_names() -> None:
    """A node's keys end with its name; one that is no text is shown as well as it can be."""
    for key in (KEYS.node("node-\xe4"), KEYS.session("node-\xe4"), KEYS.mark("node-\xe4")):
        assert schema.name_of(key) == "node-\xe4"
    assert schema.name_of(KEYS.nodes + b"\xff") == "\N{REPLACEMENT CHARACTER}"
