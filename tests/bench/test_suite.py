"""The suite as a product: losses, options, refusals, warnings, crashes of a toy, the page."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bench.errors import Failed, Missing
from bench.load import Load, look, warning
from bench.workloads import __main__ as command
from bench.workloads import crashes, guests, page, plots, report, traces
from bench.workloads.contenders import Other
from bench.workloads.guests import Guest
from bench.workloads.losses import judge
from bench.workloads.suite import Entrant, Skipped, Suite
from bench.workloads.summary import Summary, Verb

import fastipam
from bench import disk
from fastipam.configuration.policy import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.workloads.traces import Step

# Keeps a file an address in its directory, and nothing else.
TOY = """#!/bin/sh
dir=$(sed 's/.*"dir": "\\([^"]*\\)".*/\\1/')
case $CNI_COMMAND in
ADD)
    echo "$CNI_CONTAINERID" > "$dir/.$$"  # when it is killed, no file is there without its owner
    for n in 2 3 4 5 6 7 8 9; do
        if ln "$dir/.$$" "$dir/$n" 2>/dev/null; then
            printf '{"ips": [{"address": "10.32.0.%s/28"}]}' $n
            exit 0
        fi
    done
    exit 1 ;;
DEL) for n in $(grep -l "$CNI_CONTAINERID" "$dir"/* 2>/dev/null); do rm "$n"; done ;;
*) exit 1 ;;
esac
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """An IPAM plugin that is a shell script."""
    path = tmp_path / "toy"
    path.write_text(TOY)
    path.chmod(0o755)
    return path


def _config(path: Path, **ipam: object) -> Path:
    path.write_text(json.dumps({"name": "n", "type": "bridge", "ipam": ipam}))
    return path


def _summary(name: str, add: float, delete: float, *, own: bool, whole: bool = True) -> Summary:
    verbs = {
        verb: Verb(
            calls=9,
            percentiles={"p50": value, "p99": None, "p99.9": None},
            interval=(value * 0.9, value * 1.1),
            most=value,
            some=[value],
        )
        for verb, value in (("ADD", add), ("DEL", delete))
    }
    return Summary(
        contender=name, own=own, whole=whole, calls_wanted=18, pods_wanted=0, pods=0, seconds=1.0,
        verbs=verbs, note="", failed=False,
    )  # fmt: skip


def _suite() -> Suite:
    """A made-up run: the agent wins, the direct call loses, one library loses by a hair."""
    rows = [
        _summary("fastipam, agent", 1e6, 1e6, own=True),
        _summary("fastipam, no agent", 20e6, 20e6, own=True),
        _summary("host-local", 5e6, 4e6, own=False),
        _summary("fastipam library, durable", 1e3, 1e3, own=True, whole=False),
        _summary("<dict>", 999, 2e3, own=False, whole=False),
    ]
    suite = Suite({"machine": "a & b", "date": "2026-01-01"}, ["Others used the machine."])
    suite.entrants = {
        one["contender"]: Entrant(own=one["own"], whole=one["whole"], durability="synced")
        for one in rows
    }
    suite.titles = {"churn": "Churn", "churn 8": "Churn, 8"}
    suite.works = {"churn": rows, "churn 8": rows[:3]}
    suite.growth = {"0": rows, "1000": rows}
    suite.kills = [
        crashes.Killed(
            contender=name, what="the call's process", kills=5, held=4, lost=0, leaked=2,
            leaked_after_del=1, next_ns=next_ns, note="",
        )
        for name, next_ns in (("host-local", [5e6]), ("fastipam, agent", [6e6]))
    ]  # fmt: skip
    suite.reboots = [
        crashes.Rebooted(
            contender="host-local", held=13, leaked=13, seen="nothing", freed_by="GC",
            first_ns=None, note="",
        )
    ]  # fmt: skip
    suite.skipped = [Skipped(contender="host-local", work="100,000 leases", why="too slow")]
    return suite


def test_each_loss_is_listed() -> None:
    """A direct call that loses is listed beside an agent that wins; kinds are not mixed."""
    verdict = _suite().verdict()
    assert verdict["compared"] == 4 * 4 + 3 * 2 + 1
    found = {(one["work"], one["own"], one["other"], one["verb"]) for one in verdict["losses"]}
    works = ("churn", "churn 8", "0 leases", "1,000 leases")
    assert found == {
        (work, "fastipam, no agent", "host-local", verb)
        for work in works
        for verb in ("ADD", "DEL")
    } | {
        (work, "fastipam library, durable", "<dict>", "ADD")
        for work in ("churn", "0 leases", "1,000 leases")
    } | {("after kill -9", "fastipam, agent", "host-local", "ADD")}
    first, last = verdict["losses"][0], verdict["losses"][-1]
    assert (first["times"], first["sure"], last["sure"]) == (5.0, True, False)
    each = [row for whole in (True, False) for row in report.losses(_suite(), whole=whole)[1].rows]
    assert len(each) == len(verdict["losses"])
    assert "fastipam loses at 12 of 23 compared medians; at 4 " in report.text(_suite())


def test_no_loss() -> None:
    """Only a run in which every row of fastipam's is cheaper says so."""
    suite = _suite()
    suite.growth, suite.works, suite.kills = {}, {"churn": suite.works["churn"][::2][:2]}, []
    assert "loses at none of 2 compared medians" in report.text(suite)
    assert judge({"x": [_summary("a", 1, 1, own=False)]}) == {"compared": 0, "losses": []}


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page() -> None:
    """The summary is first; every table scrolls by itself; every colour is one contender's."""
    suite = _suite()
    pictures, colours = plots.draw(suite), plots.colours(suite)
    text = page.render(suite, pictures, colours)
    found = _Page(text)
    assert found.open == []
    sections = [attrs["id"] for tag, attrs in found.tags if tag == "section"]
    assert sections == ["summary", "detail"]
    summary, _, detail = text.partition('<section id="detail">')
    assert "Others used the machine." in summary
    assert "12 of 23 compared medians" in summary
    assert "&lt;dict&gt;" in text
    assert "<dict>" not in text
    tables = sum(tag == "table" for tag, _ in found.tags)
    assert tables == text.count('<div class="table" tabindex="0"') > 8
    images = [attrs for tag, attrs in found.tags if tag == "img"]
    assert len(images) == len(pictures) == 5
    assert all(one["alt"] for one in images)
    assert len(set(colours.values())) == len(suite.entrants)
    assert colours["host-local"] in pictures["leases-add"]
    assert colours["host-local"] in detail
    assert not re.search(r"(?:src|href)=\"http", text)


def test_legend_is_below_the_lines() -> None:
    """In a picture the legend is outside the axes, so that no line is under it."""
    for text in plots.draw(_suite()).values():
        svg = text.replace("\n", " ")
        frame = re.search(r'id="patch_2">\s*<path d="M ([\d.]+) ([\d.]+)', svg)
        legend = re.search(r'id="legend_1">.*? y="([\d.]+)"', svg)
        assert frame
        assert legend
        assert float(legend[1]) > float(frame[2])  # y grows downwards


def test_figures_as_json(tmp_path: Path) -> None:
    """The JSON has every figure and every loss."""
    command.write(_suite(), tmp_path / "out")
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(document["verdict"]["losses"]) == 12
    assert document["works"]["churn"][1]["verbs"]["ADD"]["interval"] == [18e6, 22e6]
    assert (tmp_path / "out" / "leases-add.svg").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--plugin", "x"], r"--plugin 'x' is not NAME=VALUE"),
        (["--plugin", "x=/bin/sh", "--plugin", "x=/bin/sh"], "--plugin x is given twice"),
        (["--plugin", "host-local=/bin/sh"], "--plugin host-local: this name is taken"),
        (["--plugin", "x=/nowhere"], "/nowhere cannot be executed"),
        (["--config", "x=y"], "--config x: there is no --plugin x=PATH"),
        (["--durability", "x=y"], "--durability x: there is no --plugin x=PATH"),
        (["--plugin", "x=/bin/sh", "--config", "x=/nowhere"], "has no `ipam` section"),
        (["--scratch", "/nowhere"], "--scratch /nowhere is not a directory"),
    ],
)
def test_options(words: list[str], said: str) -> None:
    """What cannot be measured is refused before anything is, with the option and its value."""
    with pytest.raises(Missing, match=re.escape(said) if "(" in said else said):
        command.main(words)


@pytest.mark.parametrize("key", ["dataDir", "deep"])
def test_live_directory_is_refused(key: str, tmp_path: Path) -> None:
    """A configuration that names the node's own store is refused, wherever it names it."""
    inside = f"{DEFAULT_DATA_DIR}/x"
    value: object = inside if key == "dataDir" else [{"a": inside}]
    config = _config(tmp_path / "c", **{key: value}, other="{data}")
    with pytest.raises(Missing, match=f"--config x: {inside} belongs to this node's own leases"):
        guests.guests(["x=/bin/sh"], [f"x={config}"], [], [])


def test_store_that_is_open_is_refused(tmp_path: Path) -> None:
    """A store that a process has open is refused; after it is closed it is not."""
    with fastipam.open(tmp_path / "store") as ipam:
        ipam.network("n", "10.0.0.0/24")
        with pytest.raises(Missing, match=r"--scratch: process \d+ has the store in .*store open"):
            guests.refuse_live(tmp_path / "store", "--scratch")
    guests.refuse_live(tmp_path / "store", "--scratch")


def test_directory_of_its_own(tmp_path: Path) -> None:
    """A configuration without {data} needs the word that nothing is kept on the machine."""
    config = _config(tmp_path / "c", range="{subnet}", range6="{subnet6}", type="t")
    with pytest.raises(Missing, match=r"put \{data\} where .*--elsewhere x"):
        guests.guests(["x=/bin/sh"], [f"x={config}"], [], [])
    (found,) = guests.guests(["x=/bin/sh"], [f"x={config}"], ["x=in a cluster"], [], ["x"])
    assert (found.durability, found.fills) == ("in a cluster", True)
    section = found.section(("10.0.0.0/28", "fd00::/64"), tmp_path)
    assert section == {"type": "t", "range": "10.0.0.0/28", "range6": "fd00::/64"}


def test_warning_of_load() -> None:
    """A machine that others use is told, with who they are; an idle one is not."""
    idle, busy = Load(0.1, 2, 0.05, ()), Load(9.0, 2, 0.8, ("cc1", "python"))
    assert warning({"before": idle, "after": idle}) == ""
    said = warning({"before": idle, "after": busy})
    assert "used 80% of 2 processors after (load average 9.0; mostly cc1, python)." in said
    assert "before" not in said
    assert 0 <= look(0.05).busy <= 1


def test_disk(tmp_path: Path) -> None:
    """The scratch disk is named with its filesystem and the time of a sync."""
    found = disk.facts(tmp_path)
    assert found.keys() == {"filesystem", "device", "sync"}
    assert re.match(r"\w+ \(.+\)$", found["filesystem"])
    assert re.match(r"[\d.,]+ [mun]?s for 4 KiB and fdatasync", found["sync"])


def _other(toy: Path, scratch: Path) -> Any:
    guest = Guest("toy", toy, '{"dir": "{data}", "subnet": "{subnet}"}')
    return lambda: Other(guest, crashes.small("x", 28), scratch)


def test_kill(toy: Path, tmp_path: Path) -> None:
    """A toy that is killed between its file and its answer leaks until the DEL."""
    found = crashes.kill(_other(toy, tmp_path / "x"), 4)
    assert (found["contender"], found["held"], found["lost"], found["note"]) == ("toy", 4, 0, "")
    assert 0 <= found["leaked"] <= found["kills"] <= 4
    assert found["leaked_after_del"] == 0


def test_leak_of_a_kill(toy: Path, tmp_path: Path) -> None:
    """One that is killed after it has written its file has leaked an address, until the DEL."""
    # Only the containers that are killed have ids that end so.
    toy.write_text(
        TOY.replace("printf", "case $CNI_CONTAINERID in *100?) sleep 60 ;; esac; printf")
    )
    make = _other(toy, tmp_path / "x")

    def killed_late() -> Other:
        plugin: Other = make()
        begin = plugin.begin

        def begin_until_written(step: Step, output: str = os.devnull) -> int:
            process = begin(step, output)
            files = tmp_path / "x" / "data"
            while not any(step.container in one.read_text() for one in files.glob("[0-9]")):
                pass
            return process

        plugin.begin = begin_until_written  # type: ignore[method-assign]
        return plugin

    found = crashes.kill(killed_late, 2)
    assert (found["kills"], found["leaked"], found["leaked_after_del"]) == (2, 2, 0)
    assert len(found["next_ns"]) == 2


def test_reboot(toy: Path, tmp_path: Path) -> None:
    """A toy that knows no boot leaks all until the DEL of each container; its pool is full."""
    found = crashes.reboot(_other(toy, tmp_path / "x"))
    assert (found["held"], found["leaked"], found["first_ns"]) == (8, 8, None)
    assert found["freed_by"] == "the DEL of each old container"


def test_one_command(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two plugins of a user's and one workload: a page, its figures, and what was not measured."""
    config = _config(tmp_path / "conf", dir="{data}")
    words = ["--quick", "--only", "reboot", "--output", str(tmp_path / "out")]
    words += ["--scratch", str(tmp_path), "--plugin", f"toy={toy}", "--config", f"toy={config}"]
    words += ["--plugin", "own=/usr/lib/cni/host-local", "--durability", "own=none"]
    assert command.main(words) == 0
    document: Mapping[str, Any] = json.loads((tmp_path / "out" / "report.json").read_text())
    names = ["fastipam, agent", "fastipam, no agent", "host-local", "own"]
    assert [one["contender"] for one in document["reboots"]] == names
    leaks = {one["contender"]: one["leaked"] for one in document["reboots"]}
    assert leaks == {"fastipam, agent": 0, "fastipam, no agent": 0, "host-local": 13, "own": 13}
    assert [one["contender"] for one in document["skipped"]] == ["toy"]
    assert "After a reboot" in capsys.readouterr().out
    assert "After a reboot" in (tmp_path / "out" / "report.html").read_text()
    assert not list(tmp_path.glob("bench-*"))


def test_address_given_twice(tmp_path: Path) -> None:
    """One address for everybody: a failure with both containers at the head; no figures."""
    liar = tmp_path / "liar"
    liar.write_text('#!/bin/sh\necho \'{"ips": [{"address": "10.0.0.5/8"}]}\'\n')
    liar.chmod(0o755)
    words = ["--quick", "--only", "churn-8", "--only", "kill", "--output", str(tmp_path / "out")]
    assert command.main([*words, "--scratch", str(tmp_path), "--plugin", f"liar={liar}"]) == 1
    first, second = traces.container(0), traces.container(1)
    said = f"liar: ADD gave 10.0.0.5 to container {second}, while container {first} had it"
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"FAILED: {said}" in text.partition("## At a glance")[0]
    assert said in (tmp_path / "out" / "report.html").read_text().partition("<table")[0]
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    (found,) = (one for one in document["works"]["churn 8"] if one["contender"] == "liar")
    assert (found["verbs"], found["failed"]) == ({}, True)
    assert all(one["other"] != "liar" for one in document["verdict"]["losses"])
    assert [one["contender"] for one in document["kills"]].count("liar") == 0


def test_pool_that_is_larger(toy: Path, tmp_path: Path) -> None:
    """A pool with more addresses than it was told: what it gave, and the section that it got."""
    toy.write_text(
        "#!/bin/sh\nn=$((0x${CNI_CONTAINERID#????????????????????????????????????????????????????}))"
        '\nprintf \'{"ips": [{"address": "10.1.%s.%s/16"}]}\' $((n / 256)) $((n % 256))\n'
    )
    with pytest.raises(Failed, match=r"gave 256 addresses, 10\.1\.0\.1 to 10\.1\.1\.0, .*/28\"}"):
        crashes.reboot(_other(toy, tmp_path / "x"))
