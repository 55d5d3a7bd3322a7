"""The function that opens the shared store which a node's settings name."""

from __future__ import annotations

from fastipam.configuration.cluster import KUBERNETES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.cluster.node.share import Share
    from fastipam.cluster.registry import Registry

    Open = Callable[[Share], Registry]


def open_registry(share: Share) -> Registry:
    """Open the shared store of a node's cluster; it connects at its first call.

    Raises ConfigError for settings that it cannot use.
    """
    if share.settings.engine == KUBERNETES:
        from fastipam.cluster.registries.kubernetes.connect import open_kubernetes

        return open_kubernetes(share)
    from fastipam.cluster.engines.connect import connect
    from fastipam.cluster.registries.keyvalue.registry import KeyValueRegistry

    return KeyValueRegistry(share, connect(share.settings))
