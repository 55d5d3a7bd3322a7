"""The entry point ``fastipam``: the command line, or the plugin when a runtime calls it."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    """Run the command line; exit status 0 done, 1 failed (or findings), 2 wrong usage."""
    if len(sys.argv) == 1 and "CNI_COMMAND" in os.environ:
        from fastipam.cni.main import main as plugin

        plugin()
    _prepare_streams()
    from fastipam.cli.commands import cli

    cli(prog_name="fastipam")


def _prepare_streams() -> None:
    """Let standard streams that are closed, or cannot show every character, do no harm.

    The number of a closed one would be the next file's: what is printed would go into the store.
    So it is taken, by something that can be neither read nor written and says so.
    """
    for descriptor, name, useless, mode in (
        (0, "stdin", os.O_WRONLY, "rb"),
        (1, "stdout", os.O_RDONLY, "wb"),
        (2, "stderr", os.O_WRONLY, "wb"),  # nobody is left to tell
    ):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, useless)  # the lowest number that is free: this one
            # Without a buffer: what is left in one would fail again at the interpreter's end.
            stream: Any = open(descriptor, mode, buffering=0, closefd=False)  # noqa: SIM115
            setattr(sys, name, TextIOWrapper(stream, write_through=True))
    # A pod's name in a terminal without UTF-8 is shown somehow, and no reason to stop.
    getattr(sys.stdout, "reconfigure", lambda **_: None)(errors="backslashreplace")
