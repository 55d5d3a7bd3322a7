"""What scripts/release refuses, and what it writes, in small checkouts."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .support import DEPLOY

ROOT = DEPLOY.parent
RELEASING = ROOT / "scripts" / "releasing.py"
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- Something.\n"
DATED = CHANGELOG.replace("[Unreleased]\n", "[Unreleased]\n\n## [1.2.0] - 2026-01-31\n")
OK, WRONG, NOT_READY = 0, 1, 2


def _git(root: Path, *words: str) -> None:
    named = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *named, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A commit of version 1.2.0 that can be released."""
    for name, text in {
        "src/fastipam/__init__.py": '"""A package."""\n__version__ = "1.2.0"\n',
        "deploy/chart/Chart.yaml": "name: fastipam\nversion: 1.2.0\nappVersion: 1.2.0\n",
        "deploy/Containerfile": "# podman build -t example.com/fastipam:1.2.0 .\n",
        "CHANGELOG.md": DATED,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", "-A")
    _git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def _releasing(root: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, str(RELEASING), "--root", str(root), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _commit(root: Path) -> None:
    _git(root, "commit", "-qam", "changed")


def test_this_checkout() -> None:
    """The versions of this checkout agree."""
    status, said = _releasing(ROOT, "check")
    assert status in (OK, NOT_READY), said
    assert _releasing(ROOT, "notes")[1].strip()


def test_ready(checkout: Path) -> None:
    """Nothing has to be done, before the tag and with it."""
    assert _releasing(checkout, "check") == (OK, "")
    _git(checkout, "tag", "v1.2.0")
    assert _releasing(checkout, "check", "--tag", "v1.2.0") == (OK, "")
    assert _releasing(checkout, "notes") == (OK, "### Added\n\n- Something.\n")


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("deploy/chart/Chart.yaml", "\nversion: 1.2.0"),
        ("deploy/chart/Chart.yaml", "appVersion: 1.2.0"),
        ("deploy/Containerfile", "fastipam:1.2.0"),
    ],
)
def test_versions_disagree(name: str, old: str, checkout: Path) -> None:
    """Each place that names another version is named, in any commit."""
    _replace(checkout / name, old, old.replace("1.2.0", "1.1.0"))
    status, said = _releasing(checkout, "check")
    assert status == WRONG
    assert said.startswith(f"{name} names the version 1.1.0")


def test_no_version(checkout: Path) -> None:
    """A place without a version is an error that names the file."""
    _replace(checkout / "deploy/chart/Chart.yaml", "appVersion: 1.2.0\n", "")
    status, said = _releasing(checkout, "check")
    assert status == WRONG
    assert "deploy/chart/Chart.yaml" in said


def test_tag_of_another_version(checkout: Path) -> None:
    """The workflow refuses a tag that is not the version's."""
    status, said = _releasing(checkout, "check", "--tag", "v1.3.0")
    assert status == WRONG
    assert "v1.3.0" in said


@pytest.mark.parametrize("version", ["1.2", "1.2.0rc1", "01.2.0", "v1.2.0"])
def test_not_a_version(version: str, checkout: Path) -> None:
    """The chart's version is three numbers, and so the package's."""
    for name in ("src/fastipam/__init__.py", "deploy/chart/Chart.yaml", "deploy/Containerfile"):
        _replace(checkout / name, "1.2.0", version)
    assert _releasing(checkout, "check")[0] == WRONG
    assert _releasing(checkout, "prepare", version)[0] == WRONG


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("## [1.2.0] - 2026-01-31\n", "", "no section [1.2.0]"),
        ("[1.2.0] - 2026-01-31", "[1.2.0]", "is not like [1.2.0] - 2026-01-31"),
        ("[1.2.0] -", "[1.1.0] -", "no section [1.2.0]"),
        ("## [1.2.0]", "- New.\n\n## [1.2.0]", "lines under Unreleased"),
    ],
)
def test_changelog(old: str, new: str, said: str, checkout: Path) -> None:
    """A changelog that is not the release's is named; the other checks can be run."""
    _replace(checkout / "CHANGELOG.md", old, new)
    if "[1.1.0]" in new:
        _replace(checkout / "CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n\n- New.\n")
    _commit(checkout)
    status, found = _releasing(checkout, "check")
    assert status == NOT_READY
    assert said in found


def test_empty_changelog(checkout: Path) -> None:
    """A release without notes is wrong."""
    (checkout / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n")
    status, said = _releasing(checkout, "check")
    assert status == WRONG
    assert "says nothing of 1.2.0" in said


def test_files_that_are_not_committed(checkout: Path) -> None:
    """A changed file and a new one stand in the way, and are named."""
    _replace(checkout / "CHANGELOG.md", "Something", "Something else")
    status, said = _releasing(checkout, "check")
    assert status == NOT_READY
    assert "not committed: CHANGELOG.md:" in said
    (checkout / "new").touch()
    assert "not committed: CHANGELOG.md and 1 more:" in _releasing(checkout, "check")[1]


def test_tag_of_another_commit(checkout: Path) -> None:
    """A version is released once."""
    _git(checkout, "tag", "v1.2.0")
    _replace(checkout / "CHANGELOG.md", "Something", "Something else")
    _commit(checkout)
    status, said = _releasing(checkout, "check")
    assert status == NOT_READY
    assert "the tag v1.2.0 is another commit" in said


def test_prepare(checkout: Path) -> None:
    """The version stands in every place afterwards, and the changelog's lines under it."""
    _replace(checkout / "CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n\n- New.\n")
    assert _releasing(checkout, "prepare", "1.3.0") == (OK, "")
    _commit(checkout)
    assert _releasing(checkout, "check", "--tag", "v1.3.0") == (OK, "")
    assert _releasing(checkout, "notes") == (OK, "- New.\n")
    assert _releasing(checkout, "version") == (OK, "1.3.0\n")


def test_prepare_changes_nothing_in_vain(checkout: Path) -> None:
    """A version that exists, and a release without notes, are refused before a file changes."""
    for version in ("1.2.0", "1.3.0"):  # nothing is under Unreleased
        status, said = _releasing(checkout, "prepare", version)
        assert status == WRONG
        assert "CHANGELOG.md" in said
    assert _releasing(checkout, "check") == (OK, "")


def test_files(tmp_path: Path) -> None:
    """Size, digest and name of what is uploaded."""
    file = tmp_path / "a.whl"
    file.write_bytes(b"x" * 1234)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert _releasing(tmp_path, "files", str(file))[1].split() == ["1,234", digest, "a.whl"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--wrong"], 2, "--wrong is not an option"),
        (["--prepare", "x"], 1, "'x' is not a version"),
        (["--prepare"], 1, "--prepare wants a version"),
    ],
)
def test_arguments(words: list[str], status: int, said: str) -> None:
    """A wrong argument is named before anything is built."""
    done = subprocess.run(
        [str(ROOT / "scripts" / "release"), *words],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]},
    )
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
