"""The answers of a plugin that embeds fastipam: the result of an ADD, and the error object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fastipam.cni import error_codes, results, versions
from fastipam.configuration import reader
from fastipam.configuration.network import route
from fastipam.errors import ConfigError
from fastipam.lease import Lease

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeVar

    Kind = TypeVar("Kind")

    from fastipam.configuration.network import Version

# The keys of an interface in libcni's order, each with the CNI version that introduced it.
_INTERFACE = (
    ("name", (0, 3, 0)),
    ("mac", (0, 3, 0)),
    ("mtu", (1, 1, 0)),
    ("sandbox", (0, 3, 0)),
    ("socketPath", (1, 1, 0)),
    ("pciID", (1, 1, 0)),
)
_DNS = frozenset(("nameservers", "domain", "search", "options"))


def error_object(error: BaseException, version: str = "") -> dict[str, Any]:
    """Return the CNI error object of any exception, for standard output. Never raises.

    ``version`` is the configuration's (``Request.version``). Without a version, or for one that
    does not exist, the error object has the newest. ``code`` is the error's ``cni_code``, or 11
    when this process has reached a limit of memory or open files. For any other exception that is
    not a :class:`~fastipam.FastipamError` it is 999, and the message has the exception's type and
    text. ``details`` is the error's hint. A plugin that prints the object has to exit with
    status 1.
    """
    known = version if version in versions.SUPPORTED else versions.NEWEST
    return error_codes.document(error, known, "")


def result(
    leases: Lease | Iterable[Lease],
    version: str,
    *,
    interfaces: Iterable[Mapping[str, object]] = (),
    routes: Iterable[Mapping[str, object]] = (),
    dns: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """Return the result of an ADD in the shape of ``version``, for standard output. O(leases).

    ``leases`` are the leases of the attachment. A single lease stands for its siblings too.
    ``interfaces`` are objects with ``name``, and optionally ``mac``, ``sandbox``, ``mtu``,
    ``socketPath``, ``pciID``. Each address gets the index of the interface that has a ``sandbox``
    and the ``ifname`` of the address's lease. ``routes`` are objects as the configuration has them
    (``dst``, ``gw``, ``mtu``, ``advmss``, ``priority``, ``table``, ``scope``); ``dns`` has
    ``nameservers``, ``domain``, ``search``, ``options``. Addresses may be objects of ``ipaddress``.

    Fields that the version does not have are left out: before 0.3.0 interfaces, before 1.1.0 an
    interface's ``mtu``, ``socketPath`` and ``pciID``. Before 0.3.0 a result has one address of each
    family, and a second one is refused. Raises CniError 1 for a version that does not exist, and
    ConfigError with the field of a wrong argument.
    """
    number = versions.agree({"cniversion": version}, "ADD")
    of = leases.siblings if isinstance(leases, Lease) else tuple(_each(leases, Lease, "leases"))
    if number < (0, 3, 0) and len({lease.family for lease in of}) < len(of):
        raise ConfigError(
            f"CNI {version} allows one address of each family, not {len(of)} addresses",
            field="version",
            value=version,
            hint='use "cniVersion": "0.3.0" or newer',
        )
    links = _each(interfaces, Mapping, "interfaces")
    listed = [_interface(one, f"interfaces[{at}]", number) for at, one in enumerate(links)]
    odd: list[tuple[str, str, str]] = []
    copied = [
        route({key: _plain(value) for key, value in one.items()}, f"routes[{at}]", odd)
        for at, one in enumerate(_each(routes, Mapping, "routes"))
    ]
    if odd:
        path, key, why = odd[0]
        raise ConfigError(why or "unknown key", field=f"{path}.{key}", value=None)
    made = results.build(number, of, copied, _checked(dns))
    if not listed or number < (0, 3, 0):
        return made
    for lease, address in zip(of, made["ips"], strict=True):
        address["interface"] = _index(lease.ifname, listed)
    return {"cniVersion": made.pop("cniVersion"), "interfaces": listed, **made}


def _each(values: Iterable[Kind], kind: type, field: str) -> list[Kind]:
    """Return ``values`` as a list. Raises ConfigError unless they are an iterable of ``kind``."""
    given: object = values
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise reader.refused(field, given, "a list of them")
    found: list[Kind] = []
    for one in values:
        if not isinstance(one, kind):
            raise reader.refused(f"{field}[{len(found)}]", one, f"a {kind.__name__}")
        found.append(one)
    return found


def _plain(value: object) -> Any:
    return value if isinstance(value, (str, int)) or value is None else str(value)


def _interface(one: Mapping[str, object], path: str, version: Version) -> dict[str, Any]:
    unknown = set(one) - {key for key, _ in _INTERFACE}
    if unknown:
        raise ConfigError("unknown key", field=f"{path}.{min(unknown)}", value=None)
    if not isinstance(one.get("name"), str) or not one["name"]:
        raise ConfigError("the interface has no name", field=f"{path}.name", value=one.get("name"))
    return {key: one[key] for key, since in _INTERFACE if one.get(key) and version >= since}


def _index(ifname: str, interfaces: Sequence[Mapping[str, object]]) -> int:
    for at, one in enumerate(interfaces):
        if one["name"] == ifname and "sandbox" in one:
            return at
    raise ConfigError(
        f"the lease is for interface {ifname}, but none of the listed interfaces "
        f"({', '.join(str(one['name']) for one in interfaces)}) has that name and a sandbox",
        field="interfaces",
        value=None,
        hint="give the container's interface the path of its network namespace as sandbox",
    )


def _checked(dns: Mapping[str, object] | None) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    given: object = dns
    if given is not None and not isinstance(given, Mapping):
        raise reader.refused("dns", given, "an object")
    for key, value in (dns or {}).items():
        if key not in _DNS:
            raise ConfigError("unknown key", field=f"dns.{key}", value=value)
        if key == "domain" and isinstance(value, str):
            checked[key] = value
        elif key != "domain" and isinstance(value, (list, tuple)):
            checked[key] = [str(one) for one in value]
        else:
            wanted = "a string" if key == "domain" else "a list of strings"
            raise reader.refused(f"dns.{key}", value, wanted)
    return checked
