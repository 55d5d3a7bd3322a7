"""The keys that say what becomes of released addresses and how much history is kept."""

from __future__ import annotations

from fastipam.configuration.fields import wrong
from fastipam.errors import ConfigError
from fastipam.storage.records.policy import DEFAULT_STICKY_S, PREFER, STRICT, Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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
    """The policy that a configuration's ``ipam`` section asks for. Raises ConfigError."""
    asked: dict[str, Any] = {}
    for key in KEYS:
        if key.casefold() in ipam:
            _read_key(key, ipam[key.casefold()], asked)
    if "sticky" in ipam:
        asked.setdefault("sticky_s", DEFAULT_STICKY_S)
    elif "sticky_s" in asked:
        raise ConfigError(
            "this is how long an address is kept for its pod, and ipam.sticky is missing",
            field="ipam.stickyTTL",
            value=asked["sticky_s"],
            hint='"sticky": "pod"',
        )
    try:
        return Policy(**asked)
    except ConfigError as error:
        error.field = f"ipam.{error.field}"
        raise


def usable(ipam: dict[str, Any]) -> Policy:
    """What DEL and GC take: of each key that cannot be read, the default."""
    asked: dict[str, Any] = {}
    for key in KEYS:
        if key.casefold() in ipam:
            one: dict[str, Any] = {}
            try:
                _read_key(key, ipam[key.casefold()], one)
                Policy(**one)
            except ConfigError:
                continue
            asked |= one
    return Policy(**asked)


def _read_key(key: str, value: Any, asked: dict[str, Any]) -> None:
    field = f"ipam.{key}"
    if key in _CHOICES:
        if not isinstance(value, str):
            raise wrong(field, value, "a text")
        if value not in _CHOICES[key]:
            allowed = ", ".join(_CHOICES[key])
            raise ConfigError(f"{value!r} is none of {allowed}", field=field, value=value)
        if key == "cooldownPolicy":
            asked["cooldown_policy"] = value
        return
    whole = key in _WHOLE
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise wrong(field, value, "an integer" if whole else "a number of seconds")
    asked[_NUMBERS[key]] = value
