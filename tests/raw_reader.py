"""A checker of stores, written from docs/store-format.md alone: it uses LMDB, nothing of fastipam.

``python -m tests.raw_reader DIRECTORY`` prints what contradicts that page. It opens the store only
for reading, also while others write, and keeps a read transaction open until it has read all.
"""

from __future__ import annotations

import hashlib
import ipaddress
import struct
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import lmdb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATABASES = (
    "meta", "networks", "pools", "pages", "leases", "owners", "cooldown", "reservations", "sticky",
    "events", "missing", "blocks",
)  # fmt: skip
OF_POOLS = ("pages", "leases", "cooldown", "reservations", "sticky", "missing", "blocks")
OF_NETWORKS = ("owners", "events")
MAIN = "main"  # what the main database has beside the others' entries
META = {
    b"schema", b"durability", b"boot id", b"boot number", b"boot ids", b"boot began", b"boot nodes",
    b"swept", b"last network", b"last pool",
}  # fmt: skip
LENGTHS = {4: 4, 6: 16}
FULL = (1 << 4096) - 1
NO_SET = 65535

Address = tuple[int, int]  # family, number
Raw = dict[str, dict[bytes, bytes]]


class Damaged(ValueError):
    """A key or a value that is not what the page says."""


class Lease(NamedTuple):
    """A lease, as far as it is compared with others."""

    state: int
    range_set: int
    boot: int
    generation: int
    released: int
    network: int
    texts: tuple[bytes, ...]

    @property
    def owner(self) -> bytes:
        """The digest of container id, NUL, interface."""
        return digest(self.texts[0], self.texts[1])


class RangeSet(NamedTuple):
    """What a range set can assign: closed intervals; its subnets, and the length of its blocks."""

    family: int
    intervals: list[tuple[int, int]]
    holes: list[tuple[int, int]]
    subnets: list[tuple[int, int]]
    block_length: int

    def can_assign(self, value: int) -> bool:
        """Whether an address is in a range and in no hole."""
        inside = any(low <= value <= high for low, high in self.intervals)
        return inside and not any(low <= value <= high for low, high in self.holes)


def digest(first: bytes, second: bytes) -> bytes:
    """The digest of two texts with NUL between them."""
    return hashlib.blake2b(first + b"\0" + second, digest_size=16).digest()


def read_address(raw: bytes) -> Address:
    """One family and address, and nothing behind it."""
    found = read_addresses(raw)
    if len(found) != 1:
        raise Damaged(f"{raw.hex()} is not one address")
    return found[0]


def read_addresses(raw: bytes) -> list[Address]:
    """A list of families and addresses."""
    found, at = [], 0
    while at < len(raw):
        length = LENGTHS.get(raw[at], 0)
        if not length or len(raw) < at + 1 + length:
            raise Damaged(f"{raw.hex()} is no list of addresses")
        found.append((raw[at], int.from_bytes(raw[at + 1 : at + 1 + length], "big")))
        at += 1 + length
    return found


def read_held(raw: bytes) -> list[tuple[bytes, Address]]:
    """A list of pool ids, families and addresses."""
    found, at = [], 0
    while at < len(raw):
        length = LENGTHS.get(raw[at + 4], 0) if at + 4 < len(raw) else 0
        end = at + 5 + length
        found.append((raw[at : at + 4], read_address(raw[at + 4 : end])))
        at = end
    return found


def read_waiting(raw: bytes) -> list[bytes]:
    """The events at the end of a history."""
    if len(raw) < 16 or len(raw) > 1960:
        raise Damaged(f"a history has {len(raw)} bytes")
    found, at = [], 16
    while at < len(raw):
        end = at + 2 + int.from_bytes(raw[at : at + 2], "little")
        if end > len(raw):
            raise Damaged(f"an event ends behind its history: {raw.hex()}")
        found.append(raw[at + 2 : end])
        at = end
    if len(found) > 8:
        raise Damaged(f"{len(found)} events wait")
    return found


def read_ip(text: str) -> Address:
    """An address as text."""
    one = ipaddress.ip_address(text)
    return one.version, int(one)


def read_ranges(text: str) -> list[RangeSet]:
    """The range sets of a pool's text."""
    found = []
    for line in text.split("\n") if text else ():
        rest, _, block_length = line.partition("@")
        rest, _, static = rest.partition("~")
        ranges, _, excluded = rest.partition("!")
        intervals, holes, subnets = [], [], []
        family = 0
        for one in ranges.split("|"):
            subnet, start, end, gateway = one.split(" ")
            network = ipaddress.ip_network(subnet)
            family = network.version
            subnets.append((int(network.network_address), int(network.broadcast_address)))
            intervals.append((read_ip(start)[1], read_ip(end)[1]))
            if gateway != "-" and read_ip(gateway)[0] == family:
                holes.append((read_ip(gateway)[1],) * 2)
        for one in [*filter(None, excluded.split("|")), *filter(None, static.split("|"))]:
            low, high = one.split(" ")
            holes.append((read_ip(low)[1], read_ip(high)[1]))
        found.append(RangeSet(family, intervals, holes, subnets, int(block_length or 0)))
    return found


def read_lease(raw: bytes) -> Lease:
    """A lease."""
    texts = tuple(raw[60:].split(b"\0"))
    if len(raw) < 60 or raw[0] not in (1, 2) or len(texts) != 6:
        raise Damaged(f"{raw.hex()} is no lease")
    range_set, boot, generation, _, released = struct.unpack_from("<HIQQQ", raw, 2)
    network = int.from_bytes(raw[56:60], "little")
    return Lease(raw[0], range_set, boot, generation, released, network, texts)


def load(path: str | Path) -> Raw:
    """All keys and values of a store, as of one moment."""
    with lmdb.open(str(path), readonly=True, max_dbs=len(DATABASES)) as env:
        known = {name: env.open_db(name.encode(), create=False) for name in DATABASES}
        with env.begin() as txn:
            with txn.cursor() as cursor:
                main = {bytes(key): bytes(value) for key, value in cursor}
            entries = {key: main.pop(key) for key in list(main) if key[:1] not in (b"P", b"N")}
            if entries.keys() != {name.encode() for name in DATABASES}:
                raise Damaged(f"its databases are {sorted(entries)}")
            return {
                MAIN: main,
                **{
                    name: {bytes(key): bytes(value) for key, value in txn.cursor(handle)}
                    for name, handle in known.items()
                },
            }


def readers(path: str | Path) -> list[str]:
    """The processes, threads and transactions that read, without those that were killed."""
    with lmdb.open(str(path), readonly=True) as env:
        env.reader_check()
        return [line for line in env.readers().splitlines()[1:] if line.split()[-1].isdecimal()]


def check(raw: Raw) -> list[str]:
    """What contradicts the page, [] when nothing does."""
    found = list(_meta(raw))
    ids: dict[bytes, bytes] = {}
    pools: dict[bytes, bytes] = {}
    for name, value in raw["networks"].items():
        if len(value) < 10 or value[0] != 4 or value[1:5] in ids:
            found.append(f"network {name!r} has no id of its own: {value.hex()}")
        elif raw["pools"].get(value[9:], b"")[:4] != value[5:9]:
            found.append(f"network {name!r} has no pool: {value.hex()}")
        ids[value[1:5]] = name
        pools[value[5:9]] = value[9:]
    found += [f"pool {one!r} has no network" for one in raw["pools"].keys() - pools.values()]
    for what, known in (("network", ids), ("pool", pools)):
        last = raw["meta"].get(f"last {what}".encode(), bytes(4))
        found += [
            f"{what} {name!r}: its id is above the last"
            for one, name in known.items()
            if one > last
        ]
    found += _orphans(raw, ids, pools)
    boot = int.from_bytes(raw["meta"].get(b"boot number", b""), "big")
    for pool, name in pools.items():
        text = name.decode("utf-8", "backslashreplace")
        ranges = raw["pools"].get(name, b"")[4:]
        networks = [one for one, named in ids.items() if raw["networks"][named][5:9] == pool]
        mine = {
            database: {key[4:]: one for key, one in raw[database].items() if key[:4] == pool}
            for database in OF_POOLS
        } | {
            database: {key: one for key, one in raw[database].items() if key[:4] in networks}
            for database in OF_NETWORKS
        }
        histories = {one: raw[MAIN].get(b"N" + one, bytes(16)) for one in networks}
        try:
            sets = read_ranges(ranges.decode())
            own = [read_own(raw["meta"].get(b"own ranges " + one)) or sets for one in networks]
        except ValueError as error:
            found.append(f"{text}: ranges {ranges!r}: {error}")
            continue
        one = _Pool(pool, mine, raw[MAIN].get(b"P" + pool, b""), histories, sets, boot)
        found += [f"{text}: {line}" for line in one.run()]
        found += [f"{text}: it lacks ranges of a network" for part in own if not _has(sets, part)]
    return found


def read_own(value: bytes | None) -> list[RangeSet]:
    """The range sets of a network itself, none without a record."""
    if value is not None and value[:1] not in (b"\0", b"\1"):
        raise Damaged(f"own ranges {value!r}")
    return [] if value is None else read_ranges(value[1:].decode())


def _has(sets: list[RangeSet], part: list[RangeSet]) -> bool:
    """Whether a pool can assign the ends of what a network can, but for gateways of others."""
    return all(
        any(each.family == one.family and each.can_assign(end) for each in sets)
        for one in part
        for low, high in one.intervals
        for end in (low, high)
        if one.can_assign(end)
    )


def _orphans(raw: Raw, networks: dict[bytes, bytes], pools: dict[bytes, bytes]) -> Iterator[str]:
    """Yield what has the id of no network, or of no pool."""
    for databases, known in ((OF_POOLS, pools), (OF_NETWORKS, networks)):
        for database in databases:
            orphans = {key[:4] for key in raw[database]} - known.keys()
            yield from (f"{database}: nothing has the id {one.hex()}" for one in orphans)
    for key in raw[MAIN]:
        if key[1:] not in (pools if key[:1] == b"P" else networks):
            yield f"the main database has {key.hex()}, and nothing has its id"


def _meta(raw: Raw) -> Iterator[str]:
    meta = raw["meta"]
    if meta.get(b"schema") != (4).to_bytes(4, "big"):
        yield f"schema {meta.get(b'schema')!r}"
    if meta.get(b"durability") not in (b"durable", b"relaxed"):
        yield f"durability {meta.get(b'durability')!r}"
    for key in (b"boot number", b"swept", b"last network", b"last pool"):
        if key in meta and len(meta[key]) != 4:
            yield f"{key.decode()} {meta[key]!r}"
    if not int.from_bytes(meta.get(b"boot number", b""), "big"):
        yield "there is no boot number"
    if meta.get(b"swept", b"") > meta.get(b"boot number", b""):
        yield "the swept boot has not been yet"
    if len(meta.get(b"boot began", bytes(16))) != 16:
        yield f"boot began {meta[b'boot began']!r}"
    if len(meta.get(b"boot ids", b"").split(b" ")) > 32:
        yield "more boot ids than 32"
    for node in meta.get(b"boot nodes", b"").split():
        inode, _, started = node.removesuffix(b":r").partition(b":")
        if not inode.isdigit() or (started == b"") != (inode == b"4026531836"):
            yield f"boot node {node!r}"
    ids = {value[1:5] for value in raw["networks"].values()}
    pools = {value[:4] for value in raw["pools"].values()}
    for key, value in meta.items():
        if key.startswith(b"policy "):
            if key[7:] not in ids:
                yield f"a policy of no network: {key!r}"
            if len(value) != 29 or value[8] > 1:
                yield f"the policy {key!r} is {value.hex()}"
        elif key.startswith(b"ranges "):
            if key[7:] not in pools:
                yield f"earlier ranges of no pool: {key!r}"
            texts = value[8:].decode("utf-8", "replace").split("\0")
            try:
                readable = all(read_ranges(text) for text in texts)
            except ValueError:
                readable = False
            if len(value) < 9 or len(texts) > 4 or not readable:
                yield f"the earlier ranges {key!r} are {value!r}"
        elif key.startswith(b"own ranges "):
            if key[11:] not in ids:
                yield f"own ranges of no network: {key!r}"
        elif key not in META:
            yield f"meta has the key {key!r}, which is not in the document"


class _Pool:
    """One pool and its networks: the databases (those of the pool without its id), the records in
    the main database, the range sets, and what was found.
    """

    def __init__(
        self,
        pool: bytes,
        raw: Raw,
        numbers: bytes,
        histories: dict[bytes, bytes],
        sets: list[RangeSet],
        boot: int,
    ) -> None:
        self._pool = pool
        self._raw = raw
        self._numbers, self._histories = numbers, histories
        self._sets = sets
        self._boot = boot
        self._found: list[str] = []
        self._leases: dict[Address, Lease] = {}
        self._reserved: dict[Address, tuple[int, bytes, bytes]] = {}
        self._state: tuple[int, ...] = ()

    def run(self) -> list[str]:
        """Read the records, then compare them."""
        self._read()
        for compare in (
            self._compare_leases, self._compare_owners, self._compare_queue, self._compare_kept,
            self._compare_bits, self._compare_state, self._compare_notes, self._compare_blocks,
        ):  # fmt: skip
            try:
                compare()
            except (ValueError, struct.error) as error:
                self._found.append(f"{compare.__name__}: {error}")
        return self._found

    def _say(self, address: Address, text: str) -> None:
        self._found.append(f"{ipaddress.ip_address(_packed(address))}: {text}")

    def _read(self) -> None:
        for key, value in self._raw["leases"].items():
            try:
                self._leases[read_address(key)] = read_lease(value)
            except (ValueError, struct.error) as error:
                self._found.append(f"lease {key.hex()}: {error}")
        for key, value in self._raw["reservations"].items():
            try:
                (until,) = struct.unpack_from("<Q", value)
                owner, ifname, _ = value[8:].split(b"\0")
                self._reserved[read_address(key)] = until, owner, ifname
            except (ValueError, struct.error) as error:
                self._found.append(f"reservation {key.hex()}: {error}")
        try:
            self._state = struct.unpack_from("<QQQQQQqQI", self._numbers)
            rest = len(self._numbers) - 85
            if rest < 0 or rest % 17:
                raise Damaged(f"its cursors have {rest} bytes")
        except (ValueError, struct.error) as error:
            self._found.append(f"its numbers cannot be read: {error}")
            self._state = (0,) * 9

    def _compare_leases(self) -> None:
        newest, clock, swept = self._state[0], self._state[5], self._state[8]
        by_generation: dict[int, Address] = {}
        for address, lease in self._leases.items():
            if (lease.released != 0) != (lease.state == 2) or lease.released > clock:
                self._say(address, f"state {lease.state}, released at {lease.released} of {clock}")
            if not 1 <= lease.generation <= newest:
                self._say(address, f"generation {lease.generation} of {newest}")
            if lease.generation in by_generation:
                self._say(address, f"generation {lease.generation} is another lease's")
            by_generation[lease.generation] = address
            if lease.network.to_bytes(4, "big") not in self._histories:
                self._say(address, f"it is of network {lease.network}")
            if lease.boot > self._boot:
                self._say(address, f"boot {lease.boot} has not been yet")
            if swept == self._boot and lease.state == 1 and lease.boot != swept:
                self._say(address, f"assigned in boot {lease.boot}, whose leases are released")
            sets = len(self._sets)
            if lease.state == 2 and lease.range_set >= sets and lease.range_set != NO_SET:
                self._say(address, f"there is no range set {lease.range_set}")
            length = self._raw["leases"][_packed_key(address)][1]
            if length > 8 * LENGTHS[address[0]]:
                self._say(address, f"its prefix length is {length}")

    def _compare_owners(self) -> None:
        listed: dict[Address, bytes] = {}
        for key, value in self._raw["owners"].items():
            entries = read_held(value)
            if len(key) != 20 or not entries:
                self._found.append(f"owner {key.hex()} has {len(entries)} addresses")
            for pool, address in entries:
                if pool != self._pool:
                    self._say(address, f"it is listed in pool {pool.hex()}")
                if address in listed:
                    self._say(address, "it is listed twice")
                listed[address] = key
                lease = self._leases.get(address)
                owner = lease and lease.network.to_bytes(4, "big") + lease.owner
                if lease is None or lease.state != 1 or owner != key:
                    self._say(address, f"listed of owner {key.hex()}, whose lease it has not")
        for address, lease in self._leases.items():
            if lease.state == 1 and address not in listed:
                self._say(address, "assigned, and in no owner's list")

    def _compare_queue(self) -> None:
        queued = set()
        for key, value in self._raw["cooldown"].items():
            range_set, released = struct.unpack_from(">HQ", key)
            address = read_address(key[10:])
            queued.add(address)
            lease = self._leases.get(address)
            wanted = (2, range_set, released)
            if value or not lease or (lease.state, lease.range_set, lease.released) != wanted:
                self._say(
                    address, f"in the queue of set {range_set} since {released}, lease {lease}"
                )
        for address, lease in self._leases.items():
            if lease.state == 2 and address not in queued:
                self._say(address, "cooling, and not in the queue")

    def _compare_kept(self) -> None:
        by_owner: dict[bytes, set[Address]] = defaultdict(set)
        due = set()
        for address, (until, owner, ifname) in self._reserved.items():
            if owner:
                by_owner[digest(owner, ifname)].add(address)
            if until:
                due.add((until, address))
            if address in self._leases and self._leases[address].state == 2:
                self._say(address, "cooling and reserved")
        for key, value in self._raw["sticky"].items():
            if key[:1] == b"k":
                addresses = read_addresses(value)
                wanted = by_owner.pop(key[1:], set())
                if set(addresses) != wanted or len(addresses) != len(wanted):
                    self._found.append(f"kept for {key[1:].hex()}: {addresses}, not {wanted}")
            else:
                (until,) = struct.unpack_from(">Q", key, 1)
                entry = until, read_address(key[9:])
                if key[:1] != b"t" or value or entry not in due:
                    self._found.append(f"sticky {key.hex()} is of no reservation")
                due.discard(entry)
        self._found += [f"kept for {key.hex()}, and not listed" for key in by_owner]
        self._found += [f"ends at {entry}, which is not listed" for entry in due]

    def _compare_bits(self) -> None:
        used = self._leases.keys() | self._reserved.keys()
        for family in LENGTHS:
            below = {value for its_family, value in used if its_family == family}
            for level in range(11):
                bits, full = self._level(family, level)
                for value in below ^ bits:
                    have = "set" if value in bits else "clear"
                    self._found.append(f"level {level} of {family}: bit {value:#x} is {have}")
                below = full
        for key in self._raw["pages"]:
            if len(key) < 2 or key[0] not in LENGTHS or key[1] > 10:
                self._found.append(f"{key.hex()} is no key of a page")

    def _level(self, family: int, level: int) -> tuple[set[int], set[int]]:
        bits, full = set(), set()
        for key, value in self._raw["pages"].items():
            if key[:2] != bytes((family, level)):
                continue
            word, first = int.from_bytes(value, "little"), int.from_bytes(key[2:], "big")
            if len(key) != 2 + LENGTHS[family] or len(value) != 512 or not word:
                self._found.append(f"page {key.hex()}: {len(value)} bytes, {word.bit_count()} bits")
            if word == FULL:
                full.add(first)
            while word:
                bits.add(first * 4096 + (word & -word).bit_length() - 1)
                word &= word - 1
        return bits, full

    def _compare_state(self) -> None:
        used = self._leases.keys() | self._reserved.keys()
        states = [lease.state for lease in self._leases.values()]
        outside = sum(
            not any(one.family == family and one.can_assign(value) for one in self._sets)
            for family, value in used
        )
        wanted = {
            "assigned": (self._state[1], states.count(1)),
            "cooling": (self._state[2], states.count(2)),
            "reserved": (self._state[3], len(self._reserved.keys() - self._leases.keys())),
            "outside": (self._state[4], outside),
            "kept": (self._state[7], len(self._reserved)),
        }
        for name, (counted, found) in wanted.items():
            if counted != found:
                self._found.append(f"its pool counts {counted} {name}, there are {found}")
        families = self._numbers[85::17]
        self._found += [f"a cursor of family {one}" for one in families if one not in (0, 4, 6)]

    def _compare_notes(self) -> None:
        for network, history in self._histories.items():
            self._compare_events(network, history)
        self._compare_missing()

    def _compare_events(self, network: bytes, history: bytes) -> None:
        following, oldest = struct.unpack_from("<QQ", history)
        waiting = read_waiting(history)
        first = following - len(waiting)
        events = {first + at: value for at, value in enumerate(waiting)}
        if not 0 <= oldest <= first:
            self._found.append(f"event {first} is there, the oldest that is kept is {oldest}")
        mine = {key[4:]: one for key, one in self._raw["events"].items() if key[:4] == network}
        for key, value in mine.items():
            number = int.from_bytes(key, "big")
            if len(key) != 8 or not oldest <= number < first:
                self._found.append(f"event {number} is not one of {oldest}..{first}")
            events[number] = value
        for number, value in events.items():
            _, kind, family, generation = struct.unpack_from("<QBBQ", value)
            texts = value[18 + LENGTHS.get(family, 0) :].split(b"\0")
            if not 1 <= kind <= 10 or family not in LENGTHS or len(texts) != 6:
                self._found.append(f"event {number}: {value.hex()}")
            if generation > self._state[0] or (kind in (7, 8) and generation):
                self._found.append(f"event {number} of kind {kind}: generation {generation}")

    def _compare_missing(self) -> None:
        for key, value in self._raw["missing"].items():
            read_address(key)
            if len(value) != 24:
                self._found.append(f"the note {key.hex()} is {value.hex()}")

    def _compare_blocks(self) -> None:
        states: dict[Address, int] = {}
        opened = []
        for key, value in self._raw["blocks"].items():
            if key[:1] == b"b":
                states[read_address(key[1:])] = value[0]
                if len(value) != 25 or not 1 <= value[0] <= 5:
                    self._found.append(f"the block {key.hex()} is {value.hex()}")
            elif key[:1] == b"o":
                opened.append(read_address(key[1:2] + key[6:]))
                if value:
                    self._found.append(f"the open block {key.hex()} is {value.hex()}")
            elif key == b"n":
                if len(value) < 40 or value[40:].count(b"\0") != 3:
                    self._found.append(f"the node is {value.hex()}")
            elif key == b"h":
                if len(value) < 16 or value[16:17] not in (b"", b"="):
                    self._found.append(f"what was heard is {value.hex()}")
            elif key != b"p" or len(value) != 12:
                self._found.append(f"blocks {key.hex()} is {value.hex()}")
        for family, first in states:
            if not any(_is_block(one, family, first) for one in self._sets):
                self._say((family, first), "no block of a range set begins here")
        for address, state in states.items():
            serves = state != 2 or address in opened or self._stands_in(address)
            if not serves and self._has_free(address):
                self._say(address, "its block has free addresses, and is not open")

    def _stands_in(self, address: Address) -> bool:
        """Whether the round robin of a block's range set stands in it."""
        cursors = self._numbers[85:]
        for index, one in enumerate(self._sets):
            raw = cursors[17 * index : 17 * index + 17]
            if raw and raw[0] == one.family and _is_block(one, *address):
                value = int.from_bytes(raw[1:], "big")
                return 0 <= value - address[1] < _block_size(one)
        return False

    def _has_free(self, address: Address) -> bool:
        family, first = address
        used = self._leases.keys() | self._reserved.keys()
        return any(
            one.can_assign(value) and (family, value) not in used
            for one in self._sets
            if _is_block(one, family, first)
            for value in range(first, first + _block_size(one))
        )


def _block_size(one: RangeSet) -> int:
    """The number of addresses of a block."""
    return int(1 << (8 * LENGTHS[one.family] - one.block_length))


def _is_block(one: RangeSet, family: int, first: int) -> bool:
    """Whether a block of a range set begins at an address."""
    inside = any(low <= first <= high for low, high in one.subnets)
    mine = one.block_length > 0 and one.family == family
    return mine and inside and first % _block_size(one) == 0


def _packed(address: Address) -> bytes:
    return address[1].to_bytes(LENGTHS[address[0]], "big")


def _packed_key(address: Address) -> bytes:
    return bytes((address[0],)) + _packed(address)


def main() -> int:
    """Print what contradicts the document; 1 if something does."""
    found = check(load(sys.argv[1]))
    for one in found:
        print(one)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
