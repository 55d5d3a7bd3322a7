"""The networks of a store, and a block in which changes of several become one commit."""

from __future__ import annotations

from fastipam.addressing.parsing import exclude_from, parse_ranges
from fastipam.configuration.policy import Policy
from fastipam.errors import UnknownNetwork
from fastipam.network import Network, arguments
from fastipam.storage import tables
from fastipam.storage import transaction as storage
from fastipam.storage.within import Within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from fastipam.addressing.parsing import Ranges
    from fastipam.addressing.ranges import Pool
    from fastipam.network.reading import ListOf
    from fastipam.storage.store import Store

_NAMES_SHOWN = 8


class Networks:
    """The common base of an open store and a transaction: both have networks."""

    __slots__ = ()

    @property
    def is_closed(self) -> bool:
        """Whether the store was closed by this object."""
        raise NotImplementedError

    @property
    def named(self) -> dict[str, tuple[Pool, Policy, str | None]]:
        """Ranges, policy and pool of the networks whose ranges :meth:`network` was given."""
        raise NotImplementedError

    def _place(self) -> Store:
        """Return the store that calls use.

        In a transaction this is an object whose changes are part of the transaction.
        """
        raise NotImplementedError

    def _returns(self, network: Network) -> Network:
        """Return the network that the caller gets; a subclass may record it first."""
        return network

    def network(
        self,
        name: str,
        ranges: Ranges | None = None,
        *,
        pool: str | None = None,
        exclude: ListOf[str] = (),
        static: ListOf[str] = (),
        cooldown_s: float | None = None,
        cooldown_policy: Literal["prefer", "strict"] | None = None,
        sticky_s: int | None = None,
        history: int | None = None,
        history_age_s: float | None = None,
    ) -> Network:
        """Return the network of this name. Reads the store only when ``ranges`` is None.

        Without ``ranges`` the network must be known: this object was called with its ranges before,
        or the store has it. UnknownNetwork lists the networks that the store has. With ``ranges``
        the network may be new; the store records it when its first address is assigned.

        ``ranges`` is one CIDR, or a sequence of range sets: a set is a CIDR, a mapping with
        ``subnet`` and optionally ``rangeStart``, ``rangeEnd``, ``gateway``, or a sequence of those.
        Each set serves one address of an allocation; two sets of different families are dual stack.
        :data:`fastipam.DEFAULT_RANGE` is 10.32.0.0/12. ``exclude`` lists CIDRs, addresses and
        ranges (``"a-b"``) that are never assigned; without ranges it replaces the exclusions that
        the store has.

        ``static`` lists, in the same way, addresses that are assigned only on request.

        ``pool`` names the pool in which an address is unique, as ``"pool"`` of a configuration
        does: networks that name one pool never have an address twice. Without it and without ranges
        it is the pool of the earlier call with ranges. Otherwise a new network has a pool of its
        own name, and any other keeps the pool that it has.

        ``cooldown_s`` is the time between the release of an address and its next assignment (30).
        When only cooling addresses are left, ``cooldown_policy`` decides: "prefer" assigns the one
        that has cooled longest, "strict" raises PoolExhausted with the seconds left. ``sticky_s``
        is the time for which a released address stays reserved for its pod. ``history`` is the
        number of events to keep (100,000; with 0 none is written), ``history_age_s`` the time to
        keep them (a week). If neither these nor ranges are given, the policy is that of the earlier
        call with ranges, or that of the last assignment. Raises ConfigError with the field and the
        value; UnknownNetwork.
        """
        asked: dict[str, Any] = {
            "cooldown_s": cooldown_s,
            "cooldown_policy": cooldown_policy,
            "sticky_s": sticky_s,
            "history": history,
            "history_age_s": history_age_s,
        }
        given = {key: value for key, value in asked.items() if value is not None}
        name = arguments.read_name(name)
        arguments.check_options(given)
        policy = Policy(**given)
        excluded = arguments.read_texts(exclude, "exclude")
        store = self._place()
        chosen: dict[str, Any] = {}
        if pool is None and ranges is None and name in self.named:
            pool = self.named[name][2]
        if pool is not None:
            chosen = {"pool_name": arguments.read_name(pool, "pool"), "names_pool": True}
        if ranges is not None:
            areas = arguments.read_texts(static, "static")
            parsed = parse_ranges(ranges, excluded, static=areas)
            self.named[name] = parsed, policy, pool
            return self._returns(Network(store, name, parsed, policy=policy, **chosen))
        known = Network(store, name, None, policy=policy, **chosen)
        if name in self.named:
            stored, before, _ = self.named[name]
            known.pool = stored
        else:
            found, before = known._current_pool(), known._remembered_policy()
            if found is None:
                raise self._unknown(name)
            stored = found
        if not given:
            known.policy = before
        if excluded:
            known.pool = exclude_from(stored, excluded)
        return self._returns(known)

    def networks(self) -> list[str]:
        """Return the names of all networks in the store, sorted. O(networks)."""
        with self._place().read() as txn:
            found = tables.NETWORKS.scan_keys(txn)
            return [key.decode("utf-8", "surrogateescape") for key in found]

    def _unknown(self, name: str) -> UnknownNetwork:
        names = self.networks()
        shown = ", ".join(map(repr, names[:_NAMES_SHOWN])) or "none"
        if len(names) > _NAMES_SHOWN:
            shown += f" and {len(names) - _NAMES_SHOWN} more"
        return UnknownNetwork(
            f"the store {self._place().path} has no network {name!r}; it has {shown}",
            field="name",
            value=name,
            hint="a new network needs its ranges: network(name, '10.1.0.0/16'), or "
            "network(name, fastipam.DEFAULT_RANGE)",
        )


class Transaction(storage.Transaction, Networks):
    """A block in which changes of several networks become one commit.

    :meth:`Ipam.transaction` returns one, to be used with ``with``. Only calls on the networks that
    :meth:`network` returns are part of the block, and see its changes. All other calls see the
    changes after the block has ended. The block belongs to the thread that has begun it.
    """

    __slots__ = ("_ipam",)

    def __init__(self, ipam: Networks, store: Store) -> None:
        super().__init__(store)
        self._ipam = ipam

    def __repr__(self) -> str:
        return f"<Transaction in {self.store.path}>"

    @property
    def is_closed(self) -> bool:
        """Whether the Ipam of this block was closed."""
        return self._ipam.is_closed

    @property
    def named(self) -> dict[str, tuple[Pool, Policy, str | None]]:
        """Ranges, policy and pool of the networks whose ranges :meth:`network` was given."""
        return self._ipam.named

    def _place(self) -> Store:
        # Made each time: a transaction that refers to itself would not end with its thread.
        self.require_mine()
        return Within(self)

    def require_open(self) -> None:
        """Raise StoreClosed when the Ipam was closed meanwhile."""
        if self._ipam.is_closed:
            raise self.store.was_closed()

    def flush(self) -> None:
        """Write what is still in memory. Raises StoreClosed, so a closed store gets no commit."""
        self.require_open()
        super().flush()
