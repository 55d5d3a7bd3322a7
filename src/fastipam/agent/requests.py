"""A request to the agent, its answer, and the observers that receive both."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from fastipam._ledger import Frame
from fastipam.agent import protocol
from fastipam.cni.main import age_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_STARTED = protocol.STARTED.encode()


class Request(Frame):
    """A complete request in its frame. Native code may serve it if it is a plain ADD or DEL.

    The variables are decoded at their first use. ``seen_netns`` is the launcher's report on the
    network namespaces (see fastipam.namespaces); ``arrived_ns`` is the time when the launcher
    started.
    """

    __slots__ = ("arrived_ns", "seen_netns", "variables")

    def __init__(
        self,
        variables: dict[str, str],
        stdin: bytes,
        peer: int,
        arrived_ns: int,
        seen_netns: str = "",
    ) -> None:
        frame = protocol.pack_request({**variables, protocol.NETNS: seen_netns}, stdin)
        super().__init__(frame, len(frame) - len(stdin), peer, arrived_ns)
        self.variables = variables
        self.arrived_ns = arrived_ns
        self.seen_netns = seen_netns

    def __getattr__(self, name: str) -> Any:
        # Python calls this for a slot that is still empty: fill it at its first use.
        if name == "arrived_ns":
            self.arrived_ns = self.accepted_ns
            started = self.text(_STARTED)
            if started:
                # The launcher started before its connection was accepted, and GC must spare the
                # leases that are younger than its start.
                self.arrived_ns = min(self.accepted_ns, time.time_ns() - age_ns(started))
        elif name in ("seen_netns", "variables"):
            variables = protocol.read_variables(self.frame[protocol.REQUEST.size : self.end])
            variables.pop(protocol.STARTED, "")
            self.seen_netns = variables.pop(protocol.NETNS, "")
            self.variables = variables
        else:
            raise AttributeError(name)
        return getattr(self, name)


class Answer(NamedTuple):
    """What the client prints, and the status with which it exits.

    ``confirm``, if set, is called just before the answer is written, and returns the answer to
    write instead: an error if this node does not own the addresses any more.
    """

    status: int
    output: bytes
    messages: bytes
    confirm: Callable[[], Answer] | None = None


# The answer to a request that waits for something outside this process and is handled again later.
LATER = Answer(-1, b"", b"")


class Observer:
    """A listener for requests and batches. Metrics and samples override its methods."""

    def request(
        self,
        verb: str,
        status: int,
        output: bytes,
        seconds: float,
        asked: Request | None = None,
    ) -> None:
        """Receive a request that was answered ``seconds`` after it had arrived."""

    def batch(self, size: int, commit_seconds: float) -> None:
        """Receive the commit of a batch of ``size`` requests."""

    def swept(self, data_dir: str, network: str, counts: Sequence[int]) -> None:
        """Receive the counts of a sweep: leases checked, released, missing and unknown."""


class Observers(Observer):
    """Passes everything on to several observers."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def request(
        self,
        verb: str,
        status: int,
        output: bytes,
        seconds: float,
        asked: Request | None = None,
    ) -> None:
        """Pass a request to each observer."""
        for one in self._observers:
            one.request(verb, status, output, seconds, asked)

    def batch(self, size: int, commit_seconds: float) -> None:
        """Pass a batch to each observer."""
        for one in self._observers:
            one.batch(size, commit_seconds)

    def swept(self, data_dir: str, network: str, counts: Sequence[int]) -> None:
        """Pass a sweep to each observer."""
        for one in self._observers:
            one.swept(data_dir, network, counts)
