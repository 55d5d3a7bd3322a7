"""GC frees exactly what the runtime does not list, and never an ADD that it cannot know of."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam import cni
from fastipam.cni import main
from fastipam.lease import Requester
from fastipam.network.gc import Age
from fastipam.storage import open_stores

from ..options import options
from .plugin import Answer, Call, Held, Make, environment

if TYPE_CHECKING:
    from pathlib import Path

    from ..options import options
from .plugin import Plugin

VALID = "cni.dev/valid-attachments"
SUBNET = {"subnet": "10.1.0.0/16"}
DONE = Answer(0, None, "")
ADDS = 1000 if options.long else 100  # of each thread


def _attached(*owners: tuple[str, str]) -> dict[str, Any]:
    return {VALID: [{"containerID": one, "ifname": ifname} for one, ifname in owners]}


def test_frees_what_is_not_listed(call: Call, config: Make, held: Held) -> None:
    """An attachment is a container and an interface: both have to be listed, together."""
    made = config(ipam=SUBNET)
    owners = [("c1", "eth0"), ("c1", "eth1"), ("c2", "eth0"), ("c3", "eth1")]
    for container_id, ifname in owners:
        call("ADD", made, container_id, ifname=ifname)
    listed = _attached(("c1", "eth1"), ("c2", "eth0"), ("c3", "eth0"), ("gone", "eth0"))
    assert call("GC", made | listed) == DONE
    assert sorted(held().values()) == [("c1", "eth1"), ("c2", "eth0")]
    assert call("GC", made | listed) == DONE
    assert len(held()) == 2


def test_empty_list_frees_all(call: Call, config: Make, held: Held) -> None:
    """An empty list says that nothing is attached: everything is freed."""
    made = config(ipam=SUBNET)
    for at in range(5):
        call("ADD", made, f"c{at}")
    assert call("GC", made | {VALID: []}) == DONE
    assert held() == {}


def test_many_are_freed(call: Call, config: Make, held: Held, tmp_path: Path) -> None:
    """Thousands are freed in one call, the listed ones among them stay."""
    with fastipam.open(tmp_path / "store") as ipam:
        network = ipam.network("mynet", "10.1.0.0/16")
        network.allocate_many([(f"c{at}", "eth0") for at in range(3000)])
    keep = [(f"c{at}", "eth0") for at in range(0, 3000, 100)]
    assert call("GC", config(ipam=SUBNET) | _attached(*keep)) == DONE
    assert sorted(held().values()) == sorted(keep)


def test_null_is_an_empty_list(call: Call, config: Make, held: Held) -> None:
    """A runtime without attachments sends null: nothing is valid, whatever the key's case."""
    made = config(ipam=SUBNET)
    for key in (VALID, VALID.upper()):
        call("ADD", made)
        assert call("GC", made | {key: None}) == DONE
        assert held() == {}


def test_null_elsewhere(call: Call, config: Make, held: Held) -> None:
    """A null inside of another object is no list of attachments."""
    made = config(ipam=SUBNET)
    call("ADD", made)
    assert call("GC", made | {"args": {VALID: None}}).code == 7
    assert len(held()) == 1


def test_missing_list(call: Call, config: Make, held: Held) -> None:
    """A missing list is code 7 and frees nothing: it is not the same as an empty one."""
    made = config(ipam=SUBNET)
    call("ADD", made)
    answer = call("GC", made)
    assert answer.code == 7
    assert answer.message.startswith(f"{VALID}:")
    assert len(held()) == 1


@pytest.mark.parametrize(
    "value",
    [
        {},
        5,
        "x",
        True,
        [5],
        ["c1"],
        [None],
        [[]],
        [{}],
        [{"containerID": ""}],
        [{"containerID": 5, "ifname": "eth0"}],
        [{"containerID": "c1", "ifname": 5}],
        [{"containerID": "c1", "ifname": "eth0"}, {"ifname": "eth0"}],
    ],
)
def test_malformed_list(value: Any, call: Call, config: Make, held: Held) -> None:
    """A list that cannot be read is code 7 and frees nothing, of the rest of it neither."""
    made = config(ipam=SUBNET)
    call("ADD", made, "c2")
    answer = call("GC", made | {VALID: value})
    assert answer.code == 7
    assert answer.message.startswith(VALID)
    assert len(held()) == 1


def test_keys_of_the_list(call: Call, config: Make, held: Held) -> None:
    """The keys match whatever their case, and further ones are ignored."""
    made = config(ipam=SUBNET)
    call("ADD", made)
    entry = {"CONTAINERID": "c1", "IfName": "eth0", "sandbox": [1]}
    assert call("GC", made | {"CNI.dev/Valid-Attachments": [entry]}) == DONE
    assert len(held()) == 1


def test_only_this_network(call: Call, config: Make, held: Held) -> None:
    """The other networks of the store keep theirs."""
    for name in ("a", "b"):
        call("ADD", config(name=name, ipam=SUBNET))
    assert call("GC", config(name="a", ipam=SUBNET) | {VALID: []}) == DONE
    assert held("a") == {}
    assert held("b") == {"10.1.0.2": ("c1", "eth0")}


def test_no_store(call: Call, config: Make, tmp_path: Path) -> None:
    """GC makes no store where there is none, and an unknown network has nothing to free."""
    assert call("GC", config(ipam=SUBNET) | {VALID: []}) == DONE
    assert list(tmp_path.iterdir()) == []
    call("ADD", config(ipam=SUBNET))
    assert call("GC", config(name="other", ipam=SUBNET) | {VALID: []}) == DONE


def test_leases_without_interface(call: Call, config: Make, held: Held, tmp_path: Path) -> None:
    """A lease that names no interface is valid when its container is listed with any."""
    with fastipam.open(tmp_path / "store") as ipam:
        network = ipam.network("mynet", "10.1.0.0/16")
        for container_id in ("c1", "c2"):
            network._assign(Requester(container_id, ""))
    assert call("GC", config(ipam=SUBNET) | _attached(("c1", "net7"))) == DONE
    assert held() == {"10.1.0.2": ("c1", "")}


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"containerID": "c1"}, "ifname"),
        ({"containerID": "c1", "ifname": ""}, "ifname"),
        ({"containerID": "c1", "ifname": None}, "ifname"),
        ({"containerID": "c1", "ifname": "an interface"}, "ifname"),
        ({"containerID": "c1", "ifname": "longer-than-allowed"}, "ifname"),
        ({"containerID": "c1", "ifname": ["eth0"]}, "ifname"),
        ({"containerID": "c1", "ifname": 0}, "ifname"),
        ({"ifname": "eth0"}, "containerID"),
        ({"containerID": "", "ifname": "eth0"}, "containerID"),
        ({"containerID": None, "ifname": "eth0"}, "containerID"),
        ({"containerID": "c1 ", "ifname": "eth0"}, "containerID"),
        ({"containerID": "../c1", "ifname": "eth0"}, "containerID"),
        ({"containerID": 1, "ifname": "eth0"}, "containerID"),
        ({"containerID": {"id": "c1"}, "ifname": "eth0"}, "containerID"),
        ({"container": "c1", "ifname": "eth0"}, "containerID"),
    ],
)
def test_half_an_identity(
    entry: dict[str, Any], field: str, call: Call, config: Make, held: Held
) -> None:
    """An entry that no ADD can have made names nobody: code 7 with its path, nothing is freed."""
    made = config(ipam=SUBNET)
    call("ADD", made)
    answer = call("GC", made | {VALID: [{"containerID": "c2", "ifname": "eth0"}, entry]})
    assert answer.code == 7
    assert answer.message.startswith(f"{VALID}[1].{field}:"), answer.message
    assert len(held()) == 1


def test_freed_addresses_cool(call: Call, config: Make) -> None:
    """What GC frees cools down as after a DEL."""
    made = config(ipam={"subnet": "10.1.2.0/29"})
    call("ADD", made)
    call("GC", made | {VALID: []})
    got = [call("ADD", made, f"d{at}").addresses[0] for at in range(5)]
    assert got == [f"10.1.2.{one}/29" for one in (3, 4, 5, 6, 2)]


def test_leases_outside_the_ranges(call: Call, config: Make, held: Held) -> None:
    """What is not listed is freed wherever it lies."""
    call("ADD", config(ipam={"subnet": "10.9.0.0/24"}))
    call("ADD", config(ipam=SUBNET), "c2")
    assert call("GC", config(ipam=SUBNET) | {VALID: []}) == DONE
    assert held() == {}


def test_spares_what_is_younger(call: Call, config: Make, held: Held) -> None:
    """A lease that was assigned after the request began to arrive is not its business."""
    made = config(ipam=SUBNET)
    call("ADD", made, "old")
    began_ns = time.time_ns()
    call("ADD", made, "young")
    assert call("GC", made | {VALID: []}, started_ns=began_ns) == DONE
    assert list(held().values()) == [("young", "eth0")]


@pytest.mark.parametrize("step_s", [-3600, -1, 0, 1, 3600])
def test_clock_is_set_while_gc_waits(
    step_s: int,
    call: Call,
    config: Make,
    held: Held,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """ADDs between GC's begin and its list are spared when the wall clock is set meanwhile, too."""
    wall_s, monotonic_s = 1_800_000_000, 5000
    monkeypatch.setattr(time, "time_ns", lambda: wall_s * 10**9)
    monkeypatch.setattr(time, "monotonic_ns", lambda: monotonic_s * 10**9)
    made = config(ipam=SUBNET)
    open_stores.get(str(tmp_path / "store"), None).clock = lambda: wall_s * 10**9
    wall_s -= 7200
    call("ADD", made, "old")
    wall_s += 7200
    began = wall_s * 10**9, monotonic_s * 10**9
    call("ADD", made, "before")
    wall_s += step_s + 10
    monotonic_s += 10
    call("ADD", made, "after")
    assert call("GC", made | {VALID: []}, started_ns=main._started(*began)) == DONE
    assert sorted(held().values()) == [("after", "eth0"), ("before", "eth0")]


def test_lease_of_the_future(call: Call, config: Make, held: Held, tmp_path: Path) -> None:
    """After the wall clock was set back a day, GC releases what was assigned before that."""
    made = config(ipam=SUBNET)
    store = open_stores.get(str(tmp_path / "store"), None)
    store.clock = lambda: time.time_ns() + 86_400 * 10**9
    call("ADD", made, "old")
    store.clock = time.time_ns
    began_ns = time.time_ns()
    call("ADD", made, "young")
    assert call("GC", made | {VALID: []}, started_ns=began_ns) == DONE
    assert list(held().values()) == [("young", "eth0")]


@pytest.mark.parametrize(
    ("before", "allocated_s", "young"),
    [
        (100, 99, False),
        (100, 100, True),
        (100, 1000, True),
        (100, 1030, True),  # the clock was set back a little
        (100, 2000, False),  # it was set back, before the list was made or long after the lease
        (1500, 1499, False),
        (1500, 1500, True),  # it was set back since the list was made
        ((1500, 900), 1590, True),  # 100 s have passed since, and it was set back meanwhile
        ((1500, 900), 950, True),
        ((1500, 900), 1800, False),
        ((500, 900), 550, True),  # it was set forward meanwhile
        ((500, 900), 499, False),
    ],
)
def test_age(before: int | tuple[int, int], allocated_s: int, young: bool) -> None:
    """What is younger than a list, when the wall clock says 1000 and was perhaps set."""
    seconds = 10**9
    pair = before * seconds if isinstance(before, int) else tuple(one * seconds for one in before)
    age = Age(pair, lambda: 1000 * seconds)  # type: ignore[arg-type]
    assert age.is_young(allocated_s * seconds) is young


def test_add_while_gc_waits(plugin: Plugin, config: Make, held: Held) -> None:
    """An ADD that completes while a GC process still reads its list, which lacks it, is spared.

    The process begins before the ADD, and has begun for certain when it has read more than a pipe
    holds; the list arrives after the ADD.
    """
    made = config(ipam=SUBNET)
    assert plugin("ADD", made, "old").status == 0
    collector = subprocess.Popen(
        [plugin.path], env=environment("GC"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert collector.stdin is not None
    collector.stdin.write(b" " * (1 << 18))
    collector.stdin.flush()
    assert plugin("ADD", made, "young").status == 0
    stdout, _ = collector.communicate(json.dumps(made | {VALID: []}).encode())
    assert (collector.returncode, stdout) == (0, b"")
    assert list(held().values()) == [("young", "eth0")]


def test_adds_and_gc_at_once(call: Call, config: Make, held: Held) -> None:
    """No ADD is lost to a GC whose list was made before it, however the two interleave.

    The runtime's side of the bargain: an attachment is listed from before its ADD begins until its
    DEL, and a GC request begins before its list is made.
    """
    made = config(ipam=SUBNET)
    stdin = json.dumps(made).encode()
    known: dict[str, bool] = {}
    lock = threading.Lock()
    failures: list[tuple[int, bytes]] = []
    done = threading.Event()

    def add(worker: int) -> None:
        for at in range(ADDS):
            container_id = f"w{worker}-{at}"
            with lock:
                known[container_id] = True
            answer = cni.handle(environment("ADD", container_id), stdin)
            if answer[0]:
                failures.append(answer)
            if at % 3 == 0:
                # A container that vanished without a DEL: only GC can free its address.
                with lock:
                    del known[container_id]

    def collect() -> None:
        while not done.is_set():
            began_ns = time.time_ns()
            with lock:
                listed = [(one, "eth0") for one in known]
            request = json.dumps(made | _attached(*listed)).encode()
            answer = cni.handle(environment("GC"), request, started_ns=began_ns)
            if answer != (0, b""):
                failures.append(answer)

    adders = [threading.Thread(target=add, args=(worker,)) for worker in range(4)]
    collector = threading.Thread(target=collect)
    collector.start()
    for thread in adders:
        thread.start()
    for thread in adders:
        thread.join()
    done.set()
    collector.join()
    assert not failures
    assert set(known) <= {container_id for container_id, _ in held().values()}
    assert call("GC", made | _attached(*((one, "eth0") for one in known))) == DONE
    assert set(known) == {container_id for container_id, _ in held().values()}
