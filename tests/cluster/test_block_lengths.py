"""Pools of one family whose blocks have different lengths, on one node."""

from __future__ import annotations

import pytest

from fastipam.addressing.addresses import parse_ip
from fastipam.addressing.ranges import Pool
from fastipam.addressing.union import union
from fastipam.allocation import blocks
from fastipam.configuration.address_pools import AddressPool
from fastipam.configuration.cluster import Settings


def settings() -> Settings:
    """A pool in blocks of /24, and one in which each address is a block."""
    pools = [
        AddressPool("default", {"cidr": "10.32.0.0/20", "blockSize": 24}),
        AddressPool("fixed", {"cidr": "10.9.0.0/28", "blockSize": 32, "exclude": ["10.9.0.9"]}),
    ]
    return Settings({"engine": "kubernetes"}, host_name="a").with_pools(pools)


def value(text: str) -> int:
    """An address as an integer."""
    return parse_ip(text)[1]


def test_the_text_of_such_a_pool() -> None:
    """The store keeps the length of each range; it reads the pool as it was."""
    pool = settings().pool
    assert pool.text.endswith("@24,32")
    (again,) = Pool.read(pool.text).sets
    assert (again.block_length, again.block_lengths) == (24, (24, 32))
    assert Pool.read(pool.text).text == pool.text
    assert union([pool]).text == pool.text


@pytest.mark.parametrize("lengths", ["24,32,28", "24,", "24,x"])
def test_a_damaged_text(lengths: str) -> None:
    """It is not a pool."""
    text = settings().pool.text.replace("@24,32", f"@{lengths}")
    with pytest.raises(ValueError, match=r"24|x|invalid"):
        Pool.read(text)


def test_which_block_has_an_address() -> None:
    """The length of its own pool counts."""
    (only,) = settings().pool.sets
    large, single = value("10.32.3.7"), value("10.9.0.7")
    assert blocks.base_of(only, large) == value("10.32.3.0")
    assert blocks.last_of(only, value("10.32.3.0")) == value("10.32.3.255")
    assert blocks.base_of(only, single) == blocks.last_of(only, single) == single


def test_an_address_that_is_a_block_is_assigned_on_request_only() -> None:
    """No search finds it; the gateway and what is excluded is served to nobody."""
    (only,) = settings().pool.sets
    assert only.is_static(value("10.9.0.7"))
    assert value("10.9.0.7") not in only
    assert blocks.parts(only, value("10.9.0.7")) == []
    assert blocks.capacity(only, value("10.9.0.7")) == 1
    assert blocks.capacity(only, value("10.9.0.9")) == 0
    assert blocks.capacity(only, value("10.9.0.1")) == 0
    assert only.size == 16 * 256 - 3


def test_its_geometry() -> None:
    """Blocks of one address are not claimed ahead; the unusable ones are known."""
    of = settings()
    large, single = of.geometries
    assert (large.count, large.size, of.claims_ahead(large)) == (16, 256, True)
    assert (single.count, single.size, of.claims_ahead(single)) == (16, 1, False)
    assert single.unusable == {0, 1, 9, 15}
