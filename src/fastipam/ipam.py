"""The start of the library: open a store, name a network, and group calls into one commit."""

from __future__ import annotations

import errno  # noqa: F401
import os
from weakref import ref

# Calls would import some of these late, so that the plugin starts faster. A program imports them
# here: it may have threads, and if a signal handler raises in the middle of an import, a thread
# that waits for the module gets half of it.
from fastipam.allocation import (  # noqa: F401
    bulk,
    cooldown,
    counts,
    history,
    previous_boot,
    refusals,
    reservations,
    turns,
)
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.errors import ConfigError, shown
from fastipam.network import Network
from fastipam.network import arguments as arguments  # noqa: PLC0414
from fastipam.network import gc as gc  # noqa: PLC0414
from fastipam.network import stats as stats  # noqa: PLC0414
from fastipam.storage import open_stores
from fastipam.storage.directory import path_of
from fastipam.storage.records import earlier_ranges, event, lease  # noqa: F401
from fastipam.transactions import Networks, Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, Self, TypeVar

    from fastipam.addressing.ranges import Pool
    from fastipam.configuration.policy import Policy
    from fastipam.storage.store import Store

    Result = TypeVar("Result")


class Ipam(Networks):
    """An open store and its networks. As a context manager it closes the store at the end.

    Several threads may use it at once, and any number of processes the same directory. A child
    process must not use it after ``fork``: every call raises StoreForked. After :meth:`close` every
    call raises StoreClosed, also on the networks that it has returned.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._is_closed = False
        self._named: dict[str, tuple[Pool, Policy, str | None]] = {}
        self._networks: dict[ref[Network], None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Ipam {self.path} {'closed' if self.is_closed else self.durability}>"

    @property
    def store(self) -> Store:
        """The store."""
        return self._place()

    @property
    def path(self) -> str:
        """The absolute path of the data directory."""
        return self._store.path

    @property
    def durability(self) -> Literal["durable", "relaxed"]:
        """The store's durability, "durable" or "relaxed"."""
        return "relaxed" if self._store.durability == "relaxed" else "durable"

    @property
    def named(self) -> dict[str, tuple[Pool, Policy, str | None]]:
        """Ranges and policy, by name, of the networks whose ranges :meth:`network` was given."""
        return self._named

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._is_closed

    def _place(self) -> Store:
        if self.is_closed:
            raise self._store.was_closed()
        return self._store

    def _returns(self, network: Network) -> Network:
        # The callback may run at any time, so it only does what cannot be interrupted.
        self._networks[ref(network, self._forget)] = None
        if self.is_closed:
            network.detach()
        return network

    def _forget(self, gone: ref[Network]) -> None:
        self._networks.pop(gone, None)

    def transaction(self) -> Transaction:
        """Begin a block in which changes become one commit: ``with ipam.transaction() as txn:``.

        Only calls on the networks that ``txn.network(…)`` returns are part of the block. Any other
        change in the same thread raises TransactionOpen at once, because it would wait for this
        block; so does a second block. Reads outside the block show the last commit.

        A call that raises changes nothing, and the calls before it stay in the commit. There is one
        exception: when the store could not be written (StoreFull, StoreUnavailable), the whole
        block is lost, and every later call and the end of the block raise that error. When an
        exception leaves the block, all calls are rolled back. Other threads and processes that
        write wait until the block ends, so keep it short, and do not await a coroutine in it: see
        :meth:`run`.
        """
        store = self.store
        return store.admit(Transaction(self, store))

    async def run(self, function: Callable[[Transaction], Result]) -> Result:
        """Call ``function(txn)`` in a worker thread, as one transaction; return its result.

        The event loop goes on meanwhile. When the function raises, nothing has changed. When the
        task is cancelled, the transaction is rolled back if it is not committed yet. The call
        returns when the transaction has ended, at the latest after one wait for the lock.

        Raises the errors of :meth:`transaction` and of the function, and ConfigError for a
        coroutine function.
        """
        from fastipam.tasks import run

        return await run(self.transaction, function)

    def close(self) -> None:
        """Close the store. A second call does nothing. An open transaction is rolled back."""
        if self.is_closed:
            return
        self._is_closed = True
        for each in self._networks.copy():
            network = each()
            if network is not None:
                network.detach()
        open_stores.close_store(self._store)


def open(  # noqa: A001  # the name in the public API: fastipam.open
    path: str | os.PathLike[str] = DEFAULT_DATA_DIR,
    durability: Literal["durable", "relaxed"] | None = None,
    *,
    create: bool = True,
    patience_s: float | None = None,
) -> Ipam:
    """Open the store in the directory ``path``; create the store if it does not exist (mode 0700).

    ``durability`` is "durable" (a change is on disk when its call returns) or "relaxed" (a killed
    process loses nothing, a power cut may lose the last changes or damage the file). None takes the
    durability that the store was created with, or "durable" for a new store. With ``create=False``
    a missing store raises FileNotFoundError. A call that finds another writer waits for
    ``patience_s`` seconds (8) and then raises StoreBusy. The cost does not depend on the content of
    the store. Raises StoreError, ConfigError.
    """
    path = path_of(path, f"a directory; the plugin uses {DEFAULT_DATA_DIR}")
    if type(create) is not bool:
        raise ConfigError(
            f"create is {shown(create)}, not True or False", field="create", value=create
        )
    if patience_s is None:
        return open_with(path, durability, create=create)
    return open_with(
        path, durability, create=create, patience_s=arguments.read_seconds(patience_s, "patience_s")
    )


def open_with(path: str | os.PathLike[str], durability: str | None = None, **options: Any) -> Ipam:
    """Open a store with the options of :class:`Store`, for fastipam's own programs and tests."""
    return Ipam(open_stores.open_store(path, durability, **options))
