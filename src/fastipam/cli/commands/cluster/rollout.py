"""The command ``fastipam cluster rollout``."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import click

from fastipam.cli import options, output
from fastipam.cli.api import access_of, reach
from fastipam.cli.click_base import Failure
from fastipam.cli.click_base import command as _command

if TYPE_CHECKING:
    from fastipam.cluster.registries.kubernetes.client import Client

_PAUSE_S = 1.0
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@_command(
    "rollout",
    examples=(("fastipam cluster rollout fastipam-agent", "in a pod of the agents' namespace"),),
    exits={0: "it is ready on every node", 1: "it was not, when the time was over"},
)
@click.argument("name", metavar="DAEMONSET")
@click.option("--namespace", metavar="NAME", help="Where it is.  [default: the pod's namespace]")
@click.option(
    "--timeout",
    default=300.0,
    show_default=True,
    type=options.Seconds(0, 86400),
    help="Seconds to wait.",
)
@reach
def command(
    name: str,
    namespace: str | None,
    timeout: float,
    kubeconfig: str | None,
    context: str,
    servers: tuple[str, ...],
) -> None:
    """Wait until every node has a ready pod of a DaemonSet; else name the nodes that are left.

    This does what `kubectl rollout status` does, for an image that has no kubectl. The chart uses
    it to wait until fastipam is removed from every node.
    """
    from fastipam.cluster.registries.kubernetes.client import Client

    name = _name_of(name)
    access = access_of(kubeconfig, context, servers)
    client = Client(access)
    try:
        wait(client, namespace or access.namespace, name, timeout)
    finally:
        client.close()


def _name_of(text: str) -> str:
    """Return the name of a DaemonSet from ``NAME`` or, for example, ``daemonset.apps/NAME``.

    Raises Failure.
    """
    kind, slash, name = text.rpartition("/")
    if slash and kind not in ("ds", "daemonset", "daemonset.apps", "daemonsets"):
        raise Failure(f"{text} is not a DaemonSet", "type its name, such as fastipam-agent")
    if not _NAME.fullmatch(name):
        raise Failure(
            f"{name!r} is not a valid name of a DaemonSet: it has lower case letters, digits, '-' "
            "and '.' only",
            "type its name, such as fastipam-agent",
        )
    return name


def wait(client: Client, namespace: str, name: str, timeout_s: float) -> None:
    """Wait until the rollout is done, and print each step. Raises Failure, EngineError."""
    from fastipam.cluster.admin import rollout
    from fastipam.cluster.engine import EngineTimeout, EngineUnavailable

    end = time.monotonic() + timeout_s
    said = ""
    while True:
        try:
            found = rollout.look(client, namespace, name)
        except (EngineUnavailable, EngineTimeout) as error:
            if time.monotonic() >= end:
                raise
            if str(error) != said:
                said = str(error)
                output.prose(f"{name}: {said}")
            time.sleep(_PAUSE_S)
            continue
        if found is None:
            raise Failure(
                f"the namespace {namespace} has no DaemonSet {name}",
                "`kubectl get daemonsets --all-namespaces` shows them",
            )
        if str(found) != said:
            said = str(found)
            output.prose(f"{name}: {said}")
        if found.is_done:
            return
        if time.monotonic() >= end:
            raise Failure(
                f"{name}: after {timeout_s:g} s: {said}",
                "`kubectl describe pod` of the pods on these nodes says why",
            )
        time.sleep(_PAUSE_S)
