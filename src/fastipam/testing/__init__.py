"""Stores and networks for the test suites of programs that embed fastipam.

Everything here is the real thing on a relaxed store in a directory of its own, on a tmpfs where the
machine has one: nothing is mocked, so a test sees what the program will see. What differs is what
a test has to decide: the time, the boot, and when something goes wrong. A store is verified when
its block ends: a test that leaves a damaged one fails.

As pytest fixtures: ``pytest_plugins = ["fastipam.testing.fixtures"]`` in a ``conftest.py``.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path

from fastipam.errors import ConfigError
from fastipam.ipam import open as open_ipam
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
_MOST_EXHAUSTED = 1 << 20  # more owners than a test wants to wait for


class Clock:
    """A wall clock that stands until a test moves it; nanoseconds since the epoch when called."""

    def __init__(self, now_ns: int = _START_NS) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns

    def __repr__(self) -> str:
        return f"Clock({self.now_ns})"

    def advance(self, seconds: float) -> None:
        """Move it, backwards too: a cool-down of 30 s is over after ``advance(31)``."""
        self.now_ns += int(seconds * 1e9)


class TemporaryStore:
    """A data directory of a test's own, with its clock and its boot.

    ``path`` is what a configuration's ``dataDir`` names, ``clock`` a :class:`Clock`. The store in
    it is empty at first, and relaxed.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.path = path
        self.clock = clock or Clock()
        self._boot = ""  # the machine's own, until reboot()

    def __repr__(self) -> str:
        return f"<TemporaryStore {self.path} {self.clock!r}>"

    def open(self, **options: Any) -> Ipam:
        """:func:`fastipam.open` on it, with its clock and boot. A context manager.

        A process opens a directory once, however often it is asked: while what this returns is
        open, ``fastipam.open`` and ``fastipam.cni.handle`` on the path use it, and its clock.
        """
        options.setdefault("clock", self.clock)
        if self._boot:
            options.setdefault("boot_id", lambda: self._boot)
        return open_ipam(self.path, options.pop("durability", "relaxed"), **options)

    def reboot(self) -> None:
        """Let the next :meth:`open` find another boot, as after a restart of the machine.

        Close what is open first: the boot is looked at when a store is opened. The leases of the
        boot before are given back, as they are on a node.
        """
        self._boot = uuid.uuid4().hex

    def verify(self) -> None:
        """Raise AssertionError with every finding, unless the store agrees with itself."""
        if not (self.path / "data.mdb").exists():
            return
        with self.open() as ipam:
            found = verify(ipam.store)
        if found:
            raise AssertionError("\n".join(map(str, found)))


@contextmanager
def temporary_store(clock: Clock | None = None) -> Iterator[TemporaryStore]:
    """A :class:`TemporaryStore`, verified and removed at the end of the block.

    It is not verified when the block ends with an exception, which says more. The directory is on
    a tmpfs (``/dev/shm``) if there is one that can be written, else where ``tempfile`` puts it.
    """
    parent = _TMPFS if os.access(_TMPFS, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="fastipam-test-", dir=parent))
    store = TemporaryStore(directory / "store", clock)
    try:
        store.open().close()  # now it is relaxed, whoever opens it next
        yield store
        store.verify()
    finally:
        _close_handled()
        shutil.rmtree(directory)


def _close_handled() -> None:
    """Close what ``fastipam.cni.handle`` keeps open between calls, if it was ever used."""
    stores = sys.modules.get("fastipam.storage.open_stores")
    if stores is not None:
        stores.close_all()


@contextmanager
def temporary_network(
    ranges: Any = DEFAULT_RANGES,
    *,
    name: str = "test",
    clock: Clock | None = None,
    **keywords: Any,
) -> Iterator[Network]:
    """A network in a store of its own, for as long as the block; :meth:`Ipam.network`'s keywords.

    Verified at the end, as :func:`temporary_store` is.
    """
    with temporary_store(clock) as store, store.open() as ipam:
        yield ipam.network(name, ranges, **keywords)


def exhaust(network: Network, *, leave: int = 0) -> int:
    """Assign all free addresses of a network but ``leave``; returns how many owners that took.

    The owners are ``("exhaust-0", "eth0")`` and so on. With several range sets the smallest
    decides. Cooling addresses are not touched: an assignment may still get one. O(addresses).
    Raises ConfigError for a network of more than a million free addresses.
    """
    pool = network.current_pool()
    sets = [] if pool is None else pool.sets
    used = {(family, value) for family, value, _, _ in network.records()}
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
    """Within the block every change of this store raises ``error``, and changes nothing.

    ``StoreFull("no space is left")``, ``StoreUnavailable(…)``, ``StoreBusy(…)``: what a disk or a
    neighbour does to a program. Reading works as before. It counts for all threads, and for
    ``fastipam.cni.handle`` on the same directory. Of two blocks the inner one's error counts.
    """

    def write() -> NoReturn:
        raise error

    store: Any = ipam.store
    before = vars(store).get("write")  # of a block around this one
    store.write = write
    try:
        yield
    finally:
        if before is None:
            del store.write
        else:
            store.write = before
