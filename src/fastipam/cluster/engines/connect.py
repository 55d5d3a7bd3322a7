"""The list of engines, and the function that opens the engine which the settings name."""

from __future__ import annotations

from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.cluster.engine import Engine
    from fastipam.configuration.cluster import Settings

# The value of ``engine`` in the settings, and the module whose ``open_engine`` opens that engine.
# The modules are named, not imported, so that a claim of a directly run plugin imports only one.
ENGINES = {
    "etcd": "fastipam.cluster.engines.etcd.engine",
}


def connect(settings: Settings) -> Engine:
    """Open the engine that the settings name; it connects at its first call.

    Raises ConfigError for settings that the engine cannot use.
    """
    name = ENGINES.get(settings.engine)
    if name is None:
        raise ConfigError(
            f"{settings.engine!r} is not an engine",
            field=settings.field("engine"),
            value=settings.engine,
            hint=f"the engines are {', '.join(ENGINES)}",
        )
    engine: Engine = _module(name).open_engine(settings)
    return engine


def import_all() -> None:
    """Import every engine, so that the installer sees which modules a claim needs."""
    for name in ENGINES.values():
        _module(name)


def _module(name: str) -> Any:
    return __import__(name, fromlist=["open_engine"])
