"""The keys of the store, and the texts and addresses inside its values.

Keys are big-endian, so that LMDB's order is the order of addresses; values are little-endian. Texts
inside a value are UTF-8 and keep undecodable bytes (``surrogateescape``). They are divided by NUL,
which no environment variable can contain. ``docs/store-format.md`` lists all keys and values.
"""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error

from fastipam.addressing.addresses import BITS, V4
from fastipam.errors import CHECK_HINT, ConfigError, StoreCorrupt

try:  # hashlib wraps this module; without hashlib a bare start takes a quarter less time
    from _blake2 import blake2b
except ImportError:  # pragma: no cover  # an interpreter that builds it in another way
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_ID = Struct(">I")
# Returns what every key of a pool, or of a network, begins with, given its id. It is the C method
# itself, because a call needs it several times.
id_prefix = _ID.pack
_NETWORK = Struct(">BII")  # schema, network id, pool id
# What begins the key of a pool's numbers, and that of a network's history, in the main database.
STATE_MARK, LOG_MARK = b"P", b"N"
_ADDRESS_KEY = {4: Struct(">IBI"), 6: Struct(">IB16s")}
_COOLDOWN = Struct(">IHQB")
_DIGEST_BYTES = 16
OWNER_KEY_BYTES = _ID.size + _DIGEST_BYTES
# How many bytes stand before the address in a key of ``cooldown`` and in an address's key, for
# those who read a million of them.
COOLDOWN_HEAD = _COOLDOWN.size
ADDRESS_HEAD = 5
PAGE_BITS = 4096  # addresses, or pages of the level below, that a page covers
PAGE_BYTES = PAGE_BITS // 8
LEVELS = 11  # of pages: 11 times 12 bits cover an IPv6 address
# The range set number of a lease that none of its pool's range sets contains. It is larger than
# that of any set, so its queue is the last one.
NO_SET = (1 << 16) - 1
# Generations, event numbers and nanoseconds only grow, from 0 or from now, and none has more bits
# before the year 2116. A number with more bits is damage, and would not fit its field one day.
MOST_BITS = 62
# What reading a damaged record raises. Not Exception: a signal handler may raise there as well.
UNREADABLE = (ValueError, KeyError, IndexError, TypeError, OverflowError, struct_error)
ENCODING = "utf-8"
ERRORS = "surrogateescape"


def id_of(raw: bytes | None) -> int:
    """Return the id that a key, or a value of ``pools``, begins with; 0 for None."""
    return 0 if raw is None else int.from_bytes(raw[:4], "big")


def pack_network(schema: int, network_id: int, pool_id: int, pool: bytes) -> bytes:
    """Return the value of a network in ``networks``; ``pool`` is its pool's encoded name."""
    return _NETWORK.pack(schema, network_id, pool_id) + pool


def unpack_network(raw: bytes) -> tuple[int, int, int, bytes] | None:
    """Return (schema, network id, pool id, the pool's encoded name) of a :func:`pack_network`.

    None for another value. The schema comes first in every schema from 4 on.
    """
    if len(raw) <= _NETWORK.size:
        return None
    return *_NETWORK.unpack_from(raw), raw[_NETWORK.size :]


def pack_pool(pool_id: int, text: str) -> bytes:
    """Return the value of a pool in ``pools``: its id, and the text of its ranges."""
    return _ID.pack(pool_id) + text.encode()


def unpack_pool(raw: bytes) -> tuple[int, str]:
    """Return (pool id, text of its ranges) of a :func:`pack_pool`.

    Raises UnicodeDecodeError when the text is damaged.
    """
    return int.from_bytes(raw[:4], "big"), raw[4:].decode()


def policy_key(network_id: int) -> bytes:
    """Return the key in ``meta`` of the policy of a network's last assignment."""
    return b"policy " + id_prefix(network_id)


def state_key(pool_id: int) -> bytes:
    """Return the key in the main database of a pool's numbers."""
    return STATE_MARK + id_prefix(pool_id)


def log_key(network_id: int) -> bytes:
    """Return the key in the main database of a network's history."""
    return LOG_MARK + id_prefix(network_id)


def family_prefix(pool_id: int, family: int) -> bytes:
    """Return what the key of every page, lease and reservation of a family begins with."""
    return _ID.pack(pool_id) + bytes((family,))


def page_index_bytes(family: int) -> int:
    """Return how many bytes of a page's key are the page index."""
    return BITS[family] // 8


def page_key_prefix(pool_id: int, family: int, level: int) -> bytes:
    """Return what the key of every page of a level begins with."""
    return _ID.pack(pool_id) + bytes((family, level))


def page_key(pool_id: int, family: int, level: int, index: int) -> bytes:
    """Return the key of a page."""
    prefix = page_key_prefix(pool_id, family, level)
    return prefix + index.to_bytes(page_index_bytes(family), "big")


def page_index_of(key: bytes) -> int:
    """Return the page index at the end of a page's key."""
    return int.from_bytes(key[6:], "big")


def read_page(raw: bytes) -> int:
    """Return a page as a number whose bit i is the i-th of the page."""
    return int.from_bytes(raw, "little")


def address_key(pool_id: int, family: int, value: int) -> bytes:
    """Return the key of an address in ``leases``, ``reservations`` and ``missing``.

    Raises StoreCorrupt when the number is not an address of this family.
    """
    try:
        if family == V4:
            return _ADDRESS_KEY[4].pack(pool_id, family, value)
        return _ADDRESS_KEY[6].pack(pool_id, family, value.to_bytes(16, "big"))
    except (struct_error, OverflowError) as error:
        message = f"{value:#x} is named as an address, and is none of IPv{family}"
        raise StoreCorrupt(message, hint=CHECK_HINT) from error


def is_address_key(key: bytes) -> bool:
    """Return whether this can be an :func:`address_key`."""
    family = key[4] if len(key) > 4 else 0
    return family in BITS and len(key) == 5 + BITS[family] // 8


def address_of(key: bytes) -> tuple[int, int] | None:
    """Return (family, address) of an :func:`address_key`, or None for another key."""
    return (key[4], int.from_bytes(key[5:], "big")) if is_address_key(key) else None


def read_address_key(key: bytes) -> tuple[int, int, int]:
    """Return (pool id, family, address) of an :func:`address_key`."""
    return _ID.unpack_from(key)[0], key[4], int.from_bytes(key[5:], "big")


def encode(field: str, text: str) -> bytes:
    """Return the bytes of a text in the store.

    Raises ConfigError for half a surrogate pair, which JSON can spell.
    """
    try:
        return text.encode(ENCODING, ERRORS)
    except UnicodeEncodeError as error:
        message = f"{field} {text!r} is no text: {error}"
        raise ConfigError(message, field=field, value=text) from None


def owner_name(container_id: str, ifname: str) -> bytes:
    """Return the name of an owner: a lease's texts begin with it, and the owner's key hashes it."""
    name = f"{container_id}\0{ifname}"
    return name.encode() if name.isascii() else encode("container_id or ifname", name)


def owner_key(prefix: bytes, name: bytes) -> bytes:
    """Return the key of an owner, with a digest of its :func:`owner_name`.

    An LMDB key has at most 511 bytes and a container id has no limit. Among 2**40 owners, two
    collide in 16 bytes of BLAKE2b with a probability of 2**-49. A lease names its owner in full,
    and that is compared before an address is released.
    """
    return prefix + blake2b(name, digest_size=_DIGEST_BYTES).digest()


def pack_addresses(addresses: Iterable[tuple[int, int]]) -> bytes:
    """Return an owner's value in ``sticky``, from its (family, address) pairs."""
    return b"".join(
        bytes((family,)) + value.to_bytes(BITS[family] // 8, "big") for family, value in addresses
    )


def read_addresses(raw: bytes) -> list[tuple[int, int]]:
    """Return the pairs of :func:`pack_addresses`. Raises StoreCorrupt."""
    return [one[1:] for one in _read_listed(raw, 0)]


def pack_held(pool_id: int, addresses: Sequence[tuple[int, int]]) -> bytes:
    """Return an owner's value in ``owners``: the keys of its leases, in the order of the sets."""
    if len(addresses) == 1:  # of nearly all owners
        return address_key(pool_id, *addresses[0])
    return b"".join(address_key(pool_id, *one) for one in addresses)


def read_held(raw: bytes, pool_id: int) -> list[tuple[int, int]]:
    """Return the (family, address) pairs of :func:`pack_held`.

    Raises StoreCorrupt, also for an address of another pool than the network's.
    """
    if len(raw) == 9 and raw[4] == V4:  # nearly all of them
        found = [(*_ADDRESS_KEY[4].unpack(raw),)]
    else:
        found = list(read_any_held(raw))
    if any(one[0] != pool_id for one in found):
        raise StoreCorrupt(
            f"an owner's address is of another pool than {pool_id}: {raw.hex()}", hint=CHECK_HINT
        )
    return [one[1:] for one in found]


def read_any_held(raw: bytes) -> list[tuple[int, int, int]]:
    """Return (pool id, family, address) of each lease of :func:`pack_held`. Raises StoreCorrupt."""
    return _read_listed(raw, _ID.size)


def _read_listed(raw: bytes, head: int) -> list[tuple[int, int, int]]:
    """Return (id, family, address) of each entry, whose id has ``head`` bytes."""
    found = []
    at = 0
    while at < len(raw):
        start = at + head + 1
        family = raw[start - 1] if start <= len(raw) else 0
        end = start + BITS.get(family, 0) // 8
        if end == start or end > len(raw):
            raise StoreCorrupt(f"an owner's addresses cannot be read: {raw.hex()}", hint=CHECK_HINT)
        found.append((id_of(raw[at : at + head]), family, int.from_bytes(raw[start:end], "big")))
        at = end
    return found


def check_owner(container_id: str, ifname: str) -> None:
    """Raise ConfigError when a record cannot hold the owner."""
    strings = type(container_id) is str and type(ifname) is str
    if strings and container_id and "\0" not in container_id and "\0" not in ifname:
        return
    for field, text in (("container_id", container_id), ("ifname", ifname)):
        if not isinstance(text, str):
            raise ConfigError(f"{field} has to be a text, not {text!r}", field=field, value=text)
        if "\0" in text:
            raise ConfigError(f"{field} {text!r} contains NUL", field=field, value=text)
    if not container_id:
        raise ConfigError("container_id is empty", field="container_id", value=container_id)


def cooldown_key(pool_id: int, set_index: int, released: int, family: int, value: int) -> bytes:
    """Return the place of a cooling address in the queue of its range set, by release time."""
    return _COOLDOWN.pack(pool_id, set_index, released, family) + value.to_bytes(
        BITS[family] // 8, "big"
    )


def cooldown_prefix(pool_id: int, set_index: int) -> bytes:
    """Return what every key in the queue of a range set begins with."""
    return _COOLDOWN.pack(pool_id, set_index, 0, 0)[:6]


def is_cooldown_key(key: bytes) -> bool:
    """Return whether this can be a :func:`cooldown_key`."""
    family = key[COOLDOWN_HEAD - 1] if len(key) >= COOLDOWN_HEAD else 0
    return family in BITS and len(key) == COOLDOWN_HEAD + BITS[family] // 8


def read_cooldown_key(key: bytes) -> tuple[int, int, int, int, int]:
    """Return (pool id, set index, released, family, address) of a :func:`cooldown_key`.

    Raises StoreCorrupt when the key is too short.
    """
    if len(key) < _COOLDOWN.size:
        raise StoreCorrupt(f"the cool-down queue has a key {key.hex()}", hint=CHECK_HINT)
    return (*_COOLDOWN.unpack_from(key), int.from_bytes(key[_COOLDOWN.size :], "big"))
