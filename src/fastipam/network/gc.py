"""CNI's GC: find the leases that a runtime does not list as valid."""

from __future__ import annotations

from fastipam.errors import StoreCorrupt
from fastipam.storage.records.lease import ASSIGNED, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    Before = int | tuple[int, int]

LISTED = "listed"
YOUNG = "young"  # not listed, but younger than the list
STALE = "stale"


# The wall clock is set back a little now and then. So a lease whose time is in the future, by no
# more than this, may be younger than the list. A lease farther in the future was made before a
# larger step of the clock, and is old.
_LITTLE_NS = 60 * 10**9


class Age:
    """A check for leases younger than a runtime's list, by a wall clock that may have been set.

    ``before_ns`` is the wall clock time when the list was made. It is a pair if a clock that cannot
    be set was read at that moment too: the time that the wall clock showed then, and the time of
    that moment by the wall clock as it is set now. The two differ if the clock was set meanwhile; a
    lease may have been made before that step or after it.
    """

    __slots__ = ("_clock", "_said_ns", "_says_ns")

    def __init__(self, before_ns: Before, clock: Callable[[], int]) -> None:
        pair = (before_ns, before_ns) if isinstance(before_ns, int) else before_ns
        self._said_ns, self._says_ns = pair
        self._clock = clock

    def is_young(self, allocated_ns: int) -> bool:
        """Return whether a lease that has just been read is younger than the list.

        A time far in the future was read before the clock was set back, and counts as old.
        """
        if allocated_ns < min(self._said_ns, self._says_ns):
            return False
        now_ns = self._clock()
        since_ns = max(0, now_ns - self._says_ns)  # the time since the list was made
        if now_ns < self._says_ns:
            return True  # the clock was set back just now
        return (
            self._says_ns <= allocated_ns <= now_ns + _LITTLE_NS
            or self._said_ns <= allocated_ns <= self._said_ns + since_ns + _LITTLE_NS
        )


def judge(
    leases: Iterable[tuple[bytes, bytes]], valid: Collection[tuple[str, str]], age: Age
) -> Iterator[tuple[bytes, Record, str]]:
    """Yield key, record and verdict (LISTED, YOUNG or STALE) of every assigned lease.

    ``leases`` are packed. A lease is LISTED when its owner is in ``valid``, YOUNG when it is not
    and is younger than the list, else STALE. A lease without an interface is LISTED when any
    interface of its container is in ``valid``. Raises StoreCorrupt at the end if a lease cannot be
    read.
    """
    containers = {container_id for container_id, _ in valid}
    damage = None
    for key, raw in leases:
        try:
            record = Record.read(raw)
        except StoreCorrupt as error:
            damage = damage or error
            continue
        if record.state != ASSIGNED:
            continue
        owner = (record.container_id, record.ifname)
        if owner in valid if record.ifname else record.container_id in containers:
            yield key, record, LISTED
        else:
            yield key, record, YOUNG if age.is_young(record.allocated_ns) else STALE
    if damage is not None:
        raise damage


def unlisted(
    leases: Iterable[tuple[bytes, bytes]], valid: Collection[tuple[str, str]], age: Age
) -> Iterator[tuple[bytes, Record]]:
    """Yield key and record of every lease that :func:`judge` finds STALE."""
    for key, record, verdict in judge(leases, valid, age):
        if verdict == STALE:
            yield key, record
