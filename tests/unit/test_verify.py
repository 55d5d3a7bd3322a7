"""The verifier: each kind of damage is found, and named by its address or key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import fastipam
from fastipam import Network
from fastipam._ledger import EventLog, PoolState
from fastipam.addressing.parsing import parse_ranges
from fastipam.addressing.ranges import Pool, RangeSet
from fastipam.allocation import blocks
from fastipam.errors import AddressInUse, StoreCorrupt
from fastipam.ipam import Ipam
from fastipam.repair import repair
from fastipam.storage import tables
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_record
from fastipam.storage.records import reservation as reservation_record
from fastipam.storage.records.block import ACTIVE, Block
from fastipam.storage.records.event import event_key, pack_event
from fastipam.storage.records.lease import ASSIGNED, COOLING, Record
from fastipam.storage.records.reservation import Reservation
from fastipam.storage.store import Store
from fastipam.storage.transaction import Transaction
from fastipam.storage.within import Within
from fastipam.verify import Finding, verify

from ..ids import NETWORK_ID, POOL_ID

Damage = Callable[[Store, Transaction], object]

# 40 leases that lie on two pages: the second begins at 10.0.16.0.
RANGES = [{"subnet": "10.0.0.0/16", "rangeStart": "10.0.15.240"}, "2001:db8::/64"]
FULL = b"\xff" * 512
ONE = b"\1" + bytes(511)


@pytest.fixture
def damaged(data_dir: Path) -> Iterator[Ipam]:
    """A store to damage: nobody verifies it at the end."""
    with fastipam.open(data_dir, "relaxed") as ipam:
        net = ipam.network("net", RANGES, cooldown_s=100)
        net.allocate_many([(f"c{at}", "eth0") for at in range(40)])
        net.release("c7")
        assert not verify(ipam.store)
        yield ipam


def put(db: str, key: bytes, value: bytes) -> Damage:
    return lambda _, txn: getattr(tables, db.upper()).put(txn, key, value)


def drop(db: str, key: bytes) -> Damage:
    return lambda _, txn: getattr(tables, db.upper()).delete(txn, key)


def lease(value: int, **changes: Any) -> Damage:
    """Rewrite fields of an IPv4 lease."""

    def change(_: Store, txn: Transaction) -> None:
        key = keys.address_key(POOL_ID, 4, value)
        record = Record.read(tables.LEASES.get(txn, key) or b"")
        for name, new in changes.items():
            setattr(record, name, new)
        tables.LEASES.put(txn, key, record.pack())

    return change


def state(**changes: int) -> Damage:
    """Rewrite numbers of the network's state."""

    def change(_: Store, txn: Transaction) -> None:
        numbers = PoolState(POOL_ID, tables.MAIN.get(txn, keys.state_key(POOL_ID)))
        for name, new in changes.items():
            setattr(numbers, name, new)
        tables.MAIN.put(txn, numbers.key, numbers.pack())

    return change


def log(waiting: list[bytes] | None = None, **changes: int) -> Damage:
    """Rewrite numbers of the network's history, or what waits in it."""

    def change(_: Store, txn: Transaction) -> None:
        one = EventLog(NETWORK_ID, tables.MAIN.get(txn, keys.log_key(NETWORK_ID)))
        for name, new in changes.items():
            setattr(one, name, new)
        if waiting is not None:
            one.waiting = waiting
        tables.MAIN.put(txn, one.key, one.pack())

    return change


def page(level: int, index: int, family: int = 4) -> bytes:
    size = keys.page_index_bytes(family)
    return keys.family_prefix(POOL_ID, family) + bytes((level,)) + index.to_bytes(size, "big")


def at(value: int) -> bytes:
    return keys.address_key(POOL_ID, 4, value)


A = 0x0A000FF0  # c0's address; c7 is cooling, at A + 7
FIRST_PAGE = A >> 12
OWNER = keys.owner_key(keys.id_prefix(NETWORK_ID), keys.owner_name("c0", "eth0"))
GHOST = keys.owner_key(keys.id_prefix(NETWORK_ID), keys.owner_name("ghost", "eth0"))


STATE, LOG = keys.state_key(POOL_ID), keys.log_key(NETWORK_ID)
EVENT = pack_event(1, 1, 1, (4, A), b"\0" * 5)


def entry(network_id: int, pool_id: int) -> bytes:
    """An entry of a network whose pool has the name of the damaged store's."""
    return keys.pack_network(tables.SCHEMA, network_id, pool_id, b"net")


# What is done to the store, what the verifier calls it, and where.
DAMAGES: list[tuple[Damage, set[str], str | None]] = [
    (put("pages", page(0, 99), b"\1" + bytes(511)), {"bit-without-record"}, "0.6.48.0"),
    (put("pages", page(0, 99), bytes(512)), {"page-empty"}, "page 0x63 of level 0, IPv4"),
    (put("pages", page(0, 99), b"\1"), {"page-length"}, "page 0x63 of level 0, IPv4"),
    (put("pages", page(0, 99)[:-1], FULL), {"page-key"}, None),
    (put("pages", page(11, 0), FULL), {"page-key"}, None),
    (put("pages", page(0, 0, 4)[:4] + b"\5\0\0\0\0\0", FULL), {"page-key"}, None),
    (put("pages", page(0, 2**21), b"\1" + bytes(511)), {"bit-without-record"}, hex(2**33)),
    (drop("pages", page(0, FIRST_PAGE + 1)), {"record-without-bit"}, "10.0.16.0"),
    (drop("pages", page(0, 0x20010DB8 << 84, 6)), {"record-without-bit"}, None),
    (put("pages", page(1, 0), ONE), {"page-parent"}, "page 0x0 of level 0, IPv4"),
    (put("pages", page(3, 0), ONE), {"page-parent"}, "page 0x0 of level 2, IPv4"),
    (drop("leases", at(A)), {"bit-without-record", "owner-without-lease", "state-count"}, None),
    (
        put("leases", at(A), b"x"),
        {"lease-unreadable", "owner-without-lease", "state-count"},
        None,
    ),
    (put("leases", at(A)[:-1], b"x"), {"lease-key"}, None),
    (put("leases", at(A)[:4] + b"\5" + bytes(4), b"x"), {"lease-key"}, None),
    (lease(A, generation=10**9), {"lease-generation"}, "10.0.15.240"),
    (lease(A, length=33), {"lease-length"}, "10.0.15.240"),
    (lease(A, boot=99), {"lease-boot"}, "10.0.15.240"),
    (lease(A, boot=0), {"lease-boot"}, "10.0.15.240"),
    (lease(A, generation=2**64 - 1), {"lease-generation"}, "10.0.15.240"),
    (lease(A, released=5), {"lease-released"}, "10.0.15.240"),
    (lease(A, ifname="eth9"), {"lease-without-owner", "owner-without-lease"}, "10.0.15.240"),
    (
        lease(A, state=COOLING),
        {"lease-without-cooldown", "owner-without-lease", "state-count"},
        None,
    ),
    (
        lease(A + 7, released=2**63),
        {"lease-released", "lease-without-cooldown", "cooldown-without-lease"},
        "10.0.15.247",
    ),
    (drop("owners", OWNER), {"lease-without-owner"}, None),
    (put("owners", OWNER, at(A)[:6]), {"owner-unreadable", "lease-without-owner"}, None),
    (put("owners", GHOST, b""), {"owner-addresses"}, GHOST.hex()),
    (put("owners", GHOST, at(A)), {"owner-without-lease"}, "10.0.15.240"),
    (put("owners", GHOST[:-1], at(A)), {"owner-key", "owner-without-lease"}, None),
    (
        put("cooldown", keys.cooldown_key(POOL_ID, 0, 5, 4, A), b""),
        {"cooldown-without-lease"},
        "10.0.15.240",
    ),
    (put("cooldown", keys.id_prefix(POOL_ID) + b"x", b""), {"cooldown-key"}, None),
    (put("reservations", at(A + 1)[:-1], b"x"), {"reservation-key"}, None),
    (
        put("reservations", at(0x0A00F000), b"x"),
        {"record-without-bit", "state-count", "reservation-unreadable"},
        None,
    ),
    (
        put("reservations", at(A), Reservation(4, A, "ns/pod", "", "why", 7).pack()),
        {"reservation-without-owner", "reservation-without-end", "state-count"},
        "10.0.15.240",
    ),
    (
        put("sticky", reservation_record.due_key(keys.id_prefix(POOL_ID), 7, 4, A), b""),
        {"sticky-without-reservation"},
        "10.0.15.240",
    ),
    (
        put(
            "sticky",
            reservation_record.owner_index_key(keys.id_prefix(POOL_ID), "c", ""),
            at(A)[4:],
        ),
        {"sticky-without-reservation"},
        "10.0.15.240",
    ),
    (put("sticky", keys.id_prefix(POOL_ID) + b"x", b""), {"sticky-unreadable"}, None),
    (put("sticky", keys.id_prefix(POOL_ID) + b"t", b""), {"sticky-unreadable"}, None),
    (put("events", event_key(NETWORK_ID, 0), b"x"), {"event-unreadable"}, None),
    (
        put("events", event_key(NETWORK_ID, 10**6), pack_event(1, 1, 1, (4, A), b"\0" * 5)),
        {"event-number"},
        None,
    ),
    (state(kept=1), {"state-count"}, "kept"),
    (state(assigned=1), {"state-count"}, "assigned"),
    (state(cooling=0), {"state-count"}, "cooling"),
    (state(reserved=1), {"state-count"}, "reserved"),
    (state(outside=1), {"state-count"}, "outside"),
    (state(clock=0), {"lease-released"}, "10.0.15.247"),
    (state(clock=2**62), {"state-unreadable"}, None),
    (state(generation=2**63 - 1), {"state-unreadable"}, None),
    (put("missing", at(A), b"x"), {"missing-unreadable"}, None),
    (put("missing", at(A)[:-1], bytes(24)), {"missing-unreadable"}, None),
    (put("meta", b"last network", b"\xff" * 4), {"network-id"}, "last network"),
    (put("meta", keys.policy_key(NETWORK_ID), b"x"), {"policy-unreadable"}, None),
    (
        put("meta", keys.policy_key(NETWORK_ID), b"\xff" * 8 + bytes(21)),
        {"policy-unreadable"},
        None,
    ),
    *(
        (put("blocks", keys.id_prefix(POOL_ID) + key, b"x"), {"block-record"}, None)
        for key in (
            b"b\4\12\0\0\0",
            b"b\5",
            b"b",
            b"n",
            b"p",
            b"o\4\0\0\0\1\12\0\0\0",
            b"o",
            b"?",
            b"",
        )
    ),
    (drop("main", STATE), {"state-missing"}, None),
    (put("main", STATE, b"x"), {"state-unreadable"}, None),
    (put("main", STATE + b"x", b"x"), {"state-key"}, (STATE + b"x").hex()),
    (put("main", b"P" + (77).to_bytes(4, "big"), b"x"), {"state-orphan"}, None),
    (put("main", b"P" + NETWORK_ID.to_bytes(4, "big"), b"x"), {"state-orphan"}, None),
    (put("main", b"P\0", b"x"), {"state-orphan"}, b"P\0".hex()),
    (put("main", LOG + b"x", b"x"), {"history-key"}, (LOG + b"x").hex()),
    (put("main", b"N" + (77).to_bytes(4, "big"), b"x"), {"history-orphan"}, None),
    (put("main", b"N" + POOL_ID.to_bytes(4, "big"), b"x"), {"history-orphan"}, None),
    (put("main", b"Q\0\0\0\1", b"x"), {"main-key"}, b"Q\0\0\0\1".hex()),
    (put("main", b"N", b"x"), {"history-orphan"}, b"N".hex()),
    (put("main", LOG, b"x"), {"history-unreadable"}, LOG.hex()),
    (put("main", LOG, bytes(16) + b"\5\0abc"), {"history-unreadable"}, LOG.hex()),
    (put("main", LOG, b"\x63" + bytes(15) + b"\1"), {"history-unreadable"}, LOG.hex()),
    (log([EVENT] * 9), {"history-unreadable"}, LOG.hex()),
    (log([EVENT * 100]), {"history-unreadable"}, LOG.hex()),
    (log(next=2**62), {"history-unreadable"}, LOG.hex()),
    (log(next=1), {"history-unreadable"}, LOG.hex()),
    (log([EVENT, b"x"]), {"event-unreadable"}, event_key(NETWORK_ID, 81).hex()),
    (log(next=39), {"event-number"}, None),
    (log(first=40), {"event-number"}, None),
    (drop("main", LOG), {"event-number"}, None),
    (lease(A, network_id=77), {"lease-network"}, "10.0.15.240"),
    (lease(A + 7, network_id=POOL_ID), {"lease-network"}, "10.0.15.247"),
    (
        put("owners", OWNER, keys.address_key(NETWORK_ID, 4, A)),
        {"owner-pool", "lease-without-owner"},
        "10.0.15.240",
    ),
    (put("owners", GHOST, keys.address_key(77, 4, A)), {"owner-pool"}, "10.0.15.240"),
    (put("pools", b"net", POOL_ID.to_bytes(4, "big") + b"x"), {"ranges-unreadable"}, None),
    (put("pools", b"net", b"x"), {"pool-unreadable", "network-pool"}, None),
    (put("pools", b"net", (77).to_bytes(4, "big")), {"network-pool", "pool-without-network"}, None),
    (drop("pools", b"net"), {"network-pool"}, b"net".hex()),
    (put("networks", b"net", entry(NETWORK_ID, POOL_ID) + b"x"), {"network-pool"}, b"net".hex()),
    (put("pools", b"two", POOL_ID.to_bytes(4, "big")), {"pool-id"}, b"two".hex()),
    (put("pools", b"two", (7).to_bytes(4, "big")), {"pool-without-network"}, b"two".hex()),
    (put("pools", b"two", (7777).to_bytes(4, "big")), {"pool-without-network", "pool-id"}, None),
    (put("networks", b"two", entry(NETWORK_ID, 7)), {"network-id"}, b"two".hex()),
    (put("networks", b"two", entry(NETWORK_ID, POOL_ID)), {"network-id"}, b"two".hex()),
    (put("networks", b"zwei", entry(9, POOL_ID)), {"network-id"}, b"zwei".hex()),
    (
        put("networks", b"two", entry(9, 7)),
        {"network-id", "network-pool", "state-missing"},
        b"two".hex(),
    ),
    (put("networks", b"two", b"x"), {"network-unreadable"}, None),
    (put("networks", b"two", entry(9, 7)[:9]), {"network-unreadable"}, None),
    (
        put("networks", b"net", keys.pack_network(3, NETWORK_ID, POOL_ID, b"net")),
        {
            "network-unreadable",
            "pool-without-network",
            "owner-orphan",
            "event-orphan",
            "history-orphan",
        },
        None,
    ),
    (
        drop("networks", b"net"),
        {"pool-without-network", "owner-orphan", "event-orphan", "history-orphan"},
        None,
    ),
    (put("meta", b"last pool", b"\xff" * 4), {"pool-id"}, "last pool"),
    (put("meta", b"last pool", b"\0\0\0\1"), {"pool-id"}, b"net".hex()),
    *(
        (put(f"{what}{s}", (77).to_bytes(4, "big") + b"key", b"x"), {f"{what}-orphan"}, None)
        for what, s in (
            ("page", "s"),
            ("lease", "s"),
            ("owner", "s"),
            ("cooldown", ""),
            ("reservation", "s"),
            ("sticky", ""),
            ("event", "s"),
            ("missing", ""),
            ("block", "s"),
        )
    ),
]


@pytest.mark.parametrize(("damage", "kinds", "where"), DAMAGES)
def test_damage(
    damaged: Ipam,
    damage: Damage,
    kinds: set[str],
    where: str | None,
) -> None:
    """The damage is found, and nothing else is."""
    with damaged.store.write() as txn:
        damage(damaged.store, txn)
        inside = verify(Within(txn))
    found = verify(damaged.store)
    assert found == inside
    assert {each.kind for each in found} == kinds, "\n".join(map(str, found))
    if where is not None:
        assert where in {each.where for each in found}


def test_full_page_without_parent(damaged: Ipam) -> None:
    """A full page of which the page above does not know is named."""
    damaged.network("net").allocate_many([(f"d{each}", "eth0") for each in range(4200)])
    assert not verify(damaged.store)
    with damaged.store.write() as txn:
        tables.PAGES.delete(txn, page(1, A >> 24))
    kinds = [(each.kind, each.where) for each in verify(damaged.store)]
    assert kinds == [("page-parent", f"page {FIRST_PAGE + 1:#x} of level 0, IPv4")]


def test_reservation_is_counted(damaged: Ipam) -> None:
    """A reserved address has its bit set and no lease; a reserved address with one is assigned."""
    store = damaged.store
    value = 0x0A00F000
    with store.write() as txn:
        for each in (value, A):
            raw = Reservation(4, each, "", "", "why").pack()
            tables.RESERVATIONS.put(txn, at(each), raw)
        txn.pages(POOL_ID, 4).acquire(value)
        state(reserved=1, kept=2)(store, txn)
    assert not verify(store)


def test_empty_store(ipam: Ipam) -> None:
    """A store with nothing in it is consistent."""
    assert verify(ipam.store) == []


def test_finding_as_text() -> None:
    """A finding reads as a line."""
    finding = Finding("page-empty", "net", "page 0x1", "the page is stored, but has no bit set")
    assert str(finding) == "net: page 0x1: the page is stored, but has no bit set (page-empty)"


def owners(store: Store) -> dict[bytes, bytes]:
    """The readable assigned leases: whose addresses no repair may free."""
    found = {}
    with store.read() as txn:
        for key, raw in tables.LEASES.scan(txn):
            try:
                record = Record.read(raw)
            except StoreCorrupt:
                continue
            if record.state == ASSIGNED and len(key) in (9, 21) and key[4] in (4, 6):
                found[bytes(key)] = lease_record.texts_of(raw)
    return found


@pytest.mark.parametrize(("damage", "kinds", "where"), DAMAGES)
def test_repair(damaged: Ipam, damage: Damage, kinds: set[str], where: str | None) -> None:
    """Every damage is repaired and reported, and no owner loses an address."""
    store = damaged.store
    with store.write() as txn:
        damage(store, txn)
    before = owners(store)
    actions = repair(store)
    assert actions, (kinds, where)
    assert not verify(store)
    after = owners(store)
    assert all(after.get(key) == texts for key, texts in before.items())
    assert not repair(store)


def test_block_that_no_pool_has(damaged: Ipam) -> None:
    """A block of a cluster that begins inside a block is found, and its record removed."""
    whole = parse_ranges("10.64.0.0/16").sets[0]
    pool = Pool([RangeSet(whole.ranges, block_length=24)])
    with damaged.store.write() as txn:
        pool_id = Network(damaged.store, "cut", pool)._enter(txn).state.pool_id
        for base in (0x0A400100, 0x0A400210):
            blocks.put(txn, pool_id, Block(4, base, ACTIVE, 0, 1))
        blocks.list_open(txn, pool_id, pool.sets[0], 0x0A400100)
    assert [one.kind for one in verify(damaged.store)] == ["block-record"]
    assert [one.kind for one in repair(damaged.store)] == ["block"]
    with damaged.store.read() as txn:
        assert [one.base for one in blocks.read_all(txn, pool_id)] == [0x0A400100]


def test_repair_of_much_damage(damaged: Ipam) -> None:
    """Damage of many kinds is repaired at once."""
    store = damaged.store
    with store.write() as txn:
        for damage, _, _ in DAMAGES:
            with suppress(StoreCorrupt):  # one that changes what another has made unreadable
                damage(store, txn)
    before = owners(store)
    assert repair(store)
    assert not verify(store)
    assert before.items() <= owners(store).items()


@pytest.mark.parametrize(
    ("db", "raw"),
    [
        ("networks", entry(9, POOL_ID)),
        ("networks", entry(NETWORK_ID, 9)),
        ("networks", entry(NETWORK_ID, POOL_ID) + b"x"),
        ("networks", b"\3" + entry(NETWORK_ID, POOL_ID)[1:]),
        ("networks", b"x"),
        ("networks", None),
        ("pools", (9).to_bytes(4, "big") + parse_ranges(RANGES, ()).text.encode()),
    ],
)
def test_an_entry_is_mended_by_the_others(damaged: Ipam, db: str, raw: bytes | None) -> None:
    """Network, ids, ranges and history come back: two of entry, pool and leases agree."""
    net = damaged.network("net")
    events, ranges = list(net.history()), net.ranges
    table: tables.Table = getattr(tables, db.upper())
    with damaged.store.write() as txn:
        if raw is None:
            table.delete(txn, b"net")
        else:
            table.put(txn, b"net", raw)
    assert repair(damaged.store)
    with damaged.store.read() as txn:
        assert tables.NETWORKS.get(txn, b"net") == entry(NETWORK_ID, POOL_ID)
    assert list(damaged.network("net").history()) == events
    assert list(map(str, damaged.network("net").ranges)) == list(map(str, ranges))
    assert len(list(damaged.network("net").leases())) == 2 * 39


def test_entries_that_were_exchanged(damaged: Ipam) -> None:
    """An entry that was overwritten by another network's takes nothing from that network."""
    damaged.network("a", "10.7.0.0/24").allocate("a1")
    with damaged.store.write() as txn:
        raw = tables.NETWORKS.get(txn, b"net")
        assert raw is not None
        tables.NETWORKS.put(txn, b"a", raw)
    assert {one.kind for one in verify(damaged.store)} >= {"network-id"}
    assert repair(damaged.store)
    assert damaged.networks() == ["a", "net"]
    assert [one.container_id for one in damaged.network("a").leases()] == ["a1"]
    assert len(list(damaged.network("net").leases())) == 2 * 39


def test_lost_lease_is_reserved(damaged: Ipam) -> None:
    """An address whose owner is listed and whose lease is lost is given to nobody."""
    store = damaged.store
    with store.write() as txn:
        drop("leases", at(A))(store, txn)
        put("leases", at(A + 1), b"x")(store, txn)
    assert {each.kind for each in repair(store)} >= {"reservation", "owner"}
    net = damaged.network("net")
    assert [one.address for one in net.reservations()] == ["10.0.15.240", "10.0.15.241"]
    with pytest.raises(AddressInUse, match="reserved: repair"):
        net.allocate("new", addresses=["10.0.15.240"])
    assert [str(one) for one in net.unreserve("10.0.15.240")] == ["10.0.15.240"]
    net.allocate("new", addresses=["10.0.15.240"])


def test_repair_of_a_consistent_store(damaged: Ipam) -> None:
    """A store that agrees with itself is not written to."""
    file = Path(damaged.path, "data.mdb")
    before = file.read_bytes()
    assert repair(damaged.store) == []
    assert file.read_bytes() == before


def test_repair_gives_up_as_a_whole(damaged: Ipam, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be repaired leaves the store as it was, and the error says what to do."""
    store = damaged.store
    with store.write() as txn:
        state(assigned=1)(store, txn)
    before = verify(store)
    monkeypatch.setattr("fastipam.repair.pool.PoolRepair.run", lambda _: None)
    with pytest.raises(StoreCorrupt, match="nothing was changed") as caught:
        repair(store)
    assert caught.value.hint == "restore a backup"
    assert verify(store) == before


@pytest.mark.parametrize(
    "table", [one for one in tables.ALL if one is not tables.META], ids=lambda one: one.name
)
def test_every_database_is_checked_and_repaired(ipam: Ipam, table: tables.Table) -> None:
    """A record that no program wrote is found in whichever database it is, and removed."""
    ipam.network("net", ["10.1.0.0/24", "fd00::/64"]).allocate("a")
    key = keys.id_prefix(POOL_ID) + b"\4nonsense"
    with ipam.store.write() as txn:
        table.put(txn, key, b"nonsense")
    assert verify(ipam.store)
    repair(ipam.store)
    assert verify(ipam.store) == []
    with ipam.store.read() as txn:
        assert table.get(txn, key) != b"nonsense"
