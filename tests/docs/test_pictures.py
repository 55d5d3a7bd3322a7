"""The pages for contributors agree with the source."""

from __future__ import annotations

import re
import runpy

import pytest

from tests.docs.documents import ROOT


def test_floors_are_current() -> None:
    """``docs/pictures/floors.svg`` is what ``docs/pictures/floors.py`` draws now."""
    script = runpy.run_path(str(ROOT / "docs" / "pictures" / "floors.py"))
    assert script["PICTURE"].read_text() == script["draw"](), "run python docs/pictures/floors.py"


@pytest.mark.parametrize("page", ["architecture", "extending"])
def test_named_files_exist(page: str) -> None:
    """Every file and folder that such a page names is there."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    named = set(re.findall(r"`([\w./-]+(?:\.(?:py|pyx|c|js)|/))`", text))
    named = {name for name in named if "NAME" not in name}
    folders = [ROOT, *(path for path in (ROOT / "src").rglob("*") if path.is_dir())]
    missing = [name for name in named if not any((folder / name).exists() for folder in folders)]
    assert named
    assert sorted(missing) == []
