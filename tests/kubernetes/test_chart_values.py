"""Every value of the chart with odd contents: refused by its name, or rendered as it was meant.

What is refused never reaches the API server. What is rendered is valid, and is taken by the agent
and by the controller: the pools of the file, the network configuration, the options.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastipam.cli.commands.agent import command as agent_command
from fastipam.cli.commands.controller import command as controller_command
from fastipam.cluster.controller import first_pools
from fastipam.cni import conflist_rules
from tests.options import options

from .. import rendering
from ..e2e.tools import require_module
from .test_chart import (
    NEEDED,
    OTHERS,
    SCHEMA,
    VALUES,
    Refused,
    agent_of,
    conflist_of,
    container_of,
    helm,  # noqa: F401  # a fixture
    one,
)

MISSING: Any = object()
# Other types, and texts that mean something else where nobody quotes them.
KINDS: list[Any] = [
    *(None, True, 0, -1, 5, 1.5, 10**12),
    *([], ["x"], [None], {}, {"x": None}, {"a b": "c"}, {"x": "y"}),
]
TEXTS = [
    *("", "123", "a: b", "true", " ", "../x", "null", "a b", "x", "{x}", "1e3", '"', "~", "[x]"),
    *("#x", "&x", "*x", "'", "\n", "a\nb: c", "{{ fail }}", "x" * 300, "/", "/../x", "0x10", "é"),
]
ODD = KINDS + (TEXTS if options.long else TEXTS[:9])
BY_NAME: dict[str, list[Any]] = {
    "pools[].cidr": ["10.32.0.1/12", "10.32.0.0/33", "fd00::1/104", "FD00::/104", "127.0.0.0/8"],
    "pools[].gateway": ["10.32.0.01", "fd00::1", "::1", "10.99.0.1", "127.0.0.1"],
    "pools[].exclude": [["10.32.0.1/24"], ["10.0.0.0/24"], ["10.32.0.9-10.32.0.1"], ["10.32.0.9"]],
    "pools[].blockSize": [1, 11, 12, 16, 32, 33, 128],
    "pools": [[{"name": "a", "cidr": None, "blockSize": 24}], [None], ["x"]],
    "network.mtu": [575, 576, 65535, 65536],
    "network.ipam": [
        {"cooldown": -1}, {"cooldown": "5"}, {"cooldown": 5}, {"sticky": True}, {"dataDir": "x"},
        {"statusWhenFull": "no"}, {"durability": None}, {"routes": [{"dst": "10.0.0.0/8"}]},
        {"cluster": {}}, {"type": "fastipam"}, {"ranges": []}, {"repeatAdd": "return"},
        {"history": 0}, {"ignoreHostLocal": "yes"}, {"resolvConf": "/etc/resolv.conf"},
        {"pool": "default"}, {"pool": ["default", "six"]}, {"pool": 5}, {"pool": ""}, {"pool": [1]},
    ],
    "network.conflist": ["[]", "{}", '{"name": "n", "plugins": []}', '{"plugins": [null]}'],
    "cluster.lowWater": [1000, 0.5],
    "cluster.highWater": [0, 1.1, 1.25],
    "metrics.port": [9465],
    "controller.port": [9464],
    "controller.reclaimAfter": [31536000],
    "kubernetes.host": ["::1", "[::1]", "192.0.2.1:6443", "a_b"],
    "agent.resources.limits": [{"memory": "much"}, {"memory": "1Gi"}, {"memory": -1}],
    "metrics.labels": [{"app.kubernetes.io/part-of": "x"}, {"a": "b c"}, {"a": "true"}],
    "controller.nodeSelector": [{"kubernetes.io/os": "linux"}, {"a": "true"}, {"a": 1}],
    "network.name": ["n" * 255, "n" * 256, ".x", "0"],
}  # fmt: skip


def _put(values: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Values with one of them changed, or taken away; in a list, in its first item."""
    if name.startswith("pools[]."):
        (first,) = values["pools"]
        return values | {"pools": [_put(first, name.removeprefix("pools[]."), value)]}
    key, _, rest = name.partition(".")
    if rest:
        return values | {key: _put(values.get(key, {}), rest, value)}
    left = {each: values[each] for each in values if each != key}
    return left if value is MISSING else left | {key: value}


def _has_null(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is None or any(_has_null(each) for each in inner)


def _faults(validator: Any, values: dict[str, Any]) -> Iterator[str]:
    """Where the schema refuses values, as "pools.0.cidr", with the names that it misses."""
    for error in validator.iter_errors(values):
        yield ".".join(map(str, error.absolute_path)) + f" {error.message}"


@pytest.fixture(scope="session")
def default() -> dict[str, Any]:
    """The values of the chart, all of them, with a pool that has every key."""
    require_module("yaml")
    (values,) = rendering.parse(VALUES.read_text())
    return values | {"metrics": values["metrics"] | {"enabled": True}}


@pytest.mark.parametrize("name", OTHERS)
def test_refused_or_rendered(
    helm: Callable[..., str],  # noqa: F811
    default: dict[str, Any],
    name: str,
    tmp_path: Path,
) -> None:
    """A refusal names the value; what is rendered is taken by whoever reads it."""
    validator = require_module("jsonschema").Draft7Validator(json.loads(SCHEMA.read_text()))
    before = default
    for key, more in NEEDED.get(name, {}).items():
        before = before | {key: before[key] | more}
    last = name.rpartition(".")[2].removesuffix("[]")
    rendered = 0
    for value in [OTHERS[name], MISSING, *ODD, *BY_NAME.get(name, [])]:
        values = _put(before, name, value)
        if value is not MISSING and not _has_null(value):
            faults = list(_faults(validator, values))
            assert all(last in each for each in faults), (value, faults)
            if faults:
                continue
        try:
            documents = rendering.parse(
                helm("template", "it", str(rendering.CHART), values=_nulls(values, before))
            )
        except Refused as error:
            said = str(error)
            assert last in said, (value, said)
            assert "error calling" not in said, (value, said)
            assert "YAML parse error" not in said, (value, said)
            continue
        rendered += 1
        _is_taken(documents, tmp_path, has_arguments=name != "agent.args")
    assert rendered


def _nulls(values: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Values with a null for what was taken away: Helm puts the default there otherwise."""
    found: dict[str, Any] = {}
    for key in values.keys() | before.keys():
        old, new = before.get(key), values.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            new = _nulls(new, old)
        found[key] = new
    return found


def _is_hook(document: dict[str, Any]) -> bool:
    """Whether a document is for the uninstallation only."""
    return "helm.sh/hook" in document["metadata"].get("annotations", {})


def _is_taken(documents: list[dict[str, Any]], path: Path, *, has_arguments: bool) -> None:
    """Check that all is valid, and that agent and controller take what is theirs."""
    validate = require_module("kubernetes_validate").validate
    for each in documents:
        is_known = not each["apiVersion"].startswith("monitoring.")
        if is_known and each not in rendering.documents():
            validate(each, "1.35", strict=True)
        assert {"metadata", "kind", "apiVersion"} <= each.keys()
        labels = each["metadata"].get("labels", {})
        assert all(isinstance(text, str) for text in [each["metadata"]["name"], *labels.values()])
    documents = [each for each in documents if not _is_hook(each)]
    template = path / "network.conflist"
    template.write_text(json.dumps(conflist_of(documents)))
    conflist_rules.require_list(str(template), "--cluster")
    conflist_rules.completed(str(template), (), None)
    maps = {each["metadata"]["name"]: each for each in documents if each["kind"] == "ConfigMap"}
    if "fastipam-pools" in maps:
        pools = path / "pools.json"
        pools.write_text(one(documents, "ConfigMap", "fastipam-pools")["data"]["pools.json"])
        assert first_pools.read(pools)
    for command, container in (
        (agent_command, agent_of(documents)),
        (controller_command, container_of(documents, "Deployment")),
    ):
        words = [each.replace("$(NODE_IP)", "192.0.2.1") for each in container["args"][1:]]
        if has_arguments:
            command.make_context("it", words)
