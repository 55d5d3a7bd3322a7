"""Controllers of a test, on a clock that the test moves."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

from fastipam.cluster.controller.controller import Controller
from fastipam.cluster.registries.kubernetes.access import Access, parse_server
from fastipam.cluster.registries.kubernetes.client import Client

from .rest import POOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .conftest import Api

RECLAIM_AFTER_S = 600.0
EVENTS = "/api/v1/namespaces/default/events"


class Crash(BaseException):
    """The process is killed."""


class Leader:
    """A controller that leads; ``move`` lets time go by, ``turn`` has it look at the API anew."""

    made: ClassVar[list[Leader]] = []  # to be closed at the end of a test

    def __init__(
        self,
        api: Api,
        step: Callable[[str], None] = lambda _: None,
        *,
        reclaim_after_s: float = RECLAIM_AFTER_S,
        pools: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.client = client(api)
        self.made.append(self)
        self.seconds = 1000.0
        self.wall_s = 1.8e9
        self.steps: list[str] = []
        self._step = step
        self.controller = Controller(
            self.client,
            reclaim_after_s=reclaim_after_s,
            pools=pools,
            clock=lambda: self.seconds,
            now=lambda: self.wall_s,
            step=self._note,
        )

    def _note(self, name: str) -> None:
        self.steps.append(name)
        self._step(name)

    def move(self, seconds: float) -> None:
        """Let time go by."""
        self.seconds += seconds
        self.wall_s += seconds

    def turn(self, seconds: float = 0.0) -> list[str]:
        """Let time go by, read what has changed, do a turn; return its steps."""
        self.move(seconds)
        del self.steps[:]
        self.controller.view.load()
        self.controller.turn()
        return list(self.steps)

    def settle(self, seconds: float = 1.0, most: int = 20) -> None:
        """Do turns until one changes nothing."""
        for _ in range(most):
            if not set(self.turn(seconds)) - {"listed"}:
                return
        raise AssertionError(f"it does not settle: {self.steps}")


def close_all() -> None:
    """Close all that a test has made."""
    while Leader.made:
        Leader.made.pop().client.close()


def client(api: Api) -> Client:
    """A client with the controller's rights."""
    server = parse_server(f"https://127.0.0.1:{api.admin.port}")
    return Client(Access([server], ca=str(api.ca), token=api.token("fastipam-controller")))


def condition(api: Api, name: str, kind: str = "Accepted") -> tuple[str, str, str]:
    """A pool's condition: status, reason, message."""
    found = api.admin.get(f"{POOLS}/{name}").done()
    for one in found.get("status", {}).get("conditions", ()):
        if one["type"] == kind:
            return one["status"], one["reason"], one["message"]
    return "", "", ""


def in_force(api: Api) -> dict[str, str]:
    """The CIDR of each pool that is in force."""
    found = api.admin.get(POOLS).done()["items"]
    return {
        one["metadata"]["name"]: one["status"]["accepted"]["spec"]["cidr"]
        for one in found
        if one.get("status", {}).get("accepted")
    }


def events(api: Api, name: str) -> list[tuple[str, str]]:
    """The events about a pool, as (reason, message), oldest first."""
    uid = api.admin.get(f"{POOLS}/{name}").done()["metadata"]["uid"]
    found = [
        one
        for one in api.admin.get(EVENTS).done()["items"]
        if one["involvedObject"].get("uid") == uid
    ]
    found.sort(key=lambda one: one["metadata"]["name"])
    return [(one["reason"], one["message"]) for one in found]


class Paused:
    """A leader in a thread of its own, which waits before each of its steps is over."""

    def __init__(self, api: Api) -> None:
        self.leader = Leader(api, self._wait)
        self.done = False
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._free = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._go.acquire()
        self.leader.turn()
        self.done = True
        self._stopped.release()

    def _wait(self, _: str) -> None:
        if not self._free:
            self._stopped.release()
            self._go.acquire()

    def go(self, steps: int) -> None:
        """Let it do so many steps."""
        for _ in range(steps):
            if self.done:
                return
            self._go.release()
            assert self._stopped.acquire(timeout=60)

    def finish(self) -> None:
        """Let it come to the end of its turn."""
        if not self.done:
            self._free = True
            self._go.release()
        self._thread.join(60)
        assert self.done


def stored(body: dict[str, Any]) -> int:
    """The generation of an object."""
    return int(body["metadata"]["generation"])
