"""What the API server serves and permits: the kinds, roles and policies of the manifests.

CRDs, RBAC and admission policies come from the very files that are installed in a cluster; the
few built-in kinds that fastipam or a test of it uses are written here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ... import rendering

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Kind:
    """A served kind; ``selectable`` are its field selectors beside name and namespace."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = False
    has_status: bool = False
    schema: Json | None = None  # None: a built-in kind
    selectable: tuple[str, ...] = ()
    unconditional: bool = False  # a PUT without resourceVersion overwrites
    put_creates: bool = False
    counts_generations: bool = False

    @property
    def api_version(self) -> str:
        """``group/version``, or ``v1`` of the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """``plural.group``: what messages name."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def prefix(self) -> str:
        """The path before ``/namespaces/`` or the plural."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"


BUILT_IN = (
    Kind("", "v1", "nodes", "Node", has_status=True, unconditional=True),
    Kind("", "v1", "namespaces", "Namespace", has_status=True, unconditional=True),
    Kind("", "v1", "events", "Event", True, unconditional=True, put_creates=True),
    Kind("", "v1", "serviceaccounts", "ServiceAccount", True, unconditional=True),
    Kind(
        "", "v1", "pods", "Pod", True, has_status=True, unconditional=True,
        selectable=("spec.nodeName",),
    ),
    Kind(
        "apps", "v1", "daemonsets", "DaemonSet", True, has_status=True, unconditional=True,
        counts_generations=True,
    ),
    Kind("coordination.k8s.io", "v1", "leases", "Lease", True, put_creates=True),
)  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """One rule of a role: groups, resources (``plural/status``), verbs, names."""

    groups: frozenset[str]
    resources: frozenset[str]
    verbs: frozenset[str]
    names: frozenset[str]

    def grants(self, verb: str, group: str, resource: str, name: str) -> bool:
        """Whether it grants this."""
        return (
            bool({verb, "*"} & self.verbs)
            and bool({group, "*"} & self.groups)
            and bool({resource, "*"} & self.resources)
            and (not self.names or name in self.names)
        )


@dataclass(frozen=True)
class Grant:
    """A binding: to whom, in which namespace ("" means everywhere), which rules."""

    subjects: frozenset[tuple[str, str]]  # (User|Group, name)
    namespace: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Policy:
    """A ValidatingAdmissionPolicy with a binding, which denies or only warns."""

    name: str
    binding: str
    spec: Json
    denies: bool


@dataclass
class Manifests:
    """All that the files say."""

    kinds: list[Kind] = field(default_factory=lambda: list(BUILT_IN))
    grants: list[Grant] = field(default_factory=list)
    policies: list[Policy] = field(default_factory=list)
    objects: list[Json] = field(default_factory=list)  # namespaces, service accounts


def _rules(role: Json) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            frozenset(rule.get("apiGroups", [])),
            frozenset(rule.get("resources", [])),
            frozenset(rule["verbs"]),
            frozenset(rule.get("resourceNames", [])),
        )
        for rule in role.get("rules", [])
    )


def _subject(subject: Json) -> tuple[str, str]:
    if subject["kind"] == "ServiceAccount":
        return "User", f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
    return subject["kind"], subject["name"]


def _crd(document: Json) -> list[Kind]:
    spec = document["spec"]
    return [
        Kind(
            spec["group"],
            version["name"],
            spec["names"]["plural"],
            spec["names"]["kind"],
            namespaced=spec["scope"] == "Namespaced",
            has_status="status" in version.get("subresources", {}),
            schema=version["schema"]["openAPIV3Schema"],
            selectable=tuple(
                one["jsonPath"].lstrip(".") for one in version.get("selectableFields", [])
            ),
            counts_generations=True,
        )
        for version in spec["versions"]
        if version["served"]
    ]


def load(paths: tuple[Path, ...] = ()) -> Manifests:
    """Read the files; without any: the rendering of the chart.

    Raises KeyError for a binding whose role is in none of them.
    """
    paths = paths or (rendering.RENDERING,)
    found = Manifests()
    documents = [each for path in paths for each in rendering.documents(path=path)]
    roles: dict[tuple[str, str, str], tuple[Rule, ...]] = {}
    policies: dict[str, Json] = {}
    for document in documents:
        meta = document["metadata"]
        match document["kind"]:
            case "CustomResourceDefinition":
                found.kinds += _crd(document)
            case "ClusterRole":
                roles["ClusterRole", "", meta["name"]] = _rules(document)
            case "Role":
                roles["Role", meta["namespace"], meta["name"]] = _rules(document)
            case "ValidatingAdmissionPolicy":
                policies[meta["name"]] = document["spec"]
            case "Namespace" | "ServiceAccount":
                found.objects.append(document)
    for document in documents:
        meta = document["metadata"]
        if document["kind"] in ("ClusterRoleBinding", "RoleBinding"):
            namespace = meta.get("namespace", "")
            role = document["roleRef"]
            of = namespace if role["kind"] == "Role" else ""
            subjects = frozenset(map(_subject, document.get("subjects", [])))
            rules = roles[role["kind"], of, role["name"]]
            found.grants.append(Grant(subjects, namespace, rules))
        elif document["kind"] == "ValidatingAdmissionPolicyBinding":
            spec = document["spec"]
            name, denies = spec["policyName"], "Deny" in spec["validationActions"]
            found.policies.append(Policy(name, meta["name"], policies[name], denies))
    return found
