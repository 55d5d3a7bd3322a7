"""Faults on command: which request, and what becomes of it."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .requests import Request

Deed = Literal[
    "answer",
    "answer_after",
    "lose_request",
    "lose_answer",
    "half_answer",
    "slow_body",
    "late_request",
    "late_answer",
    "silent",
    "mute",
    "hold",
    "twice",
    "expired",
]


@dataclass(eq=False)
class Fault:
    """One fault, for the requests that match it.

    ============  ================================================================================
    answer        ``code`` (429, 500, 503, 504, …) with ``retry_after_s``; nothing is done
    answer_after  done, then ``code``
    lose_request  not done, the connection is cut
    lose_answer   done, the connection is cut
    half_answer   done, half of the answer, the connection is cut; of a watch: half of its next line
    slow_body     done, the body comes in pieces for ``delay_s``
    late_request  done after ``delay_s``, then answered
    late_answer   done, answered after ``delay_s``
    silent        not done, never answered; the connection stays
    mute          done, never answered; the connection stays
    hold          the connection is cut; done after ``delay_s``, or (0) when ``deliver()`` is called
    twice         done and answered; done once more after ``delay_s``, or (0) by ``deliver()``
    expired       410 as the server says it: a list's status, a watch's ERROR event
    ============  ================================================================================

    ``method``: GET, LIST, WATCH, POST, PUT, PATCH, DELETE, or "" for all. ``resource``: plural,
    or ``plural/status``. ``name``: the object's. ``flag``: where a read comes from (``Counted``):
    ``continue`` is a next page. ``node``: the token's. ``port``: the server's index. The first
    ``nth - 1`` that match pass; then ``times`` are hit (0: all).
    """

    do: Deed
    method: str = ""
    resource: str = ""
    name: str = ""
    flag: str | None = None
    node: str = ""
    port: int | None = None
    nth: int = 1
    times: int = 1
    code: int = 500
    retry_after_s: int = 0
    delay_s: float = 0.0
    seen: int = 0
    hits: int = 0
    _hit: threading.Event = field(default_factory=threading.Event, repr=False)

    def wait(self, timeout_s: float = 30.0) -> bool:
        """Wait until a request was hit; False after ``timeout_s``."""
        return self._hit.wait(timeout_s)

    def takes(self, request: Request, node: str, port: int) -> bool:
        """Count a request that matches; whether it is hit."""
        if not (
            self.method in ("", request.verb)
            and self.resource in ("", request.resource)
            and self.flag in (None, request.flag)
            and self.node in ("", node)
            and self.port in (None, port)
            and self.name in ("", _name(request))
        ):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.times and self.hits >= self.times):
            return False
        self.hits += 1
        self._hit.set()
        return True

    def shown(self) -> dict[str, object]:
        """Return it as JSON."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "_hit"}


def _name(request: Request) -> str:
    """Return the object's name: of a new one it is in the body, of a watch in the selector."""
    if request.name:
        return request.name
    if request.verb == "POST":
        try:
            return str(json.loads(request.body)["metadata"]["name"])
        except (ValueError, KeyError, TypeError):
            return ""
    return request.query.get("fieldSelector", "").partition("metadata.name=")[2]
