"""fastipam.testing: what programs that embed us test with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fastipam
from fastipam import testing
from fastipam.storage import open_stores, tables
from fastipam.storage.records.keys import address_key


def test_network() -> None:
    """A network of its own: it assigns, and its directory is gone afterwards."""
    with testing.temporary_network("10.1.0.0/29") as network:
        assert str(network.allocate("c1").address) == "10.1.0.2/29"
        path = Path(network._store.path)
        assert path.is_dir()
    assert not path.exists()


def test_clock() -> None:
    """A cool-down passes when the test says so, and not before."""
    clock = testing.Clock()
    with testing.temporary_network("10.1.0.0/29", clock=clock, cooldown_s=30) as network:
        network.allocate("c1")
        network.release("c1")
        clock.advance(29)
        assert network.stats().cooling == 1
        assert str(network.allocate("c2").address.ip) == "10.1.0.3"
        clock.advance(2)
        network.allocate("c3")  # takes what has cooled down out of the queue
        assert network.stats().cooling == 0


def test_reopened() -> None:
    """The store outlives what opened it, as a data directory does, until the block ends."""
    with testing.temporary_store() as store:
        with store.open() as ipam:
            ipam.network("n", "10.1.0.0/24").allocate("c1")
        with fastipam.open(store.path) as ipam:
            assert ipam.durability == "relaxed"
            assert ipam.network("n").lookup("10.1.0.2") is not None


def test_reboot() -> None:
    """After reboot() the leases of the boot before are given back; without it they stay."""
    with testing.temporary_store() as store:
        with store.open() as ipam:
            ipam.network("n", "10.1.0.0/24").allocate("c1")
        with store.open() as ipam:
            assert ipam.network("n").stats().assigned == 1
        store.reboot()
        with store.open() as ipam:
            ipam.network("n").allocate("c2")
            assert [lease.container_id for lease in ipam.network("n").leases()] == ["c2"]


def test_a_damaged_store_is_found() -> None:
    """A block that leaves a store that contradicts itself ends with the verifier's findings."""

    def damage() -> None:
        with testing.temporary_store() as store, store.open() as ipam:
            ipam.network("n", "10.1.0.0/24").allocate("c1")
            with ipam.store.write() as txn:
                lost = address_key(1, 4, 0x0A010002)
                assert tables.LEASES.delete(txn, lost)

    with pytest.raises(AssertionError, match=r"10\.1\.0\.2"):
        damage()


def test_an_exception_is_not_hidden() -> None:
    """What the block raises comes out, whatever the store looks like; the directory is removed."""
    paths = []

    def fail() -> None:
        with testing.temporary_store() as store:
            paths.append(store.path)
            (store.path / "data.mdb").write_text("this is no store")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not paths[0].parent.exists()


def test_handled() -> None:
    """A store that only ``handle`` has used is verified, and is as relaxed as the others."""
    with testing.temporary_store() as store:
        ipam = {"type": "fastipam", "subnet": "10.1.0.0/24", "dataDir": str(store.path)}
        conf = {"cniVersion": "1.1.0", "name": "n", "ipam": ipam}
        environ = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0"}
        environ |= {"CNI_NETNS": "/run/netns/none", "CNI_PATH": "/none"}
        assert fastipam.cni.handle(environ, json.dumps(conf).encode())[0] == 0
        with store.open() as opened:
            assert opened.durability == "relaxed"
            assert opened.network("n").stats().assigned == 1
        kept = next(one for one in open_stores.all_open() if one.path == str(store.path))
        with kept.read():
            pass
    assert not open_stores.is_open(str(store.path))
    with pytest.raises(fastipam.StoreClosed):
        kept.read().__enter__()


@pytest.mark.parametrize("leave", [0, 2])
def test_exhaust(leave: int) -> None:
    """All free addresses but those to be left are taken; the one behind them is refused."""
    with testing.temporary_network("10.1.0.0/28", exclude=["10.1.0.8/30"]) as network:
        network.allocate("mine")
        assert testing.exhaust(network, leave=leave) == 13 - 4 - 1 - leave
        for number in range(leave):
            network.allocate(f"more-{number}")
        with pytest.raises(fastipam.PoolExhausted):
            network.allocate("late")


def test_exhaust_dual_stack() -> None:
    """The smaller of two families decides; what is too large is refused with its size."""
    with testing.temporary_network(["10.1.0.0/29", "2001:db8::/64"]) as network:
        assert testing.exhaust(network) == 5
    with (
        testing.temporary_network("2001:db8::/64") as network,
        pytest.raises(fastipam.ConfigError, match="too many"),
    ):
        testing.exhaust(network)


def test_failing() -> None:
    """Changes raise the error that was asked for, reading works; afterwards all is as before."""
    with testing.temporary_store() as store, store.open() as ipam:
        network = ipam.network("n", "10.1.0.0/24")
        network.allocate("c1")
        full = fastipam.StoreFull("no space is left")
        with testing.failing(ipam, full):
            with pytest.raises(fastipam.StoreFull, match="no space"):
                network.allocate("c2")
            with pytest.raises(fastipam.StoreFull), ipam.transaction():
                pass
            assert network.stats().assigned == 1
            conf = {
                "cniVersion": "1.1.0",
                "name": "n",
                "ipam": {"type": "fastipam", "subnet": "10.1.0.0/24", "dataDir": str(store.path)},
            }
            environ = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c3", "CNI_IFNAME": "eth0"}
            environ |= {"CNI_NETNS": "/run/netns/none", "CNI_PATH": "/none"}
            status, answer = fastipam.cni.handle(environ, json.dumps(conf).encode())
            assert (status, json.loads(answer)["code"]) == (1, 5)
        network.allocate("c2")


def test_failing_within_failing() -> None:
    """The inner block's error counts until it ends, then the outer one's, then none."""
    with testing.temporary_network("10.1.0.0/24") as network:
        ipam = fastipam.open(network._store.path)
        with ipam, testing.failing(ipam, fastipam.StoreFull("full")):
            with (
                testing.failing(ipam, fastipam.StoreBusy("busy")),
                pytest.raises(fastipam.StoreBusy),
            ):
                network.allocate("c1")
            with pytest.raises(fastipam.StoreFull):
                network.allocate("c1")
        network.allocate("c1")


def test_what_a_failing_test_shows() -> None:
    """The objects say what they are: pytest prints them beside an assertion that fails."""
    clock = testing.Clock(5 * 10**9)
    clock.advance(2)
    assert repr(clock) == "Clock(7000000000)"
    with testing.temporary_store(clock) as store:
        assert repr(store) == f"<TemporaryStore {store.path} Clock(7000000000)>"


CONFTEST = 'pytest_plugins = ["fastipam.testing.fixtures"]\n'
SUITE = """
import fastipam

def test_cooldown(fastipam_ipam, fastipam_clock, fastipam_store):
    network = fastipam_ipam.network("n", "10.1.0.0/24", cooldown_s=5)
    network.allocate("c1")
    network.release("c1")
    fastipam_clock.advance(6)
    network.allocate("c2")
    assert network.stats().cooling == 0
    assert fastipam_store.path.is_dir()

def test_network(fastipam_network, fastipam_ipam):
    fastipam_network.allocate("c1")
    assert fastipam_ipam.network("test").stats().assigned == 1
"""


def test_fixtures(tmp_path: Path) -> None:
    """The fixtures work in a test suite that knows nothing but the line in its conftest.py."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
