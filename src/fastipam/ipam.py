"""The library's front door: open a store, name a network, group several calls into one commit."""

from __future__ import annotations

from fastipam.addressing.parsing import DEFAULT_SUBNET, exclude_from, parse_ranges
from fastipam.network import Network
from fastipam.storage import tables
from fastipam.storage.records.policy import Policy
from fastipam.storage.store import DEFAULT_DATA_DIR, close_shared, open_shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Any, Self

    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Transaction


class Ipam:
    """An open store and the networks in it; a context manager that closes it.

    Safe to use from several threads at once, and beside any number of other processes on the same
    directory. Not usable in a child after ``fork``: StoreForked says so.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Ipam {self.path} {self.durability}>"

    @property
    def path(self) -> str:
        """The data directory, absolute."""
        return self.store.path

    @property
    def durability(self) -> str:
        """ "durable" or "relaxed"."""
        return self.store.durability

    def network(
        self,
        name: str,
        ranges: str | Sequence[object] | None = None,
        *,
        exclude: Iterable[str] = (),
        cooldown_s: float | None = None,
        cooldown_policy: str | None = None,
        sticky_s: int | None = None,
        history: int | None = None,
        history_age_s: float | None = None,
    ) -> Network:
        """The network of this name. Touches the store only to look up unnamed ranges.

        ``ranges`` is one CIDR, or a sequence of range sets: a set is a CIDR, a mapping with
        ``subnet`` and optionally ``rangeStart``, ``rangeEnd``, ``gateway``, or a sequence of those.
        Each set gives one address of an allocation: two sets of different families are dual stack.
        None means the ranges that the store remembers (with ``exclude`` in place of their
        exclusions, if it is given), else 10.32.0.0/12. ``exclude`` are CIDRs, addresses or ranges
        (``"a-b"``) that are never assigned.

        ``cooldown_s`` is how long a released address waits before it is assigned again (30). What
        happens when only cooling addresses are left is for ``cooldown_policy`` to say: "prefer"
        assigns the one that has cooled longest, "strict" raises PoolExhausted with the seconds
        left. ``sticky_s`` is how long a pod's address is kept for it after a release. ``history``
        is how many events are kept (100,000; 0: none are written), ``history_age_s`` for how long
        (a week). With none of these and no ranges, the policy of the last assignment counts.
        Raises ConfigError with the field and the value.
        """
        asked: dict[str, Any] = {
            "cooldown_s": cooldown_s,
            "cooldown_policy": cooldown_policy,
            "sticky_s": sticky_s,
            "history": history,
            "history_age_s": history_age_s,
        }
        given = {key: value for key, value in asked.items() if value is not None}
        policy = Policy(**given)
        exclude = tuple(exclude)
        if ranges is None:
            known = Network(self.store, name, None, policy=policy)
            if not given:
                known.policy = policy = known.remembered_policy()
            stored = known.current_pool()
            if stored is not None:
                if not exclude:
                    return known
                pool = exclude_from(stored, exclude)
                return Network(self.store, name, pool, policy=policy)
            ranges = DEFAULT_SUBNET
        return Network(self.store, name, parse_ranges(ranges, exclude), policy=policy)

    def networks(self) -> list[str]:
        """The names of all networks that the store knows, sorted. O(networks)."""
        with self.store.read() as txn:
            found = tables.NETWORKS.scan_keys(txn)
            return [key.decode("utf-8", "surrogateescape") for key in found]

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Group the calls that this thread makes inside the ``with`` block into one commit.

        Each call is still all or nothing by itself: one that raises leaves no trace, and those
        before it stay, unless the exception leaves the block: then none of them happened. Other
        writers wait meanwhile: keep it short.
        """
        return self.store.write()

    def close(self) -> None:
        """Close the store; a second time does nothing."""
        store = self.store
        if not getattr(self, "_closed", False):
            self._closed = True
            close_shared(store)


def open(  # noqa: A001  # the contract's name: fastipam.open
    path: str | os.PathLike[str] = DEFAULT_DATA_DIR,
    durability: str | None = None,
    *,
    create: bool = True,
    **options: Any,
) -> Ipam:
    """Open the store in the directory ``path``, and make it if there is none (mode 0700).

    ``durability`` is "durable" (a change is on disk when the call that made it returns), "relaxed"
    (a killed process loses nothing, a power cut may cost the last changes or the file), or None: as
    the store was created, "durable" for a new one. ``create=False``: FileNotFoundError when there
    is none. The cost does not depend on what the store holds. Raises StoreError, ConfigError.
    """
    return Ipam(open_shared(path, durability, create=create, **options))
