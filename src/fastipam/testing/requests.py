"""CNI requests as a runtime sends them to a plugin: variables and standard input."""

from __future__ import annotations

import json
import os
import subprocess
from typing import NamedTuple

from fastipam.cni.versions import NEWEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    Result = Mapping[str, Any] | str | bytes

DEFAULT_SUBNET = "10.32.0.0/24"


class PluginRequest(NamedTuple):
    """One request, to be passed to ``fastipam.cni.handle(*request)`` or to your own function."""

    environ: dict[str, str]
    stdin: bytes

    def run(self, plugin: str | os.PathLike[str] | Sequence[str]) -> tuple[int, bytes]:
        """Start a plugin with this request and return its exit status and standard output.

        ``plugin`` is an executable file, or a command. If a signal kills the plugin, the status is
        the negative number of the signal. The plugin's standard error is the test's.
        """
        command = [plugin] if isinstance(plugin, (str, os.PathLike)) else [*plugin]
        others = {key: value for key, value in os.environ.items() if not key.startswith("CNI_")}
        done = subprocess.run(
            command,
            env=others | self.environ,
            input=self.stdin,
            stdout=subprocess.PIPE,
            check=False,
        )
        return done.returncode, done.stdout


class Requests:
    """Makes requests for one network.

    ``data_dir`` is the store's directory, ``version`` any CNI version. The keys of ``ipam`` are
    added to the ``ipam`` section, or replace keys there. If they set no ranges (``subnet``,
    ``ranges``, ``subnets`` or ``range``), the network is 10.32.0.0/24. ``plugin`` is the main
    plugin's ``type``, ``keys`` are its other keys in the configuration. ``variables`` are added to
    the environment.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        *,
        version: str = NEWEST,
        name: str = "test",
        plugin: str = "bridge",
        ipam: Mapping[str, Any] | None = None,
        keys: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        section = {"type": "fastipam", "dataDir": os.fspath(data_dir), **(ipam or {})}
        if not {"subnet", "ranges", "subnets", "range"} & section.keys():
            section["subnet"] = DEFAULT_SUBNET
        self.config: dict[str, Any] = {
            "cniVersion": version,
            "name": name,
            "type": plugin,
            **(keys or {}),
            "ipam": section,
        }
        self._variables = {"CNI_PATH": "/opt/cni/bin", **(variables or {})}

    def add(
        self,
        container_id: str = "container-1",
        ifname: str = "eth0",
        *,
        netns: str | os.PathLike[str] | None = None,
        args: str = "",
    ) -> PluginRequest:
        """Return an ADD. Without ``netns`` its ``CNI_NETNS`` is a path that does not exist.

        ``args`` is ``CNI_ARGS``: ``"IP=10.32.0.9"``,
        ``"IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod"``.
        """
        return self._of_container("ADD", container_id, ifname, netns, args, None)

    def check(
        self,
        container_id: str = "container-1",
        ifname: str = "eth0",
        *,
        result: Result,
        netns: str | os.PathLike[str] | None = None,
        args: str = "",
    ) -> PluginRequest:
        """Return a CHECK. ``result`` is the result of the ADD, the ``prevResult``."""
        return self._of_container("CHECK", container_id, ifname, netns, args, result)

    def delete(
        self,
        container_id: str = "container-1",
        ifname: str = "eth0",
        *,
        result: Result | None = None,
        netns: str | os.PathLike[str] | None = None,
        args: str = "",
    ) -> PluginRequest:
        """Return a DEL. ``result``, if given, is the result of the ADD, the ``prevResult``.

        With ``netns=""`` the request has no ``CNI_NETNS``, as after a reboot.
        """
        return self._of_container("DEL", container_id, ifname, netns, args, result)

    def gc(self, valid: Iterable[tuple[str, str]] = ()) -> PluginRequest:
        """Return a GC. ``valid`` are the attachments to keep: (container id, interface)."""
        listed = [{"containerID": one, "ifname": ifname} for one, ifname in valid]
        return self._make("GC", {}, {"cni.dev/valid-attachments": listed})

    def status(self) -> PluginRequest:
        """Return a STATUS."""
        return self._make("STATUS", {}, {})

    def version(self) -> PluginRequest:
        """Return a VERSION."""
        return self._make("VERSION", {}, {})

    def _of_container(
        self,
        command: str,
        container_id: str,
        ifname: str,
        netns: str | os.PathLike[str] | None,
        args: str,
        result: Result | None,
    ) -> PluginRequest:
        path = f"/run/netns/{container_id}" if netns is None else os.fspath(netns)
        variables = {
            "CNI_CONTAINERID": container_id,
            "CNI_IFNAME": ifname,
            "CNI_NETNS": path,
            "CNI_ARGS": args,
        }
        keys = {} if result is None else {"prevResult": read(result)}
        return self._make(command, variables, keys)

    def _make(self, command: str, variables: dict[str, str], keys: dict[str, Any]) -> PluginRequest:
        environ = {"CNI_COMMAND": command, **variables, **self._variables}
        stdin = json.dumps(self.config | keys).encode()
        present = {key: value for key, value in environ.items() if value}
        return PluginRequest(present, stdin)


def read(result: Result) -> dict[str, Any]:
    """Return a result as a dict. Raises AssertionError for an error object or another value."""
    document = json.loads(result) if isinstance(result, (str, bytes)) else result
    if not hasattr(document, "keys") or {"code", "msg"} <= document.keys():
        raise AssertionError(f"this is not the result of an ADD: {document!r}")
    return dict(document)
