"""Links between the documents lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.documents import DOCUMENTS, ROOT

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
_CODE = re.compile(r"^( *)(`{3,}).*?^\1\2\s*$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub and the site name them."""
    text = re.sub(r"^( *)(`{3,}).*?^\1\2\s*$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
        found.add(words.replace(" ", "-"))
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(path: Path) -> None:
    """Every relative link names a file that is there, and a heading in it."""
    lost = []
    for one, other in _LINK.findall(_CODE.sub("", path.read_text())):
        target = one or other
        if re.match(r"[a-z]+:", target):
            assert target.startswith(("https://", "mailto:")), target
            continue
        name, _, anchor = target.partition("#")
        file = path if not name else path.parent / name
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(target)
    assert not lost


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_is_fenced(path: Path) -> None:
    """No code block is made by indentation: it would be neither run nor checked."""
    lines = path.read_text().splitlines()
    in_fence = in_list = False
    for number, line in enumerate(lines):
        if re.match(r"^\s*(`{3,}|~{3,})", line):
            in_fence = not in_fence
        if in_fence:
            continue
        if re.match(r"^\s*([-*]|\d+\.) ", line):
            in_list = True
        elif line and not line.startswith(" "):
            in_list = False
        blank_before = number == 0 or not lines[number - 1].strip()
        code = line.startswith("    ") and blank_before and not in_list
        assert not code, f"{path.name}:{number + 1}: {line.strip()}"
