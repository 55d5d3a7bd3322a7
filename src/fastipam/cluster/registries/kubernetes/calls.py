"""Requests to the Kubernetes API: the kinds of objects, and a request about one of them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_LARGEST_OBJECT = 4 << 20  # an API server takes bodies of 3 MiB


class Kind:
    """A kind of objects: the path of its group and version, its plural, and any namespace."""

    __slots__ = ("namespace", "plural", "prefix")

    def __init__(self, prefix: str, plural: str, namespace: str = "") -> None:
        """``prefix``: ``/apis/GROUP/VERSION`` or ``/api/v1``. No namespace: cluster-scoped."""
        self.prefix = prefix
        self.plural = plural
        self.namespace = namespace

    def path(self, name: str = "", subresource: str = "") -> str:
        """Return the path of the collection, of an object, or of a part of an object."""
        between = f"/namespaces/{_quoted(self.namespace)}" if self.namespace else ""
        parts = [self.prefix + between, self.plural, _quoted(name), subresource]
        return "/".join(part for part in parts if part)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kind) and self.path() == other.path()

    def __hash__(self) -> int:
        return hash(self.path())

    def __repr__(self) -> str:
        return f"Kind({self.path()})"


class Call:
    """A request to send to any server.

    ``count`` is the key in the counter of requests. ``name`` is the object that a 404 is about; a
    404 about anything else means that the kind itself is missing.
    """

    __slots__ = ("body", "count", "is_change", "kind", "method", "most", "name", "path", "type")

    def __init__(
        self,
        method: str,
        kind: Kind,
        path: str,
        *,
        name: str = "",
        body: str = "",
        type: str = "application/json",  # noqa: A002
        verb: str = "",
        most: int = _LARGEST_OBJECT,
    ) -> None:
        self.method = method
        self.kind = kind
        self.path = path
        self.name = name
        self.body = body
        self.type = type
        self.count = (verb or method, kind.plural)
        self.most = most
        self.is_change = method != "GET"


def name_of(body: dict[str, Any]) -> str:
    """Return the name of an object."""
    name = body["metadata"]["name"]
    assert isinstance(name, str)
    return name


def query_of(parameters: dict[str, str]) -> str:
    """Return the query of a URL; a parameter without a value is left out."""
    pairs = (f"{key}={_quoted(value)}" for key, value in parameters.items() if value)
    return "?" + "&".join(pairs)


def _quoted(text: str) -> str:
    """Return a text as a part of a URL (RFC 3986, section 2.1)."""
    if PLAIN.issuperset(text):
        return text
    return "".join(chr(byte) if chr(byte) in PLAIN else f"%{byte:02X}" for byte in text.encode())
