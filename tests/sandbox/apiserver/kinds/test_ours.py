"""The schemas of the custom resources, by what they refuse."""

from typing import Any

import pytest

from exclave_sandbox.apiserver.kinds import kinds
from exclave_sandbox.apiserver.kinds.kinds import merge_patch
from exclave_sandbox.apiserver.refusal import Refusal
from support.stored import external_workload, group, make_store, member

LABEL_63 = "a" * 63


def refused(kind: kinds.Kind, body: dict[str, Any]) -> str:
    with pytest.raises(Refusal) as found:
        make_store().create(kind, "g", body)
    return found.value.message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"nonce": None}, "spec.nonce: Required value"),
        ({"machineHash": "XYZ"}, "spec.machineHash: Invalid value: \"XYZ\": should match '^[0-9a-f]{16}$'"),
        ({"deliveryKey": ""}, 'spec.deliveryKey: Invalid value: "": should be at least 1 chars long'),
        ({"csr": "x" * 4097}, "spec.csr: Too long: may not be more than 4096 bytes"),
        ({"addresses": ["a", "b"]}, "spec.addresses: Too many: 2: must have at most 1 items"),
        (
            {"dataPath": "up"},
            'spec.dataPath: Unsupported value: "up": supported values: "meshed", "outbound-open", "down"',
        ),
        ({"facts": {"x" * 65: "y"}}, 'spec.facts: Invalid value: "object": a key has at most 64 characters'),
        ({"serving": "yes"}, 'spec.serving: Invalid value: "yes": must be of type boolean'),
    ],
)
def test_a_member_is_refused(spec: dict[str, Any], message: str) -> None:
    expected = f'Member.exclave.dev "web-abcde-1" is invalid: {message}'
    assert refused(kinds.MEMBERS, member(**spec)) == expected


def test_a_misspelt_field_is_refused_and_not_dropped() -> None:
    assert refused(kinds.MEMBERS, member(sreving=True)) == 'strict decoding error: unknown field "spec.sreving"'


@pytest.mark.parametrize("field", ["nonce", "machineHash", "deliveryKey"])
def test_the_values_that_a_machine_joined_with_are_immutable(field: str) -> None:
    store = make_store()
    store.create(kinds.MEMBERS, "g", member())
    with pytest.raises(Refusal) as found:
        patch = {"spec": {field: "fedcba9876543210"}}
        store.patch(kinds.MEMBERS, "g", "web-abcde-1", lambda old: merge_patch(old, patch))
    assert found.value.message == (
        f'Member.exclave.dev "web-abcde-1" is invalid: spec.{field}: Invalid value: field is immutable'
    )


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        (
            "a" * 41,
            {},
            f'metadata.name: Invalid value: "{"a" * 41}": a group\'s name is one DNS label of at most 40 characters',
        ),
        ("a.b", {}, 'metadata.name: Invalid value: "a.b": a group\'s name is one DNS label of at most 40 characters'),
        ("web", {"networks": []}, "spec.networks: Invalid value: 0: should have at least 1 items"),
        ("web", {"networks": None}, "spec.networks: Required value"),
        (
            "web",
            {"capture": "some"},
            'spec.capture: Unsupported value: "some": supported values: "cluster", "all", "none"',
        ),
        ("web", {"ports": [{"port": 0}]}, "spec.ports[0].port: Invalid value: 0: should be greater than or equal to 1"),
        (
            "web",
            {"serviceAccount": "a.b"},
            "spec.serviceAccount: Invalid value: \"a.b\": should match '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'",
        ),
    ],
)
def test_a_group_is_refused(name: str, spec: dict[str, Any], message: str) -> None:
    expected = f'WorkloadGroup.exclave.dev "{name}" is invalid: {message}'
    assert refused(kinds.WORKLOAD_GROUPS, group(name, **spec)) == expected


def test_a_group_may_have_every_field_of_the_contract() -> None:
    whole = group(
        serviceAccount="web",
        labels={"app": "web"},
        ports=[{"name": "http", "port": 80, "opaque": False}],
        certificateLifetime="24h",
        capture="cluster",
        inboundPolicy=None,
        probes=[{"kind": "tcp", "port": 80, "every": "5s", "timeout": "2s", "failures": 3}],
        failure={"after": "30s", "outbound": "open", "inbound": "closed"},
        forgetAfter="720h",
    )
    made = make_store().create(kinds.WORKLOAD_GROUPS, "g", whole)
    assert "inboundPolicy" not in made["spec"], "null is absent"


def test_an_external_workload_is_held_to_linkerds_schema() -> None:
    body = external_workload()
    body["spec"] = {"meshTLS": {"identity": "x"}, "workloadIPs": [{}, {}, {}], "ports": [{"name": "http"}]}
    assert refused(kinds.EXTERNAL_WORKLOADS, body) == (
        'ExternalWorkload.workload.linkerd.io "web-abcde-1" is invalid: ['
        "spec.meshTLS.serverName: Required value, spec.workloadIPs: Too many: 3: must have at most 2 items, "
        "spec.ports[0].port: Required value]"
    )
