"""The pages for contributors agree with the source."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from tests.docs.documents import DOCUMENTS, ROOT


def test_floors_are_current() -> None:
    """``docs/pictures/floors.svg`` is what ``docs/pictures/floors.py`` draws now."""
    script = runpy.run_path(str(ROOT / "docs" / "pictures" / "floors.py"))
    assert script["PICTURE"].read_text() == script["draw"](), "run python docs/pictures/floors.py"


# Of today's source: the changelog and the reports say how things were.
CURRENT = [page for page in DOCUMENTS if page.name != "CHANGELOG.md" and "bench" not in page.parts]


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.stem)
def test_named_files_exist(page: Path) -> None:
    """Every source file and folder that a document names is there."""
    named = set(re.findall(r"`([a-z][\w./-]+(?:\.(?:py|pyx|c|js)|/))`", page.read_text()))
    folders = [path for top in ("src", "tests") for path in (ROOT / top).rglob("*")]
    folders = [ROOT, ROOT / "docs", ROOT / "tests", *filter(Path.is_dir, folders)]
    missing = [name for name in named if not any((folder / name).exists() for folder in folders)]
    assert sorted(name for name in missing if "NAME" not in name) == []


def test_diagrams_are_current() -> None:
    """The diagrams of ``docs/concepts.md`` are what ``docs/pictures/concepts.py`` draws now."""
    script = runpy.run_path(str(ROOT / "docs" / "pictures" / "concepts.py"))
    for name, draw in script["PICTURES"].items():
        made = (script["FOLDER"] / name).read_text()
        assert made == draw(), f"{name}: run python docs/pictures/concepts.py"
