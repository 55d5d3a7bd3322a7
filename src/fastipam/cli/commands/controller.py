"""The command ``fastipam controller``."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastipam.agent.main import ignore_signals
from fastipam.cli import options, streams
from fastipam.cli.api import access_of, reach
from fastipam.cli.click_base import command as _command
from fastipam.cli.commands.agent import host_and_port
from fastipam.cluster.controller import first_pools
from fastipam.cluster.controller.process import Process
from fastipam.cluster.controller.reclaim import RECLAIM_AFTER_S
from fastipam.cluster.registries.kubernetes.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator


@_command(
    "controller",
    examples=(
        ("fastipam controller", "in a pod, with its service account"),
        ("fastipam controller --server https://192.0.2.10:6443", "in a pod, before services work"),
        ("fastipam controller --kubeconfig ~/.kube/config", "anywhere, as a person"),
    ),
)
@reach
@click.option(
    "--reclaim-after",
    default=RECLAIM_AFTER_S,
    show_default=True,
    type=options.Seconds(0, 1e8),
    help="Seconds for which a node's Node object has to be gone before its blocks become free.",
)
@click.option(
    "--pools",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Make the AddressPools of this file that are absent; JSON, a List as kubectl prints it.",
)
@click.option(
    "--http",
    metavar="[ADDR:]PORT",
    help="Serve /metrics and /healthz there; ADDR is 127.0.0.1 unless given.",
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="warning: what is refused or removed, and what fails.",
)
def command(
    kubeconfig: str | None,
    context: str,
    servers: tuple[str, ...],
    reclaim_after: float,
    pools: Path | None,
    http: str | None,
    log_level: str,
) -> None:
    """Accept pools, finish deleted ones, free removed nodes' blocks; SIGTERM ends it.

    For clusters whose store is the Kubernetes API. Run two: one leads, by the Lease
    fastipam-controller, and the other one takes over. Pods get addresses and nodes claim blocks
    without it; it is needed for new and changed pools, and for the blocks of nodes that are gone.
    """
    first = first_pools.read(pools) if pools else []
    found = access_of(kubeconfig, context, servers)
    ignore_signals()
    streams.never_wait()  # the controller must go on even if no program reads the log
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s level=%(levelname)s %(message)s"
    )
    process = Process(Client(found), Client(found), reclaim_after_s=reclaim_after, pools=first)
    process.stop_at_signals()
    with _served(http, process) as url:
        where = f", metrics {url}/metrics, health {url}/healthz" if url else ""
        click.echo(f"fastipam controller {process.election.identity} runs{where}")
        sys.stdout.flush()
        process.run()


@contextmanager
def _served(http: str | None, process: Process) -> Iterator[str]:
    """Serve metrics and health inside the block; yield the URL, or "" without HTTP.

    Raises ConfigError.
    """
    place = host_and_port(http)
    if place is None:
        yield ""
        return
    from prometheus_client.exposition import choose_encoder

    from fastipam.agent.web.server import HEALTH, Asked, Response, Route, serve
    from fastipam.cluster.controller.metrics import Metrics

    metrics = Metrics(process)

    def scrape(asked: Asked) -> Response:
        encode, kind = choose_encoder(asked.accept)
        return Response(200, encode(metrics.registry), kind)

    def health(_: Asked) -> Response:
        problem = process.problem()
        return Response(503 if problem else 200, f"{problem or 'ok'}\n".encode())

    routes = {"/metrics": Route(scrape, open=True), HEALTH: Route(health, open=True)}
    service = serve(*place, routes)
    try:
        host = f"[{place[0]}]" if ":" in place[0] else place[0]
        yield f"http://{host}:{service.port}"
    finally:
        service.stop()
