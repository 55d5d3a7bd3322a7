"""Release, between requests, what is no longer in use.

These are leases of an earlier boot, leases whose network namespace is gone, addresses that have
cooled down, and networks that nobody has used for a month. Assignments expire cool-downs too, but a
node without assignments would show such addresses as cooling, and keep their blocks, for ever. The
work is done in slices of a few hundred leases, so that a request waits for one slice at most.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from fastipam import processes
from fastipam.allocation import removal
from fastipam.errors import FastipamError
from fastipam.ipam import Ipam
from fastipam.storage import open_stores
from fastipam.sweep import DEFAULT_GRACE_S, give_back

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from fastipam.processes import Found
    from fastipam.storage.store import Store
    from fastipam.sweep import Report
    from fastipam.sweep.sweeper import Look

log = logging.getLogger("fastipam.agent")

DEFAULT_INTERVAL_S = 60.0
FORGOTTEN_NS = 30 * 86_400 * 10**9  # a network without addresses goes after so long without events
_PAUSE_S = 0.02  # between two questions for a search that another thread makes
_HELD_S = 0.2  # until a slice is tried again that found another writer


class Housekeeping:
    """Rounds over the networks of a store, ``interval_s`` apart; none if that is 0.

    :meth:`step` does one slice of a round. ``look`` is passed to :class:`fastipam.sweep.Sweeper`;
    ``swept`` is called after the sweep of each network. Not safe to use from several threads: it
    belongs to the thread that serves the store's requests.
    """

    def __init__(
        self,
        data_dir: str,
        *,
        interval_s: float = DEFAULT_INTERVAL_S,
        grace_s: float = DEFAULT_GRACE_S,
        clock: Callable[[], float] = time.monotonic,
        look: Look = processes.look,
        swept: Callable[[str, str, Sequence[int]], object] = lambda *_: None,
    ) -> None:
        self._swept = swept
        self._look = look
        self._data_dir = data_dir
        self._interval_s = interval_s
        self._grace_s = grace_s
        self._clock = clock
        self._next = clock()
        self._round: Iterator[None] | None = None
        self._store: Store | None = None
        # When the next slice is due: a search is not done, or the store is held.
        self._resume = 0.0

    def wait_s(self) -> float | None:
        """Return the seconds until there is something to do, or None when there never is."""
        if not self._interval_s:
            return None
        return max(0.0, (self._next if self._round is None else self._resume) - self._clock())

    def step(self) -> None:
        """Do one slice if it is time. Raises nothing: the next round tries again what failed."""
        if self.wait_s() != 0.0:
            return
        if self._round is None:
            self._round = self._all()
        if self._store is not None and not self._store.is_writable_at_once:
            # Requests of the store would wait for this slice, and then for the lock themselves.
            self._resume = self._clock() + _HELD_S
            return
        try:
            next(self._round)
        except StopIteration:
            self._end()
        except (FastipamError, OSError) as error:
            self._give_up(self._data_dir, error)
            self._end()

    def _found(
        self, wanted: Collection[int], newest_ns: int, runtime_pid_ns: Collection[int]
    ) -> Found | None:
        found = self._look(wanted, newest_ns, runtime_pid_ns)
        if found is None:
            self._resume = self._clock() + _PAUSE_S
        return found

    def _give_up(self, what: str, error: Exception) -> None:
        log.warning(
            "housekeeping of %s failed, next attempt in %gs: %s", what, self._interval_s, error
        )

    def _end(self) -> None:
        self._round = self._store = None
        self._next = self._clock() + self._interval_s

    def _all(self) -> Iterator[None]:
        # To open a store that is held would make the requests wait that come meanwhile, and they
        # would then wait for the store themselves.
        while open_stores.waits_for_writer(self._data_dir, 0.0):
            self._resume = self._clock() + _HELD_S
            yield
        try:
            store = open_stores.get(self._data_dir, None, create=False)
        except FileNotFoundError:
            return
        self._store = store
        names = Ipam(store).networks()
        yield
        for name in names:
            # An error in one network does not keep the others from being swept.
            try:
                yield from self._look_after(store, name)
                if removal.remove_if_idle(store, name, store.clock() - FORGOTTEN_NS):
                    log.info("network=%s removed: it was not used for a month", name)
            except (FastipamError, OSError) as error:
                self._give_up(f"network {name} in {store.path}", error)

    def _look_after(self, store: Store, name: str) -> Iterator[None]:
        looked = released = missing = unknown = 0
        for report in give_back(
            store, Ipam(store).network(name), grace_s=self._grace_s, look=self._found
        ):
            self._tell(name, report)
            looked += report.looked
            released += len(report.released)
            missing += len(report.missing)
            unknown += len(report.unknown)
            yield
        log.info(
            "network=%s swept looked=%d released=%d missing=%d unknown=%d",
            name,
            looked,
            released,
            missing,
            unknown,
        )
        self._swept(store.path, name, (looked, released, missing, unknown))

    @staticmethod
    def _tell(name: str, report: Report) -> None:
        for lease in report.released:
            log.warning(
                "network=%s address=%s container=%s ifname=%s netns=%s released: its network "
                "namespace is gone",
                name,
                lease.cidr,
                lease.container_id,
                lease.ifname,
                lease.netns,
            )
        for lease, reason in report.unknown[:1]:  # one is enough: there may be thousands alike
            log.debug("network=%s address=%s cannot be swept: %s", name, lease.cidr, reason)
