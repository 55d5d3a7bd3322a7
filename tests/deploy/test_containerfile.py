"""The Containerfile, read line by line: there is no engine to build it with."""

from __future__ import annotations

import re
import tomllib

from .support import CONTAINERFILE, DEPLOY, subcommand

ROOT = DEPLOY.parent
_KNOWN = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "STOPSIGNAL", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, its arguments), with continued lines joined and comments left out."""
    lines = (
        one for one in CONTAINERFILE.read_text().splitlines() if not re.match(r"\s*(#|$)", one)
    )
    text = "\n".join(lines).replace("\\\n", " ")
    return [
        (name, rest.strip()) for name, _, rest in (one.partition(" ") for one in text.split("\n"))
    ]


def _of(name: str) -> list[str]:
    return [rest for one, rest in instructions() if one == name]


def test_instructions() -> None:
    """Only instructions that exist; the first that is no ARG is a FROM."""
    assert {name for name, _ in instructions()} <= _KNOWN
    assert next(name for name, _ in instructions() if name != "ARG") == "FROM"


def test_stages() -> None:
    """Two stages on one pinned base: the compiler stays in the first."""
    build, run = _of("FROM")
    assert build == f"{run} AS build"
    assert run == "${BASE}"
    (base,) = _of("ARG")
    assert not base.endswith(":latest")
    assert ":" in base
    text = CONTAINERFILE.read_text()
    assert "gcc" not in text[text.rindex("FROM") :]
    assert "--mount=type=bind,from=build" in text


def test_python_is_supported() -> None:
    """The base's Python is one that the package says it supports."""
    (base,) = _of("ARG")
    python = base.removeprefix("BASE=python:").removesuffix("-slim")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]


def test_copied_files_exist() -> None:
    """What is copied is in the checkout, and it is all that a build reads."""
    copied = {source for one in _of("COPY") for source in one.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    needed = {"pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "src"}
    assert needed <= copied


def test_installs_leave_nothing_behind() -> None:
    """No lists of packages and no caches in a layer, no recommended packages."""
    for run in _of("RUN"):
        if "apt-get" in run:
            assert "--no-install-recommends" in run
            assert "rm -rf /var/lib/apt/lists" in run
        for command in re.findall(r"pip (?:install|wheel).*?(?:&&|$)", run):
            assert "--no-cache-dir" in command


def test_commands_exist() -> None:
    """What is run and started of ``fastipam`` are its commands, with options that it has."""
    assert _of("ENTRYPOINT") == ['["fastipam"]']
    assert _of("CMD") == ['["agent"]']
    found = re.findall(r"fastipam (install) (.*)", _of("RUN")[-1])
    assert found
    for command, options in found:
        subcommand(command).make_context(command, options.split())


def test_user_is_said() -> None:
    """It runs as root, and says so."""
    assert _of("USER") == ["0:0"]
