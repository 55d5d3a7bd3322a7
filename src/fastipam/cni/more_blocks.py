"""Cluster mode's part of the plugin: its settings, and more blocks when there are none left.

Imported when a configuration has the key ``cluster``, and nothing of ``fastipam.cluster`` before.
"""

from __future__ import annotations

from fastipam.cluster.errors import NoBlock
from fastipam.cni import services
from fastipam.configuration import reader
from fastipam.configuration.cluster import Settings
from fastipam.errors import ConfigError, DecodingError, PoolExhausted
from fastipam.network import Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastipam.configuration.network import Config
    from fastipam.lease import Lease
    from fastipam.storage.store import Store

    Log = Callable[[str], None]


def read_file(path: str) -> dict[str, Any]:
    """The object in a file, its keys folded. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            raw = file.read(reader.LARGEST + 1)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", field="cluster", value=path
        ) from None
    try:
        return reader.decode(raw, path)
    except DecodingError as error:
        raise ConfigError(error.message, field="cluster", value=path) from None


def read(value: object, network: str, data_dir: str, holes: list[tuple[int, int, int]]) -> Settings:
    """The settings under ``ipam.cluster``: an object, or the path of a file with one."""
    path = "ipam.cluster"
    if isinstance(value, str):
        if not value.startswith("/"):
            raise ConfigError(f"{value!r} is not an absolute path", field=path, value=value)
        path, value = value, read_file(value)
    if not isinstance(value, dict):
        raise ConfigError(
            f"this is {reader.kind_of(value)}, not an object or the path of a file with one",
            field=path,
            value=value,
        )
    settings = Settings(value, path, holes)
    for key, theirs, ours in (
        ("network", settings.network, network),
        ("dataDir", settings.data_dir, data_dir),
    ):
        if theirs and theirs != ours:
            raise ConfigError(
                f"it says {theirs!r}, and the configuration around it {ours!r}",
                field=f"{path}.{key}",
                value=theirs,
            )
    if services.seen is not None:
        services.seen(data_dir, network, settings)
    return settings


def provide(config: Config, store: Store, settings: Settings, who: str = "") -> None:
    """Return when this node's blocks have a free address again, or raise NoBlock (code 11).

    In an agent it never waits: the keeper is asked, and the request asks again later.
    """
    if services.ask is not None:
        reason, services.asked = services.ask(store, config.name, settings, who)
        raise NoBlock(reason)
    from fastipam.cluster.keeper.on_demand import claim_now
    from fastipam.cluster.node.share import Share

    claim_now(Share(store, Network(store, config.name, config.pool), settings))


def allocate_again(
    config: Config,
    store: Store,
    exhausted: PoolExhausted,
    who: str,
    ask: Callable[[Network], Lease],
) -> Lease:
    """Serve an ADD that this node's blocks have no free address for.

    Another block comes first; without one, an address that is only cooling, if the policy allows
    it. Raises NoBlock: try later.
    """
    settings = config.cluster
    assert settings is not None
    policy = config.policy
    hint = exhausted.hint
    try:
        provide(config, store, settings, who)
    except NoBlock as why:
        hint = why.message
        if config.spare_policy is None or services.asked:
            raise
        policy = config.spare_policy
    network = Network(store, config.name, config.pool, policy=policy, remember=config.remember)
    try:
        return ask(network)
    except PoolExhausted as error:
        raise NoBlock(error.message, hint=hint) from None
