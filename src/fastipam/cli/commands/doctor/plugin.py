"""Diagnose the installed plugin: whether it exists, and belongs to this fastipam."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb

import fastipam
from fastipam.cli.click_base import as_root
from fastipam.cli.commands.doctor import surroundings
from fastipam.cli.commands.doctor.diagnosis import OK, PROBLEM, WARNING, Diagnosis
from fastipam.cli.commands.install import bundle
from fastipam.cli.commands.install.executables import script
from fastipam.cli.commands.install.targets import BUNDLE, CLUSTER_BUNDLE, DIRECT

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHECK = "plugin"
_PATIENCE_S = 20  # how long to wait for a process that takes milliseconds on an idle machine
NAME = "fastipam"
OTHER_DIRECTORIES = (Path("/opt/cni/bin"), Path("/usr/lib/cni"), Path("/usr/libexec/cni"))


def look(bin_dir: Path) -> Iterator[Diagnosis]:
    """Diagnose the launcher, then the entry point and the bundle beside it."""
    mend = f"fastipam install --bin-dir {bin_dir}"
    if surroundings.in_kubernetes():
        mend = surroundings.restart_in_kubernetes()  # the pod's first container installs it
    launcher = bin_dir / NAME
    try:
        content = launcher.read_bytes()
    except FileNotFoundError:
        if surroundings.lacks(bin_dir):
            text = surroundings.not_mounted(bin_dir, "the plugin cannot be examined")
            yield Diagnosis(_CHECK, WARNING, text)
            return
        others = [one for one in OTHER_DIRECTORIES if one != bin_dir and (one / NAME).exists()]
        place = f"; there is one in {others[0]}" if others else ""
        yield Diagnosis(_CHECK, PROBLEM, f"{launcher} does not exist{place}", mend)
        return
    except OSError as error:
        yield _unreadable(launcher, error, mend)
        return
    package = Path(fastipam.__file__).resolve().parent
    if not os.access(launcher, os.X_OK):
        yield Diagnosis(_CHECK, PROBLEM, f"{launcher} is not executable", mend)
    elif content != (package / "launcher").read_bytes():
        text = f"{launcher} is not the launcher of this fastipam, {fastipam.__version__}"
        yield Diagnosis(_CHECK, WARNING, text, mend)
    else:
        text = f"{launcher} is the launcher of this fastipam, {fastipam.__version__}"
        yield Diagnosis(_CHECK, OK, text)
    yield _entry_point(bin_dir / DIRECT, mend)


def has_entry_point(bin_dir: Path) -> bool:
    """Return whether the plugin works without an agent."""
    return os.access(bin_dir / DIRECT, os.X_OK)


def _entry_point(path: Path, mend: str) -> Diagnosis:
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return Diagnosis(_CHECK, OK, f"{path} does not exist: only an agent can serve calls")
    except OSError as error:
        return _unreadable(path, error, mend)
    interpreter = _interpreter(text)
    try:
        is_executable = bool(os.stat(interpreter).st_mode & 0o111)
    except FileNotFoundError:
        what = f"{path} starts {interpreter}, which does not exist"
        return Diagnosis(_CHECK, PROBLEM, what, mend)
    except OSError as error:
        return _unreadable(Path(interpreter), error, mend)
    if not is_executable:
        what = f"{path} starts {interpreter}, which is not executable"
        return Diagnosis(_CHECK, PROBLEM, what, mend)
    refusal = _refusal(path)
    if refusal:
        return Diagnosis(_CHECK, PROBLEM, f"{path} cannot serve a call: {refusal}", mend)
    paths = [str(Path(one.__file__ or "").resolve().parent.parent) for one in (fastipam, lmdb)]
    if text != script(sys.executable, list(dict.fromkeys(paths))):
        what = f"{path} belongs to another installation, of {interpreter}"
        return Diagnosis(_CHECK, WARNING, what, mend)
    stale = _stale(path.with_name(BUNDLE)) or _stale(path.with_name(CLUSTER_BUNDLE))
    if stale:
        return Diagnosis(_CHECK, WARNING, f"{stale}: calls without an agent take longer", mend)
    return Diagnosis(_CHECK, OK, f"{path} serves calls when no agent does")


def _refusal(path: Path) -> str:
    """Return why an entry point cannot answer VERSION, or "" when it can."""
    try:
        done = subprocess.run(
            [path],
            env={**os.environ, "CNI_COMMAND": "VERSION"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        answer = json.loads(done.stdout)
        return str(answer["msg"]) if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    except (ValueError, LookupError, TypeError):
        return done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or "no answer"


def _unreadable(path: Path, error: OSError, mend: str) -> Diagnosis:
    """Return the diagnosis of a file that cannot be read, at least not by this user."""
    if isinstance(error, PermissionError) and os.geteuid() != 0:
        return Diagnosis(_CHECK, WARNING, f"{path} cannot be read by this user", as_root())
    return Diagnosis(_CHECK, PROBLEM, f"{path} cannot be read: {error.strerror}", mend)


def _interpreter(text: str) -> str:
    """Return the interpreter that the first lines of an entry point start."""
    first, _, rest = text.partition("\n")
    if first == "#!/bin/sh":
        try:
            words = shlex.split(rest.partition("\n")[0])
        except ValueError:
            words = []
        return next((word for word in words if word.startswith("/")), "")
    return first.removeprefix("#!").partition(" ")[0]


def _stale(path: Path) -> str:
    """Return why the entry point ignores a file of the bundle, or "" when it uses the file."""
    try:
        # Unmarshalling is safe: only root can write the file, as with the launcher.
        modules = bundle.modules_of(path.read_bytes())
        for source, _, size, time_ns, _ in modules.values():
            status = os.stat(source)
            if (status.st_size, status.st_mtime_ns) != (size, time_ns):
                return f"{source} is newer than {path}"
    except FileNotFoundError as error:
        return f"{error.filename} does not exist"
    except (EOFError, OSError, TypeError, ValueError, LookupError) as error:
        return f"{path} cannot be used: {error}"
    return ""
