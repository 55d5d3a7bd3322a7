"""A disk that loses its power: what is left of a recorded sequence of writes and syncs.

The recorder (recorder.c) has written down what programs did to the files below a directory. A cut
is a place in that sequence. Before it, a write is *pending* from its beginning until a sync of its
file has returned (or itself, through a descriptor with O_DSYNC): of the pending ones any may be on
the disk, wholly, not at all, or a few sectors of it, in any combination. A name that was made,
changed or removed is pending until its directory has been synced; of those any first few are there,
as with a journal. That is as bad as POSIX allows a disk to be, and worse than most are.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECTOR = 512
_HEAD = Struct("<ccHIq")


class Event(NamedTuple):
    """One record; the kinds are recorder.c's."""

    kind: str
    flag: str
    path: str
    offset: int
    data: bytes


def read_events(record: Path, directory: Path) -> list[Event]:
    """The records, their paths relative to the directory."""
    raw = record.read_bytes()
    events = []
    at = 0
    while at < len(raw):
        kind, flag, path_size, data_size, offset = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        path = os.path.relpath(raw[at : at + path_size].decode(), directory)
        at += path_size
        data = raw[at : at + data_size]
        at += data_size
        if kind in b"rl":
            data = os.path.relpath(data.decode(), directory).encode()
        events.append(Event(kind.decode(), flag.decode(), path, offset, data))
    return events


@dataclass
class _File:
    """What is durably in a file, and the writes that may be."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes]] = field(default_factory=list)  # offset -1: truncated to …

    def apply(self, content: bytearray, offset: int, data: bytes) -> None:
        if offset < 0:
            size = int.from_bytes(data, "big")
            del content[size:]
            content += bytes(size - len(content))
            return
        content += bytes(max(0, offset + len(data) - len(content)))
        content[offset : offset + len(data)] = data

    def settle(self, pending: list[tuple[int, bytes]]) -> None:
        for offset, data in pending:
            self.apply(self.durable, offset, data)

    def image(self, choose: Callable[[int], Iterator[tuple[int, int]] | None]) -> bytes:
        """The content when ``choose(bytes)`` says which parts of a pending write are there.

        None: all of it.
        """
        content = bytearray(self.durable)
        for offset, data in self.pending:
            parts = choose(len(data)) if offset >= 0 else None
            if parts is None:
                self.apply(content, offset, data)
                continue
            for low, high in parts:
                self.apply(content, offset + low, data[low:high])
        return bytes(content)


class Disk:
    """The state of the disk while the events go by."""

    def __init__(self) -> None:
        self._files: list[_File] = []
        self._names: dict[str, int] = {}  # as the running system sees them
        self._changes: list[tuple[str, dict[str, int | None]]] = []  # (directory, name -> file)
        self._durable_names: dict[str, int] = {}
        self._directories: set[str] = set()
        self._durable_directories: set[str] = {"."}

    def follow(self, event: Event) -> None:
        """One more event has happened; a write has begun only."""
        path = event.path
        if event.kind == "c":
            self._files.append(_File())
            self._change({path: len(self._files) - 1})
        elif event.kind == "m":
            self._change({path: -1})
        elif event.kind == "W":
            self._file(path).pending.append((event.offset, event.data))
        elif event.kind == "T":
            self._file(path).pending.append((-1, event.offset.to_bytes(8, "big")))
        elif event.kind == "w" and event.flag == "d":
            self._settle_one(self._file(path), event.offset)
        elif event.kind == "w" and event.flag == "!":
            raise AssertionError(f"a write failed: {event}")
        elif event.kind == "S":
            self._sync(path)
        elif event.kind == "r":
            self._change({event.data.decode(): self._names[path], path: None})
        elif event.kind == "l":
            self._change({event.data.decode(): self._names[path]})
        elif event.kind == "u":
            self._change({path: None})
        elif event.kind == "M":
            assert not path.endswith("data.mdb"), "the data file is written through a memory map"

    def _file(self, path: str) -> _File:
        return self._files[self._names[path]]

    def _change(self, names: dict[str, int | None]) -> None:
        for name, number in names.items():
            if number is None:
                self._names.pop(name, None)
            else:
                self._names[name] = number
        self._changes.append((os.path.dirname(next(iter(names))) or ".", names))

    @staticmethod
    def _settle_one(file: _File, offset: int) -> None:
        """A write through to the disk has returned: it is durable, the others are as they were."""
        at = max(at for at, (start, _) in enumerate(file.pending) if start == offset)
        file.settle([file.pending.pop(at)])

    def _sync(self, path: str) -> None:
        number = self._names.get(path, -1)
        if number >= 0:
            file = self._files[number]
            file.settle(file.pending)
            file.pending.clear()
            return
        kept = []
        for directory, names in self._changes:  # it is a directory
            if directory == path:
                self._apply(self._durable_names, names)
            else:
                kept.append((directory, names))
        self._changes = kept

    @staticmethod
    def _apply(table: dict[str, int], names: dict[str, int | None]) -> None:
        for name, number in names.items():
            if number is None:
                table.pop(name, None)
            else:
                table[name] = number

    def content(self, path: str) -> bytes:
        """What the running system reads of a file: everything that was written."""
        return self._file(path).image(lambda _: None)

    def image(self, chance: random.Random, kind: str, target: Path) -> None:
        """Write what is left of the files. ``kind``: "none", "all" or "some" of what is pending."""
        names = dict(self._durable_names)
        count = {"none": 0, "all": len(self._changes)}.get(kind)
        count = chance.randint(0, len(self._changes)) if count is None else count
        for _, changes in self._changes[:count]:
            self._apply(names, changes)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        choose = _CHOICES[kind](chance)
        for name, number in sorted(names.items(), key=lambda item: item[0].count("/")):
            path = target / name
            if not path.parent.is_dir():
                continue  # its directory is lost, and it with it
            if number < 0:
                path.mkdir(mode=0o700)
            elif name.endswith("lock.mdb"):
                path.write_bytes(chance.randbytes(chance.choice((0, 100, 8192, 65536))))
            else:
                path.write_bytes(self._files[number].image(choose))
            if number >= 0:
                path.chmod(0o600)


def _none(_: random.Random) -> Callable[[int], Iterator[tuple[int, int]] | None]:
    return lambda _: iter(())


def _all(_: random.Random) -> Callable[[int], Iterator[tuple[int, int]] | None]:
    return lambda _: None


def _some(chance: random.Random) -> Callable[[int], Iterator[tuple[int, int]] | None]:
    """Each write wholly, not at all, or some of its sectors; how likely, each cut says anew."""
    whole, torn = chance.random(), chance.random() * 0.5

    def choose(size: int) -> Iterator[tuple[int, int]] | None:
        if chance.random() < torn:
            share = chance.random()
            sectors = range(0, size, SECTOR)
            return iter([(at, at + SECTOR) for at in sectors if chance.random() < share])
        return None if chance.random() < whole else iter(())

    return choose


_CHOICES = {"none": _none, "all": _all, "some": _some}


def cuts(events: list[Event], chance: random.Random, extra: int) -> Iterator[tuple[int, str]]:
    """(how many events have happened, what is left of the pending): at every sync, and between.

    Just before a sync has returned: nothing and some of what is pending, just after: nothing. With
    ``extra`` both places get everything and that many random subsets, too. At as many random
    places a random subset each.
    """
    boundaries = [
        at for at, event in enumerate(events) if event.kind == "S" or event[:2] == ("w", "d")
    ]
    for at in boundaries:
        kinds = ["none", "some"] + (["all"] + ["some"] * extra if extra else [])
        yield from ((at, kind) for kind in kinds)
        yield from ((at + 1, kind) for kind in (kinds if extra else ["none"]))
    for _ in range((len(boundaries) or len(events)) * max(1, extra)):
        yield chance.randrange(len(events) + 1), "some"
