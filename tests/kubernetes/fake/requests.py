"""A request: its parts, the kind and object that it is about, and how it is counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .access import User
    from .manifests import Kind

VERBS = {
    "GET": "get",
    "LIST": "list",
    "WATCH": "watch",
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
    "DELETECOLLECTION": "deletecollection",
}


class Counted(NamedTuple):
    """What requests are counted by.

    ``method`` is HTTP's, but GET is told apart as GET, LIST and WATCH. ``resource`` is the plural,
    with ``/status``, or the path. ``flag`` says where a read came from:

    ==========  ==============================================================================
    GET, LIST   ``""`` no version asked: linearizable, "uncached"; ``cache`` at least a version;
                ``0`` whatever the cache has; ``exact`` one version; ``continue`` a next page
    WATCH       ``""`` or ``0`` from what is there; ``resume`` from a version; ``initial`` with
                sendInitialEvents
    ==========  ==============================================================================

    ``node`` is what the token names, or "".
    """

    method: str
    resource: str
    flag: str = ""
    node: str = ""


@dataclass
class Request:
    """One request as it came."""

    method: str  # HTTP's
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    kind: Kind | None = None
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    certificate: User | None = None
    user: User | None = None
    warnings: list[str] = field(default_factory=list)  # what policies say with the answer
    waited: bool = False  # for the cache, as long as the server does

    @property
    def verb(self) -> str:
        """``method`` with LIST, WATCH and DELETECOLLECTION told apart."""
        if self.method == "GET" and self.kind is not None:
            if self.query.get("watch") in ("1", "true"):
                return "WATCH"
            return "GET" if self.name else "LIST"
        if self.method == "DELETE" and not self.name:
            return "DELETECOLLECTION"
        return self.method

    @property
    def resource(self) -> str:
        """The plural, with the subresource, or the path of what is no kind."""
        if self.kind is None:
            return self.path
        return f"{self.kind.plural}/{self.subresource}" if self.subresource else self.kind.plural

    @property
    def flag(self) -> str:
        """Where a read comes from (see Counted)."""
        verb, version = self.verb, self.query.get("resourceVersion", "")
        if verb == "WATCH":
            if self.query.get("sendInitialEvents") in ("1", "true"):
                return "initial"
            return "resume" if version not in ("", "0") else version
        if verb not in ("GET", "LIST"):
            return ""
        if self.query.get("continue"):
            return "continue"
        if version in ("", "0"):
            return version
        match = self.query.get("resourceVersionMatch", "")
        exact = match == "Exact" or (not match and self.limit and verb == "LIST")
        return "exact" if exact else "cache"

    @property
    def limit(self) -> int:
        """How many objects a page may have; 0: all."""
        text = self.query.get("limit", "")
        return int(text) if text.isdecimal() else 0


def parse(
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    kinds: Mapping[tuple[str, str], Kind],
) -> Request:
    """Read the target; ``kinds`` are known by (prefix, plural)."""
    parts = urlsplit(target)
    request = Request(
        method, parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), headers, body
    )
    segments = [unquote(one) for one in parts.path.strip("/").split("/")]
    length = 2 if segments[0] == "api" else 3
    prefix, rest = "/" + "/".join(segments[:length]), segments[length:]
    if len(rest) > 2 and rest[0] == "namespaces" and (prefix, rest[2]) in kinds:
        request.namespace, rest = rest[1], rest[2:]
    kind = kinds.get((prefix, rest[0])) if rest else None
    if kind is None or len(rest) > 3 or (request.namespace and not kind.namespaced):
        return request
    request.kind = kind
    request.name = rest[1] if len(rest) > 1 else ""
    request.subresource = rest[2] if len(rest) > 2 else ""
    return request
