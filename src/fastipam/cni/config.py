"""The network configuration, read and checked once; nothing behind it meets an unset field.

Keys and their meaning are host-local's; whereabouts' names for the same things are accepted beside
them; fastipam's own are ``exclude``, ``cooldown``, ``durability`` and ``repeatAdd``. The order in which
things are refused is host-local's, too. Field names in errors are paths as the user wrote them
(``ipam.ranges[0][1].subnet``).
"""

from __future__ import annotations

from fastipam.addresses import format_cidr, format_ip, parse_cidr, parse_ip, prefix_bounds
from fastipam.cni.codes import BAD_ENVIRONMENT, DECODING_FAILURE, UNSUPPORTED_FIELD, CniError
from fastipam.cni.document import kind_of
from fastipam.cni.request import is_id
from fastipam.errors import ConfigError
from fastipam.network import DEFAULT_COOLDOWN_S
from fastipam.ranges import Range, build_pool, parse_exclusion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.cni.request import Arguments
    from fastipam.cni.versions import Version

DEFAULT_DATA_DIR = "/var/lib/cni/fastipam"

_RANGE_KEYS = ("subnet", "rangeStart", "rangeEnd", "gateway")
_KNOWN = frozenset(
    (
        "type",
        "ranges",
        "routes",
        "resolvconf",
        "datadir",
        "subnet",
        "rangestart",
        "rangeend",
        "gateway",
        "exclude",
        "cooldown",
        "durability",
        "repeatadd",
        "range",
        "range_start",
        "range_end",
        "ipranges",
    )
)
_ANNOUNCED = ("cluster", "sticky")  # the contract's keys that this version cannot honour


def _wrong(field: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(f"this is {kind_of(value)}, not {wanted}", field=field, value=value)


def _text(holder: dict[str, Any], key: str, path: str) -> str:
    """The text under a key, "" when it is absent."""
    value = holder.get(key.casefold(), "")
    if not isinstance(value, str):
        raise _wrong(f"{path}.{key}", value, "a text")
    return value


def _list(holder: dict[str, Any], key: str, path: str) -> list[Any]:
    value = holder.get(key.casefold(), [])
    if not isinstance(value, list):
        raise _wrong(f"{path}.{key}", value, "a list")
    return value


def _object(holder: dict[str, Any], key: str, path: str) -> dict[str, Any]:
    value = holder.get(key.casefold(), {})
    if not isinstance(value, dict):
        raise _wrong(f"{path}.{key}" if path else key, value, "an object")
    return value


def network_name(document: dict[str, Any]) -> str:
    """``name``, checked as libcni checks it. Raises CniError 6, ConfigError."""
    name = document.get("name", "")
    if not isinstance(name, str):
        raise CniError(DECODING_FAILURE, f"name: this is {kind_of(name)}, not a text")
    if not name:
        raise ConfigError("the network name is missing", field="name", value=name)
    if not is_id(name):
        raise ConfigError(
            f"the network name {name!r} has characters that it may not have",
            field="name",
            value=name,
            hint="a letter or digit, then letters, digits, '_', '.' and '-'",
        )
    return name


class Location:
    """Where the leases are: all that DEL needs besides the owner, and takes what it can get."""

    __slots__ = ("cooldown_s", "data_dir", "durability", "name")

    def __init__(self, document: dict[str, Any]) -> None:
        self.name = network_name(document)
        ipam = document.get("ipam")
        holder = ipam if isinstance(ipam, dict) else {}
        data_dir = holder.get("datadir")
        self.data_dir = data_dir if _is_path(data_dir) else DEFAULT_DATA_DIR
        # The store knows its durability: a wrong or missing one must not keep DEL from freeing.
        self.durability = None
        try:
            self.cooldown_s = _cooldown(holder)
        except ConfigError:
            self.cooldown_s = DEFAULT_COOLDOWN_S


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


class Config:
    """The whole configuration, for ADD, CHECK and STATUS.

    ``pool`` are the range sets, ``remember`` whether they are the network's own (and not partly
    this container's, from ``runtimeConfig.ipRanges``). ``requested`` are (family, address) pairs,
    ``notes`` what is odd but no error.
    """

    def __init__(self, document: dict[str, Any], version: Version, arguments: Arguments) -> None:
        self.name = network_name(document)
        self.version = version
        if "ipam" not in document:
            raise ConfigError("the configuration has no ipam section", field="ipam", value=None)
        ipam = _object(document, "ipam", "")
        self.notes = [f"ipam.{key}: unknown key, ignored" for key in ipam if key not in _KNOWN]
        for key in _ANNOUNCED:
            if key in ipam:
                raise CniError(
                    UNSUPPORTED_FIELD, f"ipam.{key}: {ipam[key]!r} is not supported by this version"
                )
        runtime = _object(document, "runtimeConfig", "")
        self._read_scalars(ipam)
        self.routes = [
            Route(one, f"ipam.routes[{at}]")
            for at, one in enumerate(_list(ipam, "routes", "ipam"))
        ]
        self.requested = _requested(document, runtime, arguments)
        self._read_ranges(ipam, runtime)

    def _read_scalars(self, ipam: dict[str, Any]) -> None:
        _text(ipam, "type", "ipam")
        data_dir = _text(ipam, "dataDir", "ipam") or DEFAULT_DATA_DIR
        resolv_conf = _text(ipam, "resolvConf", "ipam")
        for key, value in (("dataDir", data_dir), ("resolvConf", resolv_conf)):
            if "\0" in value:
                raise ConfigError("a path cannot contain NUL", field=f"ipam.{key}", value=value)
        self.data_dir = data_dir
        self.resolv_conf = resolv_conf
        self.cooldown_s = _cooldown(ipam)
        self.durability = _choice(ipam, "durability", ("durable", "relaxed"))
        self.repeat = _choice(ipam, "repeatAdd", ("error", "return")) or "error"

    def _read_ranges(self, ipam: dict[str, Any], runtime: dict[str, Any]) -> None:
        """Sets in host-local's order: the runtime's, the old single range, ``ranges``."""
        own = _host_local_sets(ipam)
        other, holes = _whereabouts_sets(ipam)
        if own and other:
            mine = next(key for key in ("subnet", "ranges") if key in ipam)
            theirs = "range" if "range" in ipam else "ipRanges"
            raise ConfigError(
                f"ipam.{mine} and ipam.{theirs} both say what to assign",
                field=f"ipam.{theirs}",
                value=ipam[theirs.casefold()],
                hint="use one of the two",
            )
        extra = _range_sets(_list(runtime, "ipRanges", "runtimeConfig"), "runtimeConfig.ipRanges")
        sets = [*extra, *own, *other]
        self.remember = not extra
        if not sets:
            raise ConfigError(
                "no ranges are given",
                field="ipam.ranges",
                value=ipam.get("ranges"),
                hint='"ranges": [[{"subnet": "10.32.0.0/12"}]]',
            )
        for at, one in enumerate(_list(ipam, "exclude", "ipam")):
            holes.append(_exclusion(one, f"ipam.exclude[{at}]"))
        self.pool = build_pool(sets, holes, field="ipam.ranges")
        if self.version < (0, 3, 0):
            families = [each.family for each in self.pool.sets]
            for family in (4, 6):
                if families.count(family) > 1:
                    raise ConfigError(
                        f"CNI version {'.'.join(map(str, self.version))} "
                        f"has room for one IPv{family} address, {families.count(family)} range sets "
                        "give one each",
                        field="cniVersion",
                        value=".".join(map(str, self.version)),
                        hint='use "cniVersion": "0.3.0" or newer',
                    )


def _cooldown(ipam: dict[str, Any]) -> float:
    value = ipam.get("cooldown", DEFAULT_COOLDOWN_S)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong("ipam.cooldown", value, "a number of seconds")
    if not 0 <= value <= 10**8:
        raise ConfigError(
            f"{value} is not a number of seconds from 0 to 10^8", field="ipam.cooldown", value=value
        )
    return value


def _choice(ipam: dict[str, Any], key: str, allowed: tuple[str, ...]) -> str | None:
    if key.casefold() not in ipam:
        return None
    value = _text(ipam, key, "ipam")
    if value not in allowed:
        raise ConfigError(
            f"{value!r} is none of {', '.join(allowed)}", field=f"ipam.{key}", value=value
        )
    return value


def _host_local_sets(ipam: dict[str, Any]) -> list[list[Range]]:
    """The old single range (if there is a ``subnet``), then ``ranges``."""
    sets = []
    if "subnet" in ipam:
        sets.append([_range(ipam, "ipam")])
    elif "range" not in ipam:
        for key in _RANGE_KEYS[1:]:  # no effect without a subnet, but still no nonsense
            _address(_text(ipam, key, "ipam"), f"ipam.{key}")
    return sets + _range_sets(_list(ipam, "ranges", "ipam"), "ipam.ranges")


def _range_sets(listed: list[Any], path: str) -> list[list[Range]]:
    sets = []
    for at, ranges in enumerate(listed):
        here = f"{path}[{at}]"
        if not isinstance(ranges, list):
            raise _wrong(here, ranges, "a range set, which is a list of ranges")
        found = []
        for place, one in enumerate(ranges):
            if not isinstance(one, dict):
                raise _wrong(f"{here}[{place}]", one, "a range, which is an object")
            found.append(_range(one, f"{here}[{place}]"))
        sets.append(found)
    return sets


def _range(holder: dict[str, Any], path: str) -> Range:
    if "subnet" not in holder:
        raise ConfigError("the subnet is missing", field=f"{path}.subnet", value=None)
    subnet, start, end, gateway = (_text(holder, key, path) for key in _RANGE_KEYS)
    return Range.parse(subnet, start, end, gateway, field=path)


def _whereabouts_sets(
    ipam: dict[str, Any],
) -> tuple[list[list[Range]], list[tuple[int, int, int]]]:
    """``range`` with its bounds, then ``ipRanges``; and what the entries of the latter exclude."""
    sets = []
    holes: list[tuple[int, int, int]] = []
    if "range" in ipam:
        if "subnet" in ipam:
            _agree(ipam, "range", "subnet")
        sets.append([_whereabouts_range(ipam, "ipam")])
    else:
        for key in ("range_start", "range_end"):
            if key in ipam:
                raise ConfigError(
                    "this bounds ipam.range, which is missing", field=f"ipam.{key}", value=ipam[key]
                )
    for at, one in enumerate(_list(ipam, "ipRanges", "ipam")):
        here = f"ipam.ipRanges[{at}]"
        if not isinstance(one, dict):
            raise _wrong(here, one, "an object with a range")
        sets.append([_whereabouts_range(one, here)])
        for place, hole in enumerate(_list(one, "exclude", here)):
            holes.append(_exclusion(hole, f"{here}.exclude[{place}]"))
    return sets, holes


def _agree(holder: dict[str, Any], theirs: str, ours: str) -> None:
    """Two names of one thing may stand side by side only when they say the same."""
    if holder.get(theirs.casefold()) != holder.get(ours.casefold()):
        raise ConfigError(
            f"ipam.{theirs} and ipam.{ours} contradict each other: "
            f"{holder.get(theirs.casefold())!r} and {holder.get(ours.casefold())!r}",
            field=f"ipam.{theirs}",
            value=holder.get(theirs.casefold()),
            hint="use one of the two",
        )


def _whereabouts_range(holder: dict[str, Any], path: str) -> Range:
    """``range`` as CIDR (host bits allowed) or ``a-b/length``; there is no default gateway."""
    if "range" not in holder:
        raise ConfigError("the range is missing", field=f"{path}.range", value=None)
    text = _text(holder, "range", path)
    low, dash, rest = text.partition("-")
    start, end = _text(holder, "range_start", path), _text(holder, "range_end", path)
    for theirs, ours in (("range_start", "rangeStart"), ("range_end", "rangeEnd")):
        if theirs in holder and ours.casefold() in holder:
            _agree(holder, theirs, ours)
    start = start or _text(holder, "rangeStart", path)
    end = end or _text(holder, "rangeEnd", path)
    if dash:
        high, _, length = rest.partition("/")
        text = f"{low.strip()}/{length}"
        start, end = start or low.strip(), end or high.strip()
    try:
        family, value, bits = parse_cidr(text)
    except ValueError as error:
        raise ConfigError(str(error), field=f"{path}.range", value=holder["range"]) from None
    subnet = format_cidr(family, prefix_bounds(family, value, bits)[0], bits)
    gateway = _text(holder, "gateway", path)
    return Range.parse(subnet, start, end, gateway, default_gateway=False, field=path)


def _exclusion(value: Any, field: str) -> tuple[int, int, int]:
    if not isinstance(value, str):
        raise _wrong(field, value, "a CIDR, an address or a range, as text")
    return parse_exclusion(value, field=field)


def _address(text: str, field: str) -> tuple[int, int] | None:
    """An address, a /length behind it ignored; None for an empty text."""
    if not text:
        return None
    try:
        return parse_cidr(text)[:2] if "/" in text else parse_ip(text)
    except ValueError as error:
        raise ConfigError(str(error), field=field, value=text) from None


def _requested(
    document: dict[str, Any], runtime: dict[str, Any], arguments: Arguments
) -> list[tuple[int, int]]:
    """The wanted addresses of the three sources, added together, each once."""
    found: list[tuple[int, int]] = []
    try:
        first = _address(arguments.address, "CNI_ARGS: IP")
    except ConfigError as error:
        raise CniError(BAD_ENVIRONMENT, f"{error.field}: {error.message}") from None
    if first is not None:
        found.append(first)
    cni = _object(_object(document, "args", ""), "cni", "args")
    for holder, path in ((cni, "args.cni"), (runtime, "runtimeConfig")):
        for at, text in enumerate(_list(holder, "ips", path)):
            field = f"{path}.ips[{at}]"
            if not isinstance(text, str):
                raise _wrong(field, text, "an address, as text")
            address = _address(text, field)
            if address is None:
                raise ConfigError("the address is empty", field=field, value=text)
            found.append(address)
    return list(dict.fromkeys(found))


class Route:
    """A route of the result: copied from the configuration, not filtered."""

    __slots__ = ("_fields", "family")

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(path, value, "a route, which is an object")
        text = _text(value, "dst", path)
        try:
            self.family, destination, length = parse_cidr(text)
        except ValueError as error:
            raise ConfigError(str(error), field=f"{path}.dst", value=text) from None
        fields: dict[str, str | int] = {"dst": format_cidr(self.family, destination, length)}
        gateway = _address(_text(value, "gw", path), f"{path}.gw")
        if gateway is not None:
            fields["gw"] = format_ip(*gateway)
        for key in ("mtu", "advmss", "priority", "table", "scope"):
            if key in value:
                number = _integer(value[key], f"{path}.{key}")
                # Go leaves out what is zero, but table and scope are pointers there.
                if number or key in ("table", "scope"):
                    fields[key] = number
        self._fields = fields

    def document(self, keys: tuple[str, ...]) -> dict[str, str | int]:
        """Those of the keys that the route has, in this order."""
        fields = self._fields
        return {key: fields[key] for key in keys if key in fields}


def _integer(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(field, value, "an integer")
    if not -(1 << 63) <= value < 1 << 63:
        raise ConfigError(f"{value} has more than 64 bits", field=field, value=value)
    return value


def valid_attachments(document: dict[str, Any]) -> set[tuple[str, str]]:
    """What a runtime says is still attached (CNI 1.1.0, "GC"). A missing list is an error.

    An empty list means that nothing is valid; a missing one must never wipe a network.
    """
    key = "cni.dev/valid-attachments"
    if key not in document:
        raise ConfigError(
            "the list of valid attachments is missing: nothing was freed", field=key, value=None
        )
    value = document[key]
    if not isinstance(value, list):
        raise _wrong(key, value, "a list")
    valid = set()
    for at, one in enumerate(value):
        path = f"{key}[{at}]"
        if not isinstance(one, dict):
            raise _wrong(path, one, "an object with containerID and ifname")
        container_id = _text(one, "containerID", path)
        if not container_id:
            raise ConfigError("it names no container", field=f"{path}.containerID", value=one)
        valid.add((container_id, _text(one, "ifname", path)))
    return valid


def previous_addresses(document: dict[str, Any]) -> list[tuple[int, int]]:
    """The addresses in ``prevResult``, none when there is no such result."""
    previous = _object(document, "prevResult", "")
    found = []
    for at, one in enumerate(_list(previous, "ips", "prevResult")):
        path = f"prevResult.ips[{at}]"
        if not isinstance(one, dict):
            raise _wrong(path, one, "an object")
        address = _address(_text(one, "address", path), f"{path}.address")
        if address is not None:
            found.append(address)
    return found
