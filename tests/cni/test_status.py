"""STATUS: 0 when an ADD could be served, 50 or 51 when not, 7 for a wrong configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fastipam.storage import open_stores

from .plugin import Answer, Call, Held, Make

if TYPE_CHECKING:
    from pathlib import Path

READY = Answer(0, None, "")
SLASH_30 = {"subnet": "10.1.2.0/30"}


def test_ready(call: Call, config: Make, held: Held) -> None:
    """A network that was never used is ready, as often as it is asked."""
    for _ in range(3):
        assert call("STATUS", config(ipam=SLASH_30)) == READY
    assert held() == {}


def test_exhausted(call: Call, config: Make) -> None:
    """50 when no address is left, with the range set; 0 again after a DEL, cool-down or not."""
    made = config(ipam=SLASH_30)
    call("ADD", made)
    answer = call("STATUS", made)
    assert answer.code == 50
    assert "10.1.2.1-10.1.2.2" in answer.message
    call("DEL", made)
    assert call("STATUS", made) == READY
    assert call("ADD", made).status == 0
    assert call("STATUS", made).code == 50


def test_one_family_exhausted(call: Call, config: Make) -> None:
    """50 when one of the range sets has no address left."""
    ranges = [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8::/127", "gateway": "2001:db8::"}]]
    made = config(ipam={"ranges": ranges})
    call("ADD", made)
    answer = call("STATUS", made)
    assert answer.code == 50
    assert "2001:db8::" in answer.message
    assert call("STATUS", config(ipam={"ranges": ranges[:1]})) == READY


def test_more_ranges(call: Call, config: Make) -> None:
    """The ranges that count are those of the configuration that STATUS is called with."""
    call("ADD", config(ipam=SLASH_30))
    more = config(ipam={"ranges": [[SLASH_30, {"subnet": "10.1.2.4/30"}]]})
    assert call("STATUS", more) == READY
    assert call("STATUS", config(ipam=SLASH_30)).code == 50


def test_other_network(call: Call, config: Make) -> None:
    """A full network says nothing about another one."""
    call("ADD", config(name="a", ipam=SLASH_30))
    assert call("STATUS", config(name="b", ipam=SLASH_30)) == READY


@pytest.mark.parametrize("damage", [b"no LMDB file" * 2000, b"\0" * 40_000, b"\xff" * 100])
def test_damaged_store(damage: bytes, call: Call, config: Make, tmp_path: Path) -> None:
    """51 when the store is damaged: who has an address is not known."""
    made = config(ipam=SLASH_30)
    call("ADD", made)
    open_stores.close_all()
    (tmp_path / "store" / "data.mdb").write_bytes(damage)
    answer = call("STATUS", made)
    assert answer.code == 51
    assert str(tmp_path / "store") in answer.message


def test_truncated_store(call: Call, config: Make, tmp_path: Path) -> None:
    """51 when the end of the store is missing, and no crash."""
    made = config(ipam={"subnet": "10.0.0.0/8"})
    for at in range(50):
        call("ADD", made, f"c{at}")
    open_stores.close_all()
    data = (tmp_path / "store" / "data.mdb").read_bytes()
    for size in (len(data) // 2, 8192, 4096, 100):
        (tmp_path / "store" / "data.mdb").write_bytes(data[:size])
        assert call("STATUS", made).code == 51, size
        open_stores.close_all()
    (tmp_path / "store" / "data.mdb").write_bytes(data)
    assert call("STATUS", made) == READY


@pytest.mark.parametrize("path", ["file", "file/below", "/proc/fastipam"])
def test_unwritable_store(path: str, call: Call, config: Make, tmp_path: Path) -> None:
    """51 when the store can be neither opened nor made."""
    (tmp_path / "file").touch()
    made = config(ipam=SLASH_30 | {"dataDir": str(tmp_path / path)})
    assert call("STATUS", made).code == 51


@pytest.mark.parametrize(
    "ipam",
    [{}, {"subnet": "x"}, {"ranges": [[]]}, SLASH_30 | {"cooldown": -1}, SLASH_30 | {"routes": 5}],
)
def test_invalid(ipam: dict[str, Any], call: Call, config: Make) -> None:
    """7 when the configuration could not be served at all."""
    assert call("STATUS", config(ipam=ipam)).code == 7


def test_args_do_not_matter(call: Call, config: Make) -> None:
    """STATUS has no container, and does not look at CNI_ARGS."""
    assert call("STATUS", config(ipam=SLASH_30), args="FOO=1") == READY
