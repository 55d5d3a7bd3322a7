"""What the protocol builds on: names, versions, preconditions and selectors; what people see."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .. import rendering
from .bodies import answered, block, block_name, node, pool, request
from .rest import BLOCKS, GROUP, NODES, POOLS, REQUESTS, Rest
from .server import ApiServer

CIDR = "10.32.7.0/24"
AT = f"{BLOCKS}/{block_name(CIDR)}"


@pytest.fixture
def kubectl(kubernetes_program: Callable[[str], Path], api_server: ApiServer) -> Callable[..., str]:
    """A function: what kubectl prints."""
    program = kubernetes_program("kubectl")
    config = api_server.kubeconfig()

    def run(*arguments: str) -> str:
        command = [str(program), f"--kubeconfig={config}", "--cache-dir", str(config.parent / "c")]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def _changed(body: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return body | {"spec": body["spec"] | spec}


# Manifests --------------------------------------------------------------------------------------


def test_kinds_are_established(real_admin: Rest) -> None:
    """The server serves all four, and finds nothing wrong with their schemas."""
    for each in rendering.documents(rendering.KINDS):
        name = each["metadata"]["name"]
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        conditions = real_admin.get(path).done()["status"]["conditions"]
        found = {one["type"]: one["status"] for one in conditions}
        assert found["Established"] == found["NamesAccepted"] == "True"
        assert "NonStructuralSchema" not in found


def test_manifests_apply_with_kubectl(kubectl: Callable[..., str]) -> None:
    """As users do it; kubectl and the server know every field."""
    file = f"--filename={rendering.RENDERING}"
    said = kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", file)
    assert said.count("serverside-applied (server dry run)") == len(rendering.documents())


# Names, versions, preconditions -----------------------------------------------------------------


def test_second_create(admin: Rest) -> None:
    """A block that somebody owns cannot be claimed: the object's name is taken."""
    made = admin.create(BLOCKS, block(CIDR, "a")).done()
    admin.create(BLOCKS, block(CIDR, "b")).refused(409, "already exists")
    assert admin.create(BLOCKS, block(CIDR, "b")).body["reason"] == "AlreadyExists"
    assert admin.get(AT).done() == made


def test_old_version(admin: Rest) -> None:
    """Who has not seen the last change can neither change nor delete the block."""
    old = admin.create(BLOCKS, block(CIDR, "a")).done()
    new = admin.replace(AT, _changed(old, epoch=2)).done()
    admin.replace(AT, _changed(old, epoch=3)).refused(409, "modified")
    admin.delete(AT, version=old["metadata"]["resourceVersion"]).refused(409, "precondition")
    assert admin.get(AT).done() == new
    admin.delete(AT, version=new["metadata"]["resourceVersion"]).done()
    assert admin.get(AT).status == 404
    admin.replace(AT, new).refused(404)
    admin.delete(AT).refused(404)


def test_other_uid(admin: Rest) -> None:
    """A request that is there again is not the one that was answered."""
    old = admin.create(REQUESTS, request("a")).done()
    at = f"{REQUESTS}/a"
    admin.delete(at, uid=old["metadata"]["uid"]).done()
    new = admin.create(REQUESTS, request("a", number=2)).done()
    admin.delete(at, uid=old["metadata"]["uid"]).refused(409, "UID")
    status = {"status": answered("b", block_name(CIDR))}
    admin.replace(f"{at}/status", old | status).refused(409)
    admin.replace(f"{at}/status", new | status).done()
    admin.replace(f"{at}/status", new | status).refused(409, "modified")


def test_versions_are_numbers_that_rise(admin: Rest) -> None:
    """They can be compared, over kinds and objects."""
    answers = [
        admin.create(BLOCKS, block(CIDR, "a")),
        admin.create(NODES, node("a")),
        admin.create(BLOCKS, block("10.32.8.0/24", "a")),
    ]
    versions = [int(each.done()["metadata"]["resourceVersion"]) for each in answers]
    assert versions == sorted(set(versions))
    assert int(admin.get(BLOCKS).done()["metadata"]["resourceVersion"]) >= versions[-1]


def test_dead_letters(admin: Rest) -> None:
    """A field that no schema knows is dropped: what is written is what can be read."""
    made = admin.create(BLOCKS, block(CIDR, "a", colour="red")).done()
    assert "colour" not in made["spec"]


# Selectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("spec.node=a", ["10.32.7.0/24", "10.48.0.0/24"]),
        ("spec.pool=other", ["10.48.0.0/24"]),
        ("spec.window=10.32.0.0/16", ["10.32.7.0/24", "10.32.8.0/24"]),
        ("spec.pool=default,spec.window=10.32.0.0/16,spec.node=b", ["10.32.8.0/24"]),
        ("spec.window=fd00:10::/104", ["fd00:10::7:0/112"]),
        ("metadata.name=10-32-8-0-24", ["10.32.8.0/24"]),
    ],
)
def test_field_selector(admin: Rest, selector: str, found: list[str]) -> None:
    """One read for a node's blocks, a pool's, or those of a window."""
    for each in (
        block("10.32.7.0/24", "a"),
        block("10.32.8.0/24", "b"),
        block("10.48.0.0/24", "a", pool="other"),
        block("fd00:10::7:0/112", "b"),
    ):
        admin.create(BLOCKS, each).done()
    listed = admin.get(BLOCKS, fieldSelector=selector).done()["items"]
    assert sorted(each["spec"]["cidr"] for each in listed) == found


def test_other_fields_do_not_select(admin: Rest) -> None:
    """A selector that the server does not know is an error, not everything."""
    admin.get(BLOCKS, fieldSelector="spec.epoch=1").refused(400, "spec.epoch")


# What people see --------------------------------------------------------------------------------


def _columns(table: Any, *, wide: bool = False) -> list[str]:
    return [each["name"] for each in table["columnDefinitions"] if wide or each["priority"] == 0]


def _fill(admin: Rest) -> None:
    """A pool, a block, a node and a request with all that is shown."""
    made = admin.create(POOLS, pool("default", "10.32.0.0/12", 24)).done()
    condition = {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = {
        "accepted": {"generation": made["metadata"]["generation"], "spec": made["spec"]},
        "blocks": {"total": 4096, "owned": 212},
        "used": "31%",
        "conditions": [condition],
    }
    admin.merge(f"{POOLS}/default/status", {"status": status}).done()
    admin.create(BLOCKS, block(CIDR, "worker-7", via=["192.168.1.7", "fd00::7"])).done()
    admin.create(NODES, node("worker-7")).done()
    counts = {"blocks": 1, "used": 30, "free": 225, "state": "Active"}
    admin.merge(f"{NODES}/worker-7/status", {"status": counts}).done()
    admin.create(REQUESTS, request("worker-7")).done()


@pytest.mark.parametrize(
    ("path", "columns", "cells"),
    [
        (
            POOLS,
            "Name CIDR Block Blocks Owned Used Accepted Disabled Age",
            ["default", "10.32.0.0/12", 24, 4096, 212, "31%", "True", False],
        ),
        (BLOCKS, "Name Pool CIDR Node Age", ["10-32-7-0-24", "default", CIDR, "worker-7"]),
        (NODES, "Name Blocks Used Free State Age", ["worker-7", 1, 30, 225, "Active"]),
        (REQUESTS, "Name Pool Blocks AnsweredBy Age", ["worker-7", "default", 1, None]),
    ],
    ids=["pools", "blocks", "nodes", "requests"],
)
def test_printer_columns(real_admin: Rest, path: str, columns: str, cells: list[Any]) -> None:
    """What `kubectl get` shows of each kind."""
    _fill(real_admin)
    table = real_admin.table(path)
    assert _columns(table) == columns.split()
    (row,) = table["rows"]
    assert row["cells"][: len(cells)] == cells


def test_wide_columns(real_admin: Rest) -> None:
    """What `kubectl get addressblocks -o wide` shows besides."""
    _fill(real_admin)
    table = real_admin.table(BLOCKS)
    assert _columns(table, wide=True) == ["Name", "Pool", "CIDR", "Node", "Age", "Via", "Epoch"]
    assert table["rows"][0]["cells"][-2:] == ["192.168.1.7", 1]


def test_kubectl(real_admin: Rest, kubectl: Callable[..., str]) -> None:
    """All kinds by their category, one by its short name, a field explained."""
    _fill(real_admin)
    names = kubectl("get", "fastipam", "--output=name").split()
    assert names == [
        "addressblock.fastipam.io/10-32-7-0-24",
        "addressnode.fastipam.io/worker-7",
        "addresspool.fastipam.io/default",
        "addressrequest.fastipam.io/worker-7",
    ]
    head, row = kubectl("get", "apool").splitlines()
    shown = " ".join(head.split()), " ".join(row.split()[:-1])
    assert shown == (
        "NAME CIDR BLOCK BLOCKS OWNED USED ACCEPTED DISABLED AGE",
        "default 10.32.0.0/12 24 4096 212 31% True false",
    )
    assert "Pods keep" in kubectl("explain", "addresspool.spec.disabled")


def test_group(real_admin: Rest) -> None:
    """Every kind is cluster-scoped, with the short name that the manual says."""
    found = {
        each["name"]: (each["namespaced"], each.get("shortNames"))
        for each in real_admin.get(GROUP).done()["resources"]
        if "/" not in each["name"]
    }
    assert found == {
        "addresspools": (False, ["apool"]),
        "addressblocks": (False, ["ablk"]),
        "addressnodes": (False, ["anode"]),
        "addressrequests": (False, ["areq"]),
    }
