"""Run a program with a test's clock and faults: ``python -m fastipam.testing.child``.

:meth:`TemporaryStore.command` makes the command line: the settings, the program, its arguments.

No environment variable turns this on. A plugin would have to read it at each start, and anybody who
can set a variable could then set the clock, and make GC release the addresses of running
containers. Programs that are installed on a node never import this package. A process uses a test's
clock only because this module has started it, and has changed fastipam before anything else used
it.
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
    """Answer a request without ``started_ns``, which would be a time of the machine's clock."""
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
