"""Render the report as one self-contained HTML file: first the summary, then every figure."""

from __future__ import annotations

import re
from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING

from bench.workloads import report
from bench.workloads.traces import ADD, DEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bench.workloads.report import Rows
    from bench.workloads.suite import Suite

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1.25rem 4rem; color: #1c1c1c;
  background: #fff; font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin: .5rem 0; } h2 { margin: 2.5rem 0 .5rem; font-size: 1.3rem; }
h3 { margin: 1.5rem 0 .4rem; font-size: 1.05rem; }
.warning { border-left: .4rem solid #b45f06; background: #fff4e0; padding: .6rem .9rem;
  margin: .6rem 0; }
.lost { border-left: .4rem solid #3b6fb6; background: #eef4fc; padding: .6rem .9rem; }
.table { overflow-x: auto; border: 1px solid #ddd; border-radius: .3rem; }
.table:focus { outline: 2px solid #0b6e4f; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; overflow-wrap: normal;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid #eee; }
th { background: #f5f5f5; font-weight: 600; } tbody tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td:not(.text), td:first-child { white-space: nowrap; } td.text { min-width: 9rem; }
.chip { display: inline-block; width: .75em; height: .75em; border-radius: .15em;
  margin-right: .4em; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 1rem; margin: 1rem 0; }
.plots img { width: 100%; height: auto; max-width: 42rem; border: 1px solid #eee; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .9rem; }
dt { color: #595959; } dd { margin: 0; }
summary { cursor: pointer; font-weight: 600; margin: 1rem 0 .4rem; }
@media (max-width: 30rem) { body { padding: .75rem; } dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .4rem; } }
"""
_TITLES = {
    "leases-add": "ADD against the number of leases, one process a call",
    "leases-del": "DEL against the number of leases, one process a call",
    "leases-in-process": "ADD against the number of leases, in process",
    "at-once": "calls a second of a node's churn, with 1, 8 and 64 processes at once",
    "workloads": "ADD in every workload: p50, p99 and p99.9",
}
_WORDS = 14  # characters; a longer cell is a text, which may be wrapped


def render(suite: Suite, pictures: Mapping[str, str], colours: Mapping[str, str]) -> str:
    """Return the page. ``pictures`` has SVGs by name, ``colours`` the colours of contenders."""
    summary, detail = _summary(suite, pictures, colours), _detail(suite, pictures, colours)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>IPAM plugins: fastipam's benchmark suite</title>\n<style>{_STYLE}</style>\n"
        f"</head>\n<body>\n<main>\n{summary}\n{detail}\n</main>\n</body>\n</html>\n"
    )


def _summary(suite: Suite, pictures: Mapping[str, str], colours: Mapping[str, str]) -> str:
    facts = suite.facts
    said = ", ".join(facts[key] for key in ("machine", "date", "commit") if key in facts)
    parts = ["<h1>IPAM plugins, on the same work</h1>", f"<p>{escape(said)}</p>"]
    parts += [f'<p class="warning"><b>Warning.</b> {escape(one)}</p>' for one in suite.warnings]
    parts += [f'<p class="warning"><b>Failed.</b> {escape(one)}</p>' for one in report.wrong(suite)]
    parts.append(_table(report.overview(suite), colours))
    parts.append(f'<p class="lost"><b>Where fastipam loses.</b> {escape(report.lost(suite))}</p>')
    parts.append(_plots(pictures, ("leases-add", "at-once")))
    pairs, _ = report.losses(suite, whole=True)
    if pairs.rows:
        parts.append(_table(pairs, colours, level=3))
    return '<section id="summary">\n' + "\n".join(parts) + "\n</section>"


def _detail(suite: Suite, pictures: Mapping[str, str], colours: Mapping[str, str]) -> str:
    parts = ["<h2>The disk, the machine and the run</h2>", _facts(suite.facts)]
    parts.append(_table(_durability(suite), colours, level=3))
    parts += [
        _table(one, colours)
        for one in (report.kills(suite), report.reboots(suite), report.left_out(suite))
        if one.rows
    ]
    if suite.growth:
        parts.append("<h2>Against leases held</h2>")
        parts.append(_plots(pictures, ("leases-del", "leases-in-process")))
        tables = (report.growth(suite, v, whole=w) for w in (True, False) for v in (ADD, DEL))
        parts += [_table(one, colours, level=3) for one in tables if one.rows]
    if suite.works:
        parts += ["<h2>Workloads</h2>", _HOW, _plots(pictures, ("workloads",))]
        tables = (report.workload(suite, n, whole=w) for n in suite.works for w in (True, False))
        parts += [_table(one, colours, level=3) for one in tables if one.rows]
    for whole in (True, False):
        pairs, each = report.losses(suite, whole=whole)
        for one in (each,) if whole else (pairs, each):
            if one.rows:
                parts.append(_table(one, colours))
    return '<section id="detail">\n' + "\n".join(parts) + "\n</section>"


_HOW = (
    "<p>Processes are timed from the spawn to the end. Behind a median stands its interval of 95 % "
    "(order statistics). A dash: too few calls for that percentile (100 for p99, 1,000 for p99.9). "
    "“n of N”: the time was up after n calls; nothing is extrapolated.</p>"
)


def _durability(suite: Suite) -> Rows:
    rows: report.Cells = [(name, one["durability"]) for name, one in suite.entrants.items()]
    return report.Rows("What an answer promises", ("contender", "after the answer"), rows)


def _facts(facts: Mapping[str, str]) -> str:
    entries = (f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    return "<dl>" + "".join(entries) + "</dl>"


def _plots(pictures: Mapping[str, str], names: Iterable[str]) -> str:
    images = [
        f'<img alt="{escape(_TITLES[name])}" '
        f'src="data:image/svg+xml;base64,{b64encode(pictures[name].encode()).decode()}">'
        for name in names
        if name in pictures
    ]
    return f'<div class="plots">{"".join(images)}</div>' if images else ""


def _table(rows: Rows, colours: Mapping[str, str], level: int = 2) -> str:
    """Return a table, which scrolls when it is wider than the page."""
    texts = {
        at
        for at in range(1, len(rows.head))
        if any(
            row[at] in colours or (len(row[at]) > _WORDS and not row[at][0].isdigit())
            for row in rows.rows
        )
    }
    kinds = [' class="text"' if at in texts else "" for at in range(len(rows.head))]
    head = "".join(
        f'<th scope="col"{kind}>{escape(cell)}</th>'
        for kind, cell in zip(kinds, rows.head, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{kind}>{_chip(cell, colours)}{_cell(cell)}</td>"
            for kind, cell in zip(kinds, row, strict=True)
        )
        + "</tr>"
        for row in rows.rows
    )
    title = escape(rows.title)
    text = f"<p>{escape(rows.text)}</p>" if rows.text else ""
    return (
        f'<h{level}>{title}</h{level}>{text}<div class="table" tabindex="0" role="region" '
        f'aria-label="{title}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(cell: str) -> str:
    """Return a cell as HTML, with a number and its unit kept on one line."""
    return re.sub(r"(?<=\d) (?=(?:[mnu]?s|x)\b)", "&nbsp;", escape(cell))


def _chip(cell: str, colours: Mapping[str, str]) -> str:
    if cell not in colours:
        return ""
    return f'<span class="chip" style="background:{colours[cell]}"></span>'
