"""A CNI request as a plugin of somebody else reads it, and its IPAM part, served in process."""

from __future__ import annotations

import json
import time

from fastipam.addressing.addresses import to_ip
from fastipam.cni import environment, handler, versions
from fastipam.configuration import reader
from fastipam.configuration.attachments import valid_attachments
from fastipam.configuration.network import requested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address, IPv6Address
    from typing import Any, Self


class Request:
    """One request to a CNI plugin: its variables and its configuration. Made by :meth:`parse`.

    ``command`` is ADD, DEL, CHECK, GC, STATUS or VERSION; ``container_id``, ``ifname`` and
    ``netns`` are empty texts where the command has none. ``path`` are the directories of
    ``CNI_PATH``, ``args`` the pairs of ``CNI_ARGS``. ``config`` is the configuration as it was
    written, ``name`` and ``version`` (``cniVersion``) are read from it. ``ipam`` and
    ``prev_result`` are its objects of these names, as they were written; empty and None when they
    are absent, or when they are broken and the command is DEL or GC, which have to work all the
    same. VERSION has no configuration, and the newest version.
    """

    __slots__ = (
        "_environ", "_folded", "_started_ns", "args", "command", "config", "container_id",
        "ifname", "ipam", "name", "netns", "path", "prev_result", "version",
    )  # fmt: skip

    command: str
    container_id: str
    ifname: str
    netns: str
    path: tuple[str, ...]
    args: dict[str, str]
    config: dict[str, Any]
    name: str
    version: str
    ipam: dict[str, Any]
    prev_result: dict[str, Any] | None

    _environ: dict[str, str]
    _folded: dict[str, Any]
    _started_ns: int

    @classmethod
    def parse(cls, environ: Mapping[str, str], stdin: bytes) -> Self:
        """Read a request, checked as the IPAM plugin checks it, and in the same order.

        ``environ`` holds the ``CNI_*`` variables, ``stdin`` is standard input. O(its length).
        Raises CniError (1: a version that does not exist or does not have the command; 4: a
        variable), DecodingError (6), ConfigError (7): :func:`fastipam.cni.error_object` of any of
        them is the plugin's answer.
        """
        return cls(environ, stdin)

    def __init__(self, environ: Mapping[str, str], stdin: bytes) -> None:
        self._started_ns = time.time_ns()
        self._environ = dict(environ)
        variables = environment.Variables(environ)
        self.command = variables.command
        self.container_id = variables.container_id
        self.ifname = variables.ifname
        self.netns = variables.netns
        self.path = tuple(one for one in environ.get("CNI_PATH", "").split(":") if one)
        self.args = environment.pairs(variables.args)
        self._folded = {}
        self.config, self.ipam, self.prev_result = {}, {}, None
        self.name, self.version = "", versions.NEWEST
        if self.command == environment.VERSION:
            return
        self._folded = reader.decode(stdin)
        self.version = ".".join(map(str, versions.admit(self._folded, self.command)))
        self.name = self._folded["name"]
        self.config = json.loads(stdin)
        self.ipam = self._object("ipam") or {}
        self.prev_result = self._object("prevResult")

    def _object(self, key: str) -> dict[str, Any] | None:
        """Return the object under a key, in whatever case that is written."""
        found = None
        for written, value in self.config.items():
            if written.casefold() == key.casefold() and value is not None:
                found = value
        if found is None or isinstance(found, dict):
            return found
        if self.command in (environment.DEL, environment.GC):
            return None
        raise reader.wrong(key, found, "an object")

    def __repr__(self) -> str:
        what = " ".join(one for one in (self.container_id, self.ifname) if one)
        return f"<Request {self.command} {what} in {self.name!r}>"

    def requested_addresses(self) -> list[IPv4Address | IPv6Address]:
        """Return the addresses that are asked for by name, each once, for ``allocate(addresses=)``.

        They come from ``IP`` in ``CNI_ARGS``, ``args.cni.ips`` and ``runtimeConfig.ips``. Raises
        CniError 4, ConfigError.
        """
        named = environment.address_in(self.args.get("IP", ""))
        return [to_ip(*one) for one in requested(self._folded, named)]

    def valid_attachments(self) -> set[tuple[str, str]]:
        """Return the (container id, interface) pairs that GC lists, for ``Network.retain``.

        Raises ConfigError when there is no list, or one with an entry that names nobody.
        """
        return valid_attachments(self._folded)

    def delegate(self, command: str = "") -> dict[str, Any]:
        """Serve the IPAM part of the request in this process, and return its result, perhaps {}.

        It does what a delegated call of the IPAM plugin does, with every key of the ``ipam``
        section, but starts no process. ``command`` stands for the request's own: an ADD that fails
        undoes with "DEL". Changes of ``config`` count. Raises the FastipamError that the plugin
        would have answered with; a change is durable as :func:`fastipam.cni.handle` says.
        """
        environ = {**self._environ, "CNI_COMMAND": command or self.command}
        stdin = json.dumps(self.config).encode()
        answer = handler.answer(environ, stdin, [], started_ns=self._started_ns)
        return json.loads(answer) if answer else {}
