"""What thieves try: who, with which request, and the words that they get to see. Rows of `test_admission`."""

import json
from typing import Any

from exclave_sandbox.stage.kubernetes import AUDIENCE

from .test_contract import core, group, lease, leases, member, members

SHOP, OTHER, WEB = "bazaar", "depot", "10.77.0.0/24"
TOKEN = "k7q2x"
GUARD = "exclave-guard"
WORKLOADS = "workload.linkerd.io/v1beta1"


def token_request(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [AUDIENCE], "expirationSeconds": 600, **spec},
    }


def minting(account: str, namespace: str = f"{SHOP}-vms", **spec: Any) -> tuple[str, str, Any]:
    return "POST", core(namespace, "serviceaccounts", account, "token"), token_request(**spec)


def patching(path: str, **body: Any) -> tuple[str, str, Any]:
    return "PATCH", path, body


def fields_of(content: bytes, **body: Any) -> bytes:
    """A body whose managedFields have this fieldsV1, as JSON."""
    version = body.get("apiVersion", "coordination.k8s.io/v1")
    entry = {"manager": "x", "operation": "Update", "apiVersion": version, "fieldsType": "FieldsV1", "fieldsV1": 0}
    metadata = {**body.pop("metadata", {}), "managedFields": [entry | {"time": "2026-01-02T03:04:05Z"}]}
    return (
        json.dumps({**body, "metadata": metadata})
        .replace('"fieldsV1": 0', '"fieldsV1": @')
        .encode()
        .replace(b"@", content)
    )


def nested(levels: int) -> bytes:
    return b'{"f:a":' * levels + b"{}" + b"}" * levels


MINE = members(SHOP, f"web-{TOKEN}-1")
THEIRS = members(SHOP, f"web-{TOKEN}-2")
MY_LEASE = leases(SHOP, f"web-{TOKEN}-1")
MY_WORKLOAD = group(WORKLOADS, SHOP, "externalworkloads", f"web-{TOKEN}-1")
RENEWAL = {"holderIdentity": "boot.nonce", "renewTime": "2026-01-02T03:04:05.000006Z"}
READY = {"type": "Ready", "status": "True", "reason": "Ready", "message": ""}

JOINS_ONLY = "a join token makes the members of its own names, as many as it has uses, and nothing else"
OWN_NAME = "a machine touches only what bears its own name"
NO_METADATA = "a machine changes no metadata"
NO_EXCESS = "a machine writes managedFields as the API server does"
NONE_WRITTEN = "a machine writes no metadata"
NOT_AN_ACCOUNT = "an account in this namespace is named <group>.join.<id>-<uses>, <group>.rejoin.<id>-<number> or"
RBAC = "cannot"
ONE_ONLY = "a token for one member makes this member, and nothing else"
NO_SPEC = "the controller changes no spec of a group or a member, and no label or annotation"

# As deep as a request may be in a second: a real API server needs half a minute for 9,900 levels in a patch.
EXCESSES = {
    "1,000 levels": nested(1000),
    "30 levels": nested(30),
    "60,000 names": b"{" + b",".join(b'"f:k%d":{}' % number for number in range(60_000)) + b"}",
    "a name of 100,000 characters": b'{"f:spec":{"f:' + b"x" * 100_000 + b'":{}}}',
    "bytes that are no UTF-8": b'{"f:spec":{"f:\xff\xfe":{}}}',
    "9,000 names in three levels": b"{" + b",".join(
        b'"f:%d":{%s}' % (one, b",".join(b'"f:%d":{"f:a":{}}' % other for other in range(90))) for one in range(90)
    ) + b"}",
}  # fmt: skip

Attempt = tuple[str, str, Any]
ATTACKS: dict[str, tuple[str, Attempt, str]] = {
    "a token: a member of another group": ("joiner", ("POST", members(SHOP), member(f"db-{TOKEN}-1")), JOINS_ONLY),
    "a token: a member in another namespace": ("joiner", ("POST", members(OTHER), member(f"web-{TOKEN}-1")), RBAC),
    "a token: one member more than it has uses": (
        "joiner", ("POST", members(SHOP), member(f"web-{TOKEN}-3")), JOINS_ONLY,
    ),
    "a token: slot nought": ("joiner", ("POST", members(SHOP), member(f"web-{TOKEN}-0")), JOINS_ONLY),
    "a token: a slot written otherwise": ("joiner", ("POST", members(SHOP), member(f"web-{TOKEN}-01")), JOINS_ONLY),
    "a token: another token's names": ("joiner", ("POST", members(SHOP), member("web-zzzzz-1")), JOINS_ONLY),
    "a token of id green: a member of group web-green": (
        "green", ("POST", members(SHOP), member(f"web-green-{TOKEN}-1")), JOINS_ONLY,
    ),
    "a token: a name drawn by the server": (
        "joiner", ("POST", members(SHOP), {**member(""), "metadata": {"generateName": f"web-{TOKEN}-"}}), GUARD,
    ),
    "a token: a member with a label": (
        "joiner", ("POST", members(SHOP), member(f"web-{TOKEN}-2", labels={"a": "b"})), NONE_WRITTEN,
    ),
    "a token: a member with an owner": (
        "joiner",
        ("POST", members(SHOP), member(f"web-{TOKEN}-2", ownerReferences=[
            {"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "y"}])),
        NONE_WRITTEN,
    ),
    "a token: a member with a finalizer": (
        "joiner", ("POST", members(SHOP), member(f"web-{TOKEN}-2", finalizers=["a.b/c"])), NONE_WRITTEN,
    ),
    "a token: changing a member": ("joiner", patching(MINE, spec={"serving": True}), JOINS_ONLY),
    "a token: deleting a member": ("joiner", ("DELETE", MINE, None), JOINS_ONLY),
    "a token: deleting all members": ("joiner", ("DELETE", members(SHOP), None), RBAC),
    "a token: a credential of its own": ("joiner", minting(f"web.join.{TOKEN}-2"), JOINS_ONLY),
    "a token: a credential of a machine": ("joiner", minting(f"web.vm.{TOKEN}-1"), JOINS_ONLY),
    "a token: listing members": ("joiner", ("GET", members(SHOP), None), RBAC),
    "a token: reading Secrets": ("joiner", ("GET", core(SHOP, "secrets"), None), RBAC),
    "a token: a heartbeat": ("joiner", patching(MY_LEASE, spec=RENEWAL), JOINS_ONLY),
    "a token: readiness": ("joiner", patching(f"{MY_WORKLOAD}/status", status={"conditions": [READY]}), JOINS_ONLY),
    "a machine: another member's object": ("machine", patching(THEIRS, spec={"serving": True}), OWN_NAME),
    "a machine: a member of another group": (
        "machine", patching(members(SHOP, "db-aaaaa-1"), spec={"serving": True}), OWN_NAME,
    ),
    "a machine: its namesake in another namespace": (
        "machine", patching(members(OTHER, f"web-{TOKEN}-1"), spec={"serving": True}), RBAC,
    ),
    "a machine: deleting another member": ("machine", ("DELETE", THEIRS, None), OWN_NAME),
    "a machine: its own status": ("machine", patching(f"{MINE}/status", status={"settings": "x"}), RBAC),
    "a machine: another's heartbeat": (
        "machine", patching(leases(SHOP, f"web-{TOKEN}-2"), spec=RENEWAL), OWN_NAME,
    ),
    "a machine: a heartbeat of a megabyte": (
        "machine", patching(MY_LEASE, spec={"holderIdentity": "x" * 500_000}), "a heartbeat names its holder",
    ),
    "a machine: another's readiness": (
        "machine",
        patching(group(WORKLOADS, SHOP, "externalworkloads", f"web-{TOKEN}-2", "status"), status={"conditions": []}),
        OWN_NAME,
    ),
    "a machine: a condition of its own": (
        "machine",
        patching(f"{MY_WORKLOAD}/status", status={"conditions": [READY, {**READY, "type": "Mine"}]}),
        "a machine writes one condition, Ready",
    ),
    "a machine: a message of a megabyte": (
        "machine",
        patching(f"{MY_WORKLOAD}/status", status={"conditions": [{**READY, "message": "x" * 30_000}]}),
        "a machine writes one condition, Ready",
    ),
    "a machine: its ExternalWorkload's ports": ("machine", patching(MY_WORKLOAD, spec={"ports": []}), RBAC),
    "a machine: a finalizer more": (
        "machine", patching(MINE, metadata={"finalizers": ["exclave.dev/member", "a.b/c"]}), NO_METADATA,
    ),
    "a machine: a finalizer less": ("machine", patching(MINE, metadata={"finalizers": None}), NO_METADATA),
    "a machine: an owner": (
        "machine",
        patching(MINE, metadata={"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "y"}]}),
        NO_METADATA,
    ),
    "a machine: a label": ("machine", patching(MINE, metadata={"labels": {"app": "db"}}), NO_METADATA),
    "a machine: a request that it renew": (
        "machine", patching(MINE, metadata={"annotations": {"exclave.dev/renew": "now"}}), NO_METADATA,
    ),
    "a machine: an answer of a megabyte": (
        "machine",
        patching(MINE, spec={"renewal": {"request": "r", "result": "failed", "message": "x" * 500_000}}),
        "256",
    ),
    "the controller: a machine's answer": (
        "controller", patching(MINE, spec={"renewal": {"request": "r", "result": "renewed"}}), NO_SPEC,
    ),
    "a machine: a label on its Lease": ("machine", patching(MY_LEASE, metadata={"labels": {"a": "b"}}), NO_METADATA),
    "a machine: a new member": (
        "machine", ("POST", members(SHOP), member(f"web-{TOKEN}-1")), "a machine creates nothing but its own tokens",
    ),
    "a machine: a Lease of another name, by apply": (
        "machine", ("APPLY", leases(SHOP, "mine"), lease("mine")), "is forbidden",
    ),
    "a machine: another's token": ("machine", minting(f"web.vm.{TOKEN}-2"), OWN_NAME),
    "a machine: the join token's token": ("machine", minting(f"web.join.{TOKEN}-2"), OWN_NAME),
    "a machine: a token in the group's namespace": ("machine", minting("web", SHOP), RBAC),
    "a machine: a token for ten years": (
        "machine", minting(f"web.vm.{TOKEN}-1", expirationSeconds=315_360_000), "lives 30 days at most",
    ),
    "a machine: a token that linkerd-identity takes": (
        "machine", minting(f"web.vm.{TOKEN}-1", audiences=["identity.l5d.io"]), "for the API server only",
    ),
    "a machine: a token bound to an object": (
        "machine",
        minting(f"web.vm.{TOKEN}-1", boundObjectRef={"apiVersion": "v1", "kind": "Secret", "name": "x"}),
        "bound to no object",
    ),
    "a machine: listing members": ("machine", ("GET", members(SHOP), None), RBAC),
    "a machine: other namespaces": ("machine", ("GET", "/api/v1/namespaces", None), RBAC),
    "a machine: Secrets": ("machine", ("GET", core(SHOP, "secrets"), None), RBAC),
    "a machine: another group's settings": ("machine", ("GET", core(SHOP, "configmaps", "other"), None), RBAC),
    "a machine: an Event": (
        "machine", ("POST", group("events.k8s.io/v1", SHOP, "events"), {"metadata": {"name": "e"}}), RBAC,
    ),
    "a machine: its address and a label, by apply": (
        "machine",
        ("APPLY", MINE, {**member(f"web-{TOKEN}-1"), "metadata": {"name": f"web-{TOKEN}-1", "labels": {"a": "b"}}}),
        NO_METADATA,
    ),
    "a machine: a name drawn by the server": (
        "machine", ("POST", members(SHOP), {**member(""), "metadata": {"generateName": f"web-{TOKEN}-"}}), GUARD,
    ),
    "a machine: deleting all members": ("machine", ("DELETE", members(SHOP), None), RBAC),
    "a machine: deleting all Leases": ("machine", ("DELETE", leases(SHOP), None), RBAC),
    "a machine: deleting its Lease": ("machine", ("DELETE", MY_LEASE, None), RBAC),
    "a machine: its ExternalWorkload's whole object": ("machine", ("PUT", MY_WORKLOAD, {}), RBAC),
    "a machine: its ExternalWorkload, through the version without a status subresource": (
        "machine",
        patching(MY_WORKLOAD.replace("v1beta1", "v1alpha1"), status={"conditions": [READY]}, spec={"ports": []}),
        RBAC,
    ),
    "a machine: deleting its ExternalWorkload": ("machine", ("DELETE", MY_WORKLOAD, None), RBAC),
    "a machine: its own nonce": ("machine", patching(MINE, spec={"nonce": "another"}), "field is immutable"),
    "a machine: its own machine hash": (
        "machine", patching(MINE, spec={"machineHash": "0" * 16}), "field is immutable",
    ),
    "a machine: another delivery key": ("machine", patching(MINE, spec={"deliveryKey": "x"}), "field is immutable"),
    "a machine: a CSR of a megabyte": ("machine", patching(MINE, spec={"csr": "x" * 500_000}), "4096"),
    "a machine: facts of a megabyte": ("machine", patching(MINE, spec={"facts": {"os": "x" * 500_000}}), "256"),
    "a machine: a megabyte as a fact's name": (
        "machine", patching(MINE, spec={"facts": {"x" * 500_000: "y"}}), "at most 64 characters",
    ),
    "a machine: facts without number": (
        "machine", patching(MINE, spec={"facts": {f"f{number}": "x" for number in range(1000)}}), "64",
    ),
    "a machine: two addresses": (
        "machine", patching(MINE, spec={"addresses": ["10.77.0.1", "10.77.0.2"]}), "must have at most 1 item",
    ),
    "a machine: the group's spec": (
        "machine", patching(group("exclave.dev/v1alpha1", SHOP, "workloadgroups", "web"), spec={"networks": []}), RBAC,
    ),
    "a machine: a Secret that makes a token": (
        "machine", ("POST", core(SHOP, "secrets"), {"metadata": {"name": "s"}}), RBAC,
    ),
    "a machine: a CSR of Kubernetes": (
        "machine",
        ("POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", {"metadata": {"name": "c"}}),
        RBAC,
    ),
    **{
        f"a machine: {excess} in the managedFields of its {what}": (
            "machine", ("PATCH", path, fields_of(content, apiVersion=version)), NO_EXCESS,
        )
        for what, path, version in (
            ("Member", MINE, "exclave.dev/v1alpha1"),
            ("Lease", MY_LEASE, "coordination.k8s.io/v1"),
        )
        for excess, content in EXCESSES.items()
    },
    **{
        f"a token: a member with {excess} in its managedFields": (
            "joiner", ("POST", members(SHOP), fields_of(content, **member(f"web-{TOKEN}-2"))), NO_EXCESS,
        )
        for excess, content in EXCESSES.items()
    },
    "a machine: a megabyte in its Lease as generateName": (
        "machine", patching(MY_LEASE, metadata={"generateName": "x" * 500_000}), NO_METADATA,
    ),
    "a token for one member: another member": ("again", ("POST", members(SHOP), member(f"web-{TOKEN}-2")), ONE_ONLY),
    "a token for one member: one slot less": ("again", ("POST", members(SHOP), member(f"web-{TOKEN}-3")), ONE_ONLY),
    "a token for one member: changing it": ("again", patching(MINE, spec={"serving": True}), ONE_ONLY),
    "a token for one member: deleting it": ("again", ("DELETE", MINE, None), ONE_ONLY),
    "a token for one member: its credential": ("again", minting(f"web.vm.{TOKEN}-1"), ONE_ONLY),
    "a token for one member: a heartbeat": ("again", patching(MY_LEASE, spec=RENEWAL), ONE_ONLY),
    "the controller: a group's networks": (
        "controller",
        patching(group("exclave.dev/v1alpha1", SHOP, "workloadgroups", "web"), spec={"networks": ["0.0.0.0/0"]}),
        NO_SPEC,
    ),
    "the controller: a member's CSR": ("controller", patching(MINE, spec={"csr": "mine"}), NO_SPEC),
    "the controller: a member's cordon": (
        "controller", patching(MINE, metadata={"annotations": {"exclave.dev/cordoned": None, "a": "b"}}), NO_SPEC,
    ),
    "the controller: its own rights": (
        "controller",
        patching("/apis/rbac.authorization.k8s.io/v1/clusterroles/exclave-controller", rules=[]),
        RBAC,
    ),
    "the controller: the admission policy": (
        "controller",
        ("DELETE", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/exclave-guard", None),
        RBAC,
    ),
    "the controller: an account in the group's namespace": (
        "controller", ("POST", core(SHOP, "serviceaccounts"), {"metadata": {"name": "x"}}), RBAC,
    ),
    "the controller: another's Lease of election": (
        "controller", ("PUT", leases("exclave", "another"), lease("another")), RBAC,
    ),
    "the controller: pods": ("controller", ("GET", core(SHOP, "pods"), None), RBAC),
    "an account of another shape: a member": (
        "misshapen", ("POST", members(SHOP), member(f"web-{TOKEN}-2")), NOT_AN_ACCOUNT,
    ),
    "an account of another shape: a heartbeat": ("misshapen", patching(MY_LEASE, spec=RENEWAL), NOT_AN_ACCOUNT),
    "an account with dots more: a member": (
        "dotted", ("POST", members(SHOP), member(f"web-{TOKEN}-2")), NOT_AN_ACCOUNT,
    ),
    "the controller: a token of a join account": (
        "controller", minting(f"web.join.{TOKEN}-2"), "the controller mints tokens of machines only",
    ),
    "the controller: a machine's token for ten years": (
        "controller", minting(f"web.vm.{TOKEN}-1", expirationSeconds=315_360_000), "the controller mints tokens",
    ),
    "the controller: a token of an application": ("controller", minting("web", SHOP), RBAC),
    "the controller: a Role": (
        "controller",
        ("POST", group("rbac.authorization.k8s.io/v1", SHOP, "roles"), {"metadata": {"name": "r"}}),
        RBAC,
    ),
    "the controller: any Secret": ("controller", ("GET", core(SHOP, "secrets"), None), RBAC),
    "the controller: another Secret of its own namespace": (
        "controller", ("GET", core("exclave", "secrets", "other"), None), RBAC,
    ),
    "the controller: a Secret of another name": (
        "controller",
        ("POST", core("exclave", "secrets"), {"metadata": {"name": "mine"}}),
        "the controller makes no Secret but the key of its marks",
    ),
    "the controller: a Secret that makes a token": (
        "controller",
        ("POST", core("exclave", "secrets"), {
            "type": "kubernetes.io/service-account-token",
            "metadata": {
                "name": "exclave-marks", "annotations": {"kubernetes.io/service-account.name": "exclave-controller"},
            },
        }),
        "the controller makes no Secret but the key of its marks",
    ),
    "the controller: another key of marks": (
        "controller", patching(core("exclave", "secrets", "exclave-marks"), data={"key": "bWluZQ=="}), RBAC,
    ),
    "the controller: making Members": ("controller", ("POST", members(SHOP), member(f"web-{TOKEN}-9")), RBAC),
}  # fmt: skip
