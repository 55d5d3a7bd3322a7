"""Run the agent's process: set up its socket and signals, serve, and shut down."""

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

_OTHER_DESCRIPTORS = 256  # for stores, readers of the page, connections to a cluster's engine
_LANES_END_S = 1.0  # how long to wait for a lane that does housekeeping or waits for its store


class Options(NamedTuple):
    """The options of ``fastipam agent``.

    ``http`` is (address, port) of the page and the metrics, or None. ``clusters`` are files with a
    cluster's settings: their networks have a keeper from the start. ``routes`` is one of ROUTES.
    ``masquerade`` says whether to masquerade for the pools of these networks. ``data_dirs`` are
    swept and shown from the start. With ``sweep_interval_s`` 0 no store is swept. With
    ``http_private`` the page shows no names of pods. ``conflist`` is the network configuration to
    write; its template is the first of ``clusters``.
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
    """How to reach a running agent. ``url`` is "" without HTTP.

    ``conflist`` is the path of the network configuration that the agent writes, or "".
    ``is_written`` says whether that file exists; the node gets no pods without it.
    """

    pid: int
    socket: str
    url: str
    conflist: str = ""
    is_written: bool = True


def ignore_signals() -> None:
    """Ignore the signals that would end the agent for no reason, and let SIGTERM end it.

    These keep their default action: SIGQUIT and faults, which leave a core file; the limits of
    processor time and file size; SIGTSTP, which stops a process.
    """
    for number in (*_MEANINGLESS, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)):
        signal.signal(number, signal.SIG_IGN)
    # The parent may have blocked these two, and a process inherits its parent's blocked signals.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))


_MEANINGLESS = (
    signal.SIGHUP,  # a terminal was closed, or an operator wants a reload, which does not exist
    signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF,
    signal.SIGPIPE, signal.SIGIO, signal.SIGPWR, signal.SIGSTKFLT,
    signal.SIGTTIN, signal.SIGTTOU,  # a background process may write to its terminal
)  # fmt: skip


def run(options: Options, announce: Callable[[Ready], object] = lambda _: None) -> None:
    """Serve until SIGTERM or SIGINT, answer the requests that have begun to arrive, and return.

    ``announce`` is called when the agent serves, and again when it has written the network
    configuration, if there is one to write. Raises ConfigError when the socket cannot be used, for
    example because another agent serves it.
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
            """Return the work of a data directory's lane, or of the loop itself (None)."""
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
        gc.freeze()  # exempt everything loaded so far from garbage collection
        log.info("socket=%s pid=%d serves plugin calls", options.socket, os.getpid())
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
            if idle:  # otherwise a lane still waits for its store, and ends with the process
                open_stores.close_all()
    log.info("stopped")


def _clusters(options: Options, worker: Worker) -> tuple[Clusters, list[tuple[str, str]]]:
    """Return the clusters of the agent, and the keys of the networks that files name."""
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
    """Return the writer of the network configuration, not started yet, or None."""
    if options.conflist is None:
        return None
    from fastipam.agent.conflist import Writer

    return Writer(options.conflist, keys[0][1], partial(clusters.find, keys[0]), written)


def _instrumented(
    options: Options, listener: socket.socket, clusters: Clusters, writer: Writer | None
) -> tuple[Observer, str, Callable[[], None]]:
    """Start the page and the metrics, if ``options`` enable them.

    Return the observer of the requests, the URL or "", and the function that stops the service.
    """
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
            log.warning("descriptors=%d the limit of open files cannot be raised: %s", soft, error)
