"""The access that a kubeconfig describes, for the command line.

A kubeconfig is YAML, and fastipam does not depend on a YAML parser. A file in JSON, which is also
YAML, is read as it is. Any other file is read with PyYAML if that is installed; if it is not, the
error says how kubectl writes the same file as JSON.

A field that fastipam does not support, and that would change the server or the user (a proxy,
impersonation, a password), is refused, never ignored.
"""

from __future__ import annotations

import json
import os
import time
from binascii import a2b_base64
from importlib import import_module

from fastipam.cluster.registries.kubernetes.access import Access, Memory, check_token, parse_server
from fastipam.cluster.registries.kubernetes.calls import PLAIN
from fastipam.cluster.registries.kubernetes.plugin import LONGEST_S, Plugin, PluginAccess
from fastipam.configuration import reader
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from fastipam.cluster.engines.http import Server

_LARGEST = 4 << 20
_AS_JSON = "kubectl config view --raw --flatten -o json > FILE, and name that file"
# Fields that fastipam does not support, and that must not be ignored, each with a hint.
_REFUSED_OF_A_CLUSTER = {
    "insecure-skip-tls-verify": "name the authority under certificate-authority",
    "proxy-url": "name a server that can be reached without a proxy",
}
_REFUSED_OF_A_USER = {
    "username": "use a token, a certificate or exec: API servers take no passwords from 1.19 on",
    "auth-provider": "use exec: kubectl has no auth-provider from 1.26 on",
    "as": "use a context whose user needs no impersonation",
    "as-groups": "use a context whose user needs no impersonation",
    "as-uid": "use a context whose user needs no impersonation",
}


def load(path: str = "", context: str = "", *, environ: Mapping[str, str] | None = None) -> Access:
    """Return the access of a context, or of the current context when none is named.

    If ``path`` is empty, the files in KUBECONFIG are read, of which the first that has a name wins,
    or ``~/.kube/config``. Raises ConfigError with the file, the field and the value. Runs the
    plugin of the user (``exec``), and raises what :meth:`Plugin.run` raises.
    """
    environ = os.environ if environ is None else environ
    documents = [_read(one) for one in _paths(path, environ)]
    first = documents[0]
    if not context:
        for each in documents:
            if context := reader.text(each.content, "current-context", each.path):
                break
        else:
            raise ConfigError(
                f"the kubeconfig {first.path.removesuffix(': ')} has no current-context",
                field=first.field("current-context"),
                value="",
                hint=f"name one with --context: {_names(documents, 'contexts')}",
            )
    chosen = _entry(documents, "contexts", context, "context", first.field("current-context"))
    cluster = _entry(
        documents,
        "clusters",
        reader.text(chosen.content, "cluster", chosen.path),
        "cluster",
        f"{chosen.path}.cluster",
    )
    user_name = reader.text(chosen.content, "user", chosen.path)
    user = (
        _entry(documents, "users", user_name, "user", f"{chosen.path}.user")
        if user_name
        else _Part({}, f"{chosen.path}.user", "")
    )
    namespace = reader.text(chosen.content, "namespace", chosen.path) or "default"
    return _access(cluster, user, namespace)


class _Part:
    """An object of a kubeconfig, the path of its field, and the folder of its file."""

    def __init__(self, content: dict[str, Any], path: str, folder: str) -> None:
        self.content = content
        self.path = path
        self.folder = folder

    def field(self, name: str) -> str:
        """Return the path of one of its fields."""
        return f"{self.path}.{name}"

    def text(self, name: str) -> str:
        """Return the text of a field."""
        return reader.text(self.content, name, self.path)

    def secret(self, name: str) -> str:
        """Return the text of a field that no message may show."""
        value = self.content.get(name.casefold(), "")
        if not isinstance(value, str):
            raise ConfigError("this is not a string", field=f"{self.path}.{name}", value=None)
        return value

    def path_in(self, name: str) -> str:
        """Return the file that a field names, relative to the folder of the kubeconfig."""
        value = self.text(name)
        if not value:
            return ""
        if not reader.is_path(value):
            raise reader.refused(f"{self.path}.{name}", value, "a path")
        return os.path.join(self.folder, value)

    def data(self, name: str) -> bytes:
        """Return the bytes that a field holds in base64."""
        value = "".join(self.secret(name).split())
        try:
            return a2b_base64(value, strict_mode=True) if value else b""
        except ValueError:
            raise ConfigError(
                "this is not base64", field=f"{self.path}.{name}", value=None
            ) from None

    def refuse(self, names: dict[str, str]) -> None:
        """Raise ConfigError for fields that are not supported."""
        for name, hint in names.items():
            value = self.content.get(name.casefold())
            if value:
                raise ConfigError(
                    f"{name} is not supported", field=f"{self.path}.{name}", value=None, hint=hint
                )


def _paths(path: str, environ: Mapping[str, str]) -> list[str]:
    """Return the files to read, without the files in KUBECONFIG that do not exist."""
    if path:
        return [os.path.abspath(path)]
    if listed := [one for one in environ.get("KUBECONFIG", "").split(":") if one]:
        there = [os.path.abspath(one) for one in listed if os.path.exists(one)]
        if not there:
            raise ConfigError(
                f"KUBECONFIG names only files that do not exist: {':'.join(listed)}",
                field="KUBECONFIG",
                value=":".join(listed),
            )
        return there
    return [os.path.join(environ.get("HOME") or "/root", ".kube", "config")]


def _read(path: str) -> _Part:
    try:
        with open(path, "rb") as file:
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(
            f"the kubeconfig {path} cannot be read: {error.strerror}",
            field="kubeconfig",
            value=path,
            hint="name another one with --kubeconfig or in KUBECONFIG",
        ) from None
    if len(raw) > _LARGEST:
        raise ConfigError(
            f"the kubeconfig {path} is larger than {_LARGEST >> 20} MiB",
            field="kubeconfig",
            value=path,
        )
    content = _folded(_decoded(raw, path))
    if not isinstance(content, dict) or not {"clusters", "contexts"} & content.keys():
        raise ConfigError(f"{path} is not a kubeconfig", field="kubeconfig", value=path)
    return _Part(content, f"{path}: ", os.path.dirname(path))


def _decoded(raw: bytes, path: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        pass
    try:
        yaml: Any = import_module("yaml")
    except ImportError:
        raise ConfigError(
            f"the kubeconfig {path} is YAML, and PyYAML, which reads it, is not installed",
            field="kubeconfig",
            value=path,
            hint=f"type `pip install pyyaml`, or {_AS_JSON}",
        ) from None
    try:
        return yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        raise ConfigError(
            f"the kubeconfig {path} is neither JSON nor YAML{line}", field="kubeconfig", value=path
        ) from None


def _folded(value: Any) -> Any:
    """Return a value as ``reader`` takes it: keys in lower case, and no nulls."""
    if isinstance(value, dict):
        return reader.fold([(str(key), _folded(one)) for key, one in value.items()])
    return [_folded(one) for one in value] if isinstance(value, list) else value


def _entries(document: _Part, kind: str) -> list[tuple[str, Any, str]]:
    """Return the name, the value and the field of each entry of a list."""
    found = []
    field = document.field(kind)
    for at, each in enumerate(reader.listed(document.content, kind, document.path)):
        if not isinstance(each, dict):
            raise reader.wrong(f"{field}[{at}]", each, "an object")
        found.append((reader.text(each, "name", f"{field}[{at}]"), each, f"{field}[{at}]"))
    return found


def _names(documents: list[_Part], kind: str) -> str:
    names = [name for each in documents for name, _, _ in _entries(each, kind)]
    return ", ".join(names) or "none"


def _entry(documents: list[_Part], kind: str, name: str, inner: str, field: str) -> _Part:
    """Return the entry that has this name; ``field`` is the field that names it."""
    for document in documents:
        for found, entry, path in _entries(document, kind):
            if found == name:
                content = reader.mapping(entry, inner, path)
                return _Part(content, f"{path}.{inner}", document.folder)
    raise ConfigError(
        f"the kubeconfig has no {inner} {name!r}",
        field=field,
        value=name,
        hint=f"the kubeconfig has these: {_names(documents, kind)}",
    )


def _access(cluster: _Part, user: _Part, namespace: str) -> Access:
    cluster.refuse(_REFUSED_OF_A_CLUSTER)
    user.refuse(_REFUSED_OF_A_USER)
    server, base = _server(cluster)
    memory = Memory()
    ca, cert, key = (
        memory.hold(data) if (data := part.data(f"{name}-data")) else part.path_in(name)
        for part, name in (
            (cluster, "certificate-authority"),
            (user, "client-certificate"),
            (user, "client-key"),
        )
    )
    if bool(cert) != bool(key):
        missing = "client-key" if cert else "client-certificate"
        raise ConfigError(
            f"{missing} is missing: a certificate needs its key",
            field=f"{user.path}.{missing}",
            value="",
        )
    token = user.secret("token")
    if token:
        token = check_token(token.encode(), "token of", user.path)
    options: dict[str, Any] = {
        "ca": ca, "cert": cert, "key": key, "token": token,
        "token_file": user.path_in("tokenFile"), "base": base, "namespace": namespace,
        "memory": memory,
    }  # fmt: skip
    plugin = reader.mapping(user.content, "exec", user.path)
    try:
        if plugin:
            path = f"{user.path}.exec"
            access: Access = PluginAccess(
                [server], Plugin(plugin, path, user.folder, _info(cluster, server)), **options
            )
        else:
            access = Access([server], **options)
        access.tls()
    except ConfigError as error:
        raise _named(error, cluster, user) from None
    access.authorization(time.monotonic() + LONGEST_S)
    return access


def _named(error: ConfigError, cluster: _Part, user: _Part) -> ConfigError:
    """Return an error about a TLS file with the kubeconfig's field that names the file."""
    fields = {
        "ca": (cluster, "certificate-authority"),
        "cert": (user, "client-certificate"),
        "key": (user, "client-key"),
    }
    if error.field not in fields:
        return error
    part, name = fields[error.field]
    field = f"{part.path}.{name}"
    if part.content.get(f"{name}-data"):
        reason = error.message.rpartition(": ")[2]
        return ConfigError(
            f"the value of {name}-data cannot be used: {reason}", field=f"{field}-data", value=None
        )
    return ConfigError(error.message, field=field, value=error.value)


def _server(cluster: _Part) -> tuple[Server, str]:
    """Return the server, and the path that precedes all others."""
    text = cluster.text("server")
    field = f"{cluster.path}.server"
    if not text:
        raise ConfigError("the server is missing", field=field, value="")
    scheme, mark, rest = text.partition("://")
    host, slash, base = rest.partition("/")
    if not PLAIN.issuperset(base.replace("/", "")):
        raise reader.refused(field, text, "the URL of a Kubernetes API server")
    server = parse_server(f"{scheme}{mark}{host}", field, name=cluster.text("tls-server-name"))
    return server, f"{slash}{base}".rstrip("/")


def _info(cluster: _Part, server: Server) -> dict[str, Any]:
    """Return the description of the cluster that a plugin may ask for."""
    info: dict[str, Any] = {"server": server.text}
    if name := cluster.text("tls-server-name"):
        info["tls-server-name"] = name
    if data := cluster.secret("certificate-authority-data"):
        info["certificate-authority-data"] = data
    elif path := cluster.path_in("certificate-authority"):
        info["certificate-authority"] = path
    return info
