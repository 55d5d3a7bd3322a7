"""The code blocks of a Markdown document, and what their marks say.

A block is marked by an HTML comment of its own on the line above its fence, where a reader of the
source sees it and a reader of the page does not::

    <!-- test: skip, REASON -->    it is not run; the reason is for whoever edits the page
    <!-- test: long -->            it is run with --long only
    <!-- test: fails -->           its last command ends with another exit status than 0
    <!-- test: output differs -->  what a ``console`` block shows is not compared

Without a mark, ``sh``, ``console`` and ``python`` blocks are run and ``json`` blocks are read.
Blocks of one document share a directory, the environment and background processes, in their order.
A document is run twice, because a reader may follow it a second time.
In a ``console`` block the lines that begin with ``$ `` are typed (``> `` goes on with one), the
others are what has to come out; ``…`` stands for anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RUN = frozenset(("sh", "console", "python"))
READ = frozenset(("json",))
SHOWN = frozenset(("text", "c", "diff", "yaml", "ini", "toml", "make", "{toctree}", "{include}"))
MARKS = frozenset(("skip", "long", "fails", "output differs"))

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})\s*(\S*)(.*)$")
_MARK = re.compile(r"^\s*<!-- test: ([a-z ]+?)(?:, (.+))? -->$")


@dataclass(frozen=True)
class Block:
    """One fenced block. ``mark`` is a word of MARKS or empty."""

    path: str
    line: int
    language: str
    text: str
    mark: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def read(path: Path, root: Path) -> list[Block]:
    """All blocks of a document. ValueError for a mark, a language or a fence that is not known."""
    name = str(path.relative_to(root))
    lines = path.read_text().splitlines()
    found: list[Block] = []
    mark: tuple[str, str] = ("", "")
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        marked = _MARK.match(line)
        fence = _FENCE.match(line)
        if marked:
            mark = marked[1], marked[2] or ""
            if mark[0] not in MARKS or (mark[0] == "skip" and not mark[1]):
                raise ValueError(f"{name}:{at}: {line.strip()!r} is no mark")
            if at == len(lines) or not _FENCE.match(lines[at]):
                raise ValueError(f"{name}:{at}: a mark stands right above its block")
            continue
        if "<!-- test:" in line:
            raise ValueError(f"{name}:{at}: {line.strip()!r} is no mark")
        if not fence:
            continue
        indent, ticks, language, _ = fence.groups()
        begin = at
        while at < len(lines) and lines[at].strip() != ticks:
            at += 1
        if at == len(lines):
            raise ValueError(f"{name}:{begin}: the block does not end")
        if not _known(language):
            raise ValueError(f"{name}:{begin}: a block in {language!r}: {sorted(RUN | READ)}, text")
        text = "\n".join(one.removeprefix(indent) for one in lines[begin:at]) + "\n"
        found.append(Block(name, begin, language, text, *mark))
        mark = ("", "")
        at += 1
    return found


def _known(language: str) -> bool:
    return language in RUN | READ | SHOWN or language.startswith("{")


def commands(text: str) -> list[tuple[str, str]]:
    """A console block as (command, expected output) pairs."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif not found:
            raise ValueError(f"{line!r} comes before a command")
        elif line.startswith("> ") and not found[-1][1]:
            found[-1] = found[-1][0] + line[2:], ""
        else:
            found[-1] = found[-1][0], found[-1][1] + line
    return found


def matches(expected: str, output: str) -> bool:
    """Whether what came out is what the page shows, ``…`` standing for anything."""
    parts = [re.escape(part) for part in expected.rstrip().split("…")]
    return re.fullmatch(".*".join(parts), output.rstrip(), re.DOTALL) is not None
