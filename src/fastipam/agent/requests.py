"""A request to the agent, its answer, and who is told of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Request(NamedTuple):
    """A complete request.

    ``peer`` is the client's process id. ``seen_netns`` is what the launcher says of the network
    namespaces (see fastipam.namespaces). ``frame`` are the request's bytes as they came, of which
    native code may serve a plain request; empty: it may not.
    """

    variables: dict[str, str]
    stdin: bytes
    peer: int
    arrived_ns: int
    seen_netns: str = ""
    frame: bytes = b""


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
