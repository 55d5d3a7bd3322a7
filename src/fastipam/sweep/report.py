"""The result of a sweep, and of several as one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastipam.lease import Lease

    Progress = Callable[[int], None]


class Report(NamedTuple):
    """The result of a sweep.

    ``looked`` is the number of leases checked. Leases in ``missing`` have no namespace and wait for
    the second check. Leases in ``released`` were released, or would have been without ``dry_run``.
    ``unknown`` has the leases that cannot be checked, each with the reason.
    """

    looked: int
    missing: list[Lease]
    released: list[Lease]
    unknown: list[tuple[Lease, str]]

    def reasons(self) -> list[tuple[str, int]]:
        """Return the reasons why leases cannot be judged, and how often each occurs, most first.

        A path loses its last part, and a detail behind "; " goes: they differ from lease to lease.
        """
        return Counter(_general(why) for _, why in self.unknown).most_common()


def _general(why: str) -> str:
    words = why.partition("; ")[0].split()
    if words and words[0].startswith("/"):
        words[0] = words[0].rpartition("/")[0] + "/…"
    return " ".join(words)


def add_up(parts: Iterable[Report], progress: Progress | None = None) -> Report:
    """Return the reports as one. ``progress`` is called with the leases looked at so far."""
    looked = 0
    missing: list[Lease] = []
    released: list[Lease] = []
    unknown: list[tuple[Lease, str]] = []
    for part in parts:
        looked += part.looked
        missing += part.missing
        released += part.released
        unknown += part.unknown
        if progress is not None:
            progress(looked)
    return Report(looked, missing, released, unknown)
