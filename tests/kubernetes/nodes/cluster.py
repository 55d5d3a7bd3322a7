"""A cluster of real nodes on one machine: its life, and what a test asks of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ...e2e.busybox import write_image
from ..server import until
from .control import ControlPlane
from .network import PREFIX, PREFIX6, Link
from .node import PAUSE, Node, built

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from ..rest import Rest

_NAMES = ("n1", "n2", "n3")
RENAMED = "other"  # one more name that a node may have


class Cluster:
    """Nodes on one link, with the control plane in the network of the first; a context manager.

    ``images`` are archives that each node loads before it joins, ``tags`` second names of images.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 2,
        images: Sequence[Path] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self._link = Link()
        self.identity = self._link.identity  # names of what it has on the machine end with it
        self._wanted = nodes
        self._images = list(images)
        self._tags = dict(tags or {})
        self.nodes: dict[str, Node] = {}
        self._control: ControlPlane | None = None

    @property
    def control(self) -> ControlPlane:
        """The control plane."""
        assert self._control is not None, "it does not run"
        return self._control

    @property
    def admin(self) -> Rest:
        """The API as an administrator may use it."""
        return self.control.rest()

    # Life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the nodes and the control plane beside each other; then the kubelets."""
        self.directory.mkdir(parents=True, exist_ok=True)
        pause = self.directory / "pause.tar"
        write_image(pause, PAUSE, ["/bin/busybox", "sleep", "1000000"])
        self._images.insert(0, pause)
        self._link.make()
        made = [self._make(name) for name in _NAMES[: self._wanted]]
        first = made[0]
        self._control = ControlPlane(first.netns, first.addresses, self.directory / "control")
        with ThreadPoolExecutor() as pool:
            jobs = [pool.submit(self._prepare, node) for node in made]
            jobs.append(pool.submit(self.control.start, (*_NAMES, RENAMED)))
            for each in jobs:
                each.result()
        for node in made:
            node.start_kubelet(self.control.kubeconfig(node.name))
        until(lambda: self._joined() >= set(self.nodes), "all nodes have joined")

    def _make(self, name: str) -> Node:
        number = _NAMES.index(name) + 1
        netns = self._link.attach(name, number)
        addresses = (f"{PREFIX}{number}", f"{PREFIX6}{number}")
        node = Node(name, addresses, netns, self.directory / name)
        self.nodes[name] = node
        return node

    def _prepare(self, node: Node) -> None:
        node.start()
        for each in self._images:
            node.load(each)
        for old, new in self._tags.items():
            node.ctr("images", "tag", old, new)

    def _joined(self) -> set[str]:
        items = self.admin.get("/api/v1/nodes").done()["items"]
        return {each["metadata"]["name"] for each in items}

    def add(self, name: str) -> Node:
        """Start one more node and let it join."""
        node = self._make(name)
        self._prepare(node)
        node.start_kubelet(self.control.kubeconfig(name))
        return node

    def rename(self, name: str, other: str) -> None:
        """Let a node's kubelet start under another name; what runs on the node goes on."""
        node = self.nodes.pop(name)
        node.kill_kubelet()
        node.name = other
        node.run("hostname", other)
        node.start_kubelet(self.control.kubeconfig(other))
        self.nodes[other] = node

    def remove(self, name: str) -> None:
        """Take a node away for good, with its disk."""
        node = self.nodes.pop(name)
        node.cut_power()
        node.netns.delete()

    def stop(self) -> None:
        """End all; nothing is left but what is below ``directory``."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._link.remove)
            if self._control is not None:
                stack.callback(self._control.stop)
            for each in self.nodes.values():
                stack.callback(each.cut_power)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # Use ------------------------------------------------------------------------------------

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        """Run kubectl as the administrator, and return what it prints."""
        done = self.tool("kubectl", *arguments, stdin=stdin)
        if check:
            assert done.returncode == 0, f"kubectl {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def tool(self, name: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run kubectl or helm in the network of the first node."""
        environment = ("env", f"KUBECONFIG={self.control.kubeconfig()}")
        command = self.control.netns.command(*environment, str(built(name)), *arguments)
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)

    def apply(self, *documents: dict[str, Any]) -> None:
        """Apply manifests, in their order."""
        items: dict[str, Any] = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        self.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(items))

    def get(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """Return the objects of a kind."""
        found = json.loads(self.kubectl("get", kind, "-o", "json", *arguments))
        items: list[dict[str, Any]] = found["items"]
        return items

    def ready_nodes(self) -> set[str]:
        """The names of the nodes that are Ready."""
        items: Iterable[dict[str, Any]] = self.admin.get("/api/v1/nodes").done()["items"]
        return {each["metadata"]["name"] for each in items if condition(each, "Ready")}


def condition(document: dict[str, Any], kind: str) -> bool:
    """Whether a condition of an object is True."""
    found = document.get("status", {}).get("conditions", ())
    return any(one["type"] == kind and one["status"] == "True" for one in found)
