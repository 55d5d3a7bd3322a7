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

    A pool is removed with its last network. If that pool has reservations or blocks of a cluster,
    the network stays. A network also stays while one of its addresses cools down, because otherwise
    another network could assign the address at once. An agent removes a network in the same way
    when nothing has happened in it for 30 days.
    """
    from fastipam.allocation import removal

    with open_with(data_dir, create=False) as ipam:
        try:
            with ipam.store.write() as txn:
                pool = removal.remove_network(txn, name)
        except UnknownNetwork as error:
            error.hint = f"the networks of the store: {', '.join(ipam.networks()) or 'none'}"
            raise
    if as_json:
        output.json_array([{"network": name, "pool": pool}])
        return
    output.say(f"network {name} is removed")
