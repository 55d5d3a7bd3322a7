"""The alert rules and the dashboard: promtool, and a real Prometheus that scrapes an agent."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import fastipam
from fastipam.agent.web.metrics import Metrics
from fastipam.agent.web.samples import Watch
from fastipam.agent.web.server import Asked
from fastipam.cluster.routing.plan import REASONS
from fastipam.cluster.routing.setting import Status
from fastipam.storage import open_stores

from ..agent.conftest import free_port, run_dir, start  # noqa: F401  # fixtures
from ..agent.processes import Agent, ask, until
from ..cni.conftest import config  # noqa: F401  # a fixture
from ..e2e import tools
from ..ports import free_ports
from .support import CHART, DEPLOY

RULES = CHART / "files" / "alerts.yaml"
UNIT_TESTS = DEPLOY / "prometheus" / "alerts.test.yaml"
DASHBOARD = CHART / "files" / "dashboard.json"
# What is never part of a metric's name: functions, keywords and labels of the expressions.
_NAME = re.compile(r"\b(?:fastipam[a-z_:]*|process_[a-z_]+)\b(?=\{)")


def _promtool(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    tools.require_tools("promtool")
    return subprocess.run(
        ["promtool", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=UNIT_TESTS.parent,
    )


def test_rules() -> None:
    """promtool accepts the rules."""
    done = _promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 rules found" in done.stdout


def test_alerts_fire() -> None:
    """promtool's unit tests pass, and there is one for each alert."""
    done = _promtool("test", "rules", str(UNIT_TESTS))
    assert done.returncode == 0, done.stdout + done.stderr
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    fired = re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n\s+- exp_labels", UNIT_TESTS.read_text())
    assert alerts == set(fired)


def test_a_wrong_rule_is_noticed(tmp_path: Path) -> None:
    """With one threshold changed the unit tests fail: they look at what they say."""
    broken = RULES.read_text().replace("range_set_full == 1", "range_set_full == 2")
    (tmp_path / "alerts.yaml").write_text(broken)
    tests = UNIT_TESTS.read_text()
    assert "../chart/files/alerts.yaml" in tests
    (tmp_path / "tests.yaml").write_text(tests.replace("../chart/files/", ""))
    assert _promtool("test", "rules", str(tmp_path / "tests.yaml")).returncode == 1


@pytest.fixture
def agent(start: Any, free_port: int, config: Any, tmp_path: Path) -> Agent:  # noqa: F811
    """An agent that has answered well and badly, with a network that is full."""
    with fastipam.open(tmp_path / "store") as ipam:
        ipam.network("full", "10.9.0.0/30").allocate("c1", "eth0")
        ipam.network("both", ["10.8.0.0/24", "2001:db8::/64"]).allocate("c1", "eth0")
        dual = ipam.network("dual", ["10.7.0.0/29", "2001:db8:7::/64"])
        dual.allocate_many([(f"c{number}", "eth0") for number in range(5)])
    agent: Agent = start("--http", str(free_port), "--data-dir", str(tmp_path / "store"))
    made = config(ipam={"subnet": "10.9.0.0/30"}, name="full")
    assert ask(agent.path, "ADD", made, "c2").status == 1  # there is one address, and c1 has it
    assert ask(agent.path, "ADD", config(ipam={"subnet": "10.1.0.0/24"}), "c3").status == 0
    return agent


@contextlib.contextmanager
def _scraping(*ports: int, directory: Path) -> Iterator[str]:
    """A Prometheus that scrapes ports every second, with our rules and no patience; its address.

    What an alert waits for (``for``) is one second here.
    """
    tools.require_tools("prometheus")
    own = free_ports(1)[0]
    hasty, count = re.subn(r"for: \d+m", "for: 1s", RULES.read_text())
    assert count == 12
    (directory / "hasty.yaml").write_text(hasty)
    scrape = (DEPLOY / "prometheus" / "scrape.yaml").read_text()
    assert scrape.count('"127.0.0.1:9464"') == 1
    targets = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
    scrape = scrape.replace('"127.0.0.1:9464"', targets).replace("15s", "1s")
    scrape = scrape.replace("  - alerts.yaml", f"  - {directory / 'hasty.yaml'}")
    configuration = directory / "prometheus.yml"
    configuration.write_text(f"global: {{evaluation_interval: 1s}}\n{scrape}")
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={configuration}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{own}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": os.environ["PATH"]},
        )
    try:
        yield f"http://127.0.0.1:{own}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextlib.contextmanager
def _serving(metrics: Metrics) -> Iterator[int]:
    """A server that answers what an agent's /metrics does; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = metrics.route.answer(Asked({}, self.headers.get("Accept", ""), ""))
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", free_ports(1)[0]), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def prometheus(agent: Agent, free_port: int, tmp_path: Path) -> Iterator[str]:  # noqa: ARG001, F811
    """A Prometheus that scrapes the agent; its address."""
    with _scraping(free_port, directory=tmp_path) as url:
        yield url


def _firing(url: str, name: str) -> list[dict[str, str]]:
    """The labels of the alerts of this name that fire."""
    try:
        found = _ask(url, "/api/v1/alerts")["alerts"]
    except OSError:
        return []
    return [
        one["labels"]
        for one in found
        if one["labels"]["alertname"] == name and one["state"] == "firing"
    ]


def _ask(url: str, path: str, **query: str) -> Any:
    """The data of an answer of Prometheus's API."""
    full = f"{url}{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(full, timeout=20) as answer:
        document = json.load(answer)
    assert document["status"] == "success"
    return document["data"]


def _value(url: str, expression: str) -> float | None:
    """The one value of an expression, None when there is none yet."""
    try:
        found = _ask(url, "/api/v1/query", query=expression)["result"]
    except OSError:
        return None
    return float(found[0]["value"][1]) if len(found) == 1 else None


def _expressions(url: str) -> list[tuple[str, str]]:
    """(panel, expression) of the dashboard, Grafana's variables filled in as Grafana does.

    The values of a variable are what its own query finds.
    """
    document = json.loads(DASHBOARD.read_text())
    values = {"__rate_interval": "1m"}
    for variable in document["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
            assert asked
            found = _ask(url, f"/api/v1/label/{asked[2]}/values", **{"match[]": asked[1]})
            assert found, variable["name"]
            values[variable["name"]] = "|".join(found)  # all of them are chosen
    return [
        (
            panel["title"],
            re.sub(r"\$(\w+)", lambda name: values[name[1]], target["expr"]),
        )
        for panel in document["panels"]
        for target in panel["targets"]
    ]


def _shows(url: str, expression: str) -> bool:
    """Whether a panel with this query has something to draw."""
    found = _ask(url, "/api/v1/query", query=expression)["result"]
    return any(one["value"][1] != "NaN" for one in found)


def test_a_real_prometheus(prometheus: str, free_port: int) -> None:  # noqa: F811
    """It scrapes the agent, evaluates the rules, and answers every query of the dashboard."""
    until(lambda: _value(prometheus, 'up{job="fastipam"}') == 1, "the agent is scraped")
    assert _value(prometheus, 'fastipam_addresses{network="full", state="assigned"}') == 1
    until(
        lambda: _value(prometheus, 'fastipam:addresses:available{network="full"}') == 0,
        "the rules are evaluated",
    )
    assert _value(prometheus, 'fastipam_requests_total{verb="ADD", code="100"}') == 1
    groups = _ask(prometheus, "/api/v1/rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == 14
    rules = [
        rule for group in _ask(prometheus, "/api/v1/rules")["groups"] for rule in group["rules"]
    ]
    assert {rule["health"] for rule in rules} == {"ok"}
    until(
        lambda: (
            _value(prometheus, 'fastipam_longest_free_run{network="both", family="6"}')
            == float(2**64 - 3)
        ),
        "the longest free run is known",
    )
    assert free_port


def test_alerts_fire_for_a_full_ipv4_set(prometheus: str) -> None:
    """A dual-stack network whose IPv4 set is full raises the alerts, for that set alone."""
    for name in ("FastipamPoolFull", "FastipamPoolNearlyFull"):
        until(lambda: len(_firing(prometheus, name)) == 2, f"{name} fires")  # noqa: B023
        by_network = {one["network"]: one for one in _firing(prometheus, name)}
        assert by_network.keys() == {"full", "dual"}
        dual = by_network["dual"]
        assert (dual["family"], dual["range_set"], dual["ranges"]) == ("4", "0", "10.7.0.0/29")
    (told,) = (
        one["annotations"]["summary"]
        for one in _ask(prometheus, "/api/v1/alerts")["alerts"]
        if (one["labels"]["alertname"], one["labels"]["network"]) == ("FastipamPoolFull", "dual")
    )
    assert "Network dual" in told
    assert told.endswith("has no address left in 10.7.0.0/29")


def test_an_alert_before_the_ipv4_set_is_full(tmp_path: Path) -> None:
    """The forecast of the IPv4 set raises an alert while the network still serves."""
    moment = [1e9]
    watch = Watch(clock=lambda: moment[0], idle=lambda: moment[0])
    metrics = Metrics(watch)

    with fastipam.open(tmp_path / "store", "relaxed") as ipam:
        net = ipam.network("podnet", ["10.7.0.0/24", "2001:db8:7::/64"])
        open_stores.get(str(tmp_path / "store"), None)
        for number in range(60):
            net.allocate(f"c{number}", "eth0")
            watch.sample()
            moment[0] += 10
        try:
            with _serving(metrics) as port, _scraping(port, directory=tmp_path) as url:
                until(lambda: _firing(url, "FastipamPoolFullSoon"), "the alert fires")
                (labels,) = _firing(url, "FastipamPoolFullSoon")
                assert (labels["family"], labels["ranges"]) == ("4", "10.7.0.0/24")
                assert not _firing(url, "FastipamPoolFull")
        finally:
            open_stores.close_all()


@pytest.fixture
def beside_a_router(agent: Agent, free_port: int, tmp_path: Path) -> Iterator[str]:  # noqa: ARG001, F811
    """A Prometheus that scrapes the agent, and one that sets routes; its address."""
    status = Status({(4, "gateway"): 2}, {REASONS[0]: 1}, is_complete=False, refused=3)
    with (
        _serving(Metrics(routes=lambda: status)) as port,
        _scraping(free_port, port, directory=tmp_path) as url,
    ):
        yield url


def test_every_panel_shows_something(
    beside_a_router: str,
    agent: Agent,
    config: Any,  # noqa: F811
) -> None:
    """Every query of the dashboard finds numbers while an agent works and refuses."""
    prometheus = beside_a_router
    until(lambda: _value(prometheus, 'sum(up{job="fastipam"})') == 2, "both are scraped")
    good, bad = (
        config(ipam={"subnet": "10.1.0.0/24"}),
        config(ipam={"subnet": "10.9.0.0/30"}, name="full"),
    )
    number = iter(range(10_000))

    def works(expression: str) -> bool:
        assert ask(agent.path, "ADD", good, f"more-{next(number)}").status == 0
        assert ask(agent.path, "DEL", good, f"more-{next(number) - 1}").status == 0
        assert ask(agent.path, "ADD", bad, "refused").status == 1
        return _shows(prometheus, expression)

    until(lambda: works("fastipam:addresses:available"), "the rules are evaluated")
    expressions = _expressions(prometheus)
    assert len(expressions) > 15
    for title, expression in expressions:
        until(lambda: works(expression), f"{title} shows something: {expression}")  # noqa: B023
    names = {name for _, expression in expressions for name in _NAME.findall(expression)}
    assert len(names) > 12


def test_the_metrics_are_well_formed(agent: Agent, free_port: int) -> None:  # noqa: F811
    """promtool finds nothing wrong with names, types and texts; what the rules use is there."""
    assert agent.is_ready()
    url = f"http://127.0.0.1:{free_port}/metrics"
    with urllib.request.urlopen(url, timeout=20) as answer:
        first = answer.read().decode()
    assert "fastipam_exhaustion_seconds" in first

    def text() -> str:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return str(answer.read().decode())

    until(lambda: "fastipam_longest_free_run{" in text(), "the longest free run is there")
    done = _promtool("check", "metrics", stdin=text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr.strip()
    families = list(text_string_to_metric_families(text()))
    names = {sample.name for family in families for sample in family.samples}
    names |= {family.name for family in families}  # this agent writes no network configuration
    wanted = set(re.findall(r"\bfastipam_[a-z_]+", RULES.read_text()))
    assert wanted <= names


def test_the_dashboard_is_whole() -> None:
    """Panels lie within the grid and do not overlap; each has a title and a query."""
    document = json.loads(DASHBOARD.read_text())
    taken: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert place["x"] + place["w"] <= 24
        assert panel["title"]
        assert all(target["expr"] for target in panel["targets"])
        # Since version 9 a legend is hidden that does not say so itself.
        if panel["type"] == "timeseries":
            assert panel["options"]["legend"]["showLegend"] is True, panel["title"]
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])
