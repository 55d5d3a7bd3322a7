"""The keys of the store, and the texts and addresses inside its values.

Keys are big-endian, so that LMDB's order is the order of addresses; values are little-endian. Texts
inside a value are UTF-8 and keep undecodable bytes (``surrogateescape``). They are divided by NUL,
which no environment variable can contain. ``docs/store-format.md`` lists all keys and values.
"""

from __future__ import annotations

from fastipam import _ledger
from fastipam import late_errors as errors
from fastipam.addressing.addresses import BITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


# Hot records are packed in native code.
NO_SET = _ledger.NO_SET
address_key = _ledger.address_key
check_owner = _ledger.check_owner
cooldown_key = _ledger.cooldown_key
encode = _ledger.encode
event_key = _ledger.event_key
id_prefix = _ledger.id_prefix
owner_key = _ledger.owner_key
owner_name = _ledger.owner_name
pack_held = _ledger.pack_held
read_cooldown_key = _ledger.read_cooldown_key
read_held = _ledger.read_held

_ID_BYTES = 4
_NETWORK_BYTES = 9  # schema, network id, pool id
# Prefixes of keys in the main database: of a pool's numbers, and of a network's history.
STATE_MARK, LOG_MARK = b"P", b"N"
_DIGEST_BYTES = 16
OWNER_KEY_BYTES = _ID_BYTES + _DIGEST_BYTES
# How many bytes precede the address in a key of ``cooldown``, and in an ``address_key``. Loops over
# a million keys cut the address out themselves.
COOLDOWN_HEAD = 15
ADDRESS_HEAD = 5
PAGE_BITS = 4096  # addresses, or pages of the level below, that a page covers
PAGE_BYTES = PAGE_BITS // 8
LEVELS = 11  # of pages: 11 times 12 bits cover an IPv6 address
# Generations, event numbers and nanoseconds only grow, from 0 or from now, and none has more bits
# before the year 2116. A number with more bits is damage, and would overflow its field one day.
MOST_BITS = 62
# The exceptions that reading a damaged record raises. Not Exception, because a signal handler may
# raise there as well.
UNREADABLE = (ValueError, KeyError, IndexError, TypeError, OverflowError)
ENCODING = "utf-8"
ERRORS = "surrogateescape"


def id_of(raw: bytes | None) -> int:
    """Return the id that a key, or a value of ``pools``, begins with; 0 for None."""
    return 0 if raw is None else int.from_bytes(raw[:4], "big")


def pack_network(schema: int, network_id: int, pool_id: int, pool: bytes) -> bytes:
    """Return the value of a network in ``networks``; ``pool`` is its pool's encoded name."""
    return bytes((schema,)) + id_prefix(network_id) + id_prefix(pool_id) + pool


def unpack_network(raw: bytes) -> tuple[int, int, int, bytes] | None:
    """Return (schema, network id, pool id, the pool's encoded name) of a :func:`pack_network`.

    Return None for any other value. In every schema from 4 on the value begins with the schema.
    """
    if len(raw) <= _NETWORK_BYTES:
        return None
    return raw[0], id_of(raw[1:5]), id_of(raw[5:9]), raw[_NETWORK_BYTES:]


def pack_pool(pool_id: int, text: str) -> bytes:
    """Return the value of a pool in ``pools``: its id, and the text of its ranges."""
    return id_prefix(pool_id) + text.encode()


def unpack_pool(raw: bytes) -> tuple[int, str]:
    """Return (pool id, text of its ranges) of a :func:`pack_pool`.

    Raises UnicodeDecodeError when the text is damaged.
    """
    return int.from_bytes(raw[:4], "big"), raw[4:].decode()


def policy_key(network_id: int) -> bytes:
    """Return the key in ``meta`` of the policy of a network's last assignment."""
    return b"policy " + id_prefix(network_id)


def state_key(pool_id: int) -> bytes:
    """Return the key in the main database of a pool's counters."""
    return STATE_MARK + id_prefix(pool_id)


def log_key(network_id: int) -> bytes:
    """Return the key in the main database of a network's history."""
    return LOG_MARK + id_prefix(network_id)


def family_prefix(pool_id: int, family: int) -> bytes:
    """Return the key prefix of all pages, leases and reservations of a pool's family."""
    return id_prefix(pool_id) + bytes((family,))


def page_index_bytes(family: int) -> int:
    """Return how many bytes of a page's key are the page index."""
    return BITS[family] // 8


def page_key_prefix(pool_id: int, family: int, level: int) -> bytes:
    """Return the key prefix of all pages of a level."""
    return id_prefix(pool_id) + bytes((family, level))


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


def is_address_key(key: bytes) -> bool:
    """Return whether this can be an :func:`address_key`."""
    family = key[4] if len(key) > 4 else 0
    return family in BITS and len(key) == 5 + BITS[family] // 8


def address_of(key: bytes) -> tuple[int, int] | None:
    """Return (family, address) of an :func:`address_key`, or None for another key."""
    return (key[4], int.from_bytes(key[5:], "big")) if is_address_key(key) else None


def read_address_key(key: bytes) -> tuple[int, int, int]:
    """Return (pool id, family, address) of an :func:`address_key`."""
    return id_of(key), key[4], int.from_bytes(key[5:], "big")


def pack_addresses(addresses: Iterable[tuple[int, int]]) -> bytes:
    """Return an owner's value in ``sticky``, from its (family, address) pairs."""
    return b"".join(
        bytes((family,)) + value.to_bytes(BITS[family] // 8, "big") for family, value in addresses
    )


def read_addresses(raw: bytes) -> list[tuple[int, int]]:
    """Return the pairs of :func:`pack_addresses`. Raises StoreCorrupt."""
    return [one[1:] for one in _read_listed(raw, 0)]


def read_any_held(raw: bytes) -> list[tuple[int, int, int]]:
    """Return (pool id, family, address) of each lease of :func:`pack_held`. Raises StoreCorrupt."""
    return _read_listed(raw, _ID_BYTES)


def _read_listed(raw: bytes, head: int) -> list[tuple[int, int, int]]:
    """Return (id, family, address) of each entry. An entry begins with an id of ``head`` bytes."""
    found = []
    at = 0
    while at < len(raw):
        start = at + head + 1
        family = raw[start - 1] if start <= len(raw) else 0
        end = start + BITS.get(family, 0) // 8
        if end == start or end > len(raw):
            raise errors.StoreCorrupt(
                f"an owner's addresses cannot be read: the bytes are {raw.hex()}",
                hint=errors.CHECK_HINT,
            )
        found.append((id_of(raw[at : at + head]), family, int.from_bytes(raw[start:end], "big")))
        at = end
    return found


def cooldown_prefix(pool_id: int, set_index: int) -> bytes:
    """Return the key prefix of a range set's cool-down queue."""
    return id_prefix(pool_id) + set_index.to_bytes(2, "big")


def is_cooldown_key(key: bytes) -> bool:
    """Return whether this can be a :func:`cooldown_key`."""
    family = key[COOLDOWN_HEAD - 1] if len(key) >= COOLDOWN_HEAD else 0
    return family in BITS and len(key) == COOLDOWN_HEAD + BITS[family] // 8
