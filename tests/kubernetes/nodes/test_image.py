"""The image: a real containerd loads it, and its fastipam starts."""

from __future__ import annotations

from pathlib import Path

import fastipam

from ..server import until
from . import image
from .network import Link
from .node import Node, require


def test_starts_in_containerd(tmp_path: Path) -> None:
    """``fastipam --version`` says this version, and the agent answers in its container."""
    require()
    archive = tmp_path / "image.tar"
    name = image.build(archive, "test")
    link = Link()
    link.make()
    node = Node("n1", ("10.75.0.1",), link.attach("n1", 1), tmp_path / "n1")
    try:
        node.start()
        node.load(archive)
        said = node.ctr("run", "--rm", "--net-host", name, "one", "fastipam", "--version").stdout
        assert fastipam.__version__ in said
        node.ctr("run", "--detach", "--net-host", name, "agent", "fastipam", "agent")
        ask = ("tasks", "exec", "--exec-id", "ask", "agent", "env", "CNI_COMMAND=VERSION")
        launcher = "/usr/local/lib/fastipam/fastipam"
        until(
            lambda: "supportedVersions" in node.ctr(*ask, launcher, check=False).stdout,
            "the agent answers",
        )
    finally:
        node.cut_power()
        link.remove()
