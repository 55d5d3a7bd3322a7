"""SIGINT, SIGTERM and SIGHUP: the first one unwinds the stack, and none disturbs what it begins."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_arrived: list[int] = []


def expect() -> None:
    """Raise KeyboardInterrupt for the first signal of this process from now on."""
    if threading.current_thread() is threading.main_thread() and not _arrived:
        for each in _SIGNALS:
            signal.signal(each, _interrupt)


def arrived() -> bool:
    """Whether a signal has arrived: nothing is worth waiting for any more."""
    return bool(_arrived)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _arrived.append(number)
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
