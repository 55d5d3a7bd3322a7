"""Serve one CNI request: from variables and standard input to exit status and standard output."""

from __future__ import annotations

import os
import time

from fastipam import late_errors as errors
from fastipam._ledger import without_result
from fastipam.cni import environment, error_codes, results, versions
from fastipam.cni.services import Services
from fastipam.configuration import reader
from fastipam.configuration.network import Config, Location, requested
from fastipam.lease import Requester
from fastipam.namespaces import Netns
from fastipam.network import Network
from fastipam.storage import open_stores

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from fastipam._ledger import Plain
    from fastipam.addressing.ranges import RangeSet
    from fastipam.cni.choice import Selection
    from fastipam.cni.choices import Choices
    from fastipam.cni.environment import Variables
    from fastipam.configuration.cluster import Settings
    from fastipam.configuration.network import Version
    from fastipam.lease import Lease
    from fastipam.network.gc import Before
    from fastipam.network.promise import Promise
    from fastipam.storage.store import Store

    Log = Callable[[str], None]

ABOUT = "an IPAM plugin of CNI; run by a container runtime with CNI_COMMAND set"
OWN_NETNS_PATH = "/proc/self/ns/net"


def discard(_: str) -> None:
    """Discard a log text, for callers without a log."""


def handle(
    environ: Mapping[str, str],
    stdin: bytes,
    *,
    log: Callable[[str], None] = discard,
    started_ns: Before | None = None,
    own_netns: str = OWN_NETNS_PATH,
    seen_netns: str = "",
    services: Services | None = None,
) -> tuple[int, bytes]:
    """Serve one CNI request and return (exit status, standard output).

    ``environ`` holds the ``CNI_*`` variables, ``stdin`` the network configuration. The status is 0
    with the result (b"" for commands without one), or 1 with the specification's error object.
    Invalid input never raises. The addresses that an ADD returns are committed: in durable mode
    they are on disk.

    ``log`` gets one-line texts for standard error. ``started_ns`` is the time when the request
    began to arrive, in nanoseconds of the wall clock; GC spares leases that are younger. If the
    wall clock was set since then, it is a pair: that time by the clock as it was then, and by the
    clock as it is now. The default is now, by the store's clock.

    The other parameters are for the agent, and not part of the API. ``own_netns`` is the path of
    the caller's network namespace, which must not be the container's; ``seen_netns`` is the
    launcher's report on both (``environment.read_reported``). ``services`` are the agent's; without
    them this process uses its own, which cache the configurations.

    Safe to call from several threads. O(1), except for GC, which is O(leases of the network).
    """
    read: list[dict[str, Any]] = []
    try:
        return 0, answer(
            environ,
            stdin,
            read,
            log=log,
            started_ns=started_ns,
            own_netns=own_netns,
            seen_netns=seen_netns,
            services=services,
        )
    except Exception as error:
        return 1, refusal(read[0] if read else {}, error)


def answer(
    environ: Mapping[str, str],
    stdin: bytes,
    read: list[dict[str, Any]],
    *,
    log: Log = discard,
    started_ns: Before | None = None,
    began_ns: int | None = None,
    own_netns: str = OWN_NETNS_PATH,
    seen_netns: str = "",
    services: Services | None = None,
) -> bytes:
    """Return the standard output of a request, and append its decoded configuration to ``read``.

    ``began_ns`` is the default of ``started_ns`` for a store that uses the machine's clock; its own
    default is now. The other parameters are those of :func:`handle`. Raises the exceptions that
    :func:`handle` turns into the error object.
    """
    if started_ns is None and began_ns is None:
        began_ns = time.time_ns()
    if not environ.get("CNI_COMMAND"):
        log(ABOUT)
        log(f"CNI protocol versions supported: {', '.join(versions.SUPPORTED)}")
        return b""
    asked = environment.Variables(environ)
    if asked.command == environment.VERSION:
        return _VERSION_ANSWER
    services = services or _services
    if asked.command == environment.DEL:
        # Drop prevResult, which differs from pod to pod, so that DELs share a cached configuration.
        stdin = without_result(stdin)
    known, annotations = _read(stdin, services)
    read.append(known.document)
    call = _Call(asked, known, log, services)
    call.annotations = annotations
    call.began_ns = began_ns
    call.started_ns = started_ns
    call.own_netns = own_netns
    call.seen_netns = seen_netns
    return _serve(call)


def assign(environ: Mapping[str, str], stdin: bytes, log: Log = discard) -> Lease:
    """Do what an ADD does, but return the lease, with its siblings, instead of an answer.

    ``log`` is as in :func:`handle`. Raises the exceptions that :func:`handle` turns into the error
    object.
    """
    asked = environment.Variables({**environ, "CNI_COMMAND": environment.ADD})
    known, annotations = _read(stdin, _services)
    call = _Call(asked, known, log, _services)
    call.annotations = annotations
    call.own_netns = OWN_NETNS_PATH
    call.seen_netns = ""
    call.version = versions.admit(call.known.document, environment.ADD)
    lease, _, promises = _assign(call)
    _settle(promises)
    return lease


def refusal(config: dict[str, Any], error: Exception) -> bytes:
    """Return the error object for an exception, in the version of a decoded configuration."""
    return reader.encode(error_codes.document(error, versions.name(config))).encode()


def data_dir_of(stdin: bytes, services: Services) -> str | None:
    """Return the data directory of a request with this input, or None when it cannot be read.

    The path is absolute and normalized. The decoded configuration is cached in ``services``, where
    :func:`handle` finds it. Raises nothing.
    """
    try:
        known, _ = _read(stdin, services)
        if known.path is None:
            known.path = os.path.abspath(_location(known).data_dir)
        return known.path
    except Exception:  # handle() meets the same error and answers the request with it
        return None


class Known:
    """A decoded configuration, and everything that was derived from the configuration alone.

    ``versions`` has the CNI version agreed on for each command. ``asks_nothing`` says that the
    configuration requests no address. Only valid configurations are cached: an invalid one is
    checked again each time. ``adds`` and ``deletes`` are what native code needs to serve these
    commands in an agent (``plain``).
    """

    __slots__ = (
        "adds", "answers", "asks_nothing", "choices", "config", "deletes", "document", "location",
        "networks", "path", "raw", "versions",
    )  # fmt: skip

    def __init__(self, stdin: bytes) -> None:
        self.raw = stdin
        self.document = reader.decode(stdin)
        self.versions: dict[str, Version] = {}
        self.asks_nothing = False
        self.config: Config | None = None
        self.choices: Choices | None = None  # made from ``config``
        self.location: Location | None = None
        self.path: str | None = None
        # True: the network with its ranges, for ADD and CHECK. False: without, for DEL and GC.
        self.networks: dict[bool, tuple[Store, Network]] = {}
        self.answers: results.Answers | None = None
        self.adds: Plain | None = None
        self.deletes: Plain | None = None


class _Call:
    """One request and its configuration."""

    __slots__ = (
        "annotations", "asked", "began_ns", "known", "log", "own_netns", "seen_netns", "services",
        "started_ns", "version",
    )  # fmt: skip

    annotations: dict[str, Any] | None
    began_ns: int | None
    own_netns: str
    seen_netns: str
    started_ns: Before | None
    version: Version

    def __init__(self, asked: Variables, known: Known, log: Log, services: Services) -> None:
        self.asked = asked
        self.known = known
        self.log = log
        self.services = services


_services = Services()


# The key under which a runtime adds a pod's annotations to its input: see pod_annotations.py.
_ANNOTATED = b'"io.kubernetes.cri.pod-annotations"'


def _read(stdin: bytes, services: Services) -> tuple[Known, dict[str, Any] | None]:
    """Return the configuration in an input, and the pod's annotations that were in it, or None."""
    annotations = None
    if _ANNOTATED in stdin:
        stdin, annotations = services.cut(stdin)
    known: Known | None = services.known.get(stdin)
    if known is None:
        known = Known(stdin)
        services.keep(stdin, known)
    return known, annotations


_QUOTED = ",".join(f'"{text}"' for text in versions.SUPPORTED)
_VERSION_ANSWER = f'{{"cniVersion":"{versions.NEWEST}","supportedVersions":[{_QUOTED}]}}\n'.encode()


def _serve(call: _Call) -> bytes:
    """Run the command and return its standard output. Raises CniError, FastipamError."""
    command = call.asked.command
    version = call.known.versions.get(command)
    if version is None:
        version = call.known.versions[command] = versions.admit(call.known.document, command)
    call.version = version
    if command == environment.ADD:
        return _add(call)
    if command == environment.DEL:
        _delete(call)
    elif command == environment.CHECK:
        _check(call)
    elif command == environment.GC:
        _collect(call)
    else:
        _status(call)
    return b""


def _load(call: _Call) -> Config:
    """Return the parsed configuration, which is cached, and log its notes."""
    known = call.known
    config = known.config
    if config is not None and config.cluster is not None and config.cluster.is_founded_by_agent:
        from fastipam.cni import founding

        if not founding.is_current(config):
            known.networks.pop(True, None)
            known.choices = config = None
    if config is None:
        config = known.config = Config(known.document, call.version, _read_cluster, known.raw)
        if config.cluster is not None:
            call.services.note_cluster(config.data_dir, config.name, config.cluster)
    for note in config.notes:
        call.log(error_codes.clean(note))
    # The ranges may come from runtimeConfig (capability ipRanges), which libcni does not pass to
    # STATUS.
    if not config.pool.sets and config.cluster is not None:
        from fastipam.cni import founding

        missing = founding.missing(config.name, _reason(call, config))
        if call.asked.command != environment.STATUS:
            raise missing
        raise errors.CniError(missing.message, error_codes.NOT_AVAILABLE, hint=missing.hint)
    if not config.pool.sets and call.asked.command != environment.STATUS:
        config.require_ranges()
    return config


def _reason(call: _Call, config: Config) -> str:
    """Return why the agent has not stored the pools yet, or "" when no agent serves the request."""
    assert config.cluster is not None
    try:
        store = open_stores.get(config.data_dir, config.durability, create=False)
        standing = call.services.standing(store, config.name, config.cluster)
    except errors.FastipamError as error:
        return f"{error}; {error.hint}" if error.hint else str(error)
    except FileNotFoundError:
        return ""
    return standing[0] if standing else ""


def _read_cluster(
    value: object, network: str, data_dir: str, holes: list[tuple[int, int, int]]
) -> Settings:
    from fastipam.cni import more_blocks

    return more_blocks.read(value, network, data_dir, holes)


def _requested(known: Known, arguments: environment.Arguments) -> list[tuple[int, int]]:
    if known.asks_nothing and not arguments.address:
        return []
    found = requested(known.document, arguments.requested())
    known.asks_nothing = not found
    return found


def _network(known: Known, config: Config, *, create: bool = True) -> Network:
    """Return the network. Raises FileNotFoundError without a store if ``create`` is false."""
    try:
        store = open_stores.get(config.data_dir, config.durability, create=create)
    except errors.ConfigError as error:
        raise _located(error, config) from None
    kept = known.networks.get(True)
    if kept is None or kept[0] is not store:
        network = Network(
            store,
            config.name,
            config.pool,
            policy=config.policy,
            remember=config.remember,
            before_first=None
            if config.ignore_host_local or _goes_over(config)
            else lambda: _refuse_unimported(config),
            pool_name=config.pool_name or config.name,
            names_pool=config.names_pool,
        )
        kept = known.networks[True] = store, network
    return kept[1]


def _goes_over(config: Config) -> bool:
    """Return whether this node takes over from host-local, whose leases each ADD imports."""
    return (
        config.cluster is not None
        and config.cluster.uses_node_cidrs
        and not config.ignore_host_local
    )


def _refuse_unimported(config: Config) -> None:
    """Raise ConfigError when host-local has leases of a network that is new in this store."""
    from fastipam import host_local

    host_local.refuse_unimported(config.name, config.data_dir)


def _location(known: Known) -> Location:
    location = known.location
    if location is None:
        location = known.location = Location(known.document)
    return location


def _existing(known: Known) -> Network | None:
    """Return the network whose leases DEL and GC release, or None when there is no store yet."""
    location = _location(known)
    try:
        store = open_stores.get(location.data_dir, location.durability, create=False)
    except FileNotFoundError:
        return None
    kept = known.networks.get(False)
    if kept is None or kept[0] is not store:
        network = Network(store, location.name, None, policy=location.policy)
        kept = known.networks[False] = store, network
    return kept[1]


def _add(call: _Call) -> bytes:
    lease, dns, promises = _assign(call)
    known = call.known
    config = known.config
    assert config is not None
    if known.answers is None:
        known.answers = results.Answers(call.version, config.routes)
    answers, leases = known.answers, lease.siblings
    if config.may_choose and len(leases) < len(config.pool.sets):
        answers = answers.of_families({one.family for one in leases})
    answer = answers.encode(leases, dns)
    _settle(promises)
    return answer


def _assign(call: _Call) -> tuple[Lease, dict[str, Any], list[Promise]]:
    """Assign the addresses and return one lease, the ``dns`` object and the promises to settle."""
    asked, known = call.asked, call.known
    arguments = environment.Arguments(asked.args)
    requested = addresses = _requested(known, arguments)
    config = _load(call)
    selection = None
    if config.may_choose:
        addresses, selection = _choose(call, config, arguments, requested)
    inode, mount_ns, born_ns = environment.identify(asked, call.own_netns, call.seen_netns)
    dns = {}
    if config.resolv_conf:
        from fastipam.cni import resolvconf

        dns = resolvconf.read(config.resolv_conf)

    owner = Requester(
        asked.container_id,
        asked.ifname,
        Netns(asked.netns, inode, mount_ns, born_ns),
        (arguments.pod_namespace, arguments.pod_name, arguments.pod_uid),
    )

    if _goes_over(config):
        from fastipam import takeover

        takeover.enter_new(_network(known, config), config.data_dir, call.log)
    promises: list[Promise] = []
    try:
        lease = _allocate(call, config, owner, addresses, selection, promises)
    except errors.FastipamError as error:
        if len(addresses) > len(requested):
            from fastipam.cni import fixed

            fixed.name_annotation(error, addresses[len(requested) :])
        raise
    if lease.generation == 1:  # the first assignment of the pool
        _note_overlaps(call, config)
    return lease, dns, promises


def _allocate(
    call: _Call,
    config: Config,
    owner: Requester,
    addresses: list[tuple[int, int]],
    selection: Selection | None,
    promises: list[Promise],
) -> Lease:
    """Assign the addresses; if need be, release dead leases or get another block first."""
    known = call.known

    def allocate(network: Network) -> Lease:
        if selection is not None:
            network = selection.narrow(network, addresses)
        return network._assign(owner, addresses, config.repeat, promises)

    try:
        return allocate(_network(known, config))
    except errors.ConfigError as error:
        raise _located(error, config) from None
    except (errors.AddressInUse, errors.DuplicateAllocation, errors.PoolExhausted) as refusal:
        from fastipam.cni import refused

        network = _network(known, config)
        lines = None if selection is None else selection.lines
        return refused.allocate_again(
            call.services, config, network, owner, refusal, allocate, lines
        )
    except errors.AddressNotInRange as refusal:
        from fastipam.cni import requested_blocks

        network = _network(known, config)
        requested_blocks.refuse(call.services, config, network, owner, addresses, refusal)
        raise


def _choose(
    call: _Call,
    config: Config,
    arguments: environment.Arguments,
    addresses: list[tuple[int, int]],
) -> tuple[list[tuple[int, int]], Selection | None]:
    """Return the requested addresses and the chosen pools of an ADD; see :meth:`Choices.choose`.

    Raises ConfigError, NoBlock.
    """
    choices = call.known.choices
    if choices is None:
        from fastipam.cni.choices import Choices

        choices = call.known.choices = Choices(config, call.known.document, call.known.raw)
    return choices.choose(call.services, call.annotations, arguments, addresses)


def _note_overlaps(call: _Call, config: Config) -> None:
    """Log which other pools of the store overlap the pool whose first address was assigned."""
    from fastipam.allocation import pools

    for note in pools.notes(open_stores.get(config.data_dir, config.durability), config.name):
        call.log(error_codes.clean(note))


def _settle(promises: list[Promise]) -> None:
    if promises:
        from fastipam.cni import more_blocks

        more_blocks.settle(promises)


def _located(error: errors.ConfigError, config: Config) -> errors.ConfigError:
    """Return an error of the network, its field replaced by the path in the configuration."""
    from fastipam.configuration import notes

    error.field = notes.path_in(config.paths, error.field)
    return error


def _delete(call: _Call) -> None:
    network = _existing(call.known)
    freed = None
    if network is not None:
        freed = network._release_raw(call.asked.container_id, call.asked.ifname)
    if not freed:
        _note_unknown(call, network)
    if call.asked.netns:
        environment.identify(call.asked, call.own_netns, call.seen_netns)
    if is_of_cluster(call.known.document):
        from fastipam import takeover

        location = _location(call.known)
        takeover.forget(
            location.name, location.data_dir, call.asked.container_id, call.asked.ifname
        )


def is_of_cluster(document: dict[str, Any]) -> bool:
    """Return whether a configuration names a cluster; its nodes may have used host-local."""
    ipam = document.get("ipam")
    return isinstance(ipam, dict) and "cluster" in ipam


def _note_unknown(call: _Call, network: Network | None) -> None:
    """Log that nothing was released, if ``dataDir`` is missing and the store lacks the network."""
    location = call.known.location
    if location is None or not location.is_assumed:
        return
    if network is None or not network._is_known():
        call.log(
            f"ipam.dataDir is not given, and the store {location.data_dir} has no network "
            f"{location.name}: nothing was released"
        )


def _check(call: _Call) -> None:
    asked = call.asked
    _requested(call.known, environment.Arguments(asked.args))
    config = _load(call)
    from fastipam.configuration.attachments import previous_addresses

    addresses = previous_addresses(call.known.document)
    try:
        network = _network(call.known, config, create=False)
    except FileNotFoundError:
        raise errors.LeaseMissing(
            f"no address of network {config.name} is assigned to {asked.container_id} "
            f"{asked.ifname}: there is no store in {config.data_dir}",
            owner=(asked.container_id, asked.ifname),
        ) from None
    network._check(asked.container_id, asked.ifname, addresses)


def _collect(call: _Call) -> None:
    from fastipam.configuration.attachments import valid_attachments

    valid = valid_attachments(call.known.document)
    network = _existing(call.known)
    if network is None or not network._retain(valid, _before(call, network)):
        _note_unknown(call, network)


def _before(call: _Call, network: Network) -> Before:
    """Return the time when the request began, by the clock of the store."""
    if call.started_ns is not None:
        return call.started_ns
    if call.began_ns is None or network.store.clock is not time.time_ns:
        return network.store.clock()  # a clock of a test, which may be years away
    return call.began_ns


def _status_of_cluster(call: _Call, config: Config, exhausted: RangeSet | None) -> RangeSet | None:
    """Return the range set from which no ADD can be served, in cluster mode."""
    from fastipam.cni import cluster_status

    store = open_stores.get(config.data_dir, config.durability)
    return cluster_status.look(
        call.services, config, store, exhausted, lambda text: call.log(error_codes.clean(text))
    )


def _require_start(network: Network, config: Config) -> None:
    """Raise CniError 50 when the state of the store or of another file makes every ADD fail."""
    try:
        network._require_start()
        network._require_pool()
        network._require_free_gateways()
    except errors.ConfigError as error:
        _, message, hint = error_codes.explain(_located(error, config))
        raise errors.CniError(message, error_codes.NOT_AVAILABLE, hint=hint) from error


# STATUS has to answer within 100 ms, in which its process has to start too.
_STATUS_WAITS_S = 0.03


def _status(call: _Call) -> None:
    """Raise CniError 50 if no ADD can be served, 51 if the store fails (CNI 1.1.0, "STATUS").

    A full pool counts as ready, unless the configuration says otherwise: when a kubelet receives
    50, the healthy pods of the node are evicted, and their replacements fill up the next node.
    """
    _requested(call.known, environment.Arguments(""))
    config = _load(call)
    try:
        if config.resolv_conf:
            from fastipam.cni import resolvconf

            resolvconf.read(config.resolv_conf)
    except errors.ConfigError as error:
        _, message, hint = error_codes.explain(error)
        raise errors.CniError(message, error_codes.NOT_AVAILABLE, hint=hint) from None
    if open_stores.waits_for_writer(config.data_dir, _STATUS_WAITS_S):
        # An ADD waits for the writer for longer than this, so it may well be served.
        call.log(f"the store {config.data_dir} is being written to: its state is not known now")
        return
    try:
        network = _network(call.known, config)
        open_stores.get(config.data_dir, config.durability).require_writable()
        _require_start(network, config)
        exhausted = network._exhausted()
        if config.cluster is not None:
            exhausted = _status_of_cluster(call, config, exhausted)
    except errors.StoreBusy:
        raise
    except errors.TryLater as error:
        raise errors.CniError(error.message, error_codes.NOT_AVAILABLE, hint=error.hint) from error
    except errors.StoreError as error:
        raise errors.CniError(error.message, error_codes.LIMITED, hint=error.hint) from error
    if exhausted is not None:
        text = f"no address is free in range set {exhausted} of network {config.name}: it is full"
        if not config.ready_when_full:
            raise errors.CniError(text, error_codes.NOT_AVAILABLE)
        call.log(error_codes.clean(text))
