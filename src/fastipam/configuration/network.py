"""Read and check the network configuration once. Every field of the result is set.

Keys and their meaning are host-local's; whereabouts' names for the same things are accepted too.
fastipam's own keys are ``pool``, ``exclude``, ``durability``, ``repeatAdd``, ``statusWhenFull``,
``ignoreHostLocal`` and those of policy.py. The order of the checks is host-local's as well. Fields
in errors are paths as the user wrote them (``ipam.ranges[0][1].subnet``). Keys without effect are
reported as notes (notes.py).
"""

from __future__ import annotations

import os

from fastipam import late_errors as errors
from fastipam.addressing.addresses import format_cidr, format_ip, parse_cidr
from fastipam.addressing.parsing import build_pool
from fastipam.addressing.ranges import Range
from fastipam.configuration import policy, reader
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.configuration.reader import RANGE_KEYS, kind_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastipam.configuration.cluster import Settings
    from fastipam.configuration.policy import Policy

    Version = tuple[int, int, int]
    Route = tuple[int, dict[str, str | int]]  # family, and the route's object in a result
    Hole = tuple[int, int, int]  # family, first, last address of an exclusion
    # Makes settings from (value, network, data directory, exclusions); raises ConfigError.
    ReadCluster = Callable[[object, str, str, list[Hole]], Settings]

_ALIASES = frozenset(("range_start", "range_end"))  # whereabouts' names of rangeStart and rangeEnd
_WHEREABOUTS = ("range", *_ALIASES, "ipranges")
_POOL_KEYS = ("pool", "network_name", "enable_overlapping_ranges")  # see pool_name.py
# The known keys of each level, case-folded. cluster.py has the keys of a cluster, and refuses
# others; an unknown key of these levels is only reported in a note.
RANGE = frozenset((*(key.casefold() for key in RANGE_KEYS), *_ALIASES, "exclude", "static"))
_ROUTE_NUMBERS = {
    "mtu": 32, "advmss": 32, "priority": 32, "table": 32, "scope": 8
}  # bits of each, rtnetlink(7)  # fmt: skip
ROUTE = frozenset(("dst", "gw", *_ROUTE_NUMBERS))
_KNOWN = frozenset(
    (
        "type",
        "ranges",
        "routes",
        "resolvconf",
        "datadir",
        *(key.casefold() for key in RANGE_KEYS),
        "exclude",
        "static",
        "durability",
        "repeatadd",
        "ignorehostlocal",
        "statuswhenfull",
        "cluster",
        *_WHEREABOUTS,
        *_POOL_KEYS,
        *(key.casefold() for key in policy.KEYS),
    )
)
# Bounds like those in reader.py, far above any real configuration.
_MOST_RANGES = 1024  # of all sets together
MOST_ADDRESSES = 1024  # requested, or in prevResult: every range is searched for each of them


def network_name(document: dict[str, Any]) -> str:
    """Return the network's name, checked as libcni does. Raises ConfigError."""
    name = document.get("name", "")
    if not isinstance(name, str):
        raise errors.DecodingError(
            f"this is {kind_of(name)}, not a string: {reader.show(name)}", field="name", value=name
        )
    if not name:
        raise errors.ConfigError("the network name is missing", field="name", value=name)
    if not reader.is_id(name):
        raise errors.ConfigError(
            f"{name!r} is not a valid network name",
            field="name",
            value=name,
            hint="begin with a letter or digit, then use letters, digits, '_', '.' and '-'",
        )
    return name


class Location:
    """The location of a network's leases, for DEL and GC.

    DEL and GC have to work with an invalid configuration too, so invalid values are ignored.
    ``is_assumed`` says that the configuration has no usable ``dataDir``, so that ``data_dir`` is
    the default.
    """

    __slots__ = ("data_dir", "durability", "is_assumed", "name", "policy")

    def __init__(self, document: dict[str, Any]) -> None:
        self.name = network_name(document)
        ipam = document.get("ipam")
        holder = ipam if isinstance(ipam, dict) else {}
        data_dir = holder.get("datadir")
        usable = reader.is_path(data_dir) and os.path.isabs(str(data_dir))
        self.is_assumed = not usable
        self.data_dir = str(data_dir) if usable else DEFAULT_DATA_DIR
        # Not read from the configuration: the store has its durability, and a wrong value must not
        # keep DEL from releasing.
        self.durability: str | None = None
        self.policy = policy.usable(holder)


class Config:
    """The whole configuration, for ADD, CHECK and STATUS. It does not change after it is read.

    ``pool`` has the range sets. Without any range it is empty, which only STATUS can use: see
    :meth:`require_ranges`. ``remember`` says that all ranges are the network's own; otherwise some
    are this container's, from ``runtimeConfig.ipRanges``.

    ``pool_name`` names the pool in which an address is unique, or is None for the pool with the
    network's name; ``names_pool`` says that the configuration has chosen it. In cluster mode
    ``pool_names`` are the AddressPools that the configuration names, and ``may_choose`` says that
    the pools for an ADD depend on the pod. ``notes`` report what is suspicious but not an error.

    ``read_cluster`` makes settings from the value of ``cluster``, which may be a file's path; this
    module itself reads neither files nor the host's name. ``raw`` is the document as it was
    written, for the spelling of keys in notes. Raises ConfigError.
    """

    def __init__(
        self,
        document: dict[str, Any],
        version: Version,
        read_cluster: ReadCluster,
        raw: bytes = b"",
    ) -> None:
        self.name = network_name(document)
        self.version = version
        self._assumed = "" if document.get("cniversion") else " (assumed: cniVersion is missing)"
        self.paths: list[str] = []  # where each range set was written, in their order
        # Material for notes: path, folded key, and what is odd, or "" for an unknown key.
        self._odd: list[tuple[str, str, str]] = []
        self._holes: list[tuple[str, Hole]] = []  # exclusions, each with its path
        self._static: list[tuple[str, Hole]] = []
        if "ipam" not in document:
            raise errors.ConfigError(
                "the configuration has no ipam section", field="ipam", value=None
            )
        ipam = reader.mapping(document, "ipam", "")
        self._look_at(ipam, _KNOWN, "ipam")
        runtime = reader.mapping(document, "runtimeConfig", "")
        self._read_scalars(ipam)
        self.routes = [
            route(one, f"ipam.routes[{at}]", self._odd)
            for at, one in enumerate(reader.listed(ipam, "routes", "ipam"))
        ]
        self._read_ranges(ipam, runtime, read_cluster)
        self.notes: list[str] = []
        if self._odd or self._holes or self._static or runtime or "args" in document:
            from fastipam.configuration import notes

            notes.look_around(self._odd, document, runtime)
            notes.look_at_holes(self._odd, self._holes, self.pool)
            notes.look_at_static(self._odd, self._static, self.pool)
            self.notes = notes.lines(self._odd, raw)

    def _look_at(self, holder: dict[str, Any], known: frozenset[str], path: str) -> None:
        """Add the unknown keys of an object to the notes."""
        if not known.issuperset(holder):
            self._odd += [(path, key, "") for key in holder if key not in known]

    def _read_scalars(self, ipam: dict[str, Any]) -> None:
        reader.text(ipam, "type", "ipam")
        data_dir = reader.text(ipam, "dataDir", "ipam") or DEFAULT_DATA_DIR
        resolv_conf = reader.text(ipam, "resolvConf", "ipam")
        for key, value in (("dataDir", data_dir), ("resolvConf", resolv_conf)):
            if value and not reader.is_path(value):
                raise errors.ConfigError(
                    f"{value!r} is not a valid path", field=f"ipam.{key}", value=value
                )
        if not os.path.isabs(data_dir):
            raise errors.ConfigError(
                f"{data_dir!r} is not an absolute path",
                field="ipam.dataDir",
                value=data_dir,
                hint=(
                    "a relative path would give the agent and a directly started plugin a store "
                    "each"
                ),
            )
        self.data_dir = data_dir
        self.resolv_conf = resolv_conf
        if resolv_conf and not os.path.isabs(resolv_conf):
            raise errors.ConfigError(
                f"{resolv_conf!r} is not an absolute path",
                field="ipam.resolvConf",
                value=resolv_conf,
                hint="a runtime may start the plugin in any directory",
            )
        self.policy = policy.read(ipam)
        if not self.policy.cooldown_ns and "cooldownpolicy" in ipam:
            self._odd.append(("ipam", "cooldownPolicy", "no effect while ipam.cooldown is 0"))
        if not self.policy.history and "historyage" in ipam:
            self._odd.append(("ipam", "historyAge", "no effect while ipam.history is 0"))
        self.durability = reader.choice(ipam, "durability", ("durable", "relaxed"))
        self.ignore_host_local = reader.flag(ipam, "ignoreHostLocal", "ipam")
        self.repeat = reader.choice(ipam, "repeatAdd", ("error", "return")) or "error"
        when_full = reader.choice(ipam, "statusWhenFull", ("ready", "unavailable"))
        self.ready_when_full = when_full != "unavailable"

    def _read_ranges(
        self, ipam: dict[str, Any], runtime: dict[str, Any], read_cluster: ReadCluster
    ) -> None:
        """Read the range sets in host-local's order.

        First come the runtime's (``ipRanges``), then the old single range, then ``ranges``.
        """
        paths = self.paths
        runtimes = reader.listed(runtime, "ipRanges", "runtimeConfig", reader.MOST_SETS)
        extra = self._range_sets(runtimes, "runtimeConfig.ipRanges")
        own = self._host_local_sets(ipam)
        other: list[list[Range]] = []
        if any(key in ipam for key in _WHEREABOUTS):
            from fastipam.configuration import whereabouts

            other = whereabouts.range_sets(ipam, paths, self._odd, self._holes)
        if own and other:
            mine = next(key for key in ("subnet", "ranges") if key in ipam)
            theirs = "range" if "range" in ipam else "ipRanges"
            raise errors.ConfigError(
                f"ipam.{mine} and ipam.{theirs} cannot be used together: both say what to assign",
                field=f"ipam.{theirs}",
                value=ipam[theirs.casefold()],
                hint="use one of the two",
            )
        sets = [*extra, *own, *other]
        self.pool_name: str | None = None
        self.pool_names: tuple[str, ...] = ()
        self.names_pool = False
        if "cluster" in ipam and "pool" in ipam:
            from fastipam.configuration import pool_name

            pool_name.check_beside_cluster(ipam)
        elif other or any(key in ipam for key in _POOL_KEYS):
            from fastipam.configuration import pool_name

            self.pool_name, self.names_pool = pool_name.read(ipam, other, self._odd)
        self.remember = not extra
        self.may_choose = False
        self.cluster: Settings | None = None
        self.spare_policy: Policy | None = None
        if "cluster" in ipam:
            if sets:
                raise _two_pools(ipam)
            if "static" in ipam:
                raise errors.ConfigError(
                    "a cluster's pool cannot have static addresses",
                    field="ipam.static",
                    value=reader.brief(ipam["static"]),
                    hint="reserve the addresses on the node that owns their block",
                )
            self._read_holes(ipam, "ipam")
            holes = [hole for _, hole in self._holes]
            self._set_cluster(read_cluster(ipam["cluster"], self.name, self.data_dir, holes))
            if "pool" in ipam:
                from fastipam.configuration import pool_name

                self.pool_names = pool_name.of_cluster(ipam["pool"], self.cluster)
            self._look_at_choice(bool(runtime))
            return
        count = sum(map(len, sets))
        for many, most, what in (
            (len(sets), reader.MOST_SETS, "range sets"),
            (count, _MOST_RANGES, "ranges"),
        ):
            if many > most:
                raise errors.ConfigError(
                    f"{many} {what} are configured, but at most {most} are allowed",
                    field=paths[-1],
                    value=many,
                )
        self._read_holes(ipam, "ipam")
        self._read_static(ipam, "ipam")
        holes = [hole for _, hole in self._holes]
        areas = [area for _, area in self._static]
        self.pool = build_pool(sets, holes, static=areas, fields=paths)
        self._refuse_too_many()

    def _look_at_choice(self, has_runtime: bool) -> None:
        """Set ``may_choose``: whether an ADD may be limited to some of the cluster's pools."""
        cluster = self.cluster
        assert cluster is not None
        self.may_choose = cluster.is_founded_by_agent and bool(
            has_runtime or self.pool_names or cluster.namespaces or not cluster.is_uniform
        )

    def require_ranges(self) -> None:
        """Raise ConfigError when there is no range to assign an address from."""
        if not self.pool.sets:
            raise errors.ConfigError(
                "no ranges are given",
                field="ipam.ranges",
                value=None,
                hint='"ranges": [[{"subnet": "10.32.0.0/12"}]]',
            )

    def _read_holes(self, holder: dict[str, Any], path: str) -> None:
        for at, one in enumerate(reader.listed(holder, "exclude", path)):
            field = f"{path}.exclude[{at}]"
            self._holes.append((field, reader.exclusion(one, field)))

    def _read_static(self, holder: dict[str, Any], path: str, within: Range | None = None) -> None:
        """Read the static addresses of an object; those inside a range are limited to the range."""
        for at, one in enumerate(reader.listed(holder, "static", path)):
            field = f"{path}.static[{at}]"
            family, low, high = reader.exclusion(one, field)
            if "/" in one and parse_cidr(one)[1] != low:
                whole = format_cidr(family, low, parse_cidr(one)[2])
                raise errors.ConfigError(
                    f"{one!r} has host bits set: as a CIDR it would make all of {whole} static",
                    field=field,
                    value=one,
                    hint=f"write the address alone, or {whole}",
                )
            if within is not None and family == within.family:
                low, high = max(low, within.start), min(high, within.end)
            if within is None or (family == within.family and low <= high):
                self._static.append((field, (family, low, high)))
            else:
                self._odd.append((field, "", f"no effect: no address of {one} is in {within}"))

    def _host_local_sets(self, ipam: dict[str, Any]) -> list[list[Range]]:
        """Return the old single range, if there is a ``subnet``, followed by ``ranges``."""
        sets = []
        if "subnet" in ipam:
            sets.append([self._range(ipam, "ipam")])
            self.paths.append("ipam")
        elif "range" not in ipam:
            for key in RANGE_KEYS[1:]:  # they have no effect without a subnet, but must be valid
                if key.casefold() in ipam:
                    reader.ip(reader.text(ipam, key, "ipam"), f"ipam.{key}")
                    self._odd.append(("ipam", key, "no effect without ipam.subnet"))
        listed = reader.listed(ipam, "ranges", "ipam", reader.MOST_SETS)
        return sets + self._range_sets(listed, "ipam.ranges")

    def _range_sets(self, listed: list[Any], path: str) -> list[list[Range]]:
        sets = []
        for at, ranges in enumerate(listed):
            here = f"{path}[{at}]"
            self.paths.append(here)
            if not isinstance(ranges, list):
                error = reader.wrong(here, ranges, "a range set, which is a list of ranges")
                error.hint = 'write two brackets: "ranges": [[{"subnet": "10.32.0.0/12"}]]'
                raise error
            found = []
            for place, one in enumerate(ranges):
                if not isinstance(one, dict):
                    raise reader.wrong(f"{here}[{place}]", one, "a range (a JSON object)")
                found.append(self._range(one, f"{here}[{place}]"))
            sets.append(found)
        return sets

    def _range(self, holder: dict[str, Any], path: str) -> Range:
        if "subnet" not in holder:
            raise errors.ConfigError("the subnet is missing", field=f"{path}.subnet", value=None)
        if _ALIASES.isdisjoint(holder):
            subnet, start, end, gateway = (reader.text(holder, key, path) for key in RANGE_KEYS)
            found = Range.parse(subnet, start, end, gateway, field=path)
        else:
            from fastipam.configuration import whereabouts

            found = whereabouts.with_aliases(holder, path)
        if path != "ipam":  # directly in ``ipam`` other keys are known too
            self._look_at(holder, RANGE, path)
            if "exclude" in holder:
                from fastipam.configuration import whereabouts

                self._holes += whereabouts.holes_of(holder, path, found, self._odd)
            if "static" in holder:
                self._read_static(holder, path, found)
        return found

    def _set_cluster(self, settings: Settings) -> None:
        """Take the pool from the cluster. This node assigns only from the blocks that it owns."""
        self.cluster = settings
        self.pool = settings.pool
        if not self.policy.strict:
            # The node first tries to get another block, and only then takes a cooling address.
            self.spare_policy, self.policy = self.policy, self.policy.stricter()
        self._refuse_too_many()

    def _refuse_too_many(self) -> None:
        if self.version < (0, 3, 0):
            families = [each.family for each in self.pool.sets]
            for family in (4, 6):
                if families.count(family) > 1:
                    raise errors.ConfigError(
                        f"CNI version {'.'.join(map(str, self.version))}{self._assumed} "
                        f"allows one IPv{family} address, but {families.count(family)} range sets "
                        "would assign one each",
                        field="cniVersion",
                        value=None if self._assumed else ".".join(map(str, self.version)),
                        hint='use "cniVersion": "0.3.0" or newer',
                    )


def _two_pools(ipam: dict[str, Any]) -> errors.ConfigError:
    return errors.ConfigError(
        '"ranges" and "cluster" cannot be used together: both say what to assign',
        field="ipam.cluster",
        value=reader.brief(ipam["cluster"]),
        hint='write the pool inside: "cluster": {"pool": "10.32.0.0/12", …}',
    )


def requested(
    document: dict[str, Any], first: tuple[int, int] | None = None
) -> list[tuple[int, int]]:
    """Return the requested (family, address) pairs, each once.

    They are ``first`` (from CNI_ARGS), then those of ``args.cni.ips`` and ``runtimeConfig.ips``.
    """
    runtime = reader.mapping(document, "runtimeConfig", "")
    found = [] if first is None else [first]
    cni = reader.mapping(reader.mapping(document, "args", ""), "cni", "args")
    for holder, path in ((cni, "args.cni"), (runtime, "runtimeConfig")):
        for at, text in enumerate(reader.listed(holder, "ips", path, MOST_ADDRESSES)):
            field = f"{path}.ips[{at}]"
            if not isinstance(text, str):
                raise reader.wrong(field, text, "an address, as a string")
            address = reader.address(text, field)
            if address is None:
                raise errors.ConfigError("the address is empty", field=field, value=text)
            found.append(address)
    return list(dict.fromkeys(found))


_DST_HINT = '"dst": "0.0.0.0/0" is the default route of IPv4, "dst": "::/0" that of IPv6'


def route(value: Any, path: str, odd: list[tuple[str, str, str]]) -> Route:
    """Return a route of the result, copied from the configuration. Raises ConfigError.

    Keys without effect are added to ``odd``: path, folded key, and why, or "" for an unknown key.
    """
    if not isinstance(value, dict):
        raise reader.wrong(path, value, "a route (a JSON object)")
    if not ROUTE.issuperset(value):
        odd += [(path, key, "") for key in value if key not in ROUTE]
    if "dst" not in value:
        raise errors.ConfigError(
            "the destination of this route is missing",
            field=f"{path}.dst",
            value=None,
            hint=_DST_HINT,
        )
    text = reader.text(value, "dst", path)
    try:
        family, destination, length = parse_cidr(text)
    except ValueError as error:
        raise errors.ConfigError(
            str(error), field=f"{path}.dst", value=text, hint=_DST_HINT
        ) from None
    shown: dict[str, str | int] = {"dst": format_cidr(family, destination, length)}
    gateway = reader.ip(reader.text(value, "gw", path), f"{path}.gw")
    if gateway is not None:
        shown["gw"] = format_ip(*gateway)
    for key, bits in _ROUTE_NUMBERS.items():
        if key in value:
            number = reader.integer(value[key], f"{path}.{key}")
            if number >> bits:
                odd.append((path, key, f"{number} is not in 0..{(1 << bits) - 1}"))
            # As in Go's encoding of a route: zeros are left out, except for table and scope, which
            # are pointers there.
            if number or key in ("table", "scope"):
                shown[key] = number
    return family, shown
