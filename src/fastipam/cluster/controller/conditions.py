"""The conditions in a pool's status, and the events about it: what operators read."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from fastipam.cluster.registries.kubernetes import objects
from fastipam.errors import FastipamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.cluster.controller.view import View
    from fastipam.cluster.registries.kubernetes.client import Client

log = logging.getLogger("fastipam.controller")

ACCEPTED, EXHAUSTED, DELETING = "Accepted", "Exhausted", "Deleting"
_LONGEST = 1024  # characters of a message: the limit in the CRD
_CALL_S = 5.0


def status_of(pool: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a pool's status, empty when there is none."""
    status = pool.get("status")
    return dict(status) if isinstance(status, dict) else {}


def condition(pool: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a condition of a pool, empty when there is none."""
    listed = status_of(pool).get("conditions") or ()
    return next((one for one in listed if one.get("type") == kind), {})


def with_condition(
    pool: dict[str, Any], kind: str, status: str, reason: str, message: str, now_s: float
) -> list[dict[str, Any]]:
    """Return a pool's conditions with this one set; only a new status changes its time."""
    before = condition(pool, kind)
    since = before.get("lastTransitionTime") if before.get("status") == status else None
    made = {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message[:_LONGEST],
        "lastTransitionTime": since or objects.stamp(now_s),
        "observedGeneration": generation_of(pool),
    }
    others = [one for one in status_of(pool).get("conditions") or () if one.get("type") != kind]
    return sorted([*others, made], key=lambda one: str(one.get("type")))


def generation_of(found: dict[str, Any]) -> int:
    """Return the generation of an object, which grows with each change of its spec."""
    return int(found["metadata"].get("generation") or 0)


def replace_status(
    client: Client, view: View, pool: dict[str, Any], status: dict[str, Any]
) -> dict[str, Any]:
    """Replace a pool's status by the pool's version; return the pool. One request.

    The view has the new status at once. Raises Conflict, NotFound.
    """
    made = client.replace(objects.POOLS, pool | {"status": status}, "status", deadline_s=_CALL_S)
    view.see(objects.POOLS, "MODIFIED", made)
    return made


class Events:
    """Writes events about pools. An event that cannot be written is dropped."""

    def __init__(self, client: Client, now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._now = now

    def tell(self, pool: dict[str, Any], reason: str, message: str, *, warning: bool) -> None:
        """Write one event. Raises nothing; one request."""
        name, now_s = objects.name_of(pool), self._now()
        log.log(
            logging.WARNING if warning else logging.INFO, "pool=%s %s: %s", name, reason, message
        )
        stamp = objects.stamp(now_s)
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            # As client-go names events: the object and a time, which hardly ever repeats.
            "metadata": {"name": f"{name}.{time.time_ns():x}", "namespace": "default"},
            "involvedObject": {
                "apiVersion": objects.VERSION,
                "kind": "AddressPool",
                "name": name,
                "uid": objects.uid_of(pool),
                "resourceVersion": pool["metadata"].get("resourceVersion"),
            },
            "reason": reason,
            "message": message[:_LONGEST],
            "type": "Warning" if warning else "Normal",
            "source": {"component": "fastipam-controller"},
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        try:
            self._client.create(objects.EVENTS, body, deadline_s=_CALL_S)
        except FastipamError as error:
            log.info("pool=%s event not written: %s", name, error)
