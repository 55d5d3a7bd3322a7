"""Pods that keep their addresses: two nodes with agents, and what a runtime sends and hears."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

import fastipam
from fastipam.cni.pod_annotations import ADDRESSES, CAPABILITY, FAMILIES, POOL
from fastipam.verify import verify

from ..agent.conftest import run_dir, start  # noqa: F401  # fixtures of the same name
from ..agent.processes import Agent, Client, Reply, until
from ..cni.conftest import call, plugin  # noqa: F401  # fixtures of the same name
from ..cni.plugin import environment
from .machines import accept, owners
from .rest import REQUESTS
from .test_agent import Site

if TYPE_CHECKING:
    from pathlib import Path

    from ..cni.plugin import Call
    from .conftest import Api

POD = ["10.9.0.10", "fd09::10"]
LISTED = "10.9.0.10-10.9.0.17,fd09::10/125"


class Node:
    """A node and its agent."""

    def __init__(self, api: Api, path: Path, name: str, start: Callable[..., Agent]) -> None:  # noqa: F811
        path.mkdir()
        self.site = Site(api, path, name)
        self.agent = start("--cluster", str(self.site.conflist), name=name)
        until(self.site.has_pools, f"the agent of {name} has a block")

    def ask(
        self,
        verb: str,
        container: str,
        *,
        pod: str = "",
        ips: list[str] | None = None,
        annotation: str = "",
        timeout: float = 5,
        others: dict[str, str] | None = None,
    ) -> Reply:
        """A request, as a runtime sends it for a pod; ``others`` are more annotations."""
        config: dict[str, Any] = self.site.config(timeout=timeout)
        config["ipam"]["cooldown"] = 3600
        if ips:
            config["runtimeConfig"] = {"ips": ips}
        if annotation:
            config.setdefault("runtimeConfig", {})[CAPABILITY] = {ADDRESSES: annotation} | (
                others or {}
            )
        variables = environment(verb, container)
        if pod:
            variables["CNI_ARGS"] = (
                f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID=u"
            )
        with Client(self.agent.path) as client:
            client.send(variables, json.dumps(config).encode())
            return client.receive()


Nodes = tuple[Node, Node]


@pytest.fixture
def nodes(api: Api, tmp_path: Path, start: Callable[..., Agent]) -> Iterator[Nodes]:  # noqa: F811
    """Two nodes, with a pool of larger blocks and one of single addresses in each family."""
    accept(api, "default", "10.32.0.0/20", 24)
    accept(api, "default-v6", "fd32::/112", 120)
    accept(api, "fixed", "10.9.0.0/24", 32)
    accept(api, "fixed-v6", "fd09::/112", 128)
    made = Node(api, tmp_path / "a", "a", start), Node(api, tmp_path / "b", "b", start)
    yield made
    for one in made:
        with fastipam.open(one.site.store) as ipam:
            assert not verify(ipam.store)


def of(reply: Reply) -> list[str]:
    """The addresses of a result."""
    assert reply.status == 0, reply
    return [one["address"].partition("/")[0] for one in reply.document["ips"]]


def test_a_stateful_set_moves(nodes: Nodes, api: Api) -> None:
    """Three pods, drained to the other node and back, keep what the annotation lists for them."""
    one, two = nodes
    wanted = {f"web-{at}": [f"10.9.0.{10 + at}", f"fd09::{10 + at}"] for at in range(3)}
    for here, there in ((one, two), (two, one), (one, two)):
        for pod, addresses in wanted.items():
            assert there.ask("DEL", pod).status == 0
            assert of(here.ask("ADD", pod, pod=pod, annotation=LISTED)) == addresses
        singles = {cidr for cidr in owners(api) if cidr.endswith(("/32", "/128"))}
        assert {owners(api)[cidr] for cidr in singles} == {here.site.name}
        assert len(singles) == 6
    until(lambda: not api.admin.get(REQUESTS).done()["items"], "no request is left")


def test_ips_of_the_runtime(nodes: Nodes) -> None:
    """Requested by capability ``ips``, the blocks come to the node as well."""
    one, two = nodes
    assert of(one.ask("ADD", "c1", ips=POD)) == POD
    assert one.ask("DEL", "c1").status == 0
    assert of(two.ask("ADD", "c2", ips=POD)) == POD


def test_an_address_that_a_pod_has(nodes: Nodes) -> None:
    """The ADD waits as long as the settings say, then hears which node has it: try again later."""
    one, two = nodes
    assert of(one.ask("ADD", "c1", ips=POD)) == POD
    refused = two.ask("ADD", "c2", ips=POD, timeout=1)
    assert refused.document["code"] == 11, refused
    assert "10.9.0.10 belongs to node a" in refused.document["msg"]
    assert "kubectl delete node a" in refused.document["details"]


def test_the_sandbox_before_has_not_ended(nodes: Nodes) -> None:
    """The next sandbox of a pod waits for the DEL of the one before, on the same node, too."""
    one, _ = nodes
    assert of(one.ask("ADD", "old", pod="web-0", annotation=LISTED)) == POD
    refused = one.ask("ADD", "new", pod="web-0", annotation=LISTED, timeout=0.3)
    assert refused.document["code"] == 11, refused
    assert "another sandbox of pod default/web-0 has not ended yet" in refused.document["msg"]
    assert "fastipam release 10.9.0.10" in refused.document["details"]
    answers: list[Reply] = []
    asking = threading.Thread(
        target=lambda: answers.append(one.ask("ADD", "new", pod="web-0", annotation=LISTED))
    )
    asking.start()
    assert one.ask("DEL", "old").status == 0
    asking.join()
    assert of(answers[0]) == POD
    other = one.ask("ADD", "x", pod="db-0", annotation=LISTED)
    assert other.document["code"] == 101, other
    told = f"pod annotation {ADDRESSES}: the requested address 10.9.0.10 is assigned to new eth0"
    assert other.document["msg"].startswith(told)


def test_refusals_name_the_annotation(nodes: Nodes) -> None:
    """Whatever refuses a listed address; one that the runtime requests is not the annotation's."""
    one, two = nodes
    assert of(one.ask("ADD", "c1", pod="web-0", annotation=LISTED)) == POD
    mine = of(one.ask("ADD", "c2"))[0]
    for annotation, ips, code, text in (
        (mine, None, 103, "the requested address lies in block"),
        ("10.77.0.1", None, 103, "the requested address 10.77.0.1 is in no range"),
        ("10.9.0.0", None, 103, "the requested address 10.9.0.0 is in no range"),
        ("10.9.0.10", None, 11, "the requested address 10.9.0.10 belongs to node a"),
        ("fd09::77", ["10.9.0.10"], 11, ""),
    ):
        refused = two.ask("ADD", "d", pod="x", annotation=annotation, ips=ips, timeout=0.5)
        assert refused.document["code"] == code, refused
        before = "" if ips else f"pod annotation {ADDRESSES}: "
        assert refused.document["msg"].startswith(before + text), refused
        assert (ADDRESSES in refused.document["msg"]) == (not ips)


def test_an_address_in_a_larger_block(nodes: Nodes) -> None:
    """Refused at once on another node, with its node and the way out; served on that one."""
    one, two = nodes
    mine = of(one.ask("ADD", "c1"))[0]
    head, _, last = mine.rpartition(".")
    other = f"{head}.{int(last) + 1}"
    refused = two.ask("ADD", "c2", ips=[other])
    assert refused.document["code"] == 103, refused
    assert "which node a owns: only that node assigns it" in refused.document["msg"]
    assert "blockSize 32" in refused.document["details"]
    assert of(one.ask("ADD", "c2", ips=[other]))[0] == other


def test_a_number_beyond_the_list(nodes: Nodes) -> None:
    """Refused with both values, and nothing is claimed."""
    refused = nodes[0].ask("ADD", "c1", pod="web-8", annotation=LISTED)
    assert refused.document["code"] == 7, refused
    assert "has ordinal 8, but only 8 IPv4 addresses are listed" in refused.document["msg"]


def test_a_plugin_without_an_agent(nodes: Nodes, call: Call) -> None:  # noqa: F811
    """What is on the node it assigns; what is elsewhere it asks nobody for."""
    one, _ = nodes
    assert of(one.ask("ADD", "c1", ips=POD)) == POD
    assert one.ask("DEL", "c1").status == 0
    one.agent.terminate()
    config = one.site.config() | {"runtimeConfig": {"ips": POD}}
    assert call("ADD", config, "c1").status == 0
    config["runtimeConfig"] = {"ips": ["10.9.0.99"]}
    refused = call("ADD", config, "c2")
    assert refused.code == 11, refused
    assert "this node does not own 10.9.0.99" in refused.message


@pytest.fixture
def node(api: Api, tmp_path: Path, start: Callable[..., Agent]) -> Node:  # noqa: F811
    """A node where IPv6 has addresses on request only, and a pool that has to be named."""
    accept(api, "default", "10.32.0.0/20", 24)
    accept(api, "fixed", "10.9.0.0/24", 32, assignment="Manual")
    accept(api, "fixed-v6", "fd09::/112", 128)
    return Node(api, tmp_path / "a", "a", start)


def test_a_family_that_has_such_addresses_only(node: Node, api: Api) -> None:
    """A pod that requests none gets none of the family; one that does gets both."""
    plain = of(node.ask("ADD", "c1"))
    assert len(plain) == 1
    assert plain[0].startswith("10.32.")
    assert node.ask("STATUS", "").status == 0
    both = of(node.ask("ADD", "web-1", pod="web-1", annotation="fd09::10/125"))
    assert (both[0].partition(".")[0], both[1]) == ("10", "fd09::11")
    assert of(node.ask("ADD", "c3", ips=POD)) == POD
    assert set(owners(api)) >= {"10.9.0.10/32", "fd09::10/128", "fd09::11/128"}


def test_beside_the_other_annotations(node: Node) -> None:
    """A list needs no pool to be named, and comes before one that is."""
    reply = node.ask("ADD", "c1", annotation="10.9.0.12", others={FAMILIES: "v4"})
    assert of(reply) == ["10.9.0.12"]
    named = node.ask("ADD", "c2", annotation="10.9.0.13", others={POOL: "fixed"})
    assert of(named) == ["10.9.0.13"]
    other = node.ask("ADD", "c3", annotation="10.9.0.14", others={POOL: "default"})
    assert of(other) == ["10.9.0.14"]
