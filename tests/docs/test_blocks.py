"""Every command and program in the documents does what the page says, on a machine of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import blocks
from tests.docs.documents import DOCUMENTS, ROOT
from tests.e2e import tools
from tests.options import options

SESSION = Path(__file__).with_name("session.py")
# Other tests write into some of these at the same time.
_LEFT_OUT = (
    ".git", ".venv", ".ci", ".coverage*", ".hypothesis", ".*_cache", "build", "dist", "__pycache__",
    "*.egg-info", "_build",
)  # fmt: skip
LONG = options.long


# How many blocks of a document are run, with --long or without; another one is read only.
RUN = {
    "README.md": 1,
    "docs/cni.md": 1,
    "docs/embedding.md": 12,
    "docs/operations.md": 19,
    "docs/quickstart.md": 7,
    "docs/store-format.md": 1,
    "docs/troubleshooting.md": 24,
    "docs/upgrading.md": 1,
}


def to_run(path: Path) -> list[blocks.Block]:
    """The blocks of a document that are run here and now."""
    unmarked = ("", "fails", "output differs", *(["long"] if LONG else []))
    return [
        one
        for one in blocks.read(path, ROOT)
        if one.language in blocks.RUN and one.mark in unmarked
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_marks(path: Path) -> None:
    """Every block is in a language that is known, and every mark is one; JSON can be read."""
    for block in blocks.read(path, ROOT):
        if block.language in blocks.READ and not block.mark:
            json.loads(block.text)
        if block.language == "console":
            assert blocks.commands(block.text), f"{block}: no command"


def test_what_is_run() -> None:
    """No block is left out unseen, and what is left out needs more than one machine can give."""
    found: dict[str, int] = {}
    for path in DOCUMENTS:
        for block in blocks.read(path, ROOT):
            if block.language in blocks.RUN and block.mark != "skip":
                found[block.path] = found.get(block.path, 0) + 1
    assert found == RUN


@pytest.mark.parametrize(
    "path",
    [path for path in DOCUMENTS if to_run(path)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_document(path: Path, tmp_path: Path) -> None:
    """The blocks of a document one after the other, on what looks like a fresh machine; twice."""
    tools.require_root()
    tools.require_tools("unshare", "ip", "mount", "bash")
    checkout = tmp_path / "fastipam"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(*_LEFT_OUT), symlinks=True)
    (checkout / ".venv").symlink_to(Path(sys.prefix))
    plan = tmp_path / "plan.json"
    plan.write_text(
        json.dumps(
            {
                "directory": str(checkout),
                "state": str(tmp_path / "state"),
                "blocks": [
                    {
                        "where": str(block),
                        "language": block.language,
                        "text": block.text,
                        "mark": block.mark,
                        "commands": blocks.commands(block.text)
                        if block.language == "console"
                        else [],
                    }
                    for block in to_run(path)
                ],
            }
        )
    )
    (tmp_path / "home").mkdir()
    bin_dir = Path(sys.executable).parent
    environment = {
        "PATH": f"{bin_dir}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(tmp_path / "home"),
        "LANG": "C.UTF-8",
        "COLUMNS": "120",
        "VIRTUAL_ENV": sys.prefix,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    unshare = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
    done = subprocess.run(
        [*unshare, sys.executable, str(SESSION), str(plan)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    faults = []
    for block in json.loads(done.stdout):
        *before, last = block["results"]
        wanted = [(one, True) for one in before] + [(last, block["mark"] != "fails")]
        for result, succeeds in wanted:
            said = f"{block['where']}: {result['command'].strip()}\n{result['output'].strip()}"
            if (result["status"] == 0) != succeeds:
                faults.append(f"{said}\n(exit status {result['status']})")
            elif (
                result["expected"]
                and block["mark"] != "output differs"
                and not blocks.matches(result["expected"], result["output"])
            ):
                faults.append(f"{said}\n(the page says: {result['expected'].strip()})")
    assert not faults, "\n\n".join(faults)


def test_a_block_that_fails_is_found(tmp_path: Path) -> None:
    """A wrong status, a wrong output and an unknown mark are all found: the runner can fail."""
    assert blocks.matches("a … c\n", "a b c\n")
    assert blocks.matches("one\n…\nthree\n", "one\ntwo\nmore\nthree\n")
    assert not blocks.matches("a … c\n", "a b d\n")
    assert blocks.commands("$ one \\\n> two\nout\n$ three\n") == [
        ("one \\\ntwo\n", "out\n"),
        ("three\n", ""),
    ]
    for text in (
        "<!-- test: nothing -->\n```sh\ntrue\n```\n",
        "<!-- test: skip -->\n```sh\ntrue\n```\n",
        "<!-- test: long -->\n\n```sh\ntrue\n```\n",
        "```cobol\n```\n",
        "```sh\ntrue\n",
    ):
        page = tmp_path / "page.md"
        page.write_text(text)
        with pytest.raises(ValueError, match=r"page\.md"):
            blocks.read(page, tmp_path)
