"""Run the agent's process: its socket, its signals, its end."""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fastipam._ledger import without_result
from fastipam.agent import preload, systemd
from fastipam.agent.batch import Executor
from fastipam.agent.clusters import NONE, Clusters
from fastipam.agent.housekeeping import DEFAULT_INTERVAL_S, Housekeeping
from fastipam.agent.lanes import SHARED, Lanes, Work
from fastipam.agent.listening import listening, only_masquerader, only_router
from fastipam.agent.loop import Limits, Server
from fastipam.agent.protocol import DEFAULT_SOCKET
from fastipam.agent.requests import Observer, Observers
from fastipam.agent.worker import Worker
from fastipam.cni.environment import VERSION
from fastipam.cni.handler import data_dir_of
from fastipam.storage import open_stores
from fastipam.sweep import DEFAULT_GRACE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.agent.conflist import Request as ConflistRequest
    from fastipam.agent.conflist import Writer
    from fastipam.agent.requests import Request

log = logging.getLogger("fastipam.agent")

_OTHER_DESCRIPTORS = 256  # stores, the page's readers, connections to a cluster's store
_LANES_END_S = 1.0  # for a lane that does housekeeping, or waits for its store


class Options(NamedTuple):
    """The options of ``fastipam agent``. ``http`` is (address, port) of page and metrics, or None.

    ``clusters`` are files with a cluster's settings, whose networks have a keeper from the start.
    ``routes`` is one of ROUTES. ``masquerade``: for the pools of these networks.
    ``data_dirs`` are swept and shown from the start. With ``sweep_interval_s`` 0 no store is swept.
    With ``http_private`` the page has no names of pods. ``conflist`` is the network configuration
    to write; its template is the first of ``clusters``.
    """

    socket: Path = Path(DEFAULT_SOCKET)
    http: tuple[str, int] | None = None
    limits: Limits = Limits()
    data_dirs: tuple[str, ...] = ()
    sweep_interval_s: float = DEFAULT_INTERVAL_S
    grace_s: float = DEFAULT_GRACE_S
    http_private: bool = False
    drain_s: float = 5.0
    clusters: tuple[str, ...] = ()
    conflist: ConflistRequest | None = None
    routes: str = NONE
    masquerade: bool = False


class Ready(NamedTuple):
    """Where a running agent can be reached; ``url`` is "" without HTTP.

    ``conflist`` is the network configuration that it writes, or ""; ``is_written`` says whether the
    file is there, without which the node gets no pods.
    """

    pid: int
    socket: str
    url: str
    conflist: str = ""
    is_written: bool = True


def ignore_signals() -> None:
    """Ignore signals that would end the agent for no reason; let SIGTERM end it.

    Left as they are: SIGQUIT and the faults, which leave a core file, the limits of processor time
    and file size, and what stops a process (SIGTSTP) except for its use of a terminal.
    """
    for number in (*_MEANINGLESS, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)):
        signal.signal(number, signal.SIG_IGN)
    # A parent may have blocked them, and a blocked signal is inherited.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))


_MEANINGLESS = (
    signal.SIGHUP,  # a terminal was closed, or somebody expects a reload: nothing is to be read
    signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF,
    signal.SIGPIPE, signal.SIGIO, signal.SIGPWR, signal.SIGSTKFLT,
    signal.SIGTTIN, signal.SIGTTOU,  # in the background of a terminal its lines may be printed
)  # fmt: skip


def run(options: Options, announce: Callable[[Ready], object] = lambda _: None) -> None:
    """Serve until SIGTERM or SIGINT, answer the requests that have begun to arrive, and return.

    ``announce`` is called when it serves, and again when it has written its network configuration,
    if there is one to write. Raises ConfigError when the socket cannot be used, for example because
    another agent serves it.
    """
    _raise_descriptor_limit(options.limits.connections)
    path = options.socket
    with (
        listening(path) as listener,
        only_router(path.parent, options.routes),
        only_masquerader(path.parent, wanted=options.masquerade),
    ):
        worker = Worker(grace_s=options.grace_s)
        clusters, keys = _clusters(options, worker)
        writer = _conflist_writer(options, clusters, keys, lambda: announce(served()))
        observer, url, stop_http = _instrumented(options, listener, clusters, writer)

        def work(data_dir: str | None) -> Work:
            """Return what the lane of a data directory does, or the loop itself (None)."""
            executor = Executor(observer, clusters, data_dir or None)
            if not data_dir:
                return Work(executor)
            interval_s, grace_s = options.sweep_interval_s, options.grace_s
            chores = Housekeeping(
                data_dir,
                interval_s=interval_s,
                grace_s=grace_s,
                look=worker.look,
                swept=observer.swept,
            )
            return Work(executor, chores, executor.start_keepers)

        def route(request: Request) -> str | None:
            if request.command in ("", VERSION):
                return None
            data_dir = data_dir_of(without_result(request.stdin), clusters)
            return SHARED if data_dir is None else data_dir

        lanes = Lanes(work, route, max(1, options.limits.connections // 2))
        server = Server(listener, lanes, options.limits)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.stop(options.drain_s))
        signal.set_wakeup_fd(server.wake_descriptor, warn_on_full_buffer=False)
        clusters.install(server.wake_descriptor)
        preload.import_all(page=options.http is not None)
        server.begin([*map(os.path.abspath, options.data_dirs), *clusters.data_dirs])
        gc.freeze()  # the garbage collector need not look at what is loaded now
        log.info("socket=%s pid=%d serves", options.socket, os.getpid())
        systemd.notify("READY=1")
        conflist = "" if writer is None else str(writer.target)
        served = partial(Ready, os.getpid(), str(listener.getsockname()), url, conflist)
        announce(served(is_written=writer is None))
        if writer is not None:
            writer.start()
        try:
            server.run()
        finally:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)  # the process ends already
            systemd.notify("STOPPING=1")
            idle = lanes.stop(_LANES_END_S)
            if writer is not None:
                writer.stop()
            clusters.stop()
            server.close()
            stop_http()
            if idle:  # else a lane still waits for its store, and ends with the process
                open_stores.close_all()
    log.info("stopped")


def _clusters(options: Options, worker: Worker) -> tuple[Clusters, list[tuple[str, str]]]:
    """Return the clusters of the agent, and the keys of those that files have named."""
    clusters = Clusters(worker=worker)
    keys = [clusters.add_file(path, options.data_dirs) for path in options.clusters]
    clusters.keep_routes(options.routes)
    clusters.keep_masquerading(wanted=options.masquerade)
    return clusters, keys


def _conflist_writer(
    options: Options,
    clusters: Clusters,
    keys: list[tuple[str, str]],
    written: Callable[[], object],
) -> Writer | None:
    """Return what writes the network configuration, which has not begun, or None."""
    if options.conflist is None:
        return None
    from fastipam.agent.conflist import Writer

    return Writer(options.conflist, keys[0][1], partial(clusters.find, keys[0]), written)


def _instrumented(
    options: Options, listener: socket.socket, clusters: Clusters, writer: Writer | None
) -> tuple[Observer, str, Callable[[], None]]:
    """Return what observes the requests, for metrics and page if there are any; URL; the end."""
    if options.http is None:
        return Observer(), "", lambda: None
    from fastipam.agent.web import server as http
    from fastipam.agent.web.api import Page
    from fastipam.agent.web.metrics import Metrics
    from fastipam.agent.web.samples import Watch

    watch = Watch(options.data_dirs)
    written = None if writer is None else (str(writer.target), lambda: writer.standing)
    metrics = Metrics(
        watch, clusters.all, written, clusters.routes_status, clusters.masquerading_status
    )
    page = Page(watch, clusters.all, private=options.http_private)
    routes = {
        "/metrics": metrics.route,
        http.HEALTH: http.health(listener.getsockname()),
        **page.routes,
    }
    service = http.serve(*options.http, routes)
    watch.start()

    def stop() -> None:
        service.stop()
        watch.stop()

    if not options.http_private and not http.is_loopback(options.http[0]):
        log.warning("http=%s shows the names of pods to the network", options.http[0])
    host = f"[{options.http[0]}]" if ":" in options.http[0] else options.http[0]
    return Observers(metrics, watch), f"http://{host}:{service.port}", stop


def _raise_descriptor_limit(connections: int) -> None:
    wanted = connections + _OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        except (OSError, ValueError) as error:
            log.warning("descriptors=%d cannot be raised: %s", soft, error)
