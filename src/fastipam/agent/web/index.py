"""Write the numbers into the agent's page as tables, for browsers without JavaScript."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from html import escape
from string import Template
from typing import TYPE_CHECKING, Any

from fastipam.addressing.sizes import grouped
from fastipam.allocation.states import STATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_ENTRY = "app.js"
LOW_PERCENT = 90  # a range set used to this share is nearly full; page/alarm.js has it too
# The headings of the tables, the same as in page/index.html.
_SETS = (
    "Network", "Ranges", "Size", "Assigned", "Cooling", "Reserved", "Free", "Used", "Full in",
    "Longest free run",
)  # fmt: skip
_CLUSTERS = ("Network", "Node", "Pools", "Shared store", "Blocks", "Why")
_REFUSALS = ("Last", "Times", "Verb", "Code", "Network", "Pod", "Answer")
_EVENTS = ("Time", "Event", "Network", "Address", "Pod", "Container")


class Index:
    """The template page/index.html. ``scripts`` are the JavaScript modules of the page."""

    def __init__(self, text: str, scripts: Iterable[str]) -> None:
        self._template = Template(text)
        # List the modules: otherwise a browser loads each one only after the one that imports it.
        self._modules = "\n".join(
            f'<link rel="modulepreload" href="/page/{name}">'
            for name in sorted(scripts)
            if name != _ENTRY
        )

    def fill(self, numbers: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
        """Return the page with the content of /api/status and the last events of all networks."""
        agent = numbers["agent"]
        level, alarm = _alarm(numbers["networks"])
        codes = ", ".join(f"{count:,} with code {code}" for code, count in numbers["codes"].items())
        no_network = "No network yet: the first ADD creates one."
        sets = list(_range_sets(numbers["networks"]))
        return self._template.substitute(
            host=escape(agent["host"]),
            version=escape(agent["version"]),
            modules=self._modules,
            alarm=escape(alarm),
            alarm_level=level,
            alarm_title=escape(f"{alarm} · " * bool(alarm) + f"fastipam on {agent['host']}"),
            icon=f"icon-{level}.svg" if level else "icon.svg",
            networks=_rows((row for _, row in sets), _SETS, no_network, [one for one, _ in sets]),
            health="\n".join(map(_card, _health(agent, numbers["health"]))),
            clusters=_rows(map(_cluster, numbers["clusters"]), _CLUSTERS),
            clusters_hidden="" if numbers["clusters"] else "hidden",
            codes=f"Since the agent began: {codes}." if codes else "",
            refusals=_rows(map(_refusal, numbers["refusals"]), _REFUSALS),
            events=_rows(map(_event, events), _EVENTS),
            moment=_moment(time.time()),
            private="names are withheld" if agent["private"] else "",
        )


def _rows(
    rows: Iterable[Iterable[str]],
    headings: Sequence[str],
    nothing: str = "none",
    classes: Sequence[str] = (),
) -> str:
    """Return the rows of a table, their cells escaped, or one row with ``nothing``.

    Each cell carries its heading, for narrow screens. ``classes`` has the CSS class of each row.
    """
    lines = []
    for at, row in enumerate(rows):
        cells = "".join(
            f'<td data-label="{heading}">{escape(cell)}</td>'
            for heading, cell in zip(headings, row, strict=True)
        )
        kind = f' class="{classes[at]}"' if classes and classes[at] else ""
        lines.append(f"<tr{kind}>{cells}</tr>")
    return "\n".join(lines) or f'<tr><td colspan="{len(headings)}">{nothing}</td></tr>'


def _level(each: Mapping[str, Any]) -> str:
    """Return how urgent a range set is: "full", "low" (nearly full) or ""."""
    if each["full"]:
        return "full"
    return "low" if (each["used_percent"] or 0) >= LOW_PERCENT else ""


def _alarm(networks: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return the level of the fullest range set, and a text that names the urgent sets."""
    texts = []
    worst = ""
    for level, words in (("full", "full"), ("low", "nearly full")):
        named = [
            f"{one['network']} {each['ranges']}"
            for one in networks
            for each in one["range_sets"]
            if _level(each) == level
        ]
        if named:
            worst = worst or level
            texts.append(f"{words}: {', '.join(named)}")
    text = "; ".join(texts)
    return worst, text[:1].upper() + text[1:]


def _range_sets(
    networks: Iterable[Mapping[str, Any]],
) -> Iterator[tuple[str, Iterator[str]]]:
    """Yield (level, cells) of each range set."""
    for network in networks:
        for each in network["range_sets"]:
            yield _level(each), _range_set(network["network"], each)


def _range_set(network: str, each: Mapping[str, Any]) -> Iterator[str]:
    left, run, percent = each["exhaustion_s"], each["longest_free_run"], each["used_percent"]
    yield network
    yield each["ranges"]
    for key in ("size", *STATES):
        yield grouped(each[key])
    yield "" if percent is None else _percent(percent)
    yield "full" if each["full"] else "not expected" if left is None else _duration(left)
    yield "" if run is None else grouped(run)


def _health(agent: Mapping[str, Any], health: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (name, value, CSS class) for each number of the agent."""
    yield "Requests, last minute", f"{health['requests_per_s']:.3g} /s", ""
    yield "Requests in all", f"{agent['requests']:,}", ""
    for name, key in (
        ("Latency, median", "p50_s"),
        ("Latency, p99", "p99_s"),
        ("Commit, median", "commit_p50_s"),
        ("Commit, p99", "commit_p99_s"),
    ):
        seconds = health[key]
        yield name, "\N{EN DASH}" if seconds is None else f"{1e3 * seconds:.3g} ms", ""
    sweep, error = health["sweep"], health["error"]
    text = "has not run yet"
    if sweep is not None:
        text = (
            f"{_moment(sweep['at'])}: {sweep['looked']:,} checked, "
            f"{sweep['released']:,} released, {sweep['missing']:,} to be checked again, "
            f"{sweep['unknown']:,} skipped"
        )
    yield "Sweeper", text, "long"
    if error is not None:
        withheld = error["message"] or "its text is withheld"
        yield "Last error", f"{_moment(error['at'])}: {withheld}", "long"
    else:
        yield "Last error", "none", "long"


def _card(card: tuple[str, str, str]) -> str:
    name, value, kind = card
    return f'<div class="{kind}"><dt>{name}</dt><dd>{escape(value)}</dd></div>'


def _cluster(one: Mapping[str, Any]) -> Iterator[str]:
    yield one["network"]
    yield one["node"]
    yield ", ".join(map(_pool, one["pools"])) or "none yet"
    yield "reachable" if one["connected"] else "not reachable"
    yield ", ".join(f"{count} {state}" for state, count in one["blocks"].items() if count) or "none"
    yield one["reason"]


def _pool(one: Mapping[str, Any]) -> str:
    return f"{one['name']} {one['cidr']} in /{one['block_length']}".strip()


def _percent(percent: float) -> str:
    return f"{percent:.1f} %" if percent >= 0.1 or not percent else "< 0.1 %"


def _event(event: Mapping[str, Any]) -> Iterator[str]:
    yield _moment(event["at"])
    for key in ("kind", "network", "address", "pod", "container"):
        yield event[key]


def _refusal(refusal: Mapping[str, Any]) -> Iterator[str]:
    yield _moment(refusal["at"])
    for key in ("count", "verb", "code", "network", "pod"):
        yield str(refusal[key])
    yield "\n".join(filter(None, (refusal["message"], refusal["hint"])))


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
