"""The recorded requests of host-local and of users: the installed plugin, and ``handle``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fastipam import cni
from fastipam.cni import handler
from fastipam.storage import open_stores

from .plugin import NO_AGENT, Answer, Plugin
from .vectors import CASES, replay

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class Handled(Plugin):
    """``handle`` in this process, in the place of an executable."""

    def raw(self, environ: Mapping[str, str], stdin: bytes) -> Answer:
        """Handle one request."""
        lines: list[str] = []
        status, stdout = cni.handle(environ, stdin, log=lines.append)
        return Answer(status, json.loads(stdout) if stdout else None, "\n".join(lines))


@pytest.fixture
def handled() -> Iterator[Handled]:
    """``handle``, whose stores are closed afterwards."""
    yield Handled(NO_AGENT)
    open_stores.close_all()
    handler._services.known.clear()


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_recorded_answers(case: dict[str, Any], plugin: Plugin, tmp_path: Path) -> None:
    """Each step has the recorded exit status and result, with the variables in any order."""
    replay(case, plugin, tmp_path)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_recorded_answers_of_handle(case: dict[str, Any], handled: Handled, tmp_path: Path) -> None:
    """A program that embeds the plugin gets the same answers."""
    replay(case, handled, tmp_path)
