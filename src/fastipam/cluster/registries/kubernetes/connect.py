"""Opening the registry on the Kubernetes API, by a node's settings."""

from __future__ import annotations

from fastipam.cluster.registries.kubernetes import access
from fastipam.cluster.registries.kubernetes.client import Client
from fastipam.cluster.registries.kubernetes.registry import KubernetesRegistry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.cluster.node.share import Share


def open_kubernetes(share: Share) -> KubernetesRegistry:
    """Return the registry of a node: in its pod, or with the kubeconfig that the settings name.

    Raises ConfigError, which says what is missing.
    """
    settings = share.settings
    if settings.kubeconfig:
        from fastipam.cluster.registries.kubernetes import kubeconfig  # a person's command line

        found = kubeconfig.load(settings.kubeconfig)
    else:
        found = access.in_cluster(settings.servers, field=settings.field("server"))
    return KubernetesRegistry(share, Client(found))
