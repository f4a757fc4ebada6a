"""What kube-apiserver asks of its own kinds, by what it refuses."""

import base64
from typing import Any

import pytest

from exclave_sandbox.apiserver.kinds import kinds
from exclave_sandbox.apiserver.kinds.kinds import merge_patch
from exclave_sandbox.apiserver.refusal import Refusal
from support.stored import make_store

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
