"""The policy of a network: what happens to released addresses, and how much history is kept."""

from __future__ import annotations

from fastipam import late_errors as errors
from fastipam.configuration import reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The data directory unless a configuration or a caller names another one.
DEFAULT_DATA_DIR = "/var/lib/cni/fastipam"
DEFAULT_COOLDOWN_S = 30.0
PREFER = "prefer"
STRICT = "strict"
DEFAULT_STICKY_S = 3600  # a pod of a StatefulSet is moved or upgraded in much less time
DEFAULT_HISTORY = 100_000  # events of a network, about 15 MiB: a day of a busy node
DEFAULT_HISTORY_AGE_S = 7 * 86_400
MOST_HISTORY = 100_000_000
MOST_S = 10**9
MOST_STICKY_S = (1 << 32) - 1
_SECONDS = f"number of seconds from 0 to less than {MOST_S}"
_SECONDS_OVER_0 = f"number of seconds greater than 0 and less than {MOST_S}"


class Policy:
    """The policy of a network. It does not change. Raises ConfigError with field and value.

    A released address cools for ``cooldown_ns`` nanoseconds. With ``strict`` it is not assigned
    again in that time even when no other address is free. For ``sticky_s`` seconds a released
    address is reserved for its pod; 0 means not at all. At most ``history`` events are kept, for up
    to ``history_age_ns`` nanoseconds; with 0 none are written.

    ``configured`` is the policy from which this one was derived for some calls, or None. ``stored``
    is the policy's record, which ``storage.records.policy`` fills in at its first use.
    """

    __slots__ = (
        "configured", "cooldown_ns", "history", "history_age_ns", "sticky_s", "stored", "strict",
    )  # fmt: skip

    configured: Policy | None

    def __init__(
        self,
        *,
        cooldown_s: float = DEFAULT_COOLDOWN_S,
        cooldown_policy: str = PREFER,
        sticky_s: int = 0,
        history: int = DEFAULT_HISTORY,
        history_age_s: float = DEFAULT_HISTORY_AGE_S,
    ) -> None:
        if not 0 <= cooldown_s < MOST_S:
            raise _out_of_range("cooldown", cooldown_s, _SECONDS)
        if cooldown_policy not in (PREFER, STRICT):
            raise errors.ConfigError(
                f"{errors.shown(cooldown_policy)} is neither {PREFER!r} nor {STRICT!r}",
                field="cooldownPolicy",
                value=cooldown_policy,
            )
        if not 0 <= sticky_s <= MOST_STICKY_S:
            raise _out_of_range(
                "stickyTTL", sticky_s, f"number of seconds from 0 to {MOST_STICKY_S}"
            )
        if not 0 <= history <= MOST_HISTORY:
            raise _out_of_range("history", history, f"number of events from 0 to {MOST_HISTORY}")
        if not 0 < history_age_s < MOST_S:
            raise _out_of_range("historyAge", history_age_s, _SECONDS_OVER_0)
        self.cooldown_ns = int(cooldown_s * 1e9)
        self.strict = cooldown_policy == STRICT
        self.sticky_s = int(sticky_s)
        self.history = history
        self.history_age_ns = int(history_age_s * 1e9)
        self.configured = None
        self.stored = b""

    def stricter(self) -> Policy:
        """Return a copy with ``strict`` set, for some calls.

        The store still records this policy as the network's.
        """
        other = self._derived()
        other.strict = True
        return other

    def without_history(self) -> Policy:
        """Return a copy that writes no events, for some calls; see :meth:`stricter`."""
        other = self._derived()
        other.history = 0
        return other

    def _derived(self) -> Policy:
        other = object.__new__(Policy)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other.configured = self.configured or self
        return other


def _out_of_range(field: str, value: object, wanted: str) -> errors.ConfigError:
    message = f"{field} {errors.shown(value)} is not a {wanted}"
    return errors.ConfigError(message, field=field, value=value)


DEFAULT_POLICY = Policy()


# Parsing ---------------------------------------------------------------------------------------

KEYS = ("cooldown", "cooldownPolicy", "sticky", "stickyTTL", "history", "historyAge")
_NUMBERS = {
    "cooldown": "cooldown_s",
    "stickyTTL": "sticky_s",
    "history": "history",
    "historyAge": "history_age_s",
}
_WHOLE = ("stickyTTL", "history")
_CHOICES = {"cooldownPolicy": (PREFER, STRICT), "sticky": ("pod",)}


def read(ipam: dict[str, Any]) -> Policy:
    """Return the policy that a configuration's ``ipam`` section sets. Raises ConfigError."""
    asked: dict[str, Any] = {}
    for key in KEYS:
        if key.casefold() in ipam:
            _read_key(key, ipam[key.casefold()], asked)
    if "sticky" in ipam:
        asked.setdefault("sticky_s", DEFAULT_STICKY_S)
    elif "sticky_s" in asked:
        raise errors.ConfigError(
            "no effect without ipam.sticky",
            field="ipam.stickyTTL",
            value=asked["sticky_s"],
            hint='"sticky": "pod"',
        )
    try:
        return Policy(**asked)
    except errors.ConfigError as error:
        error.field = f"ipam.{error.field}"
        raise


def usable(ipam: dict[str, Any]) -> Policy:
    """Return the policy for DEL and GC, with the default for each key that cannot be read."""
    asked: dict[str, Any] = {}
    for key in KEYS:
        if key.casefold() in ipam:
            one: dict[str, Any] = {}
            try:
                _read_key(key, ipam[key.casefold()], one)
                Policy(**one)
            except errors.ConfigError:
                continue
            asked |= one
    return Policy(**asked)


def _read_key(key: str, value: Any, asked: dict[str, Any]) -> None:
    field = f"ipam.{key}"
    if key in _CHOICES:
        allowed = " or ".join(f'"{one}"' for one in _CHOICES[key])
        if not isinstance(value, str):
            raise reader.wrong(field, value, allowed)
        if value not in _CHOICES[key]:
            raise reader.refused(field, value, allowed)
        if key == "cooldownPolicy":
            asked["cooldown_policy"] = value
        return
    whole = key in _WHOLE
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise reader.wrong(field, value, "an integer" if whole else "a number of seconds")
    asked[_NUMBERS[key]] = value
