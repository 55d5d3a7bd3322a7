"""Read the founding record: engine, node name and pools, which the agent stores for plugins.

So an ADD reads the cluster's pools from the node's store and asks no other process
(``Share.adopt_pools`` writes the record). This module is imported only when a configuration names
the engine ``kubernetes``.
"""

from __future__ import annotations

from fastipam.allocation import blocks
from fastipam.allocation.lookup import find
from fastipam.cluster.errors import NoBlock
from fastipam.configuration import address_pools
from fastipam.errors import CHECK_HINT, ConfigError, StoreCorrupt
from fastipam.storage import open_stores
from fastipam.storage.records.keys import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.configuration.cluster import Settings
    from fastipam.configuration.network import Config
    from fastipam.storage.records.block import Founding
    from fastipam.storage.store import Store


def complete(settings: Settings, network: str, data_dir: str, *, is_named: bool) -> Settings:
    """Return the settings completed with the network's founding record in the store.

    The settings get the record's pools and, unless ``is_named``, the record's node name, because
    the agent refuses a store with another node name. When the store has no record yet, the settings
    are returned unchanged. Raises StoreError, ConfigError.
    """
    try:
        store = open_stores.get(data_dir, None, create=False)
    except FileNotFoundError:
        return settings
    founding = _read(store, network)
    if founding is None:
        return settings
    if founding.engine != settings.engine:
        raise ConfigError(
            f"the blocks of this node come from {founding.engine}, but the configuration says "
            f"{settings.engine}",
            field=settings.field("engine"),
            value=settings.engine,
            hint="to switch the engine, drain the node, stop the agent, and run "
            "`fastipam cluster leave`",
        )
    try:
        pools = address_pools.read(founding.pools)
    except (ConfigError, ValueError, TypeError, AttributeError) as error:
        raise StoreCorrupt(
            f"the pools of network {network} in the store cannot be read: {error}", hint=CHECK_HINT
        ) from error
    found = settings.with_pools(pools)
    found.founding = founding.pools
    if not is_named:
        found.node = founding.node
    return found


def is_current(config: Config) -> bool:
    """Return whether the cached configuration has the pools that are in force. One read."""
    assert config.cluster is not None
    try:
        store = open_stores.get(config.data_dir, config.durability, create=False)
    except FileNotFoundError:
        return not config.cluster.founding
    founding = _read(store, config.name)
    return (founding.pools if founding else "") == config.cluster.founding


def missing(network: str, reason: str = "") -> NoBlock:
    """Return the error for a network whose pools the agent has not stored yet.

    ``reason`` is the agent's own explanation, if an agent serves the request.
    """
    if reason:
        return NoBlock(
            f"the pools of network {network} are not known on this node yet", hint=reason
        )
    return NoBlock(
        f"the pools of network {network} are not known on this node yet: its agent has not reached "
        "the Kubernetes API since it was installed, or no AddressPool is accepted",
        hint="check that the agent runs; kubectl get addresspools shows what is accepted",
    )


def _read(store: Store, network: str) -> Founding | None:
    with store.read() as txn:
        found = find(txn, encode("network", network))
        return None if found is None else blocks.get_founding(txn, found[1])
