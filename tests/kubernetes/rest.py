"""The Kubernetes API as the tests see it: the standard library, nothing of fastipam's client."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GROUP = "/apis/fastipam.io/v1alpha1"
POOLS, BLOCKS = f"{GROUP}/addresspools", f"{GROUP}/addressblocks"
NODES, REQUESTS = f"{GROUP}/addressnodes", f"{GROUP}/addressrequests"
SYSTEM = "fastipam-system"  # deploy/chart/values.yaml
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"  # JSON is YAML
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
_PATIENCE_S = 60.0  # for an answer, on a machine that may be busy


@dataclass(frozen=True)
class Answer:
    """What the server answers."""

    status: int
    text: str
    warnings: tuple[str, ...] = ()

    @property
    def body(self) -> Any:
        """The JSON document."""
        return json.loads(self.text)

    @property
    def message(self) -> str:
        """Why it was refused, or the text if it is no Status."""
        try:
            return str(self.body["message"])
        except (ValueError, KeyError, TypeError):
            return self.text

    def done(self) -> Any:
        """The document; fails unless the server has done what was asked."""
        assert 200 <= self.status < 300, (self.status, self.message)
        return self.body

    def refused(self, status: int, *words: str) -> None:
        """Fail unless it is this refusal, and its message has these words."""
        assert self.status == status, (self.status, self.text)
        for each in words:
            assert each in self.message, self.message


class Rest:
    """The API for one token. Each request has a connection of its own, so threads may share it."""

    def __init__(self, port: int, ca: Path, token: str) -> None:
        self.port = port
        self.token = token
        self.context = ssl.create_default_context(cafile=str(ca))

    def connection(self) -> http.client.HTTPSConnection:
        """Return a new connection to the server."""
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=_PATIENCE_S, context=self.context
        )

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        accept: str = "application/json",
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask, and return whatever is answered. Raises OSError when there is no answer."""
        headers = {"Authorization": f"Bearer {self.token}", "Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        connection = self.connection()
        try:
            connection.request(
                method,
                f"{quote(path)}?{urlencode(query)}" if query else quote(path),
                None if body is None else json.dumps(body),
                headers,
            )
            answer = connection.getresponse()
            text = answer.read().decode()
            return Answer(answer.status, text, tuple(answer.headers.get_all("Warning") or ()))
        finally:
            connection.close()

    def get(self, path: str, **query: str) -> Answer:
        """Read an object or a list."""
        return self.request("GET", path, query=query)

    def table(self, path: str) -> Any:
        """What `kubectl get` prints: a list as a Table."""
        return self.request("GET", path, accept=_TABLE).done()

    def create(self, path: str, body: object, **query: str) -> Answer:
        """Create an object; the path is that of its kind."""
        return self.request("POST", path, body, query=query)

    def replace(self, path: str, body: object, **query: str) -> Answer:
        """Replace an object, or its status; the path is that of the object."""
        return self.request("PUT", path, body, query=query)

    def merge(self, path: str, body: object) -> Answer:
        """Change fields of an object."""
        return self.request("PATCH", path, body, content_type=MERGE_PATCH)

    def apply(self, path: str, body: object) -> Answer:
        """Apply an object as `kubectl apply --server-side` does."""
        query = {"fieldManager": "tests", "force": "true"}
        return self.request("PATCH", path, body, content_type=APPLY_PATCH, query=query)

    def delete(self, path: str, *, uid: str = "", version: str = "") -> Answer:
        """Delete an object, if it is still the one and in the version that the caller has seen."""
        told = {"uid": uid, "resourceVersion": version}
        conditions = {key: value for key, value in told.items() if value}
        return self.request("DELETE", path, {"preconditions": conditions} if conditions else None)
