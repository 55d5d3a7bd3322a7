"""What the benchmarks write by hand is what fastipam writes: every key, and every value's size."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import lmdb
import pytest
from bench.agent.alone import Alone
from bench.agent.yardstick import TOGETHER, Yardstick

import fastipam
from bench import by_hand, stores

from .. import ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Contents = dict[tuple[str, bytes], bytes]
    # By database and key: the size of the value that was written, or None where it was deleted.
    Writes = dict[tuple[str, bytes], int | None]

MAIN = "main"


def contents(path: Path) -> Contents:
    """Every record of a store that no environment of this process has open."""
    found: Contents = {}
    with lmdb.open(str(path), max_dbs=32, readonly=True) as env, env.begin() as txn:
        names = [key.decode() for key, value in txn.cursor() if len(value) == 48]
        for key, value in txn.cursor():
            if len(value) != 48:
                found[MAIN, key] = value
        for name in names:
            for key, value in txn.cursor(env.open_db(name.encode(), txn, create=False)):
                found[name, key] = value
    return found


def changes(path: Path, step: Callable[[], object]) -> Writes:
    """What a step of fastipam changes; each of its writes changes something."""
    before = contents(path)
    step()
    after = contents(path)
    return {
        place: len(after[place]) if place in after else None
        for place in {*before, *after}
        if before.get(place) != after.get(place)
    }


class Spy:
    """A transaction of LMDB that notes what is written. Nothing is to be written twice."""

    def __init__(self, txn: Any, names: dict[Any, str]) -> None:
        self._txn = txn
        self._names = names
        self.writes: Writes = {}

    def get(self, *arguments: Any, **more: Any) -> Any:
        return self._txn.get(*arguments, **more)

    def cursor(self, db: Any) -> Any:
        return self._txn.cursor(db)

    def put(self, key: bytes, value: bytes, db: Any = None) -> None:
        self._note(db, key, len(value))
        self._txn.put(key, value, db=db)

    def delete(self, key: bytes, db: Any = None) -> None:
        self._note(db, key, None)
        assert self._txn.delete(key, db=db), (self._names[db], key)

    def _note(self, db: Any, key: bytes, size: int | None) -> None:
        place = self._names[db], key
        assert place not in self.writes, place
        self.writes[place] = size


class Spied:
    """An environment whose transactions note what they write, one after the other."""

    def __init__(self, hand: by_hand.Hand) -> None:
        self._env = hand._env
        self._names: dict[Any, str] = {None: MAIN, **{db: name for name, db in hand._db.items()}}
        self.commits: list[Writes] = []
        vars(hand)["_env"] = self

    @contextmanager
    def begin(self, *, write: bool) -> Iterator[Spy]:
        with self._env.begin(write=write) as txn:
            spy = Spy(txn, self._names)
            yield spy
            self.commits.append(spy.writes)

    def close(self) -> None:
        self._env.close()


def timeless(writes: Writes) -> Writes:
    """The same without the times in keys of the queue of cooling addresses."""
    return {
        (name, key[:6] + key[14:] if name == "cooldown" else key): size
        for (name, key), size in writes.items()
    }


@pytest.fixture(autouse=True)
def _same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stores of these tests do not begin with the first pool."""
    monkeypatch.setattr(by_hand, "NETWORK_ID", ids.NETWORK_ID)
    monkeypatch.setattr(by_hand, "POOL_ID", ids.POOL_ID)


@pytest.mark.parametrize("cooldown", [30, 0])
def test_pair(cooldown: int, tmp_path: Path) -> None:
    """Each of the two transactions, until the events that wait have been moved twice."""
    path = tmp_path / "fastipam"

    def call(name: str) -> Callable[[], object]:
        def step() -> None:
            with fastipam.open(path, "relaxed") as ipam:
                network = ipam.network(stores.NETWORK, stores.SUBNET, cooldown_s=cooldown)
                getattr(network, name)(stores.CONTAINER, stores.IFNAME)

        return step

    hand = by_hand.Pairs(tmp_path / "by-hand", "relaxed", cooldown=cooldown > 0)
    spied = Spied(hand)
    hand.pair("", 10).run()
    hand.close()
    call("release")()  # makes the network
    call("allocate")()
    call("release")()
    for number, writes in enumerate(spied.commits[2:]):
        step = call("release" if number % 2 else "allocate")
        assert timeless(changes(path, step)) == timeless(writes), number


def test_agent(tmp_path: Path) -> None:
    """Commits of 64 requests."""
    path = tmp_path / "fastipam"
    hand = Yardstick(tmp_path / "by-hand", 3)
    spied = Spied(hand)
    hand.run()
    hand.close()
    alone = Alone(path, 1)
    for number, writes in enumerate(spied.commits):
        if number:

            def step(which: int = number % 2) -> None:
                alone.answer(which)
                alone.close()

            assert changes(path, step) == writes, number
        else:
            alone.answer(0)
            alone.close()
    assert len(spied.commits[1]) >= 3 * TOGETHER


def test_fill(tmp_path: Path) -> None:
    """One commit of the fill: the same records. The last events of fastipam may still wait."""
    path, beside = tmp_path / "fastipam", tmp_path / "by-hand"
    listed = stores.owners(0, 9000)  # two pages are full then
    with fastipam.open(path, "relaxed") as ipam:
        ipam.network(stores.NETWORK, stores.SUBNET).allocate_many(listed)
    hand = by_hand.Filling(beside, "relaxed")
    hand._assign(range(9000), listed)
    hand.close()
    ours, theirs = (
        {place: len(value) for place, value in contents(one).items()} for one in (path, beside)
    )
    for name in ("leases", "owners", "pages", "events"):
        mine, by_lmdb = (
            {key: size for (table, key), size in one.items() if table == name}
            for one in (ours, theirs)
        )
        if name == "events":
            assert len(by_lmdb) - 8 <= len(mine) <= len(by_lmdb)
            by_lmdb = {key: by_lmdb[key] for key in mine}
        assert mine == by_lmdb, name
