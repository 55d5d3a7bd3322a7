"""The command ``fastipam network``: remove a network without addresses."""

from __future__ import annotations

import click

from fastipam.cli import options, output
from fastipam.cli.click_base import SETTINGS, Entry, Group
from fastipam.cli.click_base import command as _command
from fastipam.errors import UnknownNetwork
from fastipam.ipam import open_with

_HERE = "fastipam.cli.commands.network"
_COMMANDS = {
    "remove": Entry(f"{_HERE}:remove", "Change", "Remove a network without addresses."),
}


@click.group("network", cls=Group, entries=_COMMANDS, context_settings=SETTINGS)
def command() -> None:
    """The networks of this node, by the names of their configurations."""


@_command(
    "remove",
    examples=(("fastipam network remove oldnet", "after its configuration was deleted"),),
    exits={1: "it has addresses, or an error"},
)
@click.argument("name")
@options.data_dir
@options.as_json
def remove(name: str, data_dir: str, as_json: bool) -> None:
    """Remove the network NAME with its history, if it has no address.

    Its pool goes with its last network, unless it has reservations or blocks of a cluster: then the
    network stays. It also stays while an address that it had cools down, because without it another
    network could assign the address at once. An agent does the same with a network in which nothing
    has happened for 30 days.
    """
    from fastipam.allocation import removal

    with open_with(data_dir, create=False) as ipam:
        try:
            with ipam.store.write() as txn:
                pool = removal.remove_network(txn, name)
        except UnknownNetwork as error:
            error.hint = f"it has {', '.join(ipam.networks()) or 'none'}"
            raise
    if as_json:
        output.json_array([{"network": name, "pool": pool}])
        return
    output.say(f"network {name} is removed")
