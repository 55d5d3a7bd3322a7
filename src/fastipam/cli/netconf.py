"""The runtime's directory of network configurations: its files, and what each plugin is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastipam.cni import document
from fastipam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ENDINGS = (".conf", ".conflist", ".json")  # what libcni reads


def files(directory: Path) -> list[Path]:
    """In the order in which a runtime reads them: the first is its default network. OSError."""
    return sorted(one for one in directory.iterdir() if one.suffix in _ENDINGS)


def with_ipam(path: Path) -> Iterator[dict[str, Any]]:
    """What the plugins of a file with an ``ipam`` section are sent, keys folded.

    Raises OSError, CniError and ConfigError.
    """
    content = document.decode(path.read_bytes())
    plugins = content.get("plugins", [content])
    if not isinstance(plugins, list) or not all(isinstance(one, dict) for one in plugins):
        raise ConfigError("plugins: this is not a list of objects", field="plugins", value="")
    # A list's name and version are those of its plugins, as libcni has it.
    common: dict[str, Any] = {key: content[key] for key in ("name", "cniversion") if key in content}
    for plugin in plugins:
        ipam = plugin.get("ipam")
        if isinstance(ipam, dict) and "type" in ipam:
            yield {**plugin, **common}
