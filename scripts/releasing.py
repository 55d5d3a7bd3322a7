"""What scripts/release checks and writes: versions, changelog, tag, the list of files.

    releasing.py check [--tag TAG]   fail when versions disagree; print what to do before a release
    releasing.py version             print the version
    releasing.py notes               print the changelog's lines of the version
    releasing.py pythons             print the CPythons of pyproject.toml: 311 312
    releasing.py prepare VERSION     write a version, and today's date, where they stand
    releasing.py files FILE...       print size, SHA-256 and name of each file

``--root DIR`` is the checkout. ``check`` ends with 1 when something is wrong in any commit, and
with 2 when this commit is right but cannot be released as it is.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

WRONG, NOT_READY = 1, 2
_VERSION = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}")
# What names the version, and how: the one group is the version.
PLACES = {
    "src/fastipam/__init__.py": r'^__version__ = "([^"]*)"$',
    "deploy/chart/Chart.yaml": r"^version: (\S+)$",
    "deploy/chart/Chart.yaml ": r"^appVersion: (\S+)$",
    "deploy/Containerfile": r"example\.com/fastipam:(\S+)",
}
CHANGELOG = "CHANGELOG.md"
UNRELEASED = "## [Unreleased]\n"


class Problem(Exception):
    """What is wrong, with what to do."""


def versions(root: Path) -> dict[str, str]:
    """Return the version that each place names. Raises Problem when one names none."""
    found = {}
    for place, pattern in PLACES.items():
        file = place.strip()
        match = re.search(pattern, (root / file).read_text(), re.MULTILINE)
        if not match:
            raise Problem(f"{file} has no line like {pattern}")
        found[place] = match[1]
    return found


def version_of(root: Path) -> str:
    """Return the version of the package."""
    return versions(root)["src/fastipam/__init__.py"]


def sections(root: Path) -> dict[str, str]:
    """Return the changelog's sections: heading without ``##`` to the lines below it."""
    parts = re.split(r"^## (.*)\n", (root / CHANGELOG).read_text(), flags=re.MULTILINE)
    return {heading: text.strip() for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


def notes(root: Path) -> str:
    """Return the release notes: the section of the version, else the unreleased one."""
    version = version_of(root)
    found = sections(root)
    for heading, text in found.items():
        if heading.startswith(f"[{version}]"):
            return text
    return found.get("[Unreleased]", "")


def wrong(root: Path, tag: str) -> list[str]:
    """Return what is wrong with the checkout, whether it is released or not."""
    found = versions(root)
    version = version_of(root)
    problems = [
        f"{place.strip()} names the version {each}, src/fastipam/__init__.py {version}: "
        f"type scripts/release --prepare {version}"
        for place, each in found.items()
        if each != version
    ]
    if not _VERSION.fullmatch(version):
        problems.append(f"the version {version} is not three numbers, as in 1.2.0")
    if tag and tag != f"v{version}":
        problems.append(
            f"the tag {tag} is not the version's, v{version}: tag the commit v{version}"
        )
    if not notes(root):
        problems.append(
            f"{CHANGELOG} says nothing of {version}: write what a user gets under Unreleased"
        )
    return problems


def not_ready(root: Path) -> list[str]:
    """Return what has to be done before this commit can be released."""
    version = version_of(root)
    found = sections(root)
    todo = []
    dated = [heading for heading in found if heading.startswith(f"[{version}]")]
    if not dated:
        todo.append(
            f"{CHANGELOG} has no section [{version}]: type scripts/release --prepare {version}"
        )
    elif not re.fullmatch(r"\[[^]]*\] - \d{4}-\d\d-\d\d", dated[0]):
        todo.append(f"{CHANGELOG}: the heading {dated[0]!r} is not like [{version}] - 2026-01-31")
    if dated and found.get("[Unreleased]"):
        todo.append(
            f"{CHANGELOG} has lines under Unreleased beside [{version}]: move them, or prepare "
            "another version"
        )
    if changed := _git(root, "status", "--porcelain"):
        names = [line[3:] for line in changed.splitlines()]
        said = names[0] + (f" and {len(names) - 1} more" if names[1:] else "")
        todo.append(f"not committed: {said}: commit or remove what git status shows")
    at = _git(root, "rev-parse", "--quiet", "--verify", f"refs/tags/v{version}^{{commit}}")
    if at and at != _git(root, "rev-parse", "HEAD"):
        todo.append(f"the tag v{version} is another commit: prepare the next version")
    return todo


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, check=False
    )
    return done.stdout.rstrip()


def prepare(root: Path, version: str, today: str) -> None:
    """Write the version where it stands, and the changelog's unreleased lines under it."""
    if not _VERSION.fullmatch(version):
        raise Problem(f"{version!r} is not a version: use three numbers, as in 1.2.0")
    versions(root)  # all places are there, before one is changed
    changelog = (root / CHANGELOG).read_text()
    if f"\n## [{version}]" in changelog:
        raise Problem(f"{CHANGELOG} has a section [{version}] already: use another version")
    if UNRELEASED not in changelog or not sections(root)["[Unreleased]"]:
        raise Problem(f"{CHANGELOG} has nothing under Unreleased: write what a user gets")
    for place, pattern in PLACES.items():
        path = root / place.strip()
        text = path.read_text()
        match = re.search(pattern, text, re.MULTILINE)
        assert match
        path.write_text(text[: match.start(1)] + version + text[match.end(1) :])
    heading = f"{UNRELEASED}\n## [{version}] - {today}\n"
    (root / CHANGELOG).write_text(changelog.replace(UNRELEASED, heading, 1))


def pythons(root: Path) -> list[str]:
    """Return the versions of CPython that the package names, as wheels name them."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    found = (re.fullmatch(r".*:: Python :: 3\.(\d+)", each) for each in project["classifiers"])
    return [f"3{match[1]}" for match in found if match]


def files(paths: list[Path]) -> str:
    """Return a line for each file: its size, its SHA-256 and its name."""
    return "\n".join(
        f"{path.stat().st_size:>10,}  {hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"
        for path in paths
    )


def check(root: Path, tag: str) -> int:
    """Print what is wrong, or what has to be done; return the exit status."""
    if problems := wrong(root, tag):
        print("\n".join(problems), file=sys.stderr)
        return WRONG
    if todo := not_ready(root):
        print("\n".join(f"before the release: {each}" for each in todo))
        return NOT_READY
    return 0


def main() -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check").add_argument("--tag", default="")
    for name in ("version", "notes", "pythons"):
        commands.add_parser(name)
    commands.add_parser("prepare").add_argument("version")
    commands.add_parser("files").add_argument("files", type=Path, nargs="+")
    given = parser.parse_args()
    try:
        if given.command == "check":
            return check(given.root, given.tag)
        if given.command == "prepare":
            today = datetime.datetime.now(datetime.UTC).date().isoformat()
            prepare(given.root, given.version, today)
        elif given.command == "files":
            print(files(given.files))
        else:
            found = {"version": version_of, "notes": notes, "pythons": pythons}[given.command]
            made = found(given.root)
            print(made if isinstance(made, str) else " ".join(made))
    except Problem as error:
        print(f"scripts/release: {error}", file=sys.stderr)
        return WRONG
    return 0


if __name__ == "__main__":
    sys.exit(main())
