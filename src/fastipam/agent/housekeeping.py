"""Release leases, addresses and networks that are no longer in use, between requests.

These are leases of an earlier boot, leases whose network namespace is gone, addresses whose
cool-down is over, and networks that were not used for a month. Assignments end cool-downs too, but
a node without assignments would show those addresses as cooling, and keep their blocks, for ever.
The work is done in slices of a few hundred leases, so that a request waits for one slice at most.
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
# A network without addresses is removed when its last event is this old.
FORGOTTEN_NS = 30 * 86_400 * 10**9
_PAUSE_S = 0.02  # between two checks whether the worker's search of /proc is done
_HELD_S = 0.2  # before a retry when another process holds the writer's lock


class Housekeeping:
    """Visits all networks of a store in rounds that are ``interval_s`` apart; 0 means never.

    :meth:`step` does one slice of a round. ``look`` is passed to :class:`fastipam.sweep.Sweeper`;
    ``swept`` is called after the sweep of each network. Only the thread that serves the store's
    requests may use it.
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
        # When the next slice is due, after one that waits for a search or for the writer's lock.
        self._resume = 0.0

    def wait_s(self) -> float | None:
        """Return the seconds until the next slice, or None when housekeeping is off."""
        if not self._interval_s:
            return None
        return max(0.0, (self._next if self._round is None else self._resume) - self._clock())

    def step(self) -> None:
        """Do one slice if it is due. Raises nothing: the next round retries what failed."""
        if self.wait_s() != 0.0:
            return
        if self._round is None:
            self._round = self._all()
        if self._store is not None and not self._store.is_writable_at_once:
            # Another process holds the writer's lock. If this thread waited for it here, the
            # requests of the store would wait too, and then wait for the lock themselves.
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
        # Opening the store waits while another process holds its writer's lock. Requests that
        # arrive meanwhile would wait for this thread, and then for the lock themselves.
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
