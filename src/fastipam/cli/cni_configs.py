"""The runtime's directory of network configurations: its files, and what each plugin is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastipam.cli.click_base import reason_of
from fastipam.cni.error_codes import CniError
from fastipam.configuration import reader
from fastipam.errors import ConfigError, FastipamError

if TYPE_CHECKING:
    from pathlib import Path

_ENDINGS = (".conf", ".conflist", ".json")  # what libcni reads


def files(directory: Path) -> list[Path]:
    """In the order in which a runtime reads them: the first is its default network. OSError."""
    return sorted(one for one in directory.iterdir() if one.suffix in _ENDINGS)


def with_ipam(path: Path) -> list[dict[str, Any]]:
    """What the plugins of a file with an ``ipam`` section are sent, keys folded.

    Raises OSError, CniError and ConfigError.
    """
    return plugins_of(reader.decode(path.read_bytes()))


def plugins_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The same of a file's content. Raises ConfigError."""
    plugins = content.get("plugins", [content])
    if not isinstance(plugins, list) or not all(isinstance(one, dict) for one in plugins):
        raise ConfigError("this is not a list of objects", field="plugins", value="")
    # A list's name and version are those of its plugins, as libcni has it.
    common: dict[str, Any] = {key: content[key] for key in ("name", "cniversion") if key in content}
    found = []
    for plugin in plugins:
        ipam = plugin.get("ipam")
        if isinstance(ipam, dict) and "type" in ipam:
            found.append({**plugin, **common})
    return found


def reason(error: CniError | FastipamError) -> str:
    """Return why a configuration cannot be used, the field before it."""
    return error.msg if isinstance(error, CniError) else reason_of(error)
