"""The reader of the chaos tests' histories: it finds what it is there to find."""

from __future__ import annotations

from pathlib import Path

from .history import Report, read


def report(path: Path, **histories: str) -> Report:
    """The report of histories: a line a word, moment, ``+`` (has) or ``-`` (gone), address."""
    files = {}
    for node, text in histories.items():
        files[node] = path / node
        lines = []
        for word in text.split():
            what = "has" if "+" in word else "gone"
            moment, _, address = word.replace("-", "+").partition("+")
            lines.append(f"{moment} {what} {address} 0.5\n")
        files[node].write_text("".join(lines))
    return read(files)


def test_two_at_once(tmp_path: Path) -> None:
    """An address that a second node has before the first one gave it up is found."""
    assert len(report(tmp_path, a="1+x 5-x", b="3+x 9-x").conflicts) == 1


def test_one_after_the_other(tmp_path: Path) -> None:
    """An address that goes from one node to another is no conflict."""
    found = report(tmp_path, a="1+x 5-x 20+x", b="6+x 9-x", c="1+y")
    assert not found.conflicts
    assert found.answers == 4


def test_never_given_up(tmp_path: Path) -> None:
    """A node that was killed still has what it had."""
    assert report(tmp_path, a="1+x", b="100+x").conflicts


def test_a_torn_line(tmp_path: Path) -> None:
    """The last line of a killed node may be cut short."""
    (tmp_path / "a").write_text("1 has x 0.5\n2 ha")
    assert read({"a": tmp_path / "a"}).answers == 1
