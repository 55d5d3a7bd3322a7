"""Show what fastipam does, in a minute or two; `scripts/demo` installs it and runs this.

A pod's ADD and DEL; the same ADDs through host-local; a /12 that is filled, and 10,000 of its pods
replaced while the agent is killed; the map of it. Everything lies in one directory, which is left
to be looked at and which the next demo replaces. The store of this node is not touched.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from rich.console import Console

import fastipam
from bench import children
from bench.demo.closing import removal
from bench.demo.parts import FULL, QUICK, Demo, Effort
from bench.demo.places import Places, shown
from bench.errors import Failed, Missing
from fastipam.cli import streams
from fastipam.cli.output import counted
from fastipam.errors import FastipamError

_TOP = Path(__file__).parents[2] / "fastipam-demo"
_WIDTH = 80
# Variables that would make the demo's commands use the node's own store and agent.
_OF_THE_NODE = ("FASTIPAM_DATA_DIR", "FASTIPAM_SOCKET", "FASTIPAM_TIMEOUT", "PYTHONPATH")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the /12, 500 pods")
    parser.add_argument(
        "--directory",
        type=Path,
        default=_TOP,
        metavar="DIR",
        help=f"where everything goes (default: {shown(_TOP)})",
    )
    return parser.parse_args(argv)


def demonstrate(places: Places, effort: Effort, console: Console) -> None:
    """Run the demo. Raises Failed, Missing."""
    begun = perf_counter()
    with places.prepared() as replaced:
        _introduce(places, replaced=replaced, console=console)
        # In the system's temporary directory, because a socket's path has 107 bytes at most.
        with tempfile.TemporaryDirectory(prefix="fastipam-demo-") as sockets:
            Demo(places, effort, Path(sockets), console).run()
        shutil.rmtree(places.scratch)
    console.print(f"\nThe demo took {perf_counter() - begun:.0f} s.", highlight=False)


def _introduce(places: Places, *, replaced: bool, console: Console) -> None:
    processors = os.cpu_count() or 1
    console.print(
        f"[bold]fastipam {fastipam.__version__}[/], Python {platform.python_version()}, "
        f"{platform.machine()}, {counted(processors, 'processor')}. "
        f"Everything goes into {shown(places.top)}"
        + (", in the place of the last demo." if replaced else "."),
        highlight=False,
    )
    load = os.getloadavg()[0]
    if load > processors:
        console.print(
            f"Other programs are busy here (load {load:.1f}): every figure is worse than it would "
            "be on an idle machine.",
            highlight=False,
        )


def main(argv: list[str] | None = None) -> int:
    """Run the demo; return 0, 1 when it fails, or 130 when it is interrupted."""
    options = _arguments(argv)
    for name in _OF_THE_NODE:
        os.environ.pop(name, None)
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.default_int_handler)
    console = Console(width=_WIDTH if not sys.stdout.isatty() else None)
    places = Places(options.directory.absolute())
    try:
        demonstrate(places, QUICK if options.quick else FULL, console)
    except (Failed, Missing, FastipamError, OSError) as error:
        print(f"\nscripts/demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nscripts/demo: interrupted; the agent has ended", file=sys.stderr)
        if places.top.exists():
            print(
                f"What it made is still there; remove it with: {removal(places)}", file=sys.stderr
            )
        return 130
    finally:
        children.end_all()
    return 0


if __name__ == "__main__":
    streams.run(main)
