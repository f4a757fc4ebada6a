"""The rules of each kind."""

import base64
from typing import Any

import pytest

from exclave_sandbox.apiserver.kinds import kinds
from exclave_sandbox.apiserver.kinds.kinds import merge_patch
from exclave_sandbox.apiserver.messages import Refusal
from support.store import external_workload, group, make_store, member

ROLE_REF = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
MICRO = "2026-01-02T03:04:05.000006Z"
EVENT = {
    "eventTime": MICRO,
    "reportingController": "exclave.dev/controller",
    "reportingInstance": "c-1",
    "action": "Admit",
    "reason": "Admitted",
    "type": "Normal",
}


def named(**content: Any) -> dict[str, Any]:
    return {"metadata": {"name": "x"}, **content}


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (
            kinds.SECRETS,
            named(data={"a": "not base64!"}),
            "Secret in version v1 cannot be handled as a Secret: data.a is not base64",
        ),
        (
            kinds.SECRETS,
            named(type="kubernetes.io/tls", data={"tls.crt": ""}),
            'Secret "x" is invalid: data[tls.key]: Required value',
        ),
        (
            kinds.CONFIG_MAPS,
            named(data={"a": 1}),
            "ConfigMap in version v1 cannot be handled as a ConfigMap: data.a is not a string",
        ),
        (
            kinds.ROLE_BINDINGS,
            named(subjects=[1]),
            'RoleBinding in version "v1" cannot be handled as a RoleBinding: subjects[0]: Invalid value: 1: must be of '
            "type object",
        ),
        (
            kinds.LEASES,
            named(spec={"renewTime": "2026-01-02T03:04:05Z"}),
            'Lease in version "v1" cannot be handled as a Lease: parsing time "2026-01-02T03:04:05Z" as '
            '"2006-01-02T15:04:05.000000Z07:00": cannot parse',
        ),
        (
            kinds.LEASES,
            named(spec={"holderIdentity": "", "leaseDurationSeconds": 0}),
            'Lease.coordination.k8s.io "x" is invalid: spec.leaseDurationSeconds: Invalid value: 0: must be greater '
            "than 0",
        ),
        (
            kinds.ROLES,
            named(rules=[{"resources": ["pods"]}]),
            'Role.rbac.authorization.k8s.io "x" is invalid: [rules[0].verbs: Required value, '
            "rules[0].apiGroups: Required value]",
        ),
        (
            kinds.ROLE_BINDINGS,
            named(roleRef={"kind": "Group", "name": "r"}, subjects=[{"kind": "ServiceAccount", "name": "a"}]),
            'RoleBinding.rbac.authorization.k8s.io "x" is invalid: [roleRef.kind: Unsupported value: "Group": '
            'supported values: "ClusterRole", "Role", subjects[0].namespace: Required value]',
        ),
        (
            kinds.ENDPOINT_SLICES,
            named(),
            'EndpointSlice.discovery.k8s.io "x" is invalid: addressType: Required value',
        ),
        (
            kinds.EVENTS,
            named(**{**EVENT, "action": "", "note": "n" * 1025, "regarding": {"namespace": "h"}}),
            'Event.events.k8s.io "x" is invalid: [action: Required value, note: Invalid value: can have at most 1024 '
            'characters, regarding.namespace: Invalid value: "h": does not match event.namespace]',
        ),
    ],
    ids=lambda value: value.kind_key if isinstance(value, kinds.Kind) else "",
)
def test_an_object_is_refused(kind: kinds.Kind, body: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal) as refused:
        make_store().create(kind, "g", body)
    assert refused.value.message == message


def test_a_cluster_role_binding_names_a_cluster_role() -> None:
    with pytest.raises(Refusal) as refused:
        make_store().create(kinds.CLUSTER_ROLE_BINDINGS, "", named(roleRef=ROLE_REF))
    assert refused.value.message == (
        'ClusterRoleBinding.rbac.authorization.k8s.io "x" is invalid: roleRef.kind: Unsupported value: "Role": '
        'supported values: "ClusterRole"'
    )


def test_plain_text_of_a_secret_is_encoded_and_its_type_is_opaque() -> None:
    made = make_store().create(kinds.SECRETS, "g", named(stringData={"a": "b"}, data={"c": "ZA=="}))
    assert made["data"] == {"a": base64.b64encode(b"b").decode(), "c": "ZA=="}
    assert made["type"] == "Opaque"
    assert "stringData" not in made


@pytest.mark.parametrize(
    ("kind", "body", "patch", "message"),
    [
        (
            kinds.SECRETS,
            named(),
            {"type": "other"},
            'Secret "x" is invalid: type: Invalid value: "other": field is immutable',
        ),
        (
            kinds.CONFIG_MAPS,
            named(immutable=True, data={"a": "1"}),
            {"data": {"a": "2"}},
            'ConfigMap "x" is invalid: data: Forbidden: field is immutable when `immutable` is set',
        ),
        (
            kinds.ROLE_BINDINGS,
            named(roleRef=ROLE_REF),
            {"roleRef": {"name": "s"}},
            'RoleBinding.rbac.authorization.k8s.io "x" is invalid: roleRef: Invalid value: cannot change roleRef',
        ),
    ],
    ids=["a Secret keeps its type", "an immutable ConfigMap keeps its content", "a binding keeps its role"],
)
def test_a_change_is_refused(kind: kinds.Kind, body: dict[str, Any], patch: dict[str, Any], message: str) -> None:
    store = make_store()
    store.create(kind, "g", body)
    with pytest.raises(Refusal) as refused:
        store.patch(kind, "g", "x", lambda old: merge_patch(old, patch))
    assert refused.value.message == message


def test_a_valid_object_is_accepted() -> None:
    store = make_store()
    store.create(kinds.LEASES, "g", named(spec={"holderIdentity": "a", "renewTime": MICRO}))
    store.create(kinds.LEASES, "g", {"metadata": {"name": "empty"}})
    store.create(kinds.EVENTS, "g", named(**EVENT))
    made = store.create(kinds.ROLE_BINDINGS, "g", named(roleRef=ROLE_REF, subjects=[{"kind": "User", "name": "u"}]))
    assert made["subjects"][0]["apiGroup"] == "rbac.authorization.k8s.io"
    assert store.get(kinds.NAMESPACES, "", "g")["metadata"]["labels"] == {"kubernetes.io/metadata.name": "g"}


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
        proxyCores=2,
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
