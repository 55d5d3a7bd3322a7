"""The engines that cluster mode can stand on, and the one way to open one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastipam.cluster.engine import Engine

__all__ = ["open_engine"]


def open_engine(
    endpoints: Sequence[str],
    *,
    ca: str = "",
    cert: str = "",
    key: str = "",
    username: str = "",
    password: str = "",
) -> Engine:
    """An engine on the etcd that has these members. O(1): it connects when it is first used.

    ``endpoints``: ``https://host:port``, ``http://…``, or ``host:port``, which is https when
    ``ca`` or ``cert`` is given. ``ca``: the file of the certificates to trust, empty for the
    system's. ``cert`` and ``key``: files of this client's own, for mutual TLS. ``username`` and
    ``password``: etcd's.

    Raises ConfigError for what cannot be used, without having connected; a file that cannot be
    used at the first call.
    """
    from fastipam.cluster.engines.etcd.engine import EtcdEngine

    return EtcdEngine(endpoints, ca=ca, cert=cert, key=key, username=username, password=password)
