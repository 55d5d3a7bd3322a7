"""The counts of a network and of its range sets by state, as values for a library caller."""

from __future__ import annotations

from fastipam.allocation import counts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, NoReturn


class _Value:
    """An object whose fields are set once. Objects of a class with equal fields are equal."""

    __slots__: tuple[str, ...] = ()

    def __init__(self, **fields: object) -> None:
        for name in self.__slots__:
            object.__setattr__(self, name, fields[name])

    def __setattr__(self, name: str, _: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be set: counts are read-only")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted")

    def _fields(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __reduce__(self) -> tuple[object, ...]:
        return _make, (type(self), self._fields())

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._fields() == other._fields()

    __hash__ = None  # type: ignore[assignment]  # it is not meant as a key of a dict

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self._fields().items())
        return f"{type(self).__name__}({shown})"


def _make(of: type[_Value], fields: dict[str, object]) -> _Value:
    return of(**fields)


class SetStats(_Value):
    """The counts of one range set. An assignment takes one address of each set.

    ``family`` is 4 or 6. ``ranges`` are its ranges, each a mapping with ``subnet``, ``rangeStart``,
    ``rangeEnd`` and ``gateway`` as texts (None without a gateway), as :meth:`Ipam.network` takes
    them. ``size`` is the number of addresses that the set can assign; ``assigned``, ``cooling``,
    ``reserved`` and ``free`` add up to it. ``full`` says that the next assignment finds no address.
    ``excluded`` is the number of addresses in the subnets that are never assigned. ``blocks`` is
    the number of blocks that this node has in a cluster's set, and None for any other set.
    ``static`` has the same counts for the addresses that are assigned on request only, which are
    not in ``size``. It is None when there are none.
    """

    __slots__ = (
        "assigned", "blocks", "cooling", "excluded", "family", "free", "full", "ranges",
        "reserved", "size", "static",
    )  # fmt: skip

    family: int
    ranges: tuple[Mapping[str, str | None], ...]
    size: int
    assigned: int
    cooling: int
    reserved: int
    free: int
    full: bool
    excluded: int
    blocks: int | None
    static: Mapping[str, int] | None

    @property
    def used_percent(self) -> float | None:
        """The percentage of the set that is not free, or None when its size is 0."""
        return counts.used_percent({"size": self.size, "free": self.free})

    def to_dict(self) -> dict[str, Any]:
        """Return the set as ``fastipam stats --json`` prints it."""
        return {
            "family": self.family,
            "ranges": [dict(one) for one in self.ranges],
            "size": self.size,
            "assigned": self.assigned,
            "cooling": self.cooling,
            "reserved": self.reserved,
            "free": self.free,
            "used_percent": self.used_percent,
            "full": self.full,
            "excluded": self.excluded,
            **({} if self.blocks is None else {"blocks": self.blocks}),
            **({} if self.static is None else {"static": dict(self.static)}),
        }


class NetworkStats(_Value):
    """The counts of a network as of one moment.

    ``size`` is the number of addresses that the ranges can assign, plus the addresses in use that
    are outside the ranges since these changed; ``assigned``, ``cooling``, ``reserved`` and ``free``
    add up to it. For a cluster's pool it is this node's share. An address whose cool-down is over
    counts as cooling until it is freed. ``pool`` is the name of the network's pool. If another
    network of the pool has an address in this network's ranges, it counts too. ``sets`` are the
    range sets in their order; addresses outside the ranges are in none of them. ``other_sets`` are
    the range sets of earlier ranges, if the network's ranges change back and forth because two
    configurations have its name. Usually there are none.
    """

    __slots__ = (
        "assigned", "cooling", "free", "network", "other_sets", "pool", "reserved", "sets", "size",
    )  # fmt: skip

    network: str
    pool: str
    size: int
    assigned: int
    cooling: int
    reserved: int
    free: int
    sets: tuple[SetStats, ...]
    other_sets: tuple[SetStats, ...]

    @property
    def can_serve(self) -> bool:
        """Whether the next assignment finds an address in every range set.

        It is False for a network without known ranges.
        """
        return bool(self.sets) and not any(one.full for one in self.sets)

    @property
    def used_percent(self) -> float | None:
        """The percentage of the fullest range set, or None when no set has an address."""
        return counts.fullest_percent(one.used_percent for one in (*self.sets, *self.other_sets))

    @property
    def static(self) -> Mapping[str, int] | None:
        """The counts of the addresses of all sets that are assigned on request only, or None."""
        found = [one.static for one in (*self.sets, *self.other_sets) if one.static is not None]
        return {key: sum(one[key] for one in found) for key in found[0]} if found else None

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as ``fastipam stats --json`` prints them."""
        return {
            "network": self.network,
            "pool": self.pool,
            "size": self.size,
            "assigned": self.assigned,
            "cooling": self.cooling,
            "reserved": self.reserved,
            "free": self.free,
            **({} if self.static is None else {"static": self.static}),
            "range_sets": [one.to_dict() for one in self.sets],
            "other_range_sets": [one.to_dict() for one in self.other_sets],
            "used_percent": self.used_percent,
        }


def make(
    network: str,
    pool: str,
    total: dict[str, int],
    sets: Iterable[counts.SetCounts],
    others: Iterable[counts.SetCounts],
) -> NetworkStats:
    """Return the counts of a network as a :class:`NetworkStats`."""
    own, other = _sets(sets), _sets(others)
    return NetworkStats(network=network, pool=pool, sets=own, other_sets=other, **total)


def _sets(found: Iterable[counts.SetCounts]) -> tuple[SetStats, ...]:
    return tuple(
        SetStats(
            family=one.range_set.family,
            ranges=tuple(one.ranges),
            full=one.full,
            excluded=one.excluded,
            blocks=one.blocks,
            static=one.static,
            **one.counts,
        )
        for one in found
    )
