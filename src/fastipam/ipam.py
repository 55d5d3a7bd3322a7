"""Open a store, name a network, and group calls into one commit: where a library caller begins."""

from __future__ import annotations

# Calls import some of these late, for the plugin's sake. A program may have threads, and a signal
# handler that raises in the middle of an import leaves half a module to a thread that waits for it.
from fastipam.addressing.parsing import DEFAULT_SUBNET, exclude_from, parse_ranges
from fastipam.allocation import bulk, counts, refusals, reservations, turns  # noqa: F401
from fastipam.configuration.policy import DEFAULT_DATA_DIR, Policy
from fastipam.network import Network
from fastipam.network import arguments as arguments  # noqa: PLC0414
from fastipam.network import gc as gc  # noqa: PLC0414
from fastipam.network import stats as stats  # noqa: PLC0414
from fastipam.storage import open_stores, tables
from fastipam.storage.records import earlier_ranges  # noqa: F401

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager
    from typing import Any, Self

    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Transaction


class Ipam:
    """An open store and its networks. As a context manager it closes the store at the end.

    Several threads may use it at once, and any number of processes the same directory. A child
    process after ``fork`` may not use it: every call raises StoreForked.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Ipam {self.path} {self.durability}>"

    @property
    def path(self) -> str:
        """The absolute path of the data directory."""
        return self.store.path

    @property
    def durability(self) -> str:
        """The store's durability, "durable" or "relaxed"."""
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
        """Return the network of this name. Reads the store only when ``ranges`` is None.

        ``ranges`` is one CIDR, or a sequence of range sets: a set is a CIDR, a mapping with
        ``subnet`` and optionally ``rangeStart``, ``rangeEnd``, ``gateway``, or a sequence of those.
        Each set serves one address of an allocation; two sets of different families are dual stack.
        None stands for the ranges in the store (with ``exclude``, if given, in place of their
        exclusions), or for 10.32.0.0/12 if the store has none. ``exclude`` lists CIDRs, addresses
        and ranges (``"a-b"``) that are never assigned.

        ``cooldown_s`` is the time between the release of an address and its next assignment (30).
        When only cooling addresses are left, ``cooldown_policy`` decides: "prefer" assigns the one
        that has cooled longest, "strict" raises PoolExhausted with the seconds left. ``sticky_s``
        is the time for which a released address stays reserved for its pod. ``history`` is the
        number of events to keep (100,000; with 0 none is written), ``history_age_s`` the time to
        keep them (a week). Without these and without ranges, the policy of the last assignment
        applies. Raises ConfigError with the field and the value.
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
                known.policy = policy = known._remembered_policy()
            stored = known._current_pool()
            if stored is not None:
                if not exclude:
                    return known
                pool = exclude_from(stored, exclude)
                return Network(self.store, name, pool, policy=policy)
            ranges = DEFAULT_SUBNET
        return Network(self.store, name, parse_ranges(ranges, exclude), policy=policy)

    def networks(self) -> list[str]:
        """Return the names of all networks in the store, sorted. O(networks)."""
        with self.store.read() as txn:
            found = tables.NETWORKS.scan_keys(txn)
            return [key.decode("utf-8", "surrogateescape") for key in found]

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Group the calls that this thread makes inside the ``with`` block into one commit.

        A call that raises changes nothing, and the calls before it stay in the commit. When an
        exception leaves the block, all calls are rolled back. Other writers wait until the block
        ends, so keep it short.
        """
        return self.store.write()

    def close(self) -> None:
        """Close the store. A second call does nothing."""
        store = self.store
        if not getattr(self, "_closed", False):
            self._closed = True
            open_stores.close_store(store)


def open(  # noqa: A001  # the contract's name: fastipam.open
    path: str | os.PathLike[str] = DEFAULT_DATA_DIR,
    durability: str | None = None,
    *,
    create: bool = True,
    **options: Any,
) -> Ipam:
    """Open the store in the directory ``path``; create the store if it does not exist (mode 0700).

    ``durability`` is "durable" (a change is on disk when its call returns) or "relaxed" (a killed
    process loses nothing, a power cut may lose the last changes or the file). None stands for what
    the store was created with, and "durable" for a new store. With ``create=False`` a missing store
    raises FileNotFoundError. The cost does not depend on the content of the store. Raises
    StoreError, ConfigError.
    """
    return Ipam(open_stores.open_store(path, durability, create=create, **options))
