"""The page of a node of a cluster: an agent whose blocks are of an API server, in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ..agent.processes import Agent, ask, until
from ..kubernetes.conftest import fake_api, shared_fake  # noqa: F401  # fixtures of the same name
from ..kubernetes.machines import accept
from ..kubernetes.test_agent import Site
from .test_watching import READY, WIDTHS, violations

if TYPE_CHECKING:
    from pathlib import Path

    from ..agent.conftest import Start
    from ..kubernetes.fake import FakeServer
    from .chromium import Browser

NODE = "worker-7.eu-central-1.compute.internal".ljust(63, "m")
V6 = "fd00:1234:5678:9abc:def0:1234:5670:0/108"


class Cluster:
    """The agent of a node with two pools, and where its page is."""

    def __init__(self, site: Site, agent: Agent, port: int) -> None:
        self.site = site
        self.agent = agent
        self.url = f"http://127.0.0.1:{port}"


@pytest.fixture
def cluster(
    fake_api: FakeServer,  # noqa: F811
    tmp_path: Path,
    start: Start,
    free_port: int,
) -> Cluster:
    """A node that has a block of each pool, and 30 pods."""
    accept(fake_api)
    accept(fake_api, "six", V6, 116)
    site = Site(fake_api, tmp_path, NODE)
    words = ("--http", str(free_port), "--data-dir", str(site.store), "--cluster")
    agent = start(*words, str(site.conflist))
    until(site.has_pools, "the agent has a block")
    for number in range(30):
        assert ask(agent.path, "ADD", site.config(), f"c{number}").status == 0
    return Cluster(site, agent, free_port)


def _cells(browser: Browser, section: str) -> list[list[str]]:
    rows: list[list[str]] = browser.run(
        f"[...document.querySelectorAll('{section} tbody tr')].map("
        "row => [...row.cells].map(cell => cell.innerText))"
    )
    return rows


def test_node_pools_and_blocks(cluster: Cluster, browser: Browser) -> None:
    """The cluster's part names the node, its pools and blocks; the colour of others' is said."""
    browser.open(cluster.url)
    browser.until_js(READY)
    (row,) = _cells(browser, "#clusters")
    network, node, pools, reached, blocks, why = row
    assert (network, node, reached, blocks, why) == ("podnet", NODE, "reachable", "2 active", "")
    assert pools.split("\n") == ["default 10.32.0.0/20 in /24", f"six {V6} in /116"]
    shown = _cells(browser, "#blocks")
    held = browser.run("shown.status.networks[0].blocks")
    assert shown == [[one["first"], one["last"], "active"] for one in held]
    assert [one["first"].partition(":")[0][:4] for one in held] == ["10.3", "fd00"]
    assert "in no block of this node" in browser.run("document.querySelector('#counts').innerText")
    assert browser.run("document.querySelectorAll('#counts .swatch.elsewhere').length") == 1
    plain = browser.run("fetch('/').then(answer => answer.text())")  # as it is without JavaScript
    assert f"default 10.32.0.0/20 in /24, six {V6} in /116" in plain
    assert NODE in plain
    assert browser.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_width(cluster: Cluster, browser: Browser, scheme: str) -> None:
    """With a node's name of 63 characters nothing scrolls sideways, and axe-core is content."""
    browser.prefer(scheme)
    for width in WIDTHS:
        browser.resize(width, 1000)
        browser.open(cluster.url)
        browser.until_js(READY)
        assert browser.run("document.documentElement.scrollWidth") <= width
        wide = (
            "[...document.querySelectorAll('#clusters .wide, #blocks .wide')]"
            ".map(one => one.scrollWidth - one.clientWidth)"
        )
        assert max(browser.run(wide)) <= 0
        assert violations(browser) == []
    assert browser.complaints() == []


def test_a_store_that_is_gone(
    cluster: Cluster,
    browser: Browser,
    fake_api: FakeServer,  # noqa: F811
    start: Start,
    free_port: int,
) -> None:
    """While the API server does not answer, the page says so and why, and the blocks stay."""
    assert cluster.agent.terminate() == 0
    fake_api.down()
    try:
        words = ("--http", str(free_port), "--data-dir", str(cluster.site.store), "--cluster")
        start(*words, str(cluster.site.conflist), name="t")
        browser.open(cluster.url)
        browser.until_js("shown.status && document.querySelector('#clusters td .bad')")
        browser.until_js("document.querySelector('#clusters tbody td:last-child').innerText")
        (row,) = _cells(browser, "#clusters")
        assert (row[1], row[3]) == (NODE, "not reachable")
        assert len(_cells(browser, "#blocks")) == 2
    finally:
        fake_api.up()
    browser.until_js("!document.querySelector('#clusters td .bad')")
