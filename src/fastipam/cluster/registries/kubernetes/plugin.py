"""A credential plugin of a kubeconfig: a program that prints a token or a certificate.

The protocol is client.authentication.k8s.io/v1 and v1beta1 (Kubernetes, "client-go credential
plugins"): the program reads its input from KUBERNETES_EXEC_INFO, and prints an ExecCredential.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from _thread import allocate_lock
from datetime import datetime

from fastipam.cluster.engine import EngineDenied, EngineUnavailable
from fastipam.cluster.registries.kubernetes.access import Access, check_token
from fastipam.configuration import reader
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastipam.cluster.engines.http import Server

LONGEST_S = 60.0  # a plugin that waits for somebody to log in needs a while
_GROUP = "client.authentication.k8s.io"
_VERSIONS = (f"{_GROUP}/v1", f"{_GROUP}/v1beta1")
_MODES = ("IfAvailable", "Never", "Always")
_LARGEST = 1 << 20
_EARLY_S = 10.0  # so long before a token expires, the plugin runs again


class Credential:
    """The output of a plugin; ``expires_at`` is a time of the wall clock, or infinity."""

    __slots__ = ("cert", "expires_at", "key", "token")

    def __init__(self, token: str, cert: str, key: str, expires_at: float) -> None:
        self.token = token
        self.cert = cert
        self.key = key
        self.expires_at = expires_at


class Plugin:
    """The program that the field ``exec`` of a kubeconfig's user names."""

    def __init__(
        self, holder: dict[str, Any], path: str, folder: str, cluster: dict[str, Any]
    ) -> None:
        """``holder``: the ``exec`` object, keys in lower case; ``folder``: the kubeconfig's.

        ``cluster`` describes the cluster for a program that asks for that. Raises ConfigError with
        the field.
        """
        self.path = path
        self._version = reader.text(holder, "apiVersion", path)
        if self._version not in _VERSIONS:
            raise reader.refused(f"{path}.apiVersion", self._version, " or ".join(_VERSIONS))
        command = reader.text(holder, "command", path)
        if not reader.is_path(command):
            raise reader.refused(f"{path}.command", command, "a program")
        self.command = os.path.join(folder, command) if "/" in command else command
        self._words = []
        for at, one in enumerate(reader.listed(holder, "args", path)):
            if not isinstance(one, str):
                raise reader.wrong(f"{path}.args[{at}]", one, "a string")
            self._words.append(one)
        self._environment = {}
        for at, one in enumerate(reader.listed(holder, "env", path)):
            field = f"{path}.env[{at}]"
            if not isinstance(one, dict):
                raise reader.wrong(field, one, "an object")
            self._environment[reader.text(one, "name", field)] = reader.text(one, "value", field)
        self._hint = reader.text(holder, "installHint", path)
        mode = reader.text(holder, "interactiveMode", path) or "IfAvailable"
        if mode not in _MODES:
            raise reader.refused(f"{path}.interactiveMode", mode, f"one of {', '.join(_MODES)}")
        has_terminal = sys.stdin is not None and sys.stdin.isatty()
        if mode == "Always" and not has_terminal:
            raise ConfigError(
                f"{self.command} asks for input, but there is no terminal",
                field=f"{path}.interactiveMode",
                value=mode,
            )
        self._is_interactive = has_terminal and mode != "Never"
        self._cluster = cluster if reader.flag(holder, "provideClusterInfo", path) else None

    def run(self, until: float) -> Credential:
        """Run the program; return its output. It uses this process's standard error.

        At ``until`` (``time.monotonic()``), and after a minute at the latest, it is killed with its
        child processes; the children of an interactive program stay, because it shares the process
        group of this process. Raises ConfigError when it cannot be started, EngineUnavailable when
        it takes too long, and EngineDenied when it fails or prints no credential.
        """
        until = min(until, time.monotonic() + LONGEST_S)
        spec: dict[str, Any] = {"interactive": self._is_interactive}
        if self._cluster is not None:
            spec["cluster"] = self._cluster
        told = {"apiVersion": self._version, "kind": "ExecCredential", "spec": spec}
        try:
            process = subprocess.Popen(
                [self.command, *self._words],
                env={
                    **os.environ,
                    **self._environment,
                    "KUBERNETES_EXEC_INFO": json.dumps(told),
                },
                stdin=None if self._is_interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                start_new_session=not self._is_interactive,
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the kubeconfig's credential plugin {self.command} cannot be started: "
                f"{getattr(error, 'strerror', None) or error}",
                field=f"{self.path}.command",
                value=self.command,
                hint=self._hint or None,
            ) from None
        with process:
            try:
                raw = self._output(process, until)
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise self._too_slow() from None
            finally:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        if self._is_interactive:
                            process.kill()
                        else:
                            os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise EngineDenied(
                f"the kubeconfig's credential plugin {self.command} failed with status "
                f"{process.returncode}",
                hint=self._hint or "run it in a terminal to see why",
            )
        return self._read(raw)

    def _output(self, process: subprocess.Popen[bytes], until: float) -> bytes:
        assert process.stdout is not None
        raw = b""
        while len(raw) <= _LARGEST:
            left = until - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise self._too_slow()
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                return raw
            raw += data
        raise self._no_credential(f"more than {_LARGEST >> 20} MiB")

    def _too_slow(self) -> EngineUnavailable:
        return EngineUnavailable(
            f"the kubeconfig's credential plugin {self.command} did not end in time",
            hint="run it in a terminal: it may wait for a login",
        )

    def _no_credential(self, what: str) -> EngineDenied:
        return EngineDenied(
            f"the kubeconfig's credential plugin {self.command} prints {what}",
            hint=f"it must print an ExecCredential of {self._version}",
        )

    def _read(self, raw: bytes) -> Credential:
        """Return the credential in the output; no message shows the output."""
        try:
            printed = json.loads(raw)
            version, status = printed["apiVersion"], printed["status"]
            kind = printed["kind"]
            token, cert, key, expires = (
                status.get(name) or ""
                for name in (
                    "token",
                    "clientCertificateData",
                    "clientKeyData",
                    "expirationTimestamp",
                )
            )
            is_empty = not "".join((token, cert, key))  # raises TypeError unless all are texts
            until = datetime.fromisoformat(expires).timestamp() if expires else float("inf")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise self._no_credential("no credential") from None
        if kind != "ExecCredential" or version != self._version:
            raise self._no_credential(f"a {kind!r:.40} of {version!r:.80}")
        if is_empty or bool(cert) != bool(key):
            raise self._no_credential("neither a token nor a certificate with its key")
        if token:
            token = check_token(token.encode(), "token of the plugin", self.command)
        return Credential(token, cert, key, until)


class PluginAccess(Access):
    """An access whose token or certificate a plugin prints.

    The plugin runs again when its credential expires or is refused.
    """

    def __init__(self, servers: Sequence[Server], plugin: Plugin, **options: Any) -> None:
        super().__init__(servers, **options)
        if not all(one.tls for one in servers):
            raise ConfigError(
                f"{servers[0].text} uses http, which would send the token unencrypted",
                field="server",
                value=servers[0].text,
                hint="write https://",
            )
        self._plugin = plugin
        self._credential: Credential | None = None
        self._run_lock = allocate_lock()

    def authorization(self, until: float) -> str:
        """Return the header's value; run the plugin when there is no valid credential."""
        with self._run_lock:
            found = self._credential
            if found is None or found.expires_at - _EARLY_S <= time.time():
                found = self._plugin.run(until)
                if found.cert:
                    self.cert = self.memory.hold(found.cert.encode())
                    self.key = self.memory.hold(found.key.encode())
                self._credential = found
            return f"Bearer {found.token}" if found.token else ""

    def renew(self) -> None:
        """Have the plugin run again, because the server has refused its credential."""
        with self._run_lock:
            self._credential = None
