"""The clusters in which an agent takes part: one keeper for each network in cluster mode."""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from fastipam.cni.services import Services
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.errors import ConfigError, FastipamError, TryLater
from fastipam.network import Network
from fastipam.storage.open_stores import close_store, open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.agent.worker import Worker
    from fastipam.cluster.keeper.keeper import Keeper
    from fastipam.cluster.keeper.named import Told
    from fastipam.cluster.masquerading.masquerader import Masquerader
    from fastipam.cluster.masquerading.masquerader import Status as Masqueraded
    from fastipam.cluster.registries.connect import Open
    from fastipam.cluster.registry import Condition, Namespace
    from fastipam.cluster.routing.blocks import Blocks
    from fastipam.cluster.routing.router import Router
    from fastipam.cluster.routing.setting import Status
    from fastipam.configuration.cluster import Settings
    from fastipam.configuration.pool_lines import Lines
    from fastipam.storage.store import Store
    from fastipam.sweep import Report

log = logging.getLogger("fastipam.cluster")

# Which routes an agent sets. NONE: no routes. OWN: routes that make unassigned addresses of the
# node's blocks and of the pools unreachable. HOST_GW: also routes to the blocks of the other nodes,
# over a link that all nodes share.
NONE, OWN, HOST_GW = ROUTES = ("none", "own", "host-gw")
_MOST_PATIENCE_S = 8.0  # how long a request may wait: less than the launcher's patience


class Clusters(Services):
    """Starts, finds and ends keepers, and decides how long a request may wait for blocks.

    A keeper starts when a request first names its network. ``pending`` has the networks that a
    request or a file has named and that have no keeper yet.
    """

    def __init__(self, opened: Open | None = None, worker: Worker | None = None) -> None:
        self._local = threading.local()  # ``waiting`` and ``arrived_ns`` of this thread's request
        super().__init__()
        self._opened = opened
        self._worker = worker
        self._keepers: dict[tuple[str, str], Keeper] = {}
        self._lock = threading.Lock()  # guards the dictionaries, and is never held while waiting
        # One lock for each key, held while its keeper is made or ended: that may wait for the
        # writer's lock of the store.
        self._making: dict[tuple[str, str], threading.Lock] = {}
        self._wake_descriptor = -1
        self.pending: dict[tuple[str, str], Settings] = {}
        self._to_create: set[str] = set()  # data directories whose store is created for a keeper
        self.router: Router | None = None
        self._routed: dict[tuple[str, str], Blocks] = {}  # networks whose blocks get routes
        self.masquerader: Masquerader | None = None
        self._masqueraded: set[tuple[str, str]] = set()

    @property
    def waiting(self) -> bool:
        """Whether the request that this thread handles has asked for blocks and may wait."""
        return bool(getattr(self._local, "waiting", False))

    @waiting.setter
    def waiting(self, value: bool) -> None:
        self._local.waiting = value

    def install(self, wake_descriptor: int) -> None:
        """Have each keeper wake the loop through this descriptor when it gets blocks."""
        self._wake_descriptor = wake_descriptor
        for each in (self.router, self.masquerader):
            if each is not None:
                each.start()
        if self._worker is not None:
            self._worker.wake = self._wake

    def add_file(self, path: str, data_dirs: Sequence[str]) -> tuple[str, str]:
        """Have a keeper start with the agent, for the network that a file names.

        Return the keeper's key: data directory and network. Raises ConfigError.
        """
        from fastipam.cni import more_blocks

        settings, network, data_dir = more_blocks.read_any(path)
        if not network:
            raise ConfigError(
                "the name of the network is missing", field=f"{path}: network", value=None
            )
        data_dir = data_dir or next(iter(data_dirs), DEFAULT_DATA_DIR)
        self.note_cluster(data_dir, network, settings)
        key = os.path.abspath(data_dir), network
        self._to_create.add(key[0])
        return key

    def keep_routes(self, routes: str) -> None:
        """Keep routes for the blocks of the networks that files have named; see ROUTES.

        No route is set or deleted before :meth:`install`. Raises ConfigError.
        """
        if routes == NONE:
            return
        from fastipam.cluster.routing.router import Router

        if not self.pending:
            raise ConfigError(
                "no --cluster file names a network to set routes for",
                field="--routes",
                value=routes,
                hint=(
                    "type --cluster FILE, a file with the settings of a cluster or a conflist; "
                    "routes are set for the networks of these files"
                ),
            )
        nodes = [settings.node for settings in self.pending.values()]
        self.router = Router(nodes, gateways=routes == HOST_GW)
        self._routed = dict(zip(self.pending, self.router.blocks, strict=True))

    def keep_masquerading(self, *, wanted: bool) -> None:
        """Masquerade packets that leave the pools of the networks in files, if ``wanted``.

        No rule is changed before :meth:`install`. Raises ConfigError.
        """
        if not wanted:
            return
        from fastipam.cluster.masquerading.masquerader import Masquerader

        if not self.pending:
            raise ConfigError(
                "no --cluster file names a network to masquerade for",
                field="--masquerade",
                value=True,
                hint="type --cluster FILE, a file with the settings of a cluster or a conflist",
            )
        self.masquerader = Masquerader()
        self._masqueraded = set(self.pending)

    @property
    def data_dirs(self) -> list[str]:
        """The data directories of the networks whose keeper starts with the agent."""
        return sorted(self._to_create)

    # Called by requests ---------------------------------------------------------------------

    def note_cluster(self, data_dir: str, network: str, settings: Settings) -> None:
        """Start a keeper for this network soon, unless it has one.

        The store is created if the keeper has to write the pools into it before an address can
        be assigned.
        """
        path = os.path.abspath(data_dir)
        if settings.is_founded_by_agent:
            self._to_create.add(path)
        self.pending[path, network] = settings

    def begin(self, arrived_ns: int) -> None:
        """Record the arrival time of the request that this thread begins to handle."""
        self.waiting = False
        self._local.arrived_ns = arrived_ns

    def wait(self, seconds: float) -> None:
        """Handle this thread's request again soon, unless it has already waited ``seconds``."""
        self.waiting = self._may_wait(seconds)

    def ask_for_blocks(
        self, store: Store, network: str, settings: Settings, who: str, lines: Lines | None = None
    ) -> str | None:
        """Ask the network's keeper for a block and return why there is none yet."""
        reason = self.get(store.path, network, settings).need(who, lines)
        self.waiting = self._may_wait(settings.timeout_s)
        return reason

    def ask_for_addresses(
        self,
        store: Store,
        network: str,
        settings: Settings,
        who: str,
        addresses: Sequence[tuple[int, int]],
    ) -> Told:
        """Ask the network's keeper for the blocks of ``addresses``. The request may wait."""
        told = self.get(store.path, network, settings).want(who, addresses)
        self.waiting = not told.is_final and self._may_wait(settings.timeout_s)
        return told

    def within_reach(self, store: Store, network: str, settings: Settings, lines: Lines) -> Lines:
        """Return the pools of ``lines`` up to and including the first group with a free block.

        A group counts as having one unless the keeper knows that it is used up.
        """
        reach = self.get(store.path, network, settings).needs.within_reach
        return tuple((family, tuple(reach(family, groups))) for family, groups in lines)

    def namespace(self, store: Store, network: str, settings: Settings, name: str) -> Namespace:
        """Return labels and annotations of a namespace. Raises NoBlock until they are read."""
        found = self.get(store.path, network, settings).namespace(name)
        if not isinstance(found, str):
            return found
        from fastipam.cluster.errors import NoBlock

        self.waiting = not found and self._may_wait(settings.timeout_s)
        why = found or "the agent is reading them"
        raise NoBlock(f"the annotations of namespace {name} are not known: {why}")

    def release_dead(
        self, network: Network, only: tuple[tuple[int, int], ...] | None
    ) -> Report | None:
        """Have the worker release the leases whose network namespace is gone.

        Return None until the worker has done so.
        """
        if self._worker is None:
            return super().release_dead(network, only)
        report = self._worker.release_dead(network, only)
        self.waiting = report is None and self._may_wait()
        return report

    def _may_wait(self, patience_s: float = _MOST_PATIENCE_S) -> bool:
        """Return whether this thread's request has waited for less than ``patience_s``."""
        patience_s = min(patience_s, _MOST_PATIENCE_S)
        return bool(time.time_ns() < self._local.arrived_ns + patience_s * 1e9)

    def standing(self, store: Store, network: str, settings: Settings) -> tuple[str, bool]:
        """Return the state of the network's keeper; start it if there is none. Never waits."""
        status = self.get(store.path, network, settings).status
        return status.reason, status.refused

    # Clusters --------------------------------------------------------------------------------

    def all(self) -> list[tuple[str, str, Keeper]]:
        """Return (data directory, network, keeper) for each keeper."""
        with self._lock:
            return [(*key, keeper) for key, keeper in sorted(self._keepers.items())]

    def find(self, key: tuple[str, str]) -> Keeper | None:
        """Return the keeper with this key (data directory, network), or None."""
        with self._lock:
            return self._keepers.get(key)

    def start_pending(self, data_dir: str | None = None) -> None:
        """Start the keepers of the pending networks in ``data_dir``, or in every store.

        A network stays pending while its store does not exist.
        """
        for key, settings in list(self.pending.items()):
            if data_dir not in (None, key[0]):
                continue
            if key[0] in self._to_create:
                with suppress(FastipamError):  # the first request reports what is wrong with it
                    close_store(open_store(key[0]))
            try:
                self.get(*key, settings)
            except FileNotFoundError:
                continue  # the first assignment creates the store; the keeper starts after that
            except FastipamError as error:
                log.warning(
                    "network=%s the cluster's keeper could not be started: %s", key[1], error
                )
            self.pending.pop(key, None)

    def get(self, path: str, network: str, settings: Settings) -> Keeper:
        """Return the keeper of a network; start it if there is none.

        Raises FileNotFoundError while there is no store, ConfigError, StoreError, TryLater.
        """
        keeper = self._keepers.get((path, network))
        if keeper is not None and keeper.store.is_current():
            return keeper
        key = os.path.abspath(path), network
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                keeper = self._keepers.get(key)
            if keeper is not None and keeper.store.is_current():
                return keeper
            if keeper is not None:  # the store was removed, or another one has its path
                with self._lock:
                    del self._keepers[key]
                self._end(keeper)
            keeper = self._make(key, settings)
            try:
                keeper.start()
            except RuntimeError as error:  # there may be no more threads
                self._end(keeper)
                raise TryLater(f"the cluster's keeper could not be started: {error}") from error
            with self._lock:
                self._keepers[key] = keeper
            return keeper

    def _make(self, key: tuple[str, str], settings: Settings) -> Keeper:
        from fastipam.cluster.keeper.keeper import Keeper
        from fastipam.cluster.node.share import Share
        from fastipam.cluster.registries.connect import open_registry

        # The keeper opens the store for itself, so that it stays open when others close it.
        store = open_store(key[0], create=False)
        try:
            network = Network(store, key[1], settings.pool, remember=False)
            share = Share(store, network, settings)
            blocks = self._routed.get(key)
            if blocks is not None:
                blocks.begin_anew(lambda: share.settings.prefixes)
            if self.masquerader is not None and key in self._masqueraded:
                self.masquerader.use(key, share.prefixes)
            return Keeper(
                share,
                self._opened or open_registry,
                on_blocks=self._wake,
                blocks=blocks,
                routes=self._condition if blocks is not None else lambda: None,
            )
        except BaseException:
            close_store(store)
            raise

    def routes_status(self) -> Status | None:
        """Return the state of the routes, or None when this agent sets none."""
        return None if self.router is None else self.router.status

    def masquerading_status(self) -> Masqueraded | None:
        """Return the state of masquerading, or None when this agent leaves it to others."""
        return None if self.masquerader is None else self.masquerader.status

    def _condition(self) -> Condition | None:
        return None if self.router is None else self.router.condition

    def _wake(self) -> None:
        for each in (self.router, self.masquerader):
            if each is not None:
                each.wake()  # the pools may have changed
        with suppress(OSError):  # the pipe is full and the loop wakes anyway, or the loop has ended
            os.write(self._wake_descriptor, b"b")

    @staticmethod
    def _end(keeper: Keeper) -> None:
        if keeper.stop():  # a keeper that has not stopped uses the store until the process ends
            close_store(keeper.store)

    def stop(self) -> None:
        """Stop every keeper and the worker. The next agent finishes what they have begun."""
        if self._worker is not None:
            self._worker.stop()
        with self._lock:
            keepers = list(self._keepers.values())
            self._keepers.clear()
        for each in (self.router, self.masquerader):
            if each is not None:
                each.stop()
        for keeper in keepers:
            self._end(keeper)
