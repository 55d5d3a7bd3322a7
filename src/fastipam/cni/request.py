"""A CNI request for plugins that embed fastipam, and its IPAM part served in this process."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping

from fastipam.addressing.addresses import to_ip
from fastipam.cni import environment, handler, main, results, versions
from fastipam.cni.answers import error_object
from fastipam.configuration import reader
from fastipam.configuration.attachments import valid_attachments
from fastipam.configuration.network import requested, route
from fastipam.errors import CniError, ConfigError, DecodingError
from fastipam.owners import Owner, Pod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address, IPv6Address
    from typing import Any, Literal, NoReturn, Self

    from fastipam.lease import Lease

    Command = Literal["ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"]


class Request:
    """One request to a CNI plugin: its variables and its configuration. Made by :meth:`parse`.

    ``command`` is ADD, DEL, CHECK, GC, STATUS or VERSION; ``container_id``, ``ifname`` and
    ``netns`` are empty texts where the command has none. ``path`` has the directories of
    ``CNI_PATH``, ``args`` the pairs of ``CNI_ARGS``. ``config`` is the configuration as it was
    written; ``name`` and ``version`` (``cniVersion``) are read from it. ``ipam`` and
    ``prev_result`` are the objects under these keys as they were written, or {} when they are
    absent.

    DEL and GC have to work with a broken request: for them ``ipam`` and ``prev_result`` are {} when
    they are not objects. ``args`` are {} when they are malformed, unless the command is ADD or
    CHECK. For VERSION ``config`` is empty, and ``version`` is the newest.
    """

    __slots__ = (
        "_began_ns", "_environ", "_log", "args", "command", "config", "container_id",
        "ifname", "ipam", "name", "netns", "path", "prev_result", "version",
    )  # fmt: skip

    command: Command
    container_id: str
    ifname: str
    netns: str
    path: tuple[str, ...]
    args: dict[str, str]
    config: dict[str, Any]
    name: str
    version: str
    ipam: dict[str, Any]
    prev_result: dict[str, Any]

    _environ: dict[str, str]
    _began_ns: int
    _log: Callable[[str], None]

    @classmethod
    def parse(cls, environ: Mapping[str, str], stdin: bytes) -> Self:
        """Read a request, checked as the IPAM plugin checks it, and in the same order.

        ``environ`` holds the ``CNI_*`` variables, ``stdin`` the bytes of standard input.
        O(bytes). Raises CniError (code 1 for a version that does not exist or does not have the
        command, 4 for a variable), DecodingError (6) and ConfigError (7). The plugin's answer is
        then :func:`fastipam.cni.error_object` of the error.
        """
        return cls(environ, stdin)

    @classmethod
    def serve(
        cls,
        environ: Mapping[str, str],
        stdin: bytes,
        commands: Mapping[str, Callable[[Self], Mapping[str, Any] | None]],
        *,
        log: Callable[[str], None] = handler.discard,
    ) -> tuple[int, bytes]:
        """Serve one request with the functions of a plugin: return (exit status, standard output).

        ``commands`` has a function for each command that the plugin serves itself. The function
        gets the request, and returns the result or None. All other commands are served by
        :meth:`delegate`. An exception of a function becomes the error object, in the version of
        the configuration. ``log`` gets the texts of the IPAM part for standard error, one line
        each. Never raises an Exception.
        """
        version = ""
        try:
            request = cls.parse(environ, stdin)
            request._log = log
            version = request.version
            _check_commands(commands)
            done = commands.get(request.command, cls.delegate)(request)
            return 0, _encoded(done) if done else b""
        except Exception as error:
            return 1, _encoded(error_object(error, version or _version_in(stdin)))

    @classmethod
    def main(cls, commands: Mapping[str, Callable[[Self], Mapping[str, Any] | None]]) -> NoReturn:
        """Serve the request of this process as :meth:`serve` does, and exit: a whole plugin.

        Notes of the IPAM part (unknown keys, a full pool) go to standard error.
        """
        status, output = cls.serve(os.environ, sys.stdin.buffer.read(), commands, log=main.log)
        sys.stdout.buffer.write(output)
        sys.stdout.flush()
        sys.exit(status)

    def __init__(self, environ: Mapping[str, str], stdin: bytes) -> None:
        given: object = environ
        if not isinstance(given, Mapping):
            raise reader.refused("environ", given, "an object")
        raw: object = stdin
        if not isinstance(raw, bytes):
            raise reader.refused("stdin", raw, "bytes")
        self._began_ns = time.time_ns()
        self._environ = dict(environ)
        self._log = handler.discard
        variables = environment.Variables(environ)
        self.command = variables.command  # type: ignore[assignment]  # others are refused below
        self.container_id = variables.container_id
        self.ifname = variables.ifname
        self.netns = variables.netns
        self.path = tuple(one for one in environ.get("CNI_PATH", "").split(":") if one)
        try:
            self.args = environment.pairs(variables.args)
        except CniError:
            if self.command in (environment.ADD, environment.CHECK):
                raise
            self.args = {}
        self.config, self.ipam, self.prev_result = {}, {}, {}
        self.name, self.version = "", versions.NEWEST
        if self.command == environment.VERSION:
            return
        folded = reader.decode(stdin)
        self.version = ".".join(map(str, versions.admit(folded, self.command)))
        self.name = folded["name"]
        self.config = json.loads(stdin)
        self.ipam = self._object("ipam")
        self.prev_result = self._object("prevResult")

    def _folded(self) -> dict[str, Any]:
        """Return the configuration as it is now, its keys case-folded."""
        return reader.decode(json.dumps(self.config).encode())

    def _object(self, key: str) -> dict[str, Any]:
        """Return the object under a key, whose case is ignored. Raises DecodingError."""
        found: Any = {}
        for written, value in self.config.items():
            if written.casefold() == key.casefold() and value is not None:
                found = value
        if isinstance(found, dict):
            return found
        if self.command in (environment.DEL, environment.GC):
            return {}
        raise reader.wrong(key, found, "an object")

    def __repr__(self) -> str:
        what = " ".join(one for one in (self.container_id, self.ifname) if one)
        return f"<Request {self.command} {what} in {self.name!r}>"

    def requested_addresses(self) -> list[IPv4Address | IPv6Address]:
        """Return the requested addresses, each once, for ``allocate(addresses=)``.

        They come from ``IP`` in ``CNI_ARGS``, ``args.cni.ips`` and ``runtimeConfig.ips``. Raises
        CniError 4, ConfigError.
        """
        named = environment.address_in(self.args.get("IP", ""))
        return [to_ip(*one) for one in requested(self._folded(), named)]

    def valid_attachments(self) -> set[Owner]:
        """Return the owners that GC has to keep, for ``Network.retain``.

        Raises ConfigError when the list is missing, or when an entry names no container.
        """
        return {Owner(*one) for one in valid_attachments(self._folded())}

    @property
    def pod(self) -> Pod | None:
        """The pod that ``args`` name (``K8S_POD_NAMESPACE``, ``…_NAME``, ``…_UID``), or None."""
        namespace, name = (self.args.get(f"K8S_POD_{key}", "") for key in ("NAMESPACE", "NAME"))
        return (
            Pod(namespace, name, self.args.get("K8S_POD_UID", "")) if namespace and name else None
        )

    def routes(self) -> list[dict[str, str | int]]:
        """Return the routes of the ``ipam`` section as the IPAM plugin reads them.

        They are for :func:`fastipam.cni.result` and for the container. Raises ConfigError.
        """
        listed = reader.listed(reader.mapping(self._folded(), "ipam", ""), "routes", "ipam")
        read = [route(one, f"ipam.routes[{at}]", []) for at, one in enumerate(listed)]
        return [results.route_object(one) for one in read]

    def dns(self) -> dict[str, Any]:
        """Return the ``dns`` object for the result, perhaps {}.

        It comes from the file that ``ipam.resolvConf`` names, or else from the configuration's
        ``dns``. Raises ConfigError.
        """
        path = reader.text(reader.mapping(self._folded(), "ipam", ""), "resolvConf", "ipam")
        if path:
            from fastipam.cni import resolvconf

            return resolvconf.read(path)
        return self._object("dns")

    def allocate(self, existing: Literal["error", "return"] | None = None) -> Lease:
        """Do what the IPAM plugin does for an ADD, and return the lease with its ``siblings``.

        All keys of the ``ipam`` section apply, including changes that the plugin has made to
        ``ipam``. ``existing`` replaces the key ``repeatAdd``: with "return" a second ADD gets the
        leases of the first one, with ``created`` False, so the call is idempotent. A plugin whose
        ADD fails later releases the leases with ``delegate("DEL")``, but only if this very call has
        created them. Raises the errors of :meth:`Network.allocate <fastipam.Network.allocate>`,
        CniError 8 when the container's namespace is the plugin's own, and TryLater. Returns after
        the commit is on disk (durable mode).
        """
        config = self.config
        if existing is not None:
            _require_one_of("existing", existing, ("error", "return"))
            section = {key: one for key, one in self.ipam.items() if key.casefold() != "repeatadd"}
            config = {key: one for key, one in config.items() if key.casefold() != "ipam"}
            config["ipam"] = {**section, "repeatAdd": existing}
        return handler.assign(self._environ, json.dumps(config).encode(), self._log)

    def delegate(self, command: Command | Literal[""] = "") -> dict[str, Any]:
        """Serve the IPAM part of the request in this process, and return its result, perhaps {}.

        This does the same as a delegated call of the IPAM plugin, with every key of the ``ipam``
        section, but starts no process. ``command`` replaces the request's own command. Changes that
        the plugin has made to ``config`` apply. Raises the FastipamError that the IPAM plugin would
        have answered with. A change is durable as :func:`fastipam.cni.handle` says.
        """
        _require_one_of("command", command, ("", *environment.NEEDED, environment.VERSION))
        environ = {**self._environ, "CNI_COMMAND": command or self.command}
        stdin = json.dumps(self.config).encode()
        answer = handler.answer(environ, stdin, [], log=self._log, began_ns=self._began_ns)
        return json.loads(answer) if answer else {}


def _require_one_of(field: str, given: object, texts: tuple[str, ...]) -> None:
    if not isinstance(given, str) or given not in texts:
        wanted = " or ".join(map(repr, texts))
        raise ConfigError(f"{field} {given!r} is not {wanted}", field=field, value=given)


def _check_commands(commands: object) -> None:
    """Raise ConfigError unless ``commands`` maps valid commands to functions."""
    if not isinstance(commands, Mapping):
        raise reader.refused("commands", commands, "an object")
    for command, function in commands.items():
        if command not in (*environment.NEEDED, environment.VERSION):
            raise ConfigError(
                f"{command!r} is not a valid command", field="commands", value=command
            )
        if not callable(function):
            raise reader.refused(f"commands.{command}", function, "a function")


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=4).encode() + b"\n"


def _version_in(stdin: object) -> str:
    """Return the version for the error object of a request that cannot be read."""
    if not isinstance(stdin, bytes):
        return ""
    try:
        return versions.name(reader.decode(stdin))
    except DecodingError:
        return ""
