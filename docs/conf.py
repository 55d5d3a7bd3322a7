"""The documentation site: ``python -m sphinx -W -b html docs docs/_build/html``.

Sphinx with MyST and furo. MkDocs has had no release since 2024 and its Material theme ends its
maintenance; Sphinx and its autodoc read the docstrings without another package, and check every
reference between pages.
"""

from __future__ import annotations

import fastipam

project = "fastipam"
author = "The fastipam authors"
copyright = "The fastipam authors"  # noqa: A001  # Sphinx's name
release = version = fastipam.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "man"]
html_theme = "furo"
html_title = f"fastipam {release}"
html_copy_source = False

# The same pages are read on a code host: plain Markdown, links between files, GitHub's anchors.
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]

highlight_language = "none"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_maximum_signature_line_length = 88
