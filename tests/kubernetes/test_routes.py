"""Agents that set the routes between nodes: three namespaces as nodes, ptp, a fake API server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ..agent.processes import until
from ..e2e import tools
from ..e2e.conftest import plugin_dir  # noqa: F401  # a fixture of this name
from .links import Link, settle
from .machines import accept, owners

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Api


@pytest.fixture
def link(api: Api, tmp_path: Path, plugin_dir: Path) -> Iterator[Link]:  # noqa: F811
    """A link without nodes, and pools of both families."""
    tools.require_root()
    tools.require_tools("ip", "nsenter", "ping")
    tools.require_cni_plugins("ptp")
    accept(api, "four", "10.32.0.0/20", 24)
    accept(api, "six", "fd32::/112", 120)
    with Link(api, tmp_path, plugin_dir) as made:
        yield made


def test_pods_of_three_nodes(link: Link, api: Api) -> None:
    """Every pod reaches every pod, in both families; a pod that is gone is unreachable at once."""
    nodes = [link.node(name) for name in ("a", "b", "c")]
    for one in nodes:
        one.start()
    until(lambda: len(owners(api)) == 6, "each node has a block of each family")
    settle(*nodes, api=api)
    pods = [one.add(link.plugin_dir) for one in nodes]
    for pod in pods:
        for other in pods:
            pod.ping(other)
