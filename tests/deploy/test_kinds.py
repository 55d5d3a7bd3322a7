"""The rendered kinds, rights and policies; tests/kubernetes has a server for them."""

from __future__ import annotations

import pytest

from .. import rendering
from ..e2e import tools

SYSTEM = "fastipam-system"
_POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")


@pytest.fixture(autouse=True)
def _yaml() -> None:
    """Skip where no YAML can be read."""
    tools.require_module("yaml")


def test_kinds_are_kept() -> None:
    """Whoever removes the chart keeps the objects: they say who owns which block."""
    kinds = rendering.documents(rendering.KINDS)
    assert len(kinds) == 4
    assert all(
        each["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"} for each in kinds
    )


def test_accounts_have_a_namespace_of_their_own() -> None:
    """In kube-system their Leases would compete with every controller's leader election."""
    namespaced = [each for each in rendering.documents() if "namespace" in each["metadata"]]
    assert {each["metadata"]["namespace"] for each in namespaced} == {SYSTEM}
    subjects = [one for each in rendering.documents() for one in each.get("subjects", ())]
    accounts = {each["metadata"]["name"] for each in namespaced if each["kind"] == "ServiceAccount"}
    assert {each["name"] for each in subjects} == accounts
    assert {each["namespace"] for each in subjects} == {SYSTEM}


def test_policies_name_accounts_that_exist() -> None:
    """A policy for an account that nobody has would be in force nowhere."""
    accounts = {
        f"'system:serviceaccount:{SYSTEM}:{each['metadata']['name']}'"
        for each in rendering.documents("ServiceAccount")
    }
    own, by_hand = rendering.documents(_POLICIES[0])
    (condition,) = own["spec"]["matchConditions"]
    assert any(condition["expression"].endswith(f"== {each}") for each in accounts)
    (condition,) = by_hand["spec"]["matchConditions"]
    assert all(each in condition["expression"] for each in accounts)


def test_policies_are_bound() -> None:
    """A policy without a binding does nothing."""
    documents = rendering.documents(*_POLICIES)
    policies = {each["metadata"]["name"] for each in documents if each["kind"] == _POLICIES[0]}
    bound = {each["spec"]["policyName"] for each in documents if "policyName" in each["spec"]}
    assert policies == bound


def test_the_policy_covers_all_that_agents_may_change() -> None:
    """A right that is added needs a rule in the policy, in whatever version of the kind."""
    policy = rendering.documents(_POLICIES[0])[0]["spec"]
    rules = policy["matchConstraints"]["resourceRules"]
    covered = {(rule["apiGroups"][0], one) for rule in rules for one in rule["resources"]}
    assert all(rule["apiVersions"] == ["*"] for rule in rules)
    changing = {"create", "update", "patch", "delete"}
    granted = {
        (group, resource)
        for each in rendering.documents("ClusterRole", "Role")
        if each["metadata"]["name"] == "fastipam-agent"
        for rule in each["rules"]
        if changing & set(rule["verbs"])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted - {("", "events")} == covered
    assert policy["failurePolicy"] == "Fail"


def test_nobody_deletes_collections() -> None:
    """It deletes by name what it has listed: a block that was handed over meanwhile, too."""
    rules = [rule for each in rendering.documents("ClusterRole", "Role") for rule in each["rules"]]
    verbs = {verb for rule in rules for verb in rule["verbs"]}
    assert verbs == {"get", "list", "watch", "create", "update", "patch", "delete"}
    assert not any("*" in rule["resources"] + rule["apiGroups"] for rule in rules)
