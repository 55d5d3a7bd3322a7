"""Answer the requests of the agent's page: numbers, picture, an address, the last events.

Every answer is read from the stores at the time of the request, in O(networks). The picture is
O(pages) and is drawn at most once a second for each network. While a store does not change, a
client that has its picture gets "not modified", which costs a read of the number of the store's
last transaction.

A private page contains no name of a pod, a container or a namespace, and no text of an error, since
that may contain such a name.
"""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from contextlib import contextmanager, suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

import fastipam
from fastipam.addressing.addresses import format_ip, parse_ip
from fastipam.agent.web import search
from fastipam.agent.web.index import Index
from fastipam.agent.web.refusals import grouped
from fastipam.agent.web.server import Asked, Response, Route, tag_of
from fastipam.allocation import counts, history, reservations, states
from fastipam.allocation.lookup import find, look_up, read_record
from fastipam.errors import ConfigError, FastipamError
from fastipam.storage import open_stores, tables
from fastipam.storage.records import keys
from fastipam.storage.records import policy as policies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from fastipam.agent.web.metrics import Kept
    from fastipam.agent.web.readings import Reading
    from fastipam.agent.web.samples import Watch
    from fastipam.cluster.keeper.keeper import Keeper
    from fastipam.configuration.cluster import Settings
    from fastipam.storage.records.event import Event
    from fastipam.storage.transaction import Snapshot

JSON = "application/json"
_KINDS = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_DRAW_AGAIN_S = 1.0
_EVENTS = 30
_CONTAINER = 24  # characters of a container id that are shown
_DIGITS = 6  # the number of a range set in a query has fewer digits
_BLOCKS = 256  # the most blocks of a network that are listed
_PICTURES = 8  # pictures that are kept in memory; each has a few megabytes at most


class _Drawn(NamedTuple):
    """The last picture drawn of a network. ``tag`` names the store and its transaction."""

    tag: str
    at: float
    body: bytes


class Page:
    """The routes of the page. A ``private`` page has no names of pods, containers, namespaces."""

    def __init__(
        self, watch: Watch, keepers: Callable[[], Sequence[Kept]] = tuple, *, private: bool
    ) -> None:
        self._watch = watch
        self._keepers = keepers
        self._private = private
        self._started = time.time()
        self._drawn: dict[tuple[str, str], _Drawn] = {}
        self._drawing = threading.Lock()
        folder = files("fastipam.agent.web") / "page"
        self._files = {
            one.name: Response(200, one.read_bytes(), kind, tag_of(one.read_bytes()))
            for one in folder.iterdir()
            if (kind := _KINDS.get(one.name[one.name.rfind(".") :]))
        }
        scripts = [name for name in self._files if name.endswith(".js")]
        self._index = Index((folder / "index.html").read_text("utf-8"), scripts)

    @property
    def routes(self) -> Mapping[str, Route]:
        """The route of each path."""
        return {
            "/": Route(self._page),
            "/api/status": Route(self._status),
            "/api/series": Route(self._series),
            "/api/picture": Route(self._picture),
            "/api/address": Route(self._address),
            "/api/events": Route(self._events),
            "/api/search": Route(self._search),
            **{f"/page/{name}": Route(_always(file)) for name, file in self._files.items()},
        }

    # Numbers --------------------------------------------------------------------------------

    def _numbers(self) -> dict[str, Any]:
        watch = self._watch
        return {
            "agent": {
                "version": fastipam.__version__,
                "host": socket.gethostname(),
                "started": self._started,
                "private": self._private,
                "requests": watch.requests,
            },
            "networks": [self._network(reading) for reading in watch.sample()],
            "codes": {str(code): count for code, count in sorted(watch.codes.items())},
            "refusals": grouped(watch.refusals, private=self._private),
            "health": watch.pulse.report(private=self._private),
            "clusters": [self._cluster(*one) for one in self._keepers()],
        }

    def _cluster(self, data_dir: str, network: str, keeper: Keeper) -> dict[str, Any]:
        status = keeper.status
        return {
            "data_dir": data_dir,
            "network": network,
            "node": keeper.settings.node,
            "pools": _pools(keeper.settings),
            "connected": status.connected,
            "reason": "" if self._private else status.reason,
            "refused": status.refused,
            "blocks": status.states,
        }

    def _network(self, reading: Reading) -> dict[str, Any]:
        runs = self._watch.longest_runs(reading)
        return {
            "data_dir": reading.data_dir,
            "network": reading.network,
            "pool": reading.pool,
            "change": reading.change,
            **reading.counts,
            "outside": reading.outside,
            "used_percent": counts.fullest_percent(one.used_percent for one in reading.sets),
            "assignments": reading.assignments,
            "oldest_cooling_s": reading.oldest_cooling_s,
            "exhaustion_s": _finite(self._watch.soonest_s(reading)),
            "range_sets": [
                {
                    "number": one.number,
                    "family": one.range_set.family,
                    "ranges": one.ranges_text,
                    **one.counts,
                    "used_percent": one.used_percent,
                    "full": one.full,
                    "excluded": one.excluded,
                    "longest_free_run": runs.get(str(one.range_set)),
                    "exhaustion_s": _finite(self._watch.exhaustion_s(reading.key, one.number)),
                }
                for one in reading.sets
            ],
            "blocks": [
                {
                    "first": format_ip(one.family, one.first),
                    "last": format_ip(one.family, one.last),
                    "state": one.state,
                }
                for one in reading.blocks[:_BLOCKS]
            ],
        }

    def _status(self, _: Asked) -> Response:
        body = json.dumps(self._numbers()).encode()
        return Response(200, body, JSON, tag_of(body))

    def _series(self, asked: Asked) -> Response:
        key = _field(asked, "data_dir"), _field(asked, "network")
        text = asked.query.get("range_set", "0")
        if not (text.isascii() and text.isdecimal() and len(text) < _DIGITS):
            raise ConfigError(
                f"{text!r} is not the number of a range set", field="range_set", value=text
            )
        samples = self._watch.series(key, int(text))
        body = json.dumps([list(one) for one in samples]).encode()
        return Response(200, body, JSON, tag_of(body))

    def _page(self, _: Asked) -> Response:
        """Return the page, with the numbers in tables for browsers without JavaScript."""
        numbers = self._numbers()
        text = self._index.fill(numbers, self._recent(numbers["networks"]))
        return Response(200, text.encode(), "text/html; charset=utf-8")

    # The picture ----------------------------------------------------------------------------

    def _picture(self, asked: Asked) -> Response:
        """Return a picture: 4 bytes with the length of a JSON header, the header, the cells."""
        data_dir, network = _field(asked, "data_dir"), _field(asked, "network")
        key = data_dir, network
        with _snapshot(data_dir) as txn:
            tag = "-".join(map(str, (*txn.store.identity, txn.number)))
        with self._drawing:
            drawn = self._drawn.get(key)
            now = time.monotonic()
            if drawn is None or (drawn.tag != tag and now - drawn.at >= _DRAW_AGAIN_S):
                drawn = self._drawn[key] = self._draw(data_dir, network)
                while len(self._drawn) > _PICTURES:
                    del self._drawn[min(self._drawn, key=lambda one: self._drawn[one].at)]
        return Response(
            200, drawn.body, "application/octet-stream", tag_of(f"{key}{drawn.tag}".encode())
        )

    def _draw(self, data_dir: str, network: str) -> _Drawn:
        from fastipam.picture import cells, colours

        with _snapshot(data_dir) as txn:
            picture = cells.read(txn, network)
            identity = txn.store.identity
        if picture is None:
            raise _unknown("network", network)
        header = {
            "network": network,
            "change": picture.change,
            "moment": picture.moment_ns / 1e9,
            "left_out": picture.left_out,
            "states": cells.STATES,
            "palette": [list(map(int, colour)) for colour in colours.palette()],
            "palette_light": [list(map(int, one)) for one in colours.palette(light=True)],
            "panels": [
                {
                    "cidr": panel.frame.cidr,
                    "subnet": panel.frame.subnet,
                    "family": panel.frame.family,
                    "first": str(panel.frame.first),
                    "bits": panel.frame.bits,
                    "shift": panel.frame.shift,
                }
                for panel in picture.panels
            ],
        }
        text = json.dumps(header).encode()
        cells_of_all = b"".join(panel.cells.tobytes() for panel in picture.panels)
        tag = "-".join(map(str, (*identity, picture.change)))
        return _Drawn(tag, time.monotonic(), len(text).to_bytes(4, "big") + text + cells_of_all)

    # One address ----------------------------------------------------------------------------

    def _address(self, asked: Asked) -> Response:
        """Return the state of an address, its pod, and since when the pod has it."""
        data_dir, network = _field(asked, "data_dir"), _field(asked, "network")
        text = _field(asked, "address")
        try:
            family, value = parse_ip(text)
        except ValueError as error:
            raise ConfigError(str(error), field="address", value=text) from None
        with _snapshot(data_dir) as txn:
            found = look_up(txn, network)
            if found is None:
                raise _unknown("network", network)
            _, pool_id, pool = found
            record = read_record(txn, pool_id, family, value)
            reservation = reservations.get(txn, pool_id, family, value)
            now_ns = txn.store.clock()
            offset = txn.pool_state(pool_id).offset
            policy = policies.read(tables.META.get(txn, keys.policy_key(found[0])))
        state = states.of_address(pool, (family, value), record, reservation)
        answer: dict[str, Any] = {
            "address": format_ip(family, value),
            "state": state or "never assigned",
        }
        if record is not None:
            answer |= {
                "since": record.allocated_ns / 1e9,
                "age_s": max(0, now_ns - record.allocated_ns) / 1e9,
            }
            if state == states.COOLING:
                free_ns = record.released - offset + policy.cooldown_ns - now_ns
                answer |= {"free_in_s": max(0, free_ns) / 1e9, "strict": policy.strict}
            if not self._private:
                answer |= {
                    "pod_namespace": record.pod_namespace,
                    "pod_name": record.pod_name,
                    "container_id": record.container_id,
                    "ifname": record.ifname,
                }
        elif reservation is not None and not self._private:
            answer |= {"owner": reservation.owner, "reason": reservation.reason}
        return _json(answer)

    # Search ---------------------------------------------------------------------------------

    def _search(self, asked: Asked) -> Response:
        """Return the owner of an address, or the addresses of a pod or container."""
        query = _field(asked, "q")
        if self._private:
            raise ConfigError(
                "names are withheld, because the agent runs with --http-private",
                field="q",
                value=query,
            )
        return _json(search.find(query))

    # Events ---------------------------------------------------------------------------------

    def _events(self, asked: Asked) -> Response:
        """Return the last events of a network, newest first."""
        data_dir, network = _field(asked, "data_dir"), _field(asked, "network")
        return _json(self._last_events(data_dir, network, _EVENTS))

    def _recent(self, networks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the last events of all networks, newest first.

        With many networks each one contributes only a few events.
        """
        each = max(2, _EVENTS // max(1, len(networks)))
        found: list[dict[str, Any]] = []
        for one in networks[:_EVENTS]:
            with suppress(FastipamError):
                found += self._last_events(one["data_dir"], one["network"], each)
        return sorted(found, key=lambda event: -float(event["at"]))[:_EVENTS]

    def _last_events(self, data_dir: str, network: str, most: int) -> list[dict[str, Any]]:
        with _snapshot(data_dir) as txn:
            found = find(txn, keys.encode("network", network))
            if found is None:
                raise _unknown("network", network)
            events = list(history.last(txn, found[0], most))
        return [
            {
                "at": event.wall_ns / 1e9,
                "kind": event.kind,
                "network": network,
                "address": event.address,
                "pod": "" if self._private else _pod(event),
                "container": "" if self._private else event.container_id[:_CONTAINER],
            }
            for event in events
        ]


def _pools(settings: Settings) -> list[dict[str, Any]]:
    """Return the pools that a node's blocks come from. Pools have no names with etcd."""
    if settings.pools:
        return [
            {"name": one.name, "cidr": one.cidr, "block_length": one.block_length}
            for one in settings.pools
        ]
    pairs = (one.rpartition("=") for one in settings.text.split())
    return [{"name": "", "cidr": cidr, "block_length": int(length)} for cidr, _, length in pairs]


def _finite(seconds: float) -> float | None:
    return None if math.isinf(seconds) else seconds


def _always(response: Response) -> Callable[[Asked], Response]:
    return lambda _: response


def _pod(event: Event) -> str:
    return "/".join(filter(None, (event.pod_namespace, event.pod_name)))


@contextmanager
def _snapshot(data_dir: str) -> Iterator[Snapshot]:
    """Yield a read transaction of an open store. Raises ConfigError when the store is not open."""
    store = next((one for one in open_stores.all_open() if one.path == data_dir), None)
    if store is None:
        raise _unknown("data_dir", data_dir)
    with store.read() as txn:
        yield txn


def _unknown(field: str, value: str) -> ConfigError:
    return ConfigError(f"{value!r} does not exist", field=field, value=value)


def _field(asked: Asked, name: str) -> str:
    try:
        return asked.query[name]
    except KeyError:
        raise ConfigError("is missing in the query", field=name, value=None) from None


def _json(document: Any) -> Response:
    body = json.dumps(document).encode()
    return Response(200, body, JSON, tag_of(body))
