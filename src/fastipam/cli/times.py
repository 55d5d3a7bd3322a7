"""Parse and format times.

An operator types ``14:05`` (the most recent 14:05), ``14:05:30``, ``2026-11-24``,
``2026-11-24 14:05``, also with ``T`` and with ``Z`` or ``+01:00``; or how long ago: ``90s``,
``10m``, ``2h``, ``3d``. A time without a zone is in the machine's zone (``TZ``). Tables show times
in that zone, JSON in UTC.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import click

_AGO = re.compile(r"(\d{1,9})\s*([smhdw])(?:\s*ago)?")
_SPAN = re.compile(r"(\d{1,9})\s*([smhdw]?)")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_MINUTE = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(Z|[+-]\d{2}:?\d{2})?")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DAY_S = 86_400
_OLD_S = 100 * _DAY_S  # an age of this or more is shown in days, without hours


class Moment(NamedTuple):
    """The interval that a typed time stands for: from ``start_ns`` to before ``end_ns``.

    Both are nanoseconds of the wall clock. ``14:05`` is the whole minute, a date the whole day.
    """

    start_ns: int
    end_ns: int


def parse(text: str, now_s: float | None = None) -> Moment:
    """Return the moment that a text stands for. Raises ValueError."""
    now_s = time.time() if now_s is None else now_s
    text = text.strip()
    ago = _AGO.fullmatch(text)
    if text == "now" or ago:
        seconds = int(ago[1]) * _UNITS_S[ago[2]] if ago else 0
        start = int(now_s) - seconds
        return Moment(start * 10**9, (start + 1) * 10**9)
    clock = _CLOCK.fullmatch(text)
    if clock:
        hour, minute, second = int(clock[1]), int(clock[2]), int(clock[3] or 0)
        today = datetime.fromtimestamp(now_s).astimezone()
        moment = today.replace(hour=hour, minute=minute, second=second, microsecond=0)
        if moment.timestamp() > now_s:  # a time of day is never in the future
            moment = (moment.replace(tzinfo=None) - timedelta(days=1)).astimezone()
        return _moment(moment, 1 if clock[3] else 60)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.astimezone()
    if _DATE.fullmatch(text):
        return _moment(moment, _DAY_S)
    return _moment(moment, 60 if _MINUTE.fullmatch(text) else 1)


def _moment(moment: datetime, seconds: int) -> Moment:
    start = int(moment.timestamp())
    return Moment(start * 10**9, (start + seconds) * 10**9)


class MomentType(click.ParamType[Moment]):
    """The type of an option with a time."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a Moment. Raises click's usage error."""
        if isinstance(value, Moment):
            return value
        try:
            return parse(value)
        except (ValueError, OverflowError):
            usable = "14:05, 2026-11-24 14:05 or 2h (two hours ago)"
            self.fail(f"{value!r} is not a time; use {usable}", param, ctx)


MOMENT = MomentType()


class SpanType(click.ParamType[int]):
    """The type of an option with a duration. Its value is in nanoseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the duration in nanoseconds. Raises click's usage error."""
        found = _SPAN.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a duration; use 90s, 10m, 2h or 3d", param, ctx)
        return int(found[1]) * _UNITS_S[found[2] or "s"] * 10**9


SPAN = SpanType()


def stamp(wall_ns: int, *, local: bool = False) -> str:
    """Return a time as ISO 8601 with seconds, or "" for 0, which is an unknown time."""
    if not wall_ns:
        return ""
    moment = datetime.fromtimestamp(wall_ns // 10**9, UTC)
    if local:
        moment = moment.astimezone()
    text = moment.isoformat(timespec="seconds")
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


class Stamps:
    """Formats many times like :func:`stamp`, and caches one: rows often have the same second."""

    def __init__(self, *, local: bool) -> None:
        self._local = local
        self._last = (-1, "")

    def __call__(self, wall_ns: int) -> str:
        second = wall_ns // 10**9
        if self._last[0] != second:
            self._last = second, stamp(wall_ns, local=self._local)
        return self._last[1]


class Ages:
    """Formats times as ages, for tables: ``47s``, ``5m12s``, ``3h12m``, ``4d7h``, ``400d``."""

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns

    def __call__(self, wall_ns: int) -> str:
        """Return the age of a time, or "" for 0, which is an unknown time."""
        if not wall_ns:
            return ""
        seconds = (self._now_ns - wall_ns) / 10**9
        if seconds >= _OLD_S:
            return f"{seconds // _DAY_S:.0f}d"
        return duration(seconds).replace(" ", "")


def duration(seconds: float) -> str:
    """Return a duration in two units: ``3d 4h``, ``5m 12s``."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
