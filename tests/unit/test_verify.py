"""The verifier: each kind of damage is found, and named by its address or key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import fastipam
from fastipam import Network
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
from fastipam.storage.records.network_state import NetworkState
from fastipam.storage.records.reservation import Reservation
from fastipam.storage.store import Store
from fastipam.storage.transaction import Transaction
from fastipam.storage.within import Within
from fastipam.verify import Finding, verify

Damage = Callable[[Store, Transaction], object]

ID = 1
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
        key = keys.address_key(ID, 4, value)
        record = Record.read(tables.LEASES.get(txn, key) or b"")
        for name, new in changes.items():
            setattr(record, name, new)
        tables.LEASES.put(txn, key, record.pack())

    return change


def state(**changes: int) -> Damage:
    """Rewrite numbers of the network's state."""

    def change(_: Store, txn: Transaction) -> None:
        key = keys.network_prefix(ID)
        numbers = NetworkState(ID, tables.STATES.get(txn, key))
        for name, new in changes.items():
            setattr(numbers, name, new)
        tables.STATES.put(txn, key, numbers.pack())

    return change


def page(level: int, index: int, family: int = 4) -> bytes:
    size = keys.page_index_bytes(family)
    return keys.family_prefix(ID, family) + bytes((level,)) + index.to_bytes(size, "big")


def at(value: int) -> bytes:
    return keys.address_key(ID, 4, value)


A = 0x0A000FF0  # c0's address; c7 is cooling, at A + 7
FIRST_PAGE = A >> 12
OWNER = keys.owner_key(keys.network_prefix(ID), keys.owner_name("c0", "eth0"))
GHOST = keys.owner_key(keys.network_prefix(ID), keys.owner_name("ghost", "eth0"))


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
    (put("owners", OWNER, b"\4\1"), {"owner-unreadable", "lease-without-owner"}, None),
    (put("owners", GHOST, b""), {"owner-addresses"}, GHOST.hex()),
    (put("owners", GHOST, at(A)[4:]), {"owner-without-lease"}, "10.0.15.240"),
    (put("owners", GHOST[:-1], at(A)[4:]), {"owner-key", "owner-without-lease"}, None),
    (
        put("cooldown", keys.cooldown_key(ID, 0, 5, 4, A), b""),
        {"cooldown-without-lease"},
        "10.0.15.240",
    ),
    (put("cooldown", keys.network_prefix(ID) + b"x", b""), {"cooldown-key"}, None),
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
        put("sticky", reservation_record.due_key(keys.network_prefix(ID), 7, 4, A), b""),
        {"sticky-without-reservation"},
        "10.0.15.240",
    ),
    (
        put(
            "sticky",
            reservation_record.owner_index_key(keys.network_prefix(ID), "c", ""),
            at(A)[4:],
        ),
        {"sticky-without-reservation"},
        "10.0.15.240",
    ),
    (put("sticky", keys.network_prefix(ID) + b"x", b""), {"sticky-unreadable"}, None),
    (put("sticky", keys.network_prefix(ID) + b"t", b""), {"sticky-unreadable"}, None),
    (put("events", event_key(ID, 0), b"x"), {"event-unreadable"}, None),
    (
        put("events", event_key(ID, 10**6), pack_event(1, 1, 1, (4, A), b"\0" * 5)),
        {"event-number"},
        None,
    ),
    (state(kept=1), {"state-count"}, "kept"),
    (state(assigned=1), {"state-count"}, "assigned"),
    (state(cooling=0), {"state-count"}, "cooling"),
    (state(reserved=1), {"state-count"}, "reserved"),
    (state(outside=1), {"state-count"}, "outside"),
    (state(clock=0), {"lease-released"}, "10.0.15.247"),
    (state(clock=2**63), {"state-unreadable"}, None),
    (state(generation=2**64 - 1), {"state-unreadable"}, None),
    (put("missing", at(A), b"x"), {"missing-unreadable"}, None),
    (put("missing", at(A)[:-1], bytes(24)), {"missing-unreadable"}, None),
    (put("meta", b"last network", b"\xff" * 4), {"network-id"}, "last network"),
    (put("meta", keys.policy_key(ID), b"x"), {"policy-unreadable"}, None),
    (put("meta", keys.policy_key(ID), b"\xff" * 8 + bytes(21)), {"policy-unreadable"}, None),
    *(
        (put("blocks", keys.network_prefix(ID) + key, b"x"), {"block-record"}, None)
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
    (drop("states", keys.network_prefix(ID)), {"state-missing"}, None),
    (put("states", keys.network_prefix(ID), b"x"), {"state-unreadable"}, None),
    (put("states", keys.network_prefix(ID) + b"x", b"x"), {"state-key"}, None),
    (put("networks", b"net", ID.to_bytes(4, "big") + b"x"), {"ranges-unreadable"}, None),
    (put("networks", b"two", ID.to_bytes(4, "big")), {"network-id"}, None),
    (put("networks", b"two", (9).to_bytes(4, "big")), {"network-id", "state-missing"}, None),
    (put("networks", b"two", b"x"), {"network-unreadable"}, None),
    *(
        (put(f"{what}{s}", (77).to_bytes(4, "big") + b"key", b"x"), {f"{what}-orphan"}, None)
        for what, s in (
            ("state", "s"),
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
        txn.pages(ID, 4).acquire(value)
        state(reserved=1, kept=2)(store, txn)
    assert not verify(store)


def test_empty_store(ipam: Ipam) -> None:
    """A store with nothing in it is consistent."""
    assert verify(ipam.store) == []


def test_finding_as_text() -> None:
    """A finding reads as a line."""
    finding = Finding("page-empty", "net", "page 0x1", "it is stored, and has no bit set")
    assert str(finding) == "net: page 0x1: it is stored, and has no bit set (page-empty)"


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
        network_id = Network(damaged.store, "cut", pool)._enter(txn).state.network_id
        for base in (0x0A400100, 0x0A400210):
            blocks.put(txn, network_id, Block(4, base, ACTIVE, 0, 1))
        blocks.list_open(txn, network_id, pool.sets[0], 0x0A400100)
    assert [one.kind for one in verify(damaged.store)] == ["block-record"]
    assert [one.kind for one in repair(damaged.store)] == ["block"]
    with damaged.store.read() as txn:
        assert [one.base for one in blocks.read_all(txn, network_id)] == [0x0A400100]


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
    monkeypatch.setattr("fastipam.repair.network.NetworkRepair.run", lambda _: None)
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
    key = keys.network_prefix(1) + b"\4nonsense"
    with ipam.store.write() as txn:
        table.put(txn, key, b"nonsense")
    assert verify(ipam.store)
    repair(ipam.store)
    assert verify(ipam.store) == []
    with ipam.store.read() as txn:
        assert table.get(txn, key) != b"nonsense"
