"""Check that runtime and ADD will accept a network configuration list, before it is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fastipam.cni import configs, conflists, more_blocks, versions
from fastipam.configuration import reader
from fastipam.configuration.network import Config, network_name
from fastipam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable


def require_name(name: str, field: str) -> None:
    """Raise ConfigError unless this is a valid network name."""
    try:
        network_name({"name": name})
    except ConfigError as error:
        error.field = field
        raise
    if len(name) > reader.LONGEST_NETWORK:
        raise ConfigError(
            f"the network name {name[:32]}… has {len(name)} characters, "
            f"but at most {reader.LONGEST_NETWORK} are allowed",
            field=field,
            value=name,
            hint="type a shorter name, such as podnet",
        )


def require_data_dir(path: str, field: str) -> None:
    """Raise ConfigError unless a configuration can have this directory as its ``dataDir``."""
    if not reader.is_path(path) or not os.path.isabs(path):
        raise ConfigError(
            f"{path!r} is not an absolute path, and the plugin runs in another directory",
            field=field,
            value=path,
            hint=f"type {os.path.abspath(path)}",
        )


def require_list(path: str, field: str) -> None:
    """Raise ConfigError unless a file is a network configuration list that a runtime can read."""
    content = more_blocks.read_file(path)
    plugins = content.get("plugins")
    is_listed = isinstance(plugins, list) and bool(plugins)
    if not is_listed or "name" not in content:
        what = 'has no "name"' if is_listed else 'has no list of "plugins"'
        raise ConfigError(
            f"{path} {what}, so it is not a network configuration list",
            field=field,
            value=path,
            hint="`fastipam conflist -o FILE` writes one; a file of settings is enough without "
            "--write-conflist",
        )
    for at, one in enumerate(plugins or ()):
        kind = one.get("type") if isinstance(one, dict) else None
        if not isinstance(kind, str) or not kind:
            raise ConfigError(
                f'plugins[{at}] of {path} has no "type": the name of its plugin',
                field=field,
                value=path,
            )
    more_blocks.read_any(path)


def completed(path: str, families: Iterable[int], mtu: int | None) -> bytes:
    """Return a template completed for this node.

    Raises OSError, and ConfigError for anything that an ADD would refuse.
    """
    content = conflists.complete(Path(path).read_bytes(), path, families, mtu)
    for plugin in configs.plugins_of(reader.decode(content, path)):
        if plugin["ipam"]["type"] == "fastipam":
            try:
                Config(plugin, versions.agree(plugin, "ADD"), more_blocks.read, content)
            except ConfigError as error:
                field = f"{path}: {error.field}" if error.field else path
                raise ConfigError(
                    error.message, field=field, value=error.value, hint=error.hint
                ) from None
    return content
