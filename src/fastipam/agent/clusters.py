"""The keepers of an agent: one a network in cluster mode, started when a request first names it."""

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
    from collections.abc import Callable, Sequence

    from fastipam.cluster.engine import Engine
    from fastipam.cluster.keeper.keeper import Keeper
    from fastipam.configuration.cluster import Settings
    from fastipam.storage.store import Store

log = logging.getLogger("fastipam.cluster")

_MOST_PATIENCE_S = 8.0  # below the agent's own limit for a client


class Keepers(Services):
    """Starts, finds and ends keepers; decides how long a request may wait for blocks.

    ``pending`` are networks that were named and have no keeper yet.
    """

    def __init__(self, connect: Callable[[Settings], Engine] | None = None) -> None:
        super().__init__()
        self._connect = connect
        self._keepers: dict[tuple[str, str], Keeper] = {}
        self._lock = threading.Lock()
        self._wake_descriptor = -1
        self._arrived_ns = 0
        self.pending: dict[tuple[str, str], Settings] = {}

    def install(self, wake_descriptor: int) -> None:
        """From now on requests of this process ask these keepers, and do not wait.

        A byte is written to ``wake_descriptor`` when there are blocks.
        """
        self._wake_descriptor = wake_descriptor
        self.start_pending()

    def add_file(self, path: str, data_dirs: Sequence[str]) -> None:
        """Keep the network of a file from the start. Raises ConfigError."""
        from fastipam.cni import more_blocks

        settings = more_blocks.read_settings(path)
        if not settings.network:
            raise ConfigError(
                "the name of the network is missing", field=f"{path}: network", value=None
            )
        data_dir = settings.data_dir or next(iter(data_dirs), DEFAULT_DATA_DIR)
        with suppress(FastipamError):  # the first request will say what is wrong with it
            close_store(open_store(data_dir))
        self.note_cluster(data_dir, settings.network, settings)

    # What requests call ---------------------------------------------------------------------

    def note_cluster(self, data_dir: str, network: str, settings: Settings) -> None:
        """Start a keeper for this network soon, unless it has one."""
        self.pending[os.path.abspath(data_dir), network] = settings

    def begin(self, arrived_ns: int) -> None:
        """A request is handled that began to arrive then."""
        self.waiting = False
        self._arrived_ns = arrived_ns

    def ask_for_blocks(
        self, store: Store, network: str, settings: Settings, who: str
    ) -> str | None:
        """Ask the network's keeper; return why there is no block yet, and note who may wait."""
        reason = self.get(store.path, network, settings).need(who)
        patience_s = min(settings.timeout_s, _MOST_PATIENCE_S)
        self.waiting = time.time_ns() < self._arrived_ns + patience_s * 1e9
        return reason

    def warning(self, store: Store, network: str) -> str | None:
        """Return what an operator should hear of a network whose addresses are served."""
        with self._lock:
            keeper = self._keepers.get((store.path, network))
        if keeper is None or keeper.status.connected:
            return None
        return f"cluster: {keeper.status.reason}"

    # Keepers --------------------------------------------------------------------------------

    def all(self) -> list[tuple[str, str, Keeper]]:
        """(data directory, network, keeper) of each."""
        with self._lock:
            return [(*key, keeper) for key, keeper in sorted(self._keepers.items())]

    def start_pending(self) -> None:
        """Start the keepers of networks that were named meanwhile and whose store is there."""
        for (path, network), settings in list(self.pending.items()):
            try:
                self.get(path, network, settings)
            except FileNotFoundError:
                continue  # nothing was assigned yet: with the first request that makes a store
            except FastipamError as error:
                log.warning("network=%s no keeper: %s", network, error)
            self.pending.pop((path, network), None)

    def get(self, path: str, network: str, settings: Settings) -> Keeper:
        """The keeper of a network, started now if it is not there.

        Raises FileNotFoundError while there is no store, ConfigError, StoreError, TryLater.
        """
        key = os.path.abspath(path), network
        with self._lock:
            keeper = self._keepers.get(key)
            if keeper is not None and keeper.store.is_current():
                return keeper
            if keeper is not None:  # the store was removed or replaced under its path
                del self._keepers[key]
                self._end(keeper)
            keeper = self._make(key, settings)
            try:
                keeper.start()
            except RuntimeError as error:  # there may be no more threads
                self._end(keeper)
                raise TryLater(f"the cluster's keeper could not be started: {error}") from error
            self._keepers[key] = keeper
            return keeper

    def _make(self, key: tuple[str, str], settings: Settings) -> Keeper:
        from fastipam.cluster.engines.connect import connect
        from fastipam.cluster.keeper.keeper import Keeper
        from fastipam.cluster.node.share import Share

        # A use of its own: the store stays open for the keeper, whoever else closes it.
        store = open_store(key[0], create=False)
        try:
            network = Network(store, key[1], settings.pool, remember=False)
            share = Share(store, network, settings)
            return Keeper(share, self._connect or connect, on_blocks=self._on_blocks)
        except BaseException:
            close_store(store)
            raise

    def _on_blocks(self) -> None:
        with suppress(OSError):  # the pipe is full: it wakes already; or the loop has ended
            os.write(self._wake_descriptor, b"b")

    @staticmethod
    def _end(keeper: Keeper) -> None:
        if keeper.stop():  # else it still uses the store, and goes with the process
            close_store(keeper.store)

    def stop(self) -> None:
        """End all of them; what was begun is finished by the next agent."""
        with self._lock:
            for keeper in self._keepers.values():
                self._end(keeper)
            self._keepers.clear()
