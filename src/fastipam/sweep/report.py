"""The result of a sweep, and the sum of several results."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastipam.lease import Lease

    Progress = Callable[[int], None]


class Report:
    """The result of a sweep.

    ``looked`` is the number of leases checked. Leases in ``missing`` have no namespace and wait for
    the second check. Leases in ``released`` were released, or would have been without ``dry_run``.
    ``unknown`` has the leases that cannot be checked, each with the reason.
    """

    __slots__ = ("looked", "missing", "released", "unknown")

    def __init__(
        self,
        looked: int,
        missing: list[Lease],
        released: list[Lease],
        unknown: list[tuple[Lease, str]],
    ) -> None:
        self.looked = looked
        self.missing = missing
        self.released = released
        self.unknown = unknown

    def reasons(self) -> list[tuple[str, int]]:
        """Return the reasons why leases cannot be judged, and how often each occurs, most first.

        Reasons that differ only in the path's last part, or in a detail behind "; ", count as one,
        which is returned with the path of the first lease.
        """
        found: dict[str, tuple[str, int]] = {}
        for _, why in self.unknown:
            first, count = found.get(_general(why), (why.partition("; ")[0], 0))
            found[_general(why)] = first, count + 1
        return sorted(found.values(), key=lambda item: -item[1])


def _general(why: str) -> str:
    words = why.partition("; ")[0].split()
    if words and words[0].startswith("/"):
        words[0] = words[0].rpartition("/")[0]
    return " ".join(words)


def add_up(parts: Iterable[Report], progress: Progress | None = None) -> Report:
    """Return the sum of the reports.

    ``progress`` is called with the number of leases checked so far.
    """
    whole = Report(0, [], [], [])
    for part in parts:
        whole.looked += part.looked
        whole.missing += part.missing
        whole.released += part.released
        whole.unknown += part.unknown
        if progress is not None:
            progress(whole.looked)
    return whole
