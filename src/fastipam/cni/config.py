"""The network configuration, read and checked once; nothing behind it meets an unset field.

Keys and their meaning are host-local's; whereabouts' names for the same things are accepted beside
them; fastipam's own are ``exclude``, ``durability``, ``repeatAdd`` and those of policy.py. The
order in which things are refused is host-local's, too. Field names in errors are paths as the user
wrote them (``ipam.ranges[0][1].subnet``).
"""

from __future__ import annotations

import os

from fastipam.addresses import format_cidr, format_ip, parse_cidr, parse_ip, prefix_bounds
from fastipam.cni import policy
from fastipam.cni.codes import BAD_ENVIRONMENT, DECODING_FAILURE, CniError
from fastipam.cni.document import kind_of
from fastipam.cni.request import is_id
from fastipam.errors import ConfigError
from fastipam.ranges import Range
from fastipam.rangespec import build_pool, parse_exclusion
from fastipam.store import DEFAULT_DATA_DIR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.cluster.settings import Settings
    from fastipam.cni.request import Arguments
    from fastipam.cni.versions import Version
    from fastipam.policy import Policy

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
        "durability",
        "repeatadd",
        "cluster",
        "range",
        "range_start",
        "range_end",
        "ipranges",
        *(key.casefold() for key in policy.KEYS),
    )
)
# No configuration comes near these; they bound the time that a hostile one can take.
_MOST_ENTRIES = 4096  # of a list: routes, exclusions
_MOST_SETS = 256  # each gives a container one more address
_MOST_RANGES = 1024  # of all sets together
_MOST_ADDRESSES = 1024  # requested, or in prevResult: each is looked up in every range
_MOST_NOTES = 8


def _wrong(field: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(f"this is {kind_of(value)}, not {wanted}", field=field, value=value)


def _text(holder: dict[str, Any], key: str, path: str) -> str:
    """The text under a key, "" when it is absent."""
    value = holder.get(key.casefold(), "")
    if not isinstance(value, str):
        raise _wrong(f"{path}.{key}", value, "a text")
    return value


def _list(holder: dict[str, Any], key: str, path: str, most: int = _MOST_ENTRIES) -> list[Any]:
    value = holder.get(key.casefold(), [])
    field = f"{path}.{key}"
    if not isinstance(value, list):
        raise _wrong(field, value, "a list")
    if len(value) > most:
        raise ConfigError(f"{len(value)} entries are more than {most}", field=field, value=value)
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

    __slots__ = ("data_dir", "durability", "name", "policy")

    def __init__(self, document: dict[str, Any]) -> None:
        self.name = network_name(document)
        ipam = document.get("ipam")
        holder = ipam if isinstance(ipam, dict) else {}
        data_dir = holder.get("datadir")
        usable = _is_path(data_dir) and os.path.isabs(str(data_dir))
        self.data_dir = str(data_dir) if usable else DEFAULT_DATA_DIR
        # The store knows its durability: a wrong or missing one must not keep DEL from freeing.
        self.durability: str | None = None
        self.policy = policy.usable(holder)


def _is_path(value: Any) -> bool:
    """Whether an operating system could have a file of this name."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell
        return False
    return True


def _brief(value: Any) -> str:
    """A value in an error's text; a list or an object only by its kind."""
    return kind_of(value) if isinstance(value, (dict, list)) else repr(value)


def _notes(ipam: dict[str, Any]) -> list[str]:
    """One line for each unknown key, and one for the rest when there are many."""
    unknown = [key for key in ipam if key not in _KNOWN]
    notes = [f"ipam: unknown key {key!r}, ignored" for key in unknown[:_MOST_NOTES]]
    if len(unknown) > _MOST_NOTES:
        notes.append(f"ipam: {len(unknown) - _MOST_NOTES} more unknown keys, ignored")
    return notes


class Config:
    """The whole configuration, for ADD, CHECK and STATUS; it does not change once it is read.

    ``pool`` are the range sets, ``remember`` whether they are the network's own (and not partly
    this container's, from ``runtimeConfig.ipRanges``), ``notes`` what is odd but no error.
    """

    def __init__(self, document: dict[str, Any], version: Version) -> None:
        self.name = network_name(document)
        self.version = version
        if "ipam" not in document:
            raise ConfigError("the configuration has no ipam section", field="ipam", value=None)
        ipam = _object(document, "ipam", "")
        self.notes = _notes(ipam)
        runtime = _object(document, "runtimeConfig", "")
        self._read_scalars(ipam)
        self.routes = [
            Route(one, f"ipam.routes[{at}]") for at, one in enumerate(_list(ipam, "routes", "ipam"))
        ]
        self._read_ranges(ipam, runtime)

    def _read_scalars(self, ipam: dict[str, Any]) -> None:
        _text(ipam, "type", "ipam")
        data_dir = _text(ipam, "dataDir", "ipam") or DEFAULT_DATA_DIR
        resolv_conf = _text(ipam, "resolvConf", "ipam")
        for key, value in (("dataDir", data_dir), ("resolvConf", resolv_conf)):
            if value and not _is_path(value):
                raise ConfigError(f"{value!r} cannot be a path", field=f"ipam.{key}", value=value)
        if not os.path.isabs(data_dir):
            raise ConfigError(
                f"{data_dir!r} is not an absolute path",
                field="ipam.dataDir",
                value=data_dir,
                hint="the agent and a plugin that is started directly work in other directories, "
                "and would each have a store of its own",
            )
        self.data_dir = data_dir
        self.resolv_conf = resolv_conf
        self.policy = policy.read(ipam)
        self.durability = _choice(ipam, "durability", ("durable", "relaxed"))
        self.repeat = _choice(ipam, "repeatAdd", ("error", "return")) or "error"

    def _read_ranges(self, ipam: dict[str, Any], runtime: dict[str, Any]) -> None:
        """Sets in host-local's order: the runtime's, the old single range, ``ranges``."""
        paths: list[str] = []  # of each set, in the order of ``sets``
        runtimes = _list(runtime, "ipRanges", "runtimeConfig", _MOST_SETS)
        extra = _range_sets(runtimes, "runtimeConfig.ipRanges", paths)
        own = _host_local_sets(ipam, paths)
        other, holes = _whereabouts_sets(ipam, paths)
        if own and other:
            mine = next(key for key in ("subnet", "ranges") if key in ipam)
            theirs = "range" if "range" in ipam else "ipRanges"
            raise ConfigError(
                f"ipam.{mine} and ipam.{theirs} both say what to assign",
                field=f"ipam.{theirs}",
                value=ipam[theirs.casefold()],
                hint="use one of the two",
            )
        sets = [*extra, *own, *other]
        self.remember = not extra
        self.cluster: Settings | None = None
        self.spare_policy: Policy | None = None
        if "cluster" in ipam:
            self._read_cluster(ipam, sets, holes)
            return
        if not sets:
            raise ConfigError(
                "no ranges are given",
                field="ipam.ranges",
                value=ipam.get("ranges"),
                hint='"ranges": [[{"subnet": "10.32.0.0/12"}]]',
            )
        for many, most, what in (
            (len(sets), _MOST_SETS, "range sets"),
            (sum(map(len, sets)), _MOST_RANGES, "ranges"),
        ):
            if many > most:
                raise ConfigError(
                    f"{many} {what} are more than {most}", field="ipam.ranges", value=many
                )
        for at, one in enumerate(_list(ipam, "exclude", "ipam")):
            holes.append(_exclusion(one, f"ipam.exclude[{at}]"))
        self.pool = build_pool(sets, holes, fields=paths)
        self._refuse_too_many()

    def _read_cluster(
        self, ipam: dict[str, Any], sets: list[list[Range]], holes: list[tuple[int, int, int]]
    ) -> None:
        """The pool is the cluster's; of it this node serves the blocks that it owns."""
        from fastipam.cni import sharing

        if sets:
            raise ConfigError(
                "ranges of its own and a cluster's pool cannot both say what to assign",
                field="ipam.cluster",
                value=_brief(ipam["cluster"]),
                hint='the pool stands inside: "cluster": {"pool": "10.32.0.0/12", …}',
            )
        for at, one in enumerate(_list(ipam, "exclude", "ipam")):
            holes.append(_exclusion(one, f"ipam.exclude[{at}]"))
        self.cluster = sharing.read(ipam["cluster"], self.name, self.data_dir, holes)
        self.pool = self.cluster.pool
        if not self.policy.strict:
            # Another block comes before an address that has not cooled down.
            self.spare_policy, self.policy = self.policy, self.policy.stricter()
        self._refuse_too_many()

    def _refuse_too_many(self) -> None:
        if self.version < (0, 3, 0):
            families = [each.family for each in self.pool.sets]
            for family in (4, 6):
                if families.count(family) > 1:
                    raise ConfigError(
                        f"CNI version {'.'.join(map(str, self.version))} "
                        f"has room for one IPv{family} address, "
                        f"{families.count(family)} range sets give one each",
                        field="cniVersion",
                        value=".".join(map(str, self.version)),
                        hint='use "cniVersion": "0.3.0" or newer',
                    )


def _choice(ipam: dict[str, Any], key: str, allowed: tuple[str, ...]) -> str | None:
    if key.casefold() not in ipam:
        return None
    value = _text(ipam, key, "ipam")
    if value not in allowed:
        raise ConfigError(
            f"{value!r} is none of {', '.join(allowed)}", field=f"ipam.{key}", value=value
        )
    return value


def _host_local_sets(ipam: dict[str, Any], paths: list[str]) -> list[list[Range]]:
    """The old single range (if there is a ``subnet``), then ``ranges``; adds their paths."""
    sets = []
    if "subnet" in ipam:
        sets.append([_range(ipam, "ipam")])
        paths.append("ipam")
    elif "range" not in ipam:
        for key in _RANGE_KEYS[1:]:  # no effect without a subnet, but still no nonsense
            _ip(_text(ipam, key, "ipam"), f"ipam.{key}")
    return sets + _range_sets(_list(ipam, "ranges", "ipam", _MOST_SETS), "ipam.ranges", paths)


def _range_sets(listed: list[Any], path: str, paths: list[str]) -> list[list[Range]]:
    sets = []
    for at, ranges in enumerate(listed):
        here = f"{path}[{at}]"
        paths.append(here)
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
    ipam: dict[str, Any], paths: list[str]
) -> tuple[list[list[Range]], list[tuple[int, int, int]]]:
    """``range`` with its bounds, then ``ipRanges``; and what the entries of the latter exclude."""
    sets = []
    holes: list[tuple[int, int, int]] = []
    if "range" in ipam:
        sets.append([_whereabouts_range(ipam, "ipam")])
        paths.append("ipam")
    else:
        for key in ("range_start", "range_end"):
            if key in ipam:
                raise ConfigError(
                    "this bounds ipam.range, which is missing", field=f"ipam.{key}", value=ipam[key]
                )
    for at, one in enumerate(_list(ipam, "ipRanges", "ipam", _MOST_SETS)):
        here = f"ipam.ipRanges[{at}]"
        if not isinstance(one, dict):
            raise _wrong(here, one, "an object with a range")
        its_range = _whereabouts_range(one, here)
        sets.append([its_range])
        paths.append(here)
        for place, hole in enumerate(_list(one, "exclude", here)):
            family, low, high = _exclusion(hole, f"{here}.exclude[{place}]")
            # It is this entry's alone: what it says beyond the range means nothing to the others.
            low, high = max(low, its_range.start), min(high, its_range.end)
            if family == its_range.family and low <= high:
                holes.append((family, low, high))
    return sets, holes


def _either(holder: dict[str, Any], theirs: str, ours: str, path: str) -> str:
    """The text under one of two names; both may stand there only when they say the same."""
    text, other = _text(holder, theirs, path), _text(holder, ours, path)
    if text and other and text != other:
        raise ConfigError(
            f"it says {text!r} and {path}.{ours} says {other!r}",
            field=f"{path}.{theirs}",
            value=text,
            hint="use one of the two",
        )
    return text or other


def _whereabouts_range(holder: dict[str, Any], path: str) -> Range:
    """``range`` as CIDR (host bits allowed) or ``a-b/length``; there is no default gateway."""
    if "range" not in holder:
        raise ConfigError("the range is missing", field=f"{path}.range", value=None)
    text = _text(holder, "range", path)
    low, dash, rest = text.partition("-")
    start = _either(holder, "range_start", "rangeStart", path)
    end = _either(holder, "range_end", "rangeEnd", path)
    if dash:
        high, _, length = rest.partition("/")
        text = f"{low.strip()}/{length}"
        if _ip(high.strip(), f"{path}.range") is None:
            raise ConfigError("the end behind '-' is missing", field=f"{path}.range", value=high)
        start, end = start or low.strip(), end or high.strip()
    try:
        family, value, bits = parse_cidr(text)
    except ValueError as error:
        raise ConfigError(str(error), field=f"{path}.range", value=holder["range"]) from None
    subnet = format_cidr(family, prefix_bounds(family, value, bits)[0], bits)
    gateway = _text(holder, "gateway", path)
    try:
        return Range.parse(subnet, start, end, gateway, default_gateway=False, field=path)
    except ConfigError as error:
        key = error.field.rpartition(".")[2]
        for theirs, ours in (("range_start", "rangeStart"), ("range_end", "rangeEnd")):
            if key == ours and ours.casefold() not in holder:  # it is where the user wrote it
                error.field = f"{path}.{theirs if theirs in holder else 'range'}"
        raise


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


def _ip(text: str, field: str) -> tuple[int, int] | None:
    """An address and nothing else; None for an empty text."""
    if not text:
        return None
    try:
        return parse_ip(text)
    except ValueError as error:
        raise ConfigError(str(error), field=field, value=text) from None


def requested(document: dict[str, Any], arguments: Arguments) -> list[tuple[int, int]]:
    """The wanted (family, address) pairs of the three sources, added together, each once."""
    runtime = _object(document, "runtimeConfig", "")
    found: list[tuple[int, int]] = []
    try:
        first = _address(arguments.address, "CNI_ARGS: IP")
    except ConfigError as error:
        raise CniError(BAD_ENVIRONMENT, f"{error.field}: {error.message}") from None
    if first is not None:
        found.append(first)
    cni = _object(_object(document, "args", ""), "cni", "args")
    for holder, path in ((cni, "args.cni"), (runtime, "runtimeConfig")):
        for at, text in enumerate(_list(holder, "ips", path, _MOST_ADDRESSES)):
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
        gateway = _ip(_text(value, "gw", path), f"{path}.gw")
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
    for key in ("ip4", "ip6"):  # the shape before 0.3.0
        old = _object(previous, key, "prevResult")
        address = _address(_text(old, "ip", f"prevResult.{key}"), f"prevResult.{key}.ip")
        if address is not None:
            found.append(address)
    for at, one in enumerate(_list(previous, "ips", "prevResult", _MOST_ADDRESSES)):
        path = f"prevResult.ips[{at}]"
        if not isinstance(one, dict):
            raise _wrong(path, one, "an object")
        address = _address(_text(one, "address", path), f"{path}.address")
        if address is not None:
            found.append(address)
    return found
