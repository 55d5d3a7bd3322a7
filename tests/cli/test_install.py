"""``fastipam install``: what lands in a runtime's plugin directory."""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import fastipam
from fastipam.cli.commands import cli
from fastipam.cli.commands.doctor import plugin
from fastipam.cli.commands.doctor.diagnosis import PROBLEM
from fastipam.cli.commands.install.targets import BUNDLE, CLUSTER_BUNDLE, DIRECT

from ..agent.processes import until
from ..e2e import tools
from ..faults import disks

LAUNCHER = Path(fastipam.__file__).parent / "launcher"


def _install(bin_dir: Path, *options: str) -> Path:
    done = CliRunner().invoke(cli, ["install", "--bin-dir", str(bin_dir), *options])
    assert done.exit_code == 0, done.output
    path = Path(done.stdout.splitlines()[0].removeprefix("installed "))
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


def test_mistyped_directory(tmp_path: Path) -> None:
    """Directories of a typo are not made; what was made, and both files, are named."""
    bin_dir = tmp_path / "ocni" / "bin"
    done = CliRunner().invoke(cli, ["install", "--bin-dir", str(bin_dir)])
    assert done.exit_code == 1
    assert f"{bin_dir.parent}: this directory does not exist" in done.stderr
    assert f"mkdir -p {bin_dir}" in done.stderr
    assert os.listdir(tmp_path) == []
    bin_dir.parent.mkdir()
    done = CliRunner().invoke(cli, ["install", "--bin-dir", str(bin_dir)])
    assert done.stderr == f"created the directory {bin_dir}\n"
    assert done.stdout.splitlines() == [
        f"installed {bin_dir / 'fastipam'}",
        f"installed {bin_dir / DIRECT}, which serves calls when no agent does",
    ]
    again = CliRunner().invoke(cli, ["install", "--bin-dir", str(bin_dir)])
    assert (again.stdout, again.stderr) == (done.stdout, "")


def test_directory_that_this_user_may_not_write(tmp_path: Path) -> None:
    """The error names the directory, and how to do it as root."""
    nobody = tools.as_another_user()
    tools.open_to_all(tmp_path)
    program = str(Path(sys.executable).with_name("fastipam"))
    words = [program, "install", "--bin-dir", str(tmp_path)]
    done = subprocess.run(
        [*nobody, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"fastipam: {tmp_path}: Permission denied",
        f"  hint: as root: sudo {' '.join(words)}",
    ]


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


ODD_NAMES = [
    *(
        "..",
        ".",
        ".hidden",
        "-x",
        "a/b",
        "/etc/passwd",
        "../x",
        "two words",
        "new\nline",
        "ä",
        "\x7f",
    ),
    *(DIRECT, BUNDLE, f"{DIRECT}.x", "n" * 201, "n" * 5000),
]


@pytest.mark.parametrize("command", ["install", "uninstall"])
@pytest.mark.parametrize("name", ODD_NAMES)
def test_refused_names(tmp_path: Path, command: str, name: str) -> None:
    """A name that is no plugin's file in the directory is an error, and nothing changes."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (tmp_path / "x").write_bytes(LAUNCHER.read_bytes())
    more = ["--force", "--conflist", str(tmp_path / "none")] if command == "uninstall" else []
    done = CliRunner().invoke(cli, [command, "--bin-dir", str(bin_dir), f"--name={name}", *more])
    assert done.exit_code == 1
    assert re.match(r"fastipam: --name: '[^']+' cannot be the plugin's name: ", done.stderr)
    assert len(done.stderr) < 600
    assert (tmp_path / "x").exists()
    assert os.listdir(bin_dir) == []


@pytest.mark.parametrize("options", [(), ("--launcher-only",)])
def test_another_plugin_of_the_name(tmp_path: Path, options: tuple[str, ...]) -> None:
    """It stays, and nothing is written beside it; --replace is what replaces it."""
    other = tmp_path / "host-local"
    other.write_bytes(b"\x7fELF, and no launcher")
    words = ["install", "--bin-dir", str(tmp_path), "--name", "host-local", *options]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 1
    assert f"{other} is another plugin, not fastipam's launcher" in done.stderr
    assert "--replace" in done.stderr
    assert os.listdir(tmp_path) == ["host-local"]
    assert other.read_bytes().startswith(b"\x7fELF")
    assert CliRunner().invoke(cli, [*words, "--replace"]).exit_code == 0
    assert other.read_bytes() == LAUNCHER.read_bytes()
    assert CliRunner().invoke(cli, words).exit_code == 0  # an upgrade


@pytest.mark.parametrize("options", [(), ("--launcher-only",)])
@pytest.mark.parametrize("target", ["fastipam", DIRECT, BUNDLE, CLUSTER_BUNDLE])
@pytest.mark.parametrize("kind", ["a directory", "a FIFO"])
def test_a_target_that_is_no_file(
    tmp_path: Path, options: tuple[str, ...], target: str, kind: str
) -> None:
    """The installation that is there stays whole: nothing is written or removed."""
    for name in {"fastipam", DIRECT, BUNDLE, CLUSTER_BUNDLE} - {target}:
        (tmp_path / name).write_bytes(LAUNCHER.read_bytes())
    (os.mkdir if kind == "a directory" else os.mkfifo)(tmp_path / target)
    before = {one.name: one.lstat() for one in tmp_path.iterdir()}
    done = CliRunner().invoke(cli, ["install", "--bin-dir", str(tmp_path), *options])
    assert done.exit_code == 1
    assert f"fastipam: {tmp_path / target}: there is {kind} of this name, not a file" in done.stderr
    after = {one.name: one.lstat() for one in tmp_path.iterdir()}
    assert {name: one.st_mtime_ns for name, one in after.items()} == {
        name: one.st_mtime_ns for name, one in before.items()
    }


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


def _direct(bin_dir: Path, command: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", **more}
    return subprocess.run(
        [bin_dir / DIRECT], env=environment, input="{}", capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("STATUS", 50), ("VERSION", 11)])
@pytest.mark.parametrize("fault", ["removed", "not compiled", "damaged", "forced"])
def test_a_plugin_that_cannot_be_loaded(
    fault: str, command: str, code: int, tmp_path: Path
) -> None:
    """An error object names the versions of Python and what to type; there is no traceback."""
    tree = tmp_path / "tree"
    entry = _install(tmp_path / "bin").with_name(DIRECT)
    (entry.with_name(BUNDLE)).unlink()
    if fault != "removed":  # a copy of the package without its compiled modules
        leave_out = shutil.ignore_patterns("*.so", "__pycache__", "launcher")
        shutil.copytree(LAUNCHER.parent, tree / "fastipam", ignore=leave_out)
    if fault == "damaged":  # in the middle of an upgrade
        (tree / "fastipam" / "cni" / "main.py").write_text("def main(\n")
    # Only below the first line: the path of the interpreter may contain the version, too.
    first, _, text = entry.read_text().partition("\n")
    text = text.replace(str(LAUNCHER.parents[1]), str(tree))
    text = text.replace(f"{sys.version_info[0]}.{sys.version_info[1]}", "3.1")
    entry.write_text(f"{first}\n{text}")
    done = _direct(entry.parent, command, **({"LMDB_FORCE_CFFI": "1"} if fault == "forced" else {}))
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["code"], done.stderr) == (1, code, "")
    running = ".".join(map(str, sys.version_info[:2]))
    assert f"by Python {running} (it was installed for Python 3.1" in answer["msg"]
    assert "fastipam install" in answer["details"]
    assert ("LMDB_FORCE_CFFI" in answer["msg"] + answer["details"]) == (fault == "forced")


@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("STATUS", 50)])
@pytest.mark.parametrize("directory", ["a b", "a $HOME b", 'a "b" c', "it's a b"])
def test_a_missing_interpreter_that_a_shell_starts(
    directory: str, command: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell that does not find the interpreter answers with an error object, too."""
    python = tmp_path / directory / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    bin_dir = _install(tmp_path / "bin").parent
    python.unlink()
    done = _direct(bin_dir, command)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["code"], done.stderr) == (1, code, "")
    assert answer["msg"] == f"fastipam-direct cannot be started: {python} does not exist"
    assert "fastipam install" in answer["details"]


def test_another_python(tmp_path: Path) -> None:
    """An entry point that another version of Python starts says which one it was made for."""
    running = ".".join(map(str, sys.version_info[:2]))
    found = [
        path
        for directory in ("/usr/bin", "/usr/local/bin", "/root/.pyenv/versions/*/bin")
        for path in glob.glob(f"{directory}/python3.[0-9]*")
        if re.fullmatch(r"3\.(9|1\d)", path.rpartition("python")[2]) and not path.endswith(running)
    ]
    if not found:
        tools.lacking("there is no other version of Python here")
    entry = _install(tmp_path / "bin").with_name(DIRECT)
    entry.write_text(entry.read_text().replace(sys.executable, found[0], 1))
    done = _direct(entry.parent, "STATUS")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["code"], done.stderr) == (1, 50, "")
    other = found[0].rpartition("python")[2]
    assert f"by Python {other} (it was installed for Python {running}" in answer["msg"]
    (_, told) = plugin.look(entry.parent)
    assert (told.level, told.command) == (PROBLEM, f"fastipam install --bin-dir {entry.parent}")
    assert f"by Python {other}" in told.text


@pytest.mark.parametrize("words", [["list"], ["doctor"], ["agent"], ["--version"]])
def test_commands_that_cannot_be_loaded(words: list[str], tmp_path: Path) -> None:
    """A command says in two lines that the environment keeps it from being loaded."""
    command = [str(Path(sys.executable).with_name("fastipam")), *words]
    environment = {"LMDB_FORCE_CFFI": "1", "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("fastipam: fastipam cannot be loaded by Python")
    assert second.startswith("  hint: remove LMDB_FORCE_CFFI")


@pytest.mark.parametrize("options", [(), ("--launcher-only",)])
def test_a_launcher_that_runs_is_replaced(tmp_path: Path, options: tuple[str, ...]) -> None:
    """No "text file busy": who runs keeps the old one, and each start meets a whole one."""
    bin_dir = tmp_path / "bin"
    plugin = _install(bin_dir, "--launcher-only")
    before = plugin.stat().st_ino
    path = tmp_path / "s"
    environment = {"CNI_COMMAND": "ADD", "FASTIPAM_SOCKET": str(path)}
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        running = subprocess.Popen(
            [plugin], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        silent.settimeout(20)
        connection, _ = silent.accept()
        running_file = Path(f"/proc/{running.pid}/exe")
        assert running_file.samefile(plugin)
        with pytest.raises(OSError, match="Text file busy"):
            plugin.open("r+b").close()
        _install(bin_dir, *options)
        assert plugin.stat().st_ino != before
        assert not running_file.samefile(plugin)
        connection.close()
        output, _ = running.communicate(timeout=20)
    assert running.returncode == 1
    assert b'"code"' in output
    assert _version(plugin, tmp_path).returncode == (1 if options else 0)


def test_each_start_meets_a_whole_launcher(tmp_path: Path) -> None:
    """While it is replaced again and again, every call is answered."""
    bin_dir = tmp_path / "bin"
    plugin = _install(bin_dir, "--launcher-only")
    code = (
        "import sys; from pathlib import Path;"
        "from fastipam.cli.commands.install.executables import install\n"
        "while True: install(Path(sys.argv[1]), launcher_only=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, bin_dir]) as replacing:
        first = plugin.stat().st_ino
        until(lambda: plugin.stat().st_ino != first, "it is replaced")
        for _ in range(100):
            assert b'"code": 11' in _version(plugin, tmp_path).stdout
        assert replacing.poll() is None
        replacing.kill()


def test_read_only_directory(tmp_path: Path) -> None:
    """The kernel's reason, the directory, and what to type; not "permission denied"."""
    tools.require_root()
    with disks.tmpfs(tmp_path / "bin") as disk:
        disk.make_read_only()
        done = CliRunner().invoke(cli, ["install", "--launcher-only", "--bin-dir", str(disk.path)])
    assert done.exit_code == 1
    assert done.stderr.splitlines()[0] == f"fastipam: {disk.path}: Read-only file system"
    assert "readOnly: false" in done.stderr


def test_root_is_refused(tmp_path: Path) -> None:
    """What refuses root is no mode: the hint names SELinux and attributes."""
    tools.require_root()
    tools.require_tools("chattr")
    with disks.ext4(tmp_path / "bin", tmp_path / "image") as disk:
        subprocess.run(["chattr", "+i", disk.path], check=True)
        done = CliRunner().invoke(cli, ["install", "--launcher-only", "--bin-dir", str(disk.path)])
        subprocess.run(["chattr", "-i", disk.path], check=True)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[0] == f"fastipam: {disk.path}: Operation not permitted"
    assert "SELinux" in done.stderr


def test_a_directory_in_the_place(tmp_path: Path) -> None:
    """The error names the plugin's path, and no temporary file is left."""
    (tmp_path / "fastipam").mkdir()
    done = CliRunner().invoke(cli, ["install", "--launcher-only", "--bin-dir", str(tmp_path)])
    assert done.exit_code == 1
    assert f"{tmp_path / 'fastipam'}: there is a directory of this name, not a file" in done.stderr
    assert os.listdir(tmp_path) == ["fastipam"]
