"""Diagnose the network configurations of a runtime: their content, and whether they are valid."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastipam.cli.click_base import as_root, reason_of
from fastipam.cli.commands.doctor import surroundings
from fastipam.cli.commands.doctor.diagnosis import OK, PROBLEM, WARNING, Diagnosis
from fastipam.cni import configs as cni_configs
from fastipam.cni import conflists, more_blocks, versions
from fastipam.configuration.network import Config
from fastipam.errors import FastipamError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHECK = "configuration"
_HOST_LOCAL = "host-local"
_SYSCTLS = Path("/proc/sys")
_LINKS = Path("/sys/class/net")
# Types that fastipam replaces: one may have been left in a configuration by mistake.
_REPLACED = (_HOST_LOCAL, "whereabouts")


class Configured(NamedTuple):
    """A network that fastipam serves, its data directory, and the file of its configuration."""

    network: str
    data_dir: str
    file: Path


def look(directory: Path) -> tuple[list[Diagnosis], list[Configured]]:
    """Diagnose every file, in the runtime's order; return also the networks of fastipam."""
    try:
        files = cni_configs.files(directory)
    except FileNotFoundError:
        if surroundings.lacks(directory):
            text = surroundings.not_mounted(directory, "the networks cannot be examined")
            return [Diagnosis(_CHECK, WARNING, text)], []
        text = f"{directory} does not exist: no runtime calls the plugin"
        return [Diagnosis(_CHECK, WARNING, text, _new(directory))], []
    except OSError as error:
        text = f"{directory} cannot be read: {error.strerror}"
        return [Diagnosis(_CHECK, WARNING, text, as_root() or f"ls -la {directory}")], []
    if not files:
        text = f"{directory} has no network configuration: no runtime calls the plugin"
        return [Diagnosis(_CHECK, WARNING, text, _new(directory))], []
    diagnoses: list[Diagnosis] = []
    networks: list[Configured] = []
    durabilities: dict[str, tuple[str, Path]] = {}
    for path in files:
        for diagnosis, config in _file(path):
            diagnoses.append(diagnosis)
            if config is None:
                continue
            networks.append(Configured(config.name, config.data_dir, path))
            asked = config.durability
            known, other = durabilities.setdefault(config.data_dir, (asked or "", path))
            if asked and known and asked != known:
                text = (
                    f"{path} sets durability {asked!r} for {config.data_dir}, but {other} sets "
                    f"{known!r}"
                )
                diagnoses.append(Diagnosis(_CHECK, PROBLEM, text, f"${{EDITOR:-vi}} {path}"))
    if networks:
        diagnoses += _not_first(min(one.file for one in networks))
    if not networks and all(one.level != PROBLEM for one in diagnoses):
        text = f'no file in {directory} has "type": "fastipam" in an ipam section'
        diagnoses.append(Diagnosis(_CHECK, WARNING, text, f"grep -n type {directory}/*"))
    return diagnoses, networks


def _not_first(path: Path) -> list[Diagnosis]:
    """Return a warning when this file is not the runtime's default network."""
    others = [one.name for one in conflists.sorted_before(path)]
    if not others:
        return []
    sort = "sorts" if len(others) == 1 else "sort"
    text = f"{path} is not the runtime's default network: {', '.join(others)} {sort} before it"
    return [Diagnosis(_CHECK, WARNING, text, f"ls -la {path.parent}")]


def _new(directory: Path) -> str:
    """Return the command that opens a new configuration in an editor."""
    make = "" if directory.is_dir() else f"mkdir -p {directory} && "
    return f"{make}${{EDITOR:-vi}} {directory}/10-podnet.conflist"


def _file(path: Path) -> Iterator[tuple[Diagnosis, Config | None]]:
    """Yield a diagnosis for each plugin of a file, with its configuration if it is fastipam's."""
    edit = f"${{EDITOR:-vi}} {path}"
    try:
        plugins = list(cni_configs.with_ipam(path))
    except OSError as error:
        text = f"{path} cannot be read: {error.strerror}"
        yield Diagnosis(_CHECK, PROBLEM, text, f"ls -la {path}"), None
        return
    except FastipamError as error:
        yield Diagnosis(_CHECK, PROBLEM, f"{path}: {reason_of(error)}", edit), None
        return
    for plugin in plugins:
        yield _plugin(path, plugin, edit)
    if not plugins:
        yield Diagnosis(_CHECK, OK, f"{path} has no ipam section"), None


def _plugin(path: Path, whole: dict[str, Any], edit: str) -> tuple[Diagnosis, Config | None]:
    kind, name = whole["ipam"]["type"], whole.get("name", "")
    if kind != "fastipam":
        if kind not in _REPLACED:
            return Diagnosis(_CHECK, OK, f"{path}: network {name!r} has ipam type {kind!r}"), None
        tree = whole["ipam"].get("datadir")  # the keys are case-folded
        own = f" {shlex.quote(tree)}" if isinstance(tree, str) and tree else ""
        move = f"fastipam import host-local --dry-run{own}" if kind == _HOST_LOCAL else edit
        text = f"{path}: network {name!r} still has ipam type {kind!r}"
        return Diagnosis(_CHECK, WARNING, text, move), None
    try:
        config = Config(whole, versions.agree(whole, "ADD"), more_blocks.read, path.read_bytes())
        capabilities = whole.get("capabilities")
        if not (isinstance(capabilities, dict) and capabilities.get("ipranges")):
            config.require_ranges()
    except FastipamError as error:
        return Diagnosis(_CHECK, PROBLEM, f"{path}: {reason_of(error)}", edit), None
    text = f"{path}: {meaning(config, str(whole.get('type', '')))}"
    if config.cluster is not None and whole.get("type") == "bridge":
        bridge = str(whole.get("bridge") or "cni0")
        if not _answers_for_others(bridge):
            text += (
                f"; pods send ARP requests for pods of other nodes on {bridge}, and without proxy "
                "ARP they get no answer; the plugin ptp needs no proxy ARP"
            )
            return Diagnosis(_CHECK, WARNING, text, f"sysctl -w {_sysctl(bridge)}=1"), config
    if config.notes:
        return Diagnosis(_CHECK, WARNING, f"{text}; {'; '.join(config.notes)}", edit), config
    return Diagnosis(_CHECK, OK, text), config


def _sysctl(bridge: str) -> str:
    return f"net/ipv4/conf/{bridge}/proxy_arp"


def _answers_for_others(bridge: str) -> bool:
    """Return whether a bridge has proxy ARP, or a port that may lead to the other nodes.

    Before the first pod the bridge does not exist, and the result is False.
    """
    try:
        ports = {one.name for one in (_LINKS / bridge / "brif").iterdir()}
        proxies = (_SYSCTLS / _sysctl(bridge)).read_text().strip()
    except OSError:
        return False
    return proxies != "0" or not all(one.startswith("veth") for one in ports)


def meaning(config: Config, main: str) -> str:
    """Return the summary of a configuration in one line: ranges, data directory and policy."""
    policy = config.policy
    where = "blocks of a cluster's pool " if config.cluster is not None else ""
    sets = "; ".join(str(one) for one in config.pool.sets) or "the runtime's ranges (ipRanges)"
    cooling = (
        f"cool-down {policy.cooldown_ns / 1e9:g} s ({'strict' if policy.strict else 'prefer'})"
    )
    parts = [f"network {config.name!r} of {main!r}: {where}{sets}", config.data_dir, cooling]
    if policy.sticky_s:
        parts.append(f"sticky for {policy.sticky_s} s")
    if not policy.history:
        parts.append("no history")
    if config.durability:
        parts.append(config.durability)
    return ", ".join(parts)
