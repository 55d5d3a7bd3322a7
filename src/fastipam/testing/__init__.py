"""Stores and networks for the test suites of programs that embed fastipam.

Nothing here is mocked: a test works on a real, relaxed store in a temporary directory, on a tmpfs
if the machine has one. A test decides only the time, the boot, and when an operation fails. A store
is verified when its block ends, so a test that leaves a damaged store fails.

As pytest fixtures: ``pytest_plugins = ["fastipam.testing.fixtures"]`` in a ``conftest.py``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path

from fastipam.errors import ConfigError
from fastipam.ipam import open_with
from fastipam.storage import open_stores
from fastipam.verify import verify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

    from fastipam.errors import FastipamError
    from fastipam.ipam import Ipam
    from fastipam.network import Network

__all__ = ["Clock", "TemporaryStore", "exhaust", "failing", "temporary_network", "temporary_store"]

DEFAULT_RANGES = "10.32.0.0/24"
_START_NS = 1_700_000_000 * 10**9
_TMPFS = "/dev/shm"
_MOST_EXHAUSTED = 1 << 20  # a million leases take about ten seconds, more than a test should


class Clock:
    """A wall clock that only a test moves. Calling it returns nanoseconds since the epoch."""

    def __init__(self, now_ns: int = _START_NS) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns

    def __repr__(self) -> str:
        return f"Clock({self.now_ns})"

    def advance(self, seconds: float) -> None:
        """Move the clock, backwards if ``seconds`` is negative.

        A cool-down of 30 s is over after ``advance(31)``.
        """
        self.now_ns += int(seconds * 1e9)


class TemporaryStore:
    """A temporary data directory with its own clock and boot.

    ``path`` is for a configuration's ``dataDir``, ``clock`` is a :class:`Clock`. The store is
    relaxed, and empty at first.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.path = path
        self.clock: Clock = clock or Clock()
        self._boot = ""  # the machine's boot, until reboot() is called

    def __repr__(self) -> str:
        return f"<TemporaryStore {self.path} {self.clock!r}>"

    def open(self, **options: Any) -> Ipam:
        """Open the store with :func:`fastipam.open`, with its clock and boot.

        The result is a context manager. A process opens a directory only once: while the result is
        open, ``fastipam.open`` and ``fastipam.cni.handle`` on this path use the same store and the
        same clock.
        """
        options.setdefault("clock", self.clock)
        if self._boot:
            options.setdefault("boot_id", lambda: self._boot)
        return open_with(self.path, options.pop("durability", "relaxed"), **options)

    def reboot(self) -> None:
        """Make the next :meth:`open` find another boot, as after a restart of the machine.

        Close the store first, because the boot is read when a store is opened. Leases of the
        earlier boot are released, as on a node.
        """
        self._boot = uuid.uuid4().hex

    def verify(self) -> None:
        """Verify the store. Raises AssertionError with every finding."""
        if not (self.path / "data.mdb").exists():
            return
        with self.open() as ipam:
            found = verify(ipam.store)
        if found:
            raise AssertionError("\n".join(map(str, found)))


@contextmanager
def temporary_store(clock: Clock | None = None) -> Iterator[TemporaryStore]:
    """Make a :class:`TemporaryStore`; verify and remove it at the end of the block.

    The store is not verified when the block ends with an exception. The directory is in
    ``/dev/shm`` if that can be written, else where ``tempfile`` makes directories.
    """
    parent = _TMPFS if os.access(_TMPFS, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="fastipam-test-", dir=parent))
    store = TemporaryStore(directory / "store", clock)
    try:
        store.open().close()  # the store is relaxed from now on, for everybody who opens it
        yield store
        store.verify()
    finally:
        open_stores.close_all()  # those that fastipam.cni.handle keeps open
        shutil.rmtree(directory)


@contextmanager
def temporary_network(
    ranges: Any = DEFAULT_RANGES, *, name: str = "test", clock: Clock | None = None, **keywords: Any
) -> Iterator[Network]:
    """Make a network in a temporary store for the block.

    The keywords are those of :meth:`Ipam.network`. The store is verified at the end, as
    :func:`temporary_store` does.
    """
    with temporary_store(clock) as store, store.open() as ipam:
        yield ipam.network(name, ranges, **keywords)


def exhaust(network: Network, *, leave: int = 0) -> int:
    """Assign all free addresses of a network except ``leave``, and return the number of owners.

    The owners are ``("exhaust-0", "eth0")`` and so on. Of several range sets the one with the
    fewest free addresses decides. Cooling addresses stay as they are, so a later assignment may
    still take one. O(addresses). Raises ConfigError for more than a million free addresses.
    """
    pool = network._current_pool()
    sets = [] if pool is None else pool.sets
    used = {(family, value) for family, value, _, _ in network._records()}
    spare = [
        sum(high - low + 1 for low, high in each.intervals)
        - sum(
            family == each.family and any(low <= value <= high for low, high in each.intervals)
            for family, value in used
        )
        for each in sets
    ]
    count = max(0, min(spare, default=0) - leave)
    if count > _MOST_EXHAUSTED:
        raise ConfigError(f"{count} addresses are too many", field="network", value=network.name)
    network.allocate_many((f"exhaust-{number}", "eth0") for number in range(count))
    return count


@contextmanager
def failing(ipam: Ipam, error: FastipamError) -> Iterator[None]:
    """Make every change of this store raise ``error`` inside the block, and change nothing.

    Typical errors are ``StoreFull("no space is left")``, ``StoreUnavailable(…)`` and
    ``StoreBusy(…)``. Reading works as before. All threads are affected, and so is
    ``fastipam.cni.handle`` on the same directory. Of nested blocks the inner error is raised.
    """

    def write(*_: object) -> NoReturn:
        raise error

    store: Any = ipam.store
    before = vars(store).get("write")  # set by an outer block
    store.write = store.admit = write
    try:
        yield
    finally:
        if before is None:
            del store.write, store.admit
        else:
            store.write = store.admit = before
