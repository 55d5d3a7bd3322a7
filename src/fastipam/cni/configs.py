"""Read the network configurations in a runtime's directory, and the input of each plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastipam.configuration import reader
from fastipam.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

ENDINGS = (".conf", ".conflist", ".json")  # the endings that libcni reads


def files(directory: Path) -> list[Path]:
    """Return the configuration files in the order in which a runtime reads them.

    The first file is the runtime's default network. Raises OSError.
    """
    return sorted(one for one in directory.iterdir() if is_read(one))


def is_read(path: Path) -> bool:
    """Return whether a runtime reads a file with this name."""
    return path.suffix in ENDINGS


def with_ipam(path: Path) -> list[dict[str, Any]]:
    """Return the input of each plugin in a file that has an ``ipam`` section, keys case-folded.

    Raises OSError and ConfigError.
    """
    return plugins_of(reader.decode(path.read_bytes()))


def plugins_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the same as :func:`with_ipam`, from a file's decoded content. Raises ConfigError."""
    plugins = content.get("plugins", [content])
    if not isinstance(plugins, list) or not all(isinstance(one, dict) for one in plugins):
        raise ConfigError("this is not a list of objects", field="plugins", value="")
    # libcni gives each plugin of a list the name and version of the list.
    common: dict[str, Any] = {key: content[key] for key in ("name", "cniversion") if key in content}
    found = []
    for plugin in plugins:
        ipam = plugin.get("ipam")
        if isinstance(ipam, dict) and "type" in ipam:
            found.append({**plugin, **common})
    return found
