"""Build the test tools of Kubernetes from Go modules (go.mod beside this file) into a cache.

``scripts/kubernetes-tools [NAME...]`` runs this; without names it builds all of them. What is in
the cache stays as it is, so a second run needs no Go. It prints the directory of the programs.
``--check``: it builds nothing, and fails if one is missing.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

MODULE = Path(__file__).parent
# The versions are go.mod's: of the commands, and of the Go that can build them.
_GO_MOD = (MODULE / "go.mod").read_text()
VERSION = re.findall(r"k8s\.io/kubernetes v(\S+)", _GO_MOD)[0]
GO = re.findall(r"^go (\d+\.\d+)", _GO_MOD, re.MULTILINE)[0]
COMMANDS = {Path(one).name: one for one in re.findall(r"(k8s\.io/kubernetes/cmd/\S+)", _GO_MOD)}


def directory() -> Path:
    """The directory of these versions' programs, whether it is there or not.

    No variable moves it: tests/surroundings.py takes those from the tests.
    """
    return Path.home() / ".cache" / "fastipam" / f"kubernetes-{VERSION}"


def program(name: str) -> Path | None:
    """Where a program is, if it has been built."""
    path = directory() / name
    return path if os.access(path, os.X_OK) else None


def build(names: list[str]) -> None:
    """Build those that are missing; processes that want the same take turns.

    A program gets its name when it is whole, so one that is there can be used without a lock.
    Raises ``SystemExit`` with a message when Go is missing or the build fails.
    """
    if all(map(program, names)):
        return
    directory().mkdir(parents=True, exist_ok=True)
    with (directory() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in names:
            if not program(name):
                _build(name)


def _build(name: str) -> None:
    if not shutil.which("go"):
        raise SystemExit(f"{name} has to be built, and go is not in PATH: install Go {GO} or later")
    # Without these the server calls itself v0.0.0.
    major, minor, _ = VERSION.split(".")
    values = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{key}={values[key]}" for key in values)
    made = directory() / f"{name}.new"
    command = [
        *("go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false"),
        *("-ldflags", f"-s -w {flags}", "-o", str(made), COMMANDS[name]),
    ]
    print(f"building {name} {VERSION}: up to ten minutes", file=sys.stderr, flush=True)
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    if subprocess.run(command, cwd=MODULE, env=environment, check=False).returncode:
        raise SystemExit(f"{name} {VERSION} cannot be built: see above; {GO} is the oldest Go")
    made.rename(directory() / name)


def main(arguments: list[str]) -> None:
    """Build the named programs, or all, and print where they are."""
    names = [each for each in arguments if each != "--check"]
    for name in names:
        if name not in COMMANDS:
            raise SystemExit(f"no such program: {name} (one of {', '.join(COMMANDS)})")
    names = names or list(COMMANDS)
    if "--check" in arguments:
        raise SystemExit(not all(map(program, names)))
    build(names)
    print(directory())


if __name__ == "__main__":
    main(sys.argv[1:])
