"""The reference and the man pages: current, complete, without a fault that groff knows."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fastipam.cli import reference
from tests.e2e import tools

PAGES = list(reference.pages())
DOCUMENT = Path(__file__).parents[2] / "docs" / "commands.md"


def test_document_is_current() -> None:
    """docs/commands.md is what scripts/reference writes."""
    assert DOCUMENT.read_text() == reference.markdown(), "scripts/reference"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_is_in_it(page: reference.Page) -> None:
    """Each command's section and man page have its options and what its help says about it."""
    text = reference.man(page)
    assert text.isascii()
    for parameter in page.command.params:
        if isinstance(parameter, click.Option) and page.words:
            name = parameter.opts[-1]
            assert name in reference._markdown(page)
            assert name.replace("-", "\\-") in text
    shown = CliRunner().invoke(reference.main).stdout
    assert f"\n{'#' * (1 + len(page.words))} {page.name}\n" in shown or not page.words


def test_groff_finds_no_fault(tmp_path: Path) -> None:
    """Every man page is rendered without a warning, and shows the command line of its examples."""
    tools.require_tools("groff")
    for page, path in zip(PAGES, reference.write_man(tmp_path / "man1"), strict=True):
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-P-cbou", str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        assert reference.usage(page).split(" [")[0] in done.stdout
        for line, _ in getattr(page.command, "examples", ()):
            assert line in done.stdout
