"""Keep the pool choices of one configuration's ADDs while the cluster's pools stay the same.

The pods of a node choose in few different ways, and the result of a choice depends only on the
pools, on the pod's annotations and on its namespace. This module is imported only when the pools of
an ADD depend on the pod.
"""

from __future__ import annotations

from fastipam.cni import fixed, pod_annotations
from fastipam.cni.choice import Chooser
from fastipam.storage import open_stores

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.cluster.registry import Namespace
    from fastipam.cni.choice import Selection
    from fastipam.cni.environment import Arguments
    from fastipam.cni.services import Services
    from fastipam.configuration.network import Config
    from fastipam.storage.store import Store

    Addresses = list[tuple[int, int]]
    # A choice, and the namespace on whose labels or annotations it depends, if it does.
    Kept = tuple[Selection, Namespace | None]

_MOST = 256  # choices that are kept
_LONGEST = 1024  # characters of annotations; a choice with longer annotations is not kept


class Choices:
    """The choices of one configuration's ADDs. A new object is made when the pools change."""

    __slots__ = ("_config", "_document", "_kept", "_raw", "_says_nothing")

    def __init__(self, config: Config, document: dict[str, Any], raw: bytes) -> None:
        """``config`` was read from ``document``, which was decoded from ``raw``."""
        cluster = config.cluster
        assert cluster is not None
        self._config = config
        self._document = document
        self._raw = raw
        self._says_nothing = cluster.is_uniform and not (config.pool_names or cluster.namespaces)
        self._kept: dict[tuple[Any, ...], Kept] = {}

    def choose(
        self,
        services: Services,
        found: dict[str, Any] | None,
        arguments: Arguments,
        addresses: Addresses,
    ) -> tuple[Addresses, Selection | None]:
        """Return the requested addresses and the chosen pools of an ADD.

        The returned addresses are ``addresses``, followed by those that an annotation lists for the
        pod. The pools are None when any address of each family will do. ``found`` are the pod's
        annotations that were cut out of the request. Raises ConfigError, NoBlock.
        """
        found = pod_annotations.of_pod(self._document, self._raw, found)
        said = pod_annotations.said(found)
        if self._says_nothing and said == pod_annotations.SILENT:
            return addresses, None
        namespace = arguments.pod_namespace
        if addresses or said[0] is not None:
            chosen = pod_annotations.choice(found, "pod annotation")
            addresses = [*addresses, *fixed.addresses(chosen.addresses, arguments.pod_name)]
            store = open_stores.get(self._config.data_dir, self._config.durability)
            chooser = Chooser(services, self._config, store, chosen, namespace)
            return addresses, chooser.select(addresses)
        return addresses, self._as_before(services, found, (*said, namespace))

    def _as_before(
        self, services: Services, found: dict[str, Any], key: tuple[Any, ...]
    ) -> Selection | None:
        """Return the pools that an ADD without requested addresses chooses.

        The choice of an earlier ADD with the same ``key`` is used if it still holds. The last part
        of ``key`` is the pod's namespace, the others are its annotations.
        """
        config = self._config
        try:
            kept = self._kept.get(key)
        except TypeError:  # an annotation is not a string, which is refused below
            kept = None
        if kept is not None and kept[1] is None and kept[0].is_settled:
            return kept[0]
        store = open_stores.get(config.data_dir, config.durability)
        if kept is not None and self._is_still(services, store, kept[1], key[-1]):
            selection = kept[0].within(services, store, config.name)
            if selection is kept[0]:
                return selection
            kept = selection, kept[1]
        else:
            chosen = pod_annotations.choice(found, "pod annotation")
            chooser = Chooser(services, config, store, chosen, key[-1])
            chosen_pools = chooser.select()
            if chosen_pools is None:
                return None
            kept = chosen_pools, chooser.read
        if len(self._kept) >= _MOST:
            self._kept.clear()
        if sum(len(one) for one in key if one) <= _LONGEST:
            self._kept[key] = kept
        return kept[0]

    def _is_still(
        self, services: Services, store: Store, read: Namespace | None, name: str
    ) -> bool:
        """Return whether a namespace is the same as when a choice read it. Raises NoBlock."""
        cluster = self._config.cluster
        assert cluster is not None
        return read is None or read is services.namespace(store, self._config.name, cluster, name)
