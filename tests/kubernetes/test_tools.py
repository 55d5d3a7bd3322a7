"""How the programs of Kubernetes come into the cache; ``go`` is a script here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .tools import build

# It writes down that it was called, waits so that another may come between, and makes the program.
_GO = """#!/bin/sh
PATH=/usr/bin:/bin
echo "$@" >>"$HOME/calls"
while [ $# -gt 1 ]; do [ "$1" = -o ] && made=$2; shift; done
sleep 0.2
printf '#!/bin/sh\\necho built\\n' >"$made"
chmod +x "$made"
exit "$(cat "$HOME/status" 2>/dev/null || echo 0)"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory with nothing but this ``go``."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "go").write_text(_GO)
    (programs / "go").chmod(0o755)
    return tmp_path


def _start(home: Path, *arguments: str, tools: Path = build.HERE) -> subprocess.Popen[str]:
    command = [sys.executable, str(tools / "build.py"), *arguments]
    environment = {"HOME": str(home), "PATH": str(home / "bin")}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _run(home: Path, *arguments: str, tools: Path = build.HERE) -> tuple[int, str, str]:
    with _start(home, *arguments, tools=tools) as process:
        output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def _calls(home: Path) -> list[str]:
    path = home / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_builds_what_is_missing(home: Path) -> None:
    """A second run builds nothing, and needs no Go."""
    assert _run(home, "--check")[0] == 1
    status, output, _ = _run(home, "kubectl")
    assert status == 0
    directory = Path(output.strip())
    version = build.MODULES["kubernetes"].version
    assert directory == home / ".cache" / "fastipam" / f"kubernetes-{version}"
    assert os.access(directory / "kubectl", os.X_OK)
    status, output, _ = _run(home)
    assert status == 0
    assert len(_calls(home)) == len(build.COMMANDS)
    found = {path.name for each in output.split() for path in Path(each).iterdir()}
    assert found == {*build.COMMANDS, "lock"}
    assert subprocess.check_output([directory / "kubectl"], text=True) == "built\n"
    (home / "bin" / "go").unlink()
    assert _run(home) == (0, output, "")
    assert _run(home, "--check")[0] == 0


def test_version_of_one_tool_changes(home: Path, tmp_path: Path) -> None:
    """Only that tool is built again: each project has a directory of its own version."""
    copy = tmp_path / "tools"
    shutil.copytree(build.HERE, copy)
    assert _run(home, "helm", "crictl", tools=copy)[0] == 0
    path = copy / "helm" / "go.mod"
    version = build.MODULES["helm"].version
    path.write_text(path.read_text().replace(f"helm/v4 v{version}", "helm/v4 v4.99.0"))
    status, output, _ = _run(home, "helm", "crictl", tools=copy)
    assert status == 0
    assert next(Path(each).name for each in output.split()) == "helm-4.99.0"
    assert [call.split()[-1] for call in _calls(home)] == [
        *("helm.sh/helm/v4/cmd/helm", "sigs.k8s.io/cri-tools/cmd/crictl"),
        "helm.sh/helm/v4/cmd/helm",
    ]


def test_sums_are_checked(home: Path) -> None:
    """A module that go.sum does not have is refused, not added; the server says its version."""
    _run(home, "kube-apiserver")
    (call,) = _calls(home)
    assert "-mod=readonly" in call
    assert f"version.gitVersion=v{build.MODULES['kubernetes'].version}" in call
    assert call.endswith("k8s.io/kubernetes/cmd/kube-apiserver")


def test_two_at_once(home: Path) -> None:
    """One builds, the other waits and finds it."""
    with _start(home, "kubectl") as one, _start(home, "kubectl") as other:
        for process in (one, other):
            process.communicate(timeout=60)
    assert one.returncode == other.returncode == 0
    assert len(_calls(home)) == 1


def test_build_that_fails(home: Path) -> None:
    """What it has written is not taken for the program, and the next run builds it."""
    (home / "status").write_text("1")
    status, _, errors = _run(home, "kubectl")
    assert status == 1
    assert "kubectl" in errors
    assert "cannot be built" in errors
    assert _run(home, "kubectl", "--check")[0] == 1
    (home / "status").unlink()
    assert _run(home, "kubectl")[0] == 0


def test_without_go(home: Path) -> None:
    """It says what to install."""
    (home / "bin" / "go").unlink()
    status, _, errors = _run(home, "kubectl")
    assert status == 1
    assert f"install Go {build.MODULES['kubernetes'].go} or later" in errors


def test_program_that_is_none(home: Path) -> None:
    """The message has those that there are."""
    status, _, errors = _run(home, "kubelt")
    assert status == 1
    assert "no such program: kubelt (one of kube-apiserver, " in errors


def test_parts_have_the_version_of_the_whole() -> None:
    """go.mod replaces each part of Kubernetes by the version that belongs to it."""
    module = build.MODULES["kubernetes"]
    text = (module.source / "go.mod").read_text()
    replaced = re.findall(r"^\t(k8s\.io/\S+) => (\S+) (\S+)$", text, re.MULTILINE)
    assert len(replaced) > 30
    _, minor = module.version.split(".", 1)
    assert {version for *_, version in replaced} == {f"v0.{minor}"}
    assert all(old == new for old, new, _ in replaced)
    unreplaced = re.findall(r"^\t(k8s\.io/\S+) v0\.0\.0(?: |$)", text, re.MULTILINE)
    assert set(unreplaced) <= {old for old, *_ in replaced}
