"""What the agent tells about itself over HTTP."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import fastipam
from fastipam.agent.clusters import Clusters
from fastipam.agent.web import metrics, server
from fastipam.storage import open_stores
from tests.counting import counts

from ..cluster.memory import MemoryEngine
from ..cluster.nodes import init, over, settings
from ..cni.plugin import Make, environment
from ..e2e import tools
from .processes import Agent, Client, activated, ask, until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .conftest import Start

HANG_S = 30  # Prometheus gives up after 10 s; this machine may be busy with other tests
SUBNET = {"subnet": "10.1.0.0/24"}


def _get(port: int, path: str = "/metrics", method: str = "GET", host: str = "127.0.0.1") -> Any:
    """(status, text) of a request."""
    request = urllib.request.Request(f"http://{host}:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _scrape(port: int) -> Samples:
    """Every sample: (name, sorted labels) -> value."""
    status, text = _get(port)
    assert status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _requests(samples: Samples) -> dict[tuple[str, str], float]:
    """(verb, code) -> how many."""
    return {
        (dict(labels)["verb"], dict(labels)["code"]): value
        for (name, labels), value in samples.items()
        if name == "fastipam_requests_total"
    }


def _addresses(samples: Samples, network: str = "mynet") -> dict[str, float]:
    """State -> how many, of a network."""
    return {
        dict(labels)["state"]: value
        for (name, labels), value in samples.items()
        if name == "fastipam_addresses" and dict(labels)["network"] == network
    }


@pytest.fixture
def observed(start: Start, free_port: int) -> Agent:
    """An agent with metrics at ``free_port``."""
    return start("--http", f"127.0.0.1:{free_port}")


def test_requests(observed: Agent, free_port: int, config: Make) -> None:
    """Requests are counted by verb and by the code of their error; odd verbs are one."""
    made = config(ipam=SUBNET)
    before = _requests(_scrape(free_port)).get(("VERSION", "0"), 0)
    ask(observed.path, "VERSION", {})
    for container in ("c1", "c2", "c2"):
        ask(observed.path, "ADD", made, container)
    ask(observed.path, "ADD", made | {"cniVersion": "9.0.0"})
    ask(observed.path, "DEL", made, "c1")
    ask(observed.path, 'NON"SENSE\n', made)
    ask(observed.path, "OTHER", made)
    samples = _scrape(free_port)
    assert _requests(samples) == {
        ("VERSION", "0"): before + 1,
        ("ADD", "0"): 2,
        ("ADD", "102"): 1,
        ("ADD", "1"): 1,
        ("DEL", "0"): 1,
        ("other", "4"): 2,
    }
    assert samples["fastipam_request_seconds_count", (("verb", "ADD"),)] == 4
    assert samples["fastipam_batch_requests_sum", ()] == 8 + before
    assert (
        samples["fastipam_commit_seconds_count", ()] == samples["fastipam_batch_requests_count", ()]
    )


def test_static_addresses(observed: Agent, free_port: int, config: Make, tmp_path: Path) -> None:
    """They have a metric of their own, as `stats` counts them; a set without any has no sample."""
    made = config(ipam=SUBNET | {"static": ["10.1.0.8/29"]})
    ask(observed.path, "ADD", made, "c1")
    for at, last in enumerate((9, 10)):
        wanted = made | {"args": {"cni": {"ips": [f"10.1.0.{last}"]}}}
        assert ask(observed.path, "ADD", wanted, f"s{at}").status == 0
    ask(observed.path, "DEL", made, "s0")
    ask(observed.path, "ADD", config(name="plain", ipam=SUBNET), "c1")
    found = {
        (dict(labels)["network"], dict(labels)["state"]): value
        for (name, labels), value in _scrape(free_port).items()
        if name == "fastipam_static_addresses"
    }
    wanted_counts = {"assigned": 1, "cooling": 1, "reserved": 0, "free": 6}
    assert found == {("mynet", state): count for state, count in wanted_counts.items()}
    with fastipam.open(tmp_path / "store") as ipam:
        stats = ipam.network("mynet").stats()
        assert stats.static == stats.to_dict()["static"] == wanted_counts | {"size": 8}
        assert ipam.network("plain").stats().static is None


def test_addresses(observed: Agent, free_port: int, config: Make, tmp_path: Path) -> None:
    """The states of a network's addresses add up to its size; the file has one, too."""
    made = config(ipam=SUBNET)
    assert _addresses(_scrape(free_port)) == {}
    for at in range(10):
        ask(observed.path, "ADD", made, f"c{at}")
    for at in range(3):
        ask(observed.path, "DEL", made, f"c{at}")
    samples = _scrape(free_port)
    states = _addresses(samples)
    assert (states["assigned"], states["cooling"]) == (7, 3)
    with fastipam.open(tmp_path / "store") as ipam:
        stats = counts(ipam.network("mynet"))
    assert sum(states.values()) == stats.pop("size")
    assert states == stats
    label = (("data_dir", str(tmp_path / "store")),)
    assert (
        samples["fastipam_store_bytes", label] == (tmp_path / "store" / "data.mdb").stat().st_size
    )


def test_many_networks(observed: Agent, free_port: int, config: Make, tmp_path: Path) -> None:
    """A scrape of hundreds of networks works while requests are served, and is no slow one."""
    with fastipam.open(tmp_path / "store", "relaxed") as ipam:
        for at in range(400):
            network = ipam.network(f"n{at}", f"10.{at >> 8}.{at & 255}.0/24")
            network.allocate("c", "eth0")
    made = config(ipam=SUBNET | {"durability": "relaxed"})
    assert ask(observed.path, "ADD", made).status == 0
    stop = threading.Event()
    statuses: list[int] = []

    def work() -> None:
        while not stop.is_set():
            statuses.extend(ask(observed.path, one, made).status for one in ("DEL", "ADD"))

    thread = threading.Thread(target=work)
    thread.start()
    begun = time.monotonic()
    samples = _scrape(free_port)
    seconds = time.monotonic() - begun
    stop.set()
    thread.join()
    assert all(_addresses(samples, f"n{at}")["assigned"] == 1 for at in range(400))
    assert seconds < HANG_S
    assert set(statuses) == {0}


def test_store_that_goes_away(
    observed: Agent, free_port: int, config: Make, tmp_path: Path
) -> None:
    """Scrapes while data directories come and go are answered."""
    made = config(ipam=SUBNET | {"durability": "relaxed"})
    stop = threading.Event()
    seen: list[int] = []

    def scrape() -> None:
        while not stop.is_set():
            seen.append(_get(free_port)[0])

    thread = threading.Thread(target=scrape)
    thread.start()
    for at in range(60):
        assert ask(observed.path, "ADD", made).status == 0
        (tmp_path / "store").rename(tmp_path / f"old{at}")
    stop.set()
    thread.join()
    assert set(seen) == {200}


@pytest.mark.parametrize(
    ("path", "method", "status", "text"),
    [
        ("/healthz", "GET", 200, "ok"),
        ("/", "GET", 200, "<h1>fastipam"),
        ("/nothing", "GET", 404, "/healthz, /metrics"),
        ("/metrics/x", "GET", 404, ""),
        ("/metrics", "POST", 405, "only reading"),
        ("/metrics", "DELETE", 405, ""),
    ],
)
def test_paths(
    path: str, method: str, status: int, text: str, observed: Agent, free_port: int
) -> None:
    """What is there is answered, what is not there is 404, and nothing can be written."""
    found, body = _get(free_port, path, method)
    assert found == status
    assert text in body
    assert observed.is_ready()


def test_healthy_while_a_store_is_held(
    observed: Agent, free_port: int, config: Make, tmp_path: Path
) -> None:
    """/healthz is 200 while the agent waits for a store: to start it again would not help."""
    made = config(ipam=SUBNET)
    ask(observed.path, "ADD", made)
    with Client(observed.path) as client:
        with fastipam.open(tmp_path / "store") as ipam, ipam.store.write():
            client.send(environment("ADD", "c2"), json.dumps(made).encode())
            for _ in range(5):
                assert _get(free_port, "/healthz") == (200, "ok\n")
        assert client.receive().status == 0
    assert _get(free_port, "/healthz") == (200, "ok\n")


def test_health_without_agent(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No agent, one that is silent, or one that talks nonsense: not healthy."""
    monkeypatch.setattr(server, "_HEALTH_S", 0.1)
    path = str(run_dir / "s")
    assert not server.is_healthy(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(path)
        silent.listen()
        assert not server.is_healthy(path)


def test_health_of_an_activated_agent(start: Start, free_port: int, run_dir: Path) -> None:
    """The health check uses the socket that is served, whatever --socket says."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(run_dir / "activated"))
        listener.listen(16)
        number = listener.fileno()
        start(
            "--http", f"127.0.0.1:{free_port}", name="unused", wait=False,
            prefix=activated("1", number), pass_fds=[number],
        )  # fmt: skip
        with Client(run_dir / "activated") as client:
            assert client.ask("VERSION").status == 0
        assert _get(free_port, "/healthz") == (200, "ok\n")


def test_address_in_use(observed: Agent, free_port: int, run_dir: Path) -> None:
    """A port that somebody has ends a second agent in one line, its socket removed."""
    second = Agent(run_dir / "t", "--http", f"127.0.0.1:{free_port}", wait=False)
    assert second.wait() == 1
    assert "--http" in second.log
    assert len(second.log.splitlines()) == 1
    assert not second.path.exists()
    assert observed.is_ready()


def test_ipv6(start: Start, free_port: int) -> None:
    """The address may be an IPv6 one, in brackets."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        tools.unsupported("this machine has no IPv6")
    start("--http", f"[::1]:{free_port}")
    assert _get(free_port, "/healthz", host="[::1]") == (200, "ok\n")


def test_silent_scraper(observed: Agent, free_port: int, config: Make) -> None:
    """A connection to the metrics on which nothing is said holds no plugin call up."""
    with socket.create_connection(("127.0.0.1", free_port)) as silent:
        assert ask(observed.path, "ADD", config(ipam=SUBNET)).status == 0
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):  # the agent has not given it up yet
            silent.recv(1)


def test_end_during_scrapes(start: Start, free_port: int, config: Make, tmp_path: Path) -> None:
    """SIGTERM in the middle of scrapes ends the agent with status 0."""
    with fastipam.open(tmp_path / "store", "relaxed") as ipam:
        for at in range(100):
            ipam.network(f"n{at}", "10.1.0.0/24").allocate("c", "eth0")
    made = config(ipam=SUBNET | {"durability": "relaxed"})
    for _ in range(3):
        agent = start("--http", f"127.0.0.1:{free_port}")
        ask(agent.path, "ADD", made)

        def scrape(begun: threading.Event) -> None:
            try:
                while True:
                    _get(free_port)
                    begun.set()
            except (OSError, ValueError, http.client.HTTPException):
                pass  # it has ended

        begun = [threading.Event() for _ in range(2)]
        threads = [threading.Thread(target=scrape, args=(one,)) for one in begun]
        for thread in threads:
            thread.start()
        assert all(one.wait(60) for one in begun)
        assert agent.terminate() == 0
        for thread in threads:
            thread.join()
        ask_again = re.search("Traceback|Fatal|Segmentation", agent.log)
        assert ask_again is None, agent.log


def test_codes_of_odd_answers() -> None:
    """An answer whose error object cannot be read counts as code -1, and harms nothing."""
    observer = metrics.Metrics()
    documents: list[Mapping[str, Any] | list[int]] = [{"code": 7}, {}, [1], {"code": "x"}]
    for document in documents:
        observer.request("ADD", 1, json.dumps(document).encode(), 0.1)
    observer.request("ADD", 1, b"{", 0.1)
    observer.request("", 0, b"", 0.1)
    value = observer.registry.get_sample_value
    assert value("fastipam_requests_total", {"verb": "ADD", "code": "7"}) == 1
    assert value("fastipam_requests_total", {"verb": "ADD", "code": "-1"}) == 4
    assert value("fastipam_requests_total", {"verb": "other", "code": "0"}) == 1


def test_open_stores_are_listed(config: Make, call: Any) -> None:
    """Only what this process has open is scraped."""
    observer = metrics.Metrics()
    label = {"data_dir": config()["ipam"]["dataDir"], "network": "mynet", "state": "assigned"}
    label |= {"family": "4", "range_set": "0"}
    assert observer.registry.get_sample_value("fastipam_addresses", label) is None
    call("ADD", config(ipam=SUBNET))
    assert observer.registry.get_sample_value("fastipam_addresses", label) == 1
    open_stores.close_all()
    until(lambda: not open_stores.all_open(), "all are closed")
    assert observer.registry.get_sample_value("fastipam_addresses", label) is None


OBSERVABILITY = Path(__file__).parents[2] / "docs" / "observability.md"


def _documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Name -> (type, labels) of the table of an agent's metrics in the documents."""
    rows = re.findall(
        r"^\| `((?:fastipam(?!_controller)|process)_\w+)` \| (\w+) \| ([\w, ]*)\| ",
        OBSERVABILITY.read_text(),
        re.MULTILINE,
    )
    return {name: (kind, frozenset(re.findall(r"\w+", labels))) for name, kind, labels in rows}


def _printed(text: str) -> dict[str, tuple[str, set[str]]]:
    """Name -> (type, labels) of what /metrics prints, in the names of the samples."""
    found: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = found.setdefault(name, (family.type, set()))[1]
        for sample in family.samples:
            labels |= sample.labels.keys() - {"le"}
    return found


def test_the_documents_have_every_metric(
    observed: Agent, free_port: int, config: Make, tmp_path: Path
) -> None:
    """The table of the documents has what /metrics prints: names, types and labels, no more."""
    made = config(ipam=SUBNET | {"static": ["10.1.0.8/29"]})
    assert ask(observed.path, "ADD", made).status == 0
    until(lambda: "fastipam_longest_free_run{" in _get(free_port)[1], "the longest free run")
    printed = _printed(_get(free_port)[1])
    documented = _documented()
    assert printed.keys() == documented.keys()
    for name, (kind, labels) in printed.items():
        assert kind == documented[name][0], name
        # Without a cluster the metrics of clusters have no samples, and so no labels; those of the
        # conflist and the routes: tests/kubernetes/test_conflist.py and test_routes.py.
        other = ("fastipam_cluster_", "fastipam_conflist", "fastipam_routes")
        if not name.startswith(other) and name != "fastipam_blocks":
            assert labels == documented[name][1], name
    cluster = _of_a_cluster(tmp_path / "cluster")
    assert {name: (kind, frozenset(labels)) for name, (kind, labels) in cluster.items()} == {
        name: documented[name] for name in cluster
    }


def _of_a_cluster(path: Path) -> dict[str, tuple[str, set[str]]]:
    """What /metrics prints of a node of a cluster: those metrics that have labels only there."""
    engine = MemoryEngine()
    init(engine)
    fastipam.open(path, "relaxed").close()
    clusters = Clusters(over(engine))
    keeper = clusters.get(str(path), "podnet", settings("a"))
    try:
        keeper.need("c1")
        until(lambda: keeper.status.states.get("active"), "a block is claimed")
        open_stores.get(str(path), None)
        text = generate_latest(metrics.Metrics(keepers=clusters.all).registry).decode()
    finally:
        clusters.stop()
        open_stores.close_all()
    return {
        name: found
        for name, found in _printed(text).items()
        if name.startswith("fastipam_cluster_") or name == "fastipam_blocks"
    }


def test_names_follow_the_conventions(observed: Agent, free_port: int, config: Make) -> None:
    """Counters end in _total and nothing else does; no series says when it was created."""
    assert ask(observed.path, "ADD", config(ipam=SUBNET)).status == 0
    text = _get(free_port)[1]
    assert "_created" not in text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            is_counter = family.type == "counter"
            assert sample.name.endswith("_total") == is_counter, sample.name
            assert "_info" not in sample.name or sample.value == 1
            assert not re.search("_(ms|us|percent|kb|mb)(_|$)", sample.name), sample.name


def test_a_full_ipv4_set(observed: Agent, free_port: int, config: Make) -> None:
    """Each range set has its own numbers, and the one that has no address left says so."""
    made = config(ipam={"ranges": [[{"subnet": "10.1.0.0/29"}], [{"subnet": "fd00::/64"}]]})
    for at in range(5):
        assert ask(observed.path, "ADD", made, f"c{at}").status == 0
    assert ask(observed.path, "ADD", made, "c5").status == 1
    status = made | {"cniVersion": "1.1.0"}
    assert ask(observed.path, "STATUS", status).status == 0, (
        "a full pool is ready: the metric tells"
    )
    samples = _scrape(free_port)

    def of(name: str, family: int, **labels: str) -> list[float]:
        wanted = {"network": "mynet", "family": str(family), **labels}
        return [
            value
            for (its_name, its_labels), value in samples.items()
            if its_name == name and wanted.items() <= dict(its_labels).items()
        ]

    assert of("fastipam_addresses", 4, state="free", range_set="0") == [0]
    assert of("fastipam_addresses", 6, state="free", range_set="1") == [float(2**64 - 7)]
    assert [of("fastipam_range_set_full", family) for family in (4, 6)] == [[1], [0]]
    assert of("fastipam_exhaustion_seconds", 4) == [0]
    assert of("fastipam_exhaustion_seconds", 6)[0] > 10**9
    assert of("fastipam_range_set_info", 4, ranges="10.1.0.0/29") == [1]
