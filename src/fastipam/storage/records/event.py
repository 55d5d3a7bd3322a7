"""The record of an event: what happened to an address."""

from __future__ import annotations

from fastipam import _ledger
from fastipam._ledger import read_event
from fastipam.addressing.addresses import BITS, format_ip
from fastipam.errors import CHECK_HINT, StoreCorrupt
from fastipam.storage.records import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Kind = Literal[
        "assigned", "released", "gc", "swept", "rebooted", "released-by-operator", "reserved",
        "unreserved", "imported", "repaired",
    ]  # fmt: skip

# Hot records are packed in native code.
event_key = _ledger.event_key
pack_event = _ledger.pack_event
wall_ns_of = _ledger.wall_ns_of

ASSIGNED = 1  # an allocation
RELEASED = _ledger.RELEASED  # a DEL, or a release by the library
GC = _ledger.GC  # the runtime's list of valid attachments does not have its owner
SWEPT = 4  # its network namespace is gone
REBOOTED = _ledger.REBOOTED  # its owner did not outlive a boot
OPERATOR = _ledger.OPERATOR  # an operator released it
RESERVED = 7
UNRESERVED = 8
IMPORTED = _ledger.IMPORTED  # taken over from another plugin
REPAIRED = 10  # the store contradicted itself
KINDS: dict[int, Kind] = {
    ASSIGNED: "assigned",
    RELEASED: "released",
    GC: "gc",
    SWEPT: "swept",
    REBOOTED: "rebooted",
    OPERATOR: "released-by-operator",
    RESERVED: "reserved",
    UNRESERVED: "unreserved",
    IMPORTED: "imported",
    REPAIRED: "repaired",
}

_KEY_BYTES = 12
_HEAD_BYTES = 18  # before the address


class Event:
    """One event of an address; a value.

    ``wall_ns`` is wall clock nanoseconds since the epoch, ``kind`` a word of :data:`KINDS`,
    ``generation`` that of the lease. An event of a reservation has the reservation's owner in
    ``container_id``, or in the fields of the pod.
    """

    __slots__ = (
        "container_id", "family", "generation", "ifname", "kind", "netns", "pod_name",
        "pod_namespace", "pod_uid", "sequence", "value", "wall_ns",
    )  # fmt: skip
    if TYPE_CHECKING:
        sequence: int
        wall_ns: int
        kind: Kind
        family: int
        value: int
        generation: int
        container_id: str
        ifname: str
        netns: str
        pod_namespace: str
        pod_name: str
        pod_uid: str

    def __init__(self, key: bytes, raw: bytes) -> None:
        try:
            self.sequence = sequence_of(key)
            self.wall_ns, number, self.family, self.generation, self.value, texts = read_event(raw)
            self.kind = KINDS[number]
            (
                self.container_id,
                self.ifname,
                self.netns,
                self.pod_namespace,
                self.pod_name,
                self.pod_uid,
            ) = texts.decode(keys.ENCODING, keys.ERRORS).split("\0")
        except keys.UNREADABLE as error:
            raise StoreCorrupt(
                f"an event cannot be read: the bytes are {raw.hex()}", hint=CHECK_HINT
            ) from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return all(getattr(self, one) == getattr(other, one) for one in self.__slots__)

    def __hash__(self) -> int:
        return hash((self.sequence, self.wall_ns, self.value))

    @property
    def address(self) -> str:
        """The address as text."""
        return format_ip(self.family, self.value)

    def __repr__(self) -> str:
        return f"<Event {self.sequence} {self.kind} {self.address} {self.container_id!r}>"


def sequence_of(key: bytes) -> int:
    """Return the number in the key of an event."""
    if len(key) != _KEY_BYTES:
        raise ValueError(key)
    return int.from_bytes(key[4:], "big")


def pack_address(family: int, value: int) -> bytes:
    """Return an address as a packed event contains it, for :func:`is_of`."""
    return bytes((family,)) + value.to_bytes(BITS[family] // 8, "big")


def is_of(raw: bytes, address: bytes) -> bool:
    """Return whether a packed event is about an address, given as :func:`pack_address` packs it."""
    end = _HEAD_BYTES + len(address) - 1
    return raw[9:10] == address[:1] and raw[_HEAD_BYTES:end] == address[1:]
