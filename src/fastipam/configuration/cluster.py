"""What a node is told about its cluster, read and checked once.

The same object stands under the key ``cluster`` of a CNI configuration and in a file of the
agent's. Keys arrive case-folded, as the plugin's reader of JSON gives them.
"""

from __future__ import annotations

import os

from fastipam.addressing.addresses import BITS, V4, V6, format_cidr, parse_ip
from fastipam.addressing.parsing import build_pool
from fastipam.addressing.ranges import Pool, Range, RangeSet
from fastipam.cluster.planner import Geometry, Policy
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_PREFIX = "/fastipam/"
DEFAULT_BLOCK_V4 = 24  # 256 addresses: two of Kubernetes' 110 pods a node, and room for churn
DEFAULT_SESSION_S = 30
DEFAULT_TIMEOUT_S = 5.0
_MOST_ENDPOINTS = 32
_MOST_POOLS = 64
_MOST_BLOCKS = 1 << 20
_LARGEST_BLOCK_BITS = 16
_KEYS = (
    "endpoints",
    "pool",
    "blockSize",
    "node",
    "address",
    "prefix",
    "ca",
    "cert",
    "key",
    "credentials",
    "fencing",
    "sessionTTL",
    "timeout",
    "lowWater",
    "highWater",
    "minimumAge",
    "network",
    "dataDir",
)
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class Settings:
    """A cluster as one node sees it; does not change once it is read.

    ``pool`` are the range sets, one a family, each cut into blocks; ``geometries`` are their parts,
    one a CIDR. ``text`` is what every node has to agree on.
    """

    __slots__ = (
        "addresses",
        "ca",
        "cert",
        "credentials",
        "data_dir",
        "endpoints",
        "fencing",
        "geometries",
        "key",
        "network",
        "node",
        "policy",
        "pool",
        "prefix",
        "session_s",
        "text",
        "timeout_s",
    )

    def __init__(
        self,
        holder: dict[str, Any],
        path: str = "cluster",
        exclude: tuple[tuple[int, int, int], ...] | list[tuple[int, int, int]] = (),
    ) -> None:
        known = {each.casefold(): each for each in _KEYS}
        for key, value in holder.items():
            if key not in known:
                raise ConfigError(
                    f"{key!r} is no key of a cluster",
                    field=f"{path}.{key}",
                    value=value,
                    hint=f"the keys are {', '.join(_KEYS)}",
                )
        read = _Reader(holder, path)
        self.endpoints = _endpoints(read)
        self.prefix = _prefix(read)
        self.node = _node(read)
        self.network = read.text("network")
        self.data_dir = read.text("dataDir")
        self.ca, self.cert, self.key = (read.file(each) for each in ("ca", "cert", "key"))
        if bool(self.cert) != bool(self.key):
            missing = "key" if self.cert else "cert"
            raise ConfigError(
                "a client certificate needs both cert and key",
                field=f"{path}.{missing}",
                value=None,
            )
        self.credentials = read.file("credentials")
        self.fencing = read.flag("fencing")
        self.session_s = int(read.number("sessionTTL", DEFAULT_SESSION_S, 2, 3600))
        self.timeout_s = read.number("timeout", DEFAULT_TIMEOUT_S, 0.1, 60)
        self.policy = _policy(read)
        self.addresses = _addresses(read)
        ranges, lengths = _pools(read)
        self.pool = _cut(ranges, lengths, exclude, path)
        self.geometries = tuple(
            geometry(self.pool, each) for one in self.pool.sets for each in one.ranges
        )
        self.text = " ".join(
            f"{format_cidr(each.family, each.network, each.length)}={lengths[each.family]}"
            for each in sorted(ranges, key=lambda each: (each.family, each.network))
        )

    def geometries_of(self, family: int) -> list[Geometry]:
        """The pools of one family."""
        return [each for each in self.geometries if each.family == family]

    def geometry_of(self, family: int, address: int) -> Geometry | None:
        """The pool that an address lies in, None when it is no pool's."""
        for each in self.geometries:
            if each.family == family and each.number(address) is not None:
                return each
        return None

    def user_and_password(self) -> tuple[str, str]:
        """What ``credentials`` holds: ``user:password`` on its first line; ("", "") without.

        Read anew each time: a password can be changed without a restart. Raises ConfigError.
        """
        if not self.credentials:
            return "", ""
        try:
            with open(self.credentials, encoding="utf-8") as file:
                line = file.readline().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{self.credentials} cannot be read: {error}",
                field="cluster.credentials",
                value=self.credentials,
            ) from None
        user, colon, password = line.partition(":")
        if not colon or not user:
            raise ConfigError(
                "its first line is not user:password",
                field="cluster.credentials",
                value=self.credentials,
            )
        return user, password


class _Reader:
    """The values of an object, each checked for its kind."""

    def __init__(self, holder: dict[str, Any], path: str) -> None:
        self.holder = holder
        self.path = path

    def wrong(self, key: str, value: object, wanted: str) -> ConfigError:
        """The error for a value of the wrong kind."""
        return ConfigError(
            f"{value!r:.80} is not {wanted}", field=f"{self.path}.{key}", value=value
        )

    def get(self, key: str) -> Any:
        """What stands there, or None."""
        return self.holder.get(key.casefold())

    def text(self, key: str) -> str:
        """A text, "" when it is absent."""
        value = self.get(key)
        if value is None:
            return ""
        if not isinstance(value, str) or "\0" in value:
            raise self.wrong(key, value, "a text")
        return value

    def file(self, key: str) -> str:
        """An absolute path: a runtime starts the plugin in a directory of its own choice."""
        value = self.text(key)
        if value and not value.startswith("/"):
            raise self.wrong(key, value, "an absolute path")
        return value

    def flag(self, key: str) -> bool:
        """A boolean, False when it is absent."""
        value = self.get(key)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def number(self, key: str, default: float, least: float, most: float) -> float:
        """A number within bounds."""
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(key, value, "a number")
        if not least <= value <= most:
            raise self.wrong(key, value, f"a number from {least:g} to {most:g}")
        return value


def _endpoints(read: _Reader) -> tuple[str, ...]:
    value = read.get("endpoints")
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_ENDPOINTS:
        raise read.wrong("endpoints", value, f"a list of 1 to {_MOST_ENDPOINTS} URLs")
    for at, one in enumerate(value):
        field = f"endpoints[{at}]"
        if not isinstance(one, str):
            raise read.wrong(field, one, "a URL")
        scheme, slashes, rest = one.partition("://")
        host, _, port = rest.rstrip("/").rpartition(":")
        if scheme not in ("http", "https") or not slashes or not host or not port.isdecimal():
            raise read.wrong(field, one, "a URL such as https://10.0.0.1:2379")
    return tuple(one.rstrip("/") for one in value)


def _prefix(read: _Reader) -> str:
    value = read.text("prefix") or DEFAULT_PREFIX
    if not value.isascii() or not value.isprintable() or " " in value:
        raise read.wrong("prefix", value, "a prefix of keys: printable ASCII without blanks")
    return value if value.endswith("/") else f"{value}/"


def _node(read: _Reader) -> str:
    value = read.text("node") or os.uname().nodename
    if len(value) > 253 or not _NAME.issuperset(value) or value in (".", ".."):
        raise read.wrong(
            "node", value, "a node's name: up to 253 letters, digits, '.', '_' and '-'"
        )
    return value


def _policy(read: _Reader) -> Policy:
    default = Policy()
    policy = Policy(
        low_water=read.number("lowWater", default.low_water, 0, 1000),
        high_water=read.number("highWater", default.high_water, 0, 1000),
        minimum_age_s=read.number("minimumAge", default.minimum_age_s, 0, 10**8),
    )
    if policy.high_water < policy.low_water + 1:
        raise ConfigError(
            f"{policy.high_water} is less than one block above lowWater ({policy.low_water})",
            field=f"{read.path}.highWater",
            value=policy.high_water,
            hint="both are counted in blocks' worth of free addresses; "
            "closer together a block would go to and fro",
        )
    return policy


def _addresses(read: _Reader) -> tuple[str, ...]:
    value = read.get("address")
    listed = [] if value is None else value if isinstance(value, list) else [value]
    for one in listed:
        try:
            parse_ip(one if isinstance(one, str) else "")
        except ValueError:
            raise read.wrong("address", one, "an address of this node") from None
    return tuple(listed)


def _pools(read: _Reader) -> tuple[list[Range], dict[int, int]]:
    """The pools, and the block length of each family."""
    value = read.get("pool")
    listed = value if isinstance(value, list) else [value]
    if value is None or not 0 < len(listed) <= _MOST_POOLS:
        raise ConfigError(
            "the pool is missing" if not listed or value is None else "these are too many pools",
            field=f"{read.path}.pool",
            value=value,
            hint='"pool": "10.32.0.0/12"',
        )
    ranges = [
        _pool(read, one, f"{read.path}.pool[{at}]" if isinstance(value, list) else "")
        for at, one in enumerate(listed)
    ]
    lengths = _block_lengths(read, {each.family for each in ranges})
    for each in ranges:
        length = lengths[each.family]
        bits = BITS[each.family]
        if not each.length <= length <= bits - 1 or bits - length > _LARGEST_BLOCK_BITS:
            raise read.wrong(
                "blockSize",
                length,
                f"a block's prefix length for {format_cidr(each.family, each.network, each.length)}"
                f": from {max(each.length, bits - _LARGEST_BLOCK_BITS)} to {bits - 1}",
            )
        if 1 << (length - each.length) > _MOST_BLOCKS:
            raise read.wrong("blockSize", length, f"a size that gives up to {_MOST_BLOCKS} blocks")
    return ranges, lengths


def _pool(read: _Reader, one: object, field: str) -> Range:
    """A CIDR, or an object with ``subnet``, ``rangeStart``, ``rangeEnd``, ``gateway``."""
    field = field or f"{read.path}.pool"
    if isinstance(one, str):
        return Range.parse(one, field=field)
    if not isinstance(one, dict):
        raise ConfigError(f"{one!r:.80} is neither a CIDR nor an object", field=field, value=one)
    names = {each.casefold(): each for each in ("subnet", "rangeStart", "rangeEnd", "gateway")}
    for key, text in one.items():
        if key not in names or not isinstance(text, str):
            raise ConfigError(
                f"{key!r} is no key of a pool, or {text!r:.80} is no text",
                field=f"{field}.{names.get(key, key)}",
                value=text,
            )
    if "subnet" not in one:
        raise ConfigError("the subnet is missing", field=f"{field}.subnet", value=None)
    return Range.parse(*(one.get(key) for key in names), field=field)  # type: ignore[arg-type]


def _block_lengths(read: _Reader, families: set[int]) -> dict[int, int]:
    """The block length of each family. One number is IPv4's, and IPv6 blocks are as large."""
    value = read.get("blockSize")
    listed = value if isinstance(value, list) else [value]
    numbers = [
        DEFAULT_BLOCK_V4 + 96 * (V4 not in families) if one is None else one for one in listed
    ]
    if any(isinstance(one, bool) or not isinstance(one, int) for one in numbers):
        raise read.wrong("blockSize", value, "a prefix length")
    if len(numbers) == 1:
        (only,) = numbers
        if families == {V4, V6}:
            return {V4: only, V6: only + BITS[V6] - BITS[V4]}
        return dict.fromkeys(families, only)
    if len(numbers) != 2 or families != {V4, V6}:
        raise read.wrong("blockSize", value, "one prefix length, or IPv4's and IPv6's")
    return {V4: numbers[0], V6: numbers[1]}


def _cut(
    ranges: list[Range],
    lengths: dict[int, int],
    exclude: tuple[tuple[int, int, int], ...] | list[tuple[int, int, int]],
    path: str,
) -> Pool:
    """One range set a family, IPv4 first, each cut into blocks."""
    families = sorted({each.family for each in ranges})
    sets = [[each for each in ranges if each.family == family] for family in families]
    pool = build_pool(sets, exclude, fields=[f"{path}.pool"] * len(sets))
    return Pool(
        [
            RangeSet(each.ranges, each.excluded, block_length=lengths[each.family])
            for each in pool.sets
        ]
    )


def geometry(pool: Pool, one: Range) -> Geometry:
    """A pool as the planner sees it: numbered blocks, those without any address to serve marked."""
    range_set = next(each for each in pool.sets if one in each.ranges)
    host_bits = BITS[one.family] - range_set.block_length
    count = 1 << (range_set.block_length - one.length)
    unusable: set[int] = set()
    edge = 0
    for low, high in sorted(range_set.intervals):
        if high < one.network or low >= one.network + (count << host_bits):
            continue
        first = (low - one.network) >> host_bits
        unusable.update(range(edge, first))
        edge = ((high - one.network) >> host_bits) + 1
    unusable.update(range(edge, count))
    return Geometry(one.family, one.network, host_bits, count, frozenset(unusable))
