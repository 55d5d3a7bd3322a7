"""``fastipam install``: what lands in a runtime's plugin directory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import fastipam
from fastipam.cli.commands import cli
from fastipam.cli.commands.install.executables import DIRECT

LAUNCHER = Path(fastipam.__file__).parent / "launcher"


def _install(bin_dir: Path, *options: str) -> Path:
    done = CliRunner().invoke(cli, ["install", "--bin-dir", str(bin_dir), *options])
    assert done.exit_code == 0, done.output
    path = Path(done.output.removeprefix("installed ").strip())
    assert path.parent == bin_dir
    return path


def _version(plugin: Path, tmp_path: Path) -> subprocess.CompletedProcess[bytes]:
    environment = {"CNI_COMMAND": "VERSION", "FASTIPAM_SOCKET": str(tmp_path / "no-agent.sock")}
    return subprocess.run([plugin], env=environment, input=b"", capture_output=True, check=False)


def test_both_executables(tmp_path: Path) -> None:
    """The launcher and the entry point, which serves when no agent runs."""
    plugin = _install(tmp_path / "bin")
    assert {"fastipam", DIRECT} <= set(os.listdir(plugin.parent))
    done = _version(plugin, tmp_path)
    assert done.returncode == 0
    assert b'"supportedVersions"' in done.stdout


@pytest.mark.parametrize("name", ["fastipam", "host-local"])
def test_launcher_only(tmp_path: Path, name: str) -> None:
    """One file, executable by everybody; without an agent it answers an error object."""
    plugin = _install(tmp_path / "bin", "--launcher-only", "--name", name)
    assert os.listdir(plugin.parent) == [name]
    assert plugin.read_bytes() == LAUNCHER.read_bytes()
    assert plugin.stat().st_mode & 0o777 == 0o755
    done = _version(plugin, tmp_path)
    assert done.returncode == 1
    assert b'"code": 11' in done.stdout


def test_launcher_only_removes_the_entry_point(tmp_path: Path) -> None:
    """An entry point of an earlier installation goes; what belongs to others stays."""
    bin_dir = tmp_path / "bin"
    _install(bin_dir)
    (bin_dir / f"{DIRECT}.cpython-300").write_bytes(b"another Python's")
    (bin_dir / "bridge").write_bytes(b"")
    for _ in range(2):
        _install(bin_dir, "--launcher-only")
        assert sorted(os.listdir(bin_dir)) == ["bridge", "fastipam"]
    assert _version(_install(bin_dir), tmp_path).returncode == 0


@pytest.mark.parametrize("name", ["", "..", "a/b", DIRECT])
def test_refused_names(tmp_path: Path, name: str) -> None:
    """A name that is no file of its own in the directory is an error, and nothing is written."""
    done = CliRunner().invoke(cli, ["install", "--bin-dir", str(tmp_path / "bin"), "--name", name])
    assert done.exit_code == 1
    assert "--name" in done.output
    assert not (tmp_path / "bin").exists()


@pytest.mark.parametrize("directory", ["a b", "a $HOME b", 'a "b" c', "it's a b", "x" * 150])
def test_interpreter_that_a_first_line_cannot_name(
    directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With blanks in the interpreter's path, or a long one, a shell starts it all the same."""
    python = tmp_path / directory / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    plugin = _install(tmp_path / "bin")
    assert (plugin.parent / DIRECT).read_text().startswith("#!/bin/sh\n")
    done = _version(plugin, tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b'"supportedVersions"' in done.stdout


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written whole is not there at all, and what was there before stays."""
    plugin = _install(tmp_path / "bin", "--launcher-only")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    done = CliRunner().invoke(cli, ["install", "--bin-dir", str(plugin.parent)])
    assert done.exit_code == 1
    assert "No space left on device" in done.output
    assert os.listdir(plugin.parent) == ["fastipam"]
    assert plugin.read_bytes() == LAUNCHER.read_bytes()
