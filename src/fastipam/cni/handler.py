"""``handle``: one CNI request in, exit status and standard output out."""

from __future__ import annotations

import os
import time

from fastipam.cni import document, request, resolvconf, result, stores, versions
from fastipam.cni.codes import (
    BAD_ENVIRONMENT,
    LIMITED,
    NOT_AVAILABLE,
    OWN_NETNS,
    CniError,
    from_exception,
)
from fastipam.cni.config import (
    Config,
    Location,
    network_name,
    previous_addresses,
    requested,
    valid_attachments,
)
from fastipam.errors import LeaseMissing, StoreBusy, StoreError
from fastipam.lease import mount_namespace
from fastipam.network import Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from fastipam.cni.request import Request
    from fastipam.cni.versions import Version

    Log = Callable[[str], None]

ABOUT = "fastipam: an IPAM plugin of CNI; run by a container runtime with CNI_COMMAND set"
OWN_NETNS_PATH = "/proc/self/ns/net"


def _discard(_: str) -> None:
    """The log of a caller that wants none."""


def handle(
    environ: Mapping[str, str],
    stdin: bytes,
    *,
    log: Callable[[str], None] = _discard,
    started_ns: int | None = None,
    own_netns: str = OWN_NETNS_PATH,
) -> tuple[int, bytes]:
    """Serve one CNI request: (exit status, standard output).

    ``environ`` holds the ``CNI_*`` variables, ``stdin`` the network configuration. Status 0 and
    the result (nothing, for the commands that have none), or 1 and the specification's error
    object. Never raises for what a caller sends; what an ADD returns is committed, in durable mode
    on disk.

    ``log`` gets one-line texts for standard error. ``started_ns`` (wall clock, default now) is when
    the request began to arrive: GC spares leases that are younger. ``own_netns`` is the path of
    the caller's network namespace, which may not be the container's.

    Safe to call from several threads. O(1) but for GC, which is O(leases of the network).
    """
    config: dict[str, Any] = {}
    started_ns = time.time_ns() if started_ns is None else started_ns
    try:
        if not environ.get("CNI_COMMAND"):
            log(ABOUT)
            log(f"CNI protocol versions supported: {', '.join(versions.SUPPORTED)}")
            return 0, b""
        asked = request.Request(environ)
        if asked.command == request.VERSION:
            return 0, _VERSION_ANSWER
        known = _known.get(stdin) or _read(stdin)
        config = known.document
        answer = _serve(asked, known, log, started_ns, own_netns)
        return 0, b"" if answer is None else document.encode(answer).encode()
    except Exception as error:
        fault = from_exception(error)
        body: dict[str, Any] = {
            "cniVersion": versions.name(config),
            "code": fault.code,
            "msg": _clean(fault.msg),
        }
        if fault.details:
            body["details"] = _clean(fault.details)
        return 1, document.encode(body).encode()


class _Known:
    """A configuration that was read, and checked if a command has wanted all of it."""

    __slots__ = ("config", "document")

    def __init__(self, stdin: bytes) -> None:
        self.document = document.decode(stdin)
        self.config: Config | None = None


# A runtime sends the same bytes for every pod of a network. What they mean depends on them alone,
# so a process that serves many requests reads them once.
_known: dict[bytes, _Known] = {}
_MOST_KNOWN = 128
_LARGEST_KNOWN = 16 << 10


def _read(stdin: bytes) -> _Known:
    known = _Known(stdin)
    if len(stdin) <= _LARGEST_KNOWN:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[stdin] = known
    return known


def _clean(text: str) -> str:
    """What may quote a caller's text: not without end, and no half of a surrogate pair."""
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]} …"
    return text.encode("utf-8", "backslashreplace").decode()


_LONGEST_TEXT = 1500

_QUOTED = ",".join(f'"{text}"' for text in versions.SUPPORTED)
_VERSION_ANSWER = f'{{"cniVersion":"{versions.NEWEST}","supportedVersions":[{_QUOTED}]}}\n'.encode()


def _serve(
    asked: Request, known: _Known, log: Log, started_ns: int, own_netns: str
) -> dict[str, Any] | None:
    config = known.document
    network_name(config)
    if asked.command not in _COMMANDS:
        raise CniError(
            BAD_ENVIRONMENT,
            f"CNI_COMMAND: unknown command {asked.command!r}",
            "ADD, CHECK, DEL, GC, STATUS or VERSION",
        )
    version = versions.agree(config, asked.command)
    if asked.command == request.ADD:
        return _add(asked, known, version, log, own_netns)
    if asked.command == request.DEL:
        _delete(asked, config, own_netns)
    elif asked.command == request.CHECK:
        _check(asked, known, version, log)
    elif asked.command == request.GC:
        _collect(config, started_ns)
    else:
        _status(known, version, log)
    return None


_COMMANDS = (request.ADD, request.CHECK, request.DEL, request.GC, request.STATUS)


def _load(known: _Known, version: Version, log: Log) -> Config:
    if known.config is None:
        known.config = Config(known.document, version)
    for note in known.config.notes:
        log(_clean(note))
    return known.config


def _network(config: Config, *, create: bool = True) -> Network:
    """The network in its store; FileNotFoundError when there is none and ``create`` is false."""
    store = stores.get(config.data_dir, config.durability, create=create)
    return Network(store, config.name, config.pool, policy=config.policy, remember=config.remember)


def _add(
    asked: Request, known: _Known, version: Version, log: Log, own_netns: str
) -> dict[str, Any]:
    arguments = request.Arguments(asked.args)
    addresses = requested(known.document, arguments)
    config = _load(known, version, log)
    inode = _check_netns(asked, own_netns)
    dns = resolvconf.read(config.resolv_conf) if config.resolv_conf else {}
    lease = _network(config).allocate(
        asked.container_id,
        asked.ifname,
        addresses=addresses,
        existing=config.repeat,
        netns=asked.netns,
        inode=inode,
        pod_namespace=arguments.pod_namespace,
        pod_name=arguments.pod_name,
        pod_uid=arguments.pod_uid,
        mount_ns=mount_namespace() if inode else 0,
    )
    return result.build(version, lease.siblings, config.routes, dns)


def _check_netns(asked: Request, own_netns: str) -> int:
    """The inode of the container's network namespace, 0 when it cannot be seen from here.

    Raises CniError 8 when it is the plugin's own: whoever calls like that is mistaken.
    """
    try:
        theirs = os.stat(asked.netns)
    except (OSError, ValueError):
        return 0
    if not asked.netns_override:
        try:
            own = os.stat(own_netns)
        except OSError:
            return theirs.st_ino
        if (own.st_dev, own.st_ino) == (theirs.st_dev, theirs.st_ino):
            raise CniError(
                OWN_NETNS,
                f"CNI_NETNS: {asked.netns} is the network namespace of the plugin itself",
                "CNI_NETNS_OVERRIDE=1 allows it",
            )
    return theirs.st_ino


def _existing(location: Location) -> Network | None:
    """The network where DEL and GC look for leases; None when there is no store yet."""
    try:
        store = stores.get(location.data_dir, location.durability, create=False)
    except FileNotFoundError:
        return None
    return Network(store, location.name, None, policy=location.policy)


def _delete(asked: Request, document: dict[str, Any], own_netns: str) -> None:
    network = _existing(Location(document))
    if network is not None:
        network.release_raw(asked.container_id, asked.ifname)
    if asked.netns:
        _check_netns(asked, own_netns)


def _check(asked: Request, known: _Known, version: Version, log: Log) -> None:
    requested(known.document, request.Arguments(asked.args))
    config = _load(known, version, log)
    addresses = previous_addresses(known.document)
    try:
        network = _network(config, create=False)
    except FileNotFoundError:
        raise LeaseMissing(
            f"no address of network {config.name} is assigned to {asked.container_id} "
            f"{asked.ifname}: there is no store in {config.data_dir}",
            owner=(asked.container_id, asked.ifname),
        ) from None
    network.check(asked.container_id, asked.ifname, addresses)


def _collect(document: dict[str, Any], started_ns: int) -> None:
    location = Location(document)
    valid = valid_attachments(document)
    network = _existing(location)
    if network is not None:
        network.retain(valid, started_ns)


def _status(known: _Known, version: Version, log: Log) -> None:
    """CNI 1.1.0, "STATUS": 50 when ADD could not be served, 51 when the store is to blame."""
    requested(known.document, request.Arguments(""))
    config = _load(known, version, log)
    try:
        stores.get(config.data_dir, config.durability).require_writable()
        exhausted = _network(config).exhausted()
    except StoreBusy:
        raise
    except StoreError as error:
        raise CniError(LIMITED, error.message, error.hint or "") from error
    if exhausted is not None:
        raise CniError(
            NOT_AVAILABLE,
            f"no address is free in range set {exhausted} of network {config.name}",
        )
