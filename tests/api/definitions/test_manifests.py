"""The YAML files that an admin installs. tests/peers tries on real API servers what they refuse.

The definitions are complete by Kubernetes' own rules for structural schemas, and readable in a table.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from exclave.admin.token.verbs import LONGEST_CREDENTIAL
from exclave.api.definitions.manifests import admission_objects, custom_resource_definitions, schema_of
from exclave.api.group import MOST_GROUP_NAME, parse_group, render_group
from exclave.api.member import member_object
from exclave.api.names import (
    ACCOUNTS_LABEL,
    ADMISSION_POLICY_NAMES,
    CONTROLLER,
    ELECTION,
    GROUP_LABEL,
    GROUPS_LABEL,
    PORTS_FINALIZER,
)
from exclave.api.requests import API_AUDIENCE, MEMBERS, WORKLOAD_GROUPS, Object
from exclave_sandbox.apiserver.kinds.schema import check_schema, unknown_fields
from exclave_sandbox.stage.mesh import group_spec

MEMBER, WORKLOAD_GROUP = schema_of(MEMBERS), schema_of(WORKLOAD_GROUPS)

CRDS = {found["spec"]["names"]["kind"]: found for found in custom_resource_definitions()}


def version(kind: str) -> dict[str, Any]:
    (only,) = CRDS[kind]["spec"]["versions"]
    assert isinstance(only, dict)
    return only


def test_both_kinds_are_defined_as_the_code_asks_for_them() -> None:
    for resource in (WORKLOAD_GROUPS, MEMBERS):
        spec = CRDS[resource.kind]["spec"]
        assert (spec["group"], spec["names"]["plural"], spec["scope"]) == (
            resource.group,
            resource.plural,
            "Namespaced",
        )
        assert version(resource.kind)["name"] == resource.version
        assert CRDS[resource.kind]["metadata"]["name"] == f"{resource.plural}.{resource.group}"


@pytest.mark.parametrize("kind", CRDS)
def test_the_status_is_a_subresource(kind: str) -> None:
    assert version(kind)["subresources"] == {"status": {}}


def parts(schema: dict[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield place, schema
    for name, inner in schema.get("properties", {}).items():
        yield from parts(inner, f"{place}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from parts(schema[key], f"{place}[]")


@pytest.mark.parametrize("kind", CRDS)
def test_every_schema_is_structural_and_nothing_is_dropped_in_silence(kind: str) -> None:
    for place, schema in parts(version(kind)["schema"]["openAPIV3Schema"]):
        assert schema["type"] in ("object", "array", "string", "integer", "boolean"), place
        if schema["type"] == "array":
            assert "items" in schema, place
        if schema["type"] == "object" and place != ".metadata":
            assert "properties" in schema or "additionalProperties" in schema, place


@pytest.mark.parametrize("kind", CRDS)
def test_columns_show_fields_that_are_there(kind: str) -> None:
    existing = {place for place, _ in parts(version(kind)["schema"]["openAPIV3Schema"])}
    for column in version(kind)["additionalPrinterColumns"]:
        path = column["jsonPath"].split("[")[0]
        assert path in existing or path == ".metadata.creationTimestamp", column


def test_what_a_machine_stated_when_it_joined_cannot_be_changed() -> None:
    spec = version("Member")["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    fixed = {name for name, schema in spec.items() if "oldSelf" in str(schema)}
    assert fixed == {"nonce", "machineHash", "deliveryKey"}


# What the schemas accept, and what they refuse.


def mistakes(found: Any, schema: Any) -> list[str]:
    return [str(cause) for cause in check_schema(found, schema, "")] + list(unknown_fields(found, schema, ""))


def member(**spec: Any) -> dict[str, Any]:
    made = member_object(
        "shop", "web-k7q2x-1", nonce="n", machine_hash="0123456789abcdef", delivery_key="k", csr="c",
        addresses=["10.77.0.20"], facts={"kernel": "6.1"},
    )  # fmt: skip
    return {"spec": {**made["spec"], **spec}}


def test_what_a_machine_writes_passes() -> None:
    loaded = {"anchors": "a", "issuer": "b", "settings": "c", "proxy": "d", "agent": "e"}
    assert mistakes(member(serving=True, dataPath="outbound-open", loaded=loaded), MEMBER) == []


def test_a_group_with_every_default_written_out_passes() -> None:
    spec = render_group(parse_group("web", group_spec("24h")))
    assert mistakes({"spec": {key: value for key, value in spec.items() if value is not None}}, WORKLOAD_GROUP) == []


TOO_MUCH = {
    "a CSR that fills etcd": {"csr": "x" * (4097)},
    "a fact that fills etcd": {"facts": {"kernel": "x" * 300}},
    "two addresses": {"addresses": ["10.77.0.20", "10.77.0.21"]},
    "an address that is a book": {"addresses": ["x" * 65]},
    "a data path of its own": {"dataPath": "open"},
    "a hash of another form": {"machineHash": "0123"},
    "a field that nobody knows": {"labels": {"app": "web"}},
}


def test_the_names_of_facts_are_limited_by_a_rule() -> None:
    facts = MEMBER["properties"]["spec"]["properties"]["facts"]
    (rule,) = facts["x-kubernetes-validations"]
    assert rule == {"rule": "self.all(key, key.size() <= 64)", "message": "a key has at most 64 characters"}
    assert facts["maxProperties"] * (64 + facts["additionalProperties"]["maxLength"]) < 2**15


@pytest.mark.parametrize("spec", TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_a_machine_may_not_write_is_refused(spec: dict[str, Any]) -> None:
    assert mistakes(member(**spec), MEMBER)


# The admission policies.

MACHINES_POLICY, CONTROLLER_POLICY = ADMISSION_POLICY_NAMES
OBJECTS = admission_objects("exclave")
POLICIES = {found["metadata"]["name"]: found for found in OBJECTS if found["kind"] == "ValidatingAdmissionPolicy"}


def spec(name: str) -> dict[str, Any]:
    found: Object = POLICIES[name]["spec"]
    return dict(found)


def test_each_policy_is_bound_and_denies() -> None:
    bindings = [found for found in OBJECTS if found["kind"] == "ValidatingAdmissionPolicyBinding"]
    assert {found["spec"]["policyName"] for found in bindings} == set(POLICIES) == {MACHINES_POLICY, CONTROLLER_POLICY}
    assert all(
        found["spec"] == {"policyName": found["metadata"]["name"], "validationActions": ["Deny"]} for found in bindings
    )


@pytest.mark.parametrize("name", [MACHINES_POLICY, CONTROLLER_POLICY])
def test_a_policy_fails_closed_and_has_no_parameters_that_could_be_missing(name: str) -> None:
    assert spec(name)["failurePolicy"] == "Fail"
    assert "paramKind" not in spec(name)


def test_the_guard_is_for_every_account_of_machines_namespaces_whatever_its_shape() -> None:
    (condition,) = spec(MACHINES_POLICY)["matchConditions"]
    assert condition["expression"] == (
        "request.userInfo.username.startsWith('system:serviceaccount:') && "
        "request.userInfo.username.split(':')[2].endsWith('-vms')"
    )


def test_the_limits_are_for_the_controller_of_this_installation() -> None:
    (condition,) = [
        found["spec"]["matchConditions"][0]
        for found in admission_objects("elsewhere")
        if found["metadata"]["name"] == CONTROLLER_POLICY and "matchConditions" in found["spec"]
    ]
    assert condition["expression"].endswith("'system:serviceaccount:elsewhere:exclave-controller'")


def test_the_policy_covers_all_that_a_machine_may_write_in_every_version() -> None:
    rules = spec(MACHINES_POLICY)["matchConstraints"]["resourceRules"]
    watched = {f"{rule['apiGroups'][0]}/{resource}" for rule in rules for resource in rule["resources"]}
    assert watched >= {
        "exclave.dev/members",
        "workload.linkerd.io/externalworkloads/status",
        "coordination.k8s.io/leases",
        "/serviceaccounts/token",
    }
    assert all(rule["apiVersions"] == ["*"] and rule["operations"] == ["CREATE", "UPDATE", "DELETE"] for rule in rules)


@pytest.mark.parametrize("name", [MACHINES_POLICY, CONTROLLER_POLICY])
def test_expressions_name_no_variable_that_is_not_there(name: str) -> None:
    existing = [variable["name"] for variable in spec(name).get("variables", [])]
    for number, variable in enumerate(spec(name).get("variables", [])):
        assert set(re.findall(r"variables\.(\w+)", variable["expression"])) <= set(existing[:number])
    for validation in spec(name)["validations"]:
        assert set(re.findall(r"variables\.(\w+)", validation["expression"])) <= set(existing)


@pytest.mark.parametrize("name", [MACHINES_POLICY, CONTROLLER_POLICY])
def test_a_subresource_is_read_only_where_there_is_one(name: str) -> None:
    for variable in spec(name)["variables"]:
        if "request.subResource" in variable["expression"]:
            assert variable["expression"].startswith("has(request.subResource) && ")


@pytest.mark.parametrize("name", [MACHINES_POLICY, CONTROLLER_POLICY])
def test_messages_are_sentences_for_people(name: str) -> None:
    for validation in spec(name)["validations"]:
        assert len(validation["message"].split()) >= 5
        assert "variables." not in validation["message"]


def test_names_and_limits_in_the_policies_are_those_of_the_code() -> None:
    machines, controller = (str(spec(name)) for name in (MACHINES_POLICY, CONTROLLER_POLICY))
    for label in (ACCOUNTS_LABEL, GROUPS_LABEL):
        assert f"'{label}'" in machines
    for text in (f"'{GROUP_LABEL}' in", f"'{PORTS_FINALIZER}' in", f"variables.name == '{ELECTION}'"):
        assert text in controller
    for policy in (machines, controller):
        assert f"['{API_AUDIENCE}']" in policy
        assert f"orValue(0) <= {LONGEST_CREDENTIAL:.0f} " in policy
    assert f":{CONTROLLER}'" in controller


def test_the_policy_covers_all_that_the_controller_creates_or_deletes() -> None:
    rules = spec(CONTROLLER_POLICY)["matchConstraints"]["resourceRules"]
    assert {resource for rule in rules for resource in rule["resources"]} == {
        "members", "workloadgroups", "externalworkloads", "externalworkloads/status", "leases", "serviceaccounts",
        "serviceaccounts/token", "configmaps", "secrets",
    }  # fmt: skip


def test_no_placeholder_is_left_and_every_line_of_an_expression_is_joined() -> None:
    for text in (str(OBJECTS), str(custom_resource_definitions())):
        assert not re.search("<[A-Z_]+>", text)
        assert "\\n" not in text


def test_a_groups_name_is_limited_in_the_definition_as_in_the_code() -> None:
    (rule,) = version("WorkloadGroup")["schema"]["openAPIV3Schema"]["x-kubernetes-validations"]
    assert rule["message"] == f"a group's name is one DNS label of at most {MOST_GROUP_NAME} characters"
    assert f"size() <= {MOST_GROUP_NAME}" in rule["rule"]
