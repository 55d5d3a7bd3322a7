"""A request to the agent, its answer, and who is told of both."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from fastipam.agent import protocol
from fastipam.cni.main import age_ns

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Request:
    """A complete request.

    ``peer`` is the client's process id. ``seen_netns`` is what the launcher says of the network
    namespaces (see fastipam.namespaces). ``frame`` are the request's bytes as they came, of which
    native code may serve a plain request; empty: it may not.
    """

    __slots__ = ("arrived_ns", "frame", "peer", "seen_netns", "stdin", "variables")

    def __init__(
        self,
        variables: dict[str, str],
        stdin: bytes,
        peer: int,
        arrived_ns: int,
        seen_netns: str = "",
    ) -> None:
        self.variables = variables
        self.stdin = stdin
        self.peer = peer
        self.arrived_ns = arrived_ns
        self.seen_netns = seen_netns
        self.frame = b""

    @property
    def command(self) -> str:
        """``CNI_COMMAND``, or empty."""
        return self.variables.get("CNI_COMMAND", "")


class Framed(Request):
    """A request in its frame, whose variables are decoded when one is first wanted.

    They end at ``end``. It was accepted, or began to arrive, at ``accepted_ns``.
    """

    __slots__ = ("_accepted_ns", "_end")

    def __init__(self, frame: bytes, end: int, peer: int, accepted_ns: int) -> None:
        self.frame = frame
        self.stdin = frame[end:]
        self.peer = peer
        self._end = end
        self._accepted_ns = accepted_ns

    @property
    def command(self) -> str:
        """``CNI_COMMAND``, or empty; O(1) variables are decoded."""
        return protocol.read_variable(self.frame, self._end, b"CNI_COMMAND")

    def __getattr__(self, name: str) -> Any:
        # A slot is empty until what it holds is wanted.
        if name == "arrived_ns":
            self.arrived_ns = self._accepted_ns
            started = protocol.read_variable(self.frame, self._end, protocol.STARTED.encode())
            if started:
                # The launcher began before it was accepted: GC spares leases younger than its
                # start.
                self.arrived_ns = min(self._accepted_ns, time.time_ns() - age_ns(started))
        elif name in ("seen_netns", "variables"):
            variables = protocol.read_variables(self.frame[protocol.REQUEST.size : self._end])
            variables.pop(protocol.STARTED, "")
            self.seen_netns = variables.pop(protocol.NETNS, "")
            self.variables = variables
        else:
            raise AttributeError(name)
        return getattr(self, name)


class Answer(NamedTuple):
    """What the client prints, and the status with which it exits.

    ``confirm``, if there is one, returns the answer to write in its place: it looks at the moment
    of writing whether the addresses are still this node's.
    """

    status: int
    output: bytes
    messages: bytes
    confirm: Callable[[], Answer] | None = None


# The answer of a request that waits for something outside this process: it is handled again later.
LATER = Answer(-1, b"", b"")


class Observer:
    """The listener to requests and batches. Metrics and samples override its methods."""

    def request(self, verb: str, status: int, output: bytes, seconds: float) -> None:
        """Note a request that was answered ``seconds`` after it had arrived."""

    def batch(self, size: int, commit_seconds: float) -> None:
        """Note that a batch of ``size`` requests was committed."""


class Observers(Observer):
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def request(self, verb: str, status: int, output: bytes, seconds: float) -> None:
        """Tell each observer of a request."""
        for one in self._observers:
            one.request(verb, status, output, seconds)

    def batch(self, size: int, commit_seconds: float) -> None:
        """Tell each observer of a batch."""
        for one in self._observers:
            one.batch(size, commit_seconds)
