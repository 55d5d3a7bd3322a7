"""The options for a connection to the Kubernetes API, for commands without a node's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fastipam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.cluster.registries.kubernetes.access import Access

_OPTIONS = (
    click.option(
        "--kubeconfig",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help="Reach the API as this file says, instead of as the pod's service account.",
    ),
    click.option(
        "--context", default="", help="The context of the kubeconfig.  [default: its own]"
    ),
    click.option(
        "--server",
        "servers",
        metavar="URL",
        multiple=True,
        help="The API's servers, instead of the one that the pod's environment names.",
    ),
)


def reach(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options ``kubeconfig``, ``context`` and ``servers`` to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def access_of(kubeconfig: str | None, context: str, servers: tuple[str, ...]) -> Access:
    """Return the access to the API that the options describe. Raises ConfigError."""
    from fastipam.cluster.registries.kubernetes import access

    if kubeconfig is None:
        if context:
            raise ConfigError(
                "--context needs a kubeconfig, and none is given",
                field="--context",
                value=context,
                hint="add --kubeconfig FILE",
            )
        return access.in_cluster(servers, field="--server")
    if servers:
        raise ConfigError(
            "--server and --kubeconfig cannot be used together: both name the API server",
            field="--server",
            value=servers[0],
            hint="leave one of them out",
        )
    from fastipam.cluster.registries.kubernetes import kubeconfig as reader

    return reader.load(kubeconfig, context)
