"""What the kinds' schemas refuse: for every rule, one object that it refuses and one like it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from .. import rendering
from .bodies import answered, block, node, pool, request
from .rest import BLOCKS, NODES, POOLS, REQUESTS, Rest

Body = dict[str, Any]
_PATHS = {
    "AddressPool": POOLS,
    "AddressBlock": BLOCKS,
    "AddressNode": NODES,
    "AddressRequest": REQUESTS,
}
_EXPRESSION = {"key": "zone", "operator": "In"}
_GRANT = {"request": "uid-1", "number": 1, "from": "a"}


@dataclass
class Example:
    """A rule, by its field and words of its message; what it refuses, and what it accepts.

    ``words`` are in the manifest, ``told`` in the server's answer (none: the same words). ``old``
    is the object that is changed (none: it is created). ``part``: of the object.
    """

    field: str
    words: str
    bad: Body
    good: Body
    told: str = ""
    old: Body | None = None
    part: str = ""


def _with_status(body: Body, status: Body | None) -> Body:
    return body if status is None else body | {"status": status}


def _accepted(body: Body) -> Body:
    return body | {"status": {"accepted": {"generation": 1, "spec": body["spec"]}}}


EXAMPLES = [
    # Pools: created
    Example(
        "<nil>", "a pool's name has 63 characters at most",
        pool("p" * 64, "10.32.0.0/12", 24), pool("p" * 63, "10.32.0.0/12", 24),
    ),
    Example(
        "spec.blockSize", "a block cannot be larger than",
        pool("p", "10.32.0.0/24", 23), pool("p", "10.32.0.0/24", 24),
        told="a block cannot be larger than 10.32.0.0/24: type",
    ),
    Example(
        "spec.blockSize", "into more than 1048576 blocks",
        pool("p", "10.0.0.0/8", 29), pool("p", "10.0.0.0/8", 28),
        told="it cuts 10.0.0.0/8 into more than 1048576 blocks",
    ),
    Example(
        "spec.blockSize", "no IPv4 address has more than 32 bits",
        pool("p", "10.32.0.0/24", 33), pool("p", "10.32.0.0/24", 32),
    ),
    Example(
        "spec.blockSize", "no IPv4 address has more than 32 bits",
        pool("p", "10.32.0.0/24", 33), pool("p", "fd00:10::/112", 128),
    ),
    Example(
        "spec.blockSize", "a block has 65536 addresses at most",
        pool("p", "10.0.0.0/8", 15), pool("p", "10.0.0.0/8", 16),
    ),
    Example(
        "spec.blockSize", "a block has 65536 addresses at most",
        pool("p", "fd00:10::/104", 111), pool("p", "fd00:10::/104", 112),
    ),
    Example(
        "spec.gateway", "the gateway has to be of the family of",
        pool("p", "10.32.0.0/12", 24, gateway="fd00::1"),
        pool("p", "10.32.0.0/12", 24, gateway="10.32.0.1"),
        told="of the family of 10.32.0.0/12",
    ),
    Example(
        "spec.gateway", "it must be a canonical IP address",
        pool("p", "fd00:10::/104", 112, gateway="FD00::1"),
        pool("p", "fd00:10::/104", 112, gateway="fd00::1"),
    ),
    Example(
        "spec.cidr", "it has host bits or is not in canonical form: type the first address",
        pool("p", "10.32.0.1/12", 24), pool("p", "10.32.0.0/12", 24),
    ),
    Example(
        "spec.cidr", "it is not a valid CIDR: type one such as",
        pool("p", "10.32.0.0", 24), pool("p", "10.32.0.0/12", 24),
    ),
    Example(
        "spec.cidr", "it is not a valid CIDR: type one such as",
        pool("p", "::ffff:10.32.0.0/108", 112), pool("p", "fd00:10::/104", 112),
    ),
    Example(
        "spec.cidr", "a name cannot begin with a colon",
        pool("p", "::a0:0/108", 112), pool("p", "1::a0:0/108", 112),
    ),
    Example(
        "spec.exclude[0]", "it is not a valid CIDR, address or range",
        pool("p", "10.32.0.0/12", 24, exclude=["10.32.0.1-"]),
        pool("p", "10.32.0.0/12", 24,
             exclude=["10.32.0.1-10.32.0.9", "10.33.0.0/16", "10.34.0.1", "fd00::1-fd00::9"]),
    ),
    *(
        Example(
            f"spec.{selector}.matchExpressions[0]", "In and NotIn need values",
            pool("p", "10.32.0.0/12", 24, **{selector: {"matchExpressions": [bad]}}),
            pool("p", "10.32.0.0/12", 24, **{selector: {"matchExpressions": [good]}}),
        )
        for selector in ("nodeSelector", "namespaceSelector")
        for bad, good in (
            (_EXPRESSION, _EXPRESSION | {"values": ["west"]}),
            ({"key": "zone", "operator": "Exists", "values": ["west"]},
             {"key": "zone", "operator": "Exists"}),
        )
    ),
    *(
        Example(
            f"spec.{selector}.{field}", words,
            pool("p", "10.32.0.0/12", 24, **{selector: bad}),
            pool("p", "10.32.0.0/12", 24, **{selector: good}),
        )
        for selector in ("nodeSelector", "namespaceSelector")
        for field, words, bad, good in (
            ("matchLabels", "a key in it is not the name of a label",
             {"matchLabels": {"zone!": "a"}},
             {"matchLabels": {"example.com/Zone_1.a": "a", "k" * 63: "", "a/" + "k" * 63: "a"}}),
            ("matchLabels", "a value in it is not the value of a label",
             {"matchLabels": {"zone": "-a"}}, {"matchLabels": {"zone": "A.b_c-d", "b": "v" * 63}}),
            ("matchExpressions[0].key", "it is not the name of a label",
             {"matchExpressions": [{"key": "Example.com/zone", "operator": "Exists"}]},
             {"matchExpressions": [{"key": "example.com/zone", "operator": "Exists"}]}),
            ("matchExpressions[0].values[0]", "it is not the value of a label",
             {"matchExpressions": [_EXPRESSION | {"values": ["a b", "a"]}]},
             {"matchExpressions": [_EXPRESSION | {"values": ["a", "", "7"]}]}),
        )
    ),
    # Pools: changed
    Example(
        "spec.blockSize", "blockSize cannot be changed",
        pool("p", "10.32.0.0/12", 25), pool("p", "10.32.0.0/12", 24, disabled=True),
        old=pool("p", "10.32.0.0/12", 24),
    ),
    *(
        Example(
            "spec.cidr", "cidr can only be widened",
            pool("p", bad, 24), pool("p", good, 24),
            old=_accepted(pool("p", "10.32.0.0/13", 24)),
            told="type one that contains 10.32.0.0/13",
        )
        for bad, good in (
            ("10.32.0.0/14", "10.32.0.0/12"), ("10.48.0.0/13", "10.32.0.0/13"),
        )
    ),
    # Blocks: created
    Example(
        "<nil>", "the name has to be the CIDR with -",
        block("10.32.7.0/24", "a") | {"metadata": {"name": "10-32-8-0-24"}},
        block("10.32.7.0/24", "a"),
        told="the name has to be the CIDR with - for every dot, colon and slash: 10-32-7-0-24",
    ),
    Example(
        "<nil>", "the name has to be the CIDR with -",
        block("fd00:10::7:0/112", "a") | {"metadata": {"name": "fd00-10-7-0-112"}},
        block("fd00:10::7:0/112", "a"), told="fd00-10--7-0-112",
    ),
    Example(
        "spec.window", "the window has to contain the block",
        block("10.32.7.0/24", "a", window="10.33.0.0/16"),
        block("10.32.7.0/24", "a", window="10.32.0.0/16"),
    ),
    Example(
        "spec.window", "at most 256 of its size",
        block("10.32.7.0/24", "a", window="10.32.0.0/15"),
        block("10.32.7.0/24", "a", window="10.32.7.0/24"),
    ),
    *(
        Example(
            "spec.cidr", "it must be a canonical CIDR",
            block("10.32.7.0/24", "a", window="10.32.0.0/16")
            | {"metadata": {"name": name}, "spec": block(cidr, "a", window=window)["spec"]},
            block("10.32.7.0/24", "a"),
        )
        for name, cidr, window in (
            ("fd00-10-0-0-0-0-7-0-112", "fd00:10:0:0:0:0:7:0/112", "fd00:10::/104"),
            ("fd00-10--7-0", "fd00:10::7:0", "fd00:10::/104"),
        )
    ),
    Example(
        "spec.window", "it must be a canonical CIDR",
        block("10.32.7.0/24", "a", window="10.32.7.0/16"), block("10.32.7.0/24", "a"),
    ),
    Example(
        "spec.via[0]", "it must be a canonical IP address",
        block("10.32.7.0/24", "a", via=["worker-7"]),
        block("10.32.7.0/24", "a", via=["192.168.1.7", "fd00::7"]),
    ),
    # Blocks: changed
    *(
        Example(
            "spec", "a block cannot become another one",
            block("10.32.7.0/24", "a", epoch=2, **change), block("10.32.7.0/24", "a", epoch=2),
            old=block("10.32.7.0/24", "a"),
        )
        for change in ({"pool": "other"}, {"window": "10.32.0.0/17"})
    ),
    Example(
        "spec.node", "can give the block away, with a grant from itself",
        block("10.32.7.0/24", "b"), block("10.32.7.0/24", "b", grant=_GRANT),
        old=block("10.32.7.0/24", "a"), told="only a can give the block away",
    ),
    Example(
        "spec.node", "can give the block away, with a grant from itself",
        block("10.32.7.0/24", "b", grant=_GRANT | {"from": "b"}),
        block("10.32.7.0/24", "b", grant=_GRANT),
        old=block("10.32.7.0/24", "a"),
    ),
    Example(
        "spec.epoch", "the epoch of an owner never goes back",
        block("10.32.7.0/24", "a", epoch=2), block("10.32.7.0/24", "b", epoch=2, grant=_GRANT),
        old=block("10.32.7.0/24", "a", epoch=3),
    ),
    Example(
        "spec.epoch", "a block cannot be given with an epoch above 1000000000",
        block("10.32.7.0/24", "b", epoch=2**63 - 1, grant=_GRANT),
        block("10.32.7.0/24", "a", epoch=2**63 - 1),
        old=block("10.32.7.0/24", "a"),
    ),
    # Nodes
    Example(
        "spec.addresses[0]", "it must be a canonical IP address",
        node("a", addresses=["192.168.1.7/24"]), node("a", addresses=["192.168.1.7"]),
    ),
    Example(
        "spec.epoch", "an epoch never goes back",
        node("a", epoch=2), node("a", epoch=3, boot="boot-2"), old=node("a", epoch=3),
    ),
    Example(
        "spec.incarnation", "another incarnation needs a later epoch",
        node("a", incarnation=""), node("a", incarnation="", epoch=2), old=node("a"),
    ),
    # Requests
    Example(
        "spec", "a request cannot be changed",
        request("a", blocks=2), request("a"), old=request("a"),
    ),
    *(
        Example(
            "<nil>", "the request was answered by",
            _with_status(request("a"), other),
            request("a") | {"status": answered("b", "10-32-7-0-24")},
            old=request("a") | {"status": answered("b", "10-32-7-0-24")},
            told="the request was answered by b already", part="/status",
        )
        for other in (
            answered("c", "10-32-7-0-24"), answered("b", "10-32-8-0-24"), None,
        )
    ),
]  # fmt: skip


def _rules(schema: Any, path: str) -> Iterator[tuple[str, str]]:
    """Each rule of a schema: its field, and the text that has its message."""
    for rule in schema.get("x-kubernetes-validations", ()):
        field = (path + rule.get("fieldPath", "")).removeprefix(".")
        yield field or "<nil>", rule.get("message") or rule["messageExpression"]
    for name, each in schema.get("properties", {}).items():
        if f"{path}.{name}" != "status.accepted":  # the same schema as spec
            yield from _rules(each, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[0]")


def _schemas() -> dict[str, Any]:
    """The schema of each kind."""
    return {
        each["spec"]["names"]["kind"]: each["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for each in rendering.documents(rendering.KINDS)
    }


@pytest.mark.parametrize("kind", _PATHS)
def test_every_rule_has_an_example(kind: str) -> None:
    """A rule that is added needs an example, and an example whose rule is gone has to go."""
    rules = list(_rules(_schemas()[kind], ""))
    examples = [each for each in EXAMPLES if each.bad["kind"] == kind]
    assert rules
    for field, text in rules:
        assert any(each.field == field and each.words in text for each in examples), (field, text)
    for each in examples:
        assert any(each.field == field and each.words in text for field, text in rules), each


def test_accepted_spec_has_the_rules_of_spec() -> None:
    """What is in force is checked as what is asked for."""
    properties = _schemas()["AddressPool"]["properties"]
    assert (
        properties["status"]["properties"]["accepted"]["properties"]["spec"] == (properties["spec"])
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: f"{each.field}: {each.words}")
def test_rule(admin: Rest, example: Example) -> None:
    """The bad object is refused by that rule, and the good one is not."""
    path = _PATHS[example.bad["kind"]]
    said = (example.field, example.told or example.words)
    if example.old is None:
        admin.create(path, example.bad, dryRun="All").refused(422, *said)
        admin.create(path, example.good, dryRun="All").done()
        return
    name = example.old["metadata"]["name"]
    at = f"{path}/{name}{example.part}"
    metadata = {"metadata": admin.create(path, example.old).done()["metadata"]}
    if "status" in example.old:
        told = admin.replace(f"{path}/{name}/status", example.old | metadata).done()
        metadata = {"metadata": told["metadata"]}
    admin.replace(at, example.bad | metadata, dryRun="All").refused(422, *said)
    admin.replace(at, example.good | metadata, dryRun="All").done()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (pool("p", "10.32.0.0/12", 24, assignment="Sometimes"), "spec.assignment"),
        (pool("p", "10.32.0.0/12", 24, claims="None"), "spec.claims"),
        (pool("p", "10.32.0.0/12", 24, maxBlocksPerNode=0), "spec.maxBlocksPerNode"),
        (pool("p", "10.32.0.0/12", 24, priority="high"), "spec.priority"),
        (block("10.32.7.0/24", ""), "spec.node"),
        (block("10.32.7.0/24", "a", epoch=0), "spec.epoch"),
        (block("10.32.7.0/24", "a", claim="one"), "spec.claim"),
        (block("10.32.7.0/24", "a", via=["10.0.0.1", "10.0.0.2", "10.0.0.3"]), "spec.via"),
        (block("10.32.7.0/24", "a", grant={"from": "b"}), "spec.grant.request"),
        (node("a", epoch=0), "spec.epoch"),
        (request("a", blocks=0), "spec.blocks"),
        (request("a", cidrs=[]), "spec.cidrs"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_value_that_makes_no_sense(admin: Rest, body: Body, field: str) -> None:
    """Types, lengths, patterns and numbers are checked, too."""
    admin.create(_PATHS[body["kind"]], body, dryRun="All").refused(422, field)


@pytest.mark.parametrize("kind", _PATHS)
def test_object_without_spec(admin: Rest, kind: str) -> None:
    """An object that says nothing is none."""
    body = {"apiVersion": "fastipam.io/v1alpha1", "kind": kind, "metadata": {"name": "a"}}
    admin.create(_PATHS[kind], body, dryRun="All").refused(422, "spec: Required value")


def test_defaults(admin: Rest) -> None:
    """What a pool does not say has a value all the same."""
    spec = admin.create(POOLS, pool("p", "10.32.0.0/12", 24), dryRun="All").done()["spec"]
    assert spec == {
        "cidr": "10.32.0.0/12",
        "blockSize": 24,
        "assignment": "Automatic",
        "claims": "Any",
        "priority": 0,
        "disabled": False,
    }


def test_every_field_is_described() -> None:
    """`kubectl explain` has a sentence for each."""

    def walk(schema: Any, path: str) -> None:
        assert schema.get("description", "").endswith("."), path
        for name, each in schema.get("properties", {}).items():
            walk(each, f"{path}.{name}")
        if "items" in schema:
            walk(schema["items"], f"{path}[]")

    for kind, schema in _schemas().items():
        walk(schema, kind)
