"""The pools of a file, which a controller makes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fastipam.cli.commands import cli
from fastipam.cluster.controller import first_pools
from fastipam.errors import ConfigError

from . import bodies
from .conftest import Api
from .fake import FakeServer, Fault
from .leaders import Leader, close_all, condition, in_force
from .rest import POOLS

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
        ("{", 'is no JSON object with "items"'),
        ([V4], 'is no JSON object with "items"'),
        (V4, 'is no JSON object with "items"'),
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
