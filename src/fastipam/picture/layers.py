"""Layers: the owner, age or block of each cell, by which a picture is coloured instead of by state.

Owner and age are read from the leases of all used addresses: a million take a second.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastipam import errors
from fastipam.allocation.lookup import look_up
from fastipam.errors import ConfigError, StoreCorrupt
from fastipam.picture import blocks
from fastipam.picture.cells import places
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from fastipam.picture.cells import Picture
    from fastipam.picture.frames import Frame
    from fastipam.storage.transaction import Snapshot

STATE, OWNER, AGE, BLOCK = "state", "owner", "age", "block"
KINDS = (STATE, OWNER, AGE, BLOCK)
NO_NAMESPACE = "no namespace"
NOTHING = -1  # the value of a cell without a lease
_AT_ONCE = 4096
_DIGITS = re.compile(r"([0-9]+)")


@dataclass(frozen=True, slots=True)
class Layer:
    """A value for each cell of each panel of a picture.

    A value is an index of ``labels`` (OWNER, BLOCK) or whole seconds (AGE). ``sizes`` is the number
    of addresses of each label.
    """

    kind: str
    values: list[npt.NDArray[np.int64]]
    labels: list[str]
    sizes: list[int]


def read(txn: Snapshot, picture: Picture, kind: str) -> Layer:
    """Return a layer of a picture, from the picture's snapshot. O(used addresses).

    Raises StoreError, and ConfigError for a layer of blocks when the network has no blocks.
    """
    if kind == BLOCK:
        found = look_up(txn, picture.network)
        return _blocks(picture, blocks.owned(txn, *found[1:]) if found else [])
    if kind == AGE:
        return _ages(txn, picture)
    return _owners(txn, picture)


def ranked(layer: Layer, most: int) -> tuple[list[tuple[int, str, int]], list[int]]:
    """Return the labels with the most addresses, and the sizes of the other labels.

    A label is (index, text, number of addresses). The labels are in natural order: ``node-2`` comes
    before ``node-10``.
    """
    by_size = sorted(range(len(layer.labels)), key=lambda at: (-layer.sizes[at], layer.labels[at]))
    largest = sorted(by_size[:most], key=lambda at: natural(layer.labels[at]))
    shown = [(at, layer.labels[at], layer.sizes[at]) for at in largest]
    return shown, [layer.sizes[at] for at in by_size[most:]]


def natural(text: str) -> list[tuple[int, str]]:
    """Return a sort key for a text in which numbers count by their value."""
    # split() puts the numbers at odd indices, so numbers are compared only with numbers.
    parts = enumerate(_DIGITS.split(text))
    return [(int(part), "") if at % 2 else (0, part) for at, part in parts]


def _owners(txn: Snapshot, picture: Picture) -> Layer:
    """Return the layer of the pods' namespaces; of several in one cell, the most common counts."""
    numbers: defaultdict[bytes, int] = defaultdict()
    numbers.default_factory = numbers.__len__  # a new name is assigned the next number
    values = []
    totals = np.zeros(0, dtype=np.int64)
    for panel in picture.panels:
        found_at = []
        found = []
        for at, raws in _leases(txn, picture.pool_id, panel.frame):
            found_at.append(at)
            # Split from the end, because the bytes before the texts may contain NUL.
            found.append([numbers[raw.rsplit(b"\0", 3)[1]] for raw in raws])
        layer = np.full(len(panel.cells), NOTHING, dtype=np.int64)
        if found:
            cells = np.concatenate(found_at) >> panel.frame.shift
            who = np.concatenate([np.array(one, dtype=np.int64) for one in found])
            totals = _added(totals, np.bincount(who))
            if panel.frame.shift:
                pairs, counts = np.unique(cells * len(numbers) + who, return_counts=True)
                pairs = pairs[np.argsort(counts, kind="stable")]  # the most common comes last
                cells, who = pairs // len(numbers), pairs % len(numbers)
            layer[cells] = who
        values.append(layer)
    labels = [name.decode(keys.ENCODING, "replace") or NO_NAMESPACE for name in numbers]
    return Layer(OWNER, values, labels, totals.tolist())


def _added(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the sum of two arrays; the shorter one is extended by zeros."""
    size = max(len(left), len(right))
    total: npt.NDArray[Any] = np.zeros(size, dtype=np.int64)
    total[: len(left)] += left
    total[: len(right)] += right
    return total


def _blocks(picture: Picture, owned: list[blocks.Owned]) -> Layer:
    """Return the layer of the states of blocks."""
    if not owned:
        raise ConfigError(
            f"network {picture.network} has no blocks of a cluster",
            field="--by",
            value=BLOCK,
            hint="choose state, owner or age",
        )
    labels = sorted({each.state for each in owned})
    sizes = [0] * len(labels)
    for each in owned:
        sizes[labels.index(each.state)] += each.last - each.first + 1
    values = []
    for panel in picture.panels:
        frame = panel.frame
        layer = np.full(len(panel.cells), NOTHING, dtype=np.int64)
        for each in owned:
            low, high = max(each.first, frame.first), min(each.last, frame.last)
            if each.family == frame.family and low <= high:
                begin, end = (low - frame.first) >> frame.shift, (high - frame.first) >> frame.shift
                layer[begin : end + 1] = labels.index(each.state)
        values.append(layer)
    return Layer(BLOCK, values, labels, sizes)


def _ages(txn: Snapshot, picture: Picture) -> Layer:
    """Return the layer of seconds since the assignment; of several addresses, the newest counts."""
    values = []
    for panel in picture.panels:
        newest = np.full(len(panel.cells), NOTHING, dtype=np.int64)
        for at, raws in _leases(txn, picture.pool_id, panel.frame):
            times = b"".join([raw[lease_record.ALLOCATED_AT] for raw in raws])
            allocated = np.frombuffer(times, dtype="<u8").astype(np.int64)
            np.maximum.at(newest, at >> panel.frame.shift, allocated)
        ages = np.maximum(0, (picture.moment_ns - newest) // 10**9)
        values.append(np.where(newest == NOTHING, NOTHING, ages))
    return Layer(AGE, values, [], [])


def _leases(
    txn: Snapshot, pool_id: int, frame: Frame
) -> Iterator[tuple[npt.NDArray[np.int64], list[bytes]]]:
    """Yield (places, records) of the leases in a frame, up to 4096 at a time."""
    first = keys.address_key(pool_id, frame.family, frame.first)
    last = keys.address_key(pool_id, frame.family, frame.last)
    size = len(first)
    prefix = keys.family_prefix(pool_id, frame.family)
    for items in tables.LEASES.chunks(txn, prefix, first, most=_AT_ONCE):
        whole = bool(items) and items[-1][0] <= last
        chunk = items if whole else [item for item in items if item[0] <= last]
        joined = b"".join([key for key, _ in chunk])
        if len(joined) != size * len(chunk):
            raise StoreCorrupt("a lease has an invalid key", hint=errors.CHECK_HINT)
        rows = np.frombuffer(joined, dtype=np.uint8).reshape(-1, size)
        if len(rows):
            addresses = np.ascontiguousarray(rows[:, keys.ADDRESS_HEAD :])
            yield places(frame, addresses), [raw for _, raw in chunk]
        if not whole:
            return
