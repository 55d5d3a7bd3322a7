"""The plugin's part of cluster mode: read the settings, and get another block when all are full.

This module, and with it ``fastipam.cluster``, is imported only when a configuration has the key
``cluster``.
"""

from __future__ import annotations

import os

from fastipam.addressing.addresses import parse_ip
from fastipam.cluster.errors import NoBlock, in_words
from fastipam.configuration import reader
from fastipam.configuration.cluster import KUBERNETES, Settings, field_in
from fastipam.configuration.network import network_name
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.errors import ConfigError, DecodingError, PoolExhausted
from fastipam.network import Network
from fastipam.storage import open_stores

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from fastipam.cni.services import Services
    from fastipam.configuration.network import Config
    from fastipam.configuration.pool_lines import Lines
    from fastipam.lease import Lease
    from fastipam.storage.store import Store
    from fastipam.storage.transaction import Promise

    Log = Callable[[str], None]


def read_file(path: str) -> dict[str, Any]:
    """Return the JSON object in a file, its keys case-folded. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            raw = file.read(reader.LARGEST + 1)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}",
            field="cluster",
            value=path,
            hint='the file has the settings of a cluster; the key "cluster" of the ipam section '
            "names it, and the option -c of `fastipam cluster`",
        ) from error
    try:
        return reader.decode(raw, path)
    except DecodingError as error:
        raise ConfigError(error.message, field="cluster", value=path) from None


def read_settings(path: str) -> Settings:
    """Return the settings in a file. The node is this host unless the file names one."""
    return _settings(read_file(path), path, [])


def _settings(value: dict[str, Any], path: str, holes: list[tuple[int, int, int]]) -> Settings:
    """Return the settings in an object. Raises ConfigError, with the path of the field."""
    try:
        settings = Settings(value, path, holes, os.environ.get("NODE_NAME") or os.uname().nodename)
    except ConfigError as error:
        error.field = field_in(path, error.field.removeprefix(f"{path}."))
        raise
    if not settings.addresses and (told := os.environ.get("NODE_IPS")):
        settings.addresses = _node_addresses(told)
    return settings


def _node_addresses(told: str) -> tuple[str, ...]:
    """Return the node's addresses in the value of NODE_IPS, as Kubernetes writes them.

    Raises ConfigError.
    """
    for one in (found := tuple(told.split(","))):
        try:
            parse_ip(one)
        except ValueError:
            raise ConfigError(
                f"{one!r} is not an address",
                field="NODE_IPS",
                value=told,
                hint="set NODE_IPS from status.hostIPs of the agent's pod: addresses with commas "
                "between them",
            ) from None
    return found


def read(value: object, network: str, data_dir: str, holes: list[tuple[int, int, int]]) -> Settings:
    """Return the settings under ``ipam.cluster``: an object, or the path of a file with an object.

    Raises ConfigError, also when the settings are for another network or another store.
    """
    path = "ipam.cluster"
    if isinstance(value, str):
        if not value.startswith("/"):
            raise ConfigError(f"{value!r} is not an absolute path", field=path, value=value)
        try:
            path, value = value, read_file(value)
        except ConfigError as error:
            error.field = path
            raise
    if not isinstance(value, dict):
        raise ConfigError(
            f"this is {reader.kind_of(value)}, not an object or the path of a file with one",
            field=path,
            value=value,
        )
    settings = _settings(value, path, holes)
    settings.require(network, data_dir, path)
    if settings.engine == KUBERNETES:
        if holes:
            raise ConfigError(
                "the AddressPools define the exclusions of all nodes: the exclusions of this "
                f"configuration ({len(holes)}) would have no effect",
                field="ipam.exclude",
                value=len(holes),
                hint='write them into "exclude" of the pool: kubectl edit addresspool',
            )
        from fastipam.cni import founding

        is_named = bool(value.get("node") or os.environ.get("NODE_NAME"))
        settings = founding.complete(settings, network, data_dir, is_named=is_named)
    return settings


def read_any(path: str) -> tuple[Settings, str, str]:
    """Return (settings, network, data directory) from a file. The last two may be empty.

    The file holds a cluster's settings, or a CNI configuration that has them. Raises ConfigError.
    """
    from fastipam.cni import configs

    content = read_file(path)
    plugin = next((one for one in configs.plugins_of(content) if "cluster" in one["ipam"]), None)
    if plugin is not None:
        ipam = plugin["ipam"]
        try:
            name, directory = network_name(plugin), _data_dir(ipam)
        except ConfigError as error:
            raise ConfigError(
                error.message, field=f"{path}: {error.field}", value=error.value, hint=error.hint
            ) from None
        return read(ipam["cluster"], name, directory, []), name, directory
    if "ipam" in content or "plugins" in content:
        raise ConfigError(
            'no ipam section of this network configuration has the key "cluster"',
            field=path,
            value=None,
            hint='add "cluster" to its ipam section: {"cluster": {…}}',
        )
    settings = read_settings(path)
    return settings, settings.network, settings.data_dir


def _data_dir(ipam: dict[str, Any]) -> str:
    """Return the data directory in an ``ipam`` section. Raises ConfigError."""
    found = ipam.get("datadir", DEFAULT_DATA_DIR)
    if not reader.is_path(found) or not os.path.isabs(found):
        raise ConfigError(f"{found!r} is not an absolute path", field="ipam.dataDir", value=found)
    return str(found)


def provide(
    services: Services, config: Config, store: Store, who: str = "", lines: Lines | None = None
) -> None:
    """Claim a block, so that this node's blocks have a free address again.

    ``lines`` are the pools that an ADD has chosen. An agent does not wait here: it asks its keeper
    for the block, and the request is handled again later. Raises NoBlock (code 11).
    """
    settings = config.cluster
    assert settings is not None
    reason = services.ask_for_blocks(store, config.name, settings, who, lines)
    if reason is None and settings.engine == KUBERNETES:
        reason = "this node's blocks are full, and only its agent can claim another block"
        if lines is not None:
            reason = (
                f"this node has no free address of {settings.words(lines)}, and only its agent "
                "can claim another block"
            )
    if reason is not None:
        raise NoBlock(reason)
    from fastipam.cluster.keeper.on_demand import claim_now
    from fastipam.cluster.node.share import Share

    claim_now(Share(store, Network(store, config.name, config.pool), settings))


def allocate_again(
    services: Services,
    config: Config,
    store: Store,
    who: str,
    allocate: Callable[[Network], Lease],
    lines: Lines | None = None,
) -> Lease:
    """Serve an ADD for which this node's blocks have no free address.

    First it tries to get another block; without one, it assigns a cooling address, if the policy
    allows that. ``lines`` are the pools that the ADD has chosen. Raises NoBlock: try again later.
    """
    policy = config.policy
    hint: str | None = None
    try:
        provide(services, config, store, who, lines)
    except NoBlock as why:
        hint = in_words(why)
        if config.spare_policy is None or services.waiting:
            raise
        policy = config.spare_policy
    network = Network(store, config.name, config.pool, policy=policy, remember=config.remember)
    try:
        return allocate(network)
    except PoolExhausted as error:
        raise NoBlock(error.message, hint=hint or error.hint) from None


def settle(promises: Sequence[Promise]) -> None:
    """Check that this node still owns the addresses just assigned, and raise the error if not.

    Promises are settled after the commit. In a batch of an agent, which commits later, they are
    only collected: the agent settles them when it writes the answer.
    """
    batch = getattr(open_stores.thread, "batch", None)
    if batch is not None:
        batch.promises += promises
        return
    from fastipam.network import promise

    error = promise.settle(promises)
    if error is not None:
        raise error
