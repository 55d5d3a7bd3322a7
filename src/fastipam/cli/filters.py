"""Which leases, reservations and events an operator wants to see, and how a pod is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastipam.allocation import states
from fastipam.storage.records import keys

if TYPE_CHECKING:
    from fastipam.storage.records import event as event_record
    from fastipam.storage.records.lease import Record
    from fastipam.storage.records.reservation import Reservation

# The states of an address as the command line writes them.
STATES = ASSIGNED, COOLING, RESERVED, FREE = (
    states.ASSIGNED.upper(),
    states.COOLING.upper(),
    states.RESERVED.upper(),
    states.FREE.upper(),
)


def pod_of(record: Record | event_record.Event) -> str:
    """``namespace/name`` of a lease's or event's pod, empty when there is none."""
    if not record.pod_namespace:
        return record.pod_name
    return f"{record.pod_namespace}/{record.pod_name}"


def pod_hint(pod: str) -> str:
    """What to say to somebody who has left the namespace out, and finds nothing."""
    return "" if not pod or "/" in pod else f"; a pod is NAMESPACE/NAME: default/{pod}, say"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows are wanted; what is empty or None asks for nothing.

    ``interval`` is (family, first, last); ``container`` the beginning of an id; ``owner`` a pod's
    namespace/name or a container id, of a lease or of a reservation.
    """

    interval: tuple[int, int, int] | None = None
    container: str = ""
    ifname: str = ""
    pod: str = ""
    owner: str = ""
    since_ns: int = 0
    states: frozenset[str] = field(default_factory=frozenset)

    def wants(self, state: str) -> bool:
        """Whether rows of this state are wanted."""
        return not self.states or state in self.states

    def needles(self) -> list[bytes]:
        """Bytes that the packed record of a wanted lease has in it."""
        found = []
        if self.container:
            found.append(_encode(self.container))
        if self.pod:
            namespace, _, name = self.pod.rpartition("/")
            found.append(_encode(f"\0{namespace}\0{name}\0"))
        return found

    def covers(self, family: int, value: int) -> bool:
        """Whether an address is in the interval."""
        interval = self.interval
        return interval is None or (family == interval[0] and interval[1] <= value <= interval[2])

    def fits(self, record: Record) -> bool:
        """Whether a lease is wanted, wherever it is."""
        return (
            self.wants(states.of_record(record).upper())
            and self._fits_owner(record)
            and record.allocated_ns >= self.since_ns
        )

    def fits_event(self, event: event_record.Event) -> bool:
        """Whether an event is wanted: whatever became of the address, and whenever."""
        return self.covers(event.family, event.value) and self._fits_owner(event)

    def _fits_owner(self, one: Record | event_record.Event) -> bool:
        return (
            one.container_id.startswith(self.container)
            and (not self.ifname or one.ifname == self.ifname)
            and (not self.pod or pod_of(one) == self.pod)
            and (not self.owner or self.owner in (pod_of(one), one.container_id))
        )

    def fits_reservation(self, one: Reservation) -> bool:
        """Whether an address that is only reserved is wanted, wherever it is."""
        if self.container or self.ifname or self.since_ns or not self.wants(RESERVED):
            return False
        return all(one.owner == wanted for wanted in (self.pod, self.owner) if wanted)

    @property
    def wants_free(self) -> bool:
        """Whether free addresses are wanted, which nobody has and nobody has had since a time."""
        whose = self.container or self.ifname or self.pod or self.owner or self.since_ns
        return not whose and self.wants(FREE)


EVERYTHING = Filter()


def _encode(text: str) -> bytes:
    return text.encode(keys.ENCODING, keys.ERRORS)
