"""The command ``fastipam conflist``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from fastipam.addressing.addresses import V4, V6
from fastipam.cli import options, output
from fastipam.cli.click_base import command as _command
from fastipam.cni import conflist_rules, conflists
from fastipam.errors import ConfigError

_FAMILIES = {"ipv4": V4, "ipv6": V6}


@_command(
    "conflist",
    examples=(
        ("fastipam conflist", "ptp, portmap and bandwidth: addresses from AddressPools"),
        ("fastipam conflist --plugin bridge --mtu 1450", "with a bridge, and room for an overlay"),
        ("fastipam conflist -o /run/fastipam/podnet.conflist", "a template for the agent"),
    ),
)
@click.option(
    "--plugin",
    type=click.Choice(conflists.PLUGINS),
    default=conflists.PTP,
    show_default=True,
    help="The plugin that makes a pod's interface. bridge needs proxy ARP or routes between nodes.",
)
@click.option(
    "--network",
    metavar="NAME",
    default=conflists.DEFAULT_NETWORK,
    show_default=True,
    help="The name of the network.",
)
@click.option(
    "--family",
    "families",
    type=click.Choice(list(_FAMILIES)),
    multiple=True,
    help="A default route of this family. Without it the agent adds one for each family of the "
    "pools when it writes the file.",
)
@click.option(
    "--mtu",
    type=options.Mtu(),
    metavar="BYTES",
    help="The MTU of pods. Without it the agent adds that of the node's interface.",
)
@options.data_dir
@click.option(
    "--no-masquerade", is_flag=True, help="Packets that leave the pool keep the pod's address."
)
@click.option("--no-portmap", is_flag=True, help="Do not add the plugin portmap (hostPort).")
@click.option(
    "--no-bandwidth",
    is_flag=True,
    help="Do not add the plugin bandwidth.",
)
@click.option(
    "--cni-version",
    type=click.Choice(conflists.VERSIONS),
    default=conflists.VERSIONS[-1],
    show_default=True,
    help="The newest version that is offered; the plugins before 1.6 know 1.0.0 only.",
)
@click.option(
    "--output",
    "-o",
    "target",
    metavar="FILE",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write it to FILE instead, in one step; - is standard output.",
)
def command(
    plugin: str,
    network: str,
    families: tuple[str, ...],
    mtu: int | None,
    data_dir: str,
    no_masquerade: bool,
    no_portmap: bool,
    no_bandwidth: bool,
    cni_version: str,
    target: Path | None,
) -> None:
    """Print the network configuration of a cluster whose pools are AddressPools.

    The same file suits every node. It is what `fastipam agent --cluster FILE --write-conflist DEST`
    takes as its template; without an agent, write it to /etc/cni/net.d/10-fastipam.conflist, with
    --family.
    """
    conflist_rules.require_name(network, "--network")
    conflist_rules.require_data_dir(data_dir, "--data-dir")
    if "ipv6" in families and mtu is not None and mtu < options.SMALLEST_MTU_V6:
        raise ConfigError(
            f"{mtu} is too small for --family ipv6: an IPv6 link has {options.SMALLEST_MTU_V6} "
            "bytes or more",
            field="--mtu",
            value=mtu,
            hint=f"type --mtu {options.SMALLEST_MTU_V6} or more, or leave --family out",
        )
    left_out = {"portmap": no_portmap, "bandwidth": no_bandwidth}
    document = conflists.standard(
        plugin,
        network,
        masquerade=not no_masquerade,
        without=[name for name, is_out in left_out.items() if is_out],
        mtu=mtu,
        newest=cni_version,
        data_dir=data_dir,
        families=[_FAMILIES[one] for one in families],
    )
    content = conflists.encode(document)
    if target is None or str(target) == "-":
        output.say(content.decode().rstrip("\n"))
        return
    from fastipam import files

    with (
        files.replacing(target, 0o644) as descriptor,
        os.fdopen(descriptor, "wb", closefd=False) as file,
    ):
        file.write(content)
