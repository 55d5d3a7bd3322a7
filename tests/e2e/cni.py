"""The container runtime's side of CNI: run one plugin, or a chain of them as libcni does."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from .netns import NetNS

Document = dict[str, Any]
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True)
class Outcome:
    """What one run of a plugin left behind: at most one document on standard output."""

    status: int
    document: Document | None
    stderr: str

    def result(self) -> Document:
        """Return the result of a successful ADD."""
        assert self.status == 0, f"the plugin failed: {self.document} {self.stderr}"
        assert self.document is not None, "the plugin printed no result"
        return self.document

    def silent(self) -> None:
        """Fail unless the plugin succeeded and printed nothing: DEL and CHECK."""
        assert (self.status, self.document) == (0, None), f"{self.document} {self.stderr}"

    def error(self) -> Document:
        """Return the error object of a failed command."""
        assert self.status != 0, f"the plugin succeeded: {self.document}"
        assert self.document is not None, f"the plugin printed no error object: {self.stderr}"
        return self.document


def run_plugin(
    plugin: str,
    command: str,
    conf: Document,
    container_id: str,
    netns: str,
    ifname: str = "eth0",
    *,
    args: str = "",
    inside: NetNS,
    plugin_dir: Path,
) -> Outcome:
    """Run `plugin` once, in the network namespace `inside`, and parse what it prints."""
    env = {
        **os.environ,
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id,
        "CNI_NETNS": netns,
        "CNI_IFNAME": ifname,
        "CNI_ARGS": args,
        "CNI_PATH": str(plugin_dir),
    }
    done = inside.run(str(plugin_dir / plugin), check=False, stdin=json.dumps(conf), env=env)
    document = json.loads(done.stdout) if done.stdout.strip() else None
    return Outcome(done.returncode, document, done.stderr)


@dataclass(frozen=True)
class Attachment:
    """One container interface on a network, and the result of its ADD."""

    container_id: str
    netns: str
    ifname: str
    result: Document

    @property
    def addresses(self) -> list[Interface]:
        """The addresses of the result, in its order."""
        return addresses(self.result)


class Network:
    """A configuration list, driven in libcni's order and with the documents libcni passes."""

    def __init__(self, conflist: Document, plugin_dir: Path, host: NetNS) -> None:
        """Keep the list; nothing runs before `add`."""
        self.conflist = conflist
        self.version: str = conflist["cniVersion"]
        self._plugin_dir = plugin_dir
        self._host = host

    @classmethod
    def of_plugin(cls, conf: Document, plugin_dir: Path, host: NetNS) -> Network:
        """Make the list of one plugin that libcni makes of a bare configuration."""
        head = {key: conf[key] for key in ("cniVersion", "name")}
        return cls({**head, "plugins": [conf]}, plugin_dir, host)

    def add(
        self,
        netns: NetNS,
        ifname: str = "eth0",
        *,
        capabilities: Document | None = None,
        args: str = "",
    ) -> Attachment:
        """Attach a new container; every plugin is given its predecessor's result."""
        container_id = uuid4().hex
        result: Document | None = None
        for conf in self._confs(capabilities):
            outcome = self._run("ADD", conf, container_id, netns.path, ifname, result, args)
            result = outcome.result()
        assert result is not None, "a configuration list needs a plugin"
        return Attachment(container_id, netns.path, ifname, result)

    def check(self, attachment: Attachment) -> None:
        """Fail unless every plugin of the list still agrees with the result of ADD."""
        for conf in self._confs(None):
            self._again("CHECK", conf, attachment, attachment.netns).silent()

    def check_error(self, attachment: Attachment) -> Document:
        """Return the error with which the first plugin answers CHECK."""
        conf = next(iter(self._confs(None)))
        return self._again("CHECK", conf, attachment, attachment.netns).error()

    def delete(
        self,
        attachment: Attachment,
        *,
        netns: str | None = None,
        capabilities: Document | None = None,
    ) -> None:
        """Detach the container, the last plugin first; `netns` stands for what is left of it."""
        path = attachment.netns if netns is None else netns
        for conf in reversed(list(self._confs(capabilities))):
            self._again("DEL", conf, attachment, path).silent()

    def _confs(self, capabilities: Document | None) -> Iterable[Document]:
        head = {key: self.conflist[key] for key in ("cniVersion", "name")}
        for plugin in self.conflist["plugins"]:
            granted = {
                key: value
                for key, value in (capabilities or {}).items()
                if plugin.get("capabilities", {}).get(key)
            }
            yield {**plugin, **head, **({"runtimeConfig": granted} if granted else {})}

    def _again(self, command: str, conf: Document, attachment: Attachment, netns: str) -> Outcome:
        # CHECK and DEL have been given the result since 0.4.0.
        known = None if self.version < "0.4.0" else attachment.result
        return self._run(command, conf, attachment.container_id, netns, attachment.ifname, known)

    def _run(
        self,
        command: str,
        conf: Document,
        container_id: str,
        netns: str,
        ifname: str,
        previous: Document | None,
        args: str = "",
    ) -> Outcome:
        return run_plugin(
            conf["type"],
            command,
            conf if previous is None else {**conf, "prevResult": previous},
            container_id,
            netns,
            ifname,
            args=args,
            inside=self._host,
            plugin_dir=self._plugin_dir,
        )


def refusal(conf: Document, *, inside: NetNS, plugin_dir: Path) -> str:
    """Return the message with which the IPAM plugin itself refuses one more address."""
    target = (conf, uuid4().hex, "/run/netns/none")
    plugin = conf["ipam"]["type"]
    outcome = run_plugin(plugin, "ADD", *target, inside=inside, plugin_dir=plugin_dir)
    message: str = outcome.error()["msg"]
    return message


def addresses(result: Document) -> list[Interface]:
    """Return the addresses of a result of any spec version."""
    if "ips" in result:
        return [ipaddress.ip_interface(entry["address"]) for entry in result["ips"]]
    return [ipaddress.ip_interface(result[key]["ip"]) for key in ("ip4", "ip6") if key in result]


def gateways(result: Document) -> list[str]:
    """Return the gateways of a result of any spec version."""
    entries: Sequence[Document] = result.get("ips") or [
        result[key] for key in ("ip4", "ip6") if key in result
    ]
    return [entry["gateway"] for entry in entries]
