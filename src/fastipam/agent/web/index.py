"""Fill the agent's page with its numbers as tables: what is seen without JavaScript."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from html import escape
from string import Template
from typing import TYPE_CHECKING, Any

from fastipam.allocation.states import STATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_ENTRY = "app.js"


class Index:
    """The template page/index.html; ``scripts`` are the JavaScript modules of the page."""

    def __init__(self, text: str, scripts: Iterable[str]) -> None:
        self._template = Template(text)
        # Listed: otherwise a browser loads each module only after the one that imports it.
        self._modules = "\n".join(
            f'<link rel="modulepreload" href="/page/{name}">'
            for name in sorted(scripts)
            if name != _ENTRY
        )

    def fill(self, numbers: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
        """Return the page with what /api/status says and the last events of all networks."""
        agent = numbers["agent"]
        codes = ((str(code), f"{count:,}") for code, count in numbers["codes"].items())
        no_network = "No network yet: the first request names one."
        return self._template.substitute(
            host=escape(agent["host"]),
            version=escape(agent["version"]),
            modules=self._modules,
            networks=_rows(_range_sets(numbers["networks"]), 10, no_network),
            codes=_rows(codes, 2),
            refusals=_rows(map(_refusal, numbers["refusals"]), 4),
            events=_rows(map(_event, events), 6),
            moment=_moment(time.time()),
            private="names are withheld" if agent["private"] else "",
        )


def _rows(rows: Iterable[Iterable[str]], columns: int, nothing: str = "none") -> str:
    """Return the rows of a table, their cells escaped, or one row with ``nothing``."""
    lines = (f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return "\n".join(lines) or f'<tr><td colspan="{columns}">{nothing}</td></tr>'


def _range_sets(networks: Iterable[Mapping[str, Any]]) -> Iterator[Iterator[str]]:
    for network in networks:
        for each in network["range_sets"]:
            yield _range_set(network["network"], each)


def _range_set(network: str, each: Mapping[str, Any]) -> Iterator[str]:
    left, run, percent = each["exhaustion_s"], each["longest_free_run"], each["used_percent"]
    yield network
    yield each["ranges"]
    for key in ("size", *STATES):
        yield f"{each[key]:,}"
    yield "" if percent is None else _percent(percent)
    yield "full" if each["full"] else "not in sight" if left is None else _duration(left)
    yield "" if run is None else f"{run:,}"


def _percent(percent: float) -> str:
    return f"{percent:.1f} %" if percent >= 0.1 or not percent else "< 0.1 %"


def _event(event: Mapping[str, Any]) -> Iterator[str]:
    yield _moment(event["at"])
    for key in ("kind", "network", "address", "pod", "container"):
        yield event[key]


def _refusal(refusal: Mapping[str, Any]) -> Iterator[str]:
    yield _moment(refusal["at"])
    for key in ("verb", "code", "message"):
        yield str(refusal[key])


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _duration(seconds: float) -> str:
    """Return a duration for people: "42 s", "3 min", "5.0 h", "12 d"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} d"
