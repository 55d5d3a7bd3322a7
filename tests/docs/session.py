"""Run the blocks of one document as a reader would, on a machine that is thrown away.

``python session.py PLAN`` runs in namespaces of its own (see test_blocks.py). It puts empty
directories over those in which fastipam, runtimes and ``ip netns`` keep things, then runs the
plan's blocks one by one in a copy of the checkout, and prints what became of them as JSON. It runs
them twice, the second time in a new shell on the machine that the first time has left.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FRESH = ("/opt/cni", "/etc/cni", "/var/lib/cni", "/run/fastipam", "/run/netns")
ROUNDS = 2
TIMEOUT_S = 1500  # the quick benchmark, on a machine with much else to do


def cover() -> None:
    """An empty, private directory over each of FRESH."""
    for path in FRESH:
        os.makedirs(path, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "fastipam-docs", path], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class Shell:
    """One shell after the other, each beginning where the one before has ended."""

    def __init__(self, directory: Path, state: Path) -> None:
        self._directory = str(directory)
        self._state = state

    def run(self, text: str) -> tuple[int, str]:
        """Exit status and output. Background processes live on, with their output cut off."""
        state = shlex.quote(str(self._state))
        save = f"trap 'export -p > {state}.env; pwd > {state}.cwd' EXIT\n"
        load = f". {state}.env\n" if Path(f"{self._state}.env").exists() else ""
        cwd = Path(f"{self._state}.cwd")
        where = cwd.read_text().strip() if cwd.exists() else self._directory
        # Not a pipe: a process that is left in the background would keep it open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                ["bash", "-c", f"{load}{save}set -eo pipefail\n{text}"],
                cwd=where,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_S,
                check=False,
            )
            output.seek(0)
            return done.returncode, output.read()

    def python(self, text: str) -> tuple[int, str]:
        """Exit status and output of a program where the shell is now."""
        script = Path(f"{self._state}.py")
        script.write_text(text)
        return self.run(f"python -W error {shlex.quote(str(script))}")


def run(shell: Shell, block: dict[str, Any]) -> list[dict[str, Any]]:
    """The commands of a block with status, output, and what the page says comes out."""
    if block["language"] == "console":
        return [
            _result(*shell.run(command), command, expected)
            for command, expected in block["commands"]
        ]
    kind = shell.python if block["language"] == "python" else shell.run
    return [_result(*kind(block["text"]), block["text"], None)]


def _result(status: int, output: str, command: str, expected: str | None) -> dict[str, Any]:
    return {"command": command, "status": status, "output": output, "expected": expected}


def main() -> None:
    """Read the plan, run it, print the results."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    cover()
    done = []
    for again in range(ROUNDS):
        shell = Shell(Path(plan["directory"]), Path(f"{plan['state']}-{again}"))
        for block in plan["blocks"]:
            try:
                results = run(shell, block)
            except subprocess.TimeoutExpired:
                results = [_result(-1, f"took longer than {TIMEOUT_S} s", block["text"], None)]
            where = f"{block['where']} (run {again + 1})"
            done.append({"where": where, "mark": block["mark"], "results": results})
    print(json.dumps(done))


if __name__ == "__main__":
    main()
