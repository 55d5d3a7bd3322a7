"""What a network does with addresses that are given back, and how much of it it remembers."""

from __future__ import annotations

from struct import Struct

from fastipam.errors import ConfigError

DEFAULT_COOLDOWN_S = 30.0
PREFER = "prefer"
STRICT = "strict"
DEFAULT_STICKY_S = 3600  # a StatefulSet's pod that is moved or upgraded is back well before
DEFAULT_HISTORY = 100_000  # events a network, about 15 MiB: a day of a node that is busy
DEFAULT_HISTORY_AGE_S = 7 * 86_400
_MOST_HISTORY = 100_000_000
_MOST_S = 10**9
_POLICY = Struct("<Q?IQQ")


class Policy:
    """A network's choices; a value. Times are in nanoseconds, ``sticky_s`` in seconds.

    ``cooldown_ns``: before a released address is assigned again. ``strict``: it is not even when
    nothing else is free. ``sticky_s``: how long a released address is kept for its pod, 0: not at
    all. ``history``: how many events are kept, 0: none are written; ``history_age_ns``: how long.
    Raises ConfigError with field and value.
    """

    __slots__ = ("cooldown_ns", "history", "history_age_ns", "packed", "sticky_s", "strict")

    def __init__(
        self,
        *,
        cooldown_s: float = DEFAULT_COOLDOWN_S,
        cooldown_policy: str = PREFER,
        sticky_s: int = 0,
        history: int = DEFAULT_HISTORY,
        history_age_s: float = DEFAULT_HISTORY_AGE_S,
    ) -> None:
        if not 0 <= cooldown_s < _MOST_S:
            raise _out_of_range("cooldown", cooldown_s, "number of seconds below 10^9")
        if cooldown_policy not in (PREFER, STRICT):
            raise ConfigError(
                f"{cooldown_policy!r} is neither {PREFER!r} nor {STRICT!r}",
                field="cooldownPolicy",
                value=cooldown_policy,
            )
        if not 0 <= sticky_s < 1 << 32:
            raise _out_of_range("stickyTTL", sticky_s, "number of seconds below 2^32")
        if not 0 <= history <= _MOST_HISTORY:
            raise _out_of_range("history", history, f"number of events up to {_MOST_HISTORY}")
        if not 0 < history_age_s < _MOST_S:
            raise _out_of_range("historyAge", history_age_s, "number of seconds below 10^9")
        self.cooldown_ns = int(cooldown_s * 1e9)
        self.strict = cooldown_policy == STRICT
        self.sticky_s = int(sticky_s)
        self.history = history
        self.history_age_ns = int(history_age_s * 1e9)
        # As the store remembers it, for those who have no configuration at hand.
        self.packed = _POLICY.pack(
            self.cooldown_ns, self.strict, self.sticky_s, history, self.history_age_ns
        )

    @classmethod
    def read(cls, raw: bytes | None) -> Policy:
        """The policy that ``packed`` says; the default when there is none, or that cannot be it."""
        policy = cls()
        if raw is not None and cls.is_packed(raw):
            (
                policy.cooldown_ns,
                policy.strict,
                policy.sticky_s,
                policy.history,
                policy.history_age_ns,
            ) = _POLICY.unpack(raw)
            policy.packed = raw
        return policy

    @staticmethod
    def is_packed(raw: bytes) -> bool:
        """Whether this is what ``packed`` of some policy is."""
        if len(raw) != _POLICY.size:
            return False
        cooldown_ns, _, _, history, history_age_ns = _POLICY.unpack(raw)
        most_ns = _MOST_S * 10**9
        return bool(max(cooldown_ns, history_age_ns) < most_ns and history <= _MOST_HISTORY)

    def stricter(self) -> Policy:
        """The same, but what cools is not assigned even when nothing else is free.

        For some calls: what the store remembers of the network's choices is still this one.
        """
        other = self._copy()
        other.strict = True
        return other

    def without_history(self) -> Policy:
        """The same, but no event is written. For some calls, as :meth:`stricter`."""
        other = self._copy()
        other.history = 0
        return other

    def _copy(self) -> Policy:
        other = object.__new__(Policy)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        return other


def _out_of_range(field: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(f"{field} {value!r} is not a {wanted}", field=field, value=value)


DEFAULT_POLICY = Policy()
