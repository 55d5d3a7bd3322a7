"""What an agent's token and the controller's may do, and what not, by the rendered chart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from .bodies import answered, block, block_name, lease, node, pool, request
from .conftest import Api
from .rest import BLOCKS, LEASES, NODES, POOLS, REQUESTS, SYSTEM, Answer, Rest

Body = dict[str, Any]
_EVENTS = "/api/v1/namespaces/default/events"


@dataclass
class Node:
    """A node of a test: its names, its agent's token, and what it owns."""

    name: str
    rest: Rest
    cidr: str
    block: Body
    request: Body
    lease: Body

    @property
    def at(self) -> str:
        """The path of its block."""
        return f"{BLOCKS}/{block_name(self.cidr)}"


def _joined(server: Api, name: str, cidr: str) -> Node:
    """A node that has done what agents do: it has an entry, a block, a request and a lease."""
    rest = server.node(name)
    rest.create(NODES, node(name)).done()
    return Node(
        name,
        rest,
        cidr,
        rest.create(BLOCKS, block(cidr, name)).done(),
        rest.create(REQUESTS, request(name)).done(),
        rest.create(LEASES, lease(name)).done(),
    )


@dataclass
class Pair:
    """Node a wants to do something; b is another node, and so is c, which nobody heard of."""

    server: Api
    a: Node
    b: Node
    free: str = "10.32.3.0/24"  # nobody owns it
    c: str = "c"


@pytest.fixture
def pair(api: Api) -> Pair:
    """Two nodes that have joined."""
    return Pair(
        api,
        _joined(api, "a", "10.32.1.0/24"),
        _joined(api, "b", "10.32.2.0/24"),
    )


def _given(it: Body, to: str, by: str, **spec: Any) -> Body:
    """A block, given away."""
    grant = {"request": "uid-1", "number": 1, "from": by}
    return it | {"spec": it["spec"] | {"node": to, "grant": grant} | spec}


def _changed(it: Body, **spec: Any) -> Body:
    return it | {"spec": it["spec"] | spec}


def _marked(body: Body, **metadata: Any) -> Body:
    return body | {"metadata": body["metadata"] | metadata}


def _status(it: Body, by: str) -> Body:
    return it | {"status": answered(by, "10-35-0-0-24")}


_OWNER = {"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "0"}

# By a's token. The policy refuses: 422 (a policy's refusal is Invalid), by name.
FORBIDDEN: dict[str, Callable[[Pair], Answer]] = {
    "claim in b's name": lambda it: it.a.rest.create(BLOCKS, block(it.free, it.b.name)),
    "take b's block": lambda it: it.a.rest.replace(it.b.at, _changed(it.b.block, node=it.a.name)),
    "take b's block by a grant of one's own": lambda it: it.a.rest.replace(
        it.b.at, _given(it.b.block, it.a.name, it.a.name)
    ),
    "take b's block by a grant in b's name": lambda it: it.a.rest.replace(
        it.b.at, _given(it.b.block, it.a.name, it.b.name)
    ),
    "change b's block": lambda it: it.a.rest.replace(
        it.b.at, _changed(it.b.block, via=["10.0.0.1"])
    ),
    "delete b's block": lambda it: it.a.rest.delete(it.b.at),
    "delete b's block by version": lambda it: it.a.rest.delete(
        it.b.at, version=it.b.block["metadata"]["resourceVersion"]
    ),
    "make c's entry": lambda it: it.a.rest.create(NODES, node(it.c)),
    "make an entry that the server names": lambda it: it.a.rest.create(
        NODES, node("") | {"metadata": {"generateName": it.a.name}}
    ),
    "change b's entry": lambda it: it.a.rest.replace(
        f"{NODES}/{it.b.name}",
        _changed(it.b.rest.get(f"{NODES}/{it.b.name}").done(), epoch=2, incarnation="other"),
    ),
    "tell b's usage": lambda it: it.a.rest.merge(
        f"{NODES}/{it.b.name}/status", {"status": {"free": 0}}
    ),
    "ask in c's name": lambda it: it.a.rest.create(REQUESTS, request(it.c)),
    "withdraw b's request": lambda it: it.a.rest.delete(f"{REQUESTS}/{it.b.name}"),
    "answer b's request in c's name": lambda it: it.a.rest.replace(
        f"{REQUESTS}/{it.b.name}/status", _status(it.b.request, it.c)
    ),
    "answer b's request in b's name": lambda it: it.a.rest.replace(
        f"{REQUESTS}/{it.b.name}/status", _status(it.b.request, it.b.name)
    ),
    "answer one's own request": lambda it: it.a.rest.replace(
        f"{REQUESTS}/{it.a.name}/status", _status(it.a.request, it.a.name)
    ),
    "make c's lease": lambda it: it.a.rest.create(LEASES, lease(it.c)),
    "renew b's lease": lambda it: it.a.rest.replace(f"{LEASES}/{it.b.name}", it.b.lease),
    "end b's lease": lambda it: it.a.rest.delete(f"{LEASES}/{it.b.name}"),
    "become the controller": lambda it: it.a.rest.create(LEASES, lease("fastipam-controller")),
    "claim with a finalizer": lambda it: it.a.rest.create(
        BLOCKS, _marked(block(it.free, it.a.name), finalizers=["example.com/never"])
    ),
    "claim with an owner": lambda it: it.a.rest.create(
        BLOCKS, _marked(block(it.free, it.a.name), ownerReferences=[_OWNER])
    ),
    "give one's block an owner": lambda it: it.a.rest.replace(
        it.a.at, _marked(it.a.block, ownerReferences=[_OWNER])
    ),
    # The schema refuses.
    "give one's block away without a grant": lambda it: it.a.rest.replace(
        it.a.at, _changed(it.a.block, node=it.b.name)
    ),
    "give one's block away in c's name": lambda it: it.a.rest.replace(
        it.a.at, _given(it.a.block, it.b.name, it.c)
    ),
    "move one's block": lambda it: it.a.rest.replace(it.a.at, _changed(it.a.block, pool="other")),
}

# By a's token. It has no right: 403.
NO_RIGHT: dict[str, Callable[[Pair], Answer]] = {
    "delete all blocks": lambda it: it.a.rest.delete(BLOCKS),
    "delete all of one's blocks": lambda it: it.a.rest.request(
        "DELETE", BLOCKS, query={"fieldSelector": f"spec.node={it.a.name}"}
    ),
    "delete all requests": lambda it: it.a.rest.delete(REQUESTS),
    "delete all entries": lambda it: it.a.rest.delete(NODES),
    "delete all leases": lambda it: it.a.rest.delete(LEASES),
    "patch one's block": lambda it: it.a.rest.merge(it.a.at, {"spec": {"epoch": 2}}),
    "apply one's block": lambda it: it.a.rest.apply(it.a.at, block(it.a.cidr, it.a.name)),
    "patch one's entry": lambda it: it.a.rest.merge(f"{NODES}/{it.a.name}", {"spec": {"epoch": 2}}),
    "delete one's entry": lambda it: it.a.rest.delete(f"{NODES}/{it.a.name}"),
    "list entries": lambda it: it.a.rest.get(NODES),
    "change one's request": lambda it: it.a.rest.replace(
        f"{REQUESTS}/{it.a.name}", _changed(it.a.request, blocks=2)
    ),
    "make a pool": lambda it: it.a.rest.create(POOLS, pool(it.a.name, "10.40.0.0/16", 24)),
    "change a pool": lambda it: it.a.rest.merge(f"{POOLS}/default", {"spec": {"disabled": True}}),
    "accept a pool": lambda it: it.a.rest.merge(f"{POOLS}/default/status", {"status": {}}),
    "delete a pool": lambda it: it.a.rest.delete(f"{POOLS}/default"),
    "read secrets": lambda it: it.a.rest.get(f"/api/v1/namespaces/{SYSTEM}/secrets"),
    "read a secret": lambda it: it.a.rest.get(f"/api/v1/namespaces/{SYSTEM}/secrets/any"),
    "read pods": lambda it: it.a.rest.get("/api/v1/pods"),
    "read pods beside one's own": lambda it: it.a.rest.get(f"/api/v1/namespaces/{SYSTEM}/pods"),
    "list namespaces": lambda it: it.a.rest.get("/api/v1/namespaces"),
    "change a namespace": lambda it: it.a.rest.merge(
        "/api/v1/namespaces/default", {"metadata": {"labels": {"a": "b"}}}
    ),
    "list nodes": lambda it: it.a.rest.get("/api/v1/nodes"),
    "change one's node": lambda it: it.a.rest.merge(
        f"/api/v1/nodes/{it.a.name}", {"metadata": {"labels": {"a": "b"}}}
    ),
    "list leases": lambda it: it.a.rest.get(LEASES),
    "read leases elsewhere": lambda it: it.a.rest.get(
        LEASES.replace(SYSTEM, "kube-system") + "/kube-controller-manager"
    ),
    "change a kind": lambda it: it.a.rest.merge(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/addressblocks.fastipam.io",
        {"metadata": {"labels": {"a": "b"}}},
    ),
    "make a token": lambda it: it.a.rest.create(
        f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/fastipam-controller/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
    ),
    "list events": lambda it: it.a.rest.get(_EVENTS),
    "write an event": lambda it: it.a.rest.create(_EVENTS, _event(it.a.name)),
    "write an event elsewhere": lambda it: it.a.rest.create(
        f"/api/v1/namespaces/{SYSTEM}/events", _event(it.a.name)
    ),
}


def _all_objects(server: Api) -> list[Body]:
    """Every object that agents write, as it is now."""
    return [
        each
        for path in (BLOCKS, NODES, REQUESTS, LEASES, POOLS)
        for each in server.admin.get(path).done()["items"]
    ]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_forbidden(pair: Pair, what: str) -> None:
    """Node a's token cannot do it, and nothing has changed afterwards."""
    before = _all_objects(pair.server)
    answer = FORBIDDEN[what](pair)
    assert answer.status == 422, (answer.status, answer.message)
    assert _all_objects(pair.server) == before


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("take b's block by a grant in b's name", "is b's, not a's"),
        ("delete b's block", "is b's, not a's"),
        ("claim in b's name", "is b's, not a's"),
        ("change b's entry", "the entry b is not a's"),
        ("withdraw b's request", "the request b is not for a to change"),
        ("answer b's request in c's name", "the request b is not for a to answer so"),
        ("renew b's lease", "the lease b is not a's"),
        ("claim with a finalizer", "no finalizers and no owners"),
        ("give one's block away in c's name", "only a can give the block away"),
    ],
)
def test_refusals_say_why(pair: Pair, what: str, message: str) -> None:
    """The message names the object and the node."""
    FORBIDDEN[what](pair).refused(422, message)


@pytest.mark.parametrize("what", NO_RIGHT)
def test_no_right(pair: Pair, what: str) -> None:
    """RBAC gives agents nothing that they do not need."""
    before = _all_objects(pair.server)
    NO_RIGHT[what](pair).refused(403, "forbidden")
    assert _all_objects(pair.server) == before


@pytest.mark.parametrize("path", [BLOCKS, NODES, REQUESTS, LEASES])
def test_token_without_a_node(pair: Pair, path: str) -> None:
    """A token that was not bound to a pod is nobody's, and changes nothing."""
    nobody = pair.server.rest(pair.server.token("fastipam-agent"))
    body = {
        BLOCKS: block(pair.free, pair.a.name),
        NODES: node("nobody"),
        REQUESTS: request("nobody"),
        LEASES: lease("nobody"),
    }[path]
    nobody.create(path, body).refused(422, "the token names no node")
    assert nobody.get(BLOCKS).status == 200


def test_pod_of_no_node(pair: Pair) -> None:
    """A pod that is not scheduled yet has no node either."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "agent-"},
        "spec": {
            "serviceAccountName": "fastipam-agent",
            "containers": [{"name": "agent", "image": "example.com/fastipam"}],
        },
    }
    made = pair.server.admin.create(f"/api/v1/namespaces/{SYSTEM}/pods", pod).done()
    nobody = pair.server.rest(pair.server.token("fastipam-agent", made))
    nobody.create(BLOCKS, block(pair.free, pair.a.name)).refused(422, "names no node")


def test_other_accounts_are_not_agents(pair: Pair) -> None:
    """Whoever else is in the namespace may do nothing at all."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": pair.a.name}}
    path = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts"
    pair.server.admin.create(path, account).done()
    other = pair.server.rest(pair.server.token(pair.a.name))
    other.create(BLOCKS, block(pair.free, pair.a.name)).refused(403)
    other.get(BLOCKS).refused(403)


# What agents do ---------------------------------------------------------------------------------


def test_claim_stamp_release(pair: Pair) -> None:
    """A block's life with one node, by version; agents are not warned."""
    agent, at = pair.a.rest, f"{BLOCKS}/{block_name(pair.free)}"
    answer = agent.create(BLOCKS, block(pair.free, pair.a.name, claim="1f", claimed=1))
    assert not answer.warnings
    made = agent.replace(at, _changed(answer.done(), epoch=2, via=["192.168.1.7"])).done()
    agent.delete(at, version=made["metadata"]["resourceVersion"]).done()
    assert agent.get(at).status == 404


def test_entry(pair: Pair) -> None:
    """A node's entry: it changes it, and tells its usage."""
    agent, at = pair.a.rest, f"{NODES}/{pair.a.name}"
    changed = _changed(agent.get(at).done(), epoch=2, incarnation="store-2", boot="boot-2")
    agent.replace(at, changed).done()
    told = agent.merge(f"{at}/status", {"status": {"blocks": 1, "state": "Active"}}).done()
    assert told["status"] == {"blocks": 1, "state": "Active"}
    assert told["spec"] == changed["spec"]


def test_hand_over(pair: Pair) -> None:
    """a answers b's request, and gives its block away: after that, only b can change it.

    What a asks again, with the version that it knows, is refused as an old version (409): it then
    reads whose the block is. A refusal by the policy would tell it as much, and less exactly.
    """
    a, b, uid = pair.a, pair.b, pair.b.request["metadata"]["uid"]
    at = f"{REQUESTS}/{b.name}"
    answer = pair.b.request | {"status": answered(a.name, block_name(a.cidr))}
    a.rest.replace(f"{at}/status", answer).done()
    a.rest.replace(f"{at}/status", answer).refused(409)
    grant = {"request": uid, "number": 1, "from": a.name}
    given = _changed(a.block, node=b.name, epoch=1, via=[], grant=grant)
    a.rest.replace(a.at, given).done()
    version = a.block["metadata"]["resourceVersion"]
    a.rest.replace(a.at, given).refused(409)
    a.rest.delete(a.at, version=version).refused(409)
    a.rest.delete(a.at).refused(422, "is b's, not a's")
    mine = b.rest.get(a.at).done()
    assert mine["spec"]["node"] == b.name
    b.rest.replace(a.at, _changed(mine, via=["192.168.1.8"])).done()
    b.rest.delete(at, uid=uid).done()


def test_answered_once(pair: Pair) -> None:
    """The second donor gets a definite no, with the version that the first has left, too."""
    third = pair.server.node("c")
    at = f"{REQUESTS}/{pair.b.name}/status"
    pair.a.rest.replace(at, _status(pair.b.request, pair.a.name)).done()
    third.replace(at, _status(pair.b.request, "c")).refused(409)
    new = third.get(f"{REQUESTS}/{pair.b.name}").done()
    third.replace(at, _status(new, "c")).refused(422, "answered by a already")
    assert third.get(f"{REQUESTS}/{pair.b.name}").done()["status"]["answeredBy"] == "a"


def test_lease(pair: Pair) -> None:
    """Renewed by version, and ended."""
    agent, at = pair.a.rest, f"{LEASES}/{pair.a.name}"
    renewed = agent.replace(at, _changed(pair.a.lease, leaseTransitions=1)).done()
    agent.replace(at, _changed(pair.a.lease, leaseTransitions=2)).refused(409)
    agent.delete(at, version=renewed["metadata"]["resourceVersion"]).done()
    assert agent.get(at).status == 404


def test_reads(pair: Pair) -> None:
    """Pools, blocks, requests, its own Node."""
    agent = pair.a.rest
    for path in (POOLS, BLOCKS, REQUESTS):
        assert agent.get(path).status == 200
    node = agent.get(f"/api/v1/nodes/{pair.a.name}").done()
    assert node["status"]["nodeInfo"]["bootID"] == "boot-1"


def _event(name: str) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{name}."},
        "involvedObject": {"apiVersion": "fastipam.io/v1alpha1", "kind": "AddressPool"},
        "reason": "Exhausted",
        "type": "Warning",
    }


# The controller ---------------------------------------------------------------------------------


@pytest.fixture
def controller(api: Api) -> Rest:
    """The API as the controller may use it."""
    return api.rest(api.token("fastipam-controller"))


def test_controller_accepts_a_pool(controller: Rest, pair: Pair) -> None:
    """It writes the status, and holds the object by a finalizer until its last block is gone."""
    admin, at = pair.server.admin, f"{POOLS}/{pair.a.name}"
    made = admin.create(POOLS, pool(pair.a.name, "10.40.0.0/16", 24)).done()
    held = controller.replace(at, _marked(made, finalizers=["fastipam.io/blocks"])).done()
    accepted = {"generation": held["metadata"]["generation"], "spec": held["spec"]}
    controller.merge(f"{at}/status", {"status": {"accepted": accepted, "used": "0%"}}).done()
    admin.delete(at).done()
    left = controller.get(at).done()
    assert left["metadata"]["deletionTimestamp"]
    controller.replace(at, _marked(left, finalizers=[])).done()
    assert controller.get(at).status == 404


def test_controller_makes_a_first_pool(controller: Rest, pair: Pair) -> None:
    """One that is absent; `fastipam controller --pools` does it."""
    controller.create(POOLS, pool(pair.a.name, "10.40.0.0/16", 24)).done()


def test_controller_reclaims(controller: Rest, pair: Pair) -> None:
    """It ends a lease and an entry, then deletes blocks and the request; nothing warns it."""
    name = pair.b.name
    for path in (BLOCKS, NODES, REQUESTS, LEASES, "/api/v1/nodes"):
        assert controller.get(path).status == 200
    controller.delete(f"{LEASES}/{name}").done()
    entry = controller.get(f"{NODES}/{name}").done()
    ended = controller.replace(f"{NODES}/{name}", _changed(entry, incarnation="", epoch=2))
    assert ended.done()["spec"]["epoch"] == 2
    assert not ended.warnings
    controller.merge(f"{NODES}/{name}/status", {"status": {"state": "Removed"}}).done()
    deleted = controller.delete(pair.b.at, version=pair.b.block["metadata"]["resourceVersion"])
    deleted.done()
    assert not deleted.warnings
    controller.delete(f"{REQUESTS}/{name}").done()
    controller.delete(f"{NODES}/{name}").done()
    controller.create(NODES, node(name, incarnation="", epoch=3)).done()  # of blocks without one


def test_controller_makes_blocks_of_pod_cidrs(controller: Rest, pair: Pair) -> None:
    """With claims: NodeCIDRs it makes a block in a node's name; its own lease; events."""
    controller.create(BLOCKS, block(pair.free, pair.a.name)).done()
    controller.create(LEASES, lease("fastipam-controller")).done()
    made = controller.create(_EVENTS, _event(pair.a.name)).done()
    controller.merge(f"{_EVENTS}/{made['metadata']['name']}", {"count": 2}).done()


@pytest.mark.parametrize(
    "ask",
    [
        lambda who, it: who.replace(it.a.at, it.a.block),
        lambda who, it: who.merge(it.a.at, {"spec": {"epoch": 2}}),
        lambda who, _: who.delete(BLOCKS),
        lambda who, _: who.delete(NODES),
        lambda who, it: who.create(REQUESTS, request(it.c)),
        lambda who, it: who.replace(f"{REQUESTS}/{it.a.name}/status", it.a.request),
        lambda who, it: who.delete(f"{POOLS}/{it.a.name}"),
        lambda who, _: who.get(f"/api/v1/namespaces/{SYSTEM}/secrets"),
        lambda who, _: who.get("/api/v1/pods"),
        lambda who, it: who.delete(f"/api/v1/nodes/{it.a.name}"),
        lambda who, _: who.get(LEASES.replace(SYSTEM, "kube-system")),
    ],
)
def test_controller_has_no_right(
    controller: Rest, pair: Pair, ask: Callable[[Rest, Pair], Answer]
) -> None:
    """It changes no block and asks for none, deletes no pool, and reads nothing of others."""
    ask(controller, pair).refused(403, "forbidden")


# People -----------------------------------------------------------------------------------------


def test_people_are_warned(pair: Pair) -> None:
    """A change of a block or an entry by hand is made, with a warning; a pool is theirs."""
    admin = pair.server.admin
    by_hand = "can give one address to two pods"
    changed = admin.merge(pair.a.at, {"spec": {"via": ["10.0.0.1"]}})
    assert changed.done()["spec"]["via"] == ["10.0.0.1"]
    assert by_hand in changed.warnings[0]
    assert by_hand in admin.delete(pair.a.at).warnings[0]
    assert by_hand in admin.delete(f"{NODES}/{pair.a.name}").warnings[0]
    made = admin.create(POOLS, pool(pair.a.name, "10.40.0.0/16", 24))
    made.done()
    assert not made.warnings
    assert not admin.delete(f"{POOLS}/{pair.a.name}").warnings
