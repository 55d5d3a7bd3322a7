"""A figure that two pages have is the same on both."""

from __future__ import annotations

import re

import pytest

from tests.docs.documents import ROOT

_FIGURE = re.compile(r"\d[\d.,]* m?s\b")


@pytest.mark.parametrize("page", ["index.md", "why.md"])
def test_as_in_the_readme(page: str) -> None:
    """What the first pages say about time, README.md says, too: it is changed in one go."""
    found = set(_FIGURE.findall((ROOT / "docs" / page).read_text()))
    assert len(found) > 3
    assert found - set(_FIGURE.findall((ROOT / "README.md").read_text())) == set()
