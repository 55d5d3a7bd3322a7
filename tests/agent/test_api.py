"""What the page's answers cost the agent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from fastipam.agent.web.api import Page
from fastipam.agent.web.samples import Watch, error_of
from fastipam.agent.web.server import Asked
from fastipam.storage import open_stores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastipam.ipam import Ipam


@pytest.fixture
def opened(data_dir: Path, ipam: Ipam) -> Iterator[Ipam]:
    """A store that this process has open as an agent has."""
    open_stores.get(str(data_dir), None)
    yield ipam
    open_stores.close_all()


def test_pictures_that_are_kept(opened: Ipam) -> None:
    """Whoever looks at one network after the other leaves a few pictures behind, the last ones."""
    page = Page(Watch(), private=False)
    names = [f"n{number}" for number in range(12)]
    for number, name in enumerate(names):
        opened.network(name, f"10.{number}.0.0/24").allocate("c")
        answer = page.routes["/api/picture"].answer(
            Asked({"data_dir": opened.path, "network": name}, "", "")
        )
        assert answer.status == 200
    assert [name for _, name in page._drawn] == names[-8:]


def test_text_of_a_refusal() -> None:
    """What is wrong and what to do are two sentences."""
    assert error_of(b'{"code": 7, "msg": "m", "details": "d"}') == (7, "m; d")
    assert error_of(b'{"code": 7, "msg": "m"}') == (7, "m")
    assert error_of(b"[]") == (-1, "")


def test_one_address_and_the_last_events(opened: Ipam) -> None:
    """What the page asks of a network is found, though its pool has another id."""
    page = Page(Watch(), private=False)
    net = opened.network("n", "10.0.0.0/24")
    for at in range(10):
        net.allocate(f"c{at}")
    asked = {"data_dir": opened.path, "network": "n", "address": "10.0.0.4"}
    found = json.loads(page.routes["/api/address"].answer(Asked(asked, "", "")).body)
    assert (found["state"], found["container_id"]) == ("assigned", "c2")
    events = json.loads(page.routes["/api/events"].answer(Asked(asked, "", "")).body)
    assert [one["container"] for one in events] == [f"c{at}" for at in range(9, -1, -1)]
