"""The kinds, rights and policies of deploy/kubernetes; tests/kubernetes has a server for them."""

from __future__ import annotations

from typing import Any

import pytest

from ..e2e import tools
from .support import DEPLOY

FILES = ("crds", "rbac", "policies")
# The oldest that is supported: tokens name their nodes since 1.32.
VERSIONS = ("1.32", "1.33", "1.35")
SYSTEM = "fastipam-system"


def _documents(name: str) -> list[dict[str, Any]]:
    text = (DEPLOY / "kubernetes" / f"{name}.yaml").read_text()
    return list(tools.require_module("yaml").safe_load_all(text))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", FILES)
def test_schema(name: str, version: str) -> None:
    """Every field exists and has the right type; fields that Kubernetes would drop are errors."""
    validate = tools.require_module("kubernetes_validate").validate
    for each in _documents(name):
        validate(each, version, strict=True)


def test_accounts_have_a_namespace_of_their_own() -> None:
    """In kube-system their Leases would compete with every controller's leader election."""
    namespaced = [each for each in _documents("rbac") if "namespace" in each["metadata"]]
    assert {each["metadata"]["namespace"] for each in namespaced} == {SYSTEM}
    subjects = [one for each in _documents("rbac") for one in each.get("subjects", ())]
    accounts = {each["metadata"]["name"] for each in namespaced if each["kind"] == "ServiceAccount"}
    assert {each["name"] for each in subjects} == accounts
    assert {each["namespace"] for each in subjects} == {SYSTEM}


def test_policies_name_accounts_that_exist() -> None:
    """A policy for an account that nobody has would be in force nowhere."""
    accounts = {
        f"'system:serviceaccount:{SYSTEM}:{each['metadata']['name']}'"
        for each in _documents("rbac")
        if each["kind"] == "ServiceAccount"
    }
    own, by_hand = (each for each in _documents("policies") if "matchConditions" in each["spec"])
    (condition,) = own["spec"]["matchConditions"]
    assert any(condition["expression"].endswith(f"== {each}") for each in accounts)
    (condition,) = by_hand["spec"]["matchConditions"]
    assert all(each in condition["expression"] for each in accounts)


def test_policies_are_bound() -> None:
    """A policy without a binding does nothing."""
    documents = _documents("policies")
    policies = {each["metadata"]["name"] for each in documents if "binding" not in each["kind"]}
    bound = {each["spec"]["policyName"] for each in documents if "policyName" in each["spec"]}
    assert policies == bound


def test_the_policy_covers_all_that_agents_may_change() -> None:
    """A right that is added needs a rule in the policy, in whatever version of the kind."""
    policy = _documents("policies")[0]["spec"]
    rules = policy["matchConstraints"]["resourceRules"]
    covered = {(rule["apiGroups"][0], one) for rule in rules for one in rule["resources"]}
    assert all(rule["apiVersions"] == ["*"] for rule in rules)
    changing = {"create", "update", "patch", "delete"}
    granted = {
        (group, resource)
        for each in _documents("rbac")
        if each["kind"] in ("ClusterRole", "Role") and each["metadata"]["name"] == "fastipam-agent"
        for rule in each["rules"]
        if changing & set(rule["verbs"])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted - {("", "events")} == covered
    assert policy["failurePolicy"] == "Fail"


def test_nobody_deletes_collections() -> None:
    """It deletes by name what it has listed: a block that was handed over meanwhile, too."""
    rules = [rule for each in _documents("rbac") for rule in each.get("rules", ())]
    verbs = {verb for rule in rules for verb in rule["verbs"]}
    assert verbs == {"get", "list", "watch", "create", "update", "patch", "delete"}
    assert not any("*" in rule["resources"] + rule["apiGroups"] for rule in rules)
