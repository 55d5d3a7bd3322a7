"""Temporary stores and networks, which are verified at the end of their ``with`` block."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from fastipam.errors import ConfigError
from fastipam.ipam import Ipam
from fastipam.storage import open_stores
from fastipam.sweep import sweep
from fastipam.testing.clock import Clock
from fastipam.testing.faults import STEPS
from fastipam.testing.places import Place, register, unregister
from fastipam.verify import verify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal, Unpack

    from fastipam.addressing.parsing import Ranges
    from fastipam.lease import Lease
    from fastipam.network import Network
    from fastipam.network.reading import ListOf
    from fastipam.testing.faults import Step

DEFAULT_RANGES = "10.32.0.0/24"
_TMPFS = "/dev/shm"
_MOST_EXHAUSTED = 1 << 20  # a million leases take about ten seconds, more than a test should


class TemporaryStore:
    """A temporary data directory with its own clock and boot.

    ``path`` is a value for a configuration's ``dataDir``; ``clock`` is a :class:`Clock`. The store
    is relaxed, and empty at first.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.path: Path = path
        self.clock: Clock = clock or Clock()
        self._place = Place(path, self.clock)

    def __repr__(self) -> str:
        return f"<TemporaryStore {self.path} {self.clock!r}>"

    def open(self, durability: Literal["durable", "relaxed"] | None = None) -> Ipam:
        """Open the store as :func:`fastipam.open` does, with the test's clock and boot.

        The result is a context manager. In the block of :func:`temporary_store`, ``fastipam.open``
        and ``fastipam.cni.handle`` also use this clock and boot for this path.
        """
        return Ipam(open_stores.open_store(self.path, durability, **self._place.options()))

    def reboot(self) -> None:
        """Make the next :meth:`open` find another boot, as after a restart of the machine.

        Close the store first, because the boot is read when a store is opened. Leases of the
        earlier boot are released, as on a node. Processes that are started later find the new boot
        too.
        """
        open_stores.close_all()  # the stores that fastipam.cni.handle keeps open
        self._place.reboot()

    def sweep(self) -> list[Lease]:
        """Release leases whose namespace is gone, as the agent does every minute.

        Return the leases that were released. If it cannot be proven that a missing namespace is
        gone, its lease is released by a second sweep, at least 60 s after the first by the test's
        clock.
        """
        with self.open() as ipam:
            return sweep(ipam).released

    def command(
        self, program: str, *arguments: str, kill: Step | None = None, kill_call: int = 1
    ) -> list[str]:
        """Return a command that runs a Python program with this store's clock and boot.

        ``program`` is the path of a script, ``-m`` followed by a module, or ``fastipam``: that is
        the command line, or the plugin if its environment has ``CNI_COMMAND``. Only the store in
        ``path`` is affected, and only in the process that the command starts and in its forked
        children. The command works as long as the test's :class:`Clock` exists.

        With ``kill`` the process is killed by SIGKILL at change number ``kill_call`` of the store,
        counted from 1: before the change ("begin"), when everything is written but not committed
        ("before-commit"), or when it is committed but not answered ("after-commit"). An agent also
        makes changes on its own, so the number of a request's change is not known there. Raises
        ConfigError for another step.
        """
        if kill not in (None, *STEPS):
            raise ConfigError(
                f"kill is {kill!r}, which is not one of {', '.join(STEPS)}",
                field="kill",
                value=kill,
            )
        settings = {
            "store": str(self.path),
            "clock": self.clock.share(),
            "kill": kill,
            "kill_call": kill_call,
        }
        entry = ("-m", "fastipam.testing.child", json.dumps(settings))
        return [sys.executable, *entry, program, *arguments]

    def install(
        self, path: str | os.PathLike[str], program: str = "fastipam", *arguments: str
    ) -> Path:
        """Write an executable file that runs a :meth:`command`, such as a plugin; return its path.

        Put its directory into ``CNI_PATH``: a main plugin or a runtime that calls the file then
        uses this store's clock and boot.
        """
        installed = Path(path).absolute()
        line = shlex.join(self.command(program, *arguments))
        installed.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        installed.chmod(0o755)
        return installed

    def verify(self) -> None:
        """Verify the store. Raises AssertionError with all findings."""
        if not (self.path / "data.mdb").exists():
            return
        with self.open() as ipam:
            found = verify(ipam.store)
        if found:
            raise AssertionError("\n".join(map(str, found)))


def memory() -> str | None:
    """Return the path of the machine's tmpfs, or None for the default of ``tempfile``."""
    return _TMPFS if os.access(_TMPFS, os.W_OK) else None


@contextmanager
def temporary_store(clock: Clock | None = None) -> Iterator[TemporaryStore]:
    """Make a :class:`TemporaryStore`, and verify and remove it at the end of the block.

    The store is not verified when the block ends with an exception. The directory is in
    ``/dev/shm`` if that is writable, otherwise in the default directory of ``tempfile``.
    """
    directory = Path(tempfile.mkdtemp(prefix="fastipam-test-", dir=memory()))
    store = TemporaryStore(directory / "store", clock)
    register(store._place)
    try:
        store.open("relaxed").close()  # the store records that it is relaxed, for later openings
        yield store
        store.verify()
    finally:
        open_stores.close_all()  # the stores that fastipam.cni.handle keeps open
        unregister(store._place)
        shutil.rmtree(directory)


class NetworkOptions(TypedDict, total=False):
    """The keywords of :meth:`Ipam.network`."""

    exclude: ListOf[str]
    static: ListOf[str]
    pool: str | None
    cooldown_s: float | None
    cooldown_policy: Literal["prefer", "strict"] | None
    sticky_s: int | None
    history: int | None
    history_age_s: float | None


@contextmanager
def temporary_network(
    ranges: Ranges = DEFAULT_RANGES,
    *,
    name: str = "test",
    clock: Clock | None = None,
    **keywords: Unpack[NetworkOptions],
) -> Iterator[Network]:
    """Make a network in a temporary store for the block.

    The keywords are those of :meth:`Ipam.network`. The store is verified at the end, as with
    :func:`temporary_store`.
    """
    with temporary_store(clock) as store, store.open() as ipam:
        yield ipam.network(name, ranges, **keywords)


def exhaust(network: Network, *, leave: int = 0) -> int:
    """Assign all free addresses of a network except ``leave``, and return the number of owners.

    The owners are ``("exhaust-0", "eth0")`` and so on. Each owner gets an address of every range
    set, so the set with the fewest free addresses decides their number. Cooling addresses stay as
    they are, so a later assignment may still take one. O(addresses). Raises ConfigError for more
    than a million free addresses.
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
