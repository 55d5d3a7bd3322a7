"""Build the test tools of Kubernetes from Go modules into a cache.

Each directory beside this file is a Go module that names programs of one project: their
requirements conflict. ``scripts/kubernetes-tools [NAME...]`` runs this; without names it builds all
of them. What is in the cache stays as it is, so a second run needs no Go. It prints the directories
of the programs. ``--check``: it builds nothing, and fails if one is missing.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


class Module:
    """A directory with a go.mod: the version of one project, and the programs that it has."""

    def __init__(self, directory: Path) -> None:
        text = (directory / "go.mod").read_text()
        self.source = directory
        self.go = re.findall(r"^go (\S+)", text, re.MULTILINE)[0]
        listed = re.findall(r"^(?:tool |\t)([^\s/]+/\S+)$", text, re.MULTILINE)
        self.commands = {Path(each).name: each for each in listed}
        # The project is the required module that the commands are packages of.
        required = re.findall(r"^(?:require |\t)(\S+) v(\S+)", text, re.MULTILINE)
        self.version = next(version for name, version in required if listed[0].startswith(name))

    @property
    def directory(self) -> Path:
        """The directory of this version's programs, whether it is there or not.

        No variable moves it: tests/surroundings.py takes those from the tests.
        """
        return Path.home() / ".cache" / "fastipam" / f"{self.source.name}-{self.version}"

    def flags(self) -> str:
        """Return what the linker is told: without it a server of Kubernetes calls itself v0.0.0."""
        if self.source.name != "kubernetes":
            return "-s -w"
        major, minor, _ = self.version.split(".")
        values = {"gitVersion": f"v{self.version}", "gitMajor": major, "gitMinor": minor}
        said = (f"-X k8s.io/component-base/version.{key}={values[key]}" for key in values)
        return " ".join(("-s -w", *said))

    def build(self, name: str) -> None:
        """Build a program. It gets its name when it is whole.

        Raises ``SystemExit`` with a message when Go is missing or the build fails.
        """
        if not shutil.which("go"):
            needs = f"go is not in PATH: install Go {self.go} or later"
            raise SystemExit(f"{name} has to be built, and {needs}")
        made = self.directory / f"{name}.new"
        command = [
            *("go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false"),
            *("-ldflags", self.flags(), "-o", str(made), self.commands[name]),
        ]
        print(f"building {name} {self.version}: up to ten minutes", file=sys.stderr, flush=True)
        environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
        done = subprocess.run(command, cwd=self.source, env=environment, check=False)
        if done.returncode:
            cannot = f"{name} {self.version} cannot be built: see above"
            raise SystemExit(f"{cannot}; {self.go} is the oldest Go")
        made.rename(self.directory / name)

    def find(self, name: str) -> Path | None:
        """Return where a program is, if it has been built."""
        path = self.directory / name
        return path if os.access(path, os.X_OK) else None

    def ensure(self, name: str) -> None:
        """Build a program if it is missing; processes that want it take turns.

        A program that is there can be used without a lock. Raises ``SystemExit`` as ``build``.
        """
        if self.find(name):
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.find(name):
                self.build(name)


# The tests that need few programs wait for the first ones only.
_ORDER = ("kubernetes", "cni", "plugins", "containerd", "cri-tools", "helm")
MODULES = {name: Module(HERE / name) for name in _ORDER}
COMMANDS = {name: module for module in MODULES.values() for name in module.commands}


def program(name: str) -> Path | None:
    """Where a program is, if it has been built."""
    return COMMANDS[name].find(name)


def build(names: list[str]) -> None:
    """Build those that are missing. Raises ``SystemExit`` when one cannot be built."""
    for name in names:
        COMMANDS[name].ensure(name)


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
    for directory in dict.fromkeys(COMMANDS[name].directory for name in names):
        print(directory)


if __name__ == "__main__":
    main(sys.argv[1:])
