"""The table of all commands: place, section and summary of each.

To add a command, write a module with a click command or group, and add a line here. The module is
imported only when its command is used.
"""

from __future__ import annotations

import click

import fastipam
from fastipam.cli.click_base import SETTINGS, Entry, Root

_LOOK = "Look"
_CHANGE = "Change"
_CARE = "Take care"
_MOVE = "Move"
_SET_UP = "Set up"
_HELP = "Help"
_HERE = "fastipam.cli.commands"

COMMANDS = {
    "list": Entry(f"{_HERE}.list_:command", _LOOK, "Who has which address: IP, STATUS, POD."),
    "stats": Entry(f"{_HERE}.stats:command", _LOOK, "How full each network is."),
    "map": Entry(f"{_HERE}.map_:command", _LOOK, "Draw a pool as a picture or as characters."),
    "show": Entry(f"{_HERE}.show:command", _LOOK, "One address: owner, state, history."),
    "pool": Entry(f"{_HERE}.pool:command", _LOOK, "The pools that networks have or share."),
    "history": Entry(f"{_HERE}.history:command", _LOOK, "Who had an address, and when."),
    "release": Entry(f"{_HERE}.release:command", _CHANGE, "Release addresses without a DEL."),
    "reserve": Entry(
        f"{_HERE}.reserve:command", _CHANGE, "Keep addresses from assignment, or for an owner."
    ),
    "unreserve": Entry(f"{_HERE}.reserve:unreserve", _CHANGE, "End a reservation."),
    "network": Entry(f"{_HERE}.network:command", _CHANGE, "Remove a network without addresses."),
    "gc": Entry(f"{_HERE}.gc:command", _CHANGE, "Release leases of containers not in a list."),
    "sweep": Entry(
        f"{_HERE}.sweep:command", _CHANGE, "Release leases without a network namespace."
    ),
    "status": Entry(f"{_HERE}.status:command", _CARE, "Say whether ADDs can be served now."),
    "doctor": Entry(f"{_HERE}.doctor:command", _CARE, "Diagnose this node, and say what to type."),
    "check": Entry(f"{_HERE}.check:command", _CARE, "Verify the store; --repair fixes it."),
    "backup": Entry(f"{_HERE}.backup:command", _CARE, "Copy the store while it is in use."),
    "restore": Entry(f"{_HERE}.backup:restore", _CARE, "Replace the store with a backup."),
    "import": Entry(f"{_HERE}.migrate:import_", _MOVE, "Import the leases of another plugin."),
    "export": Entry(f"{_HERE}.migrate:export", _MOVE, "Export the leases for another plugin."),
    "cluster": Entry(f"{_HERE}.cluster:command", _SET_UP, "One pool for many nodes."),
    "install": Entry(f"{_HERE}.install:command", _SET_UP, "Install the CNI plugin on this node."),
    "conflist": Entry(f"{_HERE}.conflist:command", _SET_UP, "Print a network configuration."),
    "uninstall": Entry(f"{_HERE}.uninstall:command", _SET_UP, "Remove fastipam from this node."),
    "agent": Entry(f"{_HERE}.agent:command", _SET_UP, "Serve the plugin calls of this node."),
    "controller": Entry(
        f"{_HERE}.controller:command", _SET_UP, "Accept pools, reclaim removed nodes (Kubernetes)."
    ),
    "help": Entry(f"{_HERE}.help_:command", _HELP, "Explain a command or a topic."),
    "completion": Entry(f"{_HERE}.completion:command", _HELP, "Complete words in a shell."),
}


@click.group(cls=Root, entries=COMMANDS, context_settings=SETTINGS)
@click.version_option(fastipam.__version__, prog_name="fastipam")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, readable=False),
    help="The directory of the store, for any command; it may also follow the command.",
)
def cli(data_dir: str | None) -> None:  # options.py reads it from the context
    """IP address management for container networks."""
