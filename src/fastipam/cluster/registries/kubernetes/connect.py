"""The function that opens the registry on the Kubernetes API."""

from __future__ import annotations

from fastipam.cluster.registries.kubernetes import access
from fastipam.cluster.registries.kubernetes.client import Client
from fastipam.cluster.registries.kubernetes.registry import KubernetesRegistry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.cluster.node.share import Share


def open_kubernetes(share: Share) -> KubernetesRegistry:
    """Return a node's registry, with the access of its pod or of the kubeconfig in the settings.

    Raises ConfigError, which says what is missing.
    """
    settings = share.settings
    if settings.kubeconfig:
        from fastipam.cluster.registries.kubernetes import kubeconfig  # for the command line

        found = kubeconfig.load(settings.kubeconfig)
    else:
        found = access.in_cluster(settings.servers, field=settings.field("server"))
    return KubernetesRegistry(share, Client(found))
