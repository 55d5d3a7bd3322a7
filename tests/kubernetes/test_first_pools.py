"""The pools of a file, which a controller makes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from fastipam.cli.commands import cli
from fastipam.cluster.controller import first_pools, pool_rules
from fastipam.errors import ConfigError

from .. import rendering
from . import bodies
from .conftest import Api
from .fake import FakeServer, Fault
from .fake import schema as server_schema
from .leaders import Leader, close_all, condition, in_force
from .rest import POOLS
from .test_server_rules import EXAMPLES

V4 = bodies.pool("default", "10.32.0.0/16", 24)
V6 = bodies.pool("six", "fd00:10::/104", 120)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


def test_they_are_made_and_accepted(api: Api) -> None:
    """Both at once; then they are as any pool."""
    leader = Leader(api, pools=[V4, V6])
    assert leader.turn()[:2] == ["made", "made"]
    leader.settle()
    assert in_force(api) == {"default": "10.32.0.0/16", "six": "fd00:10::/104"}


def test_what_is_there_stays(api: Api) -> None:
    """People have changed it since, or deleted another one while this controller led."""
    api.admin.create(POOLS, bodies.pool("default", "10.64.0.0/16", 24)).done()
    leader = Leader(api, pools=[V4, V6])
    leader.settle()
    assert in_force(api) == {"default": "10.64.0.0/16", "six": "fd00:10::/104"}
    api.admin.delete(f"{POOLS}/six").done()
    leader.settle(20)
    assert in_force(api) == {"default": "10.64.0.0/16"}
    after = Leader(api, pools=[V6])  # the next process makes it again
    after.settle()
    assert "six" in in_force(api)


def test_two_controllers_make_one(fake_api: FakeServer) -> None:
    """A watch that has not told of the other one's pool is no reason to fail."""
    one, other = Leader(fake_api, pools=[V4]), Leader(fake_api, pools=[V4])
    other.controller.view.load()
    one.settle()
    other.controller.turn()
    assert other.controller.state().failures == 0
    assert in_force(fake_api) == {"default": "10.32.0.0/16"}


def test_one_that_the_api_refuses(fake_api: FakeServer) -> None:
    """It is tried again, and the other one is made."""
    wrong = bodies.pool("default", "10.32.0.1/16", 24)
    leader = Leader(fake_api, pools=[wrong, V6])
    leader.settle()
    assert in_force(fake_api) == {"six": "fd00:10::/104"}
    assert leader.controller.state().failures >= 1


def test_an_answer_that_is_lost(fake_api: FakeServer) -> None:
    """It may have been made: it is, or it is made later."""
    leader = Leader(fake_api, pools=[V4])
    fault = fake_api.fault(Fault("lose_answer", resource="addresspools", method="POST"))
    leader.turn()
    assert fault.hits
    leader.settle(5)
    assert condition(fake_api, "default")[0] == "True"


# The file ---------------------------------------------------------------------------------------


def _write(path: Path, document: Any) -> Path:
    file = path / "pools.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return file


def test_what_kubectl_prints_can_be_read(tmp_path: Path) -> None:
    """Name and spec are taken, and nothing that belongs to another cluster."""
    told = V4 | {"status": {"used": "3%"}}
    told = told | {"metadata": V4["metadata"] | {"uid": "1", "resourceVersion": "5"}}
    (found,) = first_pools.read(_write(tmp_path, {"kind": "List", "items": [told]}))
    assert found == {
        "apiVersion": "fastipam.io/v1alpha1",
        "kind": "AddressPool",
        "metadata": {"name": "default"},
        "spec": V4["spec"],
    }


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", 'is not a JSON object with "items"'),
        ([V4], 'is not a JSON object with "items"'),
        (V4, 'is not a JSON object with "items"'),
        ({"items": [V4, {"spec": {}}]}, "no metadata.name or no spec in items[1]"),
        ({"items": [{"metadata": {"name": "a"}}]}, "no metadata.name or no spec in items[0]"),
        ({"items": [3]}, "no metadata.name or no spec in items[0]"),
        ({"items": "default"}, "no metadata.name or no spec in items[0]"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, document: Any, said: str) -> None:
    """The error has the option, the file, and what to write."""
    with pytest.raises(ConfigError) as caught:
        first_pools.read(_write(tmp_path, document))
    assert said in caught.value.message
    assert (caught.value.field, caught.value.value) == ("--pools", str(tmp_path / "pools.json"))
    assert "kubectl get addresspools -o json" in str(caught.value.hint)


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    """The command ends before it asks the API."""
    done = CliRunner().invoke(cli, ["controller", "--pools", str(tmp_path / "none.json")])
    assert done.exit_code == 1
    assert "none.json cannot be read: No such file or directory" in done.output


# What the pools of the file say ------------------------------------------------------------------


def _server_refuses(body: dict[str, Any]) -> bool:
    """Whether the API server would refuse to make a pool, by the kind's schema."""
    (kind,) = (
        each
        for each in rendering.documents(rendering.KINDS)
        if each["spec"]["names"]["kind"] == "AddressPool"
    )
    schema = kind["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    pruned = server_schema.prune(schema, body)
    root = pruned | {"metadata": body["metadata"]}
    return bool(server_schema.check(schema, pruned, root=root))


def _refused(body: dict[str, Any]) -> ConfigError | None:
    try:
        pool_rules.check(body["metadata"]["name"], body["spec"], "items[0]")
    except ConfigError as error:
        return error
    return None


CREATED = [one for one in EXAMPLES if one.bad["kind"] == "AddressPool" and one.old is None]


@pytest.mark.parametrize("one", CREATED, ids=lambda one: f"{one.field}: {one.words}")
def test_every_rule_of_the_kind(one: Any) -> None:
    """What a rule refuses is refused, at its field; what it accepts is not."""
    error = _refused(one.bad)
    assert error is not None
    field = "metadata.name" if one.field == "<nil>" else one.field
    # The server names no key of matchLabels.
    assert error.field in (f"items[0].{field}", f"items[0].{field}.zone")
    assert error.hint
    assert _refused(one.good) is None


CIDRS = st.sampled_from(
    [
        *(
            "10.32.0.0/12",
            "10.32.0.1/12",
            "10.0.0.0/8",
            "10.32.0.0/24",
            "10.32.0.0/32",
            "0.0.0.0/0",
        ),
        *("fd00::/104", "fd00:10::/48", "FD00::/104", "fd00::1/104", "::/104", "::a0:0/108"),
        *("010.0.0.0/8", "10.0.0.0/08", "10.0.0.0", "10.0.0.0/33", "", "x"),
        *("::ffff:10.0.0.0/108", "0.0.0.0/0"),
        *("10.0.0.0/-1", " 10.0.0.0/8", "10.0.0.0/8 ", "fd00::%eth0/64", "fd00:0::/104", None, 7),
    ]
)
TEXTS = st.sampled_from(
    [
        *("10.32.0.1", "10.32.0.1-10.32.0.9", "10.32.0.0/28", "10.32.0.9-10.32.0.1", "fd00::1"),
        *(
            "FD00::1",
            "fd00::1-fd00::9",
            "10.32.0.1-fd00::1",
            "",
            "-",
            "10.32.0.1-",
            "10.32.0.0/028",
            "::ffff:1.2.3.4",
        ),
        *("10.32.0.1 - 10.32.0.9", "10.32.0.01", "a", None, 5, "1.2.3.4-1.2.3.5-1.2.3.6"),
    ]
)
SIZES = st.one_of(st.integers(-1, 130), st.sampled_from([None, "24", 24.5, True]))
CONDITIONS = st.fixed_dictionaries(
    {
        "key": st.sampled_from(
            ["zone", "", "k" * 63, "k" * 64, "a/" + "k" * 63, "A/k", "a/b/c", "/k", "a/", None, 3]
        ),
        "operator": st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "in", None]),
    },
    optional={
        "values": st.sampled_from(
            [[], ["a"], ["v" * 64], ["a"] * 65, [1], "a", None, ["a b"], ["-a"], ["", "a_B.c"]]
        )
    },
)
SELECTORS = st.one_of(
    st.sampled_from([{}, [], "a=b", None, {"matchLabels": None}, {"matchExpressions": {}}]),
    st.builds(
        lambda key, value, count: {"matchLabels": {f"{key}{at}": value for at in range(count)}},
        st.sampled_from(["l", "example.com/l", "-l", "k" * 62, "a..b/l"]),
        st.sampled_from(["a", "", "v" * 63, "v" * 64, "a-", "ä", 1, None]),
        st.sampled_from([1, 32, 33]),
    ),
    st.lists(st.one_of(CONDITIONS, st.just("zone")), max_size=2).map(
        lambda listed: {"matchExpressions": listed}
    ),
)
SPECS = st.fixed_dictionaries(
    {"cidr": CIDRS, "blockSize": SIZES},
    optional={
        "gateway": TEXTS,
        "exclude": st.one_of(st.lists(TEXTS, max_size=2), st.sampled_from(["10.0.0.1", {}])),
        "assignment": st.sampled_from(["Automatic", "Manual", "automatic", None]),
        "claims": st.sampled_from(["Any", "NodeCIDRs", "None", 1]),
        "priority": st.sampled_from([0, -1_000_001, 1_000_001, 1.5, True]),
        "maxBlocksPerNode": st.sampled_from([0, 1, 1 << 20, (1 << 20) + 1]),
        "disabled": st.sampled_from([True, "yes", 0, None]),
        "nodeSelector": SELECTORS,
        "namespaceSelector": SELECTORS,
    },
)  # fmt: skip
NAMES = st.sampled_from(["default", "a.b", "A", "a_b", "-a", "a-", "a..b", "1", "x" * 63, "x" * 64])


@given(name=NAMES, spec=SPECS)
@example(name="p", spec={"cidr": "10.0.0.0/8", "blockSize": 24})
def test_what_the_server_refuses_is_refused(name: str, spec: dict[str, Any]) -> None:
    """For any pool; the error has a field of the pool, and what was written there."""
    body = bodies.pool(name, "", 0) | {"spec": spec}
    error = _refused(body)
    if _server_refuses(body):
        assert error is not None
    if error is not None:
        at = error.field.removeprefix("items[0].").partition("[")[0]
        assert at == "metadata.name" or at.removeprefix("spec.").partition(".")[0] in spec
        shown = str(error.value)[:70]
        assert error.value is None or shown in error.message or repr(error.value) in error.message


def _two(*pools: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "List", "items": list(pools)}


@pytest.mark.parametrize(
    ("document", "field", "said"),
    [
        (_two(V6, bodies.pool("default", "10.32.0.1/16", 24)),
         "items[1].spec.cidr", "10.32.0.1/16 has host bits"),
        (_two(bodies.pool("default", "10.32.0.0/16", 24, gatway="10.32.0.1")),
         "items[0].spec.gatway", "AddressPool has no field gatway"),
        (_two(bodies.pool("default", "10.32.0.0/16", 24, maxBlocksPerNode=3)),
         "items[0]", "does not support maxBlocksPerNode"),
        (_two(bodies.pool("default", "10.32.0.0/16", 24, exclude=["10.40.0.0/24"])),
         "items[0]", "10.40.0.0/24 lies outside of 10.32.0.0/16"),
        (_two(V4, bodies.pool("more", "10.32.128.0/17", 24)),
         "items[1]", "10.32.128.0/17 overlaps 10.32.0.0/16 of the pool default"),
        (_two(V4, V4), "items[1].metadata.name", "two pools have the name default"),
    ],
)  # fmt: skip
def test_pools_that_cannot_be_in_force(
    tmp_path: Path, document: Any, field: str, said: str
) -> None:
    """The controller does not start; it names the file, the pool's field, and what is there."""
    path = _write(tmp_path, document)
    done = CliRunner().invoke(cli, ["controller", "--pools", str(path)])
    assert done.exit_code == 1
    assert f"--pools {path}: {field}: " in done.stderr
    assert said in done.stderr


def test_two_pools_of_a_family(tmp_path: Path) -> None:
    """They may be in force together when their addresses differ."""
    more = bodies.pool("more", "10.33.0.0/16", 26)
    assert len(first_pools.read(_write(tmp_path, _two(V4, V6, more)))) == 3
