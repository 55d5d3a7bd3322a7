"""How far a DaemonSet is, and `fastipam cluster rollout`, which waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fastipam.cli.commands import cli
from fastipam.cli.commands.cluster.rollout import wait
from fastipam.cluster.admin import rollout
from fastipam.cluster.admin.rollout import Rollout
from fastipam.cluster.engine import EngineTimeout, EngineUnavailable
from fastipam.cluster.registries.kubernetes.access import Access, parse_server
from fastipam.cluster.registries.kubernetes.client import Client

from .conftest import Api
from .rest import SYSTEM
from .server import ApiServer

SETS = f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets"
PODS = f"/api/v1/namespaces/{SYSTEM}/pods"
NAME = "things"
_LABELS = {"app": NAME}
_CONTAINER = {"name": "a", "image": "example.com/a"}


def _make(api: Api) -> Any:
    """A DaemonSet that no controller has seen."""
    spec = {
        "selector": {"matchLabels": _LABELS},
        "template": {"metadata": {"labels": _LABELS}, "spec": {"containers": [_CONTAINER]}},
    }
    made = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": NAME}, "spec": spec}
    return api.admin.create(SETS, made).done()


def _pod(api: Api, owner: Any, node: str, *, ready: bool) -> None:
    """A pod of it on a node."""
    reference = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": NAME}
    metadata = {
        "name": f"{NAME}-{node}",
        "labels": _LABELS,
        "ownerReferences": [reference | {"uid": owner["metadata"]["uid"]}],
    }
    spec = {"nodeName": node, "containers": [_CONTAINER]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    api.admin.create(PODS, pod).done()
    status = {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    api.admin.merge(f"{PODS}/{NAME}-{node}/status", {"status": status}).done()


def _tell(api: Api, generation: int, wanted: int, updated: int, ready: int) -> None:
    """What the DaemonSet's controller says."""
    status = {
        "observedGeneration": generation,
        "currentNumberScheduled": updated,
        "numberMisscheduled": 0,
        "desiredNumberScheduled": wanted,
        "updatedNumberScheduled": updated,
        "numberReady": ready,
    }
    api.admin.merge(f"{SETS}/{NAME}/status", {"status": status}).done()


@pytest.fixture
def made(api: Api) -> Iterator[Any]:
    """A DaemonSet; it is deleted afterwards."""
    yield _make(api)
    api.admin.delete(f"{SETS}/{NAME}").done()


@pytest.fixture
def client(api: Api) -> Iterator[Client]:
    """A client that may do all."""
    server = parse_server(f"https://127.0.0.1:{api.admin.port}")
    one = Client(Access([server], ca=str(api.ca), token=api.admin.token))
    yield one
    one.close()


def _look(client: Client) -> Rollout:
    found = rollout.look(client, SYSTEM, NAME)
    assert found is not None
    return found


def test_not_seen_yet(client: Client, made: Any) -> None:
    """No node is to have a pod so far, and that is no end."""
    assert made["metadata"]["generation"] == 1
    found = _look(client)
    assert not found.is_done
    assert str(found) == "the DaemonSet controller has not processed it yet"


def test_nodes_that_are_left(api: Api, client: Client, made: Any) -> None:
    """Their pods are not ready; pods of others do not count."""
    _tell(api, 1, 3, 3, 1)
    _pod(api, made, "n1", ready=True)
    _pod(api, made, "n3", ready=False)
    _pod(api, made, "n2", ready=False)
    _pod(api, {"metadata": {"uid": "another"}}, "n4", ready=False)
    found = _look(client)
    assert not found.is_done
    assert str(found) == "ready on 1 of 3 nodes; not on n2, n3"


def test_done(api: Api, client: Client, made: Any) -> None:  # noqa: ARG001
    """A ready pod of the present version on every node; also when there is no node."""
    _tell(api, 1, 2, 2, 2)
    assert _look(client).is_done
    _tell(api, 1, 0, 0, 0)
    assert _look(client).is_done


def test_pods_of_the_version_before(api: Api, client: Client, made: Any) -> None:  # noqa: ARG001
    """They are ready, and it is not done; nor is it before its controller has seen the change."""
    _tell(api, 1, 2, 1, 2)
    assert not _look(client).is_done
    _tell(api, 1, 2, 2, 2)
    api.admin.merge(f"{SETS}/{NAME}", {"spec": {"minReadySeconds": 1}}).done()
    assert not _look(client).is_done
    _tell(api, 2, 2, 2, 2)
    assert _look(client).is_done


def test_there_is_none(client: Client) -> None:
    """None, and no counts."""
    assert rollout.look(client, SYSTEM, "no-such") is None


# The command ------------------------------------------------------------------------------------


def _run(server: ApiServer, *words: str) -> Result:
    config = f"--kubeconfig={server.kubeconfig()}"
    return CliRunner().invoke(cli, ["cluster", "rollout", config, f"--namespace={SYSTEM}", *words])


def test_a_server_that_is_away_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again until the time is over; then its error is the answer."""
    answers: list[Any] = [
        EngineUnavailable("connection refused"),
        EngineTimeout("no answer"),
        Rollout(True, 1, 1, ()),
    ]

    def look(*_: object) -> Any:
        if isinstance(answers[0], Exception):
            raise answers.pop(0)
        return answers[0]

    monkeypatch.setattr(rollout, "look", look)
    monkeypatch.setattr("time.sleep", lambda _: None)
    nobody = Client(Access([parse_server("https://127.0.0.1:1")]))
    wait(nobody, "n", NAME, 60)
    assert len(answers) == 1
    answers.insert(0, EngineUnavailable("connection refused"))
    with pytest.raises(EngineUnavailable, match="connection refused"):
        wait(nobody, "n", NAME, 0)
    nobody.close()


def test_command(api_server: ApiServer) -> None:
    """It says how far it is, ends when it is done, and fails with the nodes that are left."""
    missing = _run(api_server, NAME)
    assert missing.exit_code == 1
    assert f"the namespace {SYSTEM} has no DaemonSet {NAME}" in missing.output
    as_kubectl_prints_it = _run(api_server, f"daemonset.apps/{NAME}")
    assert as_kubectl_prints_it.output == missing.output
    for odd in ("deployment/x", "a/b/c", "A", "a b", "../x", "x" * 254):
        refused = _run(api_server, odd)
        assert refused.exit_code == 1
        assert "type its name, such as fastipam-agent" in refused.output
    made = _make(api_server)
    try:
        _tell(api_server, 1, 1, 1, 0)
        _pod(api_server, made, "n1", ready=False)
        late = _run(api_server, NAME, "--timeout", "0")
        assert late.exit_code == 1
        assert f"{NAME}: after 0 s: ready on 0 of 1 nodes; not on n1" in late.output
        _tell(api_server, 1, 1, 1, 1)
        done = _run(api_server, NAME)
        assert (done.exit_code, done.output.count("ready on 1 of 1 nodes")) == (0, 1)
    finally:
        api_server.admin.delete(f"{SETS}/{NAME}").done()
