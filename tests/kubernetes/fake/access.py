"""Who asks, and what he may do: tokens that expire, RBAC, admission policies."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections import ChainMap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import statuses
from .cel import CelError
from .cel import compile as compile_cel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .manifests import Grant, Kind, Policy

Json = dict[str, Any]
NODE_NAME = "authentication.kubernetes.io/node-name"
ISSUER = "https://kubernetes.default.svc"


@dataclass(frozen=True)
class User:
    """A name, its groups, and what the token says beside them (the node's name)."""

    name: str
    groups: tuple[str, ...] = ()
    extra: Mapping[str, list[str]] = field(default_factory=dict)

    def as_json(self) -> Json:
        """Return it as UserInfo."""
        found: Json = {"username": self.name, "groups": [*self.groups, "system:authenticated"]}
        if self.extra:
            found["extra"] = dict(self.extra)
        return found


@dataclass
class Token:
    """A bearer token: whose, until when (wall clock), and the pod (namespace/name) it dies with."""

    user: User
    expires: float
    pod: tuple[str, str] = ("", "")


def _part(value: Json) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


class Access:
    """Tokens, grants and policies of one server."""

    def __init__(self, grants: list[Grant], policies: list[Policy]) -> None:
        self.grants = grants
        self.policies = policies
        self.tokens: dict[str, Token] = {}

    def issue(
        self,
        account: str,
        namespace: str,
        *,
        seconds: float = 3600,
        node: str = "",
        pod: str = "",
        uids: Mapping[str, str] | None = None,
    ) -> str:
        """Return a new service account token, a JWT by its form (nothing signs it)."""
        now = time.time()
        subject = f"system:serviceaccount:{namespace}:{account}"
        extra = {"authentication.kubernetes.io/credential-id": [f"JTI={uuid.uuid4()}"]}
        claims: Json = {"namespace": namespace, "serviceaccount": {"name": account}}
        for what, name in (("node", node), ("pod", pod)):
            if name:
                uid = (uids or {}).get(what) or str(uuid.uuid4())
                claims[what] = {"name": name, "uid": uid}
                extra[f"authentication.kubernetes.io/{what}-name"] = [name]
                extra[f"authentication.kubernetes.io/{what}-uid"] = [uid]
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
        payload = {
            "aud": [ISSUER],
            "exp": int(now + seconds),
            "iat": int(now),
            "iss": ISSUER,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": claims,
            "nbf": int(now),
            "sub": subject,
        }
        text = f"{_part({'alg': 'none'})}.{_part(payload)}.{uuid.uuid4().hex}"
        self.tokens[text] = Token(User(subject, groups, extra), now + seconds, (namespace, pod))
        return text

    def add(self, text: str, user: User) -> None:
        """Accept this text for a user, for ever (as ``--token-auth-file`` does)."""
        self.tokens[text] = Token(user, float("inf"))

    def expire(self, text: str = "") -> None:
        """Let a token, or every service account's, be expired from now on."""
        for known, token in self.tokens.items():
            if known == text or (not text and token.expires != float("inf")):
                token.expires = 0.0

    def pod_is_gone(self, namespace: str, name: str) -> None:
        """Refuse the tokens that were bound to this pod."""
        for token in self.tokens.values():
            if token.pod == (namespace, name):
                token.expires = 0.0

    def user(self, authorization: str, certificate: User | None) -> User:
        """Return who it is. Raises ApiError 401."""
        if text := authorization.removeprefix("Bearer").strip():
            token = self.tokens.get(text)
            if token is None or token.expires <= time.time():
                raise statuses.unauthorized()
            return token.user
        if certificate is None:
            raise statuses.unauthorized()
        return certificate

    def authorize(self, user: User, verb: str, kind: Kind, namespace: str, name: str) -> None:
        """Raise ApiError 403 unless a role grants it. ``verb`` may be ``update/status``."""
        verb, _, subresource = verb.partition("/")
        resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
        if "system:masters" in user.groups:
            return
        subjects = {("User", user.name), ("Group", "system:authenticated")}
        subjects |= {("Group", group) for group in user.groups}
        for grant in self.grants:
            if grant.namespace not in ("", namespace) or not subjects & grant.subjects:
                continue
            if any(rule.grants(verb, kind.group, resource, name) for rule in grant.rules):
                return
        where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        raise statuses.forbidden(
            kind,
            name,
            f'User "{user.name}" cannot {verb} resource "{resource}" '
            f'in API group "{kind.group}" {where}',
        )

    def admit(
        self,
        user: User,
        operation: str,
        kind: Kind,
        namespace: str,
        name: str,
        subresource: str,
        new: Json | None,
        old: Json | None,
    ) -> list[str]:
        """Return the policies' warnings; ``operation``: CREATE, UPDATE or DELETE.

        Raises ApiError 422 if a policy denies it.
        """
        warnings: list[str] = []
        resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
        for policy in self.policies:
            if not _matches(policy.spec, operation, kind, resource):
                continue
            request = {
                "operation": operation,
                "name": name,
                "namespace": namespace,
                "subResource": subresource,
                "userInfo": user.as_json(),
                "resource": {
                    "group": kind.group,
                    "version": kind.version,
                    "resource": kind.plural,
                },
                "kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
            }
            why = _denial(policy.spec, {"object": new, "oldObject": old, "request": request})
            if why and policy.denies:
                raise statuses.denied_by_policy(kind, name, policy.name, policy.binding, why)
            if why:
                text = f"Validation failed for ValidatingAdmissionPolicy '{policy.name}'"
                warnings.append(f"299 - \"{text} with binding '{policy.binding}': {why}\"")
        return warnings


def _matches(spec: Json, operation: str, kind: Kind, resource: str) -> bool:
    for rule in spec["matchConstraints"]["resourceRules"]:
        if (
            {kind.group, "*"} & set(rule["apiGroups"])
            and {kind.version, "*"} & set(rule["apiVersions"])
            and {operation, "*"} & set(rule["operations"])
            and {resource, "*/*", f"{kind.plural}/*"} & set(rule["resources"])
        ):
            return True
    return False


class _Variables(dict[str, Any]):
    """A policy's variables, each computed when it is asked for."""

    def __init__(self, spec: Json, scope: Mapping[str, Any]) -> None:
        super().__init__()
        self.texts = {one["name"]: one["expression"] for one in spec.get("variables", [])}
        self.scope = ChainMap({"variables": self}, dict(scope))

    def __missing__(self, name: str) -> Any:
        self[name] = value = compile_cel(self.texts[name])(self.scope)
        return value


def _denial(spec: Json, given: Mapping[str, Any]) -> str:
    """Return why the policy denies, or ""; a rule that has no value denies (failurePolicy)."""
    scope = {**given, "variables": _Variables(spec, given)}
    ignore = spec.get("failurePolicy") == "Ignore"
    try:
        for condition in spec.get("matchConditions", []):
            if not compile_cel(condition["expression"])(scope):
                return ""
    except CelError as error:
        return "" if ignore else f"expression '{condition['expression']}': {error}"
    for validation in spec["validations"]:
        text = validation["expression"]
        try:
            if compile_cel(text)(scope) is True:
                continue
            if "messageExpression" in validation:
                return str(compile_cel(validation["messageExpression"])(scope))
            return str(validation.get("message") or f"failed expression: {text.strip()}")
        except CelError as error:
            if not ignore:
                return f"expression '{text.strip()}' resulted in error: {error}"
    return ""
