"""Make network configuration lists, and complete them with the keys that depend on a node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from fastipam.addressing.addresses import V4, V6
from fastipam.cni import configs, pod_annotations
from fastipam.configuration import reader
from fastipam.configuration.policy import DEFAULT_DATA_DIR
from fastipam.errors import ConfigError, FastipamError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

PTP = "ptp"
BRIDGE = "bridge"
PLUGINS = (PTP, BRIDGE)
# libcni takes the newest version that it knows, so a runtime that knows STATUS and GC calls them.
VERSIONS = ("1.0.0", "1.1.0")
DEFAULT_NETWORK = "podnet"
# The states of a list that an agent writes.
WAITING = "waiting"
WRITTEN = "written"
FAILED = "failed"
REMOVED = "removed"
STATES = (WAITING, WRITTEN, FAILED, REMOVED)
_OWN = "fastipam"
_MULTUS = {"multus", "multus-shim"}
_DEFAULT_ROUTES = {V4: "0.0.0.0/0", V6: "::/0"}
_ADDED = {
    "portmap": {"type": "portmap", "capabilities": {"portMappings": True}},
    "bandwidth": {"type": "bandwidth", "capabilities": {"bandwidth": True}},
}


class Standing(NamedTuple):
    """The state of a list that an agent writes: one of STATES, and the reason.

    ``before`` are the configurations that a runtime reads before it; ``failures`` counts the failed
    attempts to write the list.
    """

    state: str = WAITING
    reason: str = ""
    before: tuple[str, ...] = ()
    failures: int = 0


def standard(
    plugin: str = PTP,
    network: str = DEFAULT_NETWORK,
    *,
    masquerade: bool = True,
    without: Collection[str] = (),
    mtu: int | None = None,
    data_dir: str = DEFAULT_DATA_DIR,
    newest: str = VERSIONS[-1],
    families: Iterable[int] = (),
) -> dict[str, Any]:
    """Return the configuration list for pods with addresses of a cluster's pools.

    The first plugin is ptp or bridge; ``without`` names the plugins after it that are left out.
    Without ``families`` there are no routes: an agent that writes the list adds them
    (:func:`complete`).
    """
    # A runtime that knows the capability passes the pod's annotations, which may choose its pool.
    capabilities = {pod_annotations.CAPABILITY: True}
    first: dict[str, Any] = {"type": plugin, "ipMasq": masquerade, "capabilities": capabilities}
    if plugin == BRIDGE:
        first |= {"bridge": "cni0", "isGateway": True, "hairpinMode": True}
    if mtu is not None:
        first["mtu"] = mtu
    ipam: dict[str, Any] = {"type": _OWN, "cluster": {"engine": "kubernetes"}}
    if data_dir != DEFAULT_DATA_DIR:
        ipam["dataDir"] = data_dir
    routes = _routes(families)
    first["ipam"] = ipam | ({"routes": routes} if routes else {})
    document: dict[str, Any] = {"cniVersion": VERSIONS[0]}
    if newest != VERSIONS[0]:
        document["cniVersions"] = list(VERSIONS)
    more = [added for name, added in _ADDED.items() if name not in without]
    return document | {"name": network, "plugins": [first, *more]}


def encode(document: dict[str, Any]) -> bytes:
    """Return the list as indented JSON, for people to read."""
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def complete(content: bytes, path: str, families: Iterable[int], mtu: int | None) -> bytes:
    """Return a list completed with the keys that depend on the node and its pools.

    A ptp or bridge plugin gets the key ``mtu``. An ipam section of fastipam's gets a default route
    for each family. A key that exists is not changed, and when nothing is missing, the text is
    returned as it is. Raises ConfigError when the content is not a list.
    """
    reader.decode(content, path)  # its error says where in the text the fault is
    document = json.loads(content)
    plugins = document.get("plugins")
    if not isinstance(plugins, list) or not all(isinstance(one, dict) for one in plugins):
        raise ConfigError("the list of plugins is missing", field=f"{path}: plugins", value=None)
    changed = False
    for plugin in plugins:
        ipam = plugin.get("ipam")
        if plugin.get("type") in PLUGINS and mtu is not None and "mtu" not in plugin:
            plugin["mtu"] = mtu
            changed = True
        if isinstance(ipam, dict) and ipam.get("type") == _OWN and "routes" not in ipam:
            ipam["routes"] = _routes(families)
            changed = True
    return encode(document) if changed else content


def _routes(families: Iterable[int]) -> list[dict[str, str]]:
    return [{"dst": _DEFAULT_ROUTES[family]} for family in sorted(families)]


def sorted_before(target: Path) -> list[Path]:
    """Return the other configurations that a runtime reads before a file, or instead of it.

    A runtime makes the first one its default network. Configurations of Multus are left out: Multus
    has to be the first, and calls the next one. Raises OSError.
    """
    return [
        one
        for one in configs.files(target.parent)
        if one.name < target.name and not _MULTUS & _types(one)
    ]


def _types(path: Path) -> set[str]:
    """Return the types of a configuration's plugins, or an empty set if it cannot be read."""
    try:
        content = reader.decode(path.read_bytes())
    except (FastipamError, OSError):
        return set()
    plugins = content.get("plugins")
    listed = plugins if isinstance(plugins, list) else [content]
    return {str(one.get("type")) for one in listed if isinstance(one, dict)}


def is_ours(path: Path, network: str = "") -> bool:
    """Return whether a configuration has an ipam section of fastipam's, or is of this network.

    A file that is not a readable configuration does not count. Raises OSError.
    """
    try:
        content = reader.decode(path.read_bytes())
        plugins = configs.plugins_of(content)
    except FastipamError:
        return False
    return any(one["ipam"]["type"] == _OWN for one in plugins) or (
        bool(network) and content.get("name") == network
    )
