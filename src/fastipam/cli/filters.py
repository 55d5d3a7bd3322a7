"""Select the leases, reservations and events that an operator wants to see."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastipam.allocation import states
from fastipam.storage.records import keys

if TYPE_CHECKING:
    from fastipam.storage.records.event import Event
    from fastipam.storage.records.lease import Record
    from fastipam.storage.records.reservation import Reservation

# The states of an address as the command line writes them.
STATES = ASSIGNED, COOLING, RESERVED, FREE = (
    states.ASSIGNED.upper(),
    states.COOLING.upper(),
    states.RESERVED.upper(),
    states.FREE.upper(),
)


def pod_of(record: Record | Event) -> str:
    """Return ``namespace/name`` of the pod of a lease or event, or "" when it has none."""
    if not record.pod_namespace:
        return record.pod_name
    return f"{record.pod_namespace}/{record.pod_name}"


def pod_hint(pod: str) -> str:
    """Return a hint if a search for a pod left out the namespace, else ""."""
    return "" if not pod or "/" in pod else f"; a pod is NAMESPACE/NAME, such as default/{pod}"


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter for rows. A field that is empty or None matches all rows.

    ``interval`` is (family, first, last). ``container`` is the beginning of an id. ``owner`` is a
    pod's namespace/name or a container id; it matches leases and reservations.
    """

    interval: tuple[int, int, int] | None = None
    container: str = ""
    ifname: str = ""
    pod: str = ""
    owner: str = ""
    since_ns: int = 0
    states: frozenset[str] = field(default_factory=frozenset)

    def wants(self, state: str) -> bool:
        """Return whether rows of this state are wanted."""
        return not self.states or state in self.states

    def needles(self) -> list[bytes]:
        """Return byte strings that the packed record of every matching lease contains."""
        found = []
        if self.container:
            found.append(_encode(self.container))
        if self.pod:
            namespace, _, name = self.pod.rpartition("/")
            found.append(_encode(f"\0{namespace}\0{name}\0"))
        return found

    def covers(self, family: int, value: int) -> bool:
        """Return whether an address is in the interval."""
        interval = self.interval
        return interval is None or (family == interval[0] and interval[1] <= value <= interval[2])

    def fits(self, record: Record) -> bool:
        """Return whether a lease matches, regardless of its address."""
        return (
            self.wants(states.of_record(record).upper())
            and self._fits_owner(record)
            and record.allocated_ns >= self.since_ns
        )

    def fits_event(self, event: Event) -> bool:
        """Return whether an event's address and owner match, regardless of kind and time."""
        return self.covers(event.family, event.value) and self._fits_owner(event)

    def _fits_owner(self, one: Record | Event) -> bool:
        return (
            one.container_id.startswith(self.container)
            and (not self.ifname or one.ifname == self.ifname)
            and (not self.pod or pod_of(one) == self.pod)
            and (not self.owner or self.owner in (pod_of(one), one.container_id))
        )

    def fits_reservation(self, one: Reservation) -> bool:
        """Return whether an unused reservation matches, regardless of its address."""
        if self.container or self.ifname or self.since_ns or not self.wants(RESERVED):
            return False
        return all(one.owner == wanted for wanted in (self.pod, self.owner) if wanted)

    @property
    def wants_free(self) -> bool:
        """Whether free addresses match: they do not if the filter has an owner or a time."""
        whose = self.container or self.ifname or self.pod or self.owner or self.since_ns
        return not whose and self.wants(FREE)


EVERYTHING = Filter()


def _encode(text: str) -> bytes:
    return text.encode(keys.ENCODING, keys.ERRORS)
