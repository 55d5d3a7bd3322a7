"""Run a program with a test's clock and faults: ``python -m fastipam.testing.child``.

:meth:`TemporaryStore.command` makes the command line: the settings, the program, its arguments.

There is no variable for this. A plugin would have to look for it at each start, and whoever can set
a variable could set the clock, and have GC free the addresses of living containers. What is
installed on a node never imports this package: a process is a test's because it was started by
this module, which changes fastipam before anything uses it.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

from fastipam.cni import handler
from fastipam.testing import faults
from fastipam.testing.clock import Clock
from fastipam.testing.places import Place, register

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_answer = handler.answer


def _answer_by_the_test(*arguments: Any, **keywords: Any) -> bytes:
    """Answer a request; the machine's clock does not say which leases are younger than it."""
    keywords.pop("started_ns", None)
    return _answer(*arguments, **keywords)


def main(settings: dict[str, Any], program: str, *arguments: str) -> None:
    """Run a program: a script, ``-m`` and a module, or ``fastipam``."""
    register(Place(Path(settings["store"]), Clock.of(settings["clock"])))
    vars(handler)["answer"] = _answer_by_the_test
    if settings["kill"] is not None:
        faults.kill_at(settings["kill"], settings["kill_call"])
    sys.argv = [program, *arguments]
    if program == "fastipam":
        from fastipam.cli.main import main as fastipam

        fastipam()
    if program == "-m":
        sys.argv = [*arguments]
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.realpath(program))
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), *sys.argv[2:])
