"""Which leases, reservations and events an operator wants to see, and how a pod is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastipam import records
from fastipam.records import COOLING

if TYPE_CHECKING:
    from fastipam import history
    from fastipam.holds import Reservation
    from fastipam.records import Record

STATES = ("ASSIGNED", "COOLING", "RESERVED", "FREE")


def pod_of(record: Record | history.Event) -> str:
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

    def fits(self, record: Record) -> bool:
        """Whether a lease is wanted."""
        return (
            self.wants("COOLING" if record.state == COOLING else "ASSIGNED")
            and record.container_id.startswith(self.container)
            and (not self.ifname or record.ifname == self.ifname)
            and (not self.pod or pod_of(record) == self.pod)
            and (not self.owner or self.owner in (pod_of(record), record.container_id))
            and record.allocated_ns >= self.since_ns
        )

    def fits_reservation(self, one: Reservation) -> bool:
        """Whether an address that is only reserved is wanted."""
        if self.container or self.ifname or self.since_ns or not self.wants("RESERVED"):
            return False
        return all(one.owner == wanted for wanted in (self.pod, self.owner) if wanted)

    @property
    def anything(self) -> bool:
        """Whether the free addresses, which nobody has, are wanted."""
        return not (self.container or self.ifname or self.pod or self.owner or self.since_ns)


EVERYTHING = Filter()


def _encode(text: str) -> bytes:
    return text.encode(records.ENCODING, records.ERRORS)
