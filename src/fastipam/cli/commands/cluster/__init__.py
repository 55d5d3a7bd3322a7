"""The command ``fastipam cluster``: its table of commands, and init, claim, leave, release-node."""

from __future__ import annotations

import click

from fastipam.cli import output
from fastipam.cli.click_base import SETTINGS, Entry, Failure, Group
from fastipam.cli.click_base import command as _command
from fastipam.cli.commands.cluster.options import Where, where
from fastipam.cli.options import Count

_HERE = "fastipam.cli.commands.cluster"
_LOOK = "fastipam.cli.commands.cluster.look"
_ROLLOUT = "fastipam.cli.commands.cluster.rollout"

_COMMANDS = {
    "init": Entry(f"{_HERE}:init", "Begin", "Write a cluster's settings, once."),
    "status": Entry(f"{_LOOK}:status", "Look", "The state of this node and its cluster."),
    "nodes": Entry(f"{_LOOK}:nodes", "Look", "Every node: alive, epoch, blocks."),
    "blocks": Entry(f"{_LOOK}:blocks_", "Look", "Every owned block: node, epoch, age, use."),
    "routes": Entry(f"{_LOOK}:routes", "Look", "The node address of each block, for routing."),
    "rollout": Entry(
        f"{_ROLLOUT}:command", "Look", "Wait until a DaemonSet is ready on every node."
    ),
    "check": Entry(f"{_LOOK}:check", "Take care", "Compare the cluster's store with this node's."),
    "claim": Entry(f"{_HERE}:claim", "Take care", "Claim blocks for this node now."),
    "leave": Entry(f"{_HERE}:leave", "Take care", "Take this node out of its cluster."),
    "release-node": Entry(
        f"{_HERE}:release_node", "Take care", "Release the blocks of a node that is gone."
    ),
}


@click.group("cluster", cls=Group, entries=_COMMANDS, context_settings=SETTINGS)
def command() -> None:
    """Share one pool between nodes: each owns blocks, recorded in etcd or the Kubernetes API."""


@_command("init", examples=(("fastipam cluster init -c cluster.json", "once, on any node"),))
@where
def init(cluster: Where) -> None:
    """Write the pools and the block size of a network, once.

    A node whose settings differ is refused from then on. A second run with the same settings
    changes nothing.
    """
    from fastipam.cluster.admin import admin

    with cluster.node() as (_, node):
        made = admin.init(node, cluster.deadline())
        word = "written" if made else "there already"
        output.say(f"network {node.network.name}: {node.settings.text}: {word}")


@_command(
    "claim", examples=(("fastipam cluster claim --blocks 4", "an aligned run, if one is free"),)
)
@click.option(
    "--blocks", "count", default=1, show_default=True, type=Count(1, 32), help="How many."
)
@click.option(
    "--family", type=click.Choice(["4", "6"]), help="IPv4 or IPv6.  [default: the first pool's]"
)
@where
def claim(cluster: Where, count: int, family: str | None) -> None:
    """Claim an aligned run of free blocks for this node now, before anybody needs them."""
    from fastipam.cluster.admin import report
    from fastipam.cluster.node.lock import NodeLock

    with cluster.node(create=True) as (_, node):
        deadline = cluster.deadline()
        which = int(family) if family else node.settings.geometries[0].family
        lock = NodeLock(node.share.store)
        with lock:
            for block in report.claim(node, which, count, deadline):
                output.say(block)


@_command(
    "leave",
    examples=(("fastipam cluster leave", "before the network gets ranges of this node's own"),),
)
@click.option(
    "--force",
    is_flag=True,
    help="Even while addresses of its blocks are in use: other nodes may assign those, too.",
)
@click.option(
    "--offline",
    is_flag=True,
    help="Do not ask the cluster's store: the cluster is gone, or has released this node.",
)
@where
def leave(cluster: Where, force: bool, offline: bool) -> None:
    """Take this node out of its cluster, so that the network may have other ranges here.

    Its blocks become free for the other nodes. Stop its agent first: an agent registers the node
    again. Leases stay.
    """
    from fastipam.cluster.admin import admin
    from fastipam.cluster.node.lock import NodeLock

    with cluster.node() as (ipam, node):
        if ipam is None:  # the cluster may still have an entry of this node
            raise Failure(
                f"{cluster.directory()}: there is no store: this node cannot leave its cluster",
                "type --data-dir DIRECTORY; if the store is lost, `fastipam cluster release-node "
                f"{node.name}` on another node",
            )
        with NodeLock(node.share.store):
            blocks = admin.leave(node, cluster.deadline(), force=force, offline=offline)
        given_up = output.counted(blocks, "block")
        output.say(f"node {node.name}: {given_up} released, no longer in the cluster")


@_command(
    "release-node",
    examples=(
        ("fastipam cluster release-node worker-7", "after the machine is gone, or its agent ended"),
    ),
)
@click.argument("name", metavar="NODE")
@click.option(
    "--force",
    is_flag=True,
    help="Even while its agent is alive: its pods then keep addresses that others may get, too.",
)
@where
def release_node(cluster: Where, name: str, force: bool) -> None:
    """Release all blocks of a node that is gone. The node finds out when it returns."""
    from fastipam.cluster.admin import admin

    with cluster.node() as (_, node):
        removed = admin.release_node(node, name, cluster.deadline(), force=force)
        output.say(f"node {name}: {removed.blocks} blocks released, epoch {removed.epoch}")
