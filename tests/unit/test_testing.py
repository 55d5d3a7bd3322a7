"""fastipam.testing: what programs that embed us test with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

import fastipam
from fastipam import cni, processes, testing
from fastipam.storage import open_stores, tables
from fastipam.storage.records.keys import address_key
from fastipam.testing import TemporaryStore
from fastipam.testing.faults import Step

from ..ids import POOL_ID

pytest_plugins = ["fastipam.testing.fixtures"]


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
                lost = address_key(POOL_ID, 4, 0x0A010002)
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


def run(
    command: list[str], request: testing.PluginRequest | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end, with a request if it is a plugin."""
    environ, stdin = request or ({}, b"")
    return subprocess.run(
        command, env=os.environ | environ, input=stdin, capture_output=True, check=False
    )


VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "fd00:9::/64", "gw": "fd00:1::1"}]
DUAL = {
    "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]],
    "routes": ROUTES,
}


@pytest.mark.parametrize("version", VERSIONS)
def test_requests(version: str, fastipam_store: TemporaryStore) -> None:
    """The requests of every version are served from ADD to DEL; CHECK gets the ADD's answer."""
    requests = testing.Requests(fastipam_store.path, version=version, name="n")
    status, result = cni.handle(*requests.add("c1", "net1"))
    assert status == 0
    assert testing.contents(result).addresses == [("10.32.0.2/24", "10.32.0.1")]
    if version >= "0.4.0":
        assert cni.handle(*requests.check("c1", "net1", result=result)) == (0, b"")
        wrong = result.replace(b"10.32.0.2", b"10.32.0.3")
        assert cni.handle(*requests.check("c1", "net1", result=wrong))[0] == 1
    if version == "1.1.0":
        assert cni.handle(*requests.status()) == (0, b"")
        assert cni.handle(*requests.gc([("c1", "net1")])) == (0, b"")
        assert cni.handle(*requests.check("c1", "net1", result=result)) == (0, b"")
    assert version in json.loads(cni.handle(*requests.version())[1])["supportedVersions"]
    assert cni.handle(*requests.delete("c1", "net1", result=result, netns="")) == (0, b"")
    with fastipam_store.open() as ipam:
        assert list(ipam.network("n").leases()) == []


def test_requests_of_a_main_plugin(fastipam_store: TemporaryStore) -> None:
    """The configuration is a main plugin's: its type and keys, and fastipam's below ``ipam``."""
    requests = testing.Requests(
        fastipam_store.path,
        plugin="veth",
        keys={"mtu": 1400},
        ipam={"subnet": "10.7.0.0/24"},
        variables={"CNI_PATH": "/plugins"},
    )
    environ, stdin = requests.add(args="IP=10.7.0.9")
    conf = json.loads(stdin)
    assert (conf["type"], conf["mtu"], conf["ipam"]["subnet"]) == ("veth", 1400, "10.7.0.0/24")
    assert environ["CNI_PATH"] == "/plugins"
    assert testing.contents(cni.handle(environ, stdin)[1]).addresses[0][0] == "10.7.0.9/24"


def test_an_error_is_no_result(fastipam_requests: testing.Requests) -> None:
    """An error object is not taken for an empty result."""
    status, answer = cni.handle(*fastipam_requests.add("_"))
    assert status == 1
    with pytest.raises(AssertionError, match="not the result"):
        testing.contents(answer)
    with pytest.raises(AssertionError, match="not the result"):
        fastipam_requests.check(result=answer)


def test_results_of_all_versions(fastipam_store: TemporaryStore) -> None:
    """The lease of one attachment is the same in every version's shape."""
    results = {}
    for version in VERSIONS:
        requests = testing.Requests(
            fastipam_store.path, version=version, ipam=DUAL | {"repeatAdd": "return"}
        )
        status, results[version] = cni.handle(*requests.add())
        assert status == 0
    for one in results.values():
        for other in results.values():
            testing.assert_same_result(one, other)
    assert testing.contents(results["0.2.0"]) == testing.contents(results["1.1.0"])


def test_results_that_differ() -> None:
    """The difference names the field and both values; an address may be spelled in two ways."""
    new = {
        "cniVersion": "1.0.0",
        "ips": [{"address": "fd00:0::2/64"}, {"address": "10.1.0.2/24", "gateway": "10.1.0.1"}],
        "routes": [{"dst": "0.0.0.0/0", "mtu": 1400}],
    }
    old = {
        "cniVersion": "0.2.0",
        "ip4": {"ip": "10.1.0.2/24", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": "fd00::2/64"},
        "dns": {},
    }
    testing.assert_same_result(new, json.dumps(old))
    middle = {
        "cniVersion": "0.4.0",
        "ips": [
            {"version": "4", "address": "10.1.0.2/24", "gateway": "10.1.0.1"},
            {"version": "6", "address": "fd00::2/64"},
        ],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["10.1.0.53"]},
    }
    with pytest.raises(AssertionError) as raised:
        testing.assert_same_result(new, middle)
    assert str(raised.value).splitlines() == [
        "the results differ",
        "routes: [{'dst': '0.0.0.0/0', 'mtu': 1400}]",
        "        expected [{'dst': '0.0.0.0/0'}]",
        "dns: {}",
        "     expected {'nameservers': ['10.1.0.53']}",
    ]
    with pytest.raises(AssertionError, match=r"addresses.*10\.1\.0\.2.*\n.*10\.1\.0\.3"):
        testing.assert_same_result(
            {"ips": [{"address": "10.1.0.2/24"}], "cniVersion": "1.1.0"},
            {"ips": [{"address": "10.1.0.3/24"}], "cniVersion": "1.1.0"},
        )


def test_netns(
    fastipam_store: TemporaryStore,
    fastipam_requests: testing.Requests,
    fastipam_netns: testing.TemporaryNetns,
) -> None:
    """A sweep spares a lease while its namespace lives, and frees it a minute after its death."""
    assert cni.handle(*fastipam_requests.add("c1", netns=fastipam_netns))[0] == 0
    for _ in range(2):
        assert fastipam_store.sweep() == []
        fastipam_store.clock.advance(61)
    fastipam_netns.die()
    fastipam_netns.die()
    assert fastipam_store.sweep() == []
    fastipam_store.clock.advance(61)
    assert [lease.container_id for lease in fastipam_store.sweep()] == ["c1"]
    assert repr(fastipam_netns) == f"<TemporaryNetns {fastipam_netns.path} is gone>"


def test_netns_of_a_full_pool(fastipam_store: TemporaryStore) -> None:
    """An ADD into a full pool looks anew whenever the test's clock has moved."""
    requests = testing.Requests(fastipam_store.path, ipam={"subnet": "10.1.0.0/30"})
    with testing.temporary_netns() as netns:
        assert cni.handle(*requests.add("c1", netns=netns))[0] == 0
        assert cni.handle(*requests.add("c2"))[0] == 1
        netns.die()
        assert cni.handle(*requests.add("c2"))[0] == 1  # the first look
        fastipam_store.clock.advance(61)
        assert cni.handle(*requests.add("c2"))[0] == 0


def test_real_netns(fastipam_store: TemporaryStore) -> None:
    """A namespace of the kernel: its death is proven, and the next ADD has its address.

    So it is of the next namespace, that a search of a moment ago has still found.
    """
    requests = testing.Requests(fastipam_store.path, ipam={"subnet": "10.1.0.0/30"})
    with ExitStack() as stack:
        try:
            first, second = (
                stack.enter_context(testing.temporary_netns(real=True)) for _ in range(2)
            )
        except OSError as error:
            pytest.skip(str(error))
        assert os.stat(first).st_ino != os.stat("/proc/self/ns/net").st_ino
        assert cni.handle(*requests.add("c1", netns=first))[0] == 0
        assert cni.handle(*requests.add("c2", netns=second))[0] == 1
        first.die()
        assert not os.path.exists(first)
        search = processes.search()
        if search.blind:
            pytest.skip(search.blind)
        assert cni.handle(*requests.add("c2", netns=second))[0] == 0
        second.die()
        assert cni.handle(*requests.add("c3"))[0] == 0


def test_the_store_has_the_clock_whoever_opens_it(fastipam_store: TemporaryStore) -> None:
    """``fastipam.open`` and ``handle`` use the test's clock and boot without an open Ipam."""
    requests = testing.Requests(fastipam_store.path)
    assert cni.handle(*requests.add("c1"))[0] == 0
    with fastipam.open(fastipam_store.path) as ipam:
        (lease,) = ipam.network("test").leases()
    assert 0 <= fastipam_store.clock.now_ns - lease.allocated_ns < 10**9
    fastipam_store.reboot()
    for name in ("c2", "c3"):
        assert cni.handle(*requests.add(name))[0] == 0
    with fastipam.open(fastipam_store.path) as ipam:
        assert [lease.container_id for lease in ipam.network("test").leases()] == ["c2", "c3"]


@pytest.mark.parametrize("years", [-30, 0, 30])
def test_gc_by_the_clock(years: int, fastipam_store: TemporaryStore) -> None:
    """GC frees what is older than it by the test's clock, and spares what is younger."""
    clock = fastipam_store.clock
    clock.advance(years * 365 * 86400)
    requests = testing.Requests(fastipam_store.path)
    assert cni.handle(*requests.add("old"))[0] == 0
    began_ns = clock()
    assert cni.handle(*requests.add("young"))[0] == 0
    assert cni.handle(*requests.gc(), started_ns=began_ns) == (0, b"")
    with fastipam_store.open() as ipam:
        assert [one.container_id for one in ipam.network("test").leases()] == ["young"]
        assert cni.handle(*requests.gc()) == (0, b"")
        assert list(ipam.network("test").leases()) == []


@pytest.mark.parametrize("years", [-30, 30])
def test_gc_of_a_main_plugin(years: int, fastipam_store: TemporaryStore) -> None:
    """A plugin that delegates in process frees by the test's clock, too, what nobody lists."""
    fastipam_store.clock.advance(years * 365 * 86400)
    requests = testing.Requests(fastipam_store.path)
    cni.Request.parse(*requests.add("c1")).delegate()
    cni.Request.parse(*requests.gc()).delegate()
    with fastipam_store.open() as ipam:
        assert list(ipam.network("test").leases()) == []


@pytest.mark.parametrize("years", [-30, 30])
def test_clock_in_a_subprocess(
    years: int, fastipam_store: TemporaryStore, fastipam_requests: testing.Requests, tmp_path: Path
) -> None:
    """An installed plugin uses the test's clock, also after it was moved, and so does its GC."""
    clock = fastipam_store.clock
    plugin = fastipam_store.install(tmp_path / "fastipam")
    clock.advance(years * 365 * 86400)
    with fastipam_store.open() as ipam:
        network = ipam.network("test", "10.32.0.0/24")
        for name in ("c1", "c2"):
            before_ns = clock.now_ns
            status, result = fastipam_requests.add(name).run(plugin)
            assert status == 0
            address = testing.contents(result).addresses[0][0].partition("/")[0]
            lease = network.lookup(address)
            assert lease is not None
            assert before_ns <= lease.allocated_ns < clock.now_ns <= before_ns + 10**9
            clock.advance(100)
        assert fastipam_requests.gc([("c2", "eth0")]).run(plugin) == (0, b"")
        assert [one.container_id for one in network.leases()] == ["c2"]


def test_boot_in_a_subprocess(
    fastipam_store: TemporaryStore, fastipam_requests: testing.Requests, tmp_path: Path
) -> None:
    """A plugin that was installed before a reboot sees it, once."""
    plugin = fastipam_store.install(tmp_path / "fastipam")
    assert fastipam_requests.add("c1").run(plugin)[0] == 0
    fastipam_store.reboot()
    assert fastipam_requests.add("c2").run(plugin)[0] == 0
    assert fastipam_requests.add("c3").run(plugin)[0] == 0
    with fastipam_store.open() as ipam:
        assert [one.container_id for one in ipam.network("test").leases()] == ["c2", "c3"]


SCRIPT = """
import sys
import fastipam, beside
with fastipam.open(sys.argv[1]) as ipam:
    ipam.network("n", "10.1.0.0/24").allocate(beside.NAME)
"""


def test_a_program_of_ones_own(fastipam_store: TemporaryStore, tmp_path: Path) -> None:
    """A script and a module run as Python runs them, with the test's clock; so does the CLI."""
    (tmp_path / "beside.py").write_text("NAME = 'c1'")
    (tmp_path / "program.py").write_text(SCRIPT)
    path = str(fastipam_store.path)
    done = run(fastipam_store.command(str(tmp_path / "program.py"), path))
    assert (done.returncode, done.stderr) == (0, b"")
    with fastipam_store.open() as ipam:
        (lease,) = ipam.network("n").leases()
        assert lease.allocated_ns < fastipam_store.clock.now_ns < time.time_ns() - 10**9
    listed = run(fastipam_store.command("fastipam", "list", "--data-dir", path, "--json"))
    assert json.loads(listed.stdout)
    module = run(fastipam_store.command("-m", "json.tool", "--help"))
    assert b"json.tool" in module.stdout


@pytest.mark.parametrize(
    ("step", "assigned"), [("begin", 0), ("before-commit", 0), ("after-commit", 1)]
)
def test_killed(
    step: Step, assigned: int, fastipam_store: TemporaryStore, fastipam_requests: testing.Requests
) -> None:
    """A plugin that is killed at a step of its ADD has answered nothing; DEL cleans up."""
    with fastipam_store.open() as ipam:
        network = ipam.network("test", "10.32.0.0/24")
        done = run(fastipam_store.command("fastipam", kill=step), fastipam_requests.add())
        assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")
        assert len(list(network.leases())) == assigned
        plugin = fastipam_store.command("fastipam")
        assert fastipam_requests.delete().run(plugin) == (0, b"")
        assert list(network.leases()) == []


def test_killed_within_a_longer_program(fastipam_store: TemporaryStore, tmp_path: Path) -> None:
    """``kill_call`` is the number of the change: what came before it stands."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, fastipam\n"
        "network = fastipam.open(sys.argv[1]).network('n', '10.1.0.0/24')\n"
        "for number in range(5): network.allocate(f'c{number}')\n"
    )
    command = fastipam_store.command(
        str(program), str(fastipam_store.path), kill="before-commit", kill_call=3
    )
    assert run(command).returncode == -signal.SIGKILL
    with fastipam_store.open() as ipam:
        assert [one.container_id for one in ipam.network("n").leases()] == ["c0", "c1"]


def test_a_wrong_step_is_refused(fastipam_store: TemporaryStore) -> None:
    """A step that does not exist would never be reached, and the test would show nothing."""
    with pytest.raises(fastipam.ConfigError, match="after-comit"):
        fastipam_store.command("fastipam", kill="after-comit")  # type: ignore[arg-type]


def test_failing_at_a_call(fastipam_ipam: fastipam.Ipam) -> None:
    """Only the change of that number fails, and it changes nothing."""
    network = fastipam_ipam.network("n", "10.1.0.0/24")
    held = []
    with testing.failing(fastipam_ipam, fastipam.StoreFull("no space is left"), call=2):
        for name in ("c1", "c2", "c3"):
            try:
                network.allocate(name)
            except fastipam.StoreFull:
                assert network.stats().assigned == 1
                continue
            held.append(name)
    assert held == [one.container_id for one in network.leases()] == ["c1", "c3"]


def test_failing_after_the_commit(
    fastipam_ipam: fastipam.Ipam, fastipam_requests: testing.Requests
) -> None:
    """Everything happened, and the caller gets the error; so it is with ``handle``."""
    network = fastipam_ipam.network("test", "10.32.0.0/24")
    lost = fastipam.StoreUnavailable("the disk has gone")
    with testing.failing(fastipam_ipam, lost, committed=True):
        with pytest.raises(fastipam.StoreUnavailable, match="gone"):
            network.allocate("c1")
        status, answer = cni.handle(*fastipam_requests.add("c2"))
        assert (status, json.loads(answer)["code"]) == (1, 5)
        assert cni.handle(*fastipam_requests.status()) == (0, b"")
    assert [one.container_id for one in network.leases()] == ["c1", "c2"]


def test_a_block_is_one_change(fastipam_ipam: fastipam.Ipam) -> None:
    """A block counts when it begins: one of before the fault ends as if there was none."""
    network = fastipam_ipam.network("n", "10.1.0.0/24")
    full = fastipam.StoreFull("no space is left")
    before = ExitStack()
    before.enter_context(fastipam_ipam.transaction())
    with testing.failing(fastipam_ipam, full, committed=True):
        before.close()
    with testing.failing(fastipam_ipam, full, call=2):
        with fastipam_ipam.transaction():
            pass
        with pytest.raises(fastipam.StoreFull):
            network.allocate("c1")
        network.allocate("c2")
    assert [one.container_id for one in network.leases()] == ["c2"]


def test_failing_leaves_other_stores_alone(fastipam_ipam: fastipam.Ipam) -> None:
    """A fault is of one store, and of its block."""
    with (
        testing.temporary_network() as other,
        testing.failing(fastipam_ipam, fastipam.StoreFull("no space is left")),
    ):
        other.allocate("c1")
        assert other.stats().assigned == 1
    fastipam_ipam.network("n", "10.1.0.0/24").allocate("c1")


def test_status_of_a_failing_store(
    fastipam_ipam: fastipam.Ipam, fastipam_requests: testing.Requests
) -> None:
    """STATUS says what is wrong, although reading works, as it does of a disk that is full."""
    full = fastipam.StoreFull("no space is left", hint="free some")
    with testing.failing(fastipam_ipam, full):
        status, answer = cni.handle(*fastipam_requests.status())
        document = json.loads(answer)
        assert (status, document["code"], document["msg"]) == (1, 51, "no space is left")
        assert document["details"] == "free some"
    assert cni.handle(*fastipam_requests.status()) == (0, b"")


def test_the_plugin_knows_nothing_of_tests() -> None:
    """No process of the plugin imports this package, so nobody can move its clock."""
    code = (
        "import sys, fastipam.cni.handler, fastipam.cni.main, fastipam.agent.main\n"
        "sys.exit(any(name.startswith('fastipam.testing') for name in sys.modules))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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

def test_plugin(fastipam_requests, fastipam_network, fastipam_netns, fastipam_store):
    assert fastipam.cni.handle(*fastipam_requests.add("c1", netns=fastipam_netns))[0] == 0
    fastipam_netns.die()
    assert fastipam_network.stats().assigned == 1
"""


def test_fixtures(tmp_path: Path) -> None:
    """The fixtures work in a test suite that knows nothing but the line in its conftest.py."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "3 passed" in done.stdout, done.stdout + done.stderr
