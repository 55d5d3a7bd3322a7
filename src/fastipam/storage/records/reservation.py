"""The record of a reserved address, and its keys in the lists by owner and by expiry."""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error

from fastipam.addressing.addresses import BITS, format_ip
from fastipam.errors import CHECK_HINT, StoreCorrupt
from fastipam.storage.records import keys

_VALUE = Struct("<Q")
_DUE = Struct(">4scQB")


class Reservation:
    """A reserved address: only its owner may be assigned it, or nobody.

    ``owner`` is "namespace/name" of a pod, a container id, or "" for nobody. ``ifname`` limits the
    reservation to one interface; "" is any. ``until`` is the time of the pool's clock, in
    nanoseconds, at which it expires; 0 is never. One that expires is *sticky*: a release made it.
    """

    __slots__ = ("family", "ifname", "owner", "reason", "until", "value")

    def __init__(
        self,
        family: int,
        value: int,
        owner: str,
        ifname: str = "",
        reason: str = "",
        until: int = 0,
    ) -> None:
        self.family = family
        self.value = value
        self.owner = owner
        self.ifname = ifname
        self.reason = reason
        self.until = until

    @property
    def sticky(self) -> bool:
        """Whether the reservation keeps an address for the pod that had it."""
        return self.until != 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reservation):
            return NotImplemented
        return all(getattr(self, one) == getattr(other, one) for one in self.__slots__)

    def __hash__(self) -> int:
        return hash((self.family, self.value, self.owner))

    @property
    def address(self) -> str:
        """The address as text."""
        return format_ip(self.family, self.value)

    def pack(self) -> bytes:
        """Return the value that :meth:`read` reads."""
        texts = "\0".join((self.owner, self.ifname, self.reason))
        return _VALUE.pack(self.until) + keys.encode("owner or reason", texts)

    @classmethod
    def read(cls, family: int, value: int, raw: bytes) -> Reservation:
        """Return the reservation of a value. Raises StoreCorrupt."""
        try:
            texts = raw[_VALUE.size :].decode(keys.ENCODING, keys.ERRORS).split("\0")
            owner, ifname, reason = texts
            return cls(family, value, owner, ifname, reason, _VALUE.unpack_from(raw)[0])
        except (*keys.UNREADABLE, struct_error) as error:
            raise StoreCorrupt(
                f"the reservation of {format_ip(family, value)} cannot be read: the bytes are "
                f"{raw.hex()}",
                hint=CHECK_HINT,
            ) from error

    def is_over(self, clock: int) -> bool:
        """Return whether the reservation has expired by this time of the pool's clock."""
        return 0 < self.until <= clock

    def __repr__(self) -> str:
        return f"<Reservation {self.address} for {self.owner or 'nobody'!r}>"


def owner_index_key(prefix: bytes, owner: str, ifname: str) -> bytes:
    """Return the key under which ``sticky`` lists the addresses reserved for an owner."""
    return prefix + b"k" + keys.owner_key(b"", keys.owner_name(owner, ifname))


def due_key(prefix: bytes, until: int, family: int, value: int) -> bytes:
    """Return the key under which ``sticky`` lists an address by the time of its expiry."""
    return _DUE.pack(prefix, b"t", until, family) + value.to_bytes(BITS[family] // 8, "big")


def is_owner_index_key(key: bytes) -> bool:
    """Return whether this can be an :func:`owner_index_key`."""
    return key[4:5] == b"k" and len(key) == keys.OWNER_KEY_BYTES + 1


def is_due_key(key: bytes) -> bool:
    """Return whether this can be a :func:`due_key`."""
    return key[4:5] == b"t" and len(key) >= _DUE.size


def read_due_key(key: bytes) -> tuple[int, int, int]:
    """Return (until, family, address) of a :func:`due_key`."""
    _, _, until, family = _DUE.unpack_from(key)
    return until, family, int.from_bytes(key[_DUE.size :], "big")
