"""Following a kind: the state, each change, and what is done after every way of a break."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
from tests.cluster.certificates import make_certificates
from tests.scripted import Line, Request, Scripted, events

from fastipam.cluster.engine import Compacted, EngineUnavailable
from fastipam.cluster.registries.kubernetes.access import Access, parse_server
from fastipam.cluster.registries.kubernetes.client import Behind, Client, Invalid, Kind, Refused
from fastipam.cluster.registries.kubernetes.watch import Follower

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCKS = Kind("/apis/fastipam.io/v1alpha1", "addressblocks")
Object = dict[str, Any]


def thing(name: str, version: int) -> Object:
    """An object."""
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


def added(name: str, version: int) -> tuple[str, Object]:
    """An event."""
    return "ADDED", thing(name, version)


def modified(name: str, version: int) -> tuple[str, Object]:
    """An event."""
    return "MODIFIED", thing(name, version)


def deleted(name: str, version: int) -> tuple[str, Object]:
    """An event."""
    return "DELETED", thing(name, version)


def mark(version: int, *, end: bool = False) -> tuple[str, Object]:
    """A bookmark, perhaps the one that ends the initial events."""
    metadata: Object = {"resourceVersion": str(version)}
    if end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    return "BOOKMARK", {"metadata": metadata}


class Played:
    """A watch with these events; an exception among them is raised, None is a pause."""

    def __init__(self, script: list[Any]) -> None:
        self._script = script
        self.is_over = False

    def wait(self, seconds: float) -> tuple[str, Object] | None:
        """The next event."""
        del seconds
        if not self._script:
            self.is_over = True
            return None
        one = self._script.pop(0)
        if isinstance(one, Exception):
            self.is_over = True
            raise one
        return cast("tuple[str, Object] | None", one() if callable(one) else one)

    def close(self) -> None:
        """Nothing to close."""
        self.is_over = True


class Api:
    """Stands for the client: answers lists and watches from a script, and notes what was asked."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.asked: list[tuple[Any, ...]] = []
        self.surprise = ""

    def chance(self) -> float:
        """Not by chance."""
        return 0.5

    def _next(self, what: str) -> Any:
        expected, answer = self.script.pop(0) if self.script else ("nothing", None)
        if expected != what:
            self.surprise = f"{what} instead of {expected}"
            raise AssertionError(self.surprise)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def list(self, kind: Kind, selector: str, **asked: Any) -> tuple[Iterator[Object], str]:
        """A list: (names with versions, version)."""
        assert (kind, selector) == (BLOCKS, "")
        self.asked.append(("list", asked["at_least"], asked["from_cache"]))
        found, version = self._next("list")
        return iter([thing(*each) for each in found]), str(version)

    def watch(self, kind: Kind, version: str, selector: str, **asked: Any) -> Played:
        """A watch: its events."""
        assert (kind, selector) == (BLOCKS, "")
        self.asked.append(("watch", version, asked["initial"]))
        return Played(list(self._next("watch")))


class Told:
    """What a follower has told."""

    def __init__(self, api: Api, **options: Any) -> None:
        self.api = api
        self.events: list[Any] = []
        self.errors: list[Exception] = []
        self.pauses: list[float] = []
        self.follower = Follower(
            cast("Client", api),
            BLOCKS,
            options.pop("on_event", self.event),
            on_synced=options.pop("on_synced", lambda: self.events.append("synced")),
            on_error=options.pop("on_error", self.errors.append),
            sleep=self.pauses.append,
            **options,
        )

    def anew(self) -> None:
        """What another thread calls."""
        self.follower.begin_anew()

    def event(self, kind: str, found: Object) -> None:
        """Remember an event."""
        self.events.append((kind, found["metadata"]["name"]))


def follow(*script: Any, **options: Any) -> Told:
    """Follow a script to its end; the last watch ends the run by ``stop``."""
    over: list[bool] = []

    def stop() -> None:
        over.append(True)

    kind, last = script[-1]
    api = Api(*script[:-1], (kind, [*last, stop]))
    told = Told(api, **options)
    told.follower.run(lambda: bool(over or api.surprise))
    assert not api.surprise
    assert not api.script
    return told


def test_state_as_events() -> None:
    """The state comes as events of the watch, which then goes on with the changes."""
    told = follow(
        ("watch", [added("a", 3), added("b", 2), None, mark(5, end=True), modified("a", 6),
                   mark(8), deleted("b", 9), added("c", 10)]),
    )  # fmt: skip
    assert told.events == [
        ("ADDED", "a"), ("ADDED", "b"), "synced",
        ("MODIFIED", "a"), ("DELETED", "b"), ("ADDED", "c"),
    ]  # fmt: skip
    assert told.api.asked == [("watch", "", True)]
    assert told.follower.version == "10"
    assert not told.errors


@pytest.mark.parametrize(
    "refusal", [Invalid("sendInitialEvents is forbidden"), [Refused("feature is disabled")]]
)
def test_server_without_initial_events(refusal: Any) -> None:
    """Such a server refuses the watch: then a list from its cache, and a watch from there."""
    told = follow(
        ("watch", refusal),
        ("list", ([("a", 3), ("b", 2)], 5)),
        ("watch", [modified("a", 6)]),
    )
    assert told.events == [("ADDED", "a"), ("ADDED", "b"), "synced", ("MODIFIED", "a")]
    assert told.api.asked == [("watch", "", True), ("list", "", True), ("watch", "5", False)]
    assert not told.errors
    assert not told.pauses


def test_resumes_where_it_was() -> None:
    """After a break, or an ordinary end, it goes on from the last version."""
    told = follow(
        ("watch", [added("a", 3), mark(5, end=True), mark(7)]),
        ("watch", [modified("a", 8), EngineUnavailable("a watch broke")]),
        ("watch", [modified("a", 8), modified("a", 9)]),
    )
    assert told.events == [("ADDED", "a"), "synced", ("MODIFIED", "a"), ("MODIFIED", "a")]
    assert [one[1:] for one in told.api.asked] == [("", True), ("7", False), ("8", False)]
    assert [str(one) for one in told.errors] == ["a watch broke"]


def test_history_is_gone() -> None:
    """After 410 it waits a part of the spread, and reads the state from the cache, not older."""
    told = follow(
        ("watch", [added("a", 3), added("b", 4), added("c", 4), mark(5, end=True),
                   Compacted("too old")]),
        ("watch", [added("a", 3), added("b", 8), added("d", 7), mark(9, end=True)]),
        spread_s=60.0,
    )  # fmt: skip
    assert told.events[4:] == [("MODIFIED", "b"), ("ADDED", "d"), ("DELETED", "c"), "synced"]
    assert told.api.asked[1:] == [("watch", "5", True)]
    assert sum(told.pauses) == 30.0
    assert [type(one) for one in told.errors] == [Compacted]


def test_history_is_gone_for_a_list() -> None:
    """The same on a server without initial events: a list with NotOlderThan."""
    told = follow(
        ("watch", Invalid("no")),
        ("list", ([("a", 3), ("b", 4)], 5)),
        ("watch", [Compacted("too old")]),
        ("list", ([("b", 4)], 9)),
        ("watch", []),
    )
    assert told.events == [("ADDED", "a"), ("ADDED", "b"), "synced", ("DELETED", "a"), "synced"]
    assert ("list", "5", False) in told.api.asked
    assert told.follower.version == "9"


def test_backs_off() -> None:
    """Failures in a row are reported, each, and the pauses double up to a bound."""
    told = follow(
        ("watch", EngineUnavailable("no 0")),
        *[("list", EngineUnavailable(f"no {at}")) for at in range(1, 9)],
        ("list", ([("a", 1)], 2)),
        ("watch", []),
    )
    assert [str(one) for one in told.errors] == [f"no {at}" for at in range(9)]
    assert sum(told.pauses) == 0.75 * (0.5 + 1 + 2 + 4 + 8 + 16 + 30 + 30 + 30)
    assert max(told.pauses) <= 0.5, "it looks twice a second whether it is over"


def test_a_server_that_is_started_again() -> None:
    """Its history does not go back, and it takes a while: the state comes as events, not listed."""
    told = follow(
        ("watch", [added("a", 3), mark(5, end=True), Compacted("too old")]),
        ("watch", EngineUnavailable("refused")),
        ("watch", EngineUnavailable("refused")),
        ("watch", [added("a", 3), added("b", 7), mark(9, end=True)]),
    )
    assert told.events == [("ADDED", "a"), "synced", ("ADDED", "b"), "synced"]


def test_initial_events_that_are_cut_off() -> None:
    """A watch that ends before the state is whole: the next attempt lists; nothing is deleted."""
    told = follow(
        ("watch", [added("a", 3)]),
        ("list", ([("a", 3), ("b", 4)], 5)),
        ("watch", []),
    )
    assert told.events == [("ADDED", "a"), ("ADDED", "b"), "synced"]
    assert "cut off" in str(told.errors[0])


def test_initial_events_that_do_not_come() -> None:
    """A server that knows no initial events, and does not say so, is given up after a while."""
    quiet = [None] * 61  # of half a second
    told = follow(
        ("watch", [*quiet[1:], added("a", 3), *quiet]), ("list", ([("a", 3)], 5)), ("watch", [])
    )
    assert "did not come" in str(told.errors[0])
    assert told.events == [("ADDED", "a"), "synced"]


def test_restored_from_a_copy() -> None:
    """When the servers never come to the version that was seen, the state is read as it is."""
    told = follow(
        ("watch", [added("a", 90), added("b", 91), mark(95, end=True), Compacted("too old")]),
        ("watch", [Behind("too large")]),
        *[("list", Behind("too large"))] * 2,
        ("list", ([("a", 3)], 5)),
        ("watch", []),
    )
    assert [one[1] for one in told.api.asked] == ["", "95", "95", "95", "", "5"]
    assert told.events[3:] == [("MODIFIED", "a"), ("DELETED", "b"), "synced"]
    assert told.follower.version == "5"


def test_version_that_is_refused() -> None:
    """A server that refuses the version itself is asked for the state."""
    told = follow(
        ("watch", [added("a", 3), mark(5, end=True)]),
        ("watch", Invalid("Invalid value: resourceVersion")),
        ("watch", [added("a", 3), mark(5, end=True)]),
    )
    assert [one[1:] for one in told.api.asked] == [("", True), ("5", False), ("", True)]


def test_begin_anew() -> None:
    """Another thread can have the whole state told again: the watch that is open is left."""
    api = Api(
        ("watch", [added("a", 3), mark(5, end=True)]),
        ("watch", [added("a", 3), mark(5, end=True), lambda: over.append(True)]),
    )
    over: list[bool] = []
    told = Told(api)
    api.script[0][1].append(told.anew)
    told.follower.run(lambda: bool(over))
    assert told.events == [("ADDED", "a"), "synced", ("MODIFIED", "a"), "synced"]


def test_callbacks_that_raise() -> None:
    """A callback's exception is reported, and ends nothing; its event is told again later."""
    seen: list[str] = []

    def event(kind: str, found: Object) -> None:
        seen.append(f"{kind} {found['metadata']['name']}")
        if len(seen) == 1:
            raise KeyError("a")

    def synced() -> None:
        raise OSError("synced")

    told = follow(
        ("watch", [added("a", 3), added("b", 4), mark(5, end=True), Compacted("too old")]),
        ("watch", [added("a", 3), added("b", 4), mark(9, end=True)]),
        on_event=event,
        on_synced=synced,
    )
    assert seen == ["ADDED a", "ADDED b", "MODIFIED a"]
    assert [type(one) for one in told.errors] == [KeyError, OSError, Compacted, OSError]

    def raising(error: Exception) -> None:
        raise error

    follow(("watch", EngineUnavailable("no")), ("list", ([], 5)), ("watch", []), on_error=raising)


def test_over_is_asked_while_it_waits() -> None:
    """It ends in the middle of a pause, and does not ask again."""
    api = Api(("watch", Compacted("too old")))
    told = Told(api, spread_s=1000.0)
    told.follower.run(lambda: len(told.pauses) >= 3)
    assert told.pauses == [0.5] * 3


def test_on_the_wire(tmp_path: Path) -> None:
    """With a real connection: state, change, break, resumption, and an end without delay."""
    files = make_certificates(tmp_path)
    seen: list[tuple[str, str]] = []
    whole = threading.Event()

    def breaks(line: Line, request: Request) -> None:
        del request
        line.send(events(added("a", 3), mark(5, end=True), added("b", 6), end=False))
        line.hang(0.2)

    def stays(line: Line, request: Request) -> None:
        del request
        line.send(events(deleted("a", 7), end=False))
        line.hang()

    with Scripted(files.server, breaks, stays) as server:
        client = Client(Access([parse_server(server.url)], ca=files.ca))
        errors: list[Exception] = []

        def event(kind: str, found: Object) -> None:
            seen.append((kind, found["metadata"]["name"]))
            if kind == "DELETED":
                whole.set()

        follower = Follower(client, BLOCKS, event, on_error=errors.append)
        over = threading.Event()
        thread = threading.Thread(target=follower.run, args=(over.is_set,))
        thread.start()
        with contextlib.closing(client):
            assert whole.wait(30)
            over.set()
        began = time.monotonic()
        thread.join(30)
        assert time.monotonic() - began < 20
        assert not thread.is_alive()
        assert seen == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a")]
        assert len(errors) == 1, "the break, and not the end"
        assert "resourceVersion=6" in server.requests[1].target
        assert follower.version == "7"
