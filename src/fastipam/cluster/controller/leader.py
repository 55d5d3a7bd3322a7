"""Leader election: the controller that holds the Lease ``fastipam-controller`` leads.

A leader renews the Lease, and stops leading if it could not renew it for four fifths of its
duration. A follower takes the Lease over when it was unchanged for the whole duration, measured by
the follower's own clock: the clocks of two machines are never compared. There can be two leaders at
once, when a process was stopped for long. They do no harm, because every write of a leader names
the version of the object that it has read.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.client import AlreadyExists, Conflict, NotFound
from fastipam.cluster.registries.kubernetes.lease import lease
from fastipam.errors import FastipamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.cluster.registries.kubernetes.client import Client

log = logging.getLogger("fastipam.controller")

NAME = "fastipam-controller"
DURATION_S = 15  # as long as kube-controller-manager's
_STILL_LEADS = 0.8  # of the duration; the rest is for clocks that run at different speeds
_RENEW_S, _LOOK_S, _RETRY_S = 3.0, 2.0, 1.0
_CALL_S = 3.0


class Election:
    """One process in the election; ``identity`` is different for each process.

    For one thread, which calls :meth:`step`; :attr:`is_leading` is for any thread.
    """

    def __init__(
        self,
        client: Client,
        identity: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        duration_s: int = DURATION_S,
    ) -> None:
        self.identity = identity
        self.leader = ""  # who leads, as far as this process knows
        self._client = client
        self._clock = clock
        self._duration_s = duration_s
        self._until = float("-inf")
        self._version = 0  # of the Lease as this process has written it
        self._seen = (0, 0.0)  # the version of another one's Lease, and when it was first read
        self._transitions = 0

    @property
    def is_leading(self) -> bool:
        """Whether this process leads now."""
        return self._clock() < self._until

    def step(self) -> float:
        """Renew the Lease, or check whether it is free; return the seconds until the next call.

        Raises nothing. Two requests at most.
        """
        was_leading = self.is_leading
        try:
            pause_s = self._renew() if self._version else self._look()
        except FastipamError as error:
            log.warning(
                "leader=%s the Lease cannot be read or renewed: %s", self.leader or "?", error
            )
            pause_s = _RETRY_S
        except Exception:
            log.exception("internal error in the election")
            pause_s = _RETRY_S
        if was_leading != self.is_leading:
            log.warning("identity=%s %s", self.identity, "leads" if not was_leading else "follows")
        return pause_s

    def resign(self) -> None:
        """Give the Lease up, so that another process leads at once. One request at most."""
        self._until = float("-inf")
        version, self._version = self._version, 0
        if version:
            with suppress(FastipamError):
                self._client.replace(objects.LEASES, self._body("", version), deadline_s=0.5)

    def _renew(self) -> float:
        try:
            return self._take(self._version)
        except (Conflict, NotFound):
            self._version = 0
            return self._look()

    def _look(self) -> float:
        found = self._client.get(objects.LEASES, NAME, deadline_s=_CALL_S)
        if found is None:
            with suppress(AlreadyExists):
                return self._take(0)
            return _RETRY_S
        version, spec = objects.version_of(found), found.get("spec") or {}
        self.leader = str(spec.get("holderIdentity") or "")
        self._transitions = int(spec.get("leaseTransitions") or 0)
        if self.leader not in ("", self.identity):
            self._until = float("-inf")
            if self._seen[0] != version:
                self._seen = version, self._clock()
            if self._clock() - self._seen[1] < int(spec.get("leaseDurationSeconds") or DURATION_S):
                return _LOOK_S
            self._transitions += 1
        with suppress(Conflict, NotFound):
            return self._take(version)
        return _RETRY_S

    def _take(self, version: int) -> float:
        """Become the holder: replace the Lease of this version, or create it if that is 0."""
        began = self._clock()
        body = self._body(self.identity, version)
        if version:
            made = self._client.replace(objects.LEASES, body, deadline_s=_CALL_S)
        else:
            made = self._client.create(objects.LEASES, body, deadline_s=_CALL_S)
        self._version, self.leader = objects.version_of(made), self.identity
        self._until = began + self._duration_s * _STILL_LEADS
        return _RENEW_S

    def _body(self, holder: str, version: int) -> dict[str, Any]:
        return lease(NAME, holder, self._duration_s, version=version, transitions=self._transitions)
