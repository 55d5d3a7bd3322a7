"""The store's layout: keys in address order, values that survive the way there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastipam import errors
from fastipam.errors import ConfigError, StoreCorrupt
from fastipam.lease import Requester
from fastipam.namespaces import Netns
from fastipam.storage.records import keys as records_keys
from fastipam.storage.records import lease as lease_record
from fastipam.storage.records.lease import ASSIGNED, COOLING, Record

# Texts as the environment gives them: undecodable bytes are lone low surrogates.
TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=9)
TEXTS = st.lists(TEXT | st.just("\udcff\udc80"), min_size=6, max_size=6)
U64 = st.integers(0, 2**64 - 1)
ADDRESS = st.tuples(st.just(4), st.integers(0, 2**32 - 1)) | st.tuples(
    st.just(6), st.integers(0, 2**128 - 1)
)


@given(
    st.sampled_from([ASSIGNED, COOLING]),
    st.integers(0, 128),
    st.integers(0, 65535),
    st.lists(U64, min_size=4, max_size=4),
    TEXTS,
)
def test_record_round_trip(
    state: int, length: int, set_index: int, numbers: list[int], texts: list[str]
) -> None:
    """A lease's record is read back as it was written, undecodable bytes included."""
    generation, allocated_ns, released, inode = numbers
    numbered = (generation, allocated_ns, released, inode, 11, 12, 13, 14)
    record = Record(state, length, set_index, 7, *numbered, *texts)
    again = Record.read(record.pack())
    assert all(getattr(again, name) == getattr(record, name) for name in Record.__slots__)
    owner = (record.container_id, record.ifname)
    assert (again.state, again.container_id, again.ifname) == (state, *owner)
    assert lease_record.is_assigned_to(record.pack(), records_keys.owner_name(*owner)) == (
        state == ASSIGNED
    )
    assert lease_record.generation_of(record.pack()) == record.generation


@given(TEXTS, U64)
def test_packed_forms_agree(texts: list[str], released: int) -> None:
    """The short cuts for packed records give what a Record would."""
    texts = [texts[0] or "c", *texts[1:3], "ns", "pod", texts[5]]
    container_id, ifname, netns, namespace, name, uid = texts
    record = Record(ASSIGNED, 24, 3, 7, 8, 9, 0, 10, 11, 12, 13, 14, *texts)
    owner = Requester(container_id, ifname, Netns(netns, 10, 11, 13), (namespace, name, uid))
    packed = record.pack()
    assert (owner.name, owner.texts) == (
        "\0".join(texts[:2]).encode("utf-8", "surrogateescape"),
        "\0".join(texts).encode("utf-8", "surrogateescape"),
    )
    assert lease_record.boot_of(packed) == 7
    assert lease_record.generation_of(packed) == 8
    assert lease_record.network_of(packed) == 14
    assert lease_record.name_of(packed) == owner.name
    assert lease_record.texts_of(packed) == owner.texts
    record.boot, record.released = 2**32 - 1, released
    assert lease_record.with_boot(record.pack(), 7)[:24] == packed[:24]
    assert lease_record.with_boot(packed, 2**32 - 1)[:24] == record.pack()[:24]
    assert lease_record.is_assigned(packed)
    record.state = COOLING
    assert not lease_record.is_assigned(record.pack())


@pytest.mark.parametrize(
    ("name", "owner", "yes"),
    [
        ("c", "eth0", True),
        ("c", "eth", False),
        ("c", "", False),
        ("cc", "eth0", False),
    ],
)
def test_owner_is_compared_in_full(name: str, owner: str, yes: bool) -> None:
    """A prefix of an owner's name is another owner."""
    raw = Record(ASSIGNED, 24, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, "c", "eth0").pack()
    assert lease_record.is_assigned_to(raw, records_keys.owner_name(name, owner)) is yes


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\1",
        bytes(72),
        Record(ASSIGNED, 24, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, "c", "e").pack()[:-1],
        b"\7" + Record(ASSIGNED, 24, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, "c", "e").pack()[1:],
        Record(ASSIGNED, 24, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, "c", "e").pack() + b"\0x",
    ],
)
def test_unreadable_record(raw: bytes) -> None:
    """What is no record is damage, with the way out."""
    with pytest.raises(StoreCorrupt, match="a lease's record cannot be read") as caught:
        Record.read(raw)
    assert caught.value.hint == errors.CHECK_HINT


@given(st.integers(0, 2**32 - 1), ADDRESS, ADDRESS)
def test_address_keys(pool_id: int, one: tuple[int, int], other: tuple[int, int]) -> None:
    """Keys are in address order, IPv4 first, and say what they were made of."""
    keys = [records_keys.address_key(pool_id, *address) for address in (one, other)]
    assert (keys[0] < keys[1]) == (one < other)
    assert records_keys.read_address_key(keys[0]) == (pool_id, *one)
    assert all(key.startswith(records_keys.id_prefix(pool_id)) for key in keys)


@given(st.integers(0, 2**32 - 1), st.integers(0, 65535), U64, U64, ADDRESS)
def test_cooldown_keys(
    pool: int, set_index: int, at: int, later: int, address: tuple[int, int]
) -> None:
    """The queue is in the order of release, and says what it was made of."""
    key = records_keys.cooldown_key(pool, set_index, at, *address)
    assert records_keys.read_cooldown_key(key) == (pool, set_index, at, *address)
    assert key.startswith(records_keys.cooldown_prefix(pool, set_index))
    if at != later:
        assert (key < records_keys.cooldown_key(pool, set_index, later, *address)) == (at < later)


@given(st.lists(ADDRESS, max_size=4))
def test_owner_addresses(addresses: list[tuple[int, int]]) -> None:
    """An owner's addresses are read back in their order."""
    assert records_keys.read_addresses(records_keys.pack_addresses(addresses)) == addresses


@given(st.integers(1, 2**32 - 1), st.lists(ADDRESS, max_size=4))
def test_held(pool_id: int, addresses: list[tuple[int, int]]) -> None:
    """An owner's entry has the keys of its leases, in their order; of another pool it is damage."""
    raw = records_keys.pack_held(pool_id, addresses)
    assert raw == b"".join(records_keys.address_key(pool_id, *one) for one in addresses)
    assert records_keys.read_held(raw, pool_id) == addresses
    assert records_keys.read_any_held(raw) == [(pool_id, *one) for one in addresses]
    if addresses:
        with pytest.raises(StoreCorrupt, match=f"is of another pool than {pool_id - 1}: "):
            records_keys.read_held(raw, pool_id - 1)


@pytest.mark.parametrize("cut", [1, 4, 5, 8, 10, 17, 29])
def test_unreadable_held(cut: int) -> None:
    """An owner's entry that ends within an address is damage."""
    raw = records_keys.pack_held(7, [(4, 9), (6, 9)])[:cut]
    with pytest.raises(StoreCorrupt, match="addresses cannot be read"):
        records_keys.read_held(raw, 7)


@pytest.mark.parametrize(
    "raw", [b"\4", b"\4\1\2\3", b"\5\1\2\3\4", b"\6" + bytes(15), b"\4\1\2\3\4\4"]
)
def test_unreadable_addresses(raw: bytes) -> None:
    """An owner's value that cannot be read is damage."""
    with pytest.raises(StoreCorrupt, match="addresses cannot be read"):
        records_keys.read_addresses(raw)


def test_owner_keys_differ() -> None:
    """Container and interface are told apart, and no length is too long for a key."""
    owners = [("ab", "c"), ("a", "bc"), ("abc", ""), ("x" * 10000, "eth0")]
    keys = {records_keys.owner_key(b"net!", records_keys.owner_name(*owner)) for owner in owners}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {20}


@pytest.mark.parametrize(
    ("container_id", "ifname", "field"),
    [
        ("", "eth0", "container_id"),
        ("a\0b", "eth0", "container_id"),
        ("a", "e\0", "ifname"),
        (5, "eth0", "container_id"),
        ("a", None, "ifname"),
    ],
)
def test_bad_owner(container_id: str, ifname: str, field: str) -> None:
    """An owner that a record cannot hold is refused with its field."""
    with pytest.raises(ConfigError) as caught:
        records_keys.check_owner(container_id, ifname)
    assert caught.value.field == field


def test_half_a_surrogate_pair() -> None:
    """A text that is none (JSON can spell one) is refused with its field."""
    with pytest.raises(ConfigError) as caught:
        records_keys.encode("name", "\ud800")
    assert caught.value.field == "name"
    assert records_keys.encode("name", "\udcff") == b"\xff"
