"""The documentation site: ``python -m sphinx -W -b html docs docs/_build/html``.

Sphinx with MyST and furo. MkDocs has had no release since 2024 and its Material theme ends its
maintenance; Sphinx checks every reference between pages. Pages that a script writes from the code
(``commands.md``, ``api/``) are Markdown like the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastipam

project = "fastipam"
author = "The fastipam authors"
copyright = "The fastipam authors"  # noqa: A001  # Sphinx's name
release = version = fastipam.__version__

extensions = ["myst_parser"]
HIDDEN = ["_build", "man"]
INCLUDED = {"index", "bench/embedded"}  # no pages: the first is the list, the rest parts of others
exclude_patterns = HIDDEN
html_theme = "furo"
html_title = f"fastipam {release}"
html_copy_source = False

# The same pages are read on a code host: plain Markdown, links between files, GitHub's anchors.
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]

highlight_language = "none"


def list_the_rest(app: Any, name: str, source: list[str]) -> None:
    """Fill the last list of index.md with the pages that no other list names."""
    if name == "index":
        found = (page.relative_to(app.srcdir) for page in Path(app.srcdir).rglob("*.md"))
        pages = {str(page.with_suffix("")) for page in found if page.parts[0] not in HIDDEN}
        listed = set(source[0].splitlines()) | INCLUDED
        rest = sorted(pages - listed)
        source[0] = source[0].replace("(the rest)", "\n".join(rest))


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", list_the_rest)
