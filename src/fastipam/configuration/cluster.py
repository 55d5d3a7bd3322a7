"""The settings of a node's cluster, read and checked once.

The same object is the value of the key ``cluster`` in a CNI configuration and the content of an
agent's file. Its keys are case-folded, as ``reader.decode`` returns them.
"""

from __future__ import annotations

from fastipam.addressing.addresses import BITS, V4, V6, format_cidr, parse_ip
from fastipam.addressing.parsing import build_pool
from fastipam.addressing.ranges import Pool, Range, RangeSet
from fastipam.configuration import endpoints, pool_lines, reader
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.configuration.reader import RANGE_KEYS
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any

    from fastipam.configuration.address_pools import AddressPool
    from fastipam.configuration.pool_lines import Group, Lines

ETCD = "etcd"  # the default engine; another engine reads ``options`` itself
KUBERNETES = "kubernetes"  # the Kubernetes API: the pools are AddressPool objects
DEFAULT_PREFIX = "/fastipam/"
DEFAULT_BLOCK_V4 = 24  # 256 addresses: for twice the 110 pods of a Kubernetes node, and churn
DEFAULT_SESSION_S = 30
DEFAULT_LEASE_S = 120  # for the Kubernetes API: 5,000 nodes renew 125 Leases per second
DEFAULT_TIMEOUT_S = 5.0
_MOST_POOLS = 64
_MOST_BLOCKS = 1 << 20
_LARGEST_BLOCK_BITS = 16
_KEYS = (
    "engine", "options", "endpoints", "pool", "blockSize", "node", "address", "prefix", "ca",
    "cert", "key", "credentials", "fencing", "sessionTTL", "timeout", "lowWater", "highWater",
    "minimumAge", "network", "dataDir", "server", "kubeconfig", "namespaces",
)  # fmt: skip
# With the Kubernetes API these keys are refused: AddressPools and the API supply their values.
# Other engines refuse the keys of the second list.
_NOT_FOR_KUBERNETES = (
    "options", "endpoints", "pool", "blockSize", "prefix", "ca", "cert", "key", "credentials",
)  # fmt: skip
_ONLY_FOR_KUBERNETES = ("server", "kubeconfig", "namespaces")
# Blocks in one claim: a transaction of etcd has 128 operations at most by default; a block needs 2.
LARGEST_RUN = 32
WINDOW_BITS = 8
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class Watermarks:
    """The limits at which a node claims another block, or gives one back.

    Both watermarks count free addresses in blocks. Below ``low_water`` the node claims a block
    ahead. Above ``high_water`` it gives back wholly free blocks that are older than
    ``minimum_age_s`` seconds, but always keeps ``warm`` of them. A claim within ``ramp_s`` seconds
    after the last one is twice as large, up to ``largest_run`` blocks.
    """

    __slots__ = ("high_water", "largest_run", "low_water", "minimum_age_s", "ramp_s", "warm")

    def __init__(
        self,
        *,
        low_water: float = 0.25,
        high_water: float = 2.0,
        minimum_age_s: float = 300.0,
        warm: int = 1,
        largest_run: int = LARGEST_RUN,
        ramp_s: float = 5.0,
    ) -> None:
        self.low_water = low_water
        self.high_water = high_water
        self.minimum_age_s = minimum_age_s
        self.warm = warm
        self.largest_run = min(largest_run, LARGEST_RUN)
        self.ramp_s = ramp_s


class Geometry:
    """One CIDR of a pool as ``count`` blocks of 2**``host_bits`` addresses each, from ``base`` on.

    ``unusable`` are the numbers of the blocks in which every address is excluded.
    """

    __slots__ = ("base", "count", "family", "host_bits", "unusable")

    def __init__(
        self,
        family: int,
        base: int,
        host_bits: int,
        count: int,
        unusable: Collection[int] = frozenset(),
    ) -> None:
        self.family = family
        self.base = base
        self.host_bits = host_bits
        self.count = count
        self.unusable = unusable

    @property
    def size(self) -> int:
        """The number of addresses in a block, usable or not."""
        return 1 << self.host_bits

    @property
    def is_single(self) -> bool:
        """Whether a block is one address, which is assigned only on request."""
        return not self.host_bits

    @property
    def window_bits(self) -> int:
        """The size of a window: 2**window_bits blocks, at most 256.

        A window's blocks begin at a whole hex digit of an address.
        """
        bits = WINDOW_BITS - (self.host_bits + WINDOW_BITS) % 4
        return min(bits, self.count.bit_length() - 1)

    def window(self, number: int) -> range:
        """Return the numbers of the blocks in the window that contains this block."""
        first = number >> self.window_bits << self.window_bits
        return range(first, first + (1 << self.window_bits))

    def address(self, number: int) -> int:
        """Return the first address of the block with this number."""
        return self.base + (number << self.host_bits)

    def number(self, address: int) -> int | None:
        """Return the number of the block that contains an address, or None."""
        number = (address - self.base) >> self.host_bits
        return number if 0 <= number < self.count else None


class Settings:
    """The settings of a cluster for one node. They do not change after they are read.

    ``pool`` has one range set per family, cut into blocks; ``geometries`` has one entry per CIDR.
    ``text`` lists CIDRs and block lengths, on which every node has to agree. ``host_name`` is the
    node's name when the settings give none. ``options`` are read by the engine itself. Raises
    ConfigError with the path of the field.

    With the engine ``kubernetes`` there are no pools before :meth:`with_pools`. ``servers`` are the
    URLs of the API; without any, the environment names it. ``kubeconfig`` is kubectl's file.
    ``founding`` is the text in the node's store from which a plugin has read the pools.
    ``namespaces`` says whether annotations of namespaces can choose pools.

    ``lines`` are the pools for a pod that chooses none (``pool_lines``). ``is_uniform`` says that
    every such pod may get any address of each family.
    """

    __slots__ = (
        "_sets", "addresses", "ca", "cert", "credentials", "data_dir", "endpoints", "engine",
        "fencing", "founding", "geometries", "is_uniform", "key", "kubeconfig", "lines",
        "namespaces", "network", "node", "options", "path", "pool", "pools", "prefix", "servers",
        "session_s", "text", "timeout_s", "watermarks",
    )  # fmt: skip

    def __init__(
        self,
        holder: dict[str, Any],
        path: str = "cluster",
        exclude: Sequence[tuple[int, int, int]] = (),
        host_name: str = "",
    ) -> None:
        known = {each.casefold(): each for each in _KEYS}
        for key, value in holder.items():
            if key not in known:
                raise ConfigError(
                    f"{key!r} is not a valid key of a cluster",
                    field=f"{path}.{key}",
                    value=value,
                    hint=f"the keys are {', '.join(_KEYS)}",
                )
        self.path = path
        self.engine = reader.text({"engine": ETCD, **holder}, "engine", path)
        self.options = reader.mapping(holder, "options", path)
        self.servers, self.kubeconfig = endpoints.read_servers(holder, path), ""
        is_kubernetes = self.engine == KUBERNETES
        for key in _NOT_FOR_KUBERNETES if is_kubernetes else _ONLY_FOR_KUBERNETES:
            if key.casefold() in holder:
                raise ConfigError(
                    f"the engine {self.engine} does not use {key}"
                    + ("" if is_kubernetes else ', which belongs to "engine": "kubernetes"'),
                    field=f"{path}.{key}",
                    value=holder[key.casefold()],
                    hint="the pools are AddressPool objects: kubectl get addresspools"
                    if key in ("pool", "blockSize")
                    else None,
                )
        if is_kubernetes:
            self.kubeconfig = reader.file(holder, "kubeconfig", path)
        self.endpoints = endpoints.read(holder, path) if self.engine == ETCD else ()
        if self.engine == ETCD:
            for key, value in self.options.items():
                raise ConfigError(
                    "the engine etcd has no options", field=f"{path}.options.{key}", value=value
                )
        self.prefix = _prefix(holder, path)
        self.node = _node(holder, path, host_name)
        self.network = reader.text(holder, "network", path)
        self.data_dir = reader.text(holder, "dataDir", path)
        self.ca, self.cert, self.key = (
            reader.file(holder, each, path) for each in ("ca", "cert", "key")
        )
        if bool(self.cert) != bool(self.key):
            missing = "key" if self.cert else "cert"
            raise ConfigError(
                "a client certificate needs both cert and key",
                field=f"{path}.{missing}",
                value=None,
            )
        self.credentials = reader.file(holder, "credentials", path)
        self.fencing = reader.flag(holder, "fencing", path)
        self.namespaces = reader.flag(holder, "namespaces", path)
        default_s = DEFAULT_LEASE_S if is_kubernetes else DEFAULT_SESSION_S
        session_s = reader.number(holder, "sessionTTL", path, default_s, (2, 3600))
        self.session_s = int(session_s)
        self.timeout_s = reader.number(holder, "timeout", path, DEFAULT_TIMEOUT_S, (0.1, 60))
        self.watermarks = _watermarks(holder, path)
        self.addresses = _addresses(holder, path)
        self.pools: tuple[AddressPool, ...] = ()
        self.founding = ""
        self.pool, self.text = Pool([]), ""
        self.geometries: tuple[Geometry, ...] = ()
        self.lines: Lines = ()
        self.is_uniform = True
        self._sets: dict[tuple[int, Group], RangeSet] = {}
        if is_kubernetes:
            return
        ranges, lengths = _pools(holder, path)
        self.pool = _cut([(each, lengths[each.family]) for each in ranges], exclude, path)
        self.geometries = tuple(
            geometry(self.pool, each) for one in self.pool.sets for each in one.ranges
        )
        self.text = " ".join(
            f"{format_cidr(each.family, each.network, each.length)}={lengths[each.family]}"
            for each in sorted(ranges, key=lambda each: (each.family, each.network))
        )
        self.lines = pool_lines.any_address(self.pool)

    @property
    def is_founded_by_agent(self) -> bool:
        """Whether the agent writes the pools into the node's store, in a founding record."""
        return self.engine == KUBERNETES

    def with_pools(self, pools: Sequence[AddressPool]) -> Settings:
        """Return these settings with the pools that are in force. O(blocks). Raises ConfigError.

        The pools of one family may have blocks of different lengths. Addresses in blocks of one
        address are assigned on request only.
        """
        made: Settings = object.__new__(Settings)
        for name in Settings.__slots__:
            setattr(made, name, getattr(self, name))
        used = sorted(pools, key=lambda one: one.name)
        closed = [one.whole() for one in used if one.is_closed]
        holes = [hole for one in used for hole in one.holes] + closed
        made.pools = tuple(used)
        made.pool = _cut(
            [(one.range, one.block_length) for one in used],
            holes,
            self.path,
            static=[one.whole() for one in used if one.is_single],
            may_be_empty=True,
        )
        made.geometries = tuple(
            geometry(made.pool, each) for one in made.pool.sets for each in one.ranges
        )
        made.text = " ".join(f"{one.cidr}={one.block_length}" for one in used)
        made._sets = {}
        made.is_uniform = pool_lines.are_uniform(used)
        made.lines = (
            pool_lines.any_address(made.pool) if made.is_uniform else pool_lines.automatic(used)
        )
        return made

    def words(self, lines: Lines) -> str:
        """Return the names of the pools in ``lines``, for a message."""
        wanted = {(family, base) for family, groups in lines for one in groups for base in one}
        names = [one.name for one in self.pools if (one.family, one.range.network) in wanted]
        return f"pool {' or '.join(names)}" if names else "its pools"

    def in_group(self, family: int, group: Group) -> list[Geometry]:
        """Return the geometries of a group's pools, in the order of the group."""
        mine = self.geometries_of(family)
        if not group:
            return mine
        return [each for base in group for each in mine if each.base == base]

    def present(self, lines: Lines) -> Lines:
        """Return ``lines`` without the groups in which a pool is gone."""
        known = {(one.family, one.base) for one in self.geometries}
        families = {one.family for one in self.geometries}
        left = (
            (family, tuple(g for g in groups if all((family, base) in known for base in g)))
            for family, groups in lines
            if family in families
        )
        return tuple(one for one in left if one[1])

    def set_of_group(self, family: int, group: Group) -> RangeSet:
        """Return the addresses of a group's pools. O(intervals), then cached."""
        whole = next(each for each in self.pool.sets if each.family == family)
        if not group:
            return whole
        found = self._sets.get((family, group))
        if found is None:
            cut = list(zip(whole.ranges, whole.lengths, strict=True))
            mine = [(one, length) for base in group for one, length in cut if one.network == base]
            found = RangeSet(
                [one for one, _ in mine],
                whole.excluded,
                static=whole.static,
                block_lengths=[length for _, length in mine],
            )
            self._sets[family, group] = found
        return found

    def name_of(self, pool: Geometry) -> str:
        """Return the name of a geometry's AddressPool, or "" without AddressPools."""
        found = self.pool_of(pool)
        return "" if found is None else found.name

    def pool_of(self, pool: Geometry) -> AddressPool | None:
        """Return a geometry's AddressPool, or None without AddressPools."""
        key = pool.family, pool.base
        return next((one for one in self.pools if (one.family, one.range.network) == key), None)

    def to_donate(self, family: int, name: str) -> list[Geometry]:
        """Return the pools from which to donate to a node that asks for a block of pool ``name``.

        The named pool comes first. The other pools are in its group for pods that choose none, and
        have no node selector.
        """
        found = self.geometries_of(family)
        if not name or not self.pools:
            return found
        first = [one for one in found if self.name_of(one) == name]
        alike = next(
            (
                group
                for its_family, groups in pool_lines.automatic(self.pools)
                for group in groups
                if its_family == family and any(one.base in group for one in first)
            ),
            (),
        )
        return first + [
            one
            for one in found
            if one.base in alike
            and one not in first
            and (pool := self.pool_of(one)) is not None
            and not pool.node_selector
        ]

    def field(self, name: str) -> str:
        """Return the path of a field of these settings, in the configuration or in their file."""
        return field_in(self.path, name)

    def require(self, network: str, data_dir: str, path: str) -> None:
        """Raise ConfigError when the settings name another network or data directory."""
        for key, theirs, ours in (
            ("network", self.network, network),
            ("dataDir", self.data_dir, data_dir),
        ):
            if theirs and theirs != ours:
                default = " (the default)" if ours == DEFAULT_DATA_DIR else ""
                what = "network" if key == "network" else "data directory"
                raise ConfigError(
                    f"the cluster's settings name {what} {theirs!r}, but the plugin configuration "
                    f"names {ours!r}{default}",
                    field=field_in(path, key),
                    value=theirs,
                )

    @property
    def prefixes(self) -> list[tuple[int, int, int]]:
        """Return (family, first address, length) of each CIDR of the pools."""
        return [
            (one.family, one.base, BITS[one.family] - one.host_bits - one.count.bit_length() + 1)
            for one in self.geometries
        ]

    def geometries_of(self, family: int) -> list[Geometry]:
        """Return the geometries of one family."""
        return [each for each in self.geometries if each.family == family]

    @property
    def uses_node_cidrs(self) -> bool:
        """Whether some pool's blocks are the podCIDRs of Nodes, so that no node claims them."""
        return not all(one.claims_any for one in self.pools)

    def may_claim(self, pool: Geometry) -> bool:
        """Return whether nodes claim blocks of this geometry and donate them to each other."""
        for one in self.pools:
            family, first, last = one.whole()
            if not one.claims_any and family == pool.family and first <= pool.base <= last:
                return False
        return True

    def claims_ahead(self, pool: Geometry) -> bool:
        """Return whether nodes claim blocks of this geometry before a pod requests an address."""
        return not pool.is_single and self.may_claim(pool)

    def geometry_of(self, family: int, address: int) -> Geometry | None:
        """Return the geometry that contains an address, or None."""
        for each in self.geometries:
            if each.family == family and each.number(address) is not None:
                return each
        return None


def field_in(path: str, name: str) -> str:
    """Return the path of a field: in a file (``/etc/cluster.json: pool``), or below a key."""
    return f"{path}: {name}" if path.startswith("/") else f"{path}.{name}"


def _prefix(holder: dict[str, Any], path: str) -> str:
    value = reader.text(holder, "prefix", path) or DEFAULT_PREFIX
    if not value.isascii() or not value.isprintable() or " " in value:
        raise reader.refused(
            f"{path}.prefix", value, "a prefix of keys: printable ASCII without blanks"
        )
    return value if value.endswith("/") else f"{value}/"


def _node(holder: dict[str, Any], path: str, host_name: str) -> str:
    value = reader.text(holder, "node", path) or host_name
    if not 0 < len(value) <= 253 or not _NAME.issuperset(value) or value in (".", ".."):
        raise reader.refused(
            f"{path}.node", value, "a node's name: up to 253 letters, digits, '.', '_' and '-'"
        )
    return value


def _watermarks(holder: dict[str, Any], path: str) -> Watermarks:
    default = Watermarks()
    low = reader.number(holder, "lowWater", path, default.low_water, (0, 1000))
    high = reader.number(holder, "highWater", path, default.high_water, (0, 1000))
    age_s = reader.number(holder, "minimumAge", path, default.minimum_age_s, (0, 10**8))
    if high < low + 1:
        raise ConfigError(
            f"{high:g}{_by_default(holder, 'highWater')} is not at least 1 above lowWater "
            f"{low:g}{_by_default(holder, 'lowWater')}",
            field=f"{path}.{'highWater' if 'highwater' in holder else 'lowWater'}",
            value=high,
            hint="both count free addresses in blocks; "
            "closer together, blocks would oscillate between nodes",
        )
    return Watermarks(low_water=low, high_water=high, minimum_age_s=age_s)


def _by_default(holder: dict[str, Any], key: str) -> str:
    """Return a remark for a message if the value is a default, else ""."""
    return "" if holder.get(key.casefold()) is not None else f" (the default of {key})"


def _addresses(holder: dict[str, Any], path: str) -> tuple[str, ...]:
    value = holder.get("address")
    listed = [] if value is None else value if isinstance(value, list) else [value]
    for one in listed:
        try:
            parse_ip(one if isinstance(one, str) else "")
        except ValueError:
            raise reader.refused(f"{path}.address", one, "an address of this node") from None
    return tuple(listed)


def _pools(holder: dict[str, Any], path: str) -> tuple[list[Range], dict[int, int]]:
    """Return the CIDRs of the pool, and the block length of each family."""
    value = holder.get("pool")
    listed = value if isinstance(value, list) else [value]
    if value is None or not 0 < len(listed) <= _MOST_POOLS:
        raise ConfigError(
            "the pool is missing"
            if not listed or value is None
            else f"{len(listed)} pools are listed, but at most {_MOST_POOLS} are allowed",
            field=f"{path}.pool",
            value=value,
            hint='"pool": "10.32.0.0/12"; or "engine": "kubernetes", whose pools are AddressPools',
        )
    ranges = [
        _pool(one, f"{path}.pool[{at}]" if isinstance(value, list) else f"{path}.pool")
        for at, one in enumerate(listed)
    ]
    lengths = _block_lengths(holder, path, {each.family for each in ranges})
    field = f"{path}.blockSize"
    for each in ranges:
        length = lengths[each.family]
        bits = BITS[each.family]
        shown = f"/{length}{_origin(holder, length, lengths)}"
        subnet = format_cidr(each.family, each.network, each.length)
        if not each.length <= length <= bits - 1 or bits - length > _LARGEST_BLOCK_BITS:
            raise ConfigError(
                f"{shown} is not a valid block size for {subnet}: use a prefix length from "
                f"{max(each.length, bits - _LARGEST_BLOCK_BITS)} to {bits - 1}",
                field=field,
                value=length,
            )
        if 1 << (length - each.length) > _MOST_BLOCKS:
            raise ConfigError(
                f"{shown} cuts {subnet} into more than {_MOST_BLOCKS} blocks: use a prefix "
                f"length of at most {each.length + _MOST_BLOCKS.bit_length() - 1}",
                field=field,
                value=length,
            )
    return ranges, lengths


def _origin(holder: dict[str, Any], length: int, lengths: dict[int, int]) -> str:
    """Return a remark for a message that says where a block length comes from, or "".

    The remark is empty when the user has written this length.
    """
    value = holder.get("blocksize")
    if value is None:
        return " (the default of blockSize)"
    if not isinstance(value, list) and length != value:
        return f" (IPv6 blocks with as many addresses as IPv4 blocks of /{lengths[V4]})"
    return ""


def _pool(one: object, field: str) -> Range:
    """Return the range of a pool, which is a CIDR or an object with the keys of a range."""
    if isinstance(one, str):
        try:
            return Range.parse(one, field=field)
        except ConfigError as error:
            error.field = field  # a CIDR has no keys of its own
            raise
    if not isinstance(one, dict):
        raise ConfigError(
            f"{reader.show(one)} is neither a CIDR nor an object", field=field, value=one
        )
    names = {each.casefold(): each for each in RANGE_KEYS}
    for key, text in one.items():
        if key not in names or not isinstance(text, str):
            raise ConfigError(
                f"{key!r} is not a valid key of a pool, or {reader.show(text)} is not a string",
                field=f"{field}.{names.get(key, key)}",
                value=text,
            )
    if "subnet" not in one:
        raise ConfigError("the subnet is missing", field=f"{field}.subnet", value=None)
    return Range.parse(*(one.get(key) for key in names), field=field)  # type: ignore[arg-type]


def _block_lengths(holder: dict[str, Any], path: str, families: set[int]) -> dict[int, int]:
    """Return the block length of each family."""
    # A single number is the length of IPv4's blocks; IPv6 blocks then have as many addresses.
    value = holder.get("blocksize")
    field = f"{path}.blockSize"
    listed = value if isinstance(value, list) else [value]
    numbers = [
        DEFAULT_BLOCK_V4 + 96 * (V4 not in families) if one is None else one for one in listed
    ]
    if any(isinstance(one, bool) or not isinstance(one, int) for one in numbers):
        raise reader.refused(field, value, "a prefix length")
    if len(numbers) == 1:
        (only,) = numbers
        if families == {V4, V6}:
            return {V4: only, V6: only + BITS[V6] - BITS[V4]}
        return dict.fromkeys(families, only)
    if len(numbers) != 2 or families != {V4, V6}:
        raise reader.refused(field, value, "one prefix length, or IPv4's and IPv6's")
    return {V4: numbers[0], V6: numbers[1]}


def _cut(
    ranges: list[tuple[Range, int]],
    exclude: Sequence[tuple[int, int, int]],
    path: str,
    *,
    static: Sequence[tuple[int, int, int]] = (),
    may_be_empty: bool = False,
) -> Pool:
    """Return the pool: one range set for each family, IPv4 first, each cut into blocks.

    Each range comes with the prefix length of its blocks. ``static`` areas are assigned on request
    only. With ``may_be_empty`` the exclusions may cover all of a set.
    """
    families = sorted({each.family for each, _ in ranges})
    sets = [[each for each, _ in ranges if each.family == family] for family in families]
    pool = build_pool(
        sets,
        exclude,
        static=static,
        fields=[f"{path}.pool"] * len(sets),
        may_be_empty=may_be_empty,
    )
    lengths = {(each.family, each.network): length for each, length in ranges}
    return Pool(
        [
            RangeSet(
                each.ranges,
                each.excluded,
                static=each.static,
                block_lengths=[lengths[each.family, one.network] for one in each.ranges],
            )
            for each in pool.sets
        ]
    )


def geometry(pool: Pool, one: Range) -> Geometry:
    """Return one CIDR of a pool as numbered blocks, and which of them have no usable address."""
    range_set = next(each for each in pool.sets if one in each.ranges)
    length = range_set.lengths[range_set.ranges.index(one)]
    host_bits = BITS[one.family] - length
    count = 1 << (length - one.length)
    unusable: set[int] = set()
    edge = 0
    for low, high in sorted((*range_set.intervals, *range_set.static)):
        if high < one.network or low >= one.network + (count << host_bits):
            continue
        first = (low - one.network) >> host_bits
        unusable.update(range(edge, first))
        edge = ((high - one.network) >> host_bits) + 1
    unusable.update(range(edge, count))
    return Geometry(one.family, one.network, host_bits, count, frozenset(unusable))
