"""A node that lost its store looks into its network namespaces before it assigns anything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastipam import namespaces, processes, rtnetlink
from fastipam.allocation import blocks
from fastipam.cluster.deadline import Deadline
from fastipam.cluster.node import recovery
from fastipam.errors import AddressInUse
from fastipam.lease import FOUND, Requester
from fastipam.namespaces import Netns
from fastipam.sweep import release_dead
from fastipam.verify import verify
from tests import rendering
from tests.cluster.memory import MemoryEngine
from tests.deploy.support import DROP_IN, read_unit
from tests.e2e.tools import lacking, require_root

from .nodes import Machine, assert_settled, init


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace with a dummy of a pod in it: addresses on its loopback."""
    require_root()
    name = f"fastipam-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for address in ("10.40.6.77/20", "192.0.2.9/24", "fd00::9/64"):
            _add_address(name, address)
        yield f"/run/netns/{name}"
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def _add_address(namespace: str, address: str) -> None:
    command = ["ip", "-n", namespace, "address", "add", address, "dev", "lo"]
    subprocess.run(command, check=True)


def test_addresses_of_a_namespace(namespace: str) -> None:
    """Every address of both families is read, and this process stays where it is."""
    before = os.stat("/proc/self/ns/net").st_ino
    found = recovery.addresses_in(namespace)
    assert (4, 0x0A28064D) in found
    assert (6, (0xFD00 << 112) | 9) in found
    assert os.stat("/proc/self/ns/net").st_ino == before


def test_namespaces_are_found(namespace: str) -> None:
    """A mounted namespace is found by its file; this process's own is left out."""
    found, blind, _ = namespaces.find()
    assert blind == ""
    assert os.stat(namespace).st_ino in found
    assert os.stat("/proc/self/ns/net").st_ino not in found


def test_lost_disk(namespace: str, tmp_path: Path) -> None:
    """The addresses of running pods are entered before the rest of a found block is assigned."""
    # Only this test has these: recovery sees the namespaces of tests that run beside it.
    for address in ("10.32.5.77/20", "10.32.5.78/20"):
        _add_address(Path(namespace).name, address)
    engine = MemoryEngine()
    init(engine)
    old = Machine(tmp_path / "1", "a", engine)
    node = old.joined()
    while (4, 0x0A200500) not in old.active():
        assert node.claim(node.settings.geometries[0], 1, Deadline(5))
    new = Machine(tmp_path / "2", "a", engine)
    node = new.node()
    found = node.join(Deadline(5), agent=True)
    assert sorted(found) == sorted(old.active())
    # A directory of its own: other tests delete namespaces in theirs meanwhile.
    (tmp_path / "netns").mkdir()
    (tmp_path / "netns" / "own").symlink_to(namespace)
    entered = recovery.recover(node, found, (str(tmp_path / "netns"),)).entered
    assert {(4, 0x0A20054D), (4, 0x0A20054E)} <= set(entered)
    assert_settled(engine, new)
    lease = new.network.lookup("10.32.5.77")
    assert lease is not None
    assert lease.netns == str(tmp_path / "netns" / "own")
    with pytest.raises(AddressInUse):
        new.network.allocate("c1", addresses=["10.32.5.78"])
    count = new.network.stats().free
    given = {new.network.allocate(f"p{number}").value for number in range(count)}
    assert not given & {0x0A20054D, 0x0A20054E}


def test_unreadable_namespace(tmp_path: Path) -> None:
    """A namespace that cannot be entered is an error, not an empty one."""
    (tmp_path / "no-namespace").touch()
    with pytest.raises(recovery.NamespacesUnreadable):
        recovery.addresses_in(str(tmp_path / "no-namespace"))


def test_a_process_that_has_moved(namespace: str) -> None:
    """The addresses of a namespace are not read from another one, to which the path leads now."""
    inode = os.stat(namespace).st_ino
    assert recovery.addresses_in(namespace, inode) == recovery.addresses_in(namespace)
    with pytest.raises(FileNotFoundError, match="is another namespace now"):
        recovery.addresses_in("/proc/self/ns/net", inode)


def test_leftover_in_the_directory(tmp_path: Path) -> None:
    """A file on which no namespace is mounted is passed over by who sees every mount of the node.

    To anybody else it may be a namespace that is mounted only elsewhere: that stops the search.
    """
    require_root()
    (tmp_path / "left-over").touch()
    recovery._look_everywhere((str(tmp_path),))
    own_pids = ["unshare", "--pid", "--fork", "--mount-proc"]
    done = _search(("sys_ptrace", "sys_admin"), str(tmp_path), own_pids)
    assert done.returncode == 1
    assert "Remove the file if it is a leftover" in done.stderr


@contextmanager
def pod(*addresses: str, user: bool = False) -> Iterator[str]:
    """A process in a network namespace of its own, or of an unprivileged user's; yield its path."""
    require_root()
    lines = [f"ip address add {one} dev lo" for one in addresses]
    script = "; ".join(("ip link set lo up", *lines, "echo ready", "read line"))
    command = ["unshare", *(["--user", "--map-root-user"] if user else []), "--net"]
    if user:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    with subprocess.Popen(
        [*command, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            lacking("an unprivileged user may not make a namespace here")
        try:
            yield f"/proc/{process.pid}/ns/net"
        finally:
            assert process.stdin is not None
            process.stdin.close()


def test_a_users_own_namespace(tmp_path: Path) -> None:
    """What an unprivileged user puts into a namespace of his is no pod's, and stops nothing."""
    machine, found = _lost_disk(tmp_path)
    with pod("10.32.5.77/20", user=True) as stranger, pod("10.32.5.78/20"):
        inode = os.stat(stranger).st_ino
        assert inode not in namespaces.find()[0]
        done = recovery.recover(machine.node(), found, ())
    assert (4, 0x0A20054D) not in done.entered
    assert (4, 0x0A20054E) in done.entered
    machine.network.allocate("c1", addresses=["10.32.5.77"])


# A process whose first thread has ended, and whose second runs in a network namespace of its own.
_THREAD = """
import ctypes, os, subprocess, sys, threading
libc = ctypes.CDLL(None)
def live():
    assert libc.unshare(0x40000000) == 0
    subprocess.run("ip link set lo up; ip address add 10.32.5.87/20 dev lo", shell=True, check=True)
    print("ready", flush=True)
    sys.stdin.readline()
    os._exit(0)
threading.Thread(target=live).start()
libc.pthread_exit(None)
"""


def test_a_namespace_of_a_thread(tmp_path: Path) -> None:
    """A namespace in which only a thread runs is looked into: the process has none to show."""
    require_root()
    machine, found = _lost_disk(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", _THREAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        done = recovery.recover(machine.node(), found, ())
        process.stdin.close()
    assert (4, 0x0A200557) in done.entered


def test_a_namespace_that_is_mounted_elsewhere(tmp_path: Path) -> None:
    """A namespace in which nothing runs, mounted in another mount namespace, is looked into."""
    require_root()
    machine, found = _lost_disk(tmp_path)
    script = (
        f"mount -t tmpfs none {tmp_path}; touch {tmp_path}/pod; "
        f"unshare --net={tmp_path}/pod sh -c "
        "'ip link set lo up; ip address add 10.32.5.88/20 dev lo'; echo ready; read line"
    )
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        done = recovery.recover(machine.node(), found, ())
        process.stdin.close()
    assert (4, 0x0A200558) in done.entered


def test_a_mount_below_another_mount(tmp_path: Path) -> None:
    """A namespace that no path leads to, because something is mounted over it, stops nothing."""
    require_root()
    machine, found = _lost_disk(tmp_path)
    script = (
        f"mount -t tmpfs none {tmp_path}; touch {tmp_path}/pod; unshare --net={tmp_path}/pod true; "
        f"mount -t tmpfs none {tmp_path}; touch {tmp_path}/pod; echo ready; read line"
    )
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        recovery.recover(machine.node(), found, ())
        process.stdin.close()
    machine.network.allocate("c1")


def test_an_address_in_two_namespaces(tmp_path: Path) -> None:
    """The conflict is reported, nobody gets the address, and the others are assigned."""
    machine, found = _lost_disk(tmp_path)
    with pod("10.32.5.80/20") as one, pod("10.32.5.80/20") as other:
        done = recovery.recover(machine.node(), found, ())
    (remark,) = [each for each in done.remarks if each.startswith("10.32.5.80 ")]
    assert "2 network namespaces" in remark
    assert one in remark
    assert other in remark
    with pytest.raises(AddressInUse):
        machine.network.allocate("c1", addresses=["10.32.5.80"])
    machine.network.allocate("c2")


def test_an_address_on_two_interfaces(namespace: str, tmp_path: Path) -> None:
    """An address that one namespace has twice is one lease, and no conflict."""
    machine, found = _lost_disk(tmp_path)
    name = Path(namespace).name
    subprocess.run(["ip", "-n", name, "link", "add", "other", "type", "veth"], check=True)
    for device in ("lo", "other"):
        command = ["ip", "-n", name, "address", "add", "10.32.5.89/20", "dev", device]
        subprocess.run(command, check=True)
    done = recovery.recover(machine.node(), found)
    assert (4, 0x0A200559) in done.entered
    assert not [one for one in done.remarks if one.startswith("10.32.5.89 ")]


def _lost_disk(path: Path) -> tuple[Machine, list[tuple[int, int]]]:
    """A node that has lost the store in which 10.32.5.0/24 was its own; with the found blocks."""
    engine = MemoryEngine()
    init(engine)
    old = Machine(path / "old", "a", engine)
    node = old.joined()
    while (4, 0x0A200500) not in old.active():
        assert node.claim(node.settings.geometries[0], 1, Deadline(5))
    new = Machine(path / "new", "a", engine)
    return new, new.node().join(Deadline(5), agent=True)


def _restored(machine: Machine) -> list[tuple[int, int]]:
    """Have a node take its store for a restored one; return the found blocks."""
    with machine.store.write() as txn:
        blocks.distrust(txn, blocks.incarnations(txn))
    return machine.node().join(Deadline(5), agent=True)


def test_restored_store_names_others(tmp_path: Path) -> None:
    """Running pods are adopted, whoever an older copy names: leases, reservations, nobody."""
    machine, found = _lost_disk(tmp_path)
    machine.node().confirm_found(found)
    net = machine.network
    for name, address in (("old-1", "10.32.5.81"), ("old-2", "10.32.5.82")):
        net.allocate(name, addresses=[address])
    net.reserve("10.32.5.83", owner="default/web-0", reason="by hand")
    found = _restored(machine)
    with pod("10.32.5.81/20", "10.32.5.83/20", "10.32.5.84/20") as living:
        done = recovery.recover(machine.node(), found, ())
        inode = os.stat(living).st_ino
    for address in ("10.32.5.81", "10.32.5.83", "10.32.5.84"):
        lease = net.lookup(address)
        assert lease is not None
        assert (lease.netns, lease.inode) == (living, inode)
    assert [one for one in done.remarks if one.startswith("10.32.5.81 ") and "old-1" in one]
    assert not net.release("old-1")
    assert [str(one) for one in net.release("old-2")] == ["10.32.5.82"]
    assert verify(machine.store) == []
    net.allocate("new")
    assert recovery.recover(machine.node(), _restored(machine), ()).remarks == []


def test_restored_store_names_the_running_pod(namespace: str, tmp_path: Path) -> None:
    """A lease that names the namespace in which its address runs stays its container's."""
    machine, found = _lost_disk(tmp_path)
    machine.node().confirm_found(found)
    (tmp_path / "netns").mkdir()
    (tmp_path / "netns" / "own").symlink_to(namespace)
    _add_address(Path(namespace).name, "10.32.5.85/20")
    inode = os.stat(namespace).st_ino
    machine.network.allocate("c1", addresses=["10.32.5.85"], netns=Netns(namespace, inode=inode))
    found = _restored(machine)
    done = recovery.recover(machine.node(), found, (str(tmp_path / "netns"),))
    assert (4, 0x0A200555) in done.entered
    assert [str(one) for one in machine.network.release("c1")] == ["10.32.5.85"]


def test_one_of_two_addresses_of_an_owner(tmp_path: Path) -> None:
    """When one address of an owner runs elsewhere, it keeps the other one."""
    engine = MemoryEngine()
    pools = {"pool": ["10.32.0.0/20", "fd00:32::/108"], "blockSize": [24, 120]}
    init(engine, **pools)
    machine = Machine(tmp_path, "a", engine, **pools)  # type: ignore[arg-type]
    node = machine.joined()
    for one in node.settings.geometries:
        assert node.claim(one, 1, Deadline(5))
    lease = machine.network.allocate("c1")
    other = next(one for one in lease.siblings if one.family == 6)
    found = _restored(machine)
    with pod(f"{lease.address.ip}/20"):
        recovery.recover(machine.node(), found, ())
    assert [int(one) for one in machine.network.release("c1")] == [other.value]
    assert verify(machine.store) == []


def _is_swept(machine: Machine, address: str) -> bool:
    """Sweep twice; return whether the lease of an address was released."""
    for _ in range(2):
        release_dead(machine.network, grace_s=0)
    return machine.network.lookup(address) is None


@pytest.fixture
def fresh_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """No search for namespaces is reused for a second."""
    monkeypatch.setattr(processes, "MAX_AGE_S", 0.0)


@pytest.mark.usefixtures("fresh_searches")
def test_a_found_address_whose_inode_is_reused(tmp_path: Path) -> None:
    """A found lease is released when a new pod's namespace has its inode, and not its address."""
    machine, found = _lost_disk(tmp_path)
    recovery.recover(machine.node(), found, ())
    with pod("10.32.5.95/20", "fd00::9/64") as living:
        inode = os.stat(living).st_ino
        for path, value in (("/run/netns/gone", 0x0A20055E), ("/proc/0/ns/net", 0x0A20055F)):
            netns = Netns(path, inode, namespaces.mount_namespace())
            owner = Requester(f"{FOUND}{inode}-{path.replace('/', '-')}", "", netns)
            machine.node().share.adopt_running(owner, 4, value)
        machine.network.allocate("pod", netns=Netns.of(living))
        assert _is_swept(machine, "10.32.5.94")
        assert not _is_swept(machine, "10.32.5.95")  # it is in use, whatever the path says
    assert _is_swept(machine, "10.32.5.95")
    assert verify(machine.store) == []


@pytest.mark.usefixtures("fresh_searches")
def test_a_found_address_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A found lease stays while its inode exists and the addresses there cannot be read."""
    machine, found = _lost_disk(tmp_path)
    recovery.recover(machine.node(), found, ())

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with pod("10.32.5.97/20") as living:
        netns = Netns("/run/netns/gone", os.stat(living).st_ino, namespaces.mount_namespace())
        owner = Requester(f"{FOUND}x", "", netns)
        machine.node().share.adopt_running(owner, 4, 0x0A200560)
        with monkeypatch.context() as patch:
            patch.setattr(rtnetlink, "addresses_in", refuse)
            assert not _is_swept(machine, "10.32.5.96")
        assert _is_swept(machine, "10.32.5.96")


# What a process needs to look into namespaces, which the DaemonSet and the unit give it.
_SEARCH = """
import sys
from fastipam.cluster.node import recovery
try:
    seen = recovery._look_everywhere(sys.argv[1:])
except recovery.NamespacesUnreadable as error:
    sys.exit(str(error))
print(*{inode for netns, _ in seen for inode in [netns.inode]})
"""


def _search(
    capabilities: Sequence[str], directory: str = "", before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    bounds = ",".join(("-all", *(f"+{one}" for one in capabilities)))
    bounded = ["setpriv", f"--bounding-set={bounds}", "--inh-caps=-all"]
    program = [sys.executable, "-c", _SEARCH, *([directory] if directory else [])]
    return subprocess.run(
        [*before, *bounded, *program],
        capture_output=True,
        text=True,
        check=False,
    )


def test_capabilities() -> None:
    """The DaemonSet and the drop-in give the search all that it needs; with less it says so."""
    (daemonset,) = rendering.documents("DaemonSet")
    (agent,) = daemonset["spec"]["template"]["spec"]["containers"]
    added = agent["securityContext"]["capabilities"]["add"]
    given = [one.lower() for one in added if one != "NET_ADMIN"]  # that is for routes
    drop_in = read_unit(DROP_IN)
    (unit,) = drop_in["CapabilityBoundingSet"]
    assert sorted(unit.lower().replace("cap_", "").split()) == sorted(given)
    assert drop_in["RestrictNamespaces"] == ["net"]
    assert drop_in["RestrictAddressFamilies"] == ["AF_NETLINK"]
    with pod("10.32.5.86/20") as living:
        inode = str(os.stat(living).st_ino)
        done = _search(given)
        assert done.returncode == 0, done.stderr
        assert inode in done.stdout.split()
        for one in given:
            less = _search([each for each in given if each != one])
            assert less.returncode == 1, one
            assert "it needs root with the capabilities" in less.stderr
