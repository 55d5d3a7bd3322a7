"""Read and check the network configuration once; in what results no field is unset.

Keys and their meaning are host-local's; whereabouts' names for the same things are accepted beside
them; fastipam's own are ``exclude``, ``durability``, ``repeatAdd``, ``ignoreHostLocal`` and
those of policy.py. The order in which things are refused is host-local's, too. Field names in
errors are paths as the user wrote them (``ipam.ranges[0][1].subnet``).
"""

from __future__ import annotations

import os

from fastipam.addressing.addresses import format_cidr, format_ip, parse_cidr
from fastipam.addressing.parsing import build_pool
from fastipam.addressing.ranges import Range
from fastipam.configuration import policy, reader
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.configuration.reader import RANGE_KEYS, kind_of
from fastipam.errors import ConfigError, DecodingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastipam.configuration.cluster import Settings
    from fastipam.configuration.policy import Policy

    Version = tuple[int, int, int]
    # Of (value, network, data directory, what is excluded); raises ConfigError.
    ReadCluster = Callable[[object, str, str, list[tuple[int, int, int]]], Settings]

_WHEREABOUTS = ("range", "range_start", "range_end", "ipranges")
_KNOWN = frozenset(
    (
        "type",
        "ranges",
        "routes",
        "resolvconf",
        "datadir",
        *(key.casefold() for key in RANGE_KEYS),
        "exclude",
        "durability",
        "repeatadd",
        "ignorehostlocal",
        "cluster",
        *_WHEREABOUTS,
        *(key.casefold() for key in policy.KEYS),
    )
)
# Bounds like those in reader.py: no real configuration comes near them.
_MOST_RANGES = 1024  # of all sets together
_MOST_ADDRESSES = 1024  # requested, or in prevResult: each is looked up in every range
_MOST_NOTES = 8


def network_name(document: dict[str, Any]) -> str:
    """Return the network's name, checked as libcni does. Raises ConfigError."""
    name = document.get("name", "")
    if not isinstance(name, str):
        raise DecodingError(f"this is {kind_of(name)}, not a text", field="name", value=name)
    if not name:
        raise ConfigError("the network name is missing", field="name", value=name)
    if not reader.is_id(name):
        raise ConfigError(
            f"the network name {name!r} has characters that it may not have",
            field="name",
            value=name,
            hint="a letter or digit, then letters, digits, '_', '.' and '-'",
        )
    return name


class Location:
    """Where the leases are, for DEL and GC, which have to work with a wrong configuration too."""

    __slots__ = ("data_dir", "durability", "name", "policy")

    def __init__(self, document: dict[str, Any]) -> None:
        self.name = network_name(document)
        ipam = document.get("ipam")
        holder = ipam if isinstance(ipam, dict) else {}
        data_dir = holder.get("datadir")
        usable = reader.is_path(data_dir) and os.path.isabs(str(data_dir))
        self.data_dir = str(data_dir) if usable else DEFAULT_DATA_DIR
        # The store knows its durability; a wrong value must not keep DEL from releasing.
        self.durability: str | None = None
        self.policy = policy.usable(holder)


def _notes(ipam: dict[str, Any]) -> list[str]:
    """Return a line for each unknown key, and one for the rest when there are many."""
    unknown = [key for key in ipam if key not in _KNOWN]
    notes = [f"ipam: unknown key {key!r}, ignored" for key in unknown[:_MOST_NOTES]]
    if len(unknown) > _MOST_NOTES:
        notes.append(f"ipam: {len(unknown) - _MOST_NOTES} more unknown keys, ignored")
    return notes


class Config:
    """The whole configuration, for ADD, CHECK and STATUS; it does not change once it is read.

    ``pool`` are the range sets; ``remember`` says that they are the network's own, and not partly
    this container's (from ``runtimeConfig.ipRanges``). ``notes`` say what is odd but no error.
    ``read_cluster`` makes settings of what stands under ``cluster``, which may be a file's path:
    files and the host's name are the caller's to read. Raises ConfigError.
    """

    def __init__(
        self, document: dict[str, Any], version: Version, read_cluster: ReadCluster
    ) -> None:
        self.name = network_name(document)
        self.version = version
        if "ipam" not in document:
            raise ConfigError("the configuration has no ipam section", field="ipam", value=None)
        ipam = reader.mapping(document, "ipam", "")
        self.notes = _notes(ipam)
        runtime = reader.mapping(document, "runtimeConfig", "")
        self._read_scalars(ipam)
        self.routes = [
            Route(one, f"ipam.routes[{at}]")
            for at, one in enumerate(reader.listed(ipam, "routes", "ipam"))
        ]
        self._read_ranges(ipam, runtime, read_cluster)

    def _read_scalars(self, ipam: dict[str, Any]) -> None:
        reader.text(ipam, "type", "ipam")
        data_dir = reader.text(ipam, "dataDir", "ipam") or DEFAULT_DATA_DIR
        resolv_conf = reader.text(ipam, "resolvConf", "ipam")
        for key, value in (("dataDir", data_dir), ("resolvConf", resolv_conf)):
            if value and not reader.is_path(value):
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
        self.durability = reader.choice(ipam, "durability", ("durable", "relaxed"))
        self.ignore_host_local = reader.flag(ipam, "ignoreHostLocal", "ipam")
        self.repeat = reader.choice(ipam, "repeatAdd", ("error", "return")) or "error"

    def _read_ranges(
        self, ipam: dict[str, Any], runtime: dict[str, Any], read_cluster: ReadCluster
    ) -> None:
        """Read the range sets in host-local's order: runtime's, old single range, ``ranges``."""
        paths: list[str] = []  # of each set, in the order of ``sets``
        runtimes = reader.listed(runtime, "ipRanges", "runtimeConfig", reader.MOST_SETS)
        extra = _range_sets(runtimes, "runtimeConfig.ipRanges", paths)
        own = _host_local_sets(ipam, paths)
        other: list[list[Range]] = []
        holes: list[tuple[int, int, int]] = []
        if any(key in ipam for key in _WHEREABOUTS):
            from fastipam.configuration import whereabouts

            other, holes = whereabouts.range_sets(ipam, paths)
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
            if sets:
                raise _two_pools(ipam)
            self._read_holes(ipam, holes)
            self._set_cluster(read_cluster(ipam["cluster"], self.name, self.data_dir, holes))
            return
        if not sets:
            raise ConfigError(
                "no ranges are given",
                field="ipam.ranges",
                value=ipam.get("ranges"),
                hint='"ranges": [[{"subnet": "10.32.0.0/12"}]]',
            )
        for many, most, what in (
            (len(sets), reader.MOST_SETS, "range sets"),
            (sum(map(len, sets)), _MOST_RANGES, "ranges"),
        ):
            if many > most:
                raise ConfigError(
                    f"{many} {what} are more than {most}", field="ipam.ranges", value=many
                )
        self._read_holes(ipam, holes)
        self.pool = build_pool(sets, holes, fields=paths)
        self._refuse_too_many()

    @staticmethod
    def _read_holes(ipam: dict[str, Any], holes: list[tuple[int, int, int]]) -> None:
        for at, one in enumerate(reader.listed(ipam, "exclude", "ipam")):
            holes.append(reader.exclusion(one, f"ipam.exclude[{at}]"))

    def _set_cluster(self, settings: Settings) -> None:
        """Take the pool from the cluster; this node serves the blocks of it that it owns."""
        self.cluster = settings
        self.pool = settings.pool
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


def _two_pools(ipam: dict[str, Any]) -> ConfigError:
    return ConfigError(
        "ranges of its own and a cluster's pool cannot both say what to assign",
        field="ipam.cluster",
        value=reader.brief(ipam["cluster"]),
        hint='the pool stands inside: "cluster": {"pool": "10.32.0.0/12", …}',
    )


def _host_local_sets(ipam: dict[str, Any], paths: list[str]) -> list[list[Range]]:
    """Return the old single range, if there is a ``subnet``, then ``ranges``; add their paths."""
    sets = []
    if "subnet" in ipam:
        sets.append([_range(ipam, "ipam")])
        paths.append("ipam")
    elif "range" not in ipam:
        for key in RANGE_KEYS[1:]:  # no effect without a subnet, but still no nonsense
            reader.ip(reader.text(ipam, key, "ipam"), f"ipam.{key}")
    return sets + _range_sets(
        reader.listed(ipam, "ranges", "ipam", reader.MOST_SETS), "ipam.ranges", paths
    )


def _range_sets(listed: list[Any], path: str, paths: list[str]) -> list[list[Range]]:
    sets = []
    for at, ranges in enumerate(listed):
        here = f"{path}[{at}]"
        paths.append(here)
        if not isinstance(ranges, list):
            raise reader.wrong(here, ranges, "a range set, which is a list of ranges")
        found = []
        for place, one in enumerate(ranges):
            if not isinstance(one, dict):
                raise reader.wrong(f"{here}[{place}]", one, "a range, which is an object")
            found.append(_range(one, f"{here}[{place}]"))
        sets.append(found)
    return sets


def _range(holder: dict[str, Any], path: str) -> Range:
    if "subnet" not in holder:
        raise ConfigError("the subnet is missing", field=f"{path}.subnet", value=None)
    subnet, start, end, gateway = (reader.text(holder, key, path) for key in RANGE_KEYS)
    return Range.parse(subnet, start, end, gateway, field=path)


def requested(
    document: dict[str, Any], first: tuple[int, int] | None = None
) -> list[tuple[int, int]]:
    """Return the wanted (family, address) pairs, each once.

    They come from ``first`` (CNI_ARGS), ``args.cni.ips`` and ``runtimeConfig.ips``, added together.
    """
    runtime = reader.mapping(document, "runtimeConfig", "")
    found = [] if first is None else [first]
    cni = reader.mapping(reader.mapping(document, "args", ""), "cni", "args")
    for holder, path in ((cni, "args.cni"), (runtime, "runtimeConfig")):
        for at, text in enumerate(reader.listed(holder, "ips", path, _MOST_ADDRESSES)):
            field = f"{path}.ips[{at}]"
            if not isinstance(text, str):
                raise reader.wrong(field, text, "an address, as text")
            address = reader.address(text, field)
            if address is None:
                raise ConfigError("the address is empty", field=field, value=text)
            found.append(address)
    return list(dict.fromkeys(found))


class Route:
    """A route of the result, copied from the configuration."""

    __slots__ = ("_shown", "family")

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise reader.wrong(path, value, "a route, which is an object")
        text = reader.text(value, "dst", path)
        try:
            self.family, destination, length = parse_cidr(text)
        except ValueError as error:
            raise ConfigError(str(error), field=f"{path}.dst", value=text) from None
        shown: dict[str, str | int] = {"dst": format_cidr(self.family, destination, length)}
        gateway = reader.ip(reader.text(value, "gw", path), f"{path}.gw")
        if gateway is not None:
            shown["gw"] = format_ip(*gateway)
        for key in ("mtu", "advmss", "priority", "table", "scope"):
            if key in value:
                number = reader.integer(value[key], f"{path}.{key}")
                # Go leaves out what is zero, but table and scope are pointers there.
                if number or key in ("table", "scope"):
                    shown[key] = number
        self._shown = shown

    def document(self, keys: tuple[str, ...]) -> dict[str, str | int]:
        """Return those of ``keys`` that the route has, in their order."""
        shown = self._shown
        return {key: shown[key] for key in keys if key in shown}


def valid_attachments(document: dict[str, Any]) -> set[tuple[str, str]]:
    """Return what the runtime lists as attached (CNI 1.1.0, "GC"). Raises if there is no list.

    An empty list means that nothing is valid; a missing one must never wipe a network.
    """
    key = "cni.dev/valid-attachments"
    if key not in document:
        raise ConfigError(
            "the list of valid attachments is missing: nothing was freed", field=key, value=None
        )
    value = document[key]
    if not isinstance(value, list):
        raise reader.wrong(key, value, "a list")
    valid = set()
    for at, one in enumerate(value):
        path = f"{key}[{at}]"
        if not isinstance(one, dict):
            raise reader.wrong(path, one, "an object with containerID and ifname")
        container_id = reader.text(one, "containerID", path)
        if not container_id:
            raise ConfigError("it names no container", field=f"{path}.containerID", value=one)
        valid.add((container_id, reader.text(one, "ifname", path)))
    return valid


def previous_addresses(document: dict[str, Any]) -> list[tuple[int, int]]:
    """Return the addresses in ``prevResult``, which may be missing."""
    previous = reader.mapping(document, "prevResult", "")
    found = []
    for key in ("ip4", "ip6"):  # the shape before 0.3.0
        old = reader.mapping(previous, key, "prevResult")
        address = reader.address(
            reader.text(old, "ip", f"prevResult.{key}"), f"prevResult.{key}.ip"
        )
        if address is not None:
            found.append(address)
    for at, one in enumerate(reader.listed(previous, "ips", "prevResult", _MOST_ADDRESSES)):
        path = f"prevResult.ips[{at}]"
        if not isinstance(one, dict):
            raise reader.wrong(path, one, "an object")
        address = reader.address(reader.text(one, "address", path), f"{path}.address")
        if address is not None:
            found.append(address)
    return found
