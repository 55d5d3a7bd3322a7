"""Every command: where it is and what it is for. A module is imported when its command is used.

A new command is a module with a click command or group in it, and a line here.
"""

from __future__ import annotations

import click

import fastipam
from fastipam.cli.group import SETTINGS, Entry, Root

_LOOK = "Look"
_MOVE = "Move"
_CARE = "Take care"
_SET_UP = "Set up"
_HERE = "fastipam.cli.commands"

COMMANDS = {
    "list": Entry(f"{_HERE}.list_:command", _LOOK, "Who has which address: IP, STATUS, POD."),
    "stats": Entry(f"{_HERE}.stats:command", _LOOK, "How full each network is."),
    "map": Entry(f"{_HERE}.map_:command", _LOOK, "A pool as a picture, or as characters."),
    "check": Entry(f"{_HERE}.check:command", _CARE, "Does the store agree with itself?"),
    "import": Entry(f"{_HERE}.migrate:import_", _MOVE, "Take over another plugin's leases."),
    "export": Entry(f"{_HERE}.migrate:export", _MOVE, "Hand the leases over to another plugin."),
    "cluster": Entry(f"{_HERE}.cluster:command", _SET_UP, "One pool for many nodes, through etcd."),
    "install": Entry(f"{_HERE}.install:command", _SET_UP, "Put the CNI plugin into place."),
    "agent": Entry(f"{_HERE}.agent:command", _SET_UP, "Serve the plugin calls of this node."),
}


@click.group(cls=Root, entries=COMMANDS, context_settings=SETTINGS)
@click.version_option(fastipam.__version__, prog_name="fastipam")
def cli() -> None:
    """IP address management for container networks."""
