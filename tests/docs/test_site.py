"""The documentation site is built without a warning, and has every page."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.documents import ROOT
from tests.e2e import tools


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Warnings are errors: a page that is in no list, a reference into nothing."""
    for module in ("sphinx", "furo", "myst_parser"):
        if importlib.util.find_spec(module) is None:
            tools.lacking(f"{module} is not installed: pip install --group docs")
    output = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", str(output / "doctrees"), str(ROOT / "docs"), str(output / "html")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return output / "html"


def test_every_page_is_there(site: Path) -> None:
    """Each Markdown file of docs/ is a page."""
    for page in (ROOT / "docs").rglob("*.md"):
        if "_build" not in page.parts:
            assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").exists(), page
