"""The engine that a node's settings name."""

from __future__ import annotations

from fastipam.cluster.engines import open_engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.cluster.engine import Engine
    from fastipam.configuration.cluster import Settings


def connect(settings: Settings) -> Engine:
    """An engine; it connects when it is first used. Raises ConfigError for unusable files."""
    username, password = settings.user_and_password()
    return open_engine(
        settings.endpoints,
        ca=settings.ca,
        cert=settings.cert,
        key=settings.key,
        username=username,
        password=password,
    )
