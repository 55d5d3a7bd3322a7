"""Every promise of the pages that make promises names a test, and each of these tests exists."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.documents import ROOT
from tests.docs.test_tables import rows

# Each page, the heading above its table, and the file of the tests that are named alone.
PAGES = {
    "security.md": ("## Promised", "tests/faults/test_security.py"),
    "embedding.md": ("## Which test attacks which promise", "tests/unit/test_embedding.py"),
    "cluster.md": ("## Which test attacks which promise", ""),
    "kubernetes.md": ("## Symptoms", ""),
}
# Where the files are that a page names without a folder.
FOLDERS = {"kubernetes.md": "tests/kubernetes/"}


def _tests_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES)
def test_every_promise_has_a_test(page: str) -> None:
    """A row names at least one test, or a file of tests, and all of them are there."""
    heading, usual = PAGES[page]
    table = rows((ROOT / "docs" / page).read_text(), heading)
    assert len(table) > 5
    for promise, *_, shown in table:
        named = re.findall(r"`([^`]+)`", shown)
        assert named, promise
        for one in named:
            path, _, test = one.rpartition("::") if "/" not in one or "::" in one else (one, "", "")
            path = path or usual
            path = path if "/" in path else FOLDERS.get(page, "") + path
            assert (ROOT / path).is_file(), f"{promise}: {path}"
            assert not test or test in _tests_of(path), f"{promise}: {one}"


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page: str) -> None:
    """What the text names outside the table exists, too."""
    text = (ROOT / "docs" / page).read_text()
    for path, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
        assert (ROOT / path).is_file(), path
        assert not test or test in _tests_of(path), f"{path}::{test}"
