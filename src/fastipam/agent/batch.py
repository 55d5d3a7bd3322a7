"""Handle a batch of requests in one commit, by the function that a directly run plugin calls.

Each store that a batch touches has one write transaction open while the batch is handled. One
commit, with one sync to disk, serves all requests, which are answered after it. A request that
fails changes nothing and does not affect the others. When a write fails (no room, a broken disk),
nothing of the batch is committed, and each request is handled again in a commit of its own.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from fastipam import cni
from fastipam._ledger import serve
from fastipam.agent import plain
from fastipam.agent.requests import LATER, Answer, Observer
from fastipam.cni.environment import GC, STATUS
from fastipam.cni.handler import refusal
from fastipam.cni.services import Services
from fastipam.configuration import reader
from fastipam.network import promise
from fastipam.storage import boot, boot_change, open_stores
from fastipam.storage.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.agent.clusters import Clusters
    from fastipam.agent.requests import Request
    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Promise

log = logging.getLogger("fastipam.agent")

# The mark of a request that is handled after the batch, outside its transaction: a GC, which
# commits many times, or a STATUS, which may have to try a commit.
_APART = Answer(-1, b"", b"")


class Executor:
    """Answers batches of requests, in one thread at a time.

    It also starts the keepers of the networks in the store ``data_dir``, or in all stores when
    ``data_dir`` is None.
    """

    def __init__(
        self,
        observer: Observer | None = None,
        clusters: Clusters | None = None,
        data_dir: str | None = None,
    ) -> None:
        self._observer = observer or Observer()
        self._is_watched = type(self._observer) is not Observer
        self._data_dir = data_dir
        self._clusters = clusters
        self._services = clusters if clusters is not None else Services()
        # The node is itself a container: only a call from a runtime's plugin shows its restart.
        self._awaits_plugin = ":" in boot.read_node()

    def __call__(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the answers in the order of the requests, after their changes are committed."""
        answers = self._answer(requests)
        self.start_keepers()
        return answers

    def start_keepers(self) -> None:
        """Start the keepers of the networks that requests have named."""
        if self._clusters is not None and self._clusters.pending:
            self._clusters.start_pending(self._data_dir)

    def _answer(self, requests: Sequence[Request]) -> list[Answer]:
        if self._awaits_plugin and any(boot_change.see_plugin(one.peer) for one in requests):
            self._awaits_plugin = False
            for store in open_stores.all_open():
                store.note_plugin()
        answers = self._commit(requests)
        if answers is None:
            answers = [self._handle(one) for one in requests]
        for at, answer in enumerate(answers):
            if answer is _APART:
                answers[at] = self._handle(requests[at])
        if self._is_watched or log.isEnabledFor(logging.DEBUG):
            done_ns = time.time_ns()
            for request, answer in zip(requests, answers, strict=True):
                if answer is not LATER and answer.confirm is None:
                    self._note(request, answer, done_ns, len(requests))
        return answers

    def _note(self, request: Request, answer: Answer, done_ns: int, size: int) -> None:
        """Report an answer of a batch of ``size`` requests to the observer and the log."""
        verb = request.command
        seconds = (done_ns - request.arrived_ns) / 1e9
        self._observer.request(verb, answer.status, answer.output, seconds, request)
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "verb=%s container=%s ifname=%s status=%d peer=%d ms=%.2f batch=%d",
                verb,
                request.variables.get("CNI_CONTAINERID", ""),
                request.variables.get("CNI_IFNAME", ""),
                answer.status,
                request.peer,
                seconds * 1e3,
                size,
            )

    def _confirm(self, request: Request, answer: Answer, promises: list[Promise]) -> Answer:
        """Return the answer if its promises hold; else undo its changes and return an error."""
        error = promise.settle(promises)
        if error is not None:
            log.warning(
                "container=%s ifname=%s not answered: %s",
                request.variables.get("CNI_CONTAINERID", ""),
                request.variables.get("CNI_IFNAME", ""),
                error.message,
            )
            answer = Answer(1, refusal(reader.decode(request.stdin), error), answer.messages)
        self._note(request, answer, time.time_ns(), 1)
        return answer

    def _commit(self, requests: Sequence[Request]) -> list[Answer] | None:
        """Handle the requests and commit; return None, with nothing changed, if a write fails."""
        answers: list[Answer] = []
        touched: list[set[Store]] = []
        aside = 0  # requests that this batch does not answer: LATER or _APART
        waited_ns = max(0, time.time_ns() - requests[0].arrived_ns)
        frames = [one.frame for one in requests]
        with Batch(time.monotonic_ns() - waited_ns) as batch:
            while len(answers) < len(requests):
                serve(frames, answers, touched, self._services.known, plain.enter, Answer)
                if len(answers) < len(requests) and not batch.failed:
                    answer = self._handle_in(batch, requests[len(answers)])
                    answers.append(answer)
                    touched.append(batch.touched)
                    aside += answer is LATER or answer is _APART
                if batch.failed:
                    return None
            begin = time.perf_counter()
            failed = batch.commit()
            if aside < len(answers):
                self._observer.batch(len(answers) - aside, time.perf_counter() - begin)
        if not failed:
            return answers
        for store, error in failed.items():
            log.warning("store=%s a batch could not be committed: %s", store.path, error)
        # A commit that failed has changed nothing: each request is handled again by itself.
        return [
            answer if failed.keys().isdisjoint(stores_of) else self._handle(request)
            for request, answer, stores_of in zip(requests, answers, touched, strict=True)
        ]

    def _handle_in(self, batch: Batch, request: Request) -> Answer:
        """Handle a request of a batch, unless it has to be handled apart."""
        batch.touched, batch.promises = set(), []
        command = request.command
        if command in (GC, STATUS):
            return _APART
        answer = self._handle(request)
        if not answer.status:
            plain.learn(self._services, request.stdin, command)
        if batch.promises:
            confirm = partial(self._confirm, request, answer, batch.promises)
            answer = Answer(answer.status, answer.output, answer.messages, confirm)
        return answer

    def _handle(self, request: Request) -> Answer:
        messages: list[str] = []
        clusters = self._clusters
        if clusters is not None:
            clusters.begin(request.arrived_ns)
        status, output = cni.handle(
            request.variables,
            request.stdin,
            log=messages.append,
            started_ns=request.arrived_ns,
            own_netns=f"/proc/{request.peer}/ns/net",
            seen_netns=request.seen_netns,
            services=self._services,
        )
        if clusters is not None and clusters.waiting:
            return LATER
        if not messages:
            return Answer(status, output, b"")
        text = "".join(f"fastipam: {message}\n" for message in messages)
        return Answer(status, output, text.encode("utf-8", "backslashreplace"))
