"""What the agent does between requests: it gives back what nobody needs any longer.

Leases of an earlier boot, those without a netns, and addresses that have cooled down while there
was no assignment to take them out of the queue: else a node that has become quiet would show them
as cooling, and keep the blocks that they are in, for ever. In slices of a few hundred leases, so
that no request waits for more than one of them. With nothing to give back nothing is written.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from fastipam.errors import FastipamError
from fastipam.ipam import Ipam
from fastipam.storage import open_stores
from fastipam.sweep import DEFAULT_GRACE_S, give_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fastipam.storage.store import Store
    from fastipam.sweep import Report

log = logging.getLogger("fastipam.agent")

DEFAULT_INTERVAL_S = 60.0


class Chores:
    """The agent's housekeeping; :meth:`step` does one slice of it, when it is time.

    ``data_dirs`` are looked after from the beginning, every other store once a request has named
    it. ``interval_s`` lies between two rounds; 0: there are none. Not safe for several threads: it
    belongs to the one that serves the requests.
    """

    def __init__(
        self,
        data_dirs: Sequence[str] = (),
        *,
        interval_s: float = DEFAULT_INTERVAL_S,
        grace_s: float = DEFAULT_GRACE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data_dirs = tuple(data_dirs)
        self._interval_s = interval_s
        self._grace_s = grace_s
        self._clock = clock
        self._next = clock()
        self._round: Iterator[None] | None = None

    def wait_s(self) -> float | None:
        """Seconds until there is something to do; 0: at once, None: never."""
        if not self._interval_s:
            return None
        return 0.0 if self._round is not None else max(0.0, self._next - self._clock())

    def step(self) -> None:
        """Do one slice, if it is time. Raises nothing: what fails is tried again next time."""
        if self.wait_s() != 0.0:
            return
        if self._round is None:
            self._round = self._all()
        try:
            next(self._round)
        except StopIteration:
            self._end()
        except (FastipamError, OSError) as error:
            self._give_up("all", error)
            self._end()

    def _give_up(self, what: str, error: Exception) -> None:
        log.warning(
            "housekeeping of %s was given up, the next is in %gs: %s",
            what,
            self._interval_s,
            error,
        )

    def _end(self) -> None:
        self._round = None
        self._next = self._clock() + self._interval_s

    def _all(self) -> Iterator[None]:
        for data_dir in self._data_dirs:
            try:
                open_stores.get(data_dir, None, create=False)
            except FileNotFoundError:
                continue
            except FastipamError as error:
                self._give_up(data_dir, error)
        for store in open_stores.all_open():
            try:
                names = Ipam(store).networks()
            except (FastipamError, OSError) as error:
                self._give_up(store.path, error)
                continue
            for name in names:
                # What is wrong with one network is no reason to leave the others alone.
                try:
                    yield from self._look_after(store, name)
                except (FastipamError, OSError) as error:
                    self._give_up(f"network {name} in {store.path}", error)

    def _look_after(self, store: Store, name: str) -> Iterator[None]:
        looked = released = missing = unknown = 0
        for report in give_back(store, Ipam(store).network(name), grace_s=self._grace_s):
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
        for lease, reason in report.unknown[:1]:  # they are alike, and there may be thousands
            log.debug("network=%s address=%s cannot be swept: %s", name, lease.cidr, reason)
