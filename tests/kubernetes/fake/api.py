"""What the API server answers: one request in, one answer out, no input or output here."""

from __future__ import annotations

import base64
import json
import random
import re
import string
import time
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from . import builtin, schema, statuses
from .access import Access
from .front import Front, selector
from .manifests import Kind
from .requests import VERBS
from .store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from .front import Selector
    from .manifests import Manifests
    from .requests import Request
    from .store import Key, Stored

Json = dict[str, Any]

VERSION = {"major": "1", "minor": "36", "gitVersion": "v1.36.3", "platform": "linux/amd64"}
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_KEPT = ("labels", "annotations", "finalizers", "ownerReferences", "generateName")
_MEDIA = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"


@dataclass
class Answer:
    """What is sent back."""

    code: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class WatchStart:
    """A watch is to begin: the caller makes it and gives it to ``Front.start``."""

    kind: Kind
    chosen: Selector
    version: str
    initial: bool | None
    bookmarks: bool
    timeout_s: float


class NotYet(Exception):
    """The front's cache has not seen this version yet; ask again when it has, or after 3 s."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version


def dump(value: Json) -> bytes:
    """Return JSON as it is sent."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def merge(target: Any, patch: Any) -> Any:
    """Return a JSON merge patch's result (RFC 7386); the target is not changed."""
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merge(found.get(key), value)
    return found


def _token(version: int, start: str) -> str:
    value = {"v": "meta.k8s.io/v1", "rv": version, "start": start}
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def expired_page(start: str) -> statuses.ApiError:
    """410 for a next page, with a token to go on from there with what is there now."""
    error = statuses.expired(statuses.TOO_OLD_CONTINUE)
    error.status["metadata"] = {"continue": _token(-1, start)}
    return error


def read_token(text: str) -> tuple[int, str]:
    """Return a continue token's version and where it goes on. Raises ApiError 400."""
    try:
        value = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return int(value["rv"]), str(value["start"])
    except (ValueError, KeyError, TypeError):
        raise statuses.bad_request("invalid continue token: continue key is not valid") from None


def _version(text: str, *, listing: bool = False) -> int:
    if text and not text.isdecimal():
        said = statuses.not_a_version(text)
        if listing:
            raise statuses.bad_request(f"invalid resource version: {said}")
        raise statuses.failure(500, "", said)
    return int(text or 0)


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Api:
    """All of it over one store. ``wrote`` is called after each change."""

    def __init__(self, manifests: Manifests) -> None:
        self.store = Store()
        self.access = Access(manifests.grants, manifests.policies)
        self.kinds = {(kind.prefix, kind.plural): kind for kind in manifests.kinds}
        self.by_plural = {kind.plural: kind for kind in manifests.kinds}
        self.wrote: Callable[[], None] = lambda: None
        self.watch_list = True  # False: as with etcd 3.4, which lacks RequestWatchProgress
        self.watch_minutes = (30.0, 60.0)  # how long a watch lasts that names no timeoutSeconds
        for name in ("default", "kube-system"):
            self.seed({"kind": "Namespace", "metadata": {"name": name}})
        for document in manifests.objects:
            self.seed(document)

    def seed(self, document: Json) -> None:
        """Put an object that nobody checks, unless it is there."""
        plural = document["kind"].lower() + "s"
        kind = self.by_plural[plural]
        metadata = dict(document["metadata"])
        key = (metadata.get("namespace", ""), metadata["name"])
        if self.store.get(kind, key) is None:
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": _stamp()}
            self.store.put(
                kind, key, {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
            )

    # -- the way of a request -------------------------------------------------------------------

    def authenticate(self, request: Request) -> None:
        """Set ``request.user``. Raises ApiError 401."""
        authorization = request.headers.get("authorization", "").strip()
        anonymous = authorization in ("", "Bearer") and request.certificate is None
        if anonymous and request.path in ("/readyz", "/livez", "/healthz", "/version"):
            return
        request.user = self.access.user(authorization, request.certificate)

    def handle(self, request: Request, front: Front) -> Answer | WatchStart:
        """Do it, O(objects) for a list, else O(1). Raises ApiError, NotYet."""
        if request.path in ("/readyz", "/livez", "/healthz"):
            return Answer(200, b"ok", {"Content-Type": "text/plain; charset=utf-8"})
        if request.path == "/version":
            return Answer(200, dump(VERSION))
        kind = request.kind
        if kind is None:
            return self._without_kind(request)
        verb = request.verb
        special = kind.plural == "serviceaccounts" and request.subresource == "token"
        if (
            request.subresource
            and not special
            and not (request.subresource == "status" and kind.has_status)
        ):
            return self._unserved(request)
        self._authorize(request, verb)
        match verb:
            case "GET":
                return self._get(request, front)
            case "LIST":
                return self._list(request, front)
            case "WATCH":
                return self._watch(request, front)
            case "POST" if special:
                return self._make_token(request)
            case "POST" if not request.name:
                return self._create(request, self._body(request))
            case "PUT" if request.name:
                return self._update(request, self._body(request))
            case "PATCH" if request.name:
                return self._patch(request)
            case "DELETE" if not request.subresource:
                return self._delete(request)
        text = "the server does not allow this method on the requested resource"
        raise statuses.failure(405, "MethodNotAllowed", text, {})

    def _authorize(self, request: Request, verb: str) -> None:
        assert request.kind is not None
        name = request.name
        if verb in ("LIST", "WATCH"):  # a selector of one name is that name's right
            text = request.query.get("fieldSelector", "")
            name = selector(request.kind, request.namespace, text).name
        what = VERBS.get(verb, verb.lower())
        if request.subresource:
            what = f"{what}/{request.subresource}"
        self._may(request, what, name)

    def _may(self, request: Request, what: str, name: str) -> None:
        assert request.kind is not None
        assert request.user is not None
        self.access.authorize(request.user, what, request.kind, request.namespace, name)

    def _without_kind(self, request: Request) -> Answer:
        assert request.user is not None
        if request.path == "/apis/authentication.k8s.io/v1/selfsubjectreviews":
            review = {
                "kind": "SelfSubjectReview",
                "apiVersion": "authentication.k8s.io/v1",
                "metadata": {"creationTimestamp": _stamp()},
                "status": {"userInfo": request.user.as_json()},
            }
            return Answer(201, dump(review))
        served = [kind for kind in self.kinds.values() if kind.prefix == request.path]
        if not served or request.method != "GET":
            return self._unserved(request)
        names = [
            (f"{kind.plural}{sub}", kind)
            for kind in served
            for sub in (("", "/status") if kind.has_status else ("",))
        ]
        resources = [
            {"name": name, "singularName": "", "namespaced": kind.namespaced, "kind": kind.kind}
            for name, kind in names
        ]
        found = {"kind": "APIResourceList", "apiVersion": "v1", "resources": resources}
        return Answer(200, dump(found | {"groupVersion": served[0].api_version}))

    @staticmethod
    def _unserved(request: Request) -> Answer:
        """404 for who may do everything; others may not even ask: 403."""
        user = request.user
        assert user is not None
        if "system:masters" in user.groups:
            return Answer(404, b"404 page not found\n", {"Content-Type": "text/plain"})
        first, *rest = request.path.strip("/").split("/")
        group = rest.pop(0) if first == "apis" and rest else ""
        rest = rest[3:] if rest[1:2] == ["namespaces"] and len(rest) > 3 else rest[1:]
        plural = rest[0] if rest else first
        message = f'User "{user.name}" cannot {request.method} resource "{plural}"'
        raise statuses.forbidden(Kind(group, "", plural, ""), "", message)

    # -- reads ----------------------------------------------------------------------------------

    @staticmethod
    def _fresh(front: Front, version: int, request: Request) -> None:
        """Raise NotYet while the cache is before this version; 504 if it was waited for."""
        if version > front.version:
            if request.waited:
                raise statuses.too_large(version, front.version)
            raise NotYet(version)

    def _get(self, request: Request, front: Front) -> Answer:
        assert request.kind is not None
        held = self.store.objects[request.kind]
        if text := request.query.get("resourceVersion", ""):
            self._fresh(front, _version(text), request)
            held = front.objects(request.kind)
        found = held.get((request.namespace, request.name))
        if found is None:
            raise statuses.not_found(request.kind, request.name)
        return Answer(200, found.text)

    def _list(self, request: Request, front: Front) -> Answer:
        kind, query = request.kind, request.query
        assert kind is not None
        chosen = selector(kind, request.namespace, query.get("fieldSelector", ""))
        self._refuse_options(request)
        version, start = _version(query.get("resourceVersion", ""), listing=True), ""
        limit = request.limit
        match request.flag:
            case "continue":
                version, start = read_token(query["continue"])
                if version == -1:
                    version = self.store.version
                elif version < self.store.compacted:
                    raise expired_page(start)
                held = self.store.at(kind, version)
            case "exact":
                if version > self.store.version:
                    raise statuses.too_large(version, self.store.version, waited=False)
                if version < self.store.compacted:
                    raise statuses.expired(statuses.TOO_OLD_LIST)
                held = self.store.at(kind, version)
            case "":
                version, held = self.store.version, self.store.objects[kind]
            case _:
                self._fresh(front, version, request)
                version, held = front.version, front.objects(kind)
                limit = 0 if query["resourceVersion"] == "0" else limit
        return Answer(200, self._page(kind, held, chosen, version, start, limit))

    @staticmethod
    def _page(
        kind: Kind,
        held: dict[Key, Stored],
        chosen: Selector,
        version: int,
        start: str,
        limit: int,
    ) -> bytes:
        texts: list[bytes] = []
        metadata: Json = {"resourceVersion": str(version)}
        keys = sorted(("/".join(filter(None, key)), key) for key in held)
        everything = not chosen.namespace and not chosen.terms
        for index, (text, key) in enumerate(keys):
            if text < start or not (everything or chosen.matches(held[key].value)):
                continue
            texts.append(held[key].text if kind.schema is not None else held[key].bare)
            if limit and len(texts) == limit:
                if index + 1 < len(keys):
                    metadata["continue"] = _token(version, f"{text}\0")
                    if everything:
                        metadata["remainingItemCount"] = len(keys) - index - 1
                break
        head = {"apiVersion": kind.api_version, "kind": f"{kind.kind}List", "metadata": metadata}
        return b'%s,"items":[%s]}' % (dump(head)[:-1], b",".join(texts))

    @staticmethod
    def _refuse_options(request: Request) -> None:
        """Raise what the server says of options that do not go together."""
        kind, query = request.kind, request.query
        assert kind is not None
        version, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
        if query.get("labelSelector"):
            raise statuses.failure(501, "", "the fake knows no label selectors")
        if query.get("continue") and version not in ("", "0"):
            raise statuses.bad_request(
                "specifying resource version is not allowed when using continue"
            )
        why, field = "", "resourceVersionMatch"
        if request.verb == "WATCH":
            initial = "sendInitialEvents" in query
            if initial and match != "NotOlderThan":
                why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            elif match and not initial:
                why = (
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is "
                    "provided"
                )
        elif match and not version:
            why = "resourceVersionMatch is forbidden unless resourceVersion is provided"
        elif match and query.get("continue"):
            why = "resourceVersionMatch is forbidden when continue is provided"
        elif match == "Exact" and version == "0":
            why = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        elif "sendInitialEvents" in query:
            why, field = "sendInitialEvents is forbidden for list", "sendInitialEvents"
        if why:
            raise statuses.bad_options(field, why)

    def _watch(self, request: Request, front: Front) -> WatchStart:
        kind, query = request.kind, request.query
        assert kind is not None
        self._refuse_options(request)
        chosen = selector(kind, request.namespace, query.get("fieldSelector", ""))
        text = query.get("resourceVersion", "")
        version = _version(text)
        bookmarks = query.get("allowWatchBookmarks") in ("1", "true")
        initial = None
        if "sendInitialEvents" in query:
            initial = query["sendInitialEvents"] in ("1", "true")
        if initial and bookmarks and not self.watch_list:
            raise statuses.no_watch_list()
        if initial:
            self._fresh(front, version if text else self.store.version, request)
        seconds = float(query.get("timeoutSeconds") or 0)
        if not seconds:
            seconds = 60 * random.uniform(*self.watch_minutes)
        return WatchStart(kind, chosen, text, initial, bookmarks, seconds)

    # -- changes --------------------------------------------------------------------------------

    @staticmethod
    def _body(request: Request) -> Json:
        kind = request.kind
        assert kind is not None
        try:
            value = json.loads(request.body)
        except ValueError as error:
            raise statuses.bad_request(
                f"couldn't get version/kind; json parse error: {error}"
            ) from None
        if not isinstance(value, dict):
            raise statuses.bad_request("the body is not an object")
        if kind.schema is None:
            value.setdefault("kind", kind.kind)
            value.setdefault("apiVersion", kind.api_version)
        if not value.get("kind"):
            raise statuses.bad_request(
                f"the object provided is unrecognized (must be of type {kind.kind}): "
                "Object 'Kind' is missing"
            )
        if value.get("apiVersion") != kind.api_version:
            raise statuses.bad_request(
                f"the API version in the data ({value.get('apiVersion')}) does not match the "
                f"expected API version ({kind.api_version})"
            )
        if value["kind"] != kind.kind:
            message = f'Invalid value: "{value["kind"]}": must be {kind.kind}'
            wrong = replace(kind, kind=value["kind"])
            name = (value.get("metadata") or {}).get("name", "")
            raise statuses.invalid(wrong, name, [("FieldValueInvalid", message, "kind")])
        if not isinstance(value.setdefault("metadata", {}), dict):
            raise statuses.bad_request("metadata is not an object")
        return value

    @staticmethod
    def _pruned(kind: Kind, value: Json) -> Json:
        """Return the object without fields that nobody knows."""
        if kind.schema is None:
            return dict(value)
        known = schema.prune(
            {**kind.schema, "type": "object"},
            {key: inner for key, inner in value.items() if key not in _HEAD},
        )
        return {**{key: value[key] for key in _HEAD}, **known}

    @staticmethod
    def _check(kind: Kind, value: Json, old: Json | None) -> None:
        """Raise 422 for what the schema, a CEL rule or a built-in kind's validation refuses."""
        name = value["metadata"]["name"]
        if kind.schema is None:
            wrong = builtin.check(kind, value)
        else:
            inner = {key: one for key, one in value.items() if key not in _HEAD}
            root = {**inner, "metadata": {"name": name}}
            before = None if old is None else {**old, "metadata": {"name": name}}
            wrong = schema.check({**kind.schema, "type": "object"}, inner, before, root=root)
        if wrong:
            raise statuses.invalid(kind, name, sorted(wrong, key=lambda cause: cause[2]))

    def _new_name(self, kind: Kind, metadata: Json) -> str:
        name = metadata.get("name") or ""
        if not name and metadata.get("generateName"):
            letters = random.choices(string.ascii_lowercase + string.digits, k=5)
            return f"{metadata['generateName']}{''.join(letters)}"
        cause = None
        if not name:
            message = "Required value: name or generateName is required"
            cause = ("FieldValueRequired", message, "metadata.name")
        elif _NAME.fullmatch(name) is None or len(name) > 253 or ".." in name:
            message = (
                f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower '
                "case alphanumeric characters, '-' or '.', and must start and end with an "
                "alphanumeric character"
            )
            cause = ("FieldValueInvalid", message, "metadata.name")
        if cause:
            raise statuses.invalid(kind, name, [cause])
        return str(name)

    def _namespace(self, request: Request, metadata: Json, *, creating: bool) -> None:
        kind = request.kind
        assert kind is not None
        if kind.namespaced:
            if metadata.setdefault("namespace", request.namespace) != request.namespace:
                raise statuses.bad_request(
                    "the namespace of the provided object does not match the namespace sent on "
                    "the request"
                )
            spaces = self.by_plural["namespaces"]
            if creating and self.store.get(spaces, ("", request.namespace)) is None:
                raise statuses.not_found(spaces, request.namespace)
        else:
            metadata.pop("namespace", "")

    def _create(self, request: Request, value: Json) -> Answer:
        kind, given = request.kind, value["metadata"]
        assert kind is not None
        if given.get("resourceVersion"):
            text = "resourceVersion should not be set on objects to be created"
            raise statuses.failure(500, "", text)
        self._namespace(request, given, creating=True)
        name = self._new_name(kind, given)
        value = self._pruned(kind, value)
        if kind.has_status and kind.schema is not None:
            value.pop("status", None)
        metadata = {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": _stamp()}
        if kind.namespaced:
            metadata["namespace"] = request.namespace
        if kind.counts_generations:
            metadata["generation"] = 1  # type: ignore[assignment]
        value["metadata"] = metadata | {key: given[key] for key in _KEPT if given.get(key)}
        self._check(kind, value, None)
        self._admit(request, "CREATE", name, value, None)
        key = (request.namespace, name)
        if self.store.get(kind, key) is not None:
            going = "deletionTimestamp" in self.store.objects[kind][key].value["metadata"]
            raise statuses.already_exists(kind, name, going=going)
        return self._written(request, 201, key, value)

    def _admit(
        self, request: Request, operation: str, name: str, new: Json | None, old: Json | None
    ) -> None:
        """Ask the policies. Raises ApiError 422; what they only warn of goes with the answer."""
        assert request.kind is not None
        assert request.user is not None
        request.warnings = self.access.admit(
            request.user,
            operation,
            request.kind,
            request.namespace,
            name,
            request.subresource,
            new,
            old,
        )

    def _written(self, request: Request, code: int, key: Key, value: Json | None) -> Answer:
        """Write the object, or delete it (None), unless it is a dry run; return the answer."""
        kind = request.kind
        assert kind is not None
        headers = {"Warning": ", ".join(request.warnings)} if request.warnings else {}
        if value is None:
            before = self.store.objects[kind][key]
            text = dump(statuses.success(kind, key[1], before.value["metadata"]["uid"]))
        else:
            text = dump(value)
        if request.query.get("dryRun") == "All":
            return Answer(code, text, headers)
        if value is None:
            self.store.delete(kind, key)
        else:
            text = self.store.put(kind, key, value).text
        self.wrote()
        return Answer(code, text, headers)

    def _update(self, request: Request, value: Json, *, patching: bool = False) -> Answer:
        kind, given, name = request.kind, value["metadata"], request.name
        assert kind is not None
        if not given.get("name"):
            raise statuses.bad_request(
                f"the name of the object ({name} based on URL) was undeterminable: name must be "
                "provided"
            )
        if given["name"] != name:
            raise statuses.bad_request(
                f"the name of the object ({given['name']}) does not match the name on the URL "
                f"({name})"
            )
        key = (request.namespace, name)
        old = self.store.get(kind, key)
        if old is None and kind.put_creates and not patching and not request.subresource:
            self._may(request, "create", name)
            if given.get("uid"):
                raise _other_uid(request, given["uid"], "")
            given.pop("resourceVersion", None)
            return self._create(request, value)
        if old is None:
            raise statuses.not_found(kind, name)
        metadata = self._next_metadata(request, given, old)
        value = self._next_value(request, value, old.value, metadata)
        if (
            kind.counts_generations
            and not request.subresource
            and not _same_but_head(value, old.value)
        ):
            metadata["generation"] += 1
        self._check(kind, value, old.value)
        self._admit(request, "UPDATE", name, value, old.value)
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            return replace(self._written(request, 200, key, None), body=dump(value))
        if value == old.value:
            return Answer(200, old.text)  # nothing is written, the version stays
        return self._written(request, 200, key, value)

    @staticmethod
    def _next_metadata(request: Request, given: Json, old: Stored) -> Json:
        """Return the metadata after an update. Raises 409, 422 for uid and resourceVersion."""
        kind, name, was = request.kind, request.name, old.value["metadata"]
        assert kind is not None
        if given.get("uid") and given["uid"] != was["uid"] and request.method == "PUT":
            raise _other_uid(request, given["uid"], was["uid"])
        version = given.get("resourceVersion") or "0"
        if version == "0" and not kind.unconditional:
            message = "Invalid value: 0: must be specified for an update"
            cause = ("FieldValueInvalid", message, "metadata.resourceVersion")
            raise statuses.invalid(kind, name, [cause], by_resource=True)
        if not version.isdecimal():
            raise statuses.failure(500, "", statuses.not_a_version(version, ""))
        if version not in ("0", was["resourceVersion"]):
            raise statuses.conflict(kind, name)
        if request.subresource:
            return dict(was)
        kept = {key: one for key, one in was.items() if key not in _KEPT}
        return kept | {key: given[key] for key in _KEPT if given.get(key)}

    def _next_value(self, request: Request, value: Json, old: Json, metadata: Json) -> Json:
        """Return the object after an update: only status by /status, all but status otherwise."""
        kind = request.kind
        assert kind is not None
        value = self._pruned(kind, value)
        if not kind.has_status:
            return value | {"metadata": metadata}
        base, source = (old, value) if request.subresource else (value, old)
        found = {key: one for key, one in base.items() if key != "status"}
        if "status" in source:
            found["status"] = source["status"]
        return found | {"metadata": metadata}

    def _patch(self, request: Request) -> Answer:
        kind = request.kind
        assert kind is not None
        media = request.headers.get("content-type", "").partition(";")[0]
        if media != "application/merge-patch+json":
            text = "the body of the request was in an unknown format - accepted media types include"
            raise statuses.failure(415, "UnsupportedMediaType", f"{text}: {_MEDIA}", {})
        old = self.store.get(kind, (request.namespace, request.name))
        if old is None:
            raise statuses.not_found(kind, request.name)
        try:
            patch = json.loads(request.body)
        except ValueError as error:
            raise statuses.bad_request(f"error decoding patch: {error}") from None
        return self._update(request, merge(old.value, patch), patching=True)

    def _delete(self, request: Request) -> Answer:
        kind, name, key = request.kind, request.name, (request.namespace, request.name)
        assert kind is not None
        try:
            options = json.loads(request.body) if request.body else {}
            wanted = dict(options.get("preconditions") or {})
        except (ValueError, TypeError, AttributeError) as error:
            raise statuses.bad_request(f"couldn't read DeleteOptions: {error}") from None
        old = self.store.get(kind, key)
        if old is None:
            raise statuses.not_found(kind, name)
        metadata = old.value["metadata"]
        for what, called, again in (
            ("uid", "UID", "deleted and then recreated"),
            ("resourceVersion", "ResourceVersion", "modified"),
        ):
            if wanted.get(what) is not None and wanted[what] != metadata[what]:
                why = (
                    f"the {called} in the precondition ({wanted[what]}) does not match the "
                    f"{called} in record ({metadata[what]}). The object might have been {again}"
                )
                raise statuses.conflict(kind, name, why, by_kind=True)
        self._admit(request, "DELETE", name, None, old.value)
        if metadata.get("finalizers"):
            if metadata.get("deletionTimestamp"):
                return Answer(200, old.text)
            going = {"deletionTimestamp": _stamp(), "deletionGracePeriodSeconds": 0}
            if "generation" in metadata:
                going["generation"] = metadata["generation"] + 1
            return self._written(request, 200, key, old.value | {"metadata": metadata | going})
        if kind.plural == "pods":
            self.access.pod_is_gone(*key)
        return self._written(request, 200, key, None)

    # -- tokens ---------------------------------------------------------------------------------

    def _make_token(self, request: Request) -> Answer:
        kind = request.kind
        assert kind is not None
        account = self.store.get(kind, (request.namespace, request.name))
        if account is None:
            raise statuses.not_found(kind, request.name)
        asked = json.loads(request.body or b"{}")
        spec = asked.get("spec") or {}
        seconds = int(spec.get("expirationSeconds") or 3600)
        reference = spec.get("boundObjectRef") or {}
        node, pod, uids = "", "", {}
        if reference.get("kind") == "Pod":
            pod = reference["name"]
            pods, nodes = self.by_plural["pods"], self.by_plural["nodes"]
            found = self.store.get(pods, (request.namespace, pod))
            if found is None:
                raise statuses.not_found(pods, pod)
            node = found.value.get("spec", {}).get("nodeName", "")
            uids["pod"] = found.value["metadata"]["uid"]
            machine = self.store.get(nodes, ("", node))
            if machine is not None:
                uids["node"] = machine.value["metadata"]["uid"]
        token = self.access.issue(
            request.name, request.namespace, seconds=seconds, node=node, pod=pod, uids=uids
        )
        ends = datetime.fromtimestamp(time.time() + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        found_token = {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": request.name, "namespace": request.namespace},
            "spec": {**spec, "expirationSeconds": seconds},
            "status": {"token": token, "expirationTimestamp": ends},
        }
        return Answer(201, dump(found_token))


_HEAD = ("apiVersion", "kind", "metadata")


def _other_uid(request: Request, wanted: str, has: str) -> statuses.ApiError:
    kind = request.kind
    assert kind is not None
    group = kind.group if kind.schema is not None else ""
    key = "/".join(filter(None, (group, kind.plural, request.namespace, request.name)))
    return statuses.conflict(
        kind,
        request.name,
        f"StorageError: invalid object, Code: 4, Key: /registry/{key}, ResourceVersion: 0, "
        f"AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object "
        f"meta: {has}",
    )


def _same_but_head(one: Json, other: Json) -> bool:
    """Whether all but the metadata is the same."""
    return {key: value for key, value in one.items() if key not in _HEAD} == {
        key: value for key, value in other.items() if key not in _HEAD
    }
