"""The list of engines, and the choice of the one that a node's settings name."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.cluster.engine import Engine
    from fastipam.configuration.cluster import Settings

# The key of the settings that chooses an engine, and the module whose ``open_engine`` opens it.
# A claim of the directly run plugin imports one module, so they are names here.
ENGINES = {
    "endpoints": "fastipam.cluster.engines.etcd.engine",
}


def connect(settings: Settings) -> Engine:
    """Open the engine that the settings name; it connects at its first call.

    Raises ConfigError for settings that the engine cannot use.
    """
    name = next(name for key, name in ENGINES.items() if getattr(settings, key))
    engine: Engine = _module(name).open_engine(settings)
    return engine


def import_all() -> None:
    """Import every engine: the installer asks which modules a claim needs."""
    for name in ENGINES.values():
        _module(name)


def _module(name: str) -> Any:
    return __import__(name, fromlist=["open_engine"])
