"""The entry point ``fastipam``: the command line, or the plugin when a runtime calls it."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command line. The exit status is 0 (done), 1 (failure, findings) or 2 (usage)."""
    if len(sys.argv) == 1 and "CNI_COMMAND" in os.environ:
        from fastipam.cni.main import main as plugin

        plugin()
    from fastipam.cli import streams

    streams.run(_command_line)


def _command_line() -> int:
    from fastipam.cni.main import refuse_forced, why_not_loaded

    try:
        refuse_forced()
        from fastipam.cli.commands import cli

        cli(prog_name="fastipam")
    except ImportError as error:  # also from the module of a command, which is imported late
        message, hint = why_not_loaded(error)
        print(f"fastipam: {message}\n  hint: {hint}", file=sys.stderr)
        return 1
    return 0
