"""STATUS: 0 if ADD can be served or the pool is full; 50, 51 if not; 7: wrong configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fastipam._ledger import WriterLock
from fastipam.storage import open_stores
from fastipam.storage.directory import DATA_FILE

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


UNAVAILABLE = {"statusWhenFull": "unavailable"}


def test_a_full_pool_is_ready(call: Call, config: Make) -> None:
    """A full pool is ready, and a line on standard error names the range set."""
    made = config(ipam=SLASH_30)
    call("ADD", made)
    assert call("ADD", made, "c2").code == 100
    answer = call("STATUS", made)
    assert (answer.status, answer.document) == (0, None)
    assert "10.1.2.1-10.1.2.2" in answer.stderr
    assert "full" in answer.stderr
    assert call("STATUS", config(ipam=SLASH_30 | {"statusWhenFull": "ready"})).status == 0


@pytest.mark.parametrize("value", ["", "Unavailable", "50"])
def test_wrong_status_when_full(value: str, call: Call, config: Make) -> None:
    """Another value of ``statusWhenFull`` is refused with those that are allowed."""
    answer = call("STATUS", config(ipam=SLASH_30 | {"statusWhenFull": value}))
    assert answer.code == 7
    assert answer.message.startswith("ipam.statusWhenFull:")
    assert "unavailable" in answer.message


def test_unavailable_when_full(call: Call, config: Make) -> None:
    """50 when no address is left, if it is asked for; 0 again after a DEL, cool-down or not."""
    made = config(ipam=SLASH_30 | UNAVAILABLE)
    call("ADD", made)
    answer = call("STATUS", made)
    assert answer.code == 50
    assert "10.1.2.1-10.1.2.2" in answer.message
    call("DEL", made)
    assert call("STATUS", made) == READY
    assert call("ADD", made).status == 0
    assert call("STATUS", made).code == 50


def test_one_family_exhausted(call: Call, config: Make) -> None:
    """A network is full when one of its range sets has no address left."""
    ranges = [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8::/127", "gateway": "2001:db8::"}]]
    made = config(ipam=UNAVAILABLE | {"ranges": ranges})
    call("ADD", made)
    answer = call("STATUS", made)
    assert answer.code == 50
    assert "2001:db8::" in answer.message
    assert call("STATUS", config(ipam=UNAVAILABLE | {"ranges": ranges[:1]})) == READY


def test_more_ranges(call: Call, config: Make) -> None:
    """The ranges that count are those of the configuration that STATUS is called with."""
    call("ADD", config(ipam=SLASH_30))
    more = config(ipam=UNAVAILABLE | {"ranges": [[SLASH_30, {"subnet": "10.1.2.4/30"}]]})
    assert call("STATUS", more) == READY
    assert call("STATUS", config(ipam=UNAVAILABLE | SLASH_30)).code == 50


@pytest.mark.parametrize("ipam", [{}, {"ranges": []}])
def test_ranges_from_the_runtime(
    ipam: dict[str, Any], call: Call, config: Make, tmp_path: Path
) -> None:
    """Ready without ranges: the runtime gives them to each ADD, and STATUS has none of them."""
    assert call("STATUS", config(ipam=ipam)) == READY
    runtime = {"ipRanges": [[SLASH_30]]}
    assert call("ADD", config(ipam=ipam, runtimeConfig=runtime)).addresses == ["10.1.2.2/30"]
    assert call("STATUS", config(ipam=ipam)) == READY
    open_stores.close_all()
    (tmp_path / "store" / "data.mdb").write_bytes(b"no LMDB file" * 2000)
    assert call("STATUS", config(ipam=ipam)).code == 51


def test_resolv_conf(call: Call, config: Make, tmp_path: Path) -> None:
    """50 while the file that ADD reads is missing, with its field."""
    made = config(ipam=SLASH_30 | {"resolvConf": str(tmp_path / "resolv.conf")})
    answer = call("STATUS", made)
    assert answer.code == 50
    assert answer.message.startswith("ipam.resolvConf:")
    assert call("ADD", made).code == 7
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.3\n")
    assert call("STATUS", made) == READY


def test_gateway_that_a_pod_has(call: Call, config: Make) -> None:
    """50 while the gateway of the ranges is assigned, which every ADD refuses."""
    slash_29 = {"subnet": "10.1.2.0/29"}
    call("ADD", config(ipam=slash_29 | {"cooldown": 0}))
    moved = config(ipam=slash_29 | {"gateway": "10.1.2.2", "cooldown": 0})
    answer = call("STATUS", moved)
    assert answer.code == 50
    assert answer.message.startswith("ipam.gateway: the gateway 10.1.2.2 of 10.1.2.0/29 is ")
    assert call("ADD", moved, "c2").code == 7
    call("DEL", moved)
    assert call("STATUS", moved) == READY


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
    [{"subnet": "x"}, {"ranges": [[]]}, SLASH_30 | {"cooldown": -1}, SLASH_30 | {"routes": 5}],
)
def test_invalid(ipam: dict[str, Any], call: Call, config: Make) -> None:
    """7 when the configuration could not be served at all."""
    assert call("STATUS", config(ipam=ipam)).code == 7


def test_a_writer_that_does_not_end(call: Call, config: Make, tmp_path: Path) -> None:
    """STATUS does not wait as long as an ADD would for a writer: ready, and a note says why."""
    made = config(ipam={"subnet": "10.1.2.0/24"})
    call("ADD", made)
    with WriterLock(str(tmp_path / "store" / DATA_FILE)):
        assert call("STATUS", made) == READY, "the store is open: nothing is waited for"
        open_stores.close_all()
        answer = call("STATUS", made)
        assert (answer.status, answer.document) == (0, None)
        assert "is being written to" in answer.stderr
    assert call("STATUS", made) == READY


def test_args_do_not_matter(call: Call, config: Make) -> None:
    """STATUS has no container, and does not look at CNI_ARGS."""
    assert call("STATUS", config(ipam=SLASH_30), args="FOO=1") == READY
