"""What the protocol needs of an API server, on the fake and on a real one: the same answers.

Each test is a function of the API alone (method, path, body: status, JSON). What passes here on
both is what makes the fake faithful; what only the fake can do is in ``test_fake.py``.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from .bodies import answered, block, block_name, lease, node, request
from .conftest import Api
from .rest import BLOCKS, GROUP, LEASES, NODES, REQUESTS, SYSTEM, Answer, Rest

CIDR = "10.32.7.0/24"
AT = f"{BLOCKS}/{block_name(CIDR)}"
FUTURE = "999999999"
EVENTS = "/api/v1/namespaces/default/events"


def _spec(body: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return body | {"spec": body["spec"] | spec}


def _version(body: dict[str, Any]) -> str:
    return str(body["metadata"]["resourceVersion"])


def _refusal(answer: Answer, code: int, reason: str, **details: Any) -> str:
    """Check a Status as clients read it, and return its message."""
    body = answer.body
    assert (body["kind"], body["apiVersion"], body["status"]) == ("Status", "v1", "Failure")
    assert (answer.status, body["code"], body.get("reason")) == (code, code, reason), body
    found = body.get("details", {})
    assert {key: found.get(key) for key in details} == details, body
    return str(body["message"])


def _watch(admin: Rest, path: str = BLOCKS, **query: str) -> list[tuple[str, dict[str, Any]]]:
    """Watch for a second; return types and objects."""
    query = {"watch": "1", "timeoutSeconds": "1", **query}
    text = admin.get(path, **query).text
    events = [json.loads(line) for line in text.splitlines()]
    return [(event["type"], event["object"]) for event in events]


def _names(events: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, str]]:
    return [(what, body["metadata"]["name"]) for what, body in events]


# Creating ---------------------------------------------------------------------------------------


def test_what_the_server_adds(admin: Rest) -> None:
    """uid, time, generation, version; and a GET shows the same."""
    made = admin.create(BLOCKS, block(CIDR, "a") | {"status": {"x": 1}}).done()
    metadata = made["metadata"]
    assert len(metadata["uid"]) == 36
    assert metadata["creationTimestamp"].endswith("Z")
    assert metadata["generation"] == 1
    assert metadata["resourceVersion"].isdecimal()
    assert made["spec"] == block(CIDR, "a")["spec"]
    assert "status" not in made
    assert admin.get(AT).done() == made


def test_status_is_not_created(admin: Rest) -> None:
    """A kind with a status subresource takes no status with its spec."""
    made = admin.create(NODES, node("a") | {"status": {"blocks": 1}}).done()
    assert "status" not in made


def test_name_is_taken(admin: Rest) -> None:
    """The second create is refused, whatever it says."""
    admin.create(BLOCKS, block(CIDR, "a")).done()
    answer = admin.create(BLOCKS, block(CIDR, "b"))
    details = {"name": block_name(CIDR), "group": "fastipam.io", "kind": "addressblocks"}
    assert _refusal(answer, 409, "AlreadyExists", **details) == (
        'addressblocks.fastipam.io "10-32-7-0-24" already exists'
    )


def test_invalid_comes_before_taken(admin: Rest) -> None:
    """An object that the schema refuses is 422, also where the name is taken."""
    admin.create(BLOCKS, block(CIDR, "a")).done()
    answer = admin.create(BLOCKS, block(CIDR, "b", epoch=0))
    message = _refusal(answer, 422, "Invalid", kind="AddressBlock")
    assert "spec.epoch: Invalid value: 0" in message
    assert answer.body["details"]["causes"][0]["field"] == "spec.epoch"


def test_bodies_that_are_none(admin: Rest) -> None:
    """400 for what is no object of this kind."""
    _refusal(admin.create(BLOCKS, []), 400, "BadRequest")
    _refusal(admin.create(BLOCKS, {"metadata": {"name": "a"}}), 400, "BadRequest")
    wrong = block(CIDR, "a") | {"apiVersion": "fastipam.io/v2"}
    assert "does not match" in _refusal(admin.create(BLOCKS, wrong), 400, "BadRequest")
    wrong = block(CIDR, "a") | {"kind": "AddressNode"}
    _refusal(admin.create(BLOCKS, wrong), 422, "Invalid")
    wrong = block(CIDR, "a") | {"metadata": {}}
    assert "name or generateName" in _refusal(admin.create(BLOCKS, wrong), 422, "Invalid")


def test_version_on_create(admin: Rest) -> None:
    """A new object has no version yet."""
    body = block(CIDR, "a")
    body["metadata"]["resourceVersion"] = "5"
    answer = admin.create(BLOCKS, body)
    assert answer.status == 500
    assert "should not be set" in answer.message


def test_dry_run(admin: Rest) -> None:
    """All checks, no change."""
    made = admin.create(BLOCKS, block(CIDR, "a"), dryRun="All").done()
    assert "resourceVersion" not in made["metadata"]
    assert admin.get(AT).status == 404
    admin.create(BLOCKS, block(CIDR, "a")).done()
    _refusal(admin.create(BLOCKS, block(CIDR, "a"), dryRun="All"), 409, "AlreadyExists")


# Replacing --------------------------------------------------------------------------------------


def test_replace(admin: Rest) -> None:
    """By version; generation counts changes of the spec, not of the metadata."""
    old = admin.create(BLOCKS, block(CIDR, "a")).done()
    new = admin.replace(AT, _spec(old, epoch=2)).done()
    assert new["metadata"]["generation"] == 2
    assert int(_version(new)) > int(_version(old))
    assert new["metadata"]["uid"] == old["metadata"]["uid"]
    labelled = new | {"metadata": new["metadata"] | {"labels": {"a": "b"}}}
    assert admin.replace(AT, labelled).done()["metadata"]["generation"] == 2


def test_replace_by_an_old_version(admin: Rest) -> None:
    """409, and nothing has changed."""
    old = admin.create(BLOCKS, block(CIDR, "a")).done()
    new = admin.replace(AT, _spec(old, epoch=2)).done()
    answer = admin.replace(AT, _spec(old, epoch=3))
    message = _refusal(answer, 409, "Conflict", name=block_name(CIDR), kind="addressblocks")
    assert "the object has been modified" in message
    assert admin.get(AT).done() == new


def test_replace_without_a_version(admin: Rest) -> None:
    """422: none of our kinds can be overwritten blindly."""
    admin.create(BLOCKS, block(CIDR, "a")).done()
    for given in ({}, {"resourceVersion": ""}, {"resourceVersion": "0"}):
        metadata = {"metadata": {"name": block_name(CIDR), **given}}
        answer = admin.replace(AT, block(CIDR, "a", epoch=2) | metadata)
        message = _refusal(answer, 422, "Invalid", kind="addressblocks")
        assert "metadata.resourceVersion: Invalid value: 0: must be specified" in message


def test_replace_what_is_not_there(admin: Rest) -> None:
    """404, with a version or without."""
    body = block(CIDR, "a")
    _refusal(admin.replace(AT, body), 404, "NotFound", name=block_name(CIDR))
    body["metadata"]["resourceVersion"] = "5"
    _refusal(admin.replace(AT, body), 404, "NotFound", kind="addressblocks")


def test_replace_another_one_of_that_name(admin: Rest) -> None:
    """A uid in the body is a precondition; no uid is none."""
    old = admin.create(REQUESTS, request("a")).done()
    admin.delete(f"{REQUESTS}/a").done()
    new = admin.create(REQUESTS, request("a")).done()
    body = new | {"metadata": new["metadata"] | {"uid": old["metadata"]["uid"]}}
    assert "UID in precondition" in _refusal(admin.replace(f"{REQUESTS}/a", body), 409, "Conflict")
    metadata = {"name": "a", "resourceVersion": _version(new)}
    admin.replace(f"{REQUESTS}/a", new | {"metadata": metadata}).done()


def test_replace_under_another_name(admin: Rest) -> None:
    """The URL's name and the body's have to be the same."""
    made = admin.create(BLOCKS, block(CIDR, "a")).done()
    body = made | {"metadata": made["metadata"] | {"name": "b"}}
    assert "does not match" in _refusal(admin.replace(AT, body), 400, "BadRequest")


def test_replace_by_the_same(admin: Rest) -> None:
    """Nothing is written: the version stays, no watch hears of it."""
    made = admin.create(BLOCKS, block(CIDR, "a")).done()
    assert admin.replace(AT, made).done() == made
    assert _watch(admin, resourceVersion=_version(made)) == []


# Deleting ---------------------------------------------------------------------------------------


def test_delete(admin: Rest) -> None:
    """By uid and version; a Status says what went."""
    made = admin.create(BLOCKS, block(CIDR, "a")).done()
    uid = made["metadata"]["uid"]
    answer = admin.delete(AT, uid=uid, version=_version(made))
    assert (answer.status, answer.body["status"]) == (200, "Success")
    assert answer.body["details"] == {
        "name": block_name(CIDR),
        "group": "fastipam.io",
        "kind": "addressblocks",
        "uid": uid,
    }
    _refusal(admin.delete(AT, uid=uid), 404, "NotFound", name=block_name(CIDR))


@pytest.mark.parametrize("what", ["uid", "version"])
def test_delete_another_one(admin: Rest, what: str) -> None:
    """409 by either, and it stays."""
    made = admin.create(BLOCKS, block(CIDR, "a")).done()
    answer = admin.delete(AT, **{what: "7"})
    assert "in the precondition (7)" in _refusal(answer, 409, "Conflict", name=block_name(CIDR))
    assert admin.get(AT).done() == made


def test_finalizer(admin: Rest) -> None:
    """Holds an object until it is taken away; meanwhile the name is taken."""
    body = node("a")
    body["metadata"]["finalizers"] = ["fastipam.io/blocks"]
    made = admin.create(NODES, body).done()
    assert admin.delete(f"{NODES}/a").done()["metadata"]["deletionTimestamp"]
    admin.delete(f"{NODES}/a").done()
    held = admin.get(f"{NODES}/a").done()
    assert held["metadata"]["deletionGracePeriodSeconds"] == 0
    assert held["metadata"]["generation"] == 2
    assert "being deleted" in _refusal(admin.create(NODES, node("a")), 409, "AlreadyExists")
    metadata = {key: held["metadata"][key] for key in ("name", "resourceVersion")}
    admin.replace(f"{NODES}/a", held | {"metadata": metadata}).done()
    assert admin.get(f"{NODES}/a").status == 404
    events = _watch(admin, NODES, resourceVersion=_version(made))
    assert [what for what, _body in events] == ["MODIFIED", "DELETED"]


# Status -----------------------------------------------------------------------------------------


def test_status_alone_changes_there(admin: Rest) -> None:
    """/status takes the status only, and counts no generation; the rest leaves status alone."""
    made = admin.create(NODES, node("a")).done()
    body = _spec(made, epoch=9) | {"status": {"blocks": 1}}
    told = admin.replace(f"{NODES}/a/status", body).done()
    assert told["spec"] == made["spec"]
    assert told["status"] == {"blocks": 1}
    assert told["metadata"]["generation"] == 1
    after = admin.replace(f"{NODES}/a", _spec(told, epoch=2) | {"status": {"blocks": 7}}).done()
    assert after["status"] == {"blocks": 1}
    assert after["spec"]["epoch"] == after["metadata"]["generation"] == 2
    assert admin.get(f"{NODES}/a/status").done() == after


def test_patch_of_status(admin: Rest) -> None:
    """A merge patch needs no version, and obeys one; null takes a field away."""
    made = admin.create(NODES, node("a")).done()
    at = f"{NODES}/a/status"
    told = admin.merge(at, {"status": {"blocks": 1, "free": 2}, "spec": {"epoch": 9}}).done()
    assert told["status"] == {"blocks": 1, "free": 2}
    assert told["spec"] == made["spec"]
    assert admin.merge(at, {"status": {"blocks": 1}}).done() == told
    assert admin.merge(at, {"status": {"free": None}}).done()["status"] == {"blocks": 1}
    old = {"metadata": {"resourceVersion": _version(made)}, "status": {"blocks": 3}}
    _refusal(admin.merge(at, old), 409, "Conflict")
    _refusal(admin.merge(at, {"status": {"blocks": -1}}), 422, "Invalid")
    _refusal(admin.merge(f"{NODES}/b/status", {"status": {}}), 404, "NotFound", name="b")
    wrong = admin.request("PATCH", at, {"status": {}}, content_type="application/json")
    _refusal(wrong, 415, "UnsupportedMediaType")


def test_answered_once(admin: Rest) -> None:
    """Of two answers at one version one is refused; a later one by the rule."""
    made = admin.create(REQUESTS, request("a")).done()
    at = f"{REQUESTS}/a/status"
    first = admin.replace(at, made | {"status": answered("b", block_name(CIDR))}).done()
    _refusal(admin.replace(at, made | {"status": answered("c", block_name(CIDR))}), 409, "Conflict")
    answer = admin.replace(at, first | {"status": answered("c", block_name(CIDR))})
    assert "answered by b already" in _refusal(answer, 422, "Invalid")


# Reading ----------------------------------------------------------------------------------------


def test_absent(admin: Rest) -> None:
    """404 for an object, and for a kind that nobody serves."""
    answer = admin.get(AT)
    details = {"name": block_name(CIDR), "group": "fastipam.io", "kind": "addressblocks"}
    assert "not found" in _refusal(answer, 404, "NotFound", **details)
    assert admin.get(f"{GROUP}/foos").status == 404


def test_list(admin: Rest) -> None:
    """Everything at one version, by name; each item says its kind."""
    for third in (9, 7, 8):
        last = admin.create(BLOCKS, block(f"10.32.{third}.0/24", "a")).done()
    for query in (
        {},
        {"resourceVersion": _version(last)},
        {"resourceVersion": _version(last), "resourceVersionMatch": "NotOlderThan"},
        {"resourceVersion": _version(last), "resourceVersionMatch": "Exact"},
    ):
        found = admin.get(BLOCKS, **query).done()
        assert (found["kind"], found["apiVersion"]) == ("AddressBlockList", last["apiVersion"])
        names = [item["metadata"]["name"] for item in found["items"]]
        assert names == ["10-32-7-0-24", "10-32-8-0-24", "10-32-9-0-24"]
        assert {item["kind"] for item in found["items"]} == {"AddressBlock"}
        assert int(_version(found)) >= int(_version(last))


def test_pages_are_one_snapshot(admin: Rest) -> None:
    """What happens after the first page is not on the others."""
    for third in range(5):
        admin.create(BLOCKS, block(f"10.32.{third}.0/24", "a")).done()
    page = admin.get(BLOCKS, limit="2").done()
    assert page["metadata"]["remainingItemCount"] == 3
    version, names = _version(page), [item["metadata"]["name"] for item in page["items"]]
    admin.delete(f"{BLOCKS}/10-32-3-0-24").done()
    admin.create(BLOCKS, block("10.32.2.128/25", "a")).done()
    while token := page["metadata"].get("continue"):
        page = admin.get(BLOCKS, limit="2", **{"continue": token}).done()
        assert _version(page) == version
        names += [item["metadata"]["name"] for item in page["items"]]
    assert names == [f"10-32-{third}-0-24" for third in range(5)]


def test_pages_of_a_selector(admin: Rest) -> None:
    """A limit counts what is selected."""
    for third in range(6):
        admin.create(BLOCKS, block(f"10.32.{third}.0/24", "ab"[third % 2])).done()
    names, token = [], ""
    while True:
        more = {"continue": token} if token else {}
        page = admin.get(BLOCKS, limit="2", fieldSelector="spec.node=b", **more).done()
        names += [item["metadata"]["name"] for item in page["items"]]
        if not (token := page["metadata"].get("continue", "")):
            break
    assert names == ["10-32-1-0-24", "10-32-3-0-24", "10-32-5-0-24"]


def test_the_past(admin: Rest) -> None:
    """An exact version shows what was then."""
    old = admin.create(BLOCKS, block(CIDR, "a")).done()
    new = admin.replace(AT, _spec(old, epoch=2)).done()
    for body in (old, new):
        query = {"resourceVersion": _version(body), "resourceVersionMatch": "Exact"}
        assert admin.get(BLOCKS, **query).done()["items"] == [body]


def test_the_future(admin: Rest) -> None:
    """A version that the server has not seen: 504, to be asked again."""
    for path, query in (
        (BLOCKS, {"resourceVersionMatch": "NotOlderThan"}),
        (BLOCKS, {"resourceVersionMatch": "Exact"}),
        (AT, {}),
    ):
        answer = admin.get(path, resourceVersion=FUTURE, **query)
        assert "Too large resource version" in _refusal(answer, 504, "Timeout")
        assert answer.body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"resourceVersion": "abc"}, 400),
        ({"continue": "zzz"}, 400),
        ({"fieldSelector": "spec.epoch=1"}, 400),
        ({"resourceVersionMatch": "Exact"}, 422),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, 422),
        ({"sendInitialEvents": "true"}, 422),
        ({"watch": "1", "sendInitialEvents": "true"}, 422),
        ({"watch": "1", "resourceVersionMatch": "NotOlderThan"}, 422),
        ({"watch": "1", "fieldSelector": "spec.epoch=1"}, 400),
    ],
)
def test_options_that_make_no_sense(admin: Rest, query: dict[str, str], code: int) -> None:
    """Are refused, and never read as something else."""
    _refusal(admin.get(BLOCKS, **query), code, {400: "BadRequest", 422: "Invalid"}[code])


# Watching ---------------------------------------------------------------------------------------


def test_watch_from_a_version(admin: Rest) -> None:
    """All that happened since, in order; a deleted object comes with the deletion's version."""
    before = _version(admin.get(BLOCKS).done())
    made = admin.create(BLOCKS, block(CIDR, "a")).done()
    new = admin.replace(AT, _spec(made, epoch=2)).done()
    admin.create(NODES, node("a")).done()
    admin.delete(AT).done()
    events = _watch(admin, resourceVersion=before)
    assert events[:2] == [("ADDED", made), ("MODIFIED", new)]
    ((what, body),) = events[2:]
    assert (what, body["spec"]) == ("DELETED", new["spec"])
    assert int(_version(body)) > int(_version(new))
    assert [what for what, _body in _watch(admin, resourceVersion=_version(made))] == [
        "MODIFIED",
        "DELETED",
    ]


def test_watch_goes_on(admin: Rest) -> None:
    """What happens while one watches arrives; the server ends it in order after its time."""
    before = _version(admin.get(BLOCKS).done())
    timer = threading.Timer(0.3, lambda: admin.create(BLOCKS, block(CIDR, "a")).done())
    timer.start()
    events = _watch(admin, resourceVersion=before, timeoutSeconds="2")
    timer.join()
    assert _names(events) == [("ADDED", block_name(CIDR))]


def test_watch_of_a_selector(admin: Rest) -> None:
    """An object that comes into the selection is added, one that leaves it is deleted."""
    before = _version(admin.get(BLOCKS).done())
    made = admin.create(BLOCKS, block(CIDR, "a")).done()
    grant = {"request": "r", "number": 1, "from": "a"}
    given = admin.replace(AT, _spec(made, node="b", grant=grant)).done()
    admin.create(BLOCKS, block("10.32.8.0/24", "c")).done()
    old = _watch(admin, resourceVersion=before, fieldSelector="spec.node=a")
    new = _watch(admin, resourceVersion=before, fieldSelector="spec.node=b")
    assert _names(old) == [("ADDED", block_name(CIDR)), ("DELETED", block_name(CIDR))]
    assert (old[1][1]["spec"], _version(old[1][1])) == (made["spec"], _version(given))
    assert new == [("ADDED", given)]
    named = _watch(admin, resourceVersion=before, fieldSelector="metadata.name=10-32-8-0-24")
    assert _names(named) == [("ADDED", "10-32-8-0-24")]


@pytest.mark.parametrize("version", ["", "0"])
def test_watch_from_what_is_there(admin: Rest, version: str) -> None:
    """Without a version everything there is comes first."""
    made = admin.create(BLOCKS, block(CIDR, "a")).done()
    last = _version(made)
    admin.get(BLOCKS, resourceVersion=last)  # the cache has seen it
    assert _watch(admin, resourceVersion=version) == [("ADDED", made)]


def test_watch_from_too_long_ago(admin: Rest) -> None:
    """410 as an event of a watch that began well."""
    ((what, status),) = _watch(admin, resourceVersion="1")
    assert what == "ERROR"
    assert (status["code"], status["reason"]) == (410, "Expired")
    assert "too old resource version: 1 (" in status["message"]


def test_watch_from_the_future(admin: Rest) -> None:
    """Is silent: a server that was put back says nothing of it."""
    assert _watch(admin, resourceVersion=FUTURE) == []


def test_bookmark_before_the_end(admin: Rest) -> None:
    """A watch gets one or two before it ends, if other objects' changes have moved it on."""
    before = _version(admin.get(NODES).done())
    timer = threading.Timer(0.5, lambda: admin.create(NODES, node("a")).done())
    timer.start()
    query = {"allowWatchBookmarks": "true", "timeoutSeconds": "6"}
    query["fieldSelector"] = "metadata.name=b"
    events = _watch(admin, NODES, resourceVersion=before, **query)
    timer.join()
    version = _version(admin.get(f"{NODES}/a").done())
    assert {(what, body["kind"], _version(body)) for what, body in events} == {
        ("BOOKMARK", "AddressNode", version)
    }
    assert _watch(admin, NODES, resourceVersion=version, **query) == []


# Rights -----------------------------------------------------------------------------------------


def test_who_are_you(api: Api) -> None:
    """401 without a token that the server knows; /readyz answers anybody."""
    for token in ("nonsense", ""):
        assert api.rest(token).get("/readyz").status == (401 if token else 200)
    answer = api.rest("nonsense").get(BLOCKS)
    assert _refusal(answer, 401, "Unauthorized") == "Unauthorized"


def test_node_of_a_token(api: Api) -> None:
    """The API server knows the node from the token, and says so to whom it belongs."""
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    info = api.node("a").create(path, review).done()["status"]["userInfo"]
    assert info["username"] == f"system:serviceaccount:{SYSTEM}:fastipam-agent"
    assert info["extra"]["authentication.kubernetes.io/node-name"] == ["a"]


def test_what_no_role_grants(api: Api, admin: Rest) -> None:
    """403, with who may not do what."""
    who = api.node("a")
    who.create(BLOCKS, block(CIDR, "a")).done()
    for answer, verb, resource in (
        (who.request("DELETE", BLOCKS), "deletecollection", "addressblocks"),
        (who.merge(AT, {"spec": {}}), "patch", "addressblocks"),
        (who.get(NODES), "list", "addressnodes"),
        (who.replace(f"{NODES}/a/status", node("a")), "update", "addressnodes/status"),
        (who.get("/api/v1/nodes"), "list", "nodes"),
    ):
        message = _refusal(answer, 403, "Forbidden", kind=resource.partition("/")[0])
        assert f'cannot {verb} resource "{resource}"' in message
    assert admin.get(AT).status == 200


def test_what_a_policy_refuses(api: Api, admin: Rest) -> None:
    """422; after the schema and the version, before the name that is taken."""
    mine, other = api.node("a"), api.node("b")
    made = mine.create(BLOCKS, block(CIDR, "a")).done()
    theirs = block(CIDR, "a")
    details = {"name": block_name(CIDR), "group": "fastipam.io", "kind": "addressblocks"}
    for answer in (other.create(BLOCKS, theirs), other.replace(AT, made), other.delete(AT)):
        message = _refusal(answer, 422, "Invalid", **details)
        assert "ValidatingAdmissionPolicy 'fastipam-agent-own-objects'" in message
    _refusal(other.create(BLOCKS, block(CIDR, "zz", epoch=0)), 422, "Invalid", kind="AddressBlock")
    old = made | {"metadata": made["metadata"] | {"resourceVersion": "3"}}
    _refusal(other.replace(AT, old), 409, "Conflict")
    _refusal(other.delete(AT, version="3"), 409, "Conflict")
    assert admin.get(AT).done() == made


# Leases and events ------------------------------------------------------------------------------


def test_lease(admin: Rest) -> None:
    """A PUT creates it; then by version as everything; its times have microseconds."""
    at = f"{LEASES}/a"
    assert admin.replace(at, lease("a")).status == 201
    made = admin.get(at).done()
    assert "generation" not in made["metadata"]
    assert made["metadata"]["namespace"] == SYSTEM
    _refusal(admin.replace(at, lease("a")), 422, "Invalid")
    new = admin.replace(at, _spec(made, renewTime="2026-01-01T00:00:00.000000Z")).done()
    assert new["spec"]["renewTime"] == "2026-01-01T00:00:00.000000Z"
    _refusal(admin.replace(at, made), 409, "Conflict")
    wrong = _spec(new, renewTime="2026-01-01T00:00:00Z")
    assert "parsing time" in _refusal(admin.replace(at, wrong), 400, "BadRequest")
    _refusal(admin.replace(at, _spec(new, leaseDurationSeconds=0)), 422, "Invalid")
    found = admin.get(LEASES, fieldSelector="metadata.name=a").done()["items"]
    assert [item["spec"] for item in found] == [new["spec"]]
    admin.delete(at, version=_version(made)).refused(409)
    admin.delete(at, version=_version(new)).done()
    nowhere = LEASES.replace(SYSTEM, "nowhere")
    _refusal(admin.create(nowhere, lease("a")), 404, "NotFound", kind="namespaces")


def test_event(admin: Rest) -> None:
    """An event about a cluster-scoped object is in the namespace default; its name is made up."""
    about = {"kind": "AddressPool", "name": "p", "apiVersion": "fastipam.io/v1alpha1"}
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "p."},
        "involvedObject": about,
        "reason": "Accepted",
        "message": "accepted",
        "type": "Normal",
    }
    made = admin.create(EVENTS, body).done()
    assert made["metadata"]["name"].startswith("p.")
    answer = admin.create(EVENTS.replace("default", SYSTEM), body)
    assert "involvedObject.namespace" in _refusal(answer, 422, "Invalid")
    admin.delete(f"{EVENTS}/{made['metadata']['name']}").done()
