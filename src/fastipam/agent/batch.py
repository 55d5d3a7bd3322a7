"""A batch of requests in one commit: the same ``handle`` as the direct way, in one transaction.

Each store that a batch touches has one write transaction open while the batch is handled; every
request is a transaction nested in it, so a failing one leaves no trace and the others stand. One
commit, one sync to disk, pays for all; only then are there answers.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from fastipam import cni
from fastipam.agent.server import Answer
from fastipam.cni import stores
from fastipam.cni.request import GC, STATUS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.agent.server import Request

log = logging.getLogger("fastipam.agent")

_ALONE = (GC, STATUS)


class Observer:
    """Told of what happens; metrics override it."""

    def request(self, verb: str, status: int, output: bytes, seconds: float) -> None:
        """A request was answered, ``seconds`` after it had arrived."""

    def batch(self, size: int, commit_seconds: float) -> None:
        """A batch of ``size`` requests was committed."""


class Executor:
    """Turns batches of requests into answers."""

    def __init__(self, observer: Observer | None = None) -> None:
        self._observer = observer or Observer()

    def __call__(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers, in order; everything that they say is committed."""
        answers = self._together(requests)
        done_ns = time.time_ns()
        for request, answer in zip(requests, answers, strict=True):
            verb = request.variables.get("CNI_COMMAND", "")
            seconds = (done_ns - request.arrived_ns) / 1e9
            self._observer.request(verb, answer.status, answer.output, seconds)
            if log.isEnabledFor(logging.DEBUG):
                log.debug(
                    "verb=%s container=%s ifname=%s status=%d peer=%d ms=%.2f batch=%d",
                    verb,
                    request.variables.get("CNI_CONTAINERID", ""),
                    request.variables.get("CNI_IFNAME", ""),
                    answer.status,
                    request.peer,
                    seconds * 1e3,
                    len(requests),
                )
        return answers

    def _together(self, requests: Sequence[Request]) -> list[Answer]:
        # A GC commits many times over, a STATUS may have to try whether a commit succeeds: on their
        # own, not inside the batch, but behind it.
        grouped = [one for one in requests if one.variables.get("CNI_COMMAND") not in _ALONE]
        alone = {id(one) for one in requests} - {id(one) for one in grouped}
        answers = dict(zip(map(id, grouped), self._commit_once(grouped), strict=True))
        for request in requests:
            if id(request) in alone:
                answers[id(request)] = self._handle(request)
        return [answers[id(one)] for one in requests]

    def _commit_once(self, requests: Sequence[Request]) -> list[Answer]:
        if not requests:
            return []
        answers = []
        touched = []
        with stores.Batch() as batch:
            for request in requests:
                batch.touched = set()
                answers.append(self._handle(request))
                touched.append(batch.touched)
            begin = time.perf_counter()
            failed = batch.commit()
            self._observer.batch(len(requests), time.perf_counter() - begin)
        for store, error in failed.items():
            log.warning("store=%s a batch could not be committed: %s", store.path, error)
        # Where the commit failed nothing happened: each gets, alone, the answer that is its own.
        return [
            answer if failed.keys().isdisjoint(stores_of) else self._handle(request)
            for request, answer, stores_of in zip(requests, answers, touched, strict=True)
        ]

    @staticmethod
    def _handle(request: Request) -> Answer:
        messages: list[str] = []
        status, output = cni.handle(
            request.variables,
            request.stdin,
            log=messages.append,
            started_ns=request.arrived_ns,
            own_netns=f"/proc/{request.peer}/ns/net",
        )
        text = "".join(f"fastipam: {message}\n" for message in messages)
        return Answer(status, output, text.encode("utf-8", "backslashreplace"))
